"""A committed equation solved here and now beside its teacher, on held-out examples."""

from typing import NamedTuple

import numpy as np

from pdelens.agreement.measures import cosine
from pdelens.agreement.nulls import Maps, mean_map
from pdelens.agreement.report import Report, compare
from pdelens.flow import Flow

from ..teachers.teacher import cached_teacher
from .evaluate import RESOLUTIONS, rolled_out
from .files import load


class Solved(NamedTuple):
    """The teacher's Flow, the equation's converged one, the teacher's mean map, and the agreement of the second."""

    reference: Flow
    flow: Flow
    mean: Maps
    report: Report


def solved(teacher: str, family: str, count: int) -> Solved:
    """Solve one seed's committed equation on `count` held-out examples; the mean map is of as many calibration ones."""
    model = cached_teacher(teacher)
    reference, calibration = (model.of(split, count) for split in ("heldout", "calibration"))
    equation, _ = load(f"rung-{teacher[:-6]}-{family}-{teacher[-5:]}")
    flow = rolled_out(equation, reference, **RESOLUTIONS["converged"])
    mean = mean_map(calibration, reference)
    report = compare(flow, reference, {"mean map": mean}, calibration, measures=["cosine"])
    return Solved(reference, flow, mean, report)


class Shown(NamedTuple):
    """One head on one example: three maps (queries, keys), without padding, and two cosines to the first."""

    name: str
    teacher: np.ndarray
    equation: np.ndarray
    mean: np.ndarray
    scores: tuple[float, float]


def median_head(found: Solved, layer: int) -> Shown:
    """Return the head whose agreement is the median of its layer, on the example that is the median of all."""
    agreement = found.report.attention["cosine"]  # (layers, examples, heads)
    per_example = agreement.mean((0, 2))
    example = int(np.argsort(per_example)[len(per_example) // 2])
    heads = agreement[layer, example]
    head = int(np.argsort(heads)[(len(heads) - 1) // 2])
    real = found.reference.mask[example]
    reference = found.reference.attention[layer]
    stacks = (reference, found.flow.attention[layer], found.mean[layer].expand_as(reference))
    maps = [stack[example, head][real][:, real] for stack in stacks]
    scores = [float(cosine(one[None, None], maps[0][None, None])) for one in maps[1:]]
    arrays = [one.numpy() for one in maps]
    return Shown(f"layer {layer + 1}, head {head + 1}", arrays[0], arrays[1], arrays[2], (scores[0], scores[1]))
