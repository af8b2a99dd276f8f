"""Heat let flow in finished teachers: where it helps or hurts, and how far it is from commuting with attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pdelens.models import Transformer

from ..jobs import Job, Run
from ..surrogates.candidates import weights_there
from ..surrogates.study import rounded, weight_digests
from ..teachers.recipes import fits
from ..teachers.teacher import Teacher, teacher_named
from ..theory.token_influence import HeatKernels
from .diffusion import AFTER, BEFORE, Diffusion, commutator, in_disorder, roughness
from .measures import score
from .switches import Switched, Switches
from .training_map import PART

KIND = "diffusion"
TEACHERS = {"image-patch4": 5, "text-classifier": 3}
# Diffusivity times depth-time, tokens one apart: from a little of the nearest neighbours to most of the lattice.
AMOUNTS = (0.1, 0.3, 1.0, 3.0, 10.0)
# Of held-out examples.
COUNTS = {"smoke": 24, "book": 512, "full": 1024}
# Attention and diffusion are exchanged for this amount, on so many examples.
EXCHANGED, SEEN = 1.0, 64
# Orders of the tokens in which neighbours are strangers, by number.
DISORDERS = (1, 2, 3)


@dataclass(frozen=True)
class Diffusing(Job):
    """A teacher with heat at every place, in every amount, on its own lattice and on one in disorder."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{KIND}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the amounts, how many examples, and the weights."""
        weights = weight_digests([self.teacher], (), run)
        found = {"amounts": AMOUNTS, "examples": COUNTS[run.scale], "exchanged": [EXCHANGED, SEEN]}
        return found | {"disorders": DISORDERS, "weights": weights}

    def line(self, record: Mapping[str, Any]) -> str:
        """Return what the largest amount costs at the beginning and at the end."""
        ends = (record["loss"]["0"][-1], record["loss"][str(record["layers"])][-1])
        return f"loss {record['own']['loss']:.3f}; diffused early {ends[0]:.3f}, late {ends[1]:.3f}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return the losses and accuracies by place, and how far diffusion is from commuting."""
        found = teacher_named(self.teacher, run.folder)
        return rounded(diffused(found, COUNTS[run.scale]) | exchanged(found, min(SEEN, COUNTS[run.scale])))


def diffusing_jobs(run: Run, only: str = "*") -> list[Diffusing]:
    """Return the jobs that fit, of teachers whose weights are there."""
    fitting = [job for job in _jobs() if fits(job.name, only.split(","))]
    return [job for job in fitting if weights_there(job.teacher, run) is not None]


def diffusing_names() -> list[str]:
    """Return the names of all jobs, whether their teachers are there or not."""
    return [job.name for job in _jobs()]


def _jobs() -> list[Diffusing]:
    return [Diffusing(f"{teacher}-seed{seed}") for teacher, seeds in TEACHERS.items() for seed in range(seeds)]


@torch.no_grad()
def diffused(teacher: Teacher, count: int) -> dict[str, Any]:
    """Return a teacher's held-out loss and accuracy with heat let flow, by place, [amounts].

    `own` is without; `loss`, `accuracy` on its own lattice, `disordered` the mean loss where its tokens are in one of
    `DISORDERS`. `moved` and `moved disordered` are the dose at a depth: how far heat moves the state there, over its
    size, mean over examples.
    """
    model = teacher.model
    assert isinstance(model, Transformer)
    inputs, labels = teacher.inputs("heldout", count)
    seen = inputs if isinstance(inputs, Tensor) else inputs["inputs"]
    places = [*(str(depth) for depth in range(teacher.layers + 1)), BEFORE, AFTER]

    def scored(diffusion: Diffusion | None) -> tuple[float, float]:
        switches = Switches("plain", "pre", model.configuration, diffusion=diffusion)
        other = Switched(switches).eval()
        other.load_state_dict(model.state_dict())
        return score(other, (seen, labels))

    loss, accuracy = scored(None)
    found: dict[str, Any] = {"loss": {}, "accuracy": {}, "disordered": {}}
    for place in places:
        own = [scored(Diffusion(place, amount)) for amount in AMOUNTS]
        found["loss"][place] = [one for one, _ in own]
        found["accuracy"][place] = [one for _, one in own]
        others = [[scored(Diffusion(place, amount, order))[0] for order in DISORDERS] for amount in AMOUNTS]
        found["disordered"][place] = [sum(one) / len(DISORDERS) for one in others]
    found |= _doses(teacher, min(SEEN, count))
    return {"own": {"loss": loss, "accuracy": accuracy}, "layers": teacher.layers, "amounts": list(AMOUNTS)} | found


def _doses(teacher: Teacher, count: int) -> dict[str, Any]:
    """Return how far heat moves states at each depth, over their size, on the lattice and in disorder, [amounts]."""
    flow = teacher.of("heldout", count)
    found: dict[str, Any] = {"moved": {}, "moved disordered": {}}
    kernels = [HeatKernels(teacher.lattice, flow.mask)(amount) for amount in AMOUNTS]
    for depth, state in enumerate(state.double().masked_fill(~flow.mask.unsqueeze(-1), 0.0) for state in flow.states):

        def moved(kernel: Tensor, state: Tensor = state) -> float:
            return float(((kernel @ state - state).flatten(1).norm(dim=1) / state.flatten(1).norm(dim=1)).mean())

        found["moved"][str(depth)] = [moved(one) for one in kernels]
        others = [[moved(_strangers(one, flow.mask, order)) for order in DISORDERS] for one in kernels]
        found["moved disordered"][str(depth)] = [sum(one) / len(DISORDERS) for one in others]
    return found


def _strangers(kernels: Tensor, mask: Tensor, disorder: int) -> Tensor:
    """Return kernels (batch, tokens, tokens) with each example's real tokens, (batch, tokens), in disorder."""
    kernels = kernels.expand(len(mask), -1, -1).clone()
    for kernel, count in zip(kernels, mask.sum(1).tolist(), strict=True):
        kernel[:count, :count] = in_disorder(kernel[:count, :count], disorder)
    return kernels


@torch.no_grad()
def exchanged(teacher: Teacher, count: int) -> dict[str, Any]:
    """Return how far attention and diffusion are from commuting, and how rough states are, trained and untrained.

    `commutator` by layer, mean over heads and examples; `commutator disordered` the same with a lattice in disorder,
    mean over `DISORDERS`; `roughness` by depth, the Dirichlet energy over the size.
    """
    found: dict[str, Any] = {"commutator": {}, "commutator disordered": {}, "roughness": {}}
    for name, one in {"trained": teacher, "untrained": teacher.untrained()}.items():
        flow = one.of("heldout", count)
        kernels = HeatKernels(teacher.lattice, flow.mask)(EXCHANGED)
        real = flow.mask[:, None, :, None]
        maps = [layer.double() * real for layer in flow.attention]
        found["commutator"][name] = [float(commutator(layer, kernels * real[:, 0]).mean()) for layer in maps]
        orders = [_strangers(kernels, flow.mask, order) * real[:, 0] for order in DISORDERS]
        found["commutator disordered"][name] = [
            sum(float(commutator(layer, one).mean()) for one in orders) / len(orders) for layer in maps
        ]
        states = [state.double() for state in flow.states]
        found["roughness"][name] = [float(roughness(state, teacher.lattice, flow.mask).mean()) for state in states]
    return found
