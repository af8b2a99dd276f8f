"""Who is changed beside whom: a teacher, its equations, other seeds' teachers and the nulls, as one cast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..jobs import Run
from ..surrogates import candidates
from ..surrogates.candidates import AFFINE, BINDING, ONE_STEP, RELEARNT, SOLVED
from ..teachers.teacher import Inputs, Teacher
from .movers import Mover, affine_of, blocks_of, network_of, solution_of

TEACHER, AGAIN, UNTRAINED, NEAREST = "teacher", "again", "untrained twin", "nearest inputs"
OTHERS = ("another seed's teacher", "a third seed's teacher")
# Steps between successive `STEPS` that follow the solved one-step field, which is stiff, most of all on texts.
REFINED = {"image": 4, "text": 8}


@dataclass(eq=False)
class Cast:
    """Everything that is changed: models by name, held-out inputs with their classes, and calibration ones.

    `near` (examples, neighbours) says which calibration inputs are nearest to each held-out one.
    """

    movers: dict[str, Mover]
    inputs: Inputs
    labels: Tensor
    known: Inputs
    known_labels: Tensor
    near: Tensor


def cast_of(name: str, others: Sequence[str], count: int, known: int, run: Run | None = None) -> Cast:
    """Return a teacher's cast: its equations that are there, the teachers of other seeds, and the nulls."""
    one = candidates.beside(name, count, run)
    rest = [candidates.beside(other, count, run).teacher for other in others]
    found = {n: candidates.equation_there(candidates.equation_name(name, f), run) for n, f in BINDING.items()}
    fields = one.equations | {n: pde for n, pde in found.items() if pde is not None}
    movers = movers_of(one.teacher, fields, rest) | {AFFINE: affine_of(one.teacher, one.calibration)}
    heldout, calibration = (one.teacher.inputs(*part) for part in (("heldout", count), ("calibration", known)))
    near = one.teacher.nearest("heldout", count, known)
    return Cast(movers, *heldout, *calibration, near)


def movers_of(teacher: Teacher, fields: Mapping[str, Any], others: Sequence[Teacher]) -> dict[str, Mover]:
    """Return a teacher, its fields as they are read, other seeds' teachers and its untrained twin, by name."""
    found = {TEACHER: blocks_of(teacher)}
    for name, field in fields.items():
        if name in (ONE_STEP, RELEARNT):
            found[name] = network_of(teacher, field)
        else:
            found[name] = solution_of(teacher, field)
    if ONE_STEP in fields:
        found[SOLVED] = solution_of(teacher, fields[ONE_STEP], REFINED[teacher.name.partition("-")[0]])
    found |= {name: blocks_of(other) for name, other in zip(OTHERS, others, strict=False)}
    twin = teacher.untrained()
    twin.model.requires_grad_(False)
    return found | {UNTRAINED: blocks_of(twin)}
