"""What predicts attention or states without an equation, measured as the equations are: nearest neighbours among them.

The sweep's own records hold five nulls of attention in five seeds; the look-up of nearest neighbours stands beside them
for the teachers whose weights are committed.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from pdelens.agreement.nulls import nearest_maps, state_nulls
from pdelens.agreement.report import compare

from ..paths import root
from ..seeds import SeedMean, over_seeds
from ..teachers.teacher import cached_teacher
from . import files, results
from .evaluate import MEASURES as COSINES
from .evaluate import RESOLUTIONS, evaluate_flow, rolled_out

NEAREST = "nearest neighbours"
POOLED, CHANNELS = "r2 pooled", "r2 mean over channels"
# As pages and their records name what is measured of states.
MEASURES = {"read": "read", "r2": CHANNELS, "r2-pooled": POOLED, "classes": "classes", "accuracy": "accuracy"}


def committed_seeds(teacher: str) -> list[str]:
    """Return the names of a teacher's seeds whose weights are committed; `teacher` as in `specs.TEACHERS`."""
    return sorted(path.stem for path in (root() / "data" / "weights").glob(f"{teacher}-seed*.safetensors"))


@cache
def nearest_cosines(name: str, count: int) -> dict[str, np.ndarray]:
    """Return how the teacher's maps on the five nearest calibration inputs, averaged, agree with its own.

    By measure of `evaluate.MEASURES`, (layers, heads), over the first `count` held-out examples, looked up among the
    first `count` calibration examples: at `book` scale those that the sweep's other nulls were measured on.
    """
    teacher = cached_teacher(name)
    reference, calibration = (teacher.of(split, count) for split in ("heldout", "calibration"))
    maps = nearest_maps(calibration, teacher.nearest("heldout", count, count), reference)
    report = compare(replace(reference, attention=maps), reference, calibration=calibration, measures=COSINES)
    return {measure: np.asarray(report.per_head(measure)) for measure in COSINES}


def nearest_mean(teacher: str, count: int, measure: str = "cosine", best: bool = False) -> SeedMean:
    """Return the look-up's `cosine`, `worst head` or `centred cosine` over the committed seeds, worst layer.

    With `best`, of whichever null is better at each layer and head: the look-up or one of the sweep's five, whose
    cosines alone are on record.
    """
    found = []
    for name in committed_seeds(teacher):
        numbers = nearest_cosines(name, count)["centred cosine" if measure == "centred cosine" else "cosine"]
        numbers = np.maximum(numbers, results.best_null(name)) if best else numbers
        found.append(float(numbers.min() if measure == "worst head" else numbers.mean(-1).min()))
    return over_seeds(found)


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
