"""What of claim C4 is the budget's: gradients at half the budget, and of the architecture learnt anew."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pdelens.models import Transformer

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import BINDING, HALF, RELEARNT, Beside
from ..surrogates.laws import MAIN_BUDGET
from ..surrogates.study import rounded, weight_digests
from ..theory.token_influence import STEPS
from .gradients import COUNTS, PART, SUBSTEPS, Loss, agreement, solved, stepped, teacher_gradient
from .input_gradients import InputGradient, input_matrix

BUDGET = "budget"
# At half the budget, by the law that it is half of.
HALVES = {"three laws": HALF, "one law": "one law, half the budget"}
FAMILIES = {**BINDING, HALVES["one law"]: f"laws-k1-b{MAIN_BUDGET // 2}"}


@dataclass(frozen=True)
class GradientBudget(Job):
    """A loss's gradient by the input, of what says how far a budget binds."""

    teacher: str
    needs = (candidates.LAWS["three laws"], *FAMILIES.values())
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{BUDGET}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, how many examples, the steps and the weights."""
        names = [candidates.equation_name(self.teacher, family) for family in FAMILIES.values()]
        return {
            "scale": run.scale,
            "examples": COUNTS[run.scale][0],
            "steps": [*STEPS, SUBSTEPS],
            "weights": weight_digests([self.teacher], names, run),
        }

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the cosines in the space of inputs."""
        return ", ".join(f"{name}: cosine {found['cosine']:.3f}" for name, found in record["input"].items())

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        return rounded(measure(candidates.beside(self.teacher, COUNTS[run.scale][0], run)))


def measure(one: Beside) -> dict[str, Any]:
    """Return `input`, by name (`FAMILIES`), as `gradients.measure` does of what stands beside a teacher."""
    model, labels, mask = one.teacher.model, one.teacher.inputs("heldout", one.count)[1], one.reference.mask
    assert isinstance(model, Transformer)
    matrix, loss, found = input_matrix(model), Loss(one.teacher, labels, mask), {}
    own = InputGradient(teacher_gradient(one.teacher, one.inputs, labels).gradients[0], matrix)
    for name, family in FAMILIES.items():
        pde = one.equation(family)
        assert pde is not None
        back = stepped(one, loss, pde) if name == RELEARNT else solved(one, loss, pde)
        found[name] = agreement(InputGradient(back[0], matrix), own, mask)
    return {"input": found}
