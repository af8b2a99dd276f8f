"""What a change of the input passes through: a teacher, its equations, and what knows less, each as one kind of map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.models import Patches, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.flow_map import FlowMap

from ..surrogates.candidates import affine_map
from ..teachers.teacher import Inputs, Teacher
from ..theory.token_influence import STEPS

# (state, padding, depth where it enters) -> the states at whole depths from there to the last
States = Callable[[Tensor, Tensor | None, int], tuple[Tensor, ...]]
AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Mover:
    """A model that moves an input through its depths: embedded and read out by a teacher, moved by `states`.

    `at_once` examples keep the graph of a gradient. A change of the input is given as `z` (examples, tokens, inner):
    pixels of each patch for pictures, the embedding itself for texts, whose pieces have no small changes. A solution
    has an `adaptive` one beside it: the last state from the first, by a solver that chooses its own steps.
    """

    teacher: Teacher
    states: States
    at_once: int = 16
    adaptive: Callable[[Tensor, Tensor | None], Tensor] | None = None

    @property
    def model(self) -> Transformer:
        """The Transformer that embeds and reads out."""
        assert isinstance(self.teacher.model, Transformer)
        return self.teacher.model

    def embedded(self, inputs: Inputs) -> Tensor:
        """Return the states at depth 0."""
        with torch.no_grad():
            return self.model.embedding(inputs["inputs"] if isinstance(inputs, dict) else inputs)

    @property
    def _lifting(self) -> Tensor | None:
        embed = self.model.embed
        return embed.project.weight.detach().flatten(1) if isinstance(embed, Patches) else None

    @property
    def inner(self) -> int:
        """How many numbers of the input make a token."""
        lifting = self._lifting
        return self.teacher.width if lifting is None else lifting.shape[1]

    def lifted(self, z: Tensor) -> Tensor:
        """Return the change of the embedding (examples, tokens, width) that a change of the input makes."""
        lifting = self._lifting
        return z if lifting is None else z @ lifting.T

    def pulled(self, gradient: Tensor) -> Tensor:
        """Return a gradient with respect to the embedding as one with respect to the input."""
        lifting = self._lifting
        return gradient if lifting is None else gradient @ lifting

    def dropped(self, direction: Tensor) -> Tensor:
        """Return the least change of the input that makes a change of the embedding, or what of it an input can make.

        `lifted(dropped(direction))` is the part of the direction that some change of the input makes.
        """
        lifting = self._lifting
        return direction if lifting is None else direction @ torch.linalg.pinv(lifting).T

    @torch.no_grad()
    def run(self, u: Tensor, padding: Tensor | None, start: int = 0) -> tuple[Tensor, ...]:
        """Return the states at whole depths from `start`, where they are u."""
        parts = []
        for some in torch.arange(len(u)).split(AT_ONCE):
            parts.append(self.states(u[some], None if padding is None else padding[some], start))
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    @torch.no_grad()
    def logits(self, last: Tensor, padding: Tensor | None) -> Tensor:
        """Return what the teacher's head reads of last states."""
        return self.teacher.readout(last, padding)

    def attack(self, u: Tensor, padding: Tensor | None, labels: Tensor) -> Tensor:
        """Return the direction `z` of the input in which the loss of the true classes rises fastest at first.

        The gradient of cross-entropy is that of the margin `logsumexp(others) - own` times a positive number, which
        vanishes in float32 where a model is sure: the margin's is returned.
        """
        found = []
        for some in torch.arange(len(u)).split(self.at_once):
            few = None if padding is None else padding[some]
            point = u[some].detach().clone().requires_grad_()
            with torch.enable_grad():
                logits = self.teacher.readout(self.states(point, few, 0)[-1], few)
                own = logits.gather(1, labels[some, None])[:, 0]
                others = logits.scatter(1, labels[some, None], float("-inf")).logsumexp(1)
                (gradient,) = torch.autograd.grad((others - own).sum(), point)
            found.append(gradient)
        return self.pulled(torch.cat(found))

    def flow_map(self, u: Tensor, padding: Tensor | None, start: int, end: int) -> FlowMap:
        """Return the map between two whole depths at a state, for its Jacobian."""
        return FlowMap(lambda v: self.states(v, padding, start)[end - start], u, padding, (start, end))


def blocks_of(teacher: Teacher) -> Mover:
    """Return a Transformer itself."""
    model: Any = teacher.model

    def states(u: Tensor, padding: Tensor | None, start: int) -> tuple[Tensor, ...]:
        found, allowed = [u], None if padding is None else padding[:, None, None, :]
        for block in model.blocks[start:]:
            found.append(block(found[-1], allowed))
        return tuple(found)

    return Mover(teacher, states, AT_ONCE)


def solution_of(teacher: Teacher, pde: PDE, substeps: int = 1) -> Mover:
    """Return an equation's solution: `substeps` Runge-Kutta steps of order 4 between successive `STEPS`.

    Fixed steps, since an adaptive solver's own choices would differ between an input and its change.
    """

    def states(u: Tensor, padding: Tensor | None, start: int) -> tuple[Tensor, ...]:
        times = [time for time in STEPS if time >= start]
        flow = integrate(pde, u, times, "rk4", substeps, mask=padding, check_steps=False)
        return tuple(state for time, state in zip(times, flow.states, strict=True) if time == int(time))

    @torch.no_grad()
    def adaptive(u: Tensor, padding: Tensor | None) -> Tensor:
        how: dict[str, Any] = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
        return integrate(pde, u, [0.0, pde.depth], mask=padding, check_steps=False, **how).states[-1]

    return Mover(teacher, states, max(1, 16 // substeps), adaptive)


def network_of(teacher: Teacher, pde: PDE) -> Mover:
    """Return a field run with one Lie step a layer: a network, whatever it was calibrated as."""

    def states(u: Tensor, padding: Tensor | None, start: int) -> tuple[Tensor, ...]:
        depths = [float(depth) for depth in range(start, int(pde.depth) + 1)]
        return integrate(pde, u, depths, "lie", mask=padding, check_steps=False).states

    return Mover(teacher, states, AT_ONCE)


def affine_of(teacher: Teacher, calibration: Flow) -> Mover:
    """Return the best affine map of each layer, one after the other: linear, and the same for every input."""
    maps = affine_maps(calibration)

    def states(u: Tensor, padding: Tensor | None, start: int) -> tuple[Tensor, ...]:
        found = [u]
        for matrix, bias in maps[start:]:
            found.append(found[-1] @ matrix + bias)
        return tuple(found)

    return Mover(teacher, states, AT_ONCE)


def affine_maps(calibration: Flow) -> Sequence[tuple[Tensor, Tensor]]:
    """Return for every layer the matrix and bias that come nearest to the next state, over real tokens."""
    found = []
    for before, after in pairwise(calibration.states):
        matrix, bias = affine_map(before, after, calibration.mask)
        found.append((matrix.to(before), bias.to(before)))
    return found
