"""Fields beside their teacher, solved, stepped otherwise and looked at in a plane.

Two fields are calibrated equations whose weights are committed, the third is the teacher's own blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement.report import class_agreement, compare, state_agreement
from pdelens.flow import Flow
from pdelens.models import Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.fit import stepped
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of
from pdelens.pde.plan import Plan

from ..teachers.teacher import Teacher, cached_teacher
from . import files
from .evaluate import RESOLUTIONS, rolled_out

# What the fields are called in figures and tables.
FIELDS = {
    "one-step": "calibrated with one step a layer",
    "refined": "calibrated with refined steps",
    "blocks": "the teacher's own blocks",
}
# Solutions that a page finds for itself; those of the records are solved to 1e-6.
CONVERGED: dict[str, Any] = {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}
# Between these depths a few steps each follow a field that is stiff at the entry.
GRADED = (0, 1 / 256, 1 / 64, 1 / 16, 1 / 4, 1, 2, 3, 4, 5, 6)
OTHERS: dict[str, dict[str, Any]] = {
    "one step": {"method": "lie", "substeps": 1},
    "48 equal": {"method": "lie", "substeps": 8},
    "50 crowded": {"depths": GRADED, "method": "lie", "substeps": 5},
    "RK4": {"depths": GRADED, "method": "rk4", "substeps": 10},
}


@dataclass(eq=False)
class Subject:
    """A teacher, its Flows on held-out and on calibration examples, its fields and their solutions so far, by name."""

    teacher: Teacher
    flow: Flow
    calibration: Flow
    fields: dict[str, PDE]
    solved: dict[str, Flow] = field(default_factory=dict)

    def solution(self, name: str) -> Flow:
        """Return a field's converged Flow from the embeddings (tolerance 1e-4), found once."""
        if name not in self.solved:
            self.solved[name] = rolled_out(self.fields[name], self.flow, **CONVERGED)
        return self.solved[name]


def subject(family: str, count: int) -> Subject:
    """Return the teacher of seed 0 of a family, such as "image-patch4", with its fields and so many examples."""
    teacher = cached_teacher(f"{family}-seed0")
    assert isinstance(teacher.model, Transformer)
    fields = {
        "one-step": files.load(f"rung-{family}-full-k1-one-step-seed0")[0],
        "refined": files.load(f"rung-{family}-full-k1-seed0")[0],
        "blocks": equation_of(teacher.model, teacher.lattice),
    }
    for one in fields.values():
        one.requires_grad_(False)
    return Subject(teacher, teacher.of("heldout", count), teacher.of("calibration", 2 * count), fields)


def refined_blocks(one: Subject) -> tuple[dict[str, list[float]], tuple[float, float]]:
    """Return how the teacher's own blocks agree with the teacher when their steps are made finer.

    By measure (`cosine`: worst layer of the mean over heads; `r2`: worst depth; `classes`: share given the teacher's)
    a number for each of `RESOLUTIONS`, and the cosine's 95 % interval over examples of the last. Cost: six solutions.
    """
    found: dict[str, list[float]] = {"cosine": [], "r2": [], "classes": []}
    theirs = one.teacher.readout(one.flow.states[-1], one.flow.mask)
    for how in (RESOLUTIONS | {"converged": CONVERGED}).values():
        flow = rolled_out(one.fields["blocks"], one.flow, **how)
        # The Flow of reference shows this model's heads in their aligned order.
        aligned = flow.permute_heads(one.teacher.orders)
        report = compare(aligned, one.flow, calibration=one.calibration, measures=["cosine"])
        found["cosine"].append(float(report.headline()))
        found["r2"].append(float(report.states["r2 mean over channels"].min()))
        ours = one.teacher.readout(flow.states[-1], one.flow.mask)
        found["classes"].append(float(class_agreement(ours, theirs)))
    one.solved["blocks"] = flow
    return found, report.headline_interval()


def states_kept(one: Subject, name: str) -> float:
    """Return the pooled R2 of a field's converged states at the worst depth: in the norm of a calibration's loss."""
    found = state_agreement(one.solution(name).states, one.flow, one.calibration, cka=False)
    return float(found["r2 pooled"].min())


def distance(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """Return the root of the summed squares of a difference of states, over examples' real tokens."""
    return float(((first - second) * mask[..., None]).norm())


def gaps(one: Subject, name: str, few: int) -> dict[str, float]:
    """Return how far other solutions of a field end from the records' own (dopri5, tolerance 1e-6).

    Each as a share of the displacement since the embedding, over the first `few` examples: those of `OTHERS`, and
    `this page's` (`CONVERGED`). Cost: a solution each.
    """
    flow = one.flow.select(slice(few))
    ways = [RESOLUTIONS["converged"], *OTHERS.values()]
    last, *ends = (rolled_out(one.fields[name], flow, **how).states[-1] for how in ways)
    others = dict(zip(OTHERS, ends, strict=True)) | {"this page's": one.solution(name).states[-1][:few]}
    moved = distance(last, flow.states[0], flow.mask)
    return {how: distance(other, last, flow.mask) / moved for how, other in others.items()}


def resolved_entry(one: Subject, name: str, plan: Plan, few: int, finer: int = 3) -> dict[str, list[float]]:
    """Return attention's cosine by layer where a calibrated equation is stepped as in its calibration, and finer.

    `name` is the weights' file. `own`: the calibration's own finest steps; `entry`, `rest`: the same with the first
    layer, or all the others, in 2 ** `finer` times as many; `converged`. Which of the two brings `own` to `converged`
    says where the calibration saw its scheme in place of the equation. Over `few` examples.
    """
    pde, flow = files.load(name)[0], one.flow.select(slice(few))
    first = len(plan.entry) + 1  # parts that the first layer is cut into
    parts = range(first + len(flow.attention) - 1)
    most = [plan.ranges[min(part, len(plan.ranges) - 1)][1] for part in parts]
    times = 2**finer
    flows = {}
    for way, (before, after) in {"own": (1, 1), "entry": (times, 1), "rest": (1, times)}.items():
        counts = [most[part] * (before if part < first else after) for part in parts]
        flows[way] = stepped(pde, flow, replace(plan, graded=tuple((count, count) for count in counts)))
    flows["converged"] = rolled_out(pde, flow, **CONVERGED)
    return {way: compare(found, flow, measures=["cosine"]).per_head().mean(1).tolist() for way, found in flows.items()}


def plan_of(made: Mapping[str, Any]) -> Plan:
    """Return the plan that a record of a calibration holds (`made["plan"]`), as it was before it was written."""
    about = dict(made["plan"])
    about["graded"] = tuple(tuple(pair) for pair in about["graded"])
    about["entry"] = tuple(about["entry"])
    if not isinstance(about["substeps"], int):
        about["substeps"] = tuple(about["substeps"])
    return Plan(**about)


class Plane(NamedTuple):
    """The plane through a path of states (depths, numbers) that holds most of their variance, and how much it holds."""

    centre: Tensor
    axes: Tensor
    share: float

    def of(self, states: Sequence[Tensor]) -> np.ndarray:
        """Return states of one example (1, tokens, width) in the plane, (2, states)."""
        rows = torch.stack([state[0].flatten() for state in states]).double()
        return (self.axes @ (rows - self.centre).T).numpy()


def plane(states: Sequence[Tensor]) -> Plane:
    """Return the plane of one example's states (1, tokens, width), by principal components."""
    rows = torch.stack([state[0].flatten() for state in states]).double()
    _, spread, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    squares = spread.square()
    return Plane(rows.mean(0), axes[:2], float(squares[:2].sum() / squares.sum()))


@torch.no_grad()
def paths(pde: PDE, start: Tensor) -> tuple[tuple[Tensor, ...], list[int], tuple[Tensor, ...]]:
    """Return one example's way: the solution at many depths, which of them are whole, and one Lie step a layer."""
    layers = int(pde.depth)
    times = sorted({*GRADED, *(number / 8 for number in range(8 * layers))})
    path = integrate(pde, start, times, "dopri5", rtol=1e-6, atol=1e-6).states
    steps = integrate(pde, start, check_steps=False).states
    return path, [times.index(depth) for depth in range(layers + 1)], steps
