"""Gradients by the input that a page shows: of the first held-out examples of a teacher of seed 0, made on the spot."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pdelens.models import Transformer

from ..surrogates.candidates import ONE_STEP, SOLVED, Beside, beside
from ..teachers.teacher import cached_teacher
from .gradients import CLASS, SEED, TEACHER, Loss, class_gradients, equation_gradients, teacher_gradient
from .input_gradients import InputGradient, input_matrix
from .strips import pieces

OTHER = f"{SEED} 1"
SHOWN = (TEACHER, "three laws", ONE_STEP, SOLVED, OTHER, CLASS)
# Calibration examples that the mean of a class is taken over.
KNOWN = 512


@dataclass(frozen=True, eq=False)
class Shown:
    """The first held-out examples of a teacher, and the gradients of its loss by their input, by name (`SHOWN`)."""

    one: Beside
    gradients: Mapping[str, InputGradient]

    @property
    def cosines(self) -> dict[str, Tensor]:
        """The cosine of each example's gradient with the teacher's, (examples,), by name."""
        return {name: each.cosine(self.gradients[TEACHER]) for name, each in self.gradients.items()}

    def pictures(self, row: int) -> dict[str, Tensor]:
        """Return an example's gradients by its grey levels, (side, side) each."""
        assert isinstance(self.one.teacher.model, Transformer)
        shape = self.one.teacher.model.configuration
        patches, size = shape.side // shape.patch, shape.patch
        return {
            name: each.entries(row).view(patches, patches, size, size).transpose(1, 2).reshape(shape.side, shape.side)
            for name, each in self.gradients.items()
        }

    def saliencies(self, row: int) -> tuple[list[str], dict[str, Tensor]]:
        """Return a text's pieces, and the share of each in all pieces' saliency, (tokens,) by name."""
        assert isinstance(self.one.inputs, dict)
        tokens, mask = self.one.inputs["inputs"][row], self.one.reference.mask[row]
        found = {name: each.saliency()[row][mask] for name, each in self.gradients.items()}
        return pieces(tokens, mask), {name: each / each.sum() for name, each in found.items()}


def shown_gradients(family: str, count: int) -> Shown:
    """Return the gradients on the first `count` held-out examples of a family's first seed, such as "image-patch4"."""
    one = beside(f"{family}-seed0", count)
    labels = one.teacher.inputs("heldout", count)[1]
    other = cached_teacher(f"{family}-seed1")
    loss = Loss(one.teacher, labels, one.reference.mask)
    found = {}
    for name, teacher in {TEACHER: one.teacher, OTHER: other}.items():
        assert isinstance(teacher.model, Transformer)
        state = teacher_gradient(teacher, one.inputs, labels).gradients[0]
        found[name] = InputGradient(state, input_matrix(teacher.model))
    matrix = found[TEACHER].matrix
    equations = {name: InputGradient(each[0], matrix) for name, each in equation_gradients(one, loss).items()}
    found |= equations | class_gradients(one, labels, KNOWN)
    return Shown(one, {name: found[name] for name in SHOWN})
