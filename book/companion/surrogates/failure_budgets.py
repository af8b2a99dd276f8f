"""Fails, or too short: what equations miss of a teacher's states by how long they were calibrated, and the verdict."""

from collections.abc import Mapping

from ..claims.verdicts import Evidence, Verdict, verdict
from ..seeds import SeedMean, over_seeds
from . import ladder, results
from .schedules import right_hand_sides
from .solution_verdicts import gained, learning_curve
from .specs import TEACHERS

# Equations calibrated at equal budgets (`laws`), and at how many of the smallest one.
LAWS = {"k1": "one law, K = 1", "k3": "three laws, K = 3", "blocks": "own layers, one step each"}
BUDGETS = (1, 2)
# In which norm a share of variance is taken: squares summed over channels first, or channel by channel and averaged.
NORMS = {"pooled": ladder.R2, "each channel alike": ladder.CHANNELS}
_CONTROL = "blocks"


def missed_at(teacher: str, name: str, budget: int, norm: str = "pooled") -> SeedMean:
    """Return the share of the states' variance that a law misses at the worst depth, over the seeds that are there.

    Converged; the teacher's own layers at the one step each that they are calibrated with. `name` as in `LAWS`,
    `norm` as in `NORMS`.
    """
    resolution = "1" if name == _CONTROL else "converged"
    found = ladder.seed_mean(teacher, name, budget, NORMS[norm], resolution).seeds
    return over_seeds([1 - value for value in found])


def spent(teacher: str, name: str, budget: int) -> float:
    """Return the right-hand sides times examples that a law's calibration took, of whichever seed is there."""
    about = next(iter(ladder.records_of(teacher, name, budget).values()))
    return float(about["made"]["right-hand sides"])


def sides_of(teacher: str, family: str = "full-k1") -> float:
    """Return the right-hand sides times examples that an equation of the sweep took (`spent`, seed 0)."""
    about = results.records_of(teacher, family)[0]
    plan = about["made"]["plan"]
    return right_hand_sides(plan, len(about["judged"]["converged"]["r2"])) * plan["steps"] * plan["batch"]


def missed_by_steps(teacher: str, family: str = "full-k1") -> dict[int, float]:
    """Return what seed 0 misses, converged, at the worst depth, by optimiser steps; each channel alike."""
    return {steps: 1 - value for steps, value in learning_curve(teacher, family, "r2").items()}


def last_doubling(teacher: str, family: str = "full-k1") -> float:
    """Return the share of what was missed that the last doubling of the steps gained; 1 where one length was tried."""
    return gained(learning_curve(teacher, family, "r2"))


def control(teacher: str, norm: str = "pooled") -> float:
    """Return what the teacher's own layers, learnt anew at the smallest budget, miss: what any student may hope for."""
    return missed_at(teacher, _CONTROL, min(BUDGETS), norm).mean


def missed(teacher: str, family: str) -> SeedMean:
    """Return what an equation of the sweep misses, converged, at the worst depth, over seeds; each channel alike."""
    return over_seeds([1 - value for value in results.seed_mean(teacher, family, "r2").seeds])


def judged(
    found: Mapping[str, tuple[SeedMean, SeedMean]],
    bar: float,
    norm: str = "pooled",
    family: str = "full-k1",
    budget: bool = True,
) -> Verdict:
    """Return the verdict on a limit from what is missed and the selectivity, by modality.

    One number without an interval earns a part at most. With `budget`, a number counts only where the learning curve
    of `family` is flat and the teacher's own layers stay below the bar.
    """
    evidence = {}
    for modality, (share, selectivity) in found.items():
        teacher, several = TEACHERS[modality], share.interval is not None
        binds = {"gained": last_doubling(teacher, family), "control": control(teacher, norm)} if budget else {}
        evidence[modality] = Evidence(share.low, selectivity.low, seeds=several, **binds)
    return verdict(evidence, bar, limit=True)
