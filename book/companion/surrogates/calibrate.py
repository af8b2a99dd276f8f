"""Calibrates one equation of the sweep and evaluates it: one file of weights, one record of what was found."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pdelens.agreement.report import compare
from pdelens.flow import Flow
from pdelens.pde.checkpoints import forget
from pdelens.pde.equation import PDE
from pdelens.pde.fit import FitError, fit, stepped
from pdelens.pde.plan import Plan

from ..jobs import Job, Run, keep, kept, provenance
from ..paths import sha256
from ..teachers.bank import cached_bank
from ..teachers.teacher import (
    HELD,
    PRETRAINED,
    VALIDATION,
    Teacher,
    cached_teacher,
    evaluation_flows,
    flow_on,
    weights_of,
)
from .errors import linear_split, local_flow
from .evaluate import RESOLUTIONS, evaluate
from .files import load, save
from .probe import probe_of
from .schedules import right_hand_sides
from .specs import Spec

# How many examples a calibration may see, judges a main equation by, and any other.
SEEN = {"smoke": 64, "book": 8000, "full": 50_000}
SEEN_PRETRAINED = {"smoke": 32, "book": 1600, "full": 8000}
# Ways of stepping in which every layer and head is kept; of the others, what a curve needs.
KEPT = ("1", "converged")
# Families whose error is divided layer by layer as well, each stepped the way it was calibrated for.
DIVIDED = {"full-k1": "converged", "full-k3": "converged", "full-k1-one-step": "1"}


@dataclass(frozen=True)
class Calibration(Job):
    """Calibrates one equation to its teacher and evaluates it; resumes, and evaluates anew where only that changed."""

    spec: Spec
    flush_denormal = True

    @property
    def name(self) -> str:
        """The equation's name."""
        return self.spec.name

    def identity(self, run: Run) -> dict[str, Any]:
        """Return what is calibrated, to which weights, and how it is evaluated."""
        evaluation = {"resolutions": RESOLUTIONS, "held": HELD[run.scale], "divided": self.divided}
        return {"calibration": self.calibration(run), "evaluation": evaluation}

    @property
    def divided(self) -> str | None:
        """The way of stepping at which the error is divided layer by layer, None where it is not."""
        return DIVIDED.get(self.spec.family) if self.spec.teacher not in PRETRAINED else None

    def calibration(self, run: Run) -> dict[str, Any]:
        """Return what decides the calibrated equation: scale, equation, plan, examples, the teacher's weights."""
        weights = weights_of(self.spec.teacher, run.folder)
        return {
            "scale": run.scale,
            "spec": asdict(self.spec),
            "plan": asdict(plan_of(self.spec, run.scale)),
            "seen": training_size(self.spec, run.scale),
            "teacher": None if weights is None else sha256(weights),
        }

    def cost(self, run: Run) -> float:
        """Return the right-hand sides that it takes."""
        return self.spec.cost(run.scale)

    def files(self, run: Run) -> tuple[str, ...]:
        """Return the file of weights."""
        return (f"{self.name}.safetensors",)

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the pooled state R2 of the worst depth."""
        worst = {name: min(record["judged"][name].get("r2 pooled", [float("nan")])) for name in KEPT}
        return f"pooled R2 {worst['1']:.3f} at one step a layer, {worst['converged']:.3f} converged"

    def do(self, run: Run) -> dict[str, Any] | None:
        """Return the equation's record: what made it, how it is judged, what it learnt."""
        calibrated, whole = f"{self.name}-calibrated", self.calibration(run)
        made = kept(run, calibrated, whole)
        if made is None:
            made = self._calibrated(run)
            if made is None:
                return None
            keep(run, calibrated, whole, made, self.files(run))
            forget(run.folder / f"{self.name}.checkpoint.safetensors")
        began = time.perf_counter()
        pde = load(self.name, run)[0].to(run.device)
        record: dict[str, Any] = {
            "made": made,
            "judged": _evaluated(pde, self.spec, run),
            "learnt": learnt_coefficients(pde),
        }
        if self.spec.budget:
            record["own steps"] = _own_steps(pde, self.spec, run)
        if self.divided is not None:
            record["local"] = _local(pde, self.spec, run, self.divided)
        made["judging_seconds"] = round(time.perf_counter() - began, 1)
        return record

    def _calibrated(self, run: Run) -> dict[str, Any] | None:
        """Calibrate from the last checkpoint and write the weights; return what made them, None where time was up."""
        spec, plan = self.spec, plan_of(self.spec, run.scale)
        teacher = cached_teacher(spec.teacher, run)
        bank = cached_bank(spec.teacher, run, training_size(spec, run.scale))

        def drawn(generator: torch.Generator, batch: int) -> tuple[Flow, Tensor]:
            flow, labels = bank.draw(generator, batch)
            return spec.apply(flow), labels

        validation = spec.apply(flow_on(spec.teacher, run, "validation", VALIDATION))
        readout = teacher.readout if plan.supervision in ("labels", "attention+states+logits") else None
        checkpoint = run.folder / f"{self.name}.checkpoint.safetensors"
        pde = spec.build(teacher).to(run.device)
        try:
            found = fit(
                pde, drawn, plan, validation=validation, readout=readout, checkpoint=checkpoint, until=run.deadline
            )
        except FitError as error:
            raise RuntimeError(f"{self.name}: {error}") from error
        if not found.finished:
            return None
        about = {"seconds": round(found.record["seconds"], 1), "curve": found.record["curve"]}
        made = _made(spec, run, plan, teacher, found.pde) | about | {"best": found.record["best"]}
        save(found.pde, run.folder / self.files(run)[0], spec, made)
        return made


def training_size(spec: Spec, scale: str) -> int:
    """Return how many examples a calibration may see."""
    return (SEEN_PRETRAINED if spec.teacher in PRETRAINED else SEEN)[scale]


def plan_of(spec: Spec, scale: str) -> Plan:
    """Return an equation's plan with the steps and the seed of a scale."""
    steps = spec.steps(scale)
    return replace(spec.plan, steps=steps, validate_every=max(1, steps // 15), seed=spec.seed)


def learnt_coefficients(pde: PDE) -> dict[str, Any]:
    """Return what the local coefficients turned out to be: diffusivity and velocity, by depth."""
    found: dict[str, Any] = {}
    with torch.no_grad():
        times = [float(t) for t in range(int(pde.depth) + 1)]
        if "diffusion" in pde.terms:
            values = torch.stack([pde.terms["diffusion"].diffusivity(t) for t in times])  # type: ignore[operator]
            if pde.clock is not None:  # per layer, whatever the equation's own time
                values = values * torch.stack([pde.clock(t).exp() for t in times])[:, None]
                found["times"] = pde.layer_times
            found["diffusivity"] = {"mean": values.mean(1).tolist(), "largest": values.amax(1).tolist()}
            found["diffusivity"]["channels"] = [round(v, 5) for v in values.mean(0).tolist()]
        if "advection" in pde.terms:
            values = torch.stack([pde.terms["advection"].velocity(t) for t in times])  # type: ignore[operator]
            found["velocity"] = {"mean": values.mean(2).tolist(), "largest": values.abs().amax((1, 2)).tolist()}
    return found


def _evaluated(pde: PDE, spec: Spec, run: Run) -> dict[str, Any]:
    reference, calibration = (replace(spec, horizon=0).apply(flow) for flow in evaluation_flows(spec.teacher, run))
    teacher = cached_teacher(spec.teacher, run)
    probe = probe_of(spec.teacher, run, training_size(spec, run.scale)) if spec.teacher in PRETRAINED else None
    labels = teacher.targets("heldout", HELD[run.scale]).to(run.device)
    found = evaluate(pde, teacher, reference, calibration, RESOLUTIONS, labels, probe)
    return {resolution: compact(values, resolution in KEPT) for resolution, values in found.items()}


def _own_steps(pde: PDE, spec: Spec, run: Run) -> list[list[float]]:
    """Return the attention cosine by layer of the solution by the calibration's own steps, and by halves of them.

    Where the last is the converged solution's, the calibration saw the equation and not its scheme.
    """
    plan, (reference, _) = plan_of(spec, run.scale), evaluation_flows(spec.teacher, run)
    flows = [stepped(pde, reference, plan, finer) for finer in (0, 1)]
    found = [
        compare(flow, reference, measures=["cosine"]).per_head().mean(1).tolist() for flow in flows if flow.attention
    ]
    return _rounded(found)


def _local(pde: PDE, spec: Spec, run: Run, resolution: str) -> dict[str, Any]:
    """Return how an equation's error divides, started anew from the teacher's own state before each layer.

    By part of `errors.LinearSplit`, (layers,), on as many held-out examples as it is evaluated on.
    """
    reference, calibration = evaluation_flows(spec.teacher, run)
    flow = local_flow(pde, reference, **RESOLUTIONS[resolution])
    found = linear_split(flow.to("cpu"), reference.to("cpu"), calibration.to("cpu"))
    return {"way": resolution} | {part: values.tolist() for part, values in found._asdict().items()}


def compact(values: dict[str, Any], whole: bool) -> dict[str, Any]:
    """Return a way's measures rounded to four digits; unless `whole`, means over heads instead of every head."""

    def kept(value: Any) -> Any:
        tensor = torch.tensor(value, dtype=torch.float64)
        if tensor.ndim == 2 and not whole:
            tensor = tensor.mean(1)
        return _rounded(tensor.tolist())

    return {name: value if isinstance(value, str) else kept(value) for name, value in values.items()}


def _rounded(value: Any) -> Any:
    return [_rounded(part) for part in value] if isinstance(value, list) else round(value, 4)


def _made(spec: Spec, run: Run, plan: Plan, teacher: Teacher, pde: PDE) -> dict[str, Any]:
    """Return what made an equation: scale, plan, equation, parameters and their share, device, versions."""
    parameters = sum(value.numel() for value in pde.parameters())
    return {
        "scale": run.scale,
        "subject": spec.teacher,
        "family": spec.family,
        "seed": spec.seed,
        "equation": str(pde),
        "settings": dict(spec.equation),
        "plan": asdict(plan),
        "precision": str(next(pde.parameters()).dtype).removeprefix("torch."),
        "right-hand sides": round(plan.steps * plan.batch * right_hand_sides(asdict(plan), int(pde.depth))),
        "parameters": parameters,
        "share": teacher.share(parameters),
        "seen": training_size(spec, run.scale),
        "held": HELD[run.scale],
        **provenance(run.device),
    }
