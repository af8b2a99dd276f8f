"""A teacher's Flows on many examples, kept: what calibrations draw their batches from."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.lattice import Lattice

from ..jobs import Run
from .teacher import Teacher, cached_teacher


@dataclass(frozen=True, eq=False)
class Bank:
    """A teacher's Flows on many examples in half precision: what a calibration draws its batches from.

    Running the teacher anew for every batch would cost a third of each step. Memory: for 49 tokens, width 64, six
    layers of four heads 160 kB an example.
    """

    states: Tensor  # (examples, layers + 1, tokens, width)
    attention: Tensor  # (examples, layers, heads, tokens, tokens)
    mask: Tensor  # (examples, tokens)
    labels: Tensor  # (examples,)
    lattice: Lattice
    causal: bool = False

    @classmethod
    def of(cls, teacher: Teacher, split: str, count: int, device: str | torch.device = "cpu") -> "Bank":
        """Run a teacher on so many examples of a split and keep its Flows on a device."""
        inputs, labels = teacher.inputs(split, count)
        states, attention, masks, causal = [], [], [], False
        for start in range(0, len(labels), 250):
            part = slice(start, start + 250)
            given = inputs[part] if isinstance(inputs, Tensor) else {name: v[part] for name, v in inputs.items()}
            flow = teacher.flow(given, device)
            states.append(torch.stack(flow.states, 1).half())
            attention.append(torch.stack(flow.attention, 1).half())
            masks.append(flow.mask)
            causal = flow.causal
        parts = torch.cat(states), torch.cat(attention), torch.cat(masks), labels.to(device)
        return cls(*parts, teacher.lattice, causal)

    def draw(self, generator: torch.Generator, batch: int) -> tuple[Flow, Tensor]:
        """Return a batch drawn with replacement, as a Flow in single precision, and its classes."""
        chosen = torch.randint(0, len(self.labels), (batch,), generator=generator).to(self.states.device)
        return self.flow(chosen), self.labels[chosen]

    def flow(self, chosen: Tensor | slice) -> Flow:
        """Return the Flow of chosen examples."""
        attention = self.attention[chosen].float()
        # Halves round: rows sum to 1 again, but for padding, whose rows may hold anything.
        attention = attention / attention.sum(-1, keepdim=True).clamp_min(1e-6)
        states = self.states[chosen].float().unbind(1)
        return Flow(states, attention.unbind(1), self.mask[chosen], self.causal, lattice=self.lattice)


@lru_cache(maxsize=1)
def cached_bank(name: str, run: Run, count: int) -> Bank:
    """Return a teacher's training Flows, kept until another's are asked for."""
    return Bank.of(cached_teacher(name, run), "train", count, run.device)
