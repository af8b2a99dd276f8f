"""Power checks: is a teacher that *is* the equation recognised, and one that is not rejected?"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from .compare import compare, state_agreement
from .fit import fit
from .flow import Flow
from .integrate import integrate
from .judgement import WAYS
from .lattice import Grid
from .nulls import attention_nulls
from .optimisation import forget, generator_for
from .pde import PDE, TransformerPDE
from .project import replace_text
from .rungs import REFINED
from .synthetic import SyntheticTeacher, equation_teacher, layered_teacher
from .terms import Diffusion

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


def check(kind: str, scale: str, folder: Path, device: str = "cpu", until: float | None = None) -> dict | None:
    """Calibrate the full autonomous equation to a known teacher, as every rung is; return what was found of it.

    Kept in `folder/power-<kind>.json`; resumable; None where `until` (as `time.time`) came first. The
    calibration starts from an independent draw, with D = 0.05 in every channel.
    """
    path = folder / f"{NAME}-{kind}.json"
    plan = replace(PLAN, steps=STEPS[scale], validate_every=max(1, STEPS[scale] // 15))
    if path.exists() and json.loads(path.read_text())["plan"] == json.loads(json.dumps(asdict(plan))):
        return json.loads(path.read_text())
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
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "CPU",
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
