"""The ladder of laws: how many one equation needs until its converged attention is the teacher's, by budget.

All rungs are calibrated by one of two recipes (`FORCED`, `ROLLED`), chosen on the validation split of seed 0, and at
the same budgets: right-hand sides times examples, each twice the one before. What the other recipe gives stands beside.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pdelens.pde.plan import Plan

from ..teachers.teacher import MINILM
from .specs import ONE_STEP, Spec
from .specs import TEACHERS as MODALITIES

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


# The classifiers, and every teacher that a page about laws puts on trial, by what it reads.
TEACHERS = tuple(MODALITIES.values())
LANGUAGE = "text-causal"
SUBJECTS = MODALITIES | {"language": LANGUAGE}
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


_NAME = re.compile(rf"rung-(.+?)-{FAMILY}(.+?)(-states)?(?:-b(\d+))?-seed(\d+)")


def named(name: str) -> Spec | None:
    """Return a rung of the ladder by its whole name, whether it is listed at any scale or not; None for other names.

    >>> spec = named("rung-image-patch4-laws-k3-states-b2-seed1")
    >>> spec == law("k3", "image-patch4", 1, 2, "states"), named("rung-image-patch4-full-k3-seed0")
    (True, None)
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    teacher, kind, states, budget, seed = found.groups()
    try:
        if budget is None:
            return pretrained_law(kind, teacher) if seed == "0" and not states else None
        return law(kind, teacher, int(seed), int(budget), "states" if states else "attention+states")
    except KeyError:  # no such equation
        return None
