"""What a head's displacement is on average: drift and diffusivity.

`A u` at token i is the mean of `u` at displacement Delta under the row's weights. To second order it is `u + E[Delta]
. grad u + E[Delta Delta^T] : grad grad u / 2`: drift `v = E[Delta]` and diffusivity `D = Cov[Delta] / 2` (the second
cumulant; the raw second moment would count the drift twice). What follows from them: `matched`, `expansions`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..lattice import Lattice


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of attention (..., heads, tokens, keys) over displacement on the lattice, per query.

    `drift` (..., heads, places, dims), `diffusivity` (..., heads, places, dims, dims), in lattice units per layer,
    conditional on attention that lands on the lattice; `special_mass` (..., heads, places) is the share that does
    not. Queries are the lattice's own tokens.
    """

    drift: Tensor
    diffusivity: Tensor
    special_mass: Tensor

    def of(self, rows: Tensor) -> "Moments":
        """Return the moments of these queries alone, by their number among the lattice's places."""
        return Moments(self.drift[..., rows, :], self.diffusivity[..., rows, :, :], self.special_mass[..., rows])

    def spread(self) -> Tensor:
        """Return the root-mean-square distance from the mean displacement, (..., heads, places)."""
        return (2 * self.diffusivity.diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt()


def attention_moments(weights: Tensor, lattice: Lattice) -> Moments:
    """Return the moments of explicit attention maps (..., heads, tokens, tokens).

    Displacement runs from query to key; a head that copies the previous token has v = -1, D = 0. O(tokens^2), as the
    maps are.

    >>> from pdelens.lattice import Chain
    >>> moments = attention_moments(torch.eye(6).roll(-1, 1)[None, None], Chain(6))
    >>> moments.drift[0, 0, :3, 0].tolist(), moments.diffusivity[0, 0, 1].tolist()
    ([5.0, -1.0, -1.0], [[0.0]])
    """
    inner, mass = lattice_attention(weights, lattice)
    # In float64: the difference of second and squared first moments cancels on sharp rows.
    exact = inner.double()
    drift, covariance = row_moments(exact / exact.sum(-1, keepdim=True).clamp_min(1e-30), lattice)
    below = torch.diag_embed((-covariance.diagonal(dim1=-2, dim2=-1)).clamp_min(0))
    return Moments(drift.to(inner), ((covariance + below) / 2).to(inner), mass)


def row_moments(rows: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Return mean displacement (..., places, dims) and covariance (..., places, dims, dims) of a lattice's rows.

    `rows` (..., places, places), float64, sum to 1. They may have negative entries, as differences make them: so may
    the covariance then.
    """
    middle, pairs = centred_places(lattice, rows.device)
    mean = rows @ middle
    second = (rows @ pairs).unflatten(-1, (lattice.dims, lattice.dims))
    return mean - middle, second - mean.unsqueeze(-1) * mean.unsqueeze(-2)


def centred_places(lattice: Lattice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return places about the lattice's middle, (places, dims), and their products, (places, dims * dims)."""
    place = lattice.positions().double().to(device)
    middle = place - place.mean(0)
    return middle, (middle.unsqueeze(-1) * middle.unsqueeze(-2)).flatten(1)


def lattice_attention(weights: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Return attention among the lattice's own tokens, rows summing to 1, and the mass that lands elsewhere."""
    if weights.ndim < 3 or weights.shape[-1] != lattice.tokens or weights.shape[-2] != lattice.tokens:
        raise ValueError(
            f"attention of shape {tuple(weights.shape)} was given, but (..., heads, {lattice.tokens}, "
            f"{lattice.tokens}) is wanted."
        )
    before = lattice.special[0]
    own = slice(before, before + lattice.places)
    inner = weights[..., own, own]
    total = inner.sum(-1, keepdim=True)
    return inner / total.clamp_min(1e-30), 1 - total.squeeze(-1)


def displacement_kernel(weights: Tensor, lattice: Lattice) -> Tensor:
    """Return attention (..., tokens, tokens) as a function of displacement, averaged over queries.

    (..., 2 n - 1) on a chain, (..., 2 h - 1, 2 w - 1) on a grid, displacement 0 in the middle; each entry is the mean
    over those queries from which that displacement stays on the lattice.
    """
    inner, _ = lattice_attention(weights, lattice)
    place = lattice.positions()
    offset = place[None] - place[:, None] + torch.tensor(lattice.shape) - 1  # (queries, keys, dims), from 0
    sides = [2 * side - 1 for side in lattice.shape]
    number = offset[..., 0] if lattice.dims == 1 else offset[..., 0] * sides[1] + offset[..., 1]
    flat = number.flatten().to(inner.device)
    size = int(torch.Size(sides).numel())
    sums = inner.new_zeros(*inner.shape[:-2], size).index_add_(-1, flat, inner.flatten(-2))
    counts = torch.bincount(flat, minlength=size).clamp_min(1).to(inner)
    return (sums / counts).view(*inner.shape[:-2], *sides)
