"""How the ladder of laws stands: what each law reaches at each budget, over seeds, and what crossing a bar costs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pdelens.agreement.report import TESTABLE, pooled_skill

from ..seeds import SeedMean, over_seeds
from . import results
from .crossing import PowerLaw, gained, power_law
from .laws import FAMILY
from .store import NULLS, law_records

# What is read of a record, at one step a layer and converged: the worst layer's, or depth's.
COSINE, R2, CHANNELS, SKILL, CLASSES = "cosine", "r2 pooled", "r2 mean over channels", "pooled skill", "classes"


def records_of(teacher: str, name: str, budget: int) -> dict[int, dict[str, Any]]:
    """Return a law's records by seed; `teacher` as in "image-patch4", `name` as in `laws.EQUATIONS`."""
    return results.by_seed(law_records()["rungs"], teacher, f"{FAMILY}{name}-b{budget}")


def budgets_of(teacher: str, name: str, seed: int = 0) -> list[int]:
    """Return the budgets at which a law of one seed has been calibrated, the smallest first."""
    start, end = f"rung-{teacher}-{FAMILY}{name}-b", f"-seed{seed}"
    rows = law_records()["rungs"]
    found = (key.removeprefix(start).removesuffix(end) for key in rows if key.startswith(start) and key.endswith(end))
    return sorted(int(budget) for budget in found if budget.isdigit())


def best_null(teacher: str) -> np.ndarray:
    """Return the best null's cosine of each layer and head of a teacher with its seed, (layers, heads)."""
    return np.max([np.asarray(values) for values in law_records()[NULLS][teacher]["attention"].values()], axis=0)


def value(about: Mapping[str, Any], resolution: str, measure: str) -> float:
    """Return one number of a record: the mean over heads and examples, then the worst layer or depth.

    `pooled skill` is against the best null of each head. nan where the solution diverged.
    """
    evaluated = about["judged"][resolution]
    if "diverged" in evaluated:
        return float("nan")
    if measure == SKILL:
        return float(pooled_skill(evaluated["cosine"], best_null(about["made"]["subject"])).min())
    numbers = np.asarray(evaluated[measure], dtype=float)
    return float(numbers.mean(-1).min() if numbers.ndim == 2 else numbers.min())


def seed_mean(teacher: str, name: str, budget: int, measure: str = COSINE, resolution: str = "converged") -> SeedMean:
    """Return a measure of a law over its seeds, with its interval."""
    return over_seeds([value(about, resolution, measure) for about in records_of(teacher, name, budget).values()])


def misses(teacher: str, name: str, resolution: str = "converged", seed: int = 0) -> dict[float, float]:
    """Return what one seed's attention lacks, `1 - cosine` at the worst layer, by right-hand sides times examples."""
    found = {}
    for budget in budgets_of(teacher, name, seed):
        about = records_of(teacher, name, budget)[seed]
        found[float(about["made"]["right-hand sides"])] = 1 - value(about, resolution, COSINE)
    return found


class Crossing(NamedTuple):
    """Where a learning curve crosses a bar: the law it follows, the budget needed, what the last doubling gained.

    `hours` are those of one core that the needed budget takes at the pace of the longest calibration, with an interval.
    """

    curve: PowerLaw
    needed: float
    interval: tuple[float, float]
    gained: float
    hours: float
    hours_interval: tuple[float, float]


def crossing(teacher: str, name: str, bar: float = 0.98, resolution: str = "converged") -> Crossing:
    """Return at which budget a law's attention would clear a bar, by the power law that its own curve follows.

    Of seed 0; at the bar itself or beyond it, the budget needed is one that was tried or less.
    """
    found = misses(teacher, name, resolution)
    curve = power_law(found)
    needed, (low, high) = curve.needed(1 - bar)
    longest = records_of(teacher, name, budgets_of(teacher, name)[-1])[0]["made"]
    pace = longest["seconds"] / longest["right-hand sides"] / 3600
    gain = last_gain(teacher, name, COSINE, resolution)
    return Crossing(curve, needed, (low, high), gain, pace * needed, (pace * low, pace * high))


def last_gain(teacher: str, name: str, measure: str = COSINE, resolution: str = "converged") -> float:
    """Return the share of what is missing to 1 that the last doubling of seed 0's budget gained.

    1, the most there is, where only one budget was tried: nothing then says that the curve is flat.
    """
    missing = {
        float(budget): 1 - value(records_of(teacher, name, budget)[0], resolution, measure)
        for budget in budgets_of(teacher, name)
    }
    doubled = {b: miss for b, miss in missing.items() if 2 * b in missing or b / 2 in missing}
    return gained(doubled) if len(doubled) > 1 else 1.0


def unresolved(about: Mapping[str, Any]) -> float:
    """Return how far the attention of the calibration's own steps, halved once, is from the converged solution's.

    The largest difference of a layer's cosine: below .001 the calibration saw the equation and not its scheme.
    """
    converged = np.asarray(about["judged"]["converged"]["cosine"]).mean(-1)
    return float(np.abs(np.asarray(about["own steps"][-1]) - converged).max())


def untestable(teacher: str) -> list[str]:
    """Return the heads of a teacher that can carry no test, such as "2.1" (from 1): their best null is above .95."""
    found = np.argwhere(best_null(teacher) > TESTABLE)
    return [f"{layer + 1}.{head + 1}" for layer, head in found.tolist()]
