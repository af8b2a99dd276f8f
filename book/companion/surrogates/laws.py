"""The ladder of laws: how many one equation needs until its converged attention is the teacher's, by budget.

All rungs are calibrated by one of two recipes (`FORCED`, `ROLLED`), chosen on the validation split of seed 0, and at
the same budgets: right-hand sides times examples, each twice the one before. What the other recipe gives stands beside.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pdelens.pde.plan import Plan

from ..teachers.recipes import SEEDS
from ..teachers.teacher import MINILM, PRETRAINED
from .specs import ONE_STEP, Spec, specs_of

FAMILY = "laws-"
# Steps crowd at the entry, where a small embedding is carried far at once, and the field is asked to go straight, so
# that few of them resolve it. Laws that may change with depth follow the layers from the teacher's own states first
# (`FORCED`); a single law can't, and learns to roll out early, by single Lie steps first (`ROLLED`).
ENTRY: dict[str, Any] = {"entry": (1 / 256, 1 / 64, 1 / 16, 1 / 4), "graded": ((1, 2),)}
CONVERGED = replace(ONE_STEP, method="heun", batch=8, smooth=0.1, **ENTRY)
FORCED = replace(CONVERGED, forced=0.5, doubled=0.1)
ROLLED = replace(CONVERGED, forced=0.12, coarse=0.32, doubled=0.25)
STEP = replace(ONE_STEP, batch=8)
SIZED: dict[str, Any] = {"normalisation": "layer+size"}
_UNSHARED: dict[str, Any] = {"temporal_modes": 6, "basis": "piecewise"}
RANKS = (1, 2, 4, 8)

# name -> equation; `k1` is one law, read by its own clock, of which `plain` knows neither clock nor size.
EQUATIONS: dict[str, dict[str, Any]] = {
    "k1": {"temporal_modes": 1, "clock": True, **SIZED},
    "k1-plain": {"temporal_modes": 1},
    "k1-size": {"temporal_modes": 1, **SIZED},
    "k1-clock": {"temporal_modes": 1, "clock": True},
    **{f"k{modes}": {"temporal_modes": modes, **SIZED} for modes in (2, 3, 4)},
    "k6": {**_UNSHARED, **SIZED},
    **{f"rank{rank}": {"temporal_modes": 1, "rank": rank, **SIZED} for rank in RANKS},
}
# Calibrated with one step a layer; `blocks` is the teacher's own architecture learnt anew: what any student reaches.
STEPPED = {"k1-one-step": EQUATIONS["k1"], "k3-one-step": EQUATIONS["k3"], "blocks": {**_UNSHARED, "diffusion": None}}


def recipe(name: str, supervision: str = "attention+states") -> Plan:
    """Return how a rung is calibrated; the ending `-rolled` or `-forced` asks for the other recipe than its own."""
    if name in STEPPED:
        plan = STEP
    elif name.endswith(("-rolled", "-forced")):
        plan = ROLLED if name.endswith("-rolled") else FORCED
    else:
        plan = ROLLED if name.startswith(("k1", "segments1")) else FORCED
    return replace(plan, supervision=supervision)


def law(name: str, teacher: str, seed: int, budget: int, supervision: str = "attention+states") -> Spec:
    """Return one rung of a teacher (such as "image-patch4") and seed at a number of the smallest budgets."""
    plain = name.removesuffix("-no-diffusion").removesuffix("-rolled").removesuffix("-forced")
    # Diffusion sees both neighbours, a causal teacher the past alone.
    local = teacher != LANGUAGE and not name.endswith("-no-diffusion")
    equation: Mapping[str, Any] = STEPPED.get(plain) or EQUATIONS[plain]
    if not local:
        equation = {**equation, "diffusion": None}
    family = f"{FAMILY}{name}" + "-states" * (supervision == "states") + f"-b{budget}"
    return Spec(family, f"{teacher}-seed{seed}", seed, equation, recipe(name, supervision), budget=float(budget))


TEACHERS = ("image-patch4", "text-classifier")
LANGUAGE = "text-causal"
# Numbers of the smallest budget: all of a learning curve, at which rungs are compared (over five seeds), and one long
# run.
BUDGETS = (1, 2, 4, 8)
MAIN_BUDGET, HERO_BUDGET = 2, 32


# Pretrained models: K segments of layers of one law each, K laws in depth-time beside them, and segments as recurrent
# blocks are in the literature: each layer scales what a shared block adds, one step a layer.
SEGMENTS: dict[str, dict[str, Any]] = {
    **{f"segments{count}": {"temporal_modes": count, "basis": "piecewise"} for count in (1, 2, 3)},
    "modes3": {"temporal_modes": 3},
}
BLOCKS: dict[str, dict[str, Any]] = {
    f"recurrent{count}": {**SEGMENTS[f"segments{count}"], "scaled": True, "diffusion": None} for count in (1, 2, 3)
}
# A right-hand side costs some fifteen times as much: fewer of them, in smaller batches, at a lower rate.
PRETRAINED_BUDGET = 0.5


def pretrained_law(name: str, teacher: str) -> Spec:
    """Return one calibration to a pretrained model; its states are of one size until the last layers: no entry."""
    plan = STEP if name in BLOCKS else replace(recipe(name), entry=(), graded=((1, 2),))
    plan = replace(plan, batch=4, peak_rate=5e-3)
    equation = BLOCKS.get(name) or {**SEGMENTS[name], **({} if teacher == MINILM else SIZED)}
    return Spec(f"{FAMILY}{name}", teacher, 0, equation, plan, budget=PRETRAINED_BUDGET)


def every_spec(scale: str) -> tuple[Spec, ...]:
    """Return every calibration of a scale: the ladder of laws, then the sweep of hypotheses."""
    return (*law_specs(scale), *specs_of(scale))


def law_specs(scale: str) -> list[Spec]:
    """Return the ladder of a scale, what decides most first; at `full` scale every rung in five seeds."""
    if scale == "smoke":
        return [law(name, teacher, 0, 1) for name in ("k1", "blocks") for teacher in TEACHERS]
    curve = [law(name, teacher, 0, b) for b in BUDGETS for teacher in TEACHERS for name in ("k3", "k1", "blocks")]
    short = [one for one in curve if one.budget <= MAIN_BUDGET]
    long = [one for one in curve if one.budget > MAIN_BUDGET]  # the curve's longest last, with the heroes
    mains, more = ("k3", "k1"), range(1, SEEDS)
    seeds = [law(name, t, seed, MAIN_BUDGET) for seed in more for t in TEACHERS for name in mains]
    language = [law(name, LANGUAGE, 0, b) for b in BUDGETS for name in (*mains, "blocks")]
    language += [law(name, LANGUAGE, seed, MAIN_BUDGET) for seed in more for name in mains]
    # Curves still fall at the main budget: every seed is calibrated at twice as much, and then at twice that.
    beyond = [b for b in BUDGETS if b > MAIN_BUDGET]
    doubled = [law(name, t, seed, b) for b in beyond for seed in more for t in (LANGUAGE, *TEACHERS) for name in mains]
    every = range(SEEDS if scale == "full" else 1)
    names = ("k1-one-step", "k3-one-step", "k1-no-diffusion", "k3-no-diffusion", "k2", "k4", "k6")
    names += ("k1-forced", "k3-rolled")
    names += ("k1-plain", "k1-size", "k1-clock", *(f"rank{rank}" for rank in RANKS))
    others = [law(name, teacher, seed, MAIN_BUDGET) for name in names for teacher in TEACHERS for seed in every]
    states = [law("k3", teacher, seed, MAIN_BUDGET, "states") for teacher in TEACHERS for seed in every]
    heroes = [law(name, t, 0, HERO_BUDGET) for name, t in zip(("k3", "k1"), TEACHERS, strict=True)]
    pretrained = [pretrained_law(name, teacher) for teacher in PRETRAINED for name in (*SEGMENTS, *BLOCKS)]
    return [*short, *seeds, *long[:6], *language, *doubled, *others, *states, *pretrained, *long[6:], *heroes]
