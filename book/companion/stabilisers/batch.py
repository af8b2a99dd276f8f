"""Trains one network from several seeds at several learning rates, as one tensor program.

Every parameter has a leading axis that counts the cells, seed by seed, rate by rate. A cell sees the batches of its
own seed, is clipped by its own norm and takes steps of its own rate; one whose loss has grown to twice what it was at
the beginning has *diverged*: its step is noted, and it stands still from then on.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state

from pdelens.pde.checkpoints import generator_for
from pdelens.pde.loop import Loop

from ..data.splits import Examples
from ..teachers.stack import clip_each, mask_of
from .switches import Switched, Switches

# A loss so many times that of the beginning, mean over so many steps, has diverged.
TWICE, WINDOW = 2.0, 10
# A checkpoint is written, and a point of the learning curve noted, after so many steps.
EVERY = 50


@dataclass(frozen=True)
class Plan:
    """How the cells of one network are trained: by Adam (no decay), at a rate that falls to zero like half a cosine.

    `warm` lets the rate rise over the first tenth of the steps; `clip` is the largest norm of a gradient (0: any).
    """

    switches: Switches
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    steps: int = 300
    batch: int = 32
    warm: bool = True
    clip: float = 0.0

    @property
    def cells(self) -> list[tuple[int, float]]:
        """Seed and rate of every cell, in the order of the stack."""
        return [(seed, rate) for seed in self.seeds for rate in self.rates]


class RatedAdam(torch.optim.Optimizer):
    """Adam on stacked parameters, whose rate is `lr` times a rate for each member of the stack; those at 0 rest."""

    def __init__(self, parameters, rates: Tensor, betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-8):
        super().__init__(parameters, {"lr": 1.0, "betas": betas, "eps": eps})
        self.rates = rates

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step; a member at rest is left as it is, whatever its gradient holds."""
        moving = self.rates > 0
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {"step": torch.zeros(()), "mean": parameter * 0, "square": parameter * 0}
                state["step"] += 1
                along = [-1, *[1] * (parameter.ndim - 1)]
                gradient = torch.where(moving.view(along), parameter.grad, 0.0)
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                done = float(state["step"])
                scale = (state["square"] / (1 - second**done)).sqrt_().add_(group["eps"])
                pace = group["lr"] / (1 - first**done) * self.rates.view(along)
                parameter -= torch.where(moving.view(along), pace * state["mean"] / scale, 0.0)


class Batch:
    """The stack of a plan's cells; `module` is a network whose parameters have the cells as first axis."""

    def __init__(self, plan: Plan, device: str = "cpu", dtype: torch.dtype = torch.float32):
        self.plan = plan
        begun = {seed: Switched(plan.switches, seed).to(dtype) for seed in plan.seeds}
        stacked, _ = stack_module_state([begun[seed] for seed, _ in plan.cells])  # type: ignore[arg-type]
        self.module = begun[plan.seeds[0]].to(device).train()
        for name, parameter in self.module.named_parameters():
            parameter.data = stacked[name].detach().to(device)
        rates = torch.tensor([rate for _, rate in plan.cells], dtype=dtype, device=device)
        self.optimizer = RatedAdam(self.module.parameters(), rates)

    def losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return each cell's mean cross-entropy, (cells,), on inputs (cells, batch, ...); 0 of those at rest.

        What rests is not computed: at the largest rates of a grid most cells do, for most of the steps.
        """
        live = (self.optimizer.rates > 0).nonzero().flatten()
        stacked = dict(self.module.named_parameters())
        if len(live) < len(inputs):
            stacked = {name: parameter[live] for name, parameter in stacked.items()}
            inputs, labels = inputs[live], labels[live]
        whole = torch.zeros_like(self.optimizer.rates)
        if not len(live):
            return whole.requires_grad_()
        mask = mask_of(self.plan.switches.configuration, inputs)

        def loss(parameters, inputs, labels, mask):
            return F.cross_entropy(functional_call(self.module, parameters, (inputs, mask)), labels)

        axes = (0, 0, 0, None if mask is None else 0)
        return whole.index_copy(0, live, torch.vmap(loss, in_dims=axes)(stacked, inputs, labels, mask))

    def clip(self) -> None:
        """Scale each cell's gradient down to at most the plan's norm."""
        clip_each(self.module.parameters(), self.plan.clip)

    def rest(self, cells: Tensor) -> None:
        """Let cells, True in (cells,), stand still: what is in them is finite again, and never moves."""
        self.optimizer.rates.masked_fill_(cells, 0.0)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.masked_fill_(cells.view(-1, *[1] * (parameter.ndim - 1)), 0.0)

    def model(self, cell: int) -> Switched:
        """Return one cell's network on its own, on the CPU."""
        dtype = next(self.module.parameters()).dtype
        single = Switched(self.plan.switches, self.plan.cells[cell][0]).to(dtype)
        single.load_state_dict({name: value[cell].cpu() for name, value in self.module.state_dict().items()})
        return single.eval()


def drawn(seed: int, step: int, batch: int, among: int) -> Tensor:
    """Return which examples a seed's step sees; a stream of its own, so that any step can be gone back to."""
    return torch.randint(among, (batch,), generator=generator_for(seed, step))


def train(
    plan: Plan,
    data: Examples,
    checkpoint: Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    stop: Callable[[], bool] | None = None,
) -> tuple[Batch, dict[str, Any]] | None:
    """Train all cells of a plan, from the last checkpoint on; None where `stop`, asked at each, said so.

    Returns the stack and `curve` [points][cells] (mean training loss since the point before), `diverged` [cells] (at
    which step; None: never) and `seconds`.
    """
    batch = Batch(plan, device, dtype)
    how = {"checkpoint": checkpoint, "keep_before": True, "label": "cells"}
    loop = Loop(batch.module, batch.optimizer, {"plan": asdict(plan)}, plan.steps, 1.0, **how)
    notes = loop.about
    notes.setdefault("diverged", [None] * len(plan.cells))
    notes.setdefault("curve", [])
    notes.setdefault("recent", [])
    batch.rest(torch.tensor([at is not None for at in notes["diverged"]], device=device))
    own = Examples(*(column.to(device) for column in data))
    for step in loop:
        chosen = torch.stack([drawn(seed, step, plan.batch, len(data.labels)) for seed in plan.seeds])
        chosen = chosen.repeat_interleave(len(plan.rates), 0).to(device)  # (cells, batch)
        if not plan.warm and step < plan.steps // 10:
            batch.optimizer.param_groups[0]["lr"] = 1.0
        losses = batch.losses(own.inputs[chosen], own.labels[chosen])
        loop.descend(losses.sum(), batch.clip if plan.clip else None)
        _watch(batch, notes, losses.detach(), step)
        if loop.due(EVERY):
            loop.keep()
            if stop is not None and step + 1 < plan.steps and stop():
                loop.stop()
    if notes["step"] < plan.steps:
        return None
    return batch, {name: notes[name] for name in ("curve", "diverged", "seconds")}


def _watch(batch: Batch, notes: dict[str, Any], losses: Tensor, step: int) -> None:
    """Keep the last losses, note which cells have diverged, and let these rest."""
    recent = [*notes["recent"], losses.tolist()][-EVERY:]
    notes.setdefault("first", recent[0])
    now = torch.tensor(recent[-WINDOW:], dtype=torch.float64, device=losses.device).mean(0)
    first = torch.tensor(notes["first"], dtype=torch.float64, device=losses.device)
    over = ~(now <= TWICE * first)  # not a number is over, too
    for cell in over.nonzero().flatten().tolist():
        if notes["diverged"][cell] is None:
            notes["diverged"][cell] = step + 1
    batch.rest(torch.tensor([at is not None for at in notes["diverged"]], device=losses.device))
    if (step + 1) % EVERY == 0 or step + 1 == batch.plan.steps:
        since = torch.tensor(recent[-EVERY:], dtype=torch.float64).mean(0).tolist()
        alive = [at is None for at in notes["diverged"]]
        notes["curve"].append([value if there else None for value, there in zip(since, alive, strict=True)])
    notes["recent"] = recent


def alone(plan: Plan, seed: int, rate: float) -> Plan:
    """Return the plan of one cell by itself."""
    return replace(plan, seeds=(seed,), rates=(rate,))
