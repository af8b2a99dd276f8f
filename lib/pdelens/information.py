"""Mutual information with what is needed to believe it: null, interval, calibration bias and warnings."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import information_input as door
from .information_auto import Calibrated, calibrated, ceiling_of_neighbours, halves, quick
from .information_copulas import fit
from .information_methods import METHODS, Estimator, Method, known


@dataclass(frozen=True)
class Estimate:
    """A mutual information in nats and its circumstances; prints as one line, `float()` gives the value.

    `interval` is the 95 % interval, and includes the calibration `bias`: the mean of the same estimator less the
    truth on samples of a copula fitted to the data, same size (nan for quantities of their own: Renyi's, sliced and
    usable information). `auto` has its bias taken off already and says in `method` and `because` what it chose, why.
    `null_mean`, `null_std` and `p_value` come from `shuffles` shuffles of y among `null_samples` random samples,
    compared with the estimate on the same samples; `auto` and trained methods use a cheaper statistic there, in
    nats too (`information_auto.quick`, `information_methods.Method`). `ceiling` is the largest value that the method
    can report at this size, infinite where there is none.
    """

    value: float
    interval: tuple[float, float]
    null_mean: float
    null_std: float
    p_value: float
    method: str
    because: str
    bias: float
    ceiling: float
    samples: int
    dims: tuple[int, int]
    null_samples: int
    shuffles: int
    seconds: float
    warnings: tuple[str, ...]
    unit: str = "nats"

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        line = (
            f"{self.value:.3f} {self.unit}, 95 % in {self.interval[0]:.3f} ... {self.interval[1]:.3f}; "
            f"p = {self.p_value:.3g} (null {self.null_mean:.3f} +- {self.null_std:.3f}); {self.method}, "
            f"N = {self.samples}, {self.dims[0]} + {self.dims[1]} columns"
        )
        return "\n".join([line, *(f"  warning: {warning}" for warning in self.warnings)])


def mutual_information(
    x: Any, y: Any, method: str = "auto", *, neighbours: int = 10, shuffles: int = 100, seed: int = 0
) -> Estimate:
    r"""Return the mutual information I(X;Y) of paired samples with null, interval and warnings, in nats.

    `x` (samples, dx) or (samples,), `y` likewise; row i of both is one pair, rows are independent. `method` is
    `auto` (`information_auto`: an elliptical copula, and the nearest-neighbour estimate of what it misses,
    calibrated at the same samples and dims) or one of `information_methods.METHODS`: `ksg` and `ksg2` (on columns
    of unit variance), `gaussian`, `gaussian_copula`, `binned` (cells of equal counts, Miller-Madow), `kernel_density`,
    `renyi`, `info_nce`, `nwj`, `mine`, `probe` (usable information of a linear probe), `sliced`.

    The interval of a plain method is $v \pm t\,\sigma$, $\sigma$ the deviation over random halves drawn without
    replacement (for a mean it is that of the whole sample), stretched to one side by the calibration bias; `auto`
    states its own. Warnings: the bias passes 20 %, the value passes 70 % of the method's ceiling, ties, repeats.

    Raises ValueError for lengths that differ, too few samples for `neighbours`, NaN, constant columns, class
    labels given to a method that needs continuous values, and unknown methods. Cost: about 20 calls of the
    estimator; `auto` a few seconds at 2000 samples of 5 + 5 columns.

    >>> from pdelens.information_tasks import bivariate
    >>> found = mutual_information(*bivariate(0.75).sample(500, seed=1), method="gaussian", shuffles=20)
    >>> found.interval[0] < 0.4133 < found.interval[1], found.warnings
    (True, ())
    """
    started = time.perf_counter()
    known(method)
    if neighbours < 1 or shuffles < 1:
        raise ValueError(f"neighbours={neighbours} and shuffles={shuffles} were given: at least 1 of each is wanted.")
    x, y = door.pair(x, y, 2 * neighbours + 2, f"2 (neighbours + 1) with neighbours={neighbours}, for random halves")
    room = 2 * (x.shape[1] + y.shape[1]) + 6
    if len(x) < room:
        raise ValueError(
            f"{len(x)} samples of {x.shape[1]} + {y.shape[1]} columns were given: {room} are wanted, "
            "2 (dx + dy) + 6, to fit a copula to random halves; leave out columns or project them."
        )
    generator = torch.Generator().manual_seed(seed)
    notes: tuple[str, ...] = ()
    if method == "auto" or METHODS[method].continuous:
        x, y, notes = door.untied(x, y, generator)
    random = np.random.default_rng(seed)
    if method == "auto":
        chosen = Method(lambda *_: quick(neighbours), ceiling_of_neighbours, null_samples=500)
        found = calibrated(x, y, neighbours=neighbours, random=random)
        ceiling = math.inf if found.elliptical else ceiling_of_neighbours(len(x), neighbours)
    else:
        chosen = METHODS[method]
        ceiling = chosen.ceiling(len(x), neighbours)
        found = _plainly(x, y, method, neighbours, seed, random)
    null, p_value, used = _null(x, y, chosen, (neighbours, seed), shuffles, random)
    if found.value > 0.7 * ceiling:
        notes += (f"The value passes 70 % of what the method can report at this size ({ceiling:.2f} nats).",)
    notes += found.warnings
    return Estimate(
        found.value,
        found.interval,
        float(null.mean()),
        float(null.std(ddof=1)) if len(null) > 1 else 0.0,
        p_value,
        found.method,
        found.because,
        found.bias,
        ceiling,
        len(x),
        (x.shape[1], y.shape[1]),
        used,
        len(null),
        time.perf_counter() - started,
        notes,
    )


def calibration(
    x: Tensor, y: Tensor, estimator: Estimator, *, information: float | None = None, repeats: int = 4, seed: int = 0
) -> tuple[float, np.ndarray]:
    """Return the exact information of a copula fitted to x, y and what the estimator says on samples of it.

    The samples have the data's number, columns and dependence within x and within y
    (`information_copulas.Copula.like`); the dependence across is the fitted one, raised to `information` nats
    where that is more. Returns nats and (repeats,) nats.
    """
    return _calibration(x, y, estimator, information, repeats, np.random.default_rng(seed))


def _calibration(x, y, estimator, information, repeats, random) -> tuple[float, np.ndarray]:
    rows, dim_x = torch.cat([x, y], 1).numpy(), x.shape[1]
    fitted = fit(rows, dim_x)
    copula = fitted.copula.with_information(max(fitted.information, information or 0.0, 0.0))
    drawn = (torch.from_numpy(copula.like(rows, random)) for _ in range(repeats))
    return copula.information, np.array([estimator(both[:, :dim_x], both[:, dim_x:]) for both in drawn])


def _plainly(x, y, method: str, neighbours: int, seed: int, random: np.random.Generator) -> Calibrated:
    from scipy.special import stdtrit  # imported here: it would double the package's import time

    chosen = METHODS[method]
    estimator = chosen.make(neighbours, seed)
    value = estimator(x, y)
    # A half has twice the variance of the whole, and half of that is between halves of one sample.
    spread = float(np.std(halves(x, y, estimator, chosen.halves, random), ddof=1))
    margin = float(stdtrit(max(chosen.halves // 2, 1), 0.975)) * spread
    if not chosen.repeats:
        interval = (max(0.0, value - margin), max(0.0, value + margin))
        because = "It was asked for by name. It is a quantity of its own, so that no bias is stated."
        return Calibrated(value, interval, method, because, math.nan, ())
    truth, drawn = _calibration(x, y, estimator, value, chosen.repeats, random)
    bias = float(drawn.mean()) - truth
    interval = (max(0.0, min(value, value - bias) - margin), max(0.0, max(value, value - bias) + margin))
    notes = ()
    # At independence the truth is next to nothing, and noise would pass 20 % of it.
    if abs(bias) > max(0.2 * truth, 3 * spread / chosen.repeats**0.5):
        notes = (
            f"On samples of a fitted copula with {truth:.3f} nats, same size, the method's bias is "
            f"{bias:+.3f}: more than 20 %.",
        )
    return Calibrated(value, interval, method, "It was asked for by name.", bias, notes)


def _null(x, y, chosen: Method, settings: tuple[int, int], shuffles: int, random: np.random.Generator):
    """Give the estimates with y shuffled, the p-value, and how many samples both used."""
    used = min(len(x), max(chosen.null_samples, 4 * (x.shape[1] + y.shape[1])))
    part = torch.from_numpy(random.permutation(len(x))[:used])
    x, y = x[part], y[part]
    estimator = (chosen.quick or chosen.make)(*settings)
    observed = estimator(x, y)
    count = min(shuffles, chosen.shuffles)
    null = np.array([estimator(x, y[torch.from_numpy(random.permutation(used))]) for _ in range(count)])
    return null, float((1 + (null >= observed).sum()) / (1 + count)), used
