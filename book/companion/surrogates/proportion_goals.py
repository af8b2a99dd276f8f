"""The book's own goals for the equations, and the verdict on each."""

from typing import NamedTuple

from ..claims.verdicts import Evidence, Verdict, verdict
from ..seeds import SeedMean
from .proportion_ladder import SKILL, gained, measured
from .specs import TEACHERS


class Goal(NamedTuple):
    """One goal: what is measured of which equation, stepped how, and what is wanted of it."""

    what: str
    family: str
    wanted: float
    measure: str = "cosine"
    resolution: str = "converged"

    @property
    def modes(self) -> str:
        """How many modes in depth-time the equation may have."""
        return "up to 3" if "k3" in self.family else "1"


GOALS = (
    Goal("cosine, one step a layer", "full-k1-one-step", 0.985, resolution="1"),
    Goal("cosine, one step a layer", "full-k3-one-step", 0.995, resolution="1"),
    Goal("cosine", "full-k1", 0.98),
    Goal("cosine", "full-k3", 0.99),
    Goal("worst head", "full-k1", 0.95, "worst head"),
    Goal("worst head", "full-k3", 0.98, "worst head"),
    Goal("centred cosine", "full-k1", 0.94, "centred cosine"),
    Goal("centred cosine", "full-k3", 0.97, "centred cosine"),
    Goal(SKILL, "full-k1", 0.9, SKILL),
    Goal(SKILL, "full-k3", 0.9, SKILL),
    Goal("R2 mean over channels", "full-k1", 0.96, "r2"),
    Goal("R2 mean over channels", "full-k3", 0.98, "r2"),
    Goal("classes", "full-k1", 0.96, "classes"),
    Goal("classes, logits asked for", "full-k1-logits", 0.99, "classes"),
    Goal("cosine, states alone asked for", "full-k1-states", 0.95),
)
PRETRAINED_GOALS = (
    Goal("cosine, one step a layer", "full-k3-one-step", 0.98, resolution="1"),
    Goal("cosine", "full-k3", 0.95),
)


def reached(goal: Goal, teacher: str) -> SeedMean:
    """Return what an equation of a teacher (`specs.TEACHERS`, or "minilm") reached of a goal, over its seeds."""
    return measured(teacher, goal.family, goal.measure, goal.resolution)


def judged(goal: Goal, teachers: tuple[str, ...] = tuple(TEACHERS.values())) -> Verdict:
    """Return the verdict on a goal over teachers, as the book's claims are judged (`claims.verdicts.verdict`).

    A goal names its number alone, so no null is held against it. Missed, it is undecided as long as a doubling of the
    calibration gains a tenth of what is missing, or as nothing says that it would not.
    """
    evidence = {}
    for teacher in teachers:
        found = reached(goal, teacher)
        left = gained(teacher, goal.family, goal.measure, goal.resolution)
        evidence[teacher] = Evidence(found.low, skill=1.0, seeds=found.interval is not None, gained=left)
    return verdict(evidence, goal.wanted)
