"""What a head's displacement is on average: drift, diffusivity, and the plainest attention that has both.

`A u` at token i is the mean of `u` at displacement Delta under the row's weights. To second order it is `u + E[Delta]
. grad u + E[Delta Delta^T] : grad grad u / 2`: drift `v = E[Delta]` and diffusivity `D = Cov[Delta] / 2` (the second
cumulant; the raw second moment would count the drift twice). What they make of the states: `expansions`.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from ..lattice import Lattice

# Rows that are matched at a time: what is made of each holds a number for every key and pair of moments.
_ROWS = 8192
# Newton's steps, halvings of one, and the error at which a row needs no more, in units of the lattice's half width.
_STEPS, _HALVINGS, _ENOUGH = 80, 30, 1e-11


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
    middle, pairs = centred_places(lattice, inner.device)
    # In float64: the difference of second and squared first moments cancels on sharp rows.
    exact = inner.double()
    exact = exact / exact.sum(-1, keepdim=True).clamp_min(1e-30)
    mean = exact @ middle  # (..., queries, dims)
    second = (exact @ pairs).unflatten(-1, (lattice.dims, lattice.dims))
    covariance = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    below = torch.diag_embed((-covariance.diagonal(dim1=-2, dim2=-1)).clamp_min(0))
    return Moments((mean - middle).to(inner), ((covariance + below) / 2).to(inner), mass)


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


@dataclass(frozen=True, eq=False)
class Matched:
    """Attention (..., heads, places, places) of given moments, and each row's largest error in them.

    `error` (..., heads, places) in lattice units (drift) and their squares (covariance).
    """

    weights: Tensor
    error: Tensor

    def unmatched(self, tolerance: float = 1e-6) -> Tensor:
        """Return which rows have not the moments asked for, (rows, axes of `error`): no attention has them."""
        return (self.error > tolerance).nonzero()


def matched(moments: Moments, lattice: Lattice, queries: Tensor | None = None) -> Matched:
    """Return the attention of largest entropy whose rows have a drift and a diffusivity, float64.

    `w_ij ~ exp(a_i . x_j + x_j^T B_i x_j)` over the lattice's places x: the discrete Gaussian, exact at any width and
    near any edge. Newton's method on the dual, in batches of rows; a row whose moments no attention has, or only one
    that is sharper than any exponential, keeps an error, which is reported. `queries` are the places that the rows are
    of, where not all (a row of moments each). Cost: some ten products of (rows, places) with the pairs of moments.
    Source: Wainwright and Jordan 2008, *Graphical Models, Exponential Families, and Variational Inference*, section 3.

    >>> from pdelens.lattice import Chain
    >>> even = attention_moments(torch.full((1, 5, 5), 0.2), Chain(5))
    >>> found = matched(even, Chain(5))
    >>> found.weights[0, 0].round(decimals=6).tolist(), len(found.unmatched())
    ([0.2, 0.2, 0.2, 0.2, 0.2], 0)
    """
    middle, _ = centred_places(lattice, moments.drift.device)
    scale = middle.abs().max().clamp_min(1.0)
    place = middle / scale
    pairs = list(combinations_with_replacement(range(lattice.dims), 2))
    features = torch.cat([place, torch.stack([place[:, a] * place[:, b] for a, b in pairs], 1)], 1)
    origin = middle if queries is None else middle[queries]
    mean = ((moments.drift.double() + origin) / scale).flatten(0, -2)
    covariance = (2 * moments.diffusivity.double() / scale**2).flatten(0, -3)
    second = covariance + mean.unsqueeze(-1) * mean.unsqueeze(-2)
    wanted = torch.cat([mean, torch.stack([second[:, a, b] for a, b in pairs], 1)], 1)
    # Where a row is far from every edge its Gaussian is the answer.
    inverse = torch.linalg.inv(covariance + 1e-3 * torch.eye(lattice.dims).to(covariance))
    start = [(inverse @ mean.unsqueeze(-1)).squeeze(-1)]
    start += [torch.stack([-inverse[:, a, b] * (0.5 if a == b else 1.0) for a, b in pairs], 1)]
    chunks = zip(wanted.split(_ROWS), torch.cat(start, 1).split(_ROWS), strict=True)
    found = torch.cat([_exponential_family(features, *chunk) for chunk in chunks])
    reached = found @ features
    off = (reached - wanted).abs() * torch.cat([scale.expand(lattice.dims), (scale**2).expand(len(pairs))])
    shape = moments.drift.shape[:-1]
    return Matched(found.unflatten(0, shape), off.amax(1).unflatten(0, shape))


def _exponential_family(features: Tensor, wanted: Tensor, start: Tensor) -> Tensor:
    """Return rows (rows, places) proportional to `exp(features . b)` whose means of the features are those wanted."""
    natural, waiting = start.clone(), torch.arange(len(wanted), device=wanted.device)
    small = torch.eye(features.shape[1]).to(features)
    products = (features.unsqueeze(2) * features.unsqueeze(1)).flatten(1)

    def dual(b: Tensor, mean: Tensor) -> Tensor:
        return torch.logsumexp(b @ features.T, 1) - (b * mean).sum(1)

    for _ in range(_STEPS):
        b, mean = natural[waiting], wanted[waiting]
        rows = torch.softmax(b @ features.T, 1)
        slope = rows @ features - mean
        left = slope.abs().amax(1) > _ENOUGH
        if not bool(left.any()):
            break
        waiting, b, mean, rows, slope = (each[left] for each in (waiting, b, mean, rows, slope))
        middle = slope + mean
        curvature = (rows @ products).unflatten(1, small.shape) - middle.unsqueeze(2) * middle.unsqueeze(1)
        ridge = 1e-12 + 1e-10 * curvature.diagonal(dim1=1, dim2=2).sum(1)
        step = torch.linalg.solve(curvature + ridge[:, None, None] * small, slope)
        before, falls, size = dual(b, mean), (slope * step).sum(1), torch.ones_like(mean[:, 0])
        high = torch.arange(len(b), device=b.device)  # rows whose dual a step of this size does not lower
        for _ in range(_HALVINGS):
            tried = dual(b[high] - size[high, None] * step[high], mean[high])
            high = high[tried > before[high] - 1e-4 * size[high] * falls[high] + 1e-15 * before[high].abs()]
            if not len(high):
                break
            size[high] /= 2
        natural[waiting] = b - size[:, None] * step
        going = falls > 1e-15 * before.abs().clamp_min(1.0)  # else the step was the last that rounding lets be seen
        going[high] = False
        waiting = waiting[going]
    return torch.softmax(natural @ features.T, 1)


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
