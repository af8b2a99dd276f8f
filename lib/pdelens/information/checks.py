"""What an estimator of mutual information must do on anybody's data, checked on the data at hand."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import _doors
from .auto import halves
from .estimate import calibration
from .methods import Estimator, chosen
from .samples import pair, untied


class Check(NamedTuple):
    """One property: the nats that it demands, those that were found, the error that sampling allows, the verdict."""

    name: str
    wanted: float
    found: float
    allowed: float
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Report:
    """A value in nats, its deviation over random halves, the checks, and warnings where a limit is passed."""

    method: str
    value: float
    deviation: float
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    def __getitem__(self, name: str) -> Check:
        return {check.name: check for check in self.checks}[name]

    def __str__(self) -> str:
        lines = [f"{self.method}: {self.value:.3f} +- {self.deviation:.3f} nats"]
        for check in self.checks:
            verdict = "passed" if check.passed else "FAILED"
            lines.append(f"  {check.name}: {verdict}, {check.found:.3f} found, {check.sentence}")
        return "\n".join([*lines, *(f"  warning: {warning}" for warning in self.warnings)])


def check_estimator(x: Any, y: Any, method: str = "auto", *, neighbours: int = 10, seed: int = 0) -> Report:
    r"""Return how a method keeps the laws of mutual information on these samples, and its bias at their size.

    - *invariance*: $I(f(X); g(Y)) = I(X; Y)$; every column is standardised and mapped by $z\sqrt{|z|}$.
    - *processing*: $I(X + \text{noise}; Y) \le I(X; Y)$; normal noise of 1/2, 1 and 2 deviations is added, one to
      the other, and no step may raise the value. The inequality is a theorem: it checks the estimator.
    - *additivity*: two halves of the samples are independent, so side by side, as columns, they have the sum of
      their values (Song and Ermon 2020).
    - *calibration*: on samples of a copula fitted to the data, same size and columns, the exact value is known.

    A check is passed within 20 % of the value, or within three deviations, taken from random halves. Warnings: the
    calibration bias passes 20 %; the value passes 70 % of the method's ceiling. Arguments and ValueErrors as in
    `estimate.mutual_information`. Cost: about 20 calls of the estimator. Source: the three self-consistency tests of
    Song and Ermon 2020, "Understanding the limitations of variational mutual information estimators", which use
    pictures; here they run on the data in question.

    >>> from pdelens.information.tasks import bivariate
    >>> report = check_estimator(*bivariate(0.75).sample(400, seed=0), "gaussian")
    >>> [check.name for check in report.checks if check.passed], report.warnings
    (['invariance', 'processing', 'additivity', 'calibration'], ())
    """
    plan = chosen(method)
    if plan.classes:
        raise ValueError(f"method={method!r} takes class labels, which no map may bend: it has no such checks.")
    _doors.whole("neighbours", neighbours)
    _doors.whole("seed", seed, 0)
    estimator = plan.make(neighbours, seed)
    x, y = pair(x, y, 4 * neighbours + 4, f"4 (neighbours + 1) with neighbours={neighbours}, for random halves")
    generator, random = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    notes: tuple[str, ...] = ()
    if plan.continuous:
        x, y, notes = untied(x, y, generator)
    value = estimator(x, y)
    deviation = float(halves(x, y, estimator, 6, random).std(ddof=1))
    bent = estimator(_bent(x), _bent(y))
    invariance = _verdict("invariance", value, bent, deviation, f"{value:.3f} before a rising map of every column")
    processing = _processing(x, y, estimator, value, deviation, generator)
    additivity = _additivity(x, y, estimator, deviation, random)
    truth, drawn = calibration(x, y, estimator, information=value, repeats=4, seed=seed)
    exact = f"{truth:.3f} exact, on samples of a fitted copula"
    calibrated = _verdict("calibration", truth, float(drawn.mean()), deviation / 2, exact)
    ceiling = plan.ceiling(len(x), neighbours)
    if value > 0.7 * ceiling:
        notes += (f"The value passes 70 % of the method's ceiling at this size, {ceiling:.2f} nats.",)
    if not calibrated.passed:
        notes += (f"The calibration bias is {calibrated.found - truth:+.3f} nats: more than 20 %.",)
    return Report(method, value, deviation, (invariance, processing, additivity, calibrated), notes)


def _verdict(name: str, wanted: float, found: float, deviation: float, sentence: str) -> Check:
    allowed = max(0.2 * abs(wanted), 3 * deviation)
    return Check(name, wanted, found, allowed, abs(found - wanted) <= allowed, sentence)


def _bent(values: Tensor) -> Tensor:
    standard = (values - values.mean(0)) / values.std(0)
    return standard * standard.abs().sqrt()


def _processing(
    x: Tensor, y: Tensor, estimator: Estimator, value: float, deviation: float, generator: torch.Generator
) -> Check:
    values, noisy, before = [value], x, 0.0
    for level in (0.5, 1.0, 2.0):
        added = (level**2 - before**2) ** 0.5 * x.std(0)
        noisy = noisy + added * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        values.append(estimator(noisy, y))
        before = level
    rise = max(after - earlier for earlier, after in pairwise(values))
    allowed = max(0.2 * abs(value), 3 * deviation)
    sentence = "the largest rise as noise is added to x: " + _listed(values)
    return Check("processing", 0.0, rise, allowed, rise <= allowed, sentence)


def _additivity(x: Tensor, y: Tensor, estimator: Estimator, deviation: float, random: np.random.Generator) -> Check:
    first, second = torch.from_numpy(random.permutation(len(x)))[: len(x) // 2 * 2].chunk(2)
    apart = [estimator(x[part], y[part]) for part in (first, second)]
    together = estimator(torch.cat([x[first], x[second]], 1), torch.cat([y[first], y[second]], 1))
    # A half deviates by sqrt 2 of the whole, two independent halves by 2, their joint value by as much.
    sentence = f"two halves side by side; apart they have {_listed(apart)}"
    return _verdict("additivity", sum(apart), together, 2 * deviation, sentence)


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
