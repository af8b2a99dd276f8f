"""What a claim about solutions has to show: numbers over seeds, skill, and whether a longer calibration would help."""

from collections.abc import Mapping
from dataclasses import replace
from math import log
from typing import Any

import numpy as np

from ..claims.register import COSINE, R2
from ..claims.verdicts import Claim, Evidence, Verdict, verdict
from ..seeds import SeedMean, over_seeds
from . import comparison_nulls, results
from .specs import LONG, ONE_STEP_ENDING, SHORT, TEACHERS

# What a claim reads of a judged equation, and what stands beside the number.
PARTS = {"c2b": ("cosine", "skill", "head mean"), "c2": ("r2", "state skill")}
# The teacher's own architecture, with diffusion, learnt anew with one step a layer: what any student may hope for.
CONTROL = f"unshared{ONE_STEP_ENDING}"


def evidence(claim: str, family: str, resolution: str = "converged") -> dict[str, dict[str, SeedMean]]:
    """Return by modality what an equation has to show for a claim: `PARTS`, each over seeds."""
    return {
        modality: {part: _over_seeds(teacher, family, part, resolution) for part in PARTS[claim]}
        for modality, teacher in TEACHERS.items()
    }


def _over_seeds(teacher: str, family: str, part: str, resolution: str) -> SeedMean:
    if part == "skill":  # pooled over heads: one with nearly one map for all inputs leaves nothing to divide by
        return comparison_nulls.pooled_mean(teacher, family, resolution)
    if part != "state skill":
        return results.seed_mean(teacher, family, part, resolution)
    rows = results.records_of(teacher, family).values()
    return over_seeds([results.state_skill(about, resolution) for about in rows])


def survives(teacher: str, family: str, null: float) -> float:
    """Return the share of an equation's lead over a null that is left of its one-step agreement when it is converged.

    Cosine of attention, mean over seeds. 1: refinement takes nothing; below 0: worse than the null.
    """
    one_step, converged = (results.seed_mean(teacher, family, "cosine", way).mean for way in ("1", "converged"))
    return (converged - null) / (one_step - null)


def learning_curve(teacher: str, family: str, measure: str, resolution: str = "converged") -> dict[int, float]:
    """Return an equation's measure by optimiser steps, for seed 0, of which there are calibrations of three lengths."""
    found = {}
    for ending in (SHORT, "", LONG):
        rows = results.records_of(teacher, f"{family}{ending}")
        if 0 in rows:
            found[rows[0]["made"]["plan"]["steps"]] = results.value(rows[0], resolution, measure)
    return dict(sorted(found.items()))


def gained(curve: Mapping[int, float]) -> float:
    """Return the share of what is missing to 1 that the last doubling of the steps gained.

    The last two points need not be a doubling apart: between them what is missing is taken to fall as a power of the
    steps. 1, the most there is, where only one length was tried: nothing then says that the curve is flat.

    >>> round(gained({100: 0.0, 300: 0.2, 1200: 0.8}), 3)
    0.5
    """
    if len(curve) < 2:
        return 1.0
    (few, before), (many, after) = sorted(curve.items())[-2:]
    ratio = (1 - after) / (1 - before)
    return float(1 - ratio ** (log(2) / log(many / few)))


def control(teacher: str, measure: str) -> float:
    """Return what `CONTROL` reaches of a measure, as a network: seed 0, a third of the main equations' steps."""
    return results.seed_mean(teacher, CONTROL, measure, "1").mean


def budget(teacher: str, family: str, resolution: str = "converged", measure: str = "cosine") -> dict[str, float]:
    """Return what a verdict reads of a calibration's length: its last doubling's gain, and the control."""
    curve = learning_curve(teacher, family, measure, resolution)
    return {"gained": gained(curve), "control": control(teacher, measure)}


def judged(claim: str, family: str, bar: float, resolution: str = "converged") -> Verdict:
    """Return the verdict that an equation earns at a bar, by the rules of every claim."""
    found = {}
    for modality, parts in evidence(claim, family, resolution).items():
        teacher = TEACHERS[modality]
        number, skill, *_ = parts.values()
        head_mean = parts["head mean"].low if "head mean" in parts else None
        several = len(number.seeds) > 1
        rest = budget(teacher, family, resolution, PARTS[claim][0])
        found[modality] = Evidence(number.low, skill.low, head_mean, several, **rest)
    return verdict(found, bar)


def claim_of(name: str) -> Claim:
    """Return a claim of `PARTS` as the page about solutions reads it, by its own records and the bars of the register.

    C2b is read as the converged attention itself; the register's own measure, what survives, needs other calibrations.
    """
    bar = {"c2b": COSINE, "c2": R2}[name]
    keys = {m: f"{name}.{m}" for m in TEACHERS}
    nulls = {"trained models": {m: f"{name}.null.{m}" for m in TEACHERS}}
    return Claim(name, "", "", bar=bar, readings={"": keys}, null_keys=nulls, budget=True)


def without_budget(claim: Claim, known: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Return the verdict on a claim if no calibration counted as too short, from records by key."""
    return replace(claim, budget=False).verdict(known)


def by_depth(teacher: str, measure: str, family: str = "full-k1") -> np.ndarray | None:
    """Return a measure of converged states by depth from 1, mean over seeds; None where a seed has none."""
    rows = [about["judged"]["converged"].get(measure) for about in results.records_of(teacher, family).values()]
    return None if any(row is None for row in rows) else np.mean(rows, axis=0)


def null_by_depth(teacher: str, name: str) -> np.ndarray:
    """Return a state null's R2 by depth from 1, mean over seeds."""
    return np.mean([about["states"][name] for about in results.null_records(teacher).values()], axis=0)
