"""Measures how a loss's gradient flows back through a teacher and through what stands beside it, over seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pdelens.flow import padding_of
from pdelens.models import Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.flow_map import flow_map
from pdelens.sensitivity.gradients import GradientFlow, gradient_flow, gradients_of

from ..jobs import Job, Run
from ..paths import DataError
from ..surrogates import candidates
from ..surrogates.candidates import AFFINE, IDENTITY, ONE_STEP, SOLVED, Beside, affine_map
from ..surrogates.study import weight_digests
from ..teachers.teacher import Inputs, Teacher, cached_teacher, features, weights_of
from ..theory.token_influence import STEPS
from .input_gradients import InputGradient, carried_back, input_matrix, like_class, nearest_of_class, rank_correlation

PART = "gradients"
FLOW = "flow"
# Held-out examples, and calibration examples whose gradients are known to the nulls of a class.
COUNTS = {"smoke": (6, 24), "book": (64, 512), "full": (256, 2048)}
# Steps of order 4 between the depth-times of `STEPS`: one leaves an error of a tenth of the gradient.
SUBSTEPS = 2
# How many examples pass an equation's steps at once, and on how many the steps are halved to find their error.
AT_ONCE, HALVED = 16, 8
TEACHER, UNTRAINED, SEED = "teacher", "untrained", "seed"
NEAREST, CLASS = "nearest of its class", "mean of its class"
# Three laws that are given the teacher's own gradient at the last depth, as the linear nulls are; and three laws' own
# gradient at depth 1, taken the rest of the way by the teacher's first layer.
GIVEN, THROUGH = "given the last gradient", "through the first layer"


@dataclass(frozen=True)
class Gradients(Job):
    """A loss's gradient at every depth and by the input: a teacher's beside everything else's."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{FLOW}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "steps": [*STEPS, SUBSTEPS],
            "weights": weights(self.teacher, run),
        }

    def cost(self, run: Run) -> float:
        """Return what it costs beside its kind: examples."""
        return float(COUNTS[run.scale][0])

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the cosine of three laws in the space of inputs."""
        return f"three laws: cosine {record['input']['three laws']['cosine']:.3f} in the space of inputs"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        count, known = COUNTS[run.scale]
        return measure(candidates.beside(self.teacher, count, run), known, other_seeds(self.teacher, run))


def weights(teacher: str, run: Run) -> dict[str, str | None]:
    """Return the digests of all weights that are measured: the teacher's, other seeds', its equations'."""
    names = [candidates.equation_name(teacher, family) for family in candidates.FAMILIES.values()]
    return weight_digests((teacher, *other_seeds(teacher, run)), names, run)


def other_seeds(teacher: str, run: Run) -> list[str]:
    """Return the names of the same family's teachers of other seeds whose weights are there."""
    family, found = teacher.rsplit("-seed", 1)[0], []
    for seed in range(5):
        try:
            weights_of(name := f"{family}-seed{seed}", run.folder)
        except (DataError, FileNotFoundError):
            continue
        found += [name] if name != teacher else []
    return found


@dataclass(frozen=True)
class Loss:
    """Cross-entropy with the true classes, summed over examples, of a teacher's own head on its last state.

    Of logits in double precision: where a model is sure, its probability is 1 but for what float32 has no room for.
    """

    teacher: Teacher
    labels: Tensor
    mask: Tensor

    def of(self, logits: Tensor) -> Tensor:
        """Return the loss of logits (examples, classes)."""
        return F.cross_entropy(logits.double(), self.labels, reduction="sum")

    def __call__(self, state: Tensor) -> Tensor:
        """Return the loss of a last state (examples, tokens, width)."""
        return self.of(self.teacher.readout(state, self.mask))

    def select(self, some: slice) -> "Loss":
        """Return the loss of some of the examples."""
        return Loss(self.teacher, self.labels[some], self.mask[some])


def solved_gradient(
    pde: PDE, u: Tensor, mask: Tensor, loss: Callable[[Tensor], Tensor], substeps: int | None = None
) -> GradientFlow:
    """Return the gradient through an equation's solution at whole depths, by steps of order 4 that crowd at the entry.

    The steps are those between `token_influence.STEPS`, so many in each interval (`SUBSTEPS`, if not given). `loss` is
    of the last state.
    """
    padding, substeps = padding_of(mask), SUBSTEPS if substeps is None else substeps
    with torch.enable_grad():
        states = [u.detach().clone().requires_grad_()]
        for start, end in pairwise(range(int(pde.depth) + 1)):
            times = [time for time in STEPS if start <= time <= end]
            states.append(
                integrate(pde, states[-1], times, "rk4", substeps, mask=padding, check_steps=False).states[-1]
            )
        found = gradients_of(loss(states[-1]), states, padding)
    return GradientFlow(found, torch.arange(len(states)).float())


def in_parts(count: int, gradient: Callable[[slice], GradientFlow]) -> tuple[Tensor, ...]:
    """Return gradients by depth of all examples, `AT_ONCE` of them at a time."""
    parts = [gradient(slice(start, start + AT_ONCE)).gradients for start in range(0, count, AT_ONCE)]
    return tuple(torch.cat(depth) for depth in zip(*parts, strict=True))


def equation_gradients(one: Beside, loss: Loss) -> dict[str, tuple[Tensor, ...]]:
    """Return the gradients by depth of a teacher's equations, by name; solved from the embedding alone."""
    found = {SOLVED if name == ONE_STEP else name: solved(one, loss, pde) for name, pde in one.equations.items()}
    if ONE_STEP in one.equations:
        found[ONE_STEP] = stepped(one, loss, one.equations[ONE_STEP])
    return found


def solved(one: Beside, loss: Loss, pde: PDE) -> tuple[Tensor, ...]:
    """Return the gradients by depth through an equation's solution from a teacher's embedding."""
    start, mask = one.reference.states[0], one.reference.mask
    return in_parts(one.count, lambda some: solved_gradient(pde, start[some], mask[some], loss.select(some)))


def stepped(one: Beside, loss: Loss, field: PDE) -> tuple[Tensor, ...]:
    """Return the gradients by depth through a field that is read with one step a layer."""
    start, mask = one.reference.states[0], one.reference.mask

    def gradient(some: slice) -> GradientFlow:
        return gradient_flow(field, start[some], loss.select(some), mask=mask[some], method="lie", substeps=1)

    return in_parts(one.count, gradient)


def teacher_gradient(teacher: Teacher, inputs: Inputs, labels: Tensor) -> GradientFlow:
    """Return the gradients of a teacher's own loss by its states at every depth."""
    assert isinstance(teacher.model, Transformer)
    return gradient_flow(
        teacher.model, inputs, lambda logits: F.cross_entropy(logits.double(), labels, reduction="sum")
    )


def given_gradients(one: Beside, last: Tensor) -> dict[str, list[Tensor]]:
    """Return what is made, by depth, of the teacher's own gradient at the last depth: by what knows no loss itself.

    `IDENTITY` hands it back unchanged, `AFFINE` through each layer's best affine map (calibration examples), and
    three laws through their own solution.
    """
    steps = pairwise(one.calibration.states)
    matrices = [affine_map(x, y, one.calibration.mask)[0] for x, y in steps]
    found = {IDENTITY: [last] * (len(matrices) + 1), AFFINE: carried_back(last, matrices)}
    start, mask, pde = one.reference.states[0], one.reference.mask, one.equations["three laws"]

    def pulled(some: slice) -> GradientFlow:
        return solved_gradient(pde, start[some], mask[some], lambda state: (state * last[some]).sum())

    return found | {GIVEN: list(in_parts(one.count, pulled))}


def class_gradients(one: Beside, labels: Tensor, known: int) -> dict[str, InputGradient]:
    """Return what the teacher's gradients on calibration examples of the same class say, in the space of inputs."""
    teacher = one.teacher
    inputs, classes = teacher.inputs("calibration", known)
    assert isinstance(teacher.model, Transformer)
    theirs = InputGradient(teacher_gradient(teacher, inputs, classes).gradients[0], input_matrix(teacher.model))
    near = nearest_of_class(features(one.inputs), features(inputs), classes, labels)
    return {NEAREST: InputGradient(theirs.state[near], theirs.matrix), CLASS: like_class(theirs, classes, labels)}


def measure(one: Beside, known: int, others: Sequence[str] = ()) -> dict[str, Any]:
    """Return how a loss's gradient flows in a teacher, and in what stands beside it.

    `input`, by name: `cosine` and `rank` (of tokens' saliency) with the teacher's gradient by the input, means over
    examples. `depths`: the cosine by depth from 0, of what shares the teacher's states. `norms`: mean of
    `log10 |g(l)| / |g(L)|` by depth. `solver`: how far three laws' gradient by the input lies from that of steps half
    as long, relative, the median example's. Of other seeds' teachers each is one name, `SEED` with its number.
    """
    labels = one.teacher.inputs("heldout", one.count)[1]
    mask, loss = one.reference.mask, Loss(one.teacher, labels, one.reference.mask)
    assert isinstance(one.teacher.model, Transformer)
    own, matrix = teacher_gradient(one.teacher, one.inputs, labels), input_matrix(one.teacher.model)
    flows = {n: tuple(each) for n, each in equation_gradients(one, loss).items()}
    flows |= {n: tuple(each) for n, each in given_gradients(one, own.gradients[-1]).items()}
    depths = {name: GradientFlow(each, own.depths) for name, each in flows.items()}
    found = {name: InputGradient(each.gradients[0], matrix) for name, each in depths.items()}
    found |= class_gradients(one, labels, known)
    entry = flow_map(one.teacher.model, one.inputs, 0, 1)
    found[THROUGH] = InputGradient(entry.vjp(flows["three laws"][1]), matrix)
    strangers = {f"{SEED} {name[-1]}": cached_teacher(name, *_given(one.run)) for name in others}
    strangers[UNTRAINED] = one.teacher.untrained()
    theirs = {name: teacher_gradient(other, one.inputs, labels) for name, other in strangers.items()}
    for name, other in strangers.items():
        assert isinstance(other.model, Transformer)
        found[name] = InputGradient(theirs[name].gradients[0], input_matrix(other.model))
    mine = InputGradient(own.gradients[0], matrix)
    return {
        "examples": one.count,
        "known": known,
        "input": {name: agreement(each, mine, mask) for name, each in found.items()},
        "depths": {name: own.alignment(each).mean(1).tolist() for name, each in depths.items()},
        "norms": {
            name: (each.log_ratio().double().mean(1) / np.log(10)).tolist()
            for name, each in {TEACHER: own, **depths, **theirs}.items()
        },
        "solver": solver_error(one, loss, found["three laws"]),
    }


def _given(run: Run | None) -> tuple[Run, ...]:
    return () if run is None else (run,)


def agreement(found: InputGradient, wanted: InputGradient, mask: Tensor) -> dict[str, float]:
    """Return how a gradient by the input agrees with another: `cosine`, `rank` of saliency, means over examples."""
    ranks = rank_correlation(found.saliency(), wanted.saliency(), mask)
    return {"cosine": float(found.cosine(wanted).mean()), "rank": float(ranks.mean())}


def solver_error(one: Beside, loss: Loss, found: InputGradient) -> float:
    """Return how far three laws' gradients by the input lie from those of steps half as long, relative: the median."""
    some, flow = slice(0, HALVED), one.reference
    pde = one.equations["three laws"]
    finer = solved_gradient(pde, flow.states[0][some], flow.mask[some], loss.select(some), 2 * SUBSTEPS)
    coarse = InputGradient(found.state[some], found.matrix)
    fine = InputGradient(finer.gradients[0], found.matrix)
    gap = InputGradient(fine.state - coarse.state, found.matrix)
    return float((gap.inner(gap) / fine.inner(fine)).sqrt().median())
