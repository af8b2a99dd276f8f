"""Calibrates a PDE to a teacher's Flows, under a named supervision and a named policy of sub-steps."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..flow import Flow
from .checkpoints import generator_for
from .equation import PDE
from .given import planned, refuse_unusable
from .integrate import DivergenceError, solve
from .loop import Loop
from .modes import Modes
from .muon import Muon
from .plan import Plan, doubled
from .schemes import Steps

Flows = Flow | Callable[[torch.Generator, int], Flow | tuple[Flow, Tensor]]


class FitError(RuntimeError):
    """A calibration diverged; the message names step and term, and where the last good state lies.

    >>> from pdelens import PDE, Chain, Flow
    >>> from pdelens.pde.terms import Diffusion
    >>> heat, teacher = PDE({"d": Diffusion(Chain(4), 2)}, Chain(4), 1.0), Flow(torch.randn(2, 8, 4, 2))
    >>> fit(heat, teacher, supervision="states", peak_rate=1e38, optimizer="adam")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pdelens.pde.fit.FitError: optimiser step 1: ...
    """


@dataclass(frozen=True, eq=False)
class Fit:
    """A calibrated PDE (`pde`), the `record` of its calibration, and whether it came to its end (`finished`).

    The record holds `job` (the plan and the equation), `step`, `seconds`, `best` (the lowest validation loss) and
    `curve`, rows of [step, training loss, validation loss].

    >>> from pdelens import PDE, Chain, Flow
    >>> from pdelens.pde.terms import Diffusion
    >>> heat, teacher = PDE({"d": Diffusion(Chain(4), 2)}, Chain(4), 1.0), Flow(torch.randn(2, 8, 4, 2))
    >>> found = fit(heat, teacher, supervision="states", steps=9, stop_after=2)
    >>> found.finished, found.record["step"]
    (False, 2)
    """

    pde: PDE
    record: dict[str, Any] = field(repr=False)
    finished: bool = True


def fit(
    pde: PDE,
    flows: Flows,
    plan: Plan | None = None,
    *,
    validation: Flow | None = None,
    readout: Callable[..., Tensor] | None = None,
    checkpoint: str | Path | None = None,
    stop_after: int | None = None,
    until: float | None = None,
    **settings: Any,
) -> Fit:
    """Calibrate a PDE to a teacher, rolled out from the state at depth 0 alone.

    `flows` is the teacher's Flow, from which batches are drawn, or a function (generator, batch) -> Flow (with
    `labels` supervision: -> (Flow, labels)). The loss sums, over what `supervision` names: `states`: squared error
    over variance, mean over depths 1 ... L; `attention`: KL(teacher, PDE) per row; `logits`: KL of the classes that
    `readout` gives for a last state (and its mask, where tokens are padded); `labels`: their cross-entropy, no
    teacher. `settings` are fields of `Plan`. With `checkpoint`, a killed calibration goes on where it was and ends
    with the same result; `stop_after` so many steps, or at the time `until` (as `time.time`), it leaves off there
    itself, and the result is not `finished`. The parameters of the best validation are kept (`labels`: of the last
    step, as the Flow for validation has no labels). Raises `FitError` where the loss is no longer finite. One cycle
    of the rate, gradients clipped at norm 1. Cost: a step is a roll-out and its gradient, about three times the
    right-hand sides of `Plan.substeps`. Source: distillation of states and attention as in MiniLM (Wang et al. 2020,
    arXiv 2002.10957), here through the solver's steps.

    >>> from pdelens import Chain, integrate
    >>> from pdelens.pde.terms import Diffusion
    >>> heat = lambda value: PDE({"diffusion": Diffusion(Chain(6), 4, value)}, Chain(6), depth=1)
    >>> teacher = integrate(heat(0.3), torch.randn(32, 6, 4), method="rk4", substeps=4)
    >>> found = fit(heat(0.1), teacher, supervision="states", method="heun", substeps=2, steps=60, peak_rate=0.1)
    >>> bool((found.pde.terms["diffusion"].diffusivity(0.0) > 0.25).all())
    True
    """
    plan = planned(plan, settings, readout)
    refuse_unusable(pde, flows, validation, readout, checkpoint, stop_after, until)
    validation = None if plan.supervision == "labels" else validation
    path = None if checkpoint is None else Path(checkpoint)
    job = asdict(plan) | {"equation": str(pde)}
    loop = Loop(pde, _optimizer(pde, plan), job, plan.steps, plan.peak_rate, checkpoint=path)
    about, best = {"curve": [], "best": None, "waited": 0} | loop.about, loop.extra
    loop.about, scales = about, best.pop("scales", None)
    for number in loop:
        flow, labels = _drawn(flows, generator_for(plan.seed, number), plan.batch)
        scales = _fitting(pde, flow, plan) if scales is None else scales
        loss = _guarded(partial(_loss, pde, flow, labels, plan, scales, readout, number), number, path)
        loop.descend(loss, partial(torch.nn.utils.clip_grad_norm_, pde.parameters(), 1.0))
        if loop.due(plan.validate_every):
            held = loss if validation is None else _validated(pde, validation, plan, scales, readout, number, path)
            best = _better(pde, about, float(loss.detach()), float(held.detach()), best, validation is None)
            loop.bar.set_postfix(loss=f"{float(loss.detach()):.4f}", validation=f"{float(held.detach()):.4f}")
            loop.keep(best | {"scales": scales})
            if _patience_is_out(plan, about) or (until is not None and time.time() > until):
                loop.stop()
        if stop_after is not None and about["step"] - loop.began >= stop_after:
            loop.stop()
    finished = about["step"] >= plan.steps or _patience_is_out(plan, about)
    if finished and best:
        pde.load_state_dict(best)
    return Fit(pde, {key: about[key] for key in ("job", "step", "curve", "best", "seconds")}, finished)


@torch.no_grad()
def stepped(pde: PDE, flow: Flow, plan: Plan, finer: int = 0) -> Flow:
    """Return an equation's Flow from a Flow's embedding by the plan's own finest steps, `finer` times halved.

    Beside the converged solution it says whether a calibration saw the equation or its scheme.

    >>> from pdelens import Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> heat = PDE({"d": Diffusion(Chain(4), 2)}, Chain(4), 1.0)
    >>> stepped(heat, Flow(torch.randn(2, 8, 4, 2)), Plan(method="heun", entry=(0.1,)), finer=1)
    Flow(1 layers, 8 examples, 4 tokens, width 2)
    """
    how = plan.finest
    for _ in range(finer):
        how = doubled(how)
    states, maps = _rolled_out(pde, flow, how, plan)
    return replace(flow, states=tuple(states), attention=tuple(maps))


def _better(pde: PDE, about: dict[str, Any], loss: float, held: float, best: dict[str, Tensor], any_: bool):
    """Note a validation; return the parameters of the best so far (`any_`: without validation, the last)."""
    about["curve"].append([about["step"], loss, held])
    better = any_ or about["best"] is None or held < about["best"]
    about["waited"] = 0 if better else about["waited"] + 1
    if not better:
        return best
    about["best"] = held
    return {name: value.detach().clone() for name, value in pde.state_dict().items()}


def _patience_is_out(plan: Plan, about: dict[str, Any]) -> bool:
    return bool(plan.patience and about["waited"] >= plan.patience)


def _drawn(flows: Flows, generator: torch.Generator, batch: int) -> tuple[Flow, Tensor | None]:
    if isinstance(flows, Flow):
        drawn = flows.select(torch.randperm(flows.examples, generator=generator)[:batch])
    else:
        drawn = flows(generator, batch)
    flow, labels = drawn if isinstance(drawn, tuple) else (drawn, None)
    return flow.detach(), labels  # a teacher's Flow is data, whatever made it


def _fitting(pde: PDE, flow: Flow, plan: Plan) -> Tensor:
    """Return the variance of the teacher's states about their mean over examples, per depth from 1, (layers,).

    Refuses a Flow that the equation can't be calibrated to.
    """
    if not flow.states:
        raise ValueError("a Flow without states was given: an equation starts at the state at depth 0.")
    if "attention" in plan.supervision and not flow.attention:
        raise ValueError(
            f"supervision {plan.supervision!r} was asked for, but the Flow has no attention: capture it with "
            "attention='weights', or use supervision='states'."
        )
    if float(flow.depths[-1]) > pde.depth + 1e-6:
        raise ValueError(
            f"the Flow reaches depth {float(flow.depths[-1]):g}, but the equation's depth is {pde.depth:g}: one unit "
            "for each layer is wanted."
        )
    if plan.supervision == "labels":
        return torch.ones(flow.layers)
    keep = flow.mask[..., None]
    means = [(s * keep).sum(0) / keep.sum(0).clamp_min(1) for s in flow.states[1:]]
    scales = torch.stack([(s - m)[flow.mask].square().mean() for s, m in zip(flow.states[1:], means, strict=True)])
    if not bool((scales > 0).all()):
        raise ValueError(
            f"the teacher's states have no variance over {flow.examples} example(s), by which their errors are "
            "measured: give different examples, and more than one a batch."
        )
    return scales.detach()


def _optimizer(pde: PDE, plan: Plan) -> torch.optim.Optimizer:
    """Return the optimiser: under Muon, matrices among the coefficients are stepped as such, the rest by Adam."""
    if plan.optimizer == "adam":
        return torch.optim.Adam(pde.parameters(), lr=plan.peak_rate, betas=(0.9, 0.98))
    matrices: dict[int, list[Tensor]] = {}
    for module in pde.modules():
        if isinstance(module, Modes) and module.coefficients.ndim == 3 and min(module.coefficients.shape[1:]) > 2:
            matrices.setdefault(module.parts, []).append(module.coefficients)
    taken = {id(value) for values in matrices.values() for value in values}
    groups: list[dict[str, Any]] = [{"params": values, "parts": parts} for parts, values in sorted(matrices.items())]
    rest = [value for value in pde.parameters() if id(value) not in taken]
    return Muon([*groups, {"params": rest, "matrix": False}], plan.peak_rate)


def _loss(pde: PDE, flow: Flow, labels, plan: Plan, scales: Tensor, readout, number: int) -> Tensor:
    how = plan.draw(generator_for(plan.seed, 10_000_000 + number), flow.layers)
    if number >= (1 - plan.doubled) * plan.steps:
        how = doubled(how)
    if number < plan.coarse * plan.steps:
        how, plan = Steps(), replace(plan, entry=())
    strains: list[Tensor] | None = [] if plan.smooth else None
    if number < plan.forced * plan.steps:
        states, maps = _forced(pde, flow, how, plan, strains)
    else:
        states, maps = _rolled_out(pde, flow, how, plan, strains)
    loss = _supervised(states, maps, flow, labels, plan, scales, readout)
    if strains:
        loss = loss + plan.smooth * _strain(strains, how, len(plan.entry), scales.to(loss))
    if plan.refinement:
        finer, _ = _rolled_out(pde, flow, doubled(how), plan)
        loss = loss + plan.refinement * _state_loss(finer, states, flow, scales)
    return loss


def _strain(strains: list[Tensor], how: Steps, entries: int, scales: Tensor) -> Tensor:
    """Return the sum of all steps' differences of Heun from Euler, each over the variance at its layer's end."""
    parts = len(scales) + entries
    layers = [max(part - entries, 0) for part in range(parts) for _ in range(how.at(part).substeps)]  # type: ignore[arg-type]
    return (torch.stack(strains) / scales[layers]).sum()


def _rolled_out(pde: PDE, flow: Flow, how: Steps, plan: Plan, strains=None) -> tuple[list[Tensor], list[Tensor]]:
    states, maps = solve(pde, flow.states[0], plan.times(flow.depths.tolist()), how, flow.padding, strains)
    entries = len(plan.entry)
    return states[:1] + states[1 + entries :], maps[:1] + maps[1 + entries :]


def _forced(pde: PDE, flow: Flow, how: Steps, plan: Plan, strains=None) -> tuple[list[Tensor], list[Tensor]]:
    """Return what every layer makes of the teacher's own state before it."""
    states, maps = [flow.states[0]], []
    for layer, ends in enumerate(pairwise(flow.depths.tolist())):
        inner = (how, plan.times(ends)) if layer == 0 else (how.at(layer + len(plan.entry)), list(ends))
        moved, attention = solve(pde, flow.states[layer], inner[1], inner[0], flow.padding, strains)
        states.append(moved[-1])
        maps += attention[:1]
    return states, maps


def _supervised(states, maps, flow: Flow, labels, plan: Plan, scales: Tensor, readout) -> Tensor:
    if plan.supervision == "labels":
        return F.cross_entropy(_classes(readout, states[-1], flow), labels)
    loss = _state_loss(states, flow.states, flow, scales)
    if "attention" in plan.supervision and maps:  # an equation without attention is held to the states alone
        loss = loss + _attention_loss(maps, flow)
    if "logits" in plan.supervision:
        ours, theirs = (_classes(readout, state, flow).log_softmax(-1) for state in (states[-1], flow.states[-1]))
        loss = loss + F.kl_div(ours, theirs, log_target=True, reduction="batchmean")
    return loss


def _classes(readout, state: Tensor, flow: Flow) -> Tensor:
    mask = flow.padding
    return readout(state) if mask is None else readout(state, mask)


def _state_loss(ours, theirs, flow: Flow, scales: Tensor) -> Tensor:
    keep = flow.mask
    parts = [
        (a[keep] - b[keep]).square().mean() / scale
        for a, b, scale in zip(ours[1:], theirs[1:], scales.to(ours[-1]), strict=True)
    ]
    return torch.stack(parts).mean()


def _attention_loss(maps, flow: Flow) -> Tensor:
    """Return KL(teacher, PDE) in nats, mean over layers, heads and real rows."""
    parts = []
    for ours, theirs in zip(maps, flow.attention, strict=True):
        rows = (torch.xlogy(theirs, theirs) - theirs * ours.clamp_min(1e-12).log()).sum(-1)  # (batch, heads, queries)
        parts.append(rows.transpose(1, 2)[flow.mask].mean())
    return torch.stack(parts).mean()


@torch.no_grad()
def _validated(pde, validation, plan, scales, readout, number, path) -> Tensor:
    def measure() -> Tensor:
        states, maps = _rolled_out(pde, validation, plan.finest, plan)
        return _supervised(states, maps, validation, None, plan, scales, readout)

    return _guarded(measure, number, path)


def _guarded(measure: Callable[[], Tensor], number: int, path: Path | None) -> Tensor:
    kept = f"; the last good state is in {path}" if path is not None and path.exists() else ""
    try:
        loss = measure()
    except DivergenceError as error:
        raise FitError(f"optimiser step {number}: {error} Lower peak_rate{kept}.") from error
    if not bool(torch.isfinite(loss.detach())):
        raise FitError(f"optimiser step {number}: the loss is {float(loss.detach())}; lower peak_rate{kept}.")
    return loss
