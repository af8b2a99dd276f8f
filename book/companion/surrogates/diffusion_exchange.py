"""Attention exchanged between a teacher and an equation, beside maps that know nothing of the input."""

from typing import NamedTuple

import torch

from pdelens.agreement.nulls import attention_nulls
from pdelens.models import Transformer

from .patching import Effect, equation_effects, substitution_effects
from .solution_fields import GRADED, Subject

# Maps that see no input, or another one; of `attention_nulls`.
BLIND = ("mean map", "uniform", "other input")


class Exchange(NamedTuple):
    """What each source's maps do in the teacher and in its equation, by source; "own" is the untouched run."""

    teacher: dict[str, Effect]
    equation: dict[str, Effect]

    def best_null(self) -> float:
        """Return the largest share of its accuracy that the teacher keeps with maps that are blind."""
        return max(self.teacher[name].kept for name in BLIND)


def exchange(one: Subject) -> Exchange:
    """Put the equations' maps into the teacher, the teacher's into the refined equation, and the nulls' into both.

    Heads are in the calibration's aligned order, and are put back for the teacher. The equation is solved by Heun's
    steps that get finer towards the entry, a given map being held over each layer. Cost: a pass or a solution a source.
    """
    teacher, flow = one.teacher, one.flow
    assert isinstance(teacher.model, Transformer)
    inputs, labels = teacher.inputs("heldout", len(flow.mask))
    tokens, mask = (inputs["inputs"], inputs["mask"]) if isinstance(inputs, dict) else (inputs, None)
    nulls = attention_nulls(flow, one.calibration)
    blind = {name: nulls[name] for name in BLIND}
    ours = {name: one.solution(name) for name in ("refined", "one-step")}
    given = {"labels": labels, "mask": mask}
    into_teacher = substitution_effects(teacher.model, tokens, ours | blind, orders=teacher.orders, **given)
    how = {"method": "heun", "substeps": 5, "depths": GRADED}
    sources = {"teacher": flow, **blind}
    into_equation = equation_effects(one.fields["refined"], teacher.model, tokens, sources, **given, **how)
    return Exchange(into_teacher, into_equation)


@torch.no_grad()
def constant_answer(one: Subject) -> float:
    """Return the share of the teacher's answers that are its most frequent class: how far a constant agrees."""
    answers = one.teacher.readout(one.flow.states[-1], one.flow.mask).argmax(-1)
    return float(answers.bincount().max() / len(answers))
