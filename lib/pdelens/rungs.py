"""The ladder of hypotheses: every equation that is calibrated, what it is calibrated to, and for how long."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .fit import Plan
from .narrow import narrow_like
from .pde import PDE, TransformerPDE
from .subjects import Subject
from .teachers import SCALES, SEEDS

# Optimiser steps of a main rung; others take a third.
STEPS = {"smoke": 4, "book": 3000, "full": 12000}
THIRD = 1 / 3

# How an optimiser step integrates: one step a layer, as a Transformer's layers do; or so that no step count is known in
# advance and the field has to be the equation's own (chosen among those compared in `POLICIES`).
ONE_STEP = Plan(supervision="attention+states", substeps=1, peak_rate=1e-2, batch=32)
REFINED = replace(ONE_STEP, method="heun", graded=((3, 5), (1, 2)))


@dataclass(frozen=True)
class Rung:
    """One hypothesis, and how it is calibrated.

    `equation` are settings of `TransformerPDE`; `narrow` makes it the unshared network of fewer channels
    with as many parameters (`narrow.NarrowPDE`). `share` is its part of the main rungs' steps. `horizon`
    calibrates on the first so many layers alone (0: all). `shuffled` gives the tokens of subject and
    equation an order that has nothing to do with the lattice. `fixed` names parameters (by the end of
    their name) that keep their first value.
    """

    family: str
    subject: str
    seed: int = 0
    equation: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan = ONE_STEP
    share: float = 1.0
    narrow: bool = False
    horizon: int = 0
    shuffled: bool = False
    fixed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The weight file's name, without its ending."""
        return f"rung-{self.subject.removesuffix(f'-seed{self.seed}')}-{self.family}-seed{self.seed}"

    def steps(self, scale: str) -> int:
        """Return how many optimiser steps it takes at a scale."""
        return max(2, round(self.share * STEPS[scale]))

    def cost(self, scale: str) -> float:
        """Return what it costs to calibrate, in right-hand sides of 49 tokens: for telling how long is left."""
        ranges = [self.plan.ranges[min(layer, len(self.plan.ranges) - 1)] for layer in range(6)]
        sides = sum((low + high) / 2 for low, high in ranges) * {"heun": 2, "rk4": 4, "strang": 3}.get(
            self.plan.method, 1
        )
        return self.steps(scale) * self.plan.batch * sides * (0.3 if "patch7" in self.subject else 1.0)

    def build(self, subject: Subject) -> PDE:
        """Return the equation before calibration."""
        settings = {
            "depth": subject.layers,
            "epsilon": subject.epsilon,
            "form": subject.form,
            "seed": self.seed,
        } | dict(self.equation)
        pde = TransformerPDE(subject.width, subject.heads, subject.lattice, **settings)
        if self.narrow:
            budget = sum(value.numel() for value in pde.parameters())
            pde = narrow_like(
                budget, subject.width, subject.heads, subject.lattice, depth=subject.layers, seed=self.seed
            )
        for name, value in pde.named_parameters():
            if name.endswith(self.fixed):
                value.requires_grad_(False)
        return pde


def _with(modes: int = 1, **settings: Any) -> dict[str, Any]:
    return {"temporal_modes": modes} | settings


_NONE = {"attention": False, "reaction": False}
# name -> equation; each is calibrated so that it has to be an equation (`REFINED`).
LADDER: dict[str, dict[str, Any]] = {
    "diffusion": _with(**_NONE),
    "advection-diffusion": _with(advection=0.0, **_NONE),
    "residual": _with(diffusion=None, attention=False),
    "diffusion-residual": _with(attention=False),
    "attention": _with(diffusion=None, reaction=False),
    "no-diffusion-k1": _with(diffusion=None),
    "full-k1": _with(),
    "full-k2": _with(2),
    "full-k3": _with(3),
    "unshared": _with(6, basis="piecewise"),
}
# Calibrated in every seed: refined, and the autonomous equation with one step a layer too.
ONE_STEP_ENDING = "-one-step"
SHORT = "-short"
MAIN = ("full-k1", "full-k1-one-step", "full-k3", "no-diffusion-k1")
SUPERVISIONS = {
    "states": "states",
    "logits": "attention+states+logits",
    "labels": "labels",
}
POLICIES: dict[str, Plan] = {
    "random": replace(ONE_STEP, substeps=(1, 3)),
    "penalty": replace(ONE_STEP, refinement=1.0),
    "heun": replace(ONE_STEP, method="heun"),
    "rk4": replace(ONE_STEP, method="rk4"),
    "forced": replace(REFINED, forced=0.5),
}
DIFFUSIVITIES = (0.02, 0.05, 0.1, 0.2, 0.4)
WIDTHS = ("linear", 16, 64, 256)
CURVED = ("", "linear", "relu", "tanh")
# Those whose weights a page loads; of the others the records are committed.
COMMITTED = tuple(
    f"rung-{teacher}-{family}-seed0"
    for teacher in ("image-patch4", "text-classifier")
    for family in ("full-k1", "full-k1-one-step", "full-k3", "no-diffusion-k1")
)
TEACHERS = {"image": "image-patch4", "text": "text-classifier"}


def rungs(scale: str) -> tuple[Rung, ...]:
    """Return every calibration of a scale, in the order of their importance: all of seed 0 before other seeds.

    Main rungs in 5 seeds; the others in 1 seed and a third of the steps (`full`: all in 5 seeds, with all
    steps). The equation of a seed is calibrated to the teacher of that seed.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} was given: choose from {', '.join(SCALES)}.")
    full = scale == "full"
    share = 1.0 if full else THIRD
    found: list[Rung] = []
    for seed in range(1 if scale == "smoke" else SEEDS):
        teachers = [f"{teacher}-seed{seed}" for teacher in TEACHERS.values()]
        found += [_main(family, teacher, seed) for family in MAIN for teacher in teachers]
        if full or seed == 0:
            # What the others are compared with: the same at their share of the steps.
            short = [] if full else [f"full-k1{SHORT}", f"full-k1{ONE_STEP_ENDING}{SHORT}"]
            for teacher in teachers:
                others = [*(_main(family, teacher, seed) for family in short), *_others(teacher, seed)]
                found += [replace(rung, share=share) for rung in others]
            found += [replace(rung, share=share) for rung in _sweeps(seed)]
    return tuple(found)


def _main(family: str, teacher: str, seed: int) -> Rung:
    plain = family.removesuffix(SHORT)
    plan = ONE_STEP if plain.endswith(ONE_STEP_ENDING) else REFINED
    return Rung(family, teacher, seed, LADDER[plain.removesuffix(ONE_STEP_ENDING)], plan)


def _others(teacher: str, seed: int) -> list[Rung]:
    """Return the rungs of a main teacher that are calibrated once."""
    full = LADDER["full-k1"]
    found = [
        Rung(family, teacher, seed, equation, REFINED) for family, equation in LADDER.items() if family not in MAIN
    ]
    found += [
        Rung(f"{family}{ONE_STEP_ENDING}", teacher, seed, LADDER[family], ONE_STEP)
        for family in ("full-k3", "no-diffusion-k1", "unshared")
    ]
    found.append(Rung("narrow-k1", teacher, seed, full, REFINED, narrow=True))
    found += [
        Rung(f"full-k1-{name}", teacher, seed, full, replace(REFINED, supervision=supervision))
        for name, supervision in SUPERVISIONS.items()
    ]
    found += [Rung(f"full-k1-{name}", teacher, seed, full, plan) for name, plan in POLICIES.items()]
    found += [
        Rung(f"fixed-d{value:g}", teacher, seed, _with(diffusion=value), REFINED, fixed=("diffusion.raw.coefficients",))
        for value in DIFFUSIVITIES
    ]
    found += [
        Rung(f"{family}-shuffled", teacher, seed, LADDER[family], REFINED, shuffled=True)
        for family in ("full-k1", "no-diffusion-k1")
    ]
    found.append(Rung("full-k1-horizon4", teacher, seed, full, REFINED, horizon=4))
    return found


def _sweeps(seed: int) -> list[Rung]:
    """Return the rungs on cheap teachers: the residual's width, shared and unshared; teachers from linear up."""
    found = []
    for width in WIDTHS:
        settings = {"activation": "linear", "hidden": 64} if width == "linear" else {"hidden": width}
        for sharing, modes in (("k1", 1), ("unshared", 6)):
            basis = {"basis": "piecewise"} if modes == 6 else {}
            equation = _with(modes, **settings, **basis)
            found.append(Rung(f"hidden-{width}-{sharing}", f"image-patch7-seed{seed}", seed, equation, REFINED))
    for variant in CURVED:
        subject = "-".join(filter(None, ("image-patch7", variant, f"seed{seed}")))
        equation = _with() | ({"activation": variant} if variant else {})
        found.append(Rung("full-k1", subject, seed, equation, REFINED))
    return found
