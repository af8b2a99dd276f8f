"""The narrow network: what as many parameters do when layers are not shared but narrower.

The control beside a surrogate that shares its coefficients over depth. If it follows the teacher as well, then few
parameters were enough, and sharing over depth-time was not what made the agreement.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pdelens.lattice import Lattice
from pdelens.pde.equation import TransformerPDE


class NarrowPDE(TransformerPDE):
    """An unshared equation of smaller width w', read into and out of the teacher's states by linear maps.

        z(0) = E u(0) + e,    dz/dt = W A(z) V n(z) + R(n(z)) on [0, depth],    u(t) = F z(t) + f

    with one piece of coefficients a layer (`basis="piecewise"`, as many modes as layers), so that one Lie step a
    layer is a narrower pre-norm Transformer. `width` is the teacher's, `narrow` is w', a multiple of `heads`;
    attention maps are its own heads'. E (w' x width) starts as a random orthogonal projection (orthonormal rows), F
    as its transpose, e and f at zero; all four are learnt. At depth 0 its Flow therefore holds the decoded state, not
    u(0): what w' channels can keep of it. `settings` are `TransformerPDE`'s; diffusion is off unless given. Raises
    `ValueError` where w' does not fit.

    >>> pde = NarrowPDE(64, 24, 4, None)
    >>> print(pde, sum(value.numel() for value in pde.parameters()))
    ∂u/∂t = W A(u) V n(u) + R(n(u)),  t in [0, 6], 6 piecewise modes, width 24 of 64 45928
    """

    def __init__(
        self, width: int, narrow: int, heads: int, lattice: Lattice | None, *, depth: int = 6, seed: int = 0, **settings
    ):
        if not 0 < narrow <= width or narrow % heads:
            wanted = f"a multiple of the {heads} heads, at most the teacher's width {width}, is wanted."
            raise ValueError(f"a narrow width of {narrow} was given: {wanted}")
        fixed = [name for name in ("temporal_modes", "basis", "form") if name in settings]
        if fixed:
            raise ValueError(f"{fixed[0]} was given, but a narrow network has one piece a layer and is pre-norm.")
        layers: dict[str, Any] = {"depth": depth, "temporal_modes": depth, "basis": "piecewise"}
        layers |= {"diffusion": None} | settings
        super().__init__(narrow, heads, lattice, **layers, seed=seed)
        self.width, self.narrow = width, narrow
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = nn.Linear(width, narrow), nn.Linear(narrow, width)
            nn.init.orthogonal_(self.encoder.weight)
        with torch.no_grad():
            self.decoder.weight.copy_(self.encoder.weight.T)
            self.encoder.bias.zero_()
            self.decoder.bias.zero_()

    def encode(self, u: Tensor, t: float = 0.0) -> Tensor:
        """Return the narrow state, (..., tokens, w'), of a hidden one, (..., tokens, width), at any depth-time."""
        if u.shape[-1] != self.width:
            raise ValueError(f"a state of shape {tuple(u.shape)} was given, but (..., tokens, {self.width}) is wanted.")
        return nn.functional.linear(u, self.encoder.weight.to(u.dtype), self.encoder.bias.to(u.dtype))

    def decode(self, t: float, state: Tensor) -> Tensor:
        """Return the hidden state, (..., tokens, width), of a narrow one; the same map at every depth-time."""
        return nn.functional.linear(state, self.decoder.weight.to(state.dtype), self.decoder.bias.to(state.dtype))

    def __str__(self) -> str:
        return f"{super().__str__()}, width {self.narrow} of {self.width}"


def narrow_parameters(width: int, narrow: int, depth: int = 6, hidden: int | None = None) -> int:
    """Return how many parameters a narrow network without diffusion has: blocks, encoder and decoder.

    `depth (4 w' (w' + 1) + hidden (2 w' + 1) + w') + 2 width w' + width + w'`, `hidden` being 4 w' unless given.

    >>> narrow_parameters(64, 24)
    45928
    """
    hidden = 4 * narrow if hidden is None else hidden
    block = 4 * narrow * (narrow + 1) + hidden * (2 * narrow + 1) + narrow
    return depth * block + 2 * width * narrow + width + narrow


def narrow_width(parameters: int, width: int, heads: int, depth: int = 6) -> int:
    """Return the largest w', a multiple of `heads`, with at most so many parameters (hidden width 4 w').

    Never more than the teacher's width. Multiples of `heads` are far apart at small widths: `narrow_like` uses up
    what is left. Raises `ValueError` where even w' = `heads` has more.

    >>> narrow_width(50_000, width=64, heads=4)
    24
    """
    if width % heads:
        raise ValueError(f"width {width} is no multiple of heads {heads}: choose one that is.")
    least = narrow_parameters(width, heads, depth)
    if parameters < least:
        layers = f"{heads} heads and {depth} layers"
        raise ValueError(f"{parameters} parameters were asked for, but a network with {layers} has at least {least}.")
    return max(w for w in range(heads, width + 1, heads) if narrow_parameters(width, w, depth) <= parameters)


def narrow_like(
    parameters: int, width: int, heads: int, lattice: Lattice | None, *, depth: int = 6, seed: int = 0, **settings
) -> NarrowPDE:
    """Return the narrow network with at most, and as nearly as possible, so many parameters.

    w' is `narrow_width`'s; the reaction's hidden width, 4 w' in a Transformer, grows by what is left, so that fewer
    than `depth (2 w' + 1)` are missing. With diffusion or advection in `settings`, count those coefficients off
    `parameters` first.

    >>> sum(value.numel() for value in narrow_like(49_728, 64, 4, None).parameters())
    49456
    """
    narrow = narrow_width(parameters, width, heads, depth)
    left = parameters - narrow_parameters(width, narrow, depth)
    hidden = 4 * narrow + left // (depth * (2 * narrow + 1))
    return NarrowPDE(width, narrow, heads, lattice, depth=depth, hidden=hidden, seed=seed, **settings)
