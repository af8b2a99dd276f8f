"""Why a field fitted at one step a layer may fail as a differential equation: its Jacobian, and what one step misses.

A unit Euler step multiplies a mode of the linearised field by `1 + lambda`, the equation by `exp(lambda)`:
the two agree where `|lambda|` is small. The Jacobian `J = d rhs / d u` is only ever applied to vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .flow import Flow
from .integrate import integrate
from .pde import PDE

# Entries of a state (tokens x width) up to which a Jacobian is written down; 8 MB an example in float64.
DENSE = 1024
# Below this size Arnoldi has no room for its subspace, and all eigenvalues are as cheap.
_SMALL = 64
_RESTARTS = 300


class FieldJacobian:
    """The Jacobian `J = d rhs(t, u) / d u` of an equation at a state (batch, tokens, width), as a linear operator.

    Examples do not interact, so J is one block an example, and `jvp` and `vjp` apply all blocks at once.
    For an equation with a constraint, u is the equation's own state and J the Jacobian of its tangential
    field. Padded tokens (`mask` (batch, tokens) False) are left out: their rows and columns are zero.

    Raises `ValueError` where state, mask or depth-time do not fit. Cost: the field is evaluated once;
    then each product costs about one backward pass, O(tokens^2 width) where there is attention.

    >>> from pdelens.lattice import Chain
    >>> from pdelens.terms import Diffusion
    >>> pde = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=1)
    >>> FieldJacobian(pde, 0.0, torch.zeros(1, 3, 1)).matrix()[0].round().tolist()
    [[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]]
    """

    def __init__(self, pde: PDE, t: float, u: Tensor, mask: Tensor | None = None):
        self.pde, self.t, self.mask = pde, float(t), _checked(pde, t, u, mask)
        self.point = u.detach().clone().requires_grad_()
        # Forward mode has no fused attention kernel on a CPU, nor has the second derivative: the plain form has both.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            # Adding nothing of u gives a field that ignores u a Jacobian too: zero.
            self.velocity = pde.rhs(self.t, self.point, self.mask) + 0.0 * self.point
            self._dual = torch.zeros_like(self.point, requires_grad=True)
            (self._pulled,) = torch.autograd.grad(self.velocity, self.point, self._dual, create_graph=True)

    def jvp(self, vector: Tensor) -> Tensor:
        """Return `J v`, of the state's shape."""
        # w -> J^T w is linear, and the transpose of its derivative is J: no second evaluation of the field.
        return self._transposed(self._pulled, self._dual, vector)

    def vjp(self, vector: Tensor) -> Tensor:
        """Return `J^T w`, of the state's shape."""
        return self._transposed(self.velocity, self.point, vector)

    def matrix(self) -> Tensor:
        """Return J itself, (batch, tokens * width, tokens * width): `tokens * width` products, small lattices only."""
        batch, tokens, width = self.point.shape
        size = tokens * width
        if size > DENSE:
            raise ValueError(
                f"a Jacobian of {size} x {size} entries was asked for, but at most {DENSE} x {DENSE} are written down: "
                "apply it with `jvp` and `vjp`."
            )
        units = torch.eye(size, dtype=self.point.dtype, device=self.point.device).view(size, 1, tokens, width)
        return torch.stack([self.jvp(unit.expand(batch, -1, -1)).flatten(1) for unit in units], -1)

    def example(self, number: int) -> "FieldJacobian":
        """Return the Jacobian of one example alone."""
        mask = None if self.mask is None else self.mask[[number]]
        return FieldJacobian(self.pde, self.t, self.point[[number]], mask)

    def real(self, values: Tensor) -> Tensor:
        """Return values (batch, tokens, width) with padded tokens set to zero."""
        return values if self.mask is None else values * self.mask[..., None].to(values.dtype)

    def _transposed(self, output: Tensor, variable: Tensor, vector: Tensor) -> Tensor:
        if vector.shape != self.point.shape:
            raise ValueError(f"a vector of shape {tuple(vector.shape)} was given for {tuple(self.point.shape)}.")
        given = self.real(vector.to(self.point))
        (found,) = torch.autograd.grad(output, variable, given, retain_graph=True)
        return self.real(found)


class LogNorms(NamedTuple):
    """The extreme eigenvalues of `(J + J^T) / 2`, (examples,): `-mu_2(-J)` and `mu_2(J)`."""

    lower: Tensor
    upper: Tensor


class Eigenvalues(NamedTuple):
    """The eigenvalues with the largest and smallest real part and the largest modulus, complex (examples,)."""

    rightmost: Tensor
    leftmost: Tensor
    largest: Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The linearised field at one depth, per unit of depth-time; every tensor is (examples,).

    `lipschitz`: the largest singular value of J, the field's local Lipschitz constant. `log_norms`: the
    fastest instantaneous growth and decay of any perturbation. `eigenvalues`: None where not asked for.
    """

    t: float
    lipschitz: Tensor
    log_norms: LogNorms
    eigenvalues: Eigenvalues | None = None


@dataclass(frozen=True, eq=False)
class LocalErrors:
    """One step a layer against the equation's solution, from the same states: (layers, examples) each.

    `error` is `|Phi(u) - phi(u)|`, `displacement` is `|phi(u) - u|`: Frobenius norms over real tokens.
    `solved` are the solutions themselves, one (examples, tokens, width) a layer.
    """

    error: Tensor
    displacement: Tensor
    solved: tuple[Tensor, ...]

    @property
    def relative(self) -> Tensor:
        """Return `|Phi(u) - phi(u)| / |phi(u) - u|`: 0 is a solved equation, 1 as wrong as not moving."""
        return self.error / self.displacement.clamp_min(torch.finfo(self.error.dtype).tiny)


def lipschitz_constant(jacobian: FieldJacobian, tolerance: float = 1e-5) -> Tensor:
    """Return the largest singular value of J, (examples,): the field's local Lipschitz constant `|J|_2`.

    Restarted Lanczos on `J^T J` (ARPACK): the power method's subspace, with the best answer that is in it.
    `tolerance` is relative. Raises `RuntimeError` where it is not reached. Cost: some tens of pairs of
    products an example.
    """
    squares = _ends(jacobian, lambda one, v: one.vjp(one.jvp(v)), True, tolerance, "LM")
    return torch.tensor([max(float(found[0].max()), 0.0) ** 0.5 for found in squares], dtype=torch.float64)


def logarithmic_norms(jacobian: FieldJacobian, tolerance: float = 1e-5) -> LogNorms:
    """Return the extreme eigenvalues of `(J + J^T) / 2`, (examples,): `upper` is the logarithmic norm `mu_2(J)`.

    A perturbation e obeys `lower <= d log|e| / dt <= upper` at this state; `mu_2 < 0` contracts. `mu_2` (the
    numerical abscissa) is never below the rightmost eigenvalue, and above it where J is far from normal.
    Source: Soderlind 2006, "The logarithmic norm". Raises and costs as `lipschitz_constant`.
    """
    ends = _ends(jacobian, lambda one, v: (one.jvp(v) + one.vjp(v)) / 2, True, tolerance, "SA", "LA")
    return LogNorms(*torch.tensor([(float(low.min()), float(high.max())) for low, high in ends]).double().T)


def eigenvalues(jacobian: FieldJacobian, tolerance: float = 1e-5) -> Eigenvalues:
    """Return the rightmost, leftmost and largest eigenvalues of J, complex (examples,), by restarted Arnoldi.

    Raises as `lipschitz_constant`. Cost: some hundred products an example.
    """
    found = [
        [right[right.real.argmax()], left[left.real.argmin()], large[np.abs(large).argmax()]]
        for right, left, large in _ends(jacobian, FieldJacobian.jvp, False, tolerance, "LR", "SR", "LM")
    ]
    return Eigenvalues(*torch.tensor(np.array(found, dtype=complex)).T)


def euler_factor(values: Tensor, step: float = 1.0) -> Tensor:
    """Return `|1 + h lambda|`: what one Euler step h = `step` multiplies a mode by (the equation: `exp(h Re lambda)`).

    >>> euler_factor(torch.tensor([-3.0])).item(), euler_factor(torch.tensor([-3.0]), 0.25).item()
    (2.0, 0.25)
    """
    return (1 + step * values).abs()


def spectrum(pde: PDE, t: float, u: Tensor, mask: Tensor | None = None, *, arnoldi: bool = True) -> Spectrum:
    """Return the linearised field's measures at a state u (batch, tokens, width); `arnoldi=False` skips eigenvalues."""
    jacobian = FieldJacobian(pde, t, u, mask)
    modes = eigenvalues(jacobian) if arnoldi else None
    return Spectrum(jacobian.t, lipschitz_constant(jacobian), logarithmic_norms(jacobian), modes)


def spectrum_along(pde: PDE, flow: Flow, *, arnoldi: bool = True) -> list[Spectrum]:
    """Return the linearised field's measures at each of a Flow's states, at their own depth-times.

    Any Flow serves: the equation's own, or that of the teacher it was fitted to.
    """
    times = _times(pde, flow)
    return [spectrum(pde, t, u, flow.mask, arnoldi=arnoldi) for t, u in zip(times, flow.states, strict=True)]


@torch.no_grad()
def local_errors(
    pde: PDE, flow: Flow, method: str = "lie", substeps: int = 1, *, rtol: float = 1e-6, atol: float = 1e-8
) -> LocalErrors:
    """Return, layer by layer, how far so many steps are from the solution, both from the Flow's own state there.

    `Phi` is `method` with `substeps` over the layer, `phi` is dopri5 at `rtol` and `atol`. Steps beyond a
    proved bound are made, as their error is what is measured. Raises `DivergenceError` where no solution
    is found. Cost: one adaptive solve of one unit a layer.
    """
    errors, moves, ends = [], [], []
    assert flow.mask is not None
    times = _times(pde, flow)
    for a, b, u in zip(times[:-1], times[1:], flow.states[:-1], strict=True):
        solved = integrate(pde, u, [a, b], "dopri5", mask=flow.mask, rtol=rtol, atol=atol).states[-1]
        stepped = integrate(pde, u, [a, b], method, substeps, mask=flow.mask, check_steps=False).states[-1]
        keep = flow.mask[..., None].to(u.dtype)
        errors.append(((stepped - solved) * keep).flatten(1).norm(dim=1))
        moves.append(((solved - u) * keep).flatten(1).norm(dim=1))
        ends.append(solved)
    return LocalErrors(torch.stack(errors), torch.stack(moves), tuple(ends))


def error_growth(errors: Tensor, lipschitz: Tensor) -> tuple[float, float]:
    """Return the slope of log local error over log Lipschitz constant, and Spearman's rank correlation.

    One Euler step's relative error is `h |J f| / (2 |f|)` at leading order, at most `h |J|_2 / 2`: exponent 1
    along one direction; further terms `(h J)^k` raise it where `h |J|_2` is not small.
    """
    from scipy.stats import spearmanr

    if errors.shape != lipschitz.shape or lipschitz.unique().numel() < 3:
        shapes = f"{tuple(errors.shape)} and {tuple(lipschitz.shape)}"
        raise ValueError(
            f"shapes {shapes} were given, but one shape with at least three different constants is wanted."
        )
    if not bool((errors > 0).all() & (lipschitz > 0).all()):
        raise ValueError("errors and Lipschitz constants must be positive: leave out what is zero.")
    y, x = (value.detach().double().cpu().flatten().numpy() for value in (errors, lipschitz))
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]), float(spearmanr(x, y).statistic)  # type: ignore[union-attr]


def _ends(jacobian: FieldJacobian, product, symmetric: bool, tolerance: float, *which: str) -> Iterator[list[Any]]:
    """Yield, example by example, eigenvalues of `product(J, v)` at the named ends of its spectrum, an array each.

    `tolerance` is relative to the operator's size. Where the matrix is small all eigenvalues are given.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs, eigsh

    solver: Any = eigsh if symmetric else eigs
    for number in range(len(jacobian.point)):
        one = jacobian.example(number)
        # Padded tokens' zero rows would add eigenvalues of their own: only real tokens' entries are seen.
        entries = np.flatnonzero(one.real(torch.ones_like(one.point)).detach().cpu().numpy())
        size = len(entries)

        def apply(vector: np.ndarray, shift: float = 0.0, one=one, entries=entries) -> np.ndarray:
            whole = np.zeros(one.point.numel())
            whole[entries] = vector.ravel()
            moved = product(one, torch.from_numpy(whole).view_as(one.point)).double().cpu().numpy().ravel()
            return moved[entries] + shift * vector.ravel()

        start = np.random.default_rng(0).standard_normal(size)
        scale = float(np.linalg.norm(apply(start)) / np.linalg.norm(start))
        if size <= _SMALL or scale == 0:
            dense = np.stack([apply(unit) for unit in np.eye(size)], 1) if scale else np.zeros((1, 1))
            yield [np.linalg.eigvalsh(dense) if symmetric else np.linalg.eigvals(dense)] * len(which)
            continue
        found, how = [], {"v0": start, "tol": tolerance, "maxiter": _RESTARTS, "return_eigenvectors": False}
        for end in which:
            # ARPACK's tolerance is relative to the eigenvalue, which may be zero (diffusion's is): it is moved away.
            shift = 0.0 if end == "LM" else scale if end[0] == "L" else -scale
            moved: Any = {"matvec": partial(apply, shift=shift), "dtype": np.float64}
            try:
                found.append(solver(LinearOperator((size, size), **moved), 2, which=end, **how) - shift)
            except ArpackError as error:
                raise RuntimeError(
                    f"the eigenvalue {end!r} of {size} rows was not found to {tolerance:g} in {_RESTARTS} restarts: "
                    "ask for a larger tolerance, or give the state and the equation in float64."
                ) from error
        yield found


def _checked(pde: PDE, t: float, u: Tensor, mask: Tensor | None) -> Tensor | None:
    """Refuse what is no state of the equation at a depth-time; return the mask where it leaves any token out."""
    if not 0 <= float(t) <= pde.depth:
        raise ValueError(f"depth-time {float(t):g} was given, but the equation lives on [0, {pde.depth:g}].")
    if not u.is_floating_point() or u.ndim != 3:
        about = f"of shape {tuple(u.shape)} and type {u.dtype}"
        raise ValueError(f"a state {about} was given, but (batch, tokens, width) of floating point is wanted.")
    if pde.lattice is not None:
        pde.lattice.check(u)
    if mask is not None and mask.shape != u.shape[:-1]:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, but {tuple(u.shape[:-1])} is wanted.")
    return None if mask is None or bool(mask.all()) else mask.bool().to(u.device)


def _times(pde: PDE, flow: Flow) -> list[float]:
    """Return a Flow's depth-times; refuse Flows without states, and equations whose state is not the hidden state."""
    if not flow.states:
        raise ValueError("a Flow without states was given: capture or integrate it with them.")
    if pde.constraint is not None:
        raise ValueError("an equation on a sphere was given: its state is not a Flow's; use `spectrum` on its own.")
    assert flow.depths is not None
    return [float(t) for t in flow.depths]
