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
from .laws import MAIN_BUDGET, law
from .specs import BUDGET
from .synthetic import SyntheticTeacher, equation_teacher, layered_teacher

NAME = "power"
# kind -> the teacher, and what the equation is that is calibrated to it, apart from what one law of the ladder is.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "equation": ("equation", {}),
    "layers": ("layers", {}),
    "no-diffusion": ("equation", {"diffusion": None}),
}
# A lattice and width at which two cores see the end of a calibration.
LATTICE, WIDTH, HEADS = Grid(5, 5), 32, 4
DIFFUSIVITY = (0.05, 0.2)
SEEN = 4000
HELD = 128
LAW = law("k1", "image-patch4", 0, MAIN_BUDGET)  # how the ladder calibrates one law, and at which budget


def teachers() -> dict[str, SyntheticTeacher]:
    """Return the teacher that is the autonomous equation, and one of random layers of the same sizes."""
    equation = equation_teacher(LATTICE, WIDTH, HEADS, diffusivity=DIFFUSIVITY)
    return {"equation": equation, "layers": layered_teacher(equation)}


def plan_of(scale: str) -> Plan:
    """Return how the controls of a scale calibrate: as the ladder does, at its main budget."""
    steps = LAW.steps(scale)
    return replace(LAW.plan, steps=steps, validate_every=max(1, steps // 15))


@dataclass(frozen=True)
class Control(Job):
    """Calibrates one law to a teacher with a known answer, as every law of the ladder is.

    `kind`: "equation", a teacher that is the equation and should be recognised; "layers", one of random layers, which
    should be rejected; "no-diffusion", one law without diffusion to the teacher that diffuses, which should fall short
    of "equation": else attention makes up for it, and twins without diffusion say nothing. The calibration starts from
    an independent draw, with D = 0.05 in every channel.
    """

    kind: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{NAME}-{self.kind}-b{MAIN_BUDGET}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the plan and the resolution that it is evaluated at."""
        plan, resolution = asdict(plan_of(run.scale)), RESOLUTIONS["converged"]
        return {"scale": run.scale, "plan": plan, "equation": self._equation, "held": HELD, "resolution": resolution}

    @property
    def _equation(self) -> dict[str, Any]:
        return {**LAW.equation, **KINDS[self.kind][1]}

    def cost(self, run: Run) -> float:
        """Return what it costs, in the unit of `Spec.cost`: of 25 tokens and half the width."""
        return MAIN_BUDGET * BUDGET[run.scale] * 0.4

    def do(self, run: Run) -> dict[str, Any] | None:
        """Return what was found of the teacher."""
        plan, teacher = plan_of(run.scale), teachers()[KINDS[self.kind][0]]
        seen = teacher(generator_for(0, 10), SEEN if run.scale != "smoke" else 64).to(run.device)
        calibration, held = (teacher(generator_for(0, number), HELD).to(run.device) for number in (11, 12))
        pde = TransformerPDE(WIDTH, HEADS, LATTICE, depth=seen.layers, seed=1, **self._equation).to(run.device)
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
        **{
            name: values.tolist() for name, values in state_agreement(flow.states, held, calibration, cka=False).items()
        },
    }


def diffusivity(pde: PDE) -> list[float]:
    """Return an autonomous equation's D by channel, none where it has none."""
    if "diffusion" not in pde.terms:
        return []
    with torch.no_grad():
        return pde.terms["diffusion"].diffusivity(0.0).tolist()  # type: ignore[operator]
