"""What predicts attention or states without an equation, measured as the equations are."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pdelens.agreement.nulls import state_nulls

from ..teachers.teacher import cached_teacher
from . import comparison_nulls, files, results
from .evaluate import RESOLUTIONS, evaluate_flow, rolled_out

MAPS = ("uniform", "mean map", "other input", "shuffled layers", "untrained twin")
NEAREST, BEST, OTHER = comparison_nulls.LOOK_UP, "best null", "another seed's teacher"
# As pages and their records name what is measured of states.
MEASURES = {
    "read": "read",
    "r2": "r2 mean over channels",
    "r2-pooled": "r2 pooled",
    "classes": "classes",
    "accuracy": "accuracy",
}


def layers(teacher: str) -> dict[str, np.ndarray]:
    """Return the cosine of maps that no equation made, mean over heads, (seeds, layers), by name.

    `MAPS`; `NEAREST`, the mean map of the five nearest calibration inputs, over the seeds whose weights are committed;
    `BEST`, of each head the best of all these that are known of its seed; `OTHER`, one other seed's teacher, heads
    matched. `teacher` as in `specs.TEACHERS`.
    """
    known = results.null_records(teacher)
    found = {name: [about["attention"][name] for about in known.values()] for name in MAPS}
    look_ups = (comparison_nulls.looked_up(name) for name in known)
    found[NEAREST] = [heads for heads in look_ups if heads is not None]
    found[BEST] = list(comparison_nulls.by_seed(teacher).values())
    found[OTHER] = [about["ceiling"]["cosine"] for about in known.values()]
    return {name: np.array(heads, dtype=float).mean(-1) for name, heads in found.items()}


def predictors(name: str, count: int, families: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """Return how states agree that come from no equation, and beside them committed equations' converged solutions.

    `name` is a teacher with its seed, `families` are labels by family of the equations. By label, one number for each
    of `MEASURES`: `read` the cosine of the maps that the teacher's own heads have at these states (mean over heads,
    worst layer), R2 at the worst depth, both ways to average it; shares of examples.
    """
    teacher = cached_teacher(name)
    reference, calibration = (teacher.of(split, count) for split in ("heldout", "calibration"))
    nearest, labels = teacher.nearest("heldout", count, count), teacher.targets("heldout", count)
    known = state_nulls(reference, calibration, nearest)
    flows = {
        what.removesuffix(", rolled out"): replace(reference, states=states, attention=())
        for what, states in known.items()
        if not what.endswith("one step")
    }
    start, seed = name.rsplit("-", 1)
    for family, label in families.items():
        pde, _ = files.load(f"rung-{start}-{family}-{seed}")
        flows[label] = rolled_out(pde, reference, **RESOLUTIONS["converged"])
    return {what: _worst(evaluate_flow(flow, teacher, reference, calibration, labels)) for what, flow in flows.items()}


def _worst(found: Mapping[str, Any]) -> dict[str, float]:
    values = {short: np.asarray(found[long]) for short, long in MEASURES.items()}
    return {short: float((value.mean(1) if value.ndim == 2 else value).min()) for short, value in values.items()}
