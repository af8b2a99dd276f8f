"""The ladder of hypotheses: what each is called, has and costs beside its teacher, and what one policy calibrated."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pdelens.agreement.report import pooled_skill
from pdelens.pde.parity import equation_of

from ..seeds import SeedMean, over_seeds
from ..teachers.teacher import Teacher
from . import comparison_nulls, costs, files, results, solution_verdicts
from .specs import TEACHERS

NAMES = {
    "diffusion": "diffusion",
    "advection-diffusion": "advection + diffusion",
    "residual": "residual",
    "diffusion-residual": "diffusion + residual",
    "attention": "attention",
    "no-diffusion-k1": "full, D = 0, K = 1",
    "full-k1": "full, K = 1",
    "full-k1-short": "full, K = 1, short",
    "full-k1-advection": "full + advection, K = 1",
    "full-k2": "full, K = 2",
    "full-k3": "full, K = 3",
    "unshared": "unshared, K = L",
    "narrow-k1": "narrow, unshared",
}
# Calibrated with one step a layer.
ONE_STEP = {
    "full-k1-one-step": "full, K = 1",
    "full-k1-one-step-short": "full, K = 1, short",
    "no-diffusion-k1-one-step": "full, D = 0, K = 1",
    "full-k3-one-step": "full, K = 3",
    "unshared-one-step": "unshared, K = L",
}
SKILL = "pooled skill"
# Families to the same calibrated for longer.
LONGER = {"full-k1-short": "full-k1", "full-k1": "full-k1-long", "full-k1-one-step-short": "full-k1-one-step"}


class Hypothesis(NamedTuple):
    """One equation of the ladder beside its teachers.

    `share` is of the image teacher's block parameters; `operations`, by modality, those of a solution with one step a
    layer as a multiple of its teacher's blocks'; `attends` says whether it has attention of its own.
    """

    label: str
    equation: str
    modes: str
    parameters: int
    share: float
    operations: Mapping[str, float]
    attends: bool


def tokens(teacher: Teacher) -> int:
    """Return how many tokens a teacher's input has, at most."""
    model: Any = teacher.model
    return model.configuration.tokens


def block_operations(teacher: Teacher) -> int:
    """Return the operations of a teacher's blocks on one example, as `costs.flops` counts them."""
    return costs.solve_flops(equation_of(teacher.model), tokens(teacher), teacher.layers)


def hypotheses(models: Mapping[str, Teacher]) -> dict[str, Hypothesis]:
    """Return the ladder by family, before calibration; `models` are the teachers by modality ("image" among them)."""
    whole = {m: block_operations(teacher) for m, teacher in models.items()}
    found = {}
    for family, label in NAMES.items():
        specs = {m: files.spec_named(f"rung-{TEACHERS[m]}-{family}-seed0") for m in models}
        built = {m: spec.build(models[m]) for m, spec in specs.items()}
        pde = built["image"]
        parameters = sum(value.numel() for value in pde.parameters())
        found[family] = Hypothesis(
            label,
            str(pde).split(",")[0],
            "–" if specs["image"].narrow else str(specs["image"].equation["temporal_modes"]),
            parameters,
            models["image"].share(parameters),
            {m: costs.solve_flops(one, tokens(models[m]), models[m].layers) / whole[m] for m, one in built.items()},
            "attention" in pde.terms,
        )
    return found


def steps(teacher: str, family: str) -> int:
    """Return how many optimiser steps an equation took."""
    return next(iter(results.records_of(teacher, family).values()))["made"]["plan"]["steps"]


def is_short(teacher: str, family: str) -> bool:
    """Say whether an equation took fewer steps than the main ones."""
    return steps(teacher, family) < 0.9 * steps(teacher, "full-k1")


def skills(teacher: str, family: str, resolution: str = "converged") -> dict[int, np.ndarray]:
    """Return an equation's skill against the best null of each head, pooled over a layer's heads, (layers,), by seed.

    The best of six nulls; of five for a pretrained model, whose nearest neighbours are on no record.
    """
    best = comparison_nulls.best if teacher in TEACHERS.values() else results.best_null
    subjects = {seed: about["made"]["subject"] for seed, about in results.records_of(teacher, family).items()}
    heads = comparison_nulls.cosines(teacher, family, resolution)
    return {seed: pooled_skill(found, best(subjects[seed])) for seed, found in heads.items()}


def by_seed(teacher: str, family: str, measure: str, resolution: str = "converged") -> dict[int, float]:
    """Return one number of an equation for each seed: the worst layer's `pooled skill`, or what `results.value` has."""
    if measure == SKILL:
        return {seed: float(layers.min()) for seed, layers in skills(teacher, family, resolution).items()}
    known = results.records_of(teacher, family)
    return {seed: results.value(about, resolution, measure) for seed, about in known.items()}


def measured(teacher: str, family: str, measure: str, resolution: str = "converged") -> SeedMean:
    """Return such a number over an equation's seeds, with its interval."""
    return over_seeds(list(by_seed(teacher, family, measure, resolution).values()))


def gained(teacher: str, family: str, measure: str = "cosine", resolution: str = "converged") -> float:
    """Return the share of what is missing, `1 - measure`, that a doubling of the calibration gains.

    Read off two lengths of the same calibration, over the seeds that have both, as if what is missing fell as a power
    of the number of steps between them. 1 where one length alone is known: nothing says then that it would not gain.
    """
    pair = (family, LONGER[family]) if family in LONGER else next((p for p in LONGER.items() if p[1] == family), None)
    if pair is None:
        return 1.0
    known = {steps(teacher, name): by_seed(teacher, name, measure, resolution) for name in pair}
    shared = set.intersection(*map(set, known.values()))
    return solution_verdicts.gained(
        {count: float(np.mean([found[s] for s in shared])) for count, found in known.items()}
    )
