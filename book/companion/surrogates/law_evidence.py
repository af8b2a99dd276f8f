"""What the ladder of laws has to show for a claim: numbers over seeds, the last doubling's gain, what survives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pdelens.agreement.report import pooled_skill, skill

from ..claims.verdicts import Evidence, Verdict, verdict
from ..records import record
from ..seeds import SeedMean, over_seeds, record_mean
from . import ladder, results, solution_verdicts
from .laws import MAIN_BUDGET
from .store import NULLS, law_records

# The teacher's own architecture learnt anew, one step a layer: what any student reaches at the same budget.
CONTROL = "blocks"
# Calibrated with one step a layer, of the sweep: the agreement that the equation's solution should keep.
STEPPED = "full-k1-one-step"


@dataclass(frozen=True)
class Standing:
    """One law of one teacher before a claim: its number, its skill over nulls, its budget's last gain, the control."""

    number: SeedMean
    skill: SeedMean
    gained: float
    control: float

    @property
    def evidence(self) -> Evidence:
        """What a verdict reads."""
        several = len(self.number.seeds) > 1
        return Evidence(self.number.low, self.skill.low, None, several, self.gained, self.control)


def null_states(subject: str) -> np.ndarray:
    """Return pooled R2, by depth from 1, of the best null that sees the embedding alone."""
    return results.best_blind(law_records()[NULLS][subject]["states pooled"])


def state_skill(about: Mapping[str, Any], resolution: str = "converged") -> float:
    """Return the share of the best state null's shortfall that a law makes up, at the worst depth; nan if diverged."""
    found = about["judged"][resolution]
    if "diverged" in found:
        return float("nan")
    return float(skill(found[ladder.R2], null_states(about["made"]["subject"])).min())


def stepped(teacher: str) -> Standing:
    """Return how the field calibrated with one step a layer stands in attention, run so: what the abstract reads like.

    Its learning curve has two lengths, three times apart; what a doubling gains is taken from a power law through both.
    """
    curve = solution_verdicts.learning_curve(teacher, STEPPED, "cosine", "1")
    known, skills = law_records()[NULLS], []
    for about in results.records_of(teacher, STEPPED).values():
        subject = about["made"]["subject"]
        if subject in known:
            skills.append(float(pooled_skill(about["judged"]["1"]["cosine"], ladder.best_null(subject)).min()))
    return Standing(
        results.seed_mean(teacher, STEPPED, "cosine", "1"),
        over_seeds(skills),
        solution_verdicts.gained(curve),
        _control(teacher, MAIN_BUDGET, ladder.COSINE),
    )


def _control(teacher: str, budget: int, measure: str) -> float:
    """Return what the control has at a budget, or at the longest that is shorter: it would have no less at this one."""
    there = [one for one in ladder.budgets_of(teacher, CONTROL) if one <= budget]
    return ladder.value(ladder.records_of(teacher, CONTROL, there[-1])[0], "1", measure) if there else float("nan")


def survives(teacher: str, name: str, budget: int, resolution: str = "converged") -> SeedMean:
    """Return how much of the one-step agreement a law's solution keeps, over the seeds that have both.

    The excess over the best nulls, summed over a layer's heads, of the solution over that of the field calibrated with
    one step a layer: `sum(c - c_null) / sum(c_1 - c_null)` at the worst layer. 1 keeps all, 0 is no better than nulls.
    """
    once, found = results.records_of(teacher, STEPPED), []
    for seed, about in ladder.records_of(teacher, name, budget).items():
        cosine = about["judged"][resolution].get("cosine")
        if seed not in once or cosine is None:
            continue
        null = ladder.best_null(about["made"]["subject"])
        whole = np.asarray(once[seed]["judged"]["1"]["cosine"]) - null
        found.append(float(((np.asarray(cosine) - null).sum(-1) / whole.sum(-1)).min()))
    return over_seeds(found)


def standing(teacher: str, name: str, budget: int, measure: str = ladder.COSINE, way: str = "converged") -> Standing:
    """Return how a law stands in attention (`ladder.COSINE`) or states (`ladder.R2`) at one budget."""
    rows = ladder.records_of(teacher, name, budget).values()
    skills = [state_skill(row, way) if measure == ladder.R2 else ladder.value(row, way, ladder.SKILL) for row in rows]
    return Standing(
        ladder.seed_mean(teacher, name, budget, measure, way),
        over_seeds(skills),
        ladder.last_gain(teacher, name, measure, way),
        _control(teacher, budget, measure),
    )


def survival(teacher: str, name: str, budget: int) -> Standing:
    """Return how a law stands before the claim of a continuous process: its number is what `survives`.

    The control's number is how much of the same one-step agreement the teacher's own architecture has, as a network.
    """
    attention = standing(teacher, name, budget)
    control = survives(teacher, CONTROL, budget, "1").mean
    return Standing(survives(teacher, name, budget), attention.skill, attention.gained, control)


def null_mean(teacher: str, budget: int) -> SeedMean:
    """Return the best state null's pooled R2 at its worst depth, over the seeds of one law."""
    return over_seeds(
        [float(null_states(f"{teacher}-seed{seed}").min()) for seed in ladder.records_of(teacher, "k1", budget)]
    )


def recorded_for(key: str, found: Standing) -> None:
    """Record what a claim of the register reads: the number, its skill, the last gain, the control."""
    record_mean(key, found.number)
    record_mean(f"{key}.skill", found.skill)
    record(f"{key}.gained", found.gained, unit="1", atol=0, rtol=1e-6)
    record(f"{key}.control", found.control, unit="1", atol=0, rtol=1e-6)


def judged(teachers: Mapping[str, str], name: str, budget: int, measure: str, bar: float) -> Verdict:
    """Return the verdict that a law earns at a bar; `teachers` by modality."""
    return verdict({m: standing(teacher, name, budget, measure).evidence for m, teacher in teachers.items()}, bar)
