"""Calibrates a PDE to a teacher's Flows, under a named supervision and a named policy of sub-steps."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .flow import Flow
from .integrate import DivergenceError, Steps, solve
from .optimisation import generator_for, one_cycle, restore, store
from .pde import PDE

SUPERVISIONS = ("states", "attention+states", "attention+states+logits", "labels")
Teacher = Flow | Callable[[torch.Generator, int], Flow | tuple[Flow, Tensor]]


class FitError(RuntimeError):
    """A calibration diverged; the message names step and term, and where the last good state lies."""


@dataclass(frozen=True)
class Plan:
    """What a calibration does, and what makes it the same again.

    `substeps` is the policy: a number (fixed), or (low, high), drawn anew at every optimiser step.
    `refinement` adds this weight times the distance between one and two sub-steps (the refinement
    penalty). `patience` counts validations without improvement before stopping early (0: never).
    """

    supervision: str = "attention+states"
    substeps: int | tuple[int, int] = 1
    refinement: float = 0.0
    method: str = "lie"
    steps: int = 1000
    batch: int = 64
    peak_rate: float = 3e-3
    validate_every: int = 100
    patience: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.supervision not in SUPERVISIONS:
            raise ValueError(f"supervision {self.supervision!r} was given: choose from {', '.join(SUPERVISIONS)}.")
        low, high = (self.substeps, self.substeps) if isinstance(self.substeps, int) else self.substeps
        if low < 1 or high < low:
            raise ValueError(f"sub-steps {self.substeps} were given: a number, or (low, high), from 1 up, is wanted.")

    def draw_substeps(self, generator: torch.Generator) -> int:
        """Return the number of sub-steps for one optimiser step."""
        if isinstance(self.substeps, int):
            return self.substeps
        low, high = self.substeps
        return int(torch.randint(low, high + 1, (1,), generator=generator))


@dataclass(frozen=True, eq=False)
class Fit:
    """A calibrated PDE, and the record of its calibration: plan, curve, best validation loss."""

    pde: PDE
    record: dict[str, Any] = field(repr=False)


def fit(
    pde: PDE,
    flows: Teacher,
    plan: Plan | None = None,
    *,
    validation: Flow | None = None,
    readout: Callable[[Tensor], Tensor] | None = None,
    checkpoint: str | Path | None = None,
    stop_after: int | None = None,
    **settings: Any,
) -> Fit:
    """Calibrate a PDE to a teacher, rolled out from the state at depth 0 alone.

    `flows` is the teacher's Flow, from which batches are drawn, or a function (generator, batch) ->
    Flow (with `labels` supervision: -> (Flow, labels)). The loss sums, over what `supervision` names:
    `states`: squared error over variance, mean over depths 1 ... L; `attention`: KL(teacher, PDE) per
    row; `logits`: KL of the classes that `readout` gives; `labels`: their cross-entropy, no teacher.
    `settings` are fields of `Plan`. With `checkpoint`, a killed calibration goes on where it was and
    ends with the same result. The parameters of the best validation are kept. Raises `FitError` where
    the loss is no longer finite. Adam, one cycle, gradients clipped at norm 1.
    """
    plan = Plan(**settings) if plan is None else plan
    if plan.supervision in ("labels", "attention+states+logits") and readout is None:
        raise ValueError(f"supervision {plan.supervision!r} was asked for without a readout: give the teacher's head.")
    path = None if checkpoint is None else Path(checkpoint)
    optimizer = torch.optim.Adam(pde.parameters(), lr=plan.peak_rate, betas=(0.9, 0.98))
    job = asdict(plan) | {"equation": str(pde)}
    found = restore(path, job, pde, optimizer) if path is not None else None
    about, best = found or ({"job": job, "step": 0, "curve": [], "best": None, "waited": 0}, {})
    scales: Tensor | None = best.pop("scales", None)
    bar = tqdm(total=plan.steps, initial=about["step"], desc="fit", unit="step", file=sys.stderr, disable=None)
    began = about["step"]
    while about["step"] < plan.steps:
        number = about["step"]
        flow, labels = _drawn(flows, generator_for(plan.seed, number), plan.batch)
        if scales is None:
            scales = _variances(flow)
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(plan.peak_rate, number, plan.steps)
        measure = partial(_loss, pde, flow, labels, plan, scales, readout, number)
        loss = _guarded(measure, number, path)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pde.parameters(), 1.0)
        optimizer.step()
        about["step"] = number + 1
        bar.update()
        if about["step"] % plan.validate_every == 0 or about["step"] == plan.steps:
            held = loss if validation is None else _validated(pde, validation, plan, scales, readout, number, path)
            about["curve"].append([about["step"], float(loss.detach()), float(held.detach())])
            bar.set_postfix(loss=f"{float(loss.detach()):.4f}", validation=f"{float(held.detach()):.4f}")
            better = about["best"] is None or float(held.detach()) < about["best"]
            about["waited"] = 0 if better else about["waited"] + 1
            if better:
                about["best"] = float(held.detach())
                best = {name: value.detach().clone() for name, value in pde.state_dict().items()}
            if path is not None:
                store(path, about, pde, optimizer, best | {"scales": scales})
            if plan.patience and about["waited"] >= plan.patience:
                break
        if stop_after is not None and about["step"] - began >= stop_after:
            break
    bar.close()
    if (best and about["step"] >= plan.steps) or (plan.patience and about["waited"] >= plan.patience):
        pde.load_state_dict(best)
    return Fit(pde, {key: about[key] for key in ("job", "step", "curve", "best")})


def _drawn(flows: Teacher, generator: torch.Generator, batch: int) -> tuple[Flow, Tensor | None]:
    if isinstance(flows, Flow):
        return flows.select(torch.randperm(flows.examples, generator=generator)[:batch]), None
    drawn = flows(generator, batch)
    return drawn if isinstance(drawn, tuple) else (drawn, None)


def _variances(flow: Flow) -> Tensor:
    """Variance of the teacher's states about their mean over examples, per depth from 1, (layers,)."""
    assert flow.mask is not None
    return torch.stack([(s - s.mean(0)).square().mean() for s in flow.states[1:]]).detach()


def _loss(pde: PDE, flow: Flow, labels, plan: Plan, scales: Tensor, readout, number: int) -> Tensor:
    generator = generator_for(plan.seed, 10_000_000 + number)
    substeps = plan.draw_substeps(generator)
    states, maps = _rolled_out(pde, flow, plan.method, substeps)
    loss = _supervised(states, maps, flow, labels, plan, scales, readout)
    if plan.refinement:
        finer, _ = _rolled_out(pde, flow, plan.method, 2 * substeps)
        loss = loss + plan.refinement * _state_loss(finer, states, flow, scales)
    return loss


def _rolled_out(pde: PDE, flow: Flow, method: str, substeps: int) -> tuple[list[Tensor], list[Tensor]]:
    assert flow.depths is not None
    mask = None if flow.mask is None or bool(flow.mask.all()) else flow.mask
    return solve(pde, flow.states[0], flow.depths.tolist(), Steps(method, substeps), mask)


def _supervised(states, maps, flow: Flow, labels, plan: Plan, scales: Tensor, readout) -> Tensor:
    if plan.supervision == "labels":
        return F.cross_entropy(readout(states[-1]), labels)
    loss = _state_loss(states, flow.states, flow, scales)
    if "attention" in plan.supervision:
        loss = loss + _attention_loss(maps, flow)
    if "logits" in plan.supervision:
        ours, theirs = readout(states[-1]).log_softmax(-1), readout(flow.states[-1]).log_softmax(-1)
        loss = loss + F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return loss


def _state_loss(ours, theirs, flow: Flow, scales: Tensor) -> Tensor:
    assert flow.mask is not None
    keep = flow.mask
    parts = [
        (a[keep] - b[keep]).square().mean() / scale
        for a, b, scale in zip(ours[1:], theirs[1:], scales.to(ours[-1]), strict=True)
    ]
    return torch.stack(parts).mean()


def _attention_loss(maps, flow: Flow) -> Tensor:
    """Return KL(teacher, PDE) in nats, mean over layers, heads and real rows."""
    assert flow.mask is not None
    parts = []
    for ours, theirs in zip(maps, flow.attention, strict=True):
        rows = (torch.xlogy(theirs, theirs) - theirs * ours.clamp_min(1e-12).log()).sum(-1)  # (batch, heads, queries)
        parts.append(rows.transpose(1, 2)[flow.mask].mean())
    return torch.stack(parts).mean()


@torch.no_grad()
def _validated(pde, validation, plan, scales, readout, number, path) -> Tensor:
    def measure() -> Tensor:
        substeps = plan.substeps if isinstance(plan.substeps, int) else plan.substeps[1]
        states, maps = _rolled_out(pde, validation, plan.method, substeps)
        if plan.supervision == "labels":
            return _state_loss(states, validation.states, validation, scales)
        return _supervised(states, maps, validation, None, plan, scales, readout)

    return _guarded(measure, number, path)


def _guarded(measure: Callable[[], Tensor], number: int, path: Path | None) -> Tensor:
    kept = "" if path is None else f"; the last good state is in {path}"
    try:
        loss = measure()
    except DivergenceError as error:
        raise FitError(f"optimiser step {number}: {error} Lower peak_rate{kept}.") from error
    if not bool(torch.isfinite(loss.detach())):
        raise FitError(f"optimiser step {number}: the loss is {float(loss.detach())}; lower peak_rate{kept}.")
    return loss
