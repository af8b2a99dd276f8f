"""The plainest attention of given moments: rows of largest entropy, which are discrete Gaussians."""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from ..lattice import Lattice
from .moments import Moments, centred_places

# Rows that are matched at a time: what is made of each holds a number for every key and pair of moments.
_ROWS = 8192
# Newton's steps, halvings of one, and the error at which a row needs no more, in units of the lattice's half width.
_STEPS, _HALVINGS, _ENOUGH = 80, 30, 1e-11


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


def match_moments(moments: Moments, lattice: Lattice, queries: Tensor | None = None) -> Matched:
    """Return the attention of largest entropy whose rows have a drift and a diffusivity, float64.

    `w_ij ~ exp(a_i . x_j + x_j^T B_i x_j)` over the lattice's places x: the discrete Gaussian, exact at any width and
    near any edge. Newton's method on the dual, in batches of rows; a row whose moments no attention has, or only one
    that is sharper than any exponential, keeps an error, which is reported. `queries` are the places that the rows are
    of, where not all (a row of moments each). Cost: some ten products of (rows, places) with the pairs of moments.
    Source: Wainwright and Jordan 2008, *Graphical Models, Exponential Families, and Variational Inference*, section 3.

    >>> from pdelens.attention.moments import attention_moments
    >>> from pdelens.lattice import Chain
    >>> even = attention_moments(torch.full((1, 5, 5), 0.2), Chain(5))
    >>> found = match_moments(even, Chain(5))
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
