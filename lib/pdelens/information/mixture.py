"""Equally likely points with noise about each: a Gaussian mixture, its terms by Monte Carlo, its distances."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _doors
from . import density
from .streams import own_generator

# Terms behind a value where no number of draws is given: an error of about a hundredth of a nat.
_TERMS = 8192
# A squared distance below this share of the squares that it is the difference of has lost half its digits.
_HALF_DIGITS = 1e-8
# The states in double precision twice, and as many numbers for every pair of draws.
_BYTES = 16 << 30


class Mixture(NamedTuple):
    """Equally likely inputs as weighted points, and the noise that is drawn about each, of deviation 1."""

    points: Tensor  # (distinct, columns)
    log_weights: Tensor  # (distinct,)
    noise: Tensor  # (pairs, distinct, columns)
    scale: float
    inputs: int
    features: int


def mixture_of(states: Tensor, mask: Tensor | None, draws: int | None, seed: int) -> Mixture:
    """Return the mixture about some inputs' states, equal ones merged, or say what none can be made of.

    Arguments as in `noise.noisy_information`.
    """
    _doors.whole("seed", seed, 0)
    if draws is not None:
        _doors.whole("draws", draws, 2)
        if draws % 2:
            raise ValueError(f"draws={draws} was given: an even number is wanted, for draws come in opposite pairs.")
    rows, size = centred(states, mask)
    inputs, features = rows.shape
    distinct, number = rows.unique(dim=0, return_inverse=True)
    if len(distinct) == 1:
        raise ValueError(
            f"The states of all {inputs} inputs are the same: they tell no input from another, 0 nats at any noise."
        )
    count = torch.bincount(number)
    if len(distinct) == inputs:
        distinct, count = rows, torch.ones_like(count)
    pairs = max(2, -(-_TERMS // (2 * len(distinct)))) if draws is None else draws // 2
    columns = features
    if features >= 2 * len(distinct):
        # Only noise within the span of the states matters.
        columns, distinct = len(distinct), torch.linalg.qr(distinct.T, mode="r").R.T.contiguous()
    needed = 8 * len(distinct) * (2 * features + pairs * columns)
    if needed > _BYTES:
        raise ValueError(
            f"{inputs} inputs of {features} features with {2 * pairs} draws were given: they take "
            f"{needed / 2**30:.1f} GiB, more than {_BYTES / 2**30:.0f}; give fewer inputs or draws, or project them."
        )
    noise = torch.randn(pairs, *distinct.shape, generator=own_generator(seed), dtype=torch.float64).to(rows.device)
    return Mixture(distinct, (count.double() / inputs).log(), noise, size, inputs, features)


def centred(states: Tensor, mask: Tensor | None) -> tuple[Tensor, float]:
    """Return states as rows about their mean, (inputs, features) in double precision, and their scale."""
    wanted = "(inputs, features) or (inputs, tokens, width)"
    states = _doors.tensor("states", states, f"a state {wanted}")
    states = _doors.state("states", states, wanted, 3 if states.ndim == 3 else 2).detach().double()
    if len(states) < 2:
        raise ValueError("One input was given: at least two are wanted, to tell one from another.")
    mask = _doors.mask("mask", mask, states.shape[:2])
    if mask is None:
        rows = (states - states.mean(0)).flatten(1)
        return rows, _finite(float(rows.square().mean().sqrt()))
    real = mask.to(states.device).reshape(*states.shape[:2], *[1] * (states.ndim - 2)).expand_as(states).flatten(1)
    if not bool(real.any()):
        raise ValueError("mask has no real entry: at least one is wanted.")
    rows = torch.where(real, states.flatten(1), 0.0)
    rows = torch.where(real, rows - rows.sum(0) / real.sum(0).clamp(min=1), 0.0)
    return rows, _finite(float((rows.square().sum() / real.sum()).sqrt()))


def _finite(size: float) -> float:
    if size == float("inf"):
        raise ValueError("The squares of the states pass what double precision holds: divide the states by their size.")
    return size


def terms(mixture: Mixture, sigmas: Sequence[float]) -> Tensor:
    """Return -ln sum_j w_j exp(...) for each sigma, pair of draws and point i, the mean over the pair."""
    points, noise = mixture.points, mixture.noise
    found = points.new_zeros(len(sigmas), len(noise), len(points))
    for rows in density.chunks(len(points)):
        distances, near = _distances(points, rows)
        batch = max(1, density._ENTRIES // distances.numel())
        for start in range(0, len(noise), batch):
            part = slice(start, start + batch)
            along = _along(points, noise[part][:, rows], rows, near)
            for number, sigma in enumerate(sigmas):
                for sign in (1.0, -1.0):
                    # Divided twice, so that no square of a tiny or huge sigma is made.
                    exponents = torch.add(distances / (2 * sigma), along, alpha=sign).div_(-sigma)
                    found[number, part, rows] -= exponents.add_(mixture.log_weights).logsumexp(-1) / 2
    return found


class _Near(NamedTuple):
    """Pairs of points (i among some rows, j among all) too near each other for a difference of products."""

    first: Tensor
    second: Tensor


def _distances(points: Tensor, rows: Tensor) -> tuple[Tensor, _Near]:
    """Return squared distances of some points to all, (rows, points), and which pairs were taken one by one."""
    distances = density.squared_distances(points, rows)
    squares = points.square().sum(1)
    close = distances < _HALF_DIGITS * (squares[rows, None] + squares)
    close[torch.arange(len(rows)), rows] = False
    near = _Near(*close.nonzero(as_tuple=True))
    for first, second in _parts(near, points.shape[1]):
        distances[first, second] = (points[rows[first]] - points[second]).square().sum(1)
    return distances, near


def _along(points: Tensor, noise: Tensor, rows: Tensor, near: _Near) -> Tensor:
    """Return z . (t_i - t_j), (draws, rows, points), for noise (draws, rows, columns)."""
    along = (noise * points[rows]).sum(-1, keepdim=True) - noise @ points.T
    along[:, torch.arange(len(rows)), rows] = 0.0
    for first, second in _parts(near, len(noise) * points.shape[1]):
        along[:, first, second] = (noise[:, first] * (points[rows[first]] - points[second])).sum(-1)
    return along


def _parts(near: _Near, size: int) -> list[tuple[Tensor, Tensor]]:
    step = max(1, density._ENTRIES // size)
    return list(zip(near.first.split(step), near.second.split(step), strict=True)) if len(near.first) else []


def extremes(mixture: Mixture) -> tuple[float, float]:
    """Return the smallest distance that is not 0 and the largest."""
    found = []
    for rows in density.chunks(len(mixture.points)):
        distances, _ = _distances(mixture.points, rows)
        found.append((torch.where(distances > 0, distances, torch.inf).min(), distances.max()))
    nearest, farthest = zip(*found, strict=True)
    return float(min(nearest)) ** 0.5, float(max(farthest)) ** 0.5


def upper_bound(mixture: Mixture, sigmas: Sequence[float]) -> list[float]:
    """Return the upper bound of `kernel_bounds` at each sigma."""
    totals = [0.0] * len(sigmas)
    for rows in density.chunks(len(mixture.points)):
        distances, _ = _distances(mixture.points, rows)
        weights = mixture.log_weights[rows].exp()
        for number, sigma in enumerate(sigmas):
            exponents = (distances / (2 * sigma)).div_(-sigma).add_(mixture.log_weights)
            totals[number] -= float(exponents.logsumexp(1) @ weights)
    return totals


def overlaps(mixture: Mixture, sigma: float) -> Tensor:
    """Return each point's sum over the others of sqrt(w_j / w_i) times the overlap exp(-|t_i - t_j|^2 / 8 sigma^2)."""
    found = torch.empty_like(mixture.log_weights)
    for rows in density.chunks(len(mixture.points)):
        distances, _ = _distances(mixture.points, rows)
        ratios = (mixture.log_weights - mixture.log_weights[rows, None]) / 2
        exponents = (distances / (8 * sigma)).div_(-sigma).add_(ratios)
        exponents[torch.arange(len(rows)), rows] = -torch.inf
        found[rows] = exponents.exp_().sum(1)
    return found
