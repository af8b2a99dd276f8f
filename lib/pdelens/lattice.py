"""Where tokens live: chains and grids with exact boundaries, and the differences taken on them.

Unit spacing throughout: diffusivities are in squared lattice units, velocities in lattice units per unit of
depth-time. Boundaries are imposed by the stencil itself, not by a penalty:

- `periodic`: the ends are neighbours;
- `neumann`: no flux, by cell-centred reflection (modes `cos(pi k (i + 1/2) / n)`, eigenvalues
  `-4 sin^2(pi k / 2n)` of the second-order Laplacian);
- `dirichlet`: the end tokens (on a grid, the outer ring) are pinned, their derivative is zero.

Special tokens (CLS, SEP) lie before or after the lattice's own; no difference touches or reads them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import _doors
from ._stencils import padded, second_difference

BOUNDARIES = ("periodic", "neumann", "dirichlet")


@dataclass(frozen=True)
class Lattice:
    """Tokens in rows and columns (`Grid`) or in a row (`Chain`), with special tokens around them."""

    shape: tuple[int, ...]
    boundary: str = "neumann"
    special: tuple[int, int] = (0, 0)
    causal: bool = False

    def __post_init__(self):
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary {self.boundary!r} was given: choose from {', '.join(BOUNDARIES)}.")
        if any(not isinstance(side, int) or side < 3 for side in self.shape):
            raise ValueError(f"sides {self.shape} were given: each must be a whole number, at least 3.")
        whole = [isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in self.special]
        if len(whole) != 2 or not all(whole):
            raise ValueError(
                f"special tokens {self.special} were given: a whole number, or (before, after), is wanted."
            )
        _doors.flag("causal", self.causal)
        if self.causal and self.boundary == "periodic":
            raise ValueError("a periodic causal chain was asked for: its last token would be its first one's past.")

    @property
    def dims(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def places(self) -> int:
        """Number of tokens on the lattice."""
        return math.prod(self.shape)

    @property
    def tokens(self) -> int:
        """Number of tokens with the special ones."""
        return self.places + sum(self.special)

    def positions(self) -> Tensor:
        """Return the coordinates of the lattice's tokens, (places, dims)."""
        axes = torch.meshgrid(*(torch.arange(side) for side in self.shape), indexing="ij")
        return torch.stack([axis.flatten() for axis in axes], -1)

    def check(self, u: Tensor) -> None:
        """Raise where a state does not fit: (..., tokens, width), floating point."""
        _doors.is_a("state", u, Tensor, "a tensor (..., tokens, width)")
        if not u.is_floating_point():
            raise TypeError(f"a state of type {u.dtype} was given, but floating point is wanted: use u.float().")
        if u.ndim < 2 or u.shape[-2] != self.tokens:
            raise ValueError(
                f"a state of shape {tuple(u.shape)} was given, but (..., {self.tokens}, width) is wanted: {self} has "
                f"{self.places} places and {sum(self.special)} special tokens."
            )

    def unfold(self, u: Tensor) -> Tensor:
        """Return the lattice's own tokens as (..., *shape, width)."""
        inner = u.narrow(-2, self.special[0], self.places) if any(self.special) else u
        return inner if self.dims == 1 else inner.unflatten(-2, self.shape)

    def fold(self, u: Tensor) -> Tensor:
        """Undo `unfold`; special tokens come back as zeros."""
        flat = u if self.dims == 1 else u.flatten(-1 - self.dims, -2)
        return flat if not any(self.special) else torch.nn.functional.pad(flat, (0, 0, *self.special))


def Chain(length: int, boundary: str = "neumann", causal: bool = False, special: int | tuple[int, int] = 0) -> Lattice:
    """Return a chain of tokens (text), one lattice unit apart. `special` counts tokens before it, or (before, after).

    `boundary`: `neumann` (no flux), `dirichlet` (the ends are pinned) or `periodic`; `causal`: no token sees a later
    one. Raises `ValueError` for fewer than three tokens, unknown boundaries, a periodic causal chain.

    >>> Chain(5, special=(1, 1)).tokens
    7
    """
    return Lattice((length,), boundary, _pair(special), causal)


def Grid(height: int, width: int, boundary: str = "neumann", special: int | tuple[int, int] = 0) -> Lattice:
    """Return a grid of tokens (patches, row by row), one lattice unit apart; `special` counts tokens around it.

    `boundary` as in `Chain`, of which the outer ring is pinned by `dirichlet`. Raises `ValueError` for sides below 3.

    >>> Grid(7, 7, special=1).tokens
    50
    """
    return Lattice((height, width), boundary, _pair(special))


def _checked(u: Any, lattice: Lattice, mask: Any) -> tuple[Tensor, Tensor | None]:
    """Return a state on a lattice and its mask as tensors; arrays are welcome."""
    _doors.is_a("lattice", lattice, Lattice, "a Chain or a Grid")
    u = _doors.tensor("u", u, "a state (..., tokens, width)")
    lattice.check(u)
    if mask is None:
        return u, None
    mask = _doors.tensor("mask", mask, "booleans (..., tokens)")
    try:
        mask = mask.expand(u.shape[:-1])
    except RuntimeError:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, but {tuple(u.shape[:-1])} is wanted.") from None
    return u, _doors.booleans("mask", mask, "True at real tokens")


def _pair(special: int | tuple[int, int]) -> tuple[int, int]:
    return (special, 0) if not isinstance(special, tuple | list) else tuple(special)  # type: ignore[return-value]


def laplacian(
    u: Float[Tensor, "*batch tokens width"],
    lattice: Lattice,
    order: int = 2,
    mask: Bool[Tensor, "*batch tokens"] | None = None,
) -> Float[Tensor, "*batch tokens width"]:
    r"""Laplacian of a state on a lattice, in units of one over a lattice step squared; zero at special tokens.

    $(\Delta u)_i=\sum_{j\sim i}(u_j-u_i)$ over neighbours at `order` 2 (3 points on a chain, 5 on a grid); 5 and 9
    points at order 4. `mask` is True at real tokens: no flux passes to or from padding (order 2, `neumann` only).
    Raises `ValueError` where the state does not fit the lattice, and for a causal lattice: causal weights that sum to
    one and have no drift are the identity, and a one-sided second difference is ill-posed. Cost O(tokens width).
    Source: the boundaries' modes are in the chapter *Well-posedness*.

    >>> laplacian(torch.tensor([[0.0], [1.0], [4.0], [9.0]]), Chain(4, "dirichlet")).flatten().tolist()
    [0.0, 2.0, 2.0, 0.0]
    """
    u, mask = _checked(u, lattice, mask)
    _refuse_causal(lattice)
    if order not in (2, 4):
        raise ValueError(f"order {order} was given: choose 2 or 4.")
    if order == 4 and min(lattice.shape) < 5:
        raise ValueError(f"order 4 on sides {lattice.shape} was asked for: each side must be at least 5.")
    if mask is not None:
        return _masked_laplacian(u, lattice, order, mask)
    inner = lattice.unfold(u)
    parts = [second_difference(inner, axis, lattice.boundary, order) for axis in range(-1 - lattice.dims, -1)]
    total = parts[0] if lattice.dims == 1 else parts[0] + parts[1]
    return lattice.fold(_pinned(total, lattice))


def gradient(
    u: Float[Tensor, "*batch tokens width"],
    lattice: Lattice,
    scheme: str = "central",
    mask: Bool[Tensor, "*batch tokens"] | None = None,
) -> Float[Tensor, "dims *batch tokens width"]:
    """Gradient of a state on a lattice, one axis of it first, per lattice step; zero at special tokens.

    `scheme`: `central`, (u[i+1] - u[i-1]) / 2, of second order; `forward`, u[i+1] - u[i]; `backward`, u[i] - u[i-1].
    `mask` is True at real tokens: padding is not read and does not change (`neumann` only). Raises `ValueError` where
    the state does not fit, and on a causal chain for all but `backward`, which alone looks at the past alone. Cost
    O(dims tokens width). Source: the textbook differences, order by order in the tests.

    >>> gradient(torch.tensor([[0.0], [1.0], [4.0], [9.0]]), Chain(4), "backward").flatten().tolist()
    [0.0, 1.0, 3.0, 5.0]
    """
    u, mask = _checked(u, lattice, mask)
    if scheme not in ("central", "forward", "backward"):
        raise ValueError(f"scheme {scheme!r} was given: choose central, forward or backward.")
    if lattice.causal and scheme != "backward":
        raise ValueError(
            f"a {scheme} difference on a causal chain was asked for, but it reads the future: use backward."
        )
    if mask is not None and lattice.boundary != "neumann":
        raise ValueError(f"a mask with boundary {lattice.boundary!r} was given: padding needs 'neumann'.")
    inner = lattice.unfold(u)
    real = None if mask is None else lattice.unfold(mask[..., None].bool().expand(*u.shape[:-1], 1))
    found = []
    for axis in range(-1 - lattice.dims, -1):
        side = inner.shape[axis]
        wide = padded(inner, axis, lattice.boundary, 1)
        low, high = wide.narrow(axis, 0, side), wide.narrow(axis, 2, side)
        if real is not None:
            around = padded(real, axis, "neumann", 1)
            low = torch.where(around.narrow(axis, 0, side) & real, low, inner)
            high = torch.where(around.narrow(axis, 2, side) & real, high, inner)
        slope = {"central": (high - low) / 2, "forward": high - inner, "backward": inner - low}[scheme]
        found.append(lattice.fold(_pinned(slope, lattice)))
    return torch.stack(found)


def advection(
    u: Tensor, velocity: Tensor, lattice: Lattice, scheme: str = "upwind", mask: Tensor | None = None
) -> Tensor:
    """`v . grad u` of a state (..., tokens, width); `velocity` is (dims, width) or broadcasts to it.

    In `du/dt = v . grad u`, v = -1 carries content forward by one token per unit of depth-time. `upwind` reads the
    side that content comes from (first order, monotone for `sum |v| dt <= 1`, with numerical diffusivity |v| / 2);
    `central` is second order and needs diffusion beside it. On a causal chain only upwind with v <= 0 is allowed.
    `mask` as in `gradient`.
    """
    velocity = torch.as_tensor(velocity, dtype=u.dtype, device=u.device)
    velocity = velocity.expand(lattice.dims, u.shape[-1])
    if scheme == "central":
        slopes = gradient(u, lattice, "central", mask)
        return torch.einsum("d...w,dw->...w", slopes, velocity)
    if scheme != "upwind":
        raise ValueError(f"scheme {scheme!r} was given: choose upwind or central.")
    if lattice.causal:
        fastest = float(velocity.detach().max())
        if fastest > 0:
            raise ValueError(
                f"a velocity of {fastest:.3g} on a causal chain was given, but content can only move forward: v <= 0."
            )
        return torch.einsum("d...w,dw->...w", gradient(u, lattice, "backward", mask), velocity)
    ahead = torch.einsum("d...w,dw->...w", gradient(u, lattice, "forward", mask), velocity.clamp_min(0))
    return ahead + torch.einsum("d...w,dw->...w", gradient(u, lattice, "backward", mask), velocity.clamp_max(0))


@lru_cache(maxsize=16)
def eigensystem(lattice: Lattice, order: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Return eigenvalues, eigenvectors and their inverse of the Laplacian's matrix, in float64.

    Dense: O(places^3) once, O(places^2) an application. Real for every boundary here (the pinned rows of `dirichlet`
    make the matrix non-symmetric, not its eigenvalues complex).
    """
    _refuse_causal(lattice)
    places = Lattice(lattice.shape, lattice.boundary)
    matrix = laplacian(torch.eye(places.places, dtype=torch.float64), places, order)
    if lattice.boundary != "dirichlet":
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors, vectors.T
    # Pinned rows are zero: eigenvalue 0 with the discrete harmonic extension of each pinned value.
    pinned = matrix.abs().sum(1) == 0
    free = torch.nonzero(~pinned).flatten()
    fixed = torch.nonzero(pinned).flatten()
    inside = matrix[free][:, free]
    inner_values, modes = torch.linalg.eigh(inside)
    harmonic = torch.linalg.solve(inside, matrix[free][:, fixed])
    values = torch.zeros(len(matrix), dtype=torch.float64)
    vectors, inverse = torch.eye(len(matrix), dtype=torch.float64), torch.eye(len(matrix), dtype=torch.float64)
    values[free] = inner_values
    vectors[free[:, None], fixed] = -harmonic
    vectors[free[:, None], free] = modes
    inverse[free[:, None], fixed] = modes.T @ harmonic
    inverse[free[:, None], free] = modes.T
    return values, vectors, inverse


def _refuse_causal(lattice: Lattice) -> None:
    if lattice.causal:
        raise ValueError(
            "a Laplacian on a causal chain was asked for, but causal weights without drift are the identity and a "
            "one-sided second difference is ill-posed: use upwind advection, which drifts."
        )


def _pinned(change: Tensor, lattice: Lattice) -> Tensor:
    """Set the change of pinned tokens to zero."""
    if lattice.boundary != "dirichlet":
        return change
    for axis in range(-1 - lattice.dims, -1):
        # In place: the change is a new tensor, and copying it would cost as much as the stencil.
        change.narrow(axis, 0, 1).zero_()
        change.narrow(axis, -1, 1).zero_()
    return change


def _masked_laplacian(u: Tensor, lattice: Lattice, order: int, mask: Tensor) -> Tensor:
    if order != 2 or lattice.boundary != "neumann":
        raise ValueError(
            f"a mask with order {order} and boundary {lattice.boundary!r} was given: padding needs order 2, 'neumann'."
        )
    inner = lattice.unfold(u)
    real = lattice.unfold(mask[..., None].to(u.dtype).expand(*u.shape[:-1], 1))
    total = torch.zeros_like(inner)
    for axis in range(-1 - lattice.dims, -1):
        side = inner.shape[axis]
        flux = inner.diff(dim=axis) * real.narrow(axis, 1, side - 1) * real.narrow(axis, 0, side - 1)
        nothing = torch.zeros_like(inner.narrow(axis, 0, 1))
        total = total + torch.cat([flux, nothing], axis) - torch.cat([nothing, flux], axis)
    return lattice.fold(total)
