"""The sweep of hypotheses: every equation that is calibrated, what it is calibrated to, and for how long."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from pdelens.flow import Flow
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.plan import Plan

from ..paths import refuse_unknown_scale
from ..teachers.recipes import SEEDS
from ..teachers.teacher import DINOV2, MINILM, PRETRAINED, Teacher
from .narrow import narrow_like
from .schedules import right_hand_sides

# Optimiser steps of a main equation of the first recipe; others take a third.
STEPS = {"smoke": 4, "book": 1800, "full": 12000}
# Right-hand sides times examples of the ladder's smallest budget (`laws`): about 2.5 minutes of one core.
BUDGET = {"smoke": 2_000, "book": 320_000, "full": 5_000_000}
THIRD = 1 / 3

# How an optimiser step integrates: one step a layer, as a Transformer's layers do; or so that no step count is known in
# advance and the field has to be the equation's own. The first layer carries a small embedding far, and a field that
# looks through layer normalisation is the stiffer the smaller the state: so it gets more sub-steps, and where the
# embedding is very small (texts: rms .12 against 5.8 after the first layer) they crowd at its beginning. `POLICIES`
# are what else was compared.
ONE_STEP = Plan(supervision="attention+states", substeps=1, peak_rate=1e-2, batch=16)
REFINED = replace(ONE_STEP, method="heun", graded=((3, 5), (1, 2)), forced=0.3, doubled=0.25)
ENTRY = replace(REFINED, graded=((1, 2),), entry=(1 / 64, 1 / 16, 1 / 4))
DEPTH_ENTRY: dict[str, Any] = {"graded": ((2, 3), (1, 2)), "entry": (1 / 16, 1 / 4)}


def refined(teacher: str, modes: int = 1) -> Plan:
    """Return how equations of a teacher are calibrated to their converged solution.

    One that may change with depth can follow the teacher's layers from the teacher's own states, and gains by doing
    so for longer, and by an entry into pictures too; an autonomous one can't, and has to learn to roll out early.
    """
    plan = ENTRY if teacher.startswith("text") else REFINED
    if modes == 1:
        return plan
    return replace(plan, forced=0.7) if plan.entry else replace(plan, forced=0.7, **DEPTH_ENTRY)


@dataclass(frozen=True)
class Spec:
    """One hypothesis, and how it is calibrated.

    `equation` are settings of `TransformerPDE`; `narrow` makes it the unshared network of fewer channels with as many
    parameters (`narrow.NarrowPDE`). `share` is its part of the main ones' steps; `budget`, where given, is how many of
    the ladder's smallest budgets (`BUDGET`) it spends instead. `horizon` calibrates on the first so many layers alone
    (0: all). `shuffled` gives the tokens of teacher and equation an order that has nothing to do
    with the lattice. `fixed` names parameters (by the end of their name) that keep their first value.
    """

    family: str
    teacher: str
    seed: int = 0
    equation: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan = ONE_STEP
    share: float = 1.0
    budget: float = 0.0
    narrow: bool = False
    horizon: int = 0
    shuffled: bool = False
    fixed: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The weight file's name, without its ending."""
        return f"rung-{self.teacher.removesuffix(f'-seed{self.seed}')}-{self.family}-seed{self.seed}"

    def apply(self, flow: Flow) -> Flow:
        """Return a Flow as this equation sees it: its first layers alone, or its tokens in another order."""
        if self.horizon:
            states, attention = flow.states[: self.horizon + 1], flow.attention[: self.horizon]
            flow = replace(flow, states=states, attention=attention, depths=flow.depths[: self.horizon + 1])
        if self.shuffled:
            order = torch.randperm(flow.tokens, generator=torch.Generator().manual_seed(0)).to(flow.states[0].device)
            states = tuple(state[:, order] for state in flow.states)
            attention = tuple(maps[:, :, order][..., order] for maps in flow.attention)
            flow = replace(flow, states=states, attention=attention, mask=flow.mask[:, order])
        return flow

    def steps(self, scale: str) -> int:
        """Return how many optimiser steps it takes at a scale."""
        if not self.budget:
            return max(2, round(self.share * STEPS[scale]))
        once = self.plan.batch * right_hand_sides(asdict(self.plan), 12 if self.teacher == DINOV2 else 6)
        return max(2, round(self.budget * BUDGET[scale] / once))

    def cost(self, scale: str) -> float:
        """Return what it costs to calibrate, in right-hand sides of 49 tokens: for telling how long is left."""
        sides = right_hand_sides(asdict(self.plan), 6)
        # A pretrained model's example takes about 25 times as long as a picture.
        size = 25.0 if self.teacher in PRETRAINED else 0.3 if "patch7" in self.teacher else 1.0
        return self.steps(scale) * self.plan.batch * sides * size

    def build(self, teacher: Teacher) -> PDE:
        """Return the equation before calibration."""
        sizes = teacher.width, teacher.heads, teacher.lattice
        settings = {"depth": teacher.layers, "epsilon": teacher.epsilon, "form": teacher.form, "seed": self.seed}
        pde = TransformerPDE(*sizes, **settings | dict(self.equation))
        if self.narrow:
            budget = sum(value.numel() for value in pde.parameters())
            pde = narrow_like(budget, *sizes, depth=teacher.layers, seed=self.seed)
        for name, value in pde.named_parameters():
            if name.endswith(self.fixed):
                value.requires_grad_(False)
        return pde


def _with(modes: int = 1, **settings: Any) -> dict[str, Any]:
    return {"temporal_modes": modes} | settings


_NONE = {"attention": False, "reaction": False}
# name -> equation; each is calibrated so that it has to be an equation (`REFINED`).
EQUATIONS: dict[str, dict[str, Any]] = {
    "diffusion": _with(**_NONE),
    "advection-diffusion": _with(advection=0.0, **_NONE),
    "residual": _with(diffusion=None, attention=False),
    "diffusion-residual": _with(attention=False),
    "attention": _with(diffusion=None, reaction=False),
    "no-diffusion-k1": _with(diffusion=None),
    "full-k1": _with(),
    "full-k1-advection": _with(advection=0.0),
    "full-k2": _with(2),
    "full-k3": _with(3),
    "unshared": _with(6, basis="piecewise"),
}
# Calibrated in every seed: refined, and the autonomous equation with one step a layer too.
ONE_STEP_ENDING = "-one-step"
SHORT, LONG = "-short", "-long"
# How many times the main equations' steps the long ones take: whether steps are what binds.
LENGTH = 3.0
MAIN = ("full-k1", "full-k1-one-step", "full-k3", "no-diffusion-k1")
SUPERVISIONS = {"states": "states", "logits": "attention+states+logits", "labels": "labels"}
# Other ways to calibrate, by what they change of one step a layer.
SCHEDULES: dict[str, Mapping[str, Any]] = {
    "random": {"substeps": (1, 3)},
    "penalty": {"refinement": 1.0},
    "heun": {"method": "heun"},
    "rk4": {"method": "rk4"},
    "graded": {"method": "lie", "graded": ((6, 10), (2, 5))},
}
DIFFUSIVITIES = (0.02, 0.05, 0.1, 0.2, 0.4)
WIDTHS = ("linear", 16, 64, 256)
CURVED = ("", "linear", "relu", "tanh")
# Those whose weights a page loads; of the others the records are committed.
COMMITTED = tuple(
    f"rung-{teacher}-{family}-seed0"
    for teacher in ("image-patch4", "text-classifier")
    for family in ("full-k1", "full-k1-one-step", "full-k3")
)
TEACHERS = {"image": "image-patch4", "text": "text-classifier"}


def specs_of(scale: str) -> tuple[Spec, ...]:
    """Return every calibration of a scale, in the order of their importance: all of seed 0 before other seeds.

    Main equations in 5 seeds; the others in 1 seed and a third of the steps (`full`: all in 5 seeds, with all steps).
    The equation of a seed is calibrated to the teacher of that seed.
    """
    refuse_unknown_scale(scale)
    full = scale == "full"
    share = 1.0 if full else THIRD
    found: list[Spec] = []
    for seed in range(1 if scale == "smoke" else SEEDS):
        teachers = [f"{teacher}-seed{seed}" for teacher in TEACHERS.values()]
        found += [_main(family, teacher, seed) for family in MAIN for teacher in teachers]
        if full or seed == 0:
            others = _sweeps(seed)
            for teacher in teachers:
                # What the others are compared with: the same at their share of the steps.
                short = [] if full else [f"{family}{SHORT}" for family in MAIN if family != "full-k3"]
                others += [*(_main(family, teacher, seed) for family in short), *_others(teacher, seed)]
            found += [replace(spec, share=share) for spec in others]
    if not full:
        long = [_main(f"full-k1{LONG}", f"{teacher}-seed0", 0) for teacher in TEACHERS.values()]
        found += [replace(spec, share=LENGTH) for spec in long]
    # Last, as they cost most.
    found += [replace(spec, share=share) for seed in range(SEEDS if full else 1) for spec in _pretrained(seed)]
    return tuple(found)


def _main(family: str, teacher: str, seed: int) -> Spec:
    plain = family.removesuffix(SHORT).removesuffix(LONG)
    equation = EQUATIONS[plain.removesuffix(ONE_STEP_ENDING)]
    plan = ONE_STEP if plain.endswith(ONE_STEP_ENDING) else refined(teacher, equation["temporal_modes"])
    return Spec(family, teacher, seed, equation, plan)


def _others(teacher: str, seed: int) -> list[Spec]:
    """Return the equations of a main teacher that are calibrated once."""
    plan = refined(teacher)

    def spec(family: str, plan: Plan = plan, equation: Mapping[str, Any] = EQUATIONS["full-k1"], **others: Any) -> Spec:
        return Spec(family, teacher, seed, equation, plan, **others)

    families = [family for family in EQUATIONS if family not in MAIN]
    families += [f"{family}{ONE_STEP_ENDING}" for family in ("full-k3", "no-diffusion-k1", "unshared")]
    found = [
        *(_main(family, teacher, seed) for family in families),
        spec("narrow-k1", refined(teacher, 6), narrow=True),
    ]
    for name, given in SUPERVISIONS.items():
        # Labels alone have no teacher, so none may force their states either.
        found.append(spec(f"full-k1-{name}", replace(plan, supervision=given, forced=0.3 * (given != "labels"))))
    found += [spec(f"full-k1-{name}", replace(ONE_STEP, **changed)) for name, changed in SCHEDULES.items()]
    found += [spec(f"full-k1-un{part}", replace(plan, **{part: 0.0})) for part in ("forced", "doubled")]
    for value in DIFFUSIVITIES:
        found.append(spec(f"fixed-d{value:g}", equation=_with(diffusion=value), fixed=("diffusion.raw.coefficients",)))
    for family in ("full-k1", "no-diffusion-k1"):
        found.append(spec(f"{family}-shuffled", equation=EQUATIONS[family], shuffled=True))
    return [*found, spec("full-k1-horizon4", horizon=4)]


def _pretrained(seed: int) -> list[Spec]:
    """Return the equations of the pretrained encoder, whose states are of one size at all depths: no graded entry."""
    plan = replace(REFINED, graded=((1, 2),), batch=8, peak_rate=5e-3)
    one_step = replace(ONE_STEP, batch=8, peak_rate=5e-3)

    def spec(name: str, modes: int, plan: Plan) -> Spec:
        return Spec(f"full-k{modes}{name}", MINILM, seed, _with(modes), plan)

    return [
        *(spec("", modes, replace(plan, forced=0.3 if modes == 1 else 0.7)) for modes in (1, 2, 3)),
        *(spec(ONE_STEP_ENDING, modes, one_step) for modes in (1, 3)),
        spec("-states", 1, replace(plan, supervision="states")),
    ]


def _sweeps(seed: int) -> list[Spec]:
    """Return the equations on cheap teachers: the residual's width, shared and unshared; teachers from linear up."""
    found, teacher = [], f"image-patch7-seed{seed}"
    for width in WIDTHS:
        settings = {"activation": "linear", "hidden": 64} if width == "linear" else {"hidden": width}
        for sharing, modes in (("k1", 1), ("unshared", 6)):
            equation = _with(modes, **settings) | ({"basis": "piecewise"} if modes == 6 else {})
            found.append(Spec(f"hidden-{width}-{sharing}", teacher, seed, equation, refined(teacher, modes)))
    for variant in CURVED:
        teacher = "-".join(filter(None, ("image-patch7", variant, f"seed{seed}")))
        equation = _with() | ({"activation": variant} if variant else {})
        found.append(Spec("full-k1", teacher, seed, equation, REFINED))
    return found
