"""Calibrates one rung of the ladder and judges it: resumable; one file of weights, one of what was found."""

import json
import sys
import time
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .fit import FitError, Plan, fit
from .flow import Flow
from .judgement import WAYS, judge
from .nonlinearity import linear_split, local_flow
from .optimisation import forget
from .pde import PDE
from .project import DataError, data_file, replace_text
from .rungs import Rung, rungs
from .subjects import ALIGNING, MINILM, VALIDATION, Bank, Subject, subject
from .workers import device_name

# How many examples a calibration may see, judges a main rung by, and any other.
SEEN = {"smoke": 64, "book": 8000, "full": 50_000}
SEEN_PRETRAINED = {"smoke": 32, "book": 1600, "full": 8000}
HELD = {"smoke": 16, "book": 192, "full": 1024}
FOLDER = "rungs"
# Ways of stepping in which every layer and head is kept; of the others, what a curve needs.
KEPT = ("1", "converged")
# Families whose error is divided layer by layer as well, each stepped the way it was calibrated for.
DIVIDED = {"full-k1": "converged", "full-k3": "converged", "full-k1-one-step": "1"}


def calibrate(rung: Rung, scale: str, folder: Path, device: str = "cpu", until: float | None = None) -> dict | None:
    """Calibrate one rung into `folder/rungs` and judge it; return its record, None where `until` came first.

    Complete ones are returned at once, and one whose record lacks a judgement is judged, not calibrated again; a
    killed one goes on from its checkpoint. Raises `RuntimeError` where a calibration diverges (its last good state is
    kept).
    """
    path = folder / FOLDER / f"{rung.name}.json"
    record = _recorded(rung, scale, folder)
    if record is not None:
        if not _is_judged(rung, record):
            pde = load(rung.name, path.with_suffix(".safetensors"), folder)[0].to(device)
            record["local"] = _local(pde, rung, folder, scale, device)
            replace_text(path, json.dumps(record) + "\n")
        return record
    if path.exists():
        print(f"{path} was made by another plan: calibrating it again.", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    model = studied(rung.subject, folder, device)
    bank = banked(rung.subject, folder, device, seen(rung, scale))
    plan = planned(rung, scale)
    pde = rung.build(model).to(device)
    checkpoint = path.with_suffix(".checkpoint.safetensors")

    def drawn(generator: torch.Generator, batch: int) -> tuple[Flow, Tensor]:
        flow, labels = bank.draw(generator, batch)
        return treated(flow, rung), labels

    validation = treated(held(rung.subject, folder, device, "validation", VALIDATION), rung)
    readout = _readout(model, rung)
    try:
        found = fit(pde, drawn, plan, validation=validation, readout=readout, checkpoint=checkpoint, until=until)
    except FitError as error:
        raise RuntimeError(f"{rung.name}: {error}") from error
    if not found.finished:
        return None
    with torch.no_grad():
        for parameter in found.pde.parameters():  # judged as its file keeps it
            parameter.copy_(parameter.half().float())
    began = time.perf_counter()
    record = {
        "made": made_by(rung, scale, device, plan, model, found.pde)
        | {"seconds": round(found.record["seconds"], 1), "curve": found.record["curve"], "best": found.record["best"]},
        "judged": _judged(found.pde, rung, model, folder, scale, device),
        "learnt": learnt(found.pde),
    }
    if not _is_judged(rung, record):
        record["local"] = _local(found.pde, rung, folder, scale, device)
    record["made"]["judging_seconds"] = round(time.perf_counter() - began, 1)
    save(found.pde, path.with_suffix(".safetensors"), rung, record["made"])
    replace_text(path, json.dumps(record) + "\n")
    forget(checkpoint)
    return record


def is_whole(rung: Rung, scale: str, folder: Path) -> bool:
    """Say whether this very rung's record is there, of this scale and this plan, with all that it is judged by."""
    record = _recorded(rung, scale, folder)
    return record is not None and _is_judged(rung, record)


def _recorded(rung: Rung, scale: str, folder: Path) -> dict[str, Any] | None:
    path = folder / FOLDER / f"{rung.name}.json"
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    plan = _plain(asdict(planned(rung, scale)))
    return record if (record["made"]["scale"], record["made"]["plan"]) == (scale, plan) else None


def _is_judged(rung: Rung, record: dict[str, Any]) -> bool:
    return "local" in record or rung.family not in DIVIDED or rung.subject == MINILM


def seen(rung: Rung, scale: str) -> int:
    """Return how many examples a calibration may see."""
    return (SEEN_PRETRAINED if rung.subject == MINILM else SEEN)[scale]


def planned(rung: Rung, scale: str) -> Plan:
    """Return a rung's plan with the steps and the seed of a scale."""
    steps = rung.steps(scale)
    return replace(rung.plan, steps=steps, validate_every=max(1, steps // 15), seed=rung.seed)


def treated(flow: Flow, rung: Rung) -> Flow:
    """Return a Flow as a rung sees it: its first layers alone, or its tokens in another order."""
    if rung.horizon:
        depths = None if flow.depths is None else flow.depths[: rung.horizon + 1]
        states, attention = flow.states[: rung.horizon + 1], flow.attention[: rung.horizon]
        flow = replace(flow, states=states, attention=attention, depths=depths)
    if rung.shuffled:
        order = torch.randperm(flow.tokens, generator=torch.Generator().manual_seed(0)).to(flow.states[0].device)
        flow = replace(
            flow,
            states=tuple(state[:, order] for state in flow.states),
            attention=tuple(maps[:, :, order][..., order] for maps in flow.attention),
            mask=None if flow.mask is None else flow.mask[:, order],
        )
    return flow


def learnt(pde: PDE) -> dict[str, Any]:
    """Return what the local coefficients turned out to be: diffusivity and velocity, by depth."""
    found: dict[str, Any] = {}
    with torch.no_grad():
        times = [float(t) for t in range(int(pde.depth) + 1)]
        if "diffusion" in pde.terms:
            values = torch.stack([pde.terms["diffusion"].diffusivity(t) for t in times])  # type: ignore[operator]
            found["diffusivity"] = {"mean": values.mean(1).tolist(), "largest": values.amax(1).tolist()}
            found["diffusivity"]["channels"] = [round(v, 5) for v in values.mean(0).tolist()]
        if "advection" in pde.terms:
            values = torch.stack([pde.terms["advection"].velocity(t) for t in times])  # type: ignore[operator]
            found["velocity"] = {"mean": values.mean(2).tolist(), "largest": values.abs().amax((1, 2)).tolist()}
    return found


def _judged(pde: PDE, rung: Rung, model: Subject, folder: Path, scale: str, device: str) -> dict[str, Any]:
    reference, calibration = judged_on(rung.subject, folder, device, scale)
    whole = replace(rung, horizon=0)
    labels = None if rung.subject == MINILM else model.inputs("heldout", HELD[scale])[1].to(device)
    found = judge(pde, model, treated(reference, whole), treated(calibration, whole), WAYS, labels)
    return {way: short(values, way in KEPT) for way, values in found.items()}


def _local(pde: PDE, rung: Rung, folder: Path, scale: str, device: str) -> dict[str, Any]:
    """Return how the error of a rung divides, started anew from the subject's own state before each layer.

    By part of `nonlinearity.LinearSplit`, (layers,), on as many held-out examples as it is judged by.
    """
    reference, calibration = judged_on(rung.subject, folder, device, scale)
    way = DIVIDED[rung.family]
    flow = local_flow(pde, reference, **WAYS[way])
    found = linear_split(flow.to("cpu"), reference.to("cpu"), calibration.to("cpu"))
    return {"way": way} | {part: values.tolist() for part, values in found._asdict().items()}


def short(values: dict[str, Any], whole: bool) -> dict[str, Any]:
    """Return a way's measures rounded to four digits; unless `whole`, means over heads instead of every head."""

    def kept(value: Any) -> Any:
        tensor = torch.tensor(value, dtype=torch.float64)
        if tensor.ndim == 2 and not whole:
            tensor = tensor.mean(1)
        return [round(v, 4) for v in tensor.tolist()] if tensor.ndim == 1 else _rounded(tensor.tolist())

    return {name: value if isinstance(value, str) else kept(value) for name, value in values.items()}


def _rounded(value: Any) -> Any:
    return [_rounded(part) for part in value] if isinstance(value, list) else round(value, 4)


def made_by(rung: Rung, scale: str, device: str, plan, model: Subject, pde: PDE) -> dict[str, Any]:
    """Return what made a rung: scale, plan, equation, parameters and their share, device, versions."""
    parameters = sum(value.numel() for value in pde.parameters())
    return {
        "scale": scale,
        "subject": rung.subject,
        "family": rung.family,
        "seed": rung.seed,
        "equation": str(pde),
        "settings": dict(rung.equation),
        "plan": _plain(asdict(plan)),
        "parameters": parameters,
        "share": model.share(parameters),
        "seen": seen(rung, scale),
        "held": HELD[scale],
        "device": device_name(device),
        "versions": {"torch": torch.__version__},
    }


def save(pde: PDE, path: Path, rung: Rung, made: dict[str, Any]) -> None:
    """Write a rung's weights in half precision, whole or not at all."""
    from safetensors.torch import save_file

    draft = path.with_suffix(".draft")
    weights = {name: value.detach().cpu().half().contiguous() for name, value in pde.state_dict().items()}
    about = {"rung": json.dumps({"name": rung.name}), "made": json.dumps(made)}
    save_file(weights, draft, metadata=about)
    draft.replace(path)


def load(name: str, path: Path | None = None, folder: Path | None = None) -> tuple[PDE, dict[str, Any]]:
    """Return a calibrated equation in evaluation mode, with what made it; a committed one unless `path` is given."""
    from safetensors import SafetensorError, safe_open

    path = data_file(f"weights/{name}.safetensors") if path is None else path
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            weights = {key: stream.get_tensor(key).float() for key in stream.keys()}
        made = json.loads(metadata["made"])
        rung = rung_named(json.loads(metadata["rung"])["name"], made["scale"])
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{path} is no calibrated equation ({error}): calibrate it again with `make train`.") from error
    pde = rung.build(studied(rung.subject, folder, "cpu"))
    pde.load_state_dict(weights)
    return pde.eval(), made


def rung_named(name: str, scale: str = "book") -> Rung:
    """Return one rung by its name."""
    for rung in rungs(scale):
        if rung.name == name:
            return rung
    raise ValueError(f"no rung is called {name!r}: see pdelens.rungs.rungs({scale!r}).")


def studied(name: str, folder: Path | None = None, device: str = "cpu") -> Subject:
    """Return a subject, kept: who asks again gets the same one (`subjects.subject` gives a fresh one)."""
    return _studied(name, folder, device)


@lru_cache(maxsize=4)
def _studied(name: str, folder: Path | None, device: str) -> Subject:
    return subject(name, folder, device)


@lru_cache(maxsize=1)
def banked(name: str, folder: Path, device: str, count: int) -> Bank:
    """Return a subject's training Flows, kept until another's are asked for."""
    return Bank.of(studied(name, folder, device), "train", count, device)


@lru_cache(maxsize=6)
def held(name: str, folder: Path, device: str, split: str, count: int) -> Flow:
    """Return a subject's Flow on examples apart, kept; "validation" comes after the aligning calibration examples."""
    model = studied(name, folder, device)
    if split != "validation":
        return model.of(split, count, device)
    whole = model.of("calibration", ALIGNING + count, device)
    return whole.select(slice(ALIGNING, None))


def judged_on(name: str, folder: Path, device: str, scale: str) -> tuple[Flow, Flow]:
    """Return a subject's held-out and calibration Flow that its rungs and its nulls are judged on."""
    heldout, calibration = (held(name, folder, device, split, HELD[scale]) for split in ("heldout", "calibration"))
    return heldout, calibration


def _readout(model: Subject, rung: Rung):
    if rung.plan.supervision not in ("labels", "attention+states+logits"):
        return None
    return model.readout


def _plain(value: Any) -> Any:
    """Return what JSON gives back: tuples become lists."""
    return json.loads(json.dumps(value))
