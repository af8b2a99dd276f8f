"""How alike tokens become over depth: real models, and what each of them is to be held against."""

from torch import nn

from pdelens.attention.capture import flow_of
from pdelens.flow import Flow
from pdelens.models import Transformer

from ..pretrained.models import PATCH
from ..teachers.teacher import Inputs, teacher_named
from ..theory.depth_profiles import mixed
from .pretrained import disordered

# What is measured: a model; its tokens put into other inputs' company; its input in disorder; random weights.
KINDS = ("trained", "other company", "disordered", "random weights")


def together(
    model: nn.Module, untrained: nn.Module, inputs: Inputs, patch: int = PATCH, seed: int = 0
) -> dict[str, Flow]:
    """Return the states of a model on inputs, and those that they are held against (`KINDS`)."""

    def states(which: nn.Module, given: Inputs) -> Flow:
        return flow_of(which, given, attention=None, batch=16)

    own = states(model, inputs)
    flows = own, mixed(own, seed), states(model, disordered(inputs, seed, patch)), states(untrained, inputs)
    return dict(zip(KINDS, flows, strict=True))


def teacher_together(name: str, count: int) -> dict[str, Flow]:
    """Return the same of a teacher of this book on held-out inputs."""
    teacher = teacher_named(name)
    inputs, _ = teacher.inputs("heldout", count)
    assert isinstance(teacher.model, Transformer)
    return together(teacher.model, teacher.untrained().model, inputs, teacher.model.configuration.patch)
