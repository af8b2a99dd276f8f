r"""The method `auto`: an elliptical copula where the data allow one, nearest neighbours for what it misses.

1. The copula of `copulas` that fits the ranks best has a known information A. Samples of it, of the data's own
   size and columns, are fitted in turn: their mean error is the bias of A, their spread its deviation.
2. The same samples go through KSG, in canonical variables. There KSG gives K* on average where the truth is A: its
   bias at this (N, dx, dy) is K* - A, and the data's own K should differ from K* by the samples' spread alone.
3. If it does not differ, the value is A. If it does, the copula is rejected and becomes a control variate:
   the value is A + (K - K*), in which the bias that both share cancels. The bias that the difference keeps falls
   with the neighbours k like $k^p$, with p from 1/d (edges, folds) to 2/d (smooth densities), d = dx + dy. Both are
   extrapolated to k = 0; the value lies between, and the interval spans the two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import neighbours as search
from .copulas import Copula, Fit, fit, ranks, scores
from .gaussian import gaussian_copula, normal_scores
from .ksg import ksg

# Fits cost little and settle the copula's bias and deviation; KSG costs most of the call.
_FITS, _SAMPLES, _HALVES = 24, 10, 16
# Where KSG sees less than this share of the fitted information, it cannot contradict the copula.
_BLIND = 0.2


class Calibrated(NamedTuple):
    """A value in nats, its 95 % interval, what gave it, why, the calibration bias; no ceiling if `elliptical`."""

    value: float
    interval: tuple[float, float]
    method: str
    because: str
    bias: float
    warnings: tuple[str, ...]
    elliptical: bool = False


class Calibration(NamedTuple):
    """Samples of the fitted copula put through the same steps as the data."""

    copula: Copula  # of the information that is taken for the truth
    informations: np.ndarray  # (fits,) nats found by fitting
    samples: list[tuple[Tensor, Tensor]]  # canonical x and y of the first fits


def quick(neighbours: int) -> Callable[[Tensor, Tensor], float]:
    """Return a cheap statistic for shuffles: the mean of the Gaussian copula's information and KSG on normal scores."""
    return lambda x, y: (gaussian_copula(x, y) + ksg(normal_scores(x), normal_scores(y), neighbours=neighbours)) / 2


def calibrated(x: Tensor, y: Tensor, *, neighbours: int, random: np.random.Generator) -> Calibrated:
    """Return the information of x (samples, dx) and y (samples, dy) by the three steps above.

    Cost: about eleven KSG calls and 25 copula fits; four times the KSG calls where the copula is rejected.
    """
    rows, dim_x = torch.cat([x, y], 1).numpy(), x.shape[1]
    fitted = fit(rows, dim_x)
    made = _calibrate(fitted, len(rows), random)
    own = _canonical(fitted.copula, rows)
    truth = made.copula.information
    shown = float(np.mean([ksg(*sample, neighbours=neighbours) for sample in made.samples[:2]]))
    if truth > 0.05 and shown < _BLIND * truth:
        return _unchecked(fitted, made, _leading(rows, dim_x, neighbours, random), shown)
    found = _misfit(own, made, (neighbours,))
    if not found.significant:
        return _elliptical(fitted, made, found, len(rows))
    wider = {max(1, round(neighbours / 3)), max(1, neighbours // 2), neighbours, 2 * neighbours}
    ladder = tuple(sorted(k for k in wider if 2 * k < len(rows)))
    found = _misfit(own, made, ladder)
    spread = halves(*own, partial(ksg_ladder, ladder=ladder), _HALVES, random)
    return _corrected(fitted, made, found, rows.shape, spread)


class _Misfit(NamedTuple):
    """KSG of the data and of the calibration samples, for each k of a ladder."""

    data: np.ndarray  # (ks,)
    samples: np.ndarray  # (samples, ks)
    residuals: np.ndarray  # (samples, ks), freed of what follows from each sample's own fitted information
    ladder: tuple[int, ...]

    @property
    def beyond(self) -> np.ndarray:
        """What KSG finds in the data less what it finds in samples of the copula."""
        return self.data - self.expected

    @property
    def expected(self) -> np.ndarray:
        return self.samples.mean(0)

    def deviation(self, weights: np.ndarray) -> float:
        """Standard error of a weighted sum of the differences over the ladder."""
        count = len(self.samples)
        return float(np.sqrt(((self.residuals @ weights) ** 2).sum() / (count - 2)) * np.sqrt(1 + 1 / count))

    @property
    def significant(self) -> bool:
        """Whether the first k's difference passes Student's two-sided 1 %."""
        first = np.eye(len(self.ladder))[0]
        return abs(self.beyond[0]) > quantile(len(self.samples) - 2, 0.995) * self.deviation(first)


def _calibrate(fitted: Fit, samples: int, random: np.random.Generator) -> Calibration:
    copula = fitted.copula.with_information(max(fitted.information, 0.0))
    informations, kept = [], []
    for turn in range(_FITS):
        rows = copula.sample(samples, random)
        again = fit(rows, copula.dim_x)
        informations.append(again.information)
        if turn < _SAMPLES:
            kept.append(_canonical(again.copula, rows))
    return Calibration(copula, np.array(informations), kept)


def _canonical(copula: Copula, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the canonical variables of the normal scores of rows, (samples, dx) and (samples, dy)."""
    x, y = copula.canonical(scores(len(rows))[ranks(rows)])
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))


def _misfit(own: tuple[Tensor, Tensor], made: Calibration, ladder: tuple[int, ...]) -> _Misfit:
    drawn = np.array([ksg_ladder(*sample, ladder) for sample in made.samples])
    centred = made.informations[: len(drawn)] - made.informations[: len(drawn)].mean()
    slopes = centred @ drawn / max(float(centred @ centred), 1e-12)
    residuals = drawn - drawn.mean(0) - centred[:, None] * slopes
    return _Misfit(np.array(ksg_ladder(*own, ladder)), drawn, residuals, ladder)


def _leading(rows: np.ndarray, dim_x: int, neighbours: int, random: np.random.Generator) -> _Misfit:
    """Check the copula of the two leading canonical pairs, found on one half of the samples, on the other half."""
    order = random.permutation(len(rows))
    first, second = order[: len(rows) // 2], order[len(rows) // 2 :]
    copula = fit(rows[first], dim_x).copula
    held_out = scores(len(rows))[ranks(rows)][second]
    pairs = min(2, dim_x, rows.shape[1] - dim_x)
    projected = np.hstack([part[:, :pairs] for part in copula.canonical(held_out)])
    fitted = fit(projected, pairs)
    made = _calibrate(fitted, len(second), random)
    return _misfit(_canonical(fitted.copula, projected), made, (neighbours,))


def ksg_ladder(x: Tensor, y: Tensor, ladder: tuple[int, ...]) -> list[float]:
    """Return KSG estimates (first variant) for several numbers of neighbours from one neighbour search, in nats."""
    both = torch.cat([x, y], 1)
    _, indices = search.nearest(both, max(ladder))
    distances = (both[:, None] - both[indices]).abs().amax(-1).sort(1).values  # (samples, neighbours)
    estimates = []
    for k in ladder:
        inside = [search.count_within(part, distances[:, k - 1].contiguous()).double() + 1 for part in (x, y)]
        psi = torch.special.digamma(torch.tensor([k, len(x)], dtype=torch.float64)).sum()
        estimates.append(float(psi - sum(torch.special.digamma(count).mean() for count in inside)))
    return estimates


def ceiling_of_neighbours(samples: int, neighbours: int) -> float:
    r"""Return the largest value KSG can give, $\psi(N) - \psi(k)$, in nats.

    >>> round(ceiling_of_neighbours(2000, 10), 2)
    5.35
    """
    return -float(torch.special.digamma(torch.tensor([samples, neighbours], dtype=torch.float64)).diff())


def _elliptical(fitted: Fit, made: Calibration, found: _Misfit, samples: int) -> Calibrated:
    """Take the copula's information, KSG having found nothing else."""
    truth, error = made.copula.information, found.deviation(np.ones(1))
    # A departure as large as KSG's own error, or as the one that was seen, is not excluded: the interval has it.
    departure = max(error, abs(float(found.beyond[0])))
    shown = float(np.clip(found.expected[0] / max(truth, 0.05), _BLIND, 1.0))
    because = (
        f"A {_name(fitted)} of {truth:.3f} nats explains KSG: {found.data[0]:.3f} on the data, "
        f"{found.expected[0]:.3f} +- {error:.3f} on {len(found.samples)} samples of it of the same size."
    )
    warnings = _near_ceiling(found.data[0], samples, found.ladder[0])
    return _of_copula(fitted, made, departure / shown, because, warnings)


def _near_ceiling(value: float, samples: int, neighbours: int) -> tuple[str, ...]:
    ceiling = ceiling_of_neighbours(samples, neighbours)
    if value <= 0.7 * ceiling:
        return ()
    return (
        f"KSG gives {value:.2f} of the {ceiling:.2f} nats that it can give at this size: x and y nearly determine "
        "each other, and KSG can tell little from more.",
    )


def _unchecked(fitted: Fit, made: Calibration, leading: _Misfit, shown: float) -> Calibrated:
    """Take the copula's information where KSG is too blind to contradict it, and say so."""
    difference, significant = float(leading.beyond[0]), leading.significant
    verdict = "disagree" if significant else "agree"
    warning = (
        f"KSG shows {max(shown, 0):.2f} of {made.copula.information:.2f} nats at this size, too little to check the "
        f"{_name(fitted)}: only its two leading canonical pairs were checked on held-out samples, and they {verdict} "
        f"with it (KSG {difference:+.3f} nats from expected). The interval holds if the copula is right."
    )
    because = f"At this size nothing else was left than a {_name(fitted)}; see the warning."
    return _of_copula(fitted, made, abs(difference) if significant else 0.0, because, (warning,))


def _of_copula(fitted: Fit, made: Calibration, departure: float, because: str, warnings: tuple[str, ...]) -> Calibrated:
    bias = float(made.informations.mean()) - made.copula.information
    value = fitted.information - bias
    margin = quantile(_FITS - 1, 0.975) * float(np.hypot(made.informations.std(ddof=1), departure))
    return Calibrated(value, around(value, [], margin), _name(fitted), because, bias, warnings, elliptical=True)


def _corrected(fitted: Fit, made: Calibration, found: _Misfit, shape: tuple[int, ...], own: np.ndarray) -> Calibrated:
    """Add what KSG finds beyond the copula; `own` (halves, ks) are the data's KSG values on random halves."""
    truth, (lowest, highest) = made.copula.information, (found.ladder[0], found.ladder[-1])
    ladder, place = np.array(found.ladder, dtype=float), len(found.ladder) // 2
    plain = np.eye(len(ladder))[place]
    values, reached, errors, leftover = [], [], [], []
    for power in (1 / shape[1], 2 / shape[1]):
        further = _at_zero(ladder, power) - plain
        step, noise = float(further @ found.beyond), _noise(found, own, further)
        # An extrapolation that noise could have made is held back (positive-part James and Stein).
        weights = plain + max(0.0, 1 - noise**2 / max(step**2, 1e-12)) * further
        reached.append(truth + float((plain + further) @ found.beyond))
        values.append(truth + float(weights @ found.beyond))
        errors.append(_noise(found, own, weights))
        leftover.append(float(weights @ found.expected) - truth)
    unextrapolated = truth + float(plain @ found.beyond)
    value, bias = max(float(np.mean(values)), min(unextrapolated, 0.0)), float(np.mean(leftover))
    # The copula's samples know how far the extrapolation goes wrong at this size; only what is alike cancels.
    margin = float(np.hypot(quantile(len(own) // 2, 0.975) * max(errors), bias))
    farthest = max(reached, key=lambda nats: abs(nats - unextrapolated))
    warnings = _near_ceiling(found.data[place], shape[0], found.ladder[place])
    if abs(farthest - unextrapolated) > 0.2 * abs(value):
        warnings += (
            f"Between {highest} ... {lowest} neighbours, extrapolated to none, and plain KSG lie "
            f"{farthest - unextrapolated:+.3f} of {value:.3f} nats: more samples or fewer columns are wanted.",
        )
    if abs(bias) > 0.2 * truth and abs(bias) > 0.2 * abs(value):
        warnings += (
            f"On samples of the fitted copula with {truth:.3f} nats, same size, the extrapolated KSG is "
            f"{bias:+.3f} off: more than 20 %.",
        )
    because = (
        f"A {_name(fitted)} of {truth:.3f} nats does not explain KSG ({found.data[place]:.3f} on the data, "
        f"{found.expected[place]:.3f} on samples of it): the difference was added, extrapolated to no neighbours."
    )
    return Calibrated(value, around(value, values + reached, margin), "corrected ksg", because, bias, warnings)


def around(value: float, others: list[float], margin: float) -> tuple[float, float]:
    """Return the range of a value and others with a margin at both ends, none of it below 0 but for the value itself.

    Information is not negative, an estimate of next to none may be.

    >>> around(0.5, [0.375], 0.25), around(-0.02, [], 0.01)
    ((0.125, 0.75), (-0.02, 0.0))
    """
    every = [value, *others]
    return min(max(0.0, min(every) - margin), value), max(0.0, max(every) + margin)


def _noise(found: _Misfit, own: np.ndarray, weights: np.ndarray) -> float:
    """Standard error of a weighted sum: the data's, from random halves, and that of the samples' mean."""
    data, samples = float(np.std(own @ weights, ddof=1)), float(np.std(found.residuals @ weights, ddof=2))
    return float(np.hypot(data, samples / np.sqrt(len(found.samples))))


def halves(
    x: Tensor, y: Tensor, estimator: Callable[[Tensor, Tensor], Any], count: int, random: np.random.Generator
) -> np.ndarray:
    """Return the estimates on `count` random halves drawn without replacement, in complementary pairs.

    The deviation between halves of one sample is that of the whole sample's estimate.
    """
    values = []
    for _ in range(-(-count // 2)):
        order = torch.from_numpy(random.permutation(len(x)))
        values += [estimator(x[part], y[part]) for part in (order[: len(x) // 2], order[len(x) // 2 :])]
    return np.array(values)


def _at_zero(ladder: np.ndarray, power: float) -> np.ndarray:
    """Give the weights of the least-squares line in k^power over the ladder, read at 0."""
    return np.linalg.pinv(np.stack([np.ones_like(ladder), ladder**power], 1))[0]


def _name(fitted: Fit) -> str:
    if np.isfinite(fitted.copula.freedom):
        return f"Student copula with {fitted.copula.freedom:.1f} degrees of freedom"
    return "Gaussian copula"


def quantile(freedom: int, level: float) -> float:
    """Return the quantile of Student's distribution."""
    from scipy.special import stdtrit  # imported here: it would double the package's import time

    return float(stdtrit(freedom, level))
