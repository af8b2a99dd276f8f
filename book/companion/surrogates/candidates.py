"""What stands beside a teacher's states: its equations solved, the one-step field, and what knows less than they do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement.nulls import mean_states, state_nulls
from pdelens.flow import Flow
from pdelens.models import Transformer
from pdelens.pde.equation import PDE

from ..jobs import Run
from ..paths import root
from ..teachers.teacher import Inputs, Teacher, cached_teacher
from . import files
from .evaluate import rolled_out
from .laws import MAIN_BUDGET, TEACHERS

# Families of the calibrated equations: three laws and one, read as their converged solution. Beside them stand a field
# that was calibrated with one step a layer, read so and solved, and what the diffusion of three laws does alone.
LAWS = {"three laws": f"laws-k3-b{MAIN_BUDGET}", "one law": f"laws-k1-b{MAIN_BUDGET}"}
ONE_STEP, SOLVED = "one-step field", "one-step field, solved"
HEAT, IDENTITY, AFFINE, MEAN, OTHER = "heat equation", "identity", "affine maps", "mean state", "another seed's teacher"
_NULLS = {"identity, rolled out": IDENTITY, "affine, rolled out": AFFINE, "mean state": MEAN}
FAMILIES = {**LAWS, ONE_STEP: "full-k1-one-step"}
# What says whether a failure is the budget's: an equation at half the budget, and the teacher's own architecture learnt
# anew at the same budget, one step a layer. They are calibrated for the first seed.
HALF, RELEARNT = "three laws, half the budget", "own architecture, learnt anew"
BINDING = {HALF: f"laws-k3-b{MAIN_BUDGET // 2}", RELEARNT: f"laws-blocks-b{MAIN_BUDGET}"}
CALIBRATION = 128


def equation_name(teacher: str, family: str) -> str:
    """Return the name of a teacher's equation of a family.

    >>> equation_name("image-patch4-seed0", "full-k1")
    'rung-image-patch4-full-k1-seed0'
    """
    start, seed = teacher.rsplit("-", 1)
    return f"rung-{start}-{family}-{seed}"


# What the page loads.
COMMITTED = tuple(equation_name(f"{teacher}-seed0", LAWS["three laws"]) for teacher in TEACHERS)


def weights_there(name: str, run: Run | None = None) -> Path | None:
    """Return an equation's file of weights: a run's, or else a committed one; None where there is neither."""
    places = [root() / "data" / "weights"] if run is None else [run.folder, root() / "data" / "weights"]
    return next((path for place in places if (path := place / f"{name}.safetensors").exists()), None)


def equation_there(name: str, run: Run | None = None) -> PDE | None:
    """Return a calibrated equation whose weights are there, without gradients of its own, else None."""
    path = weights_there(name, run)
    if path is None:
        return None
    own = run if run is not None and path.parent == run.folder else None
    return files.load(name, own)[0].requires_grad_(False)


@dataclass(eq=False)
class Beside:
    """A teacher, and what stands beside it, on its first `count` held-out examples.

    `other` is another seed's teacher on the same examples; `chosen`, where given, are the only ones that count.
    """

    teacher: Teacher
    count: int
    run: Run | None = None
    other: Teacher | None = None
    chosen: tuple[int, ...] | None = None

    @cached_property
    def inputs(self) -> Inputs:
        """The held-out examples."""
        found = self.teacher.inputs("heldout", self.count)[0]
        return found if self.chosen is None else selected(found, self.chosen)

    def only(self, *chosen: int) -> "Beside":
        """Return the same on some of the examples, by their numbers."""
        return replace(self, chosen=chosen)

    @cached_property
    def reference(self) -> Flow:
        """The teacher's Flow on them."""
        return self.teacher.flow(self.inputs)

    @cached_property
    def calibration(self) -> Flow:
        """The teacher's Flow on calibration examples, whose mean states are the zero of every R2."""
        return self.teacher.of("calibration", CALIBRATION)

    def equation(self, family: str) -> PDE | None:
        """Return the teacher's equation of a family, where its weights are there."""
        return equation_there(equation_name(self.teacher.name, family), self.run)

    @cached_property
    def equations(self) -> dict[str, PDE]:
        """The calibrated equations that are there, by name."""
        found = {name: self.equation(family) for name, family in FAMILIES.items()}
        return {name: pde for name, pde in found.items() if pde is not None}

    def flows(self, **how: Any) -> dict[str, Flow]:
        """Return the states of everything that stands beside the teacher; equations are solved as `how` says."""
        found = {n: rolled_out(pde, self.reference, **how) for n, pde in self.equations.items() if n != ONE_STEP}
        if ONE_STEP in self.equations:
            field = self.equations[ONE_STEP]
            found |= {ONE_STEP: rolled_out(field, self.reference), SOLVED: rolled_out(field, self.reference, **how)}
        with self.equations["three laws"].without("attention", "reaction") as heat:
            found[HEAT] = rolled_out(heat, self.reference, **how)
        nulls = state_nulls(self.reference, self.calibration)
        return found | {name: self.of_states(nulls[given]) for given, name in _NULLS.items()}

    def of_states(self, states: Sequence[Tensor]) -> Flow:
        """Return states as a Flow on these examples."""
        return replace(self.reference, states=tuple(states), attention=(), visible=())

    def carried_over(self) -> tuple[Tensor, ...]:
        """Return the other teacher's states in this one's coordinates, by the best affine map of each depth.

        The map is fitted on calibration examples; the states of two seeds have no coordinates in common.
        """
        assert self.other is not None
        theirs, here = self.other.of("calibration", CALIBRATION), self.other.flow(self.inputs)
        known = zip(theirs.states, self.calibration.states, here.states, strict=True)
        return tuple(affinely(x, y, self.calibration.mask, u) for x, y, u in known)


def beside(name: str, count: int, run: Run | None = None, other: str | None = None) -> Beside:
    """Return a teacher of this book with what stands beside it: its own gradients are switched off."""
    found = [None if one is None else cached_teacher(one, *(() if run is None else (run,))) for one in (name, other)]
    for teacher in found:
        if teacher is not None:
            assert isinstance(teacher.model, Transformer)
            teacher.model.requires_grad_(False)
    assert found[0] is not None
    return Beside(found[0], count, run, found[1])


def affine_map(x: Tensor, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the M and b with which `x M + b` comes nearest to y over real tokens, by least squares, in float64."""
    rows, wanted = x[mask].double(), y[mask].double()
    design = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    found = torch.linalg.lstsq(design, wanted, driver="gelsd").solution
    return found[:-1], found[-1]


def affinely(x: Tensor, y: Tensor, mask: Tensor, u: Tensor) -> Tensor:
    """Return `u M + b` with the `affine_map` from x to y."""
    matrix, bias = affine_map(x, y, mask)
    return (u.double() @ matrix + bias).to(u)


def selected(inputs: Inputs, chosen: Sequence[int]) -> Inputs:
    """Return some examples of a teacher's inputs, by their numbers."""
    places = list(chosen)
    return {name: value[places] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[places]


def variances(reference: Flow, calibration: Flow) -> Tensor:
    """Return the squared distance of a real token from the calibration's mean, mean over examples: (depths,)."""
    means = zip(reference.states, mean_states(calibration), strict=True)
    return torch.stack([(state - mean)[reference.mask].double().square().sum(-1).mean() for state, mean in means])


def example_agreement(states: Sequence[Tensor], reference: Flow, variance: Tensor) -> Tensor:
    """Return how well each example's states agree, (examples,): 1 - error / variance, mean over depths from 1.

    With the `variances` of the same examples the mean over examples of equal length is the pooled R2, mean over depths.
    """
    rows, real = [], reference.mask.double()
    for ours, theirs, usual in list(zip(states, reference.states, variance, strict=True))[1:]:
        error = (theirs - ours).double().square().sum(-1) * real
        rows.append(1 - error.sum(1) / real.sum(1) / usual)
    return torch.stack(rows).mean(0)


def spread_out(agreement: Tensor, count: int) -> list[int]:
    """Return `count` examples at evenly spaced ranks of agreement, the worst first, the best last.

    With an odd count the one in the middle is the median.

    >>> spread_out(torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3]), 3)
    [1, 2, 0]
    """
    order = agreement.argsort().tolist()
    return [order[round(rank)] for rank in np.linspace(0, len(order) - 1, count)]
