"""Controls, positive and negative: is a teacher that *is* the equation recognised, and one that is not rejected?"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from pdelens.agreement.nulls import attention_nulls
from pdelens.agreement.report import compare, state_agreement
from pdelens.flow import Flow
from pdelens.lattice import Grid
from pdelens.pde.checkpoints import forget, generator_for
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.fit import fit
from pdelens.pde.integrate import integrate
from pdelens.pde.plan import Plan

from ..jobs import Job, Run, provenance
from .evaluate import RESOLUTIONS
from .schedules import right_hand_sides
from .specs import REFINED
from .synthetic import SyntheticTeacher, equation_teacher, layered_teacher

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


def plan_of(scale: str) -> Plan:
    """Return how the checks of a scale calibrate: as equations do, for longer."""
    return replace(PLAN, steps=STEPS[scale], validate_every=max(1, STEPS[scale] // 15))


@dataclass(frozen=True)
class Control(Job):
    """Calibrates the full autonomous equation to a teacher with a known answer, as every equation of the sweep is.

    `kind`: "equation", a teacher that is the equation and should be recognised; "layers", one of random layers, which
    should be rejected. The calibration starts from an independent draw, with D = 0.05 in every channel.
    """

    kind: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{NAME}-{self.kind}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the plan and the resolution that it is evaluated at."""
        plan, resolution = asdict(plan_of(run.scale)), RESOLUTIONS["converged"]
        return {"scale": run.scale, "plan": plan, "held": HELD, "resolution": resolution}

    def cost(self, run: Run) -> float:
        """Return what it costs, in the unit of `Spec.cost`: of 25 tokens and half the width."""
        return STEPS[run.scale] * PLAN.batch * right_hand_sides(asdict(PLAN), 6) * 0.4

    def do(self, run: Run) -> dict[str, Any] | None:
        """Return what was found of the teacher."""
        plan, teacher = plan_of(run.scale), teachers()[self.kind]
        seen = teacher(generator_for(0, 10), SEEN if run.scale != "smoke" else 64).to(run.device)
        calibration, held = (teacher(generator_for(0, number), HELD).to(run.device) for number in (11, 12))
        pde = TransformerPDE(WIDTH, HEADS, LATTICE, depth=seen.layers, seed=1).to(run.device)
        checkpoint = run.folder / f"{self.name}.checkpoint.safetensors"
        found = fit(pde, seen, plan, validation=calibration, checkpoint=checkpoint, until=run.deadline)
        if not found.finished:
            return None
        forget(checkpoint)
        return evaluate_control(found.pde, held, calibration) | {
            "scale": run.scale,
            "plan": asdict(plan),
            "curve": found.record["curve"],
            "seconds": round(found.record["seconds"], 1),
            **provenance(run.device),
            "diffusivity": diffusivity(found.pde),
            "true diffusivity": diffusivity(teacher.pde),
        }


def evaluate_control(pde: PDE, held: Flow, calibration: Flow) -> dict[str, Any]:
    """Return the agreement of the converged solution with the teacher, and the best null's."""
    with torch.no_grad():
        flow = integrate(pde, held.states[0], check_steps=False, **RESOLUTIONS["converged"])
    nulls = attention_nulls(held, calibration)
    report = compare(flow, held, nulls, calibration=calibration, measures=["cosine", "centred cosine"])
    return {
        "cosine": report.per_head().tolist(),
        "centred cosine": report.per_head("centred cosine").tolist(),
        "nulls": {name: null.per_head().tolist() for name, null in report.nulls.items()},
        "r2": state_agreement(flow.states, held, calibration)["r2 mean over channels"].tolist(),
    }


def diffusivity(pde: PDE) -> list[float]:
    """Return an autonomous equation's D by channel, none where it has none."""
    if "diffusion" not in pde.terms:
        return []
    with torch.no_grad():
        return pde.terms["diffusion"].diffusivity(0.0).tolist()  # type: ignore[operator]
