"""Power checks: is a teacher that *is* the equation recognised, and one that is not rejected?"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from .compare import compare, state_agreement
from .fit import Plan, fit
from .flow import Flow
from .integrate import integrate
from .judgement import WAYS
from .lattice import Grid
from .nulls import attention_nulls
from .optimisation import forget, generator_for
from .pde import PDE, TransformerPDE
from .policies import right_hand_sides
from .project import replace_text
from .rungs import REFINED
from .synthetic import SyntheticTeacher, equation_teacher, layered_teacher
from .terms import Diffusion
from .workers import device_name

NAME = "power"
KINDS = ("equation", "layers")
# A lattice and width at which two cores see the end of a calibration.
LATTICE, WIDTH, HEADS = Grid(5, 5), 32, 4
DIFFUSIVITY = (0.05, 0.2)
STEPS = {"smoke": 4, "book": 12000, "full": 12000}
SEEN = 4000
HELD = 128
PLAN = replace(REFINED, batch=16)


def teachers() -> dict[str, SyntheticTeacher]:
    """Return the teacher that is the autonomous equation, and one of random layers of the same sizes."""
    equation = equation_teacher(LATTICE, WIDTH, HEADS, diffusivity=DIFFUSIVITY)
    return {"equation": equation, "layers": layered_teacher(equation)}


def planned(scale: str) -> Plan:
    """Return how the checks of a scale calibrate: as rungs do, for longer."""
    return replace(PLAN, steps=STEPS[scale], validate_every=max(1, STEPS[scale] // 15))


def cost(scale: str) -> float:
    """Return what a check costs, in the unit of `Rung.cost`: of 25 tokens and half the width."""
    return STEPS[scale] * PLAN.batch * right_hand_sides(asdict(PLAN), 6) * 0.4


def known(kind: str, scale: str, folder: Path) -> dict[str, Any] | None:
    """Return a check's record where this very check was made."""
    path = folder / f"{NAME}-{kind}.json"
    found = json.loads(path.read_text()) if path.exists() else None
    return found if found is not None and found["plan"] == json.loads(json.dumps(asdict(planned(scale)))) else None


def check(kind: str, scale: str, folder: Path, device: str = "cpu", until: float | None = None) -> dict | None:
    """Calibrate the full autonomous equation to a known teacher, as every rung is; return what was found of it.

    Kept in `folder/power-<kind>.json`; resumable; None where `until` (as `time.time`) came first. The
    calibration starts from an independent draw, with D = 0.05 in every channel.
    """
    path, plan, made = folder / f"{NAME}-{kind}.json", planned(scale), known(kind, scale, folder)
    if made is not None:
        return made
    folder.mkdir(parents=True, exist_ok=True)
    teacher = teachers()[kind]
    seen = teacher(generator_for(0, 10), SEEN if scale != "smoke" else 64).to(device)
    calibration, held = (teacher(generator_for(0, number), HELD).to(device) for number in (11, 12))
    pde = TransformerPDE(WIDTH, HEADS, LATTICE, depth=seen.layers, seed=1).to(device)
    checkpoint = folder / f"{NAME}-{kind}.checkpoint.safetensors"
    found = fit(pde, seen, plan, validation=calibration, checkpoint=checkpoint, until=until)
    if not found.finished:
        return None
    record = judged(found.pde, held, calibration) | {
        "scale": scale,
        "plan": asdict(plan),
        "curve": found.record["curve"],
        "seconds": round(found.record["seconds"], 1),
        "device": device_name(device),
        "versions": {"torch": torch.__version__},
        "diffusivity": diffusivity(found.pde),
        "true diffusivity": diffusivity(teacher.pde),
    }
    replace_text(path, json.dumps(record) + "\n")
    forget(checkpoint)
    return record


def judged(pde: PDE, held: Flow, calibration: Flow) -> dict[str, Any]:
    """Return the agreement of the converged solution with the teacher, and the best null's."""
    with torch.no_grad():
        flow = integrate(pde, held.states[0], check_steps=False, **WAYS["converged"])
    nulls = attention_nulls(held, calibration)
    report = compare(flow, held, nulls, calibration=calibration, measures=["cosine", "centred cosine"])
    return {
        "cosine": report.per_head().tolist(),
        "centred cosine": report.per_head("centred cosine").tolist(),
        "nulls": {name: null.per_head().tolist() for name, null in report.nulls.items()},
        "r2": state_agreement(flow.states, held, calibration)["r2"].tolist(),
    }


def diffusivity(pde: PDE) -> list[float]:
    """Return an autonomous equation's D by channel, none where it has none."""
    term = pde.terms["diffusion"] if "diffusion" in pde.terms else None
    if not isinstance(term, Diffusion):
        return []
    with torch.no_grad():
        return term.diffusivity(0.0).tolist()
