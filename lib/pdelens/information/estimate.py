"""Mutual information with what is needed to believe it: null, interval, calibration bias and warnings."""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _doors
from .auto import Calibrated, around, calibrated, halves, quantile
from .copulas import fit
from .labelled import labelled
from .methods import Estimator, Method, chosen
from .samples import pair, serial, untied


@dataclass(frozen=True)
class Estimate:
    """A mutual information in nats and its circumstances; prints as one line, `float()` gives the value.

    `interval` is the 95 % interval, and includes the calibration `bias`: the mean of the same estimator less the
    truth on samples of a copula fitted to the data, same size (nan for quantities of their own: Renyi's, sliced and
    usable information). `auto` has its bias taken off already and says in `method` and `because` what it chose, why.
    `null_mean`, `null_std` and `p_value` come from `shuffles` shuffles of y among `null_samples` random samples,
    compared with the estimate on the same samples; `auto` and trained methods use a cheaper statistic there, in nats
    too (`auto.quick`, `methods.Method`). `ceiling` is the largest value that the method can report, or infinite.

    >>> from pdelens.information.tasks import bivariate
    >>> found = mutual_information(*bivariate(0.75).sample(300, seed=1), method="gaussian", shuffles=9)
    >>> 0.2 < float(found) < 0.6, found.dims, found.samples
    (True, (1, 1), 300)
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
    x: Any,
    y: Any,
    method: str = "auto",
    *,
    labels: bool | None = None,
    neighbours: int = 10,
    shuffles: int = 100,
    seed: int = 0,
) -> Estimate:
    r"""Return the mutual information I(X;Y) of paired samples with null, interval and warnings, in nats.

    `x` (samples, dx) or (samples,), `y` likewise; row i of both is one pair, rows are independent. `method` is `auto`
    (an elliptical copula, and the nearest-neighbour estimate of what it misses, calibrated at the same samples and
    dims) or one of `methods.METHODS`: `ksg` and `ksg2` (on columns of unit variance), `class_ksg` (the same for
    class labels y), `gaussian`, `gaussian_copula`, `binned` (cells of equal counts, Miller-Madow), `kernel_density`,
    `renyi`, `info_nce`, `nwj`, `mine`, `probe` (usable information of a linear probe), `sliced`. `labels` says what
    whole numbers are: class labels, whose order means nothing (True), or counts, ages, scores (False). If not given, up
    to 20 different ones that come ten times or more each are taken for labels; `probe` takes any number of them so.

    The interval of a plain method is $v \pm t\,\sigma$, $\sigma$ the deviation over random halves drawn without
    replacement (for a mean it is that of the whole sample), stretched to one side by the calibration bias; `auto`
    states its own. Warnings: the bias passes 20 %, the value passes 70 % of the method's ceiling, ties, repeats, rows
    that follow one another (a time series). Raises ValueError for lengths that differ, too few samples for
    `neighbours`, NaN, constant columns, class labels given to a method that needs continuous values, and unknown
    methods. Cost: about 20 calls of the estimator; `auto` a few seconds at 2000 samples of 5 + 5 columns.

    >>> from pdelens.information.tasks import bivariate
    >>> found = mutual_information(*bivariate(0.75).sample(500, seed=1), method="gaussian", shuffles=20)
    >>> found.interval[0] < 0.4133 < found.interval[1], found.warnings
    (True, ())
    """
    started = time.perf_counter()
    plan = chosen(method, labels)
    _refuse_nonsense(labels, neighbours, shuffles, seed)
    x, y, notes = _admitted(x, y, plan, neighbours, seed, labels)
    random = np.random.default_rng(seed)
    if method == "auto":
        found = calibrated(x, y, neighbours=neighbours, random=random)
    else:
        found = _plainly(x, y, method, plan, plan.make(neighbours, seed), random)
    statistic = (plan.quick or plan.make)(neighbours, seed)
    null, p_value, used = _null(x, y, plan, statistic, shuffles, random)
    ceiling = math.inf if found.elliptical else plan.ceiling(len(x), neighbours)
    notes += _near(found.value, ceiling) + serial(x, y)
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
        notes + found.warnings,
    )


def _near(value: float, ceiling: float) -> tuple[str, ...]:
    if value <= 0.7 * ceiling:
        return ()
    return (f"The value passes 70 % of what the method can report at this size ({ceiling:.2f} nats).",)


def _refuse_nonsense(labels: Any, neighbours: Any, shuffles: Any, seed: Any) -> None:
    for name, count, least in (("neighbours", neighbours, 1), ("shuffles", shuffles, 1), ("seed", seed, 0)):
        _doors.whole(name, count, least)
    if not (labels is None or isinstance(labels, bool)):
        raise ValueError(f"labels={labels!r} was given: True, False or None is wanted.")


def _admitted(
    x: Any, y: Any, plan: Method, neighbours: int, seed: int, labels: bool | None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return what was given as paired samples without ties, and what was done to them; refuse what can't be used."""
    x, y = pair(x, y, 2 * neighbours + 2, f"2 (neighbours + 1) with neighbours={neighbours}, for random halves")
    room = 2 * (x.shape[1] + y.shape[1]) + 6
    if len(x) < room:
        raise ValueError(
            f"{len(x)} samples of {x.shape[1]} + {y.shape[1]} columns were given: {room} are wanted, "
            "2 (dx + dy) + 6, to fit a copula to random halves; leave out columns or project them."
        )
    generator = torch.Generator().manual_seed(seed)
    if plan.classes:
        x, _, notes = untied(x, x[:, :0], generator, labels=False)
        return x, y, notes
    return untied(x, y, generator, labels) if plan.continuous else (x, y, ())


def calibration(
    x: Tensor,
    y: Tensor,
    estimator: Estimator,
    *,
    information: float | None = None,
    repeats: int = 4,
    seed: int | np.random.Generator = 0,
    continuous: bool = True,
) -> tuple[float, np.ndarray]:
    """Return the exact information of a copula fitted to x, y and what the estimator says on samples of it.

    The samples have the data's number, columns and dependence within x and within y (`copulas.Copula.like`); the
    dependence across is the fitted one, raised to `information` nats where that is more. Both in nats, the second
    (repeats,). Where they need not be `continuous`, classes keep to their values, and their model stands in for the
    copula (`labelled.Labelled`).
    """
    random = np.random.default_rng(seed)
    classes = None if continuous else labelled(x, y, random)
    if classes is not None:
        return classes.information, np.array([estimator(*classes.sample(len(x), random)) for _ in range(repeats)])
    rows, dim_x = torch.cat([x, y], 1).numpy(), x.shape[1]
    fitted = fit(rows, dim_x)
    copula = fitted.copula.with_information(max(fitted.information, information or 0.0, 0.0))
    drawn = (torch.from_numpy(copula.like(rows, random)) for _ in range(repeats))
    return copula.information, np.array([estimator(both[:, :dim_x], both[:, dim_x:]) for both in drawn])


def _plainly(
    x: Tensor, y: Tensor, method: str, plan: Method, estimator: Estimator, random: np.random.Generator
) -> Calibrated:
    value = estimator(x, y)
    # A half has twice the variance of the whole, and half of that is between halves of one sample.
    spread = float(np.std(halves(x, y, estimator, plan.halves, random), ddof=1))
    margin = quantile(max(plan.halves // 2, 1), 0.975) * spread
    if not plan.repeats:
        because = "It was asked for by name. It is a quantity of its own, so that no bias is stated."
        return Calibrated(value, around(value, [], margin), method, because, math.nan, ())
    settings: dict[str, Any] = {"repeats": plan.repeats, "seed": random, "continuous": plan.continuous}
    truth, drawn = calibration(x, y, estimator, information=value, **settings)
    bias = float(drawn.mean()) - truth
    notes = ()
    # At independence the truth is next to nothing, and noise would pass 20 % of it.
    if abs(bias) > max(0.2 * truth, 3 * spread / plan.repeats**0.5):
        notes = (
            f"On samples of a fitted model with {truth:.3f} nats, same size, the method's bias is "
            f"{bias:+.3f}: more than 20 %.",
        )
    interval = around(value, [value - bias], margin)
    return Calibrated(value, interval, method, "It was asked for by name.", bias, notes)


def _null(x: Tensor, y: Tensor, plan: Method, statistic: Estimator, shuffles: int, random: np.random.Generator):
    """Give the estimates with y shuffled, the p-value, and how many samples both used."""
    used = min(len(x), max(plan.null_samples, 4 * (x.shape[1] + y.shape[1])))
    part = torch.from_numpy(random.permutation(len(x))[:used])
    x, y = x[part], y[part]
    observed = statistic(x, y)
    count = min(shuffles, plan.shuffles)
    null = np.array([statistic(x, y[torch.from_numpy(random.permutation(used))]) for _ in range(count)])
    return null, float((1 + (null >= observed).sum()) / (1 + count)), used
