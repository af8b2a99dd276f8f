"""Why a field fitted at one step a layer may fail as a differential equation: its Jacobian, and what one step misses.

A unit Euler step multiplies a mode of the linearised field by `1 + lambda`, the equation by `exp(lambda)`: the two
agree where `|lambda|` is small. The Jacobian `J = d rhs / d u` is only ever applied to vectors.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import _doors
from ..flow import padding_of
from ..pde.equation import PDE

# Entries of a state (tokens x width) up to which a Jacobian is written down; 8 MB an example in float64.
DENSE = 1024
_AT_ONCE = 32


class Jacobian:
    """The Jacobian of a map of states at a point (batch, tokens, width), as a linear operator: only ever applied.

    Examples do not interact, so it is one block an example, and `jvp` and `vjp` apply all blocks at once. Padded tokens
    (`mask` (batch, tokens) False) are left out: their rows and columns are zero. Of a map that does not depend on the
    point it is zero (`constant`). Raises `ValueError` in half precision and where torch keeps no derivatives. Cost: the
    map is evaluated once; then each product costs about one backward pass. Source: the double backward of Pearlmutter
    1994.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor, mask: Tensor | None):
        refuse_underivable(point)
        self.mask = mask
        self.point = point.detach().clone().requires_grad_()
        # Forward mode has no fused attention kernel on a CPU, nor has the second derivative: the plain form has both.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            self.output = function(self.point)
            self._dual = torch.zeros_like(self.output, requires_grad=True)
            self._pulled = _pulled_back(self.output, self.point, self._dual)

    @property
    def constant(self) -> bool:
        """Whether no gradient passes through the map at all."""
        return self._pulled is None

    @property
    def entries(self) -> int:
        """How many entries the state with the fewest real tokens has."""
        tokens = self.point.shape[1] if self.mask is None else int(self.mask.sum(1).min())
        return tokens * self.point.shape[2]

    def jvp(self, vector: Tensor) -> Tensor:
        """Return `J v`, of the state's shape."""
        # w -> J^T w is linear, and the transpose of its derivative is J: no second evaluation of the map.
        return self._transposed(self._pulled, self._dual, vector)

    def vjp(self, vector: Tensor) -> Tensor:
        """Return `J^T w`, of the state's shape."""
        return self._transposed(self.output, self.point, vector)

    def matrix(self) -> Tensor:
        """Return J itself, (batch, tokens * width, tokens * width): `tokens * width` products, small states only."""
        batch, tokens, width = self.point.shape
        size = tokens * width
        if size > DENSE:
            raise ValueError(
                f"a Jacobian of {size} x {size} entries was asked for, but at most {DENSE} x {DENSE} are written down: "
                "apply it with `jvp` and `vjp`."
            )
        units = torch.eye(size, dtype=self.point.dtype, device=self.point.device).view(size, 1, tokens, width)
        pulled = self._pulled
        if pulled is None:
            return torch.zeros(batch, size, size).to(self.point)
        found = []
        for some in self.real(units.expand(-1, batch, -1, -1)).split(_AT_ONCE):
            # Many small products at once cost little more than one.
            (images,) = torch.autograd.grad(pulled, self._dual, some, retain_graph=True, is_grads_batched=True)
            found.append(self.real(images).flatten(2))
        return torch.cat(found).permute(1, 2, 0)

    def real(self, values: Tensor) -> Tensor:
        """Return values (batch, tokens, width) with padded tokens set to zero."""
        # Filled, not multiplied: what stands in the padding may be NaN.
        return values if self.mask is None else values.masked_fill(~self.mask[..., None], 0.0)

    def _transposed(self, output: Tensor | None, variable: Tensor, vector: Tensor) -> Tensor:
        vector = _doors.state("vector", vector)
        if vector.shape != self.point.shape:
            raise ValueError(f"a vector of shape {tuple(vector.shape)} was given for {tuple(self.point.shape)}.")
        given = self.real(vector.to(self.point))
        if output is None or self.constant:
            return torch.zeros_like(given)
        (found,) = torch.autograd.grad(output, variable, given, retain_graph=True)
        return self.real(found)


class FieldJacobian(Jacobian):
    """The Jacobian `J = d rhs(t, u) / d u` of an equation at a state (batch, tokens, width), as a linear operator.

    Examples do not interact, so J is one block an example, and `jvp` and `vjp` apply all blocks at once. For an
    equation with a constraint, u is the equation's own state and J the Jacobian of its tangential field. Padded tokens
    (`mask` (batch, tokens) False) are left out: their rows and columns are zero. Raises `ValueError` where state, mask
    or depth-time do not fit. Cost: the field is evaluated once; then each product costs about one backward pass,
    O(tokens^2 width) where there is attention. Source: the double backward of Pearlmutter 1994.

    >>> from pdelens.lattice import Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> pde = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=1)
    >>> FieldJacobian(pde, 0.0, torch.zeros(1, 3, 1)).matrix()[0].round().tolist()
    [[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]]
    """

    def __init__(self, pde: PDE, t: float, u: Tensor, mask: Tensor | None = None):
        u, mask = _checked(pde, t, u, mask)
        self.pde, self.t = pde, float(t)
        super().__init__(lambda state: pde.rhs(self.t, state, mask), u, mask)

    @property
    def velocity(self) -> Tensor:
        """The field at the state, (batch, tokens, width)."""
        return self.output

    def example(self, number: int) -> "FieldJacobian":
        """Return the Jacobian of one example alone."""
        mask = None if self.mask is None else self.mask[[number]]
        return FieldJacobian(self.pde, self.t, self.point[[number]], mask)


def _checked(pde: PDE, t: float, u: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Refuse what is no state of the equation at a depth-time; return it, and the mask where it leaves tokens out."""
    _doors.is_a("pde", pde, PDE, "an equation")
    _doors.real("t", t)
    if not 0 <= float(t) <= pde.depth:
        raise ValueError(f"depth-time {float(t):g} was given, but the equation lives on [0, {pde.depth:g}].")
    u = pde.checked(_doors.state("u", u))
    return u, real_tokens(mask, u)


def real_tokens(mask: Tensor | None, u: Tensor) -> Tensor | None:
    """Return a mask of a state's real tokens where it leaves any out, else None; refuse an example that has none."""
    mask = padding_of(_doors.mask("mask", mask, u.shape[:-1]))
    if mask is not None and not bool(mask.any(1).all()):
        raise ValueError("an example without a real token was given: leave it out.")
    return None if mask is None else mask.to(u.device)


def refuse_underivable(u: Tensor) -> None:
    """Raise `ValueError` for half precision, and where torch keeps no derivatives or rounds behind one's back."""
    if u.dtype not in (torch.float32, torch.float64):
        kind = str(u.dtype).removeprefix("torch.")
        raise ValueError(
            f"states of type {kind} were met, but derivatives want float32 or float64: use model.float() and "
            "state.float()."
        )
    if torch.is_inference_mode_enabled():
        raise ValueError("derivatives were asked for inside torch.inference_mode: leave it, or use torch.no_grad.")
    if torch.is_autocast_enabled(u.device.type):
        raise ValueError("derivatives were asked for inside torch.autocast, in half precision: leave it.")


def _pulled_back(output: Tensor, point: Tensor, dual: Tensor) -> Tensor | None:
    """Return `J^T dual` with its own graph, None where the output does not depend on the point."""
    if not output.requires_grad:
        return None
    (found,) = torch.autograd.grad(output, point, dual, create_graph=True, allow_unused=True)
    return found
