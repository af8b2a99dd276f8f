"""The map's networks read as equations: with and without a norm, with and without what a residual connection carries.

Layer l of a network adds `F_l(u)` to the state (with a residual connection), or puts `F_l(u)` in its place (without).
As an equation the former is `du/dt = F_l(u)` for l - 1 < t < l, the latter `du/dt = F_l(u) - u`: each layer is Euler's
step of size 1. Smaller steps lead to the equation's solution, and say what is the network's and what is its steps'.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.splits import load_splits, shuffled
from ..jobs import Job, Run
from ..surrogates.study import rounded
from ..teachers.recipes import fits
from ..teachers.stack import mask_of
from ..theory.clusters import diameter
from ..theory.stabilisers import ergodicity
from .switches import Switched, SwitchedBlock, Switches
from .training_map import LENGTH, PART, SEEN, SHAPES, SIZES, data_identity, first_of

KIND = "equation"
FORMS, NORMS_KEPT = ("plain", "none"), ("pre", "post", "none")
# Branches as they are drawn, and so much stronger.
GAINS = (1.0, 4.0)
# Steps a layer: the network's own, and two so fine that their difference says what is left of the error.
STEPS = (1, 32, 64)
DEPTH = {"smoke": 2, "book": 6, "full": 12}
# gelu's largest slope.
_SLOPE = 1.129


@dataclass(frozen=True)
class Equations(Job):
    """Networks of a modality at their beginning, one step a layer and converged, with every switch."""

    modality: str

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{KIND}-{self.modality}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the switches, steps and data."""
        found = {"gains": GAINS, "steps": STEPS, "depth": DEPTH[run.scale], "seeds": SIZES[run.scale]["seeds"]}
        return found | data_identity(self.modality, run)

    def line(self, record: Mapping[str, Any]) -> str:
        """Return how far the finest two step sizes are apart at most."""
        return f"half as many steps change sizes by {max(max(one['error']) for one in record.values()):.1e} at most"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what `measured` finds, by `<residual> <norm> <gain>`, each over seeds."""
        seen = first_of(shuffled(load_splits(self.modality, LENGTH, run.folder).followed), SEEN).inputs
        shape = replace(SHAPES[self.modality], layers=DEPTH[run.scale])
        found: dict[str, Any] = {}
        for form in FORMS:
            for norm in NORMS_KEPT:
                for gain in GAINS:
                    switches = Switches(form, norm, shape, gain)
                    seeds = [measured(Switched(switches, s).eval(), seen) for s in range(SIZES[run.scale]["seeds"])]
                    found[key_of(form, norm, gain)] = {name: [one[name] for one in seeds] for name in seeds[0]}
        return rounded(found)


def key_of(form: str, norm: str, gain: float) -> str:
    """Return the name of a set of switches in a record."""
    return f"{form} {norm} {gain:g}"


def equation_jobs(run: Run, only: str = "*") -> list[Equations]:
    """Return the jobs that fit."""
    return [job for job in map(Equations, SHAPES) if fits(job.name, only.split(","))]


def equation_names() -> list[str]:
    """Return the names of all jobs."""
    return [Equations(modality).name for modality in SHAPES]


@torch.no_grad()
def measured(model: Switched, inputs: Tensor) -> dict[str, float | None]:
    """Return what one step a layer and the solution make of a network's first state, means over examples.

    `growth` and `growth converged`: the largest token's norm at the last depth over that at depth 0; `kept` and `kept
    converged`: the largest distance of two tokens over its size, in the end over the beginning; `error`: how much half
    as many steps change `growth converged`; `bound`: what `growth` is at most by `growth_bound`; `kept bound`: what
    `kept` of the distances themselves is at most by `collapse_bound` (None but for networks with neither).
    """
    model, mask = model.double(), mask_of(model.configuration, inputs)
    paths = {steps: solved(model, inputs, mask, steps) for steps in STEPS}
    first, ends = paths[1][0], {steps: path[-1] for steps, path in paths.items()}
    real = _real(first, mask)

    def size(u: Tensor) -> Tensor:
        return u.norm(dim=-1).masked_fill(~real, 0.0).amax(1)  # (batch,)

    def apart(u: Tensor) -> Tensor:
        return torch.stack([diameter(tokens[there]) for tokens, there in zip(u, real, strict=True)])

    growth = {steps: (size(end) / size(first)).mean() for steps, end in ends.items()}
    kept = {steps: (apart(end) / size(end) / (apart(first) / size(first))).mean() for steps, end in ends.items()}
    coarse, fine = STEPS[-2:]
    bare = model.layers[0].carried == 0 and isinstance(model.layers[0].norm_mlp, nn.Identity)
    bound = collapse_bound(model, paths[1], mask).mean() if bare else None
    return {
        "growth": float(growth[1]),
        "growth converged": float(growth[fine]),
        "kept": float(kept[1]),
        "kept converged": float(kept[fine]),
        "error": float(abs(growth[coarse] / growth[fine] - 1)),
        "bound": float((growth_bound(model, size(first)) / size(first)).mean()),
        "apart": float((apart(ends[1]) / apart(first)).mean()),
        "kept bound": None if bound is None else float(bound),
    }


def solved(model: Switched, inputs: Tensor, mask: Tensor | None, steps: int) -> list[Tensor]:
    """Return the states at every depth by Euler's method with so many steps a layer; one is the network's own."""
    u, allowed = model.embedding(inputs), None if mask is None else mask[:, None, None, :]
    found = [u]
    for block in model.layers:
        for _ in range(steps):
            u = u + (block(u, allowed) - u) / steps
        found.append(u)
    return found


def growth_bound(model: Switched, size: Tensor) -> Tensor:
    """Return what the largest token's norm is at most at the last depth, given its `size` at depth 0, (batch,).

    A row of attention is a weighted mean, so that no token of `A v` is longer than the longest of `v`: a head's part
    is at most `|W_v W_o|` times what it reads, a feed-forward part `|W_1| |W_2|` times (|gelu(x)| <= |x|), plus biases.
    What it reads has norm sqrt(width) behind a norm, and the size of the state without: linear growth, or exponential.
    """
    width = model.configuration.width**0.5
    normed = not isinstance(model.layers[0].norm_mlp, nn.Identity)
    for block in model.layers:
        for slope, added in _branch_bounds(block):
            if block.post:
                size = torch.full_like(size, width)
            else:
                size = size * block.carried + slope * (width if normed else size) + added
    return size


def collapse_bound(model: Switched, states: list[Tensor], mask: Tensor | None) -> Tensor:
    """Return which share of the diameter is left at most in a network with neither connection nor norm, (batch,).

    Two tokens of `A v` differ by at most `ergodicity(A)` of the diameter of `v`, head by head; the feed-forward part
    stretches a distance by no more than `|W_1| |W_2|` times gelu's slope.
    """
    allowed, left = None if mask is None else mask[:, None, None, :], torch.ones(len(states[0]), dtype=torch.double)
    for block, state in zip(model.layers, states, strict=False):
        maps = block.attention_at(state, allowed)
        each = zip(maps, _real(state, mask), strict=True)
        shares = torch.stack([ergodicity(one[:, there][..., there]) for one, there in each])
        first, last = block.linear
        left = left * (shares * torch.tensor(_head_norms(block))).sum(-1) * _SLOPE * _norm(first) * _norm(last)
    return left


def _real(u: Tensor, mask: Tensor | None) -> Tensor:
    """Return which tokens of a state are real, (batch, tokens)."""
    return torch.ones(u.shape[:2], dtype=torch.bool) if mask is None else mask


def _branch_bounds(block: SwitchedBlock) -> list[tuple[float, float]]:
    """Return slope and offset of what attention and feed-forward part make at most of the largest token's norm."""
    attention, (first, last) = block.attention, block.linear
    width = attention.project.in_features
    values = attention.queries_keys_values.bias[2 * width :]
    offset = float((attention.project.weight @ values + attention.project.bias).norm())
    inner = _norm(last)
    return [
        (sum(_head_norms(block)), offset),
        (inner * _norm(first), inner * float(first.bias.norm()) + float(last.bias.norm())),
    ]


def _head_norms(block: SwitchedBlock) -> list[float]:
    """Return the spectral norm of each head's values and projection as one matrix."""
    attention = block.attention
    width = attention.project.in_features
    values = attention.queries_keys_values.weight[2 * width :].chunk(attention.heads)
    outs = attention.project.weight.chunk(attention.heads, 1)
    return [float(torch.linalg.matrix_norm(out @ value, 2)) for out, value in zip(outs, values, strict=True)]


def _norm(layer: nn.Linear) -> float:
    return float(torch.linalg.matrix_norm(layer.weight, 2))
