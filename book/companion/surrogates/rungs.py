"""What is calibrated at each scale, in which order: the ladder of laws (`laws`), then the sweep (`specs`).

Apart from both, since pages read what was found and not what is still to be done: a rung more makes none out of date.
"""

from ..teachers.recipes import SEEDS
from ..teachers.teacher import PRETRAINED
from .laws import (
    BLOCKS,
    BUDGETS,
    HERO_BUDGET,
    LANGUAGE,
    MAIN_BUDGET,
    RANKS,
    SEGMENTS,
    SUBJECTS,
    TEACHERS,
    law,
    pretrained_law,
)
from .specs import Spec, specs_of


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
    ranks = [f"rank{rank}" for rank in RANKS]
    names = ("k1-one-step", "k3-one-step", "k1-no-diffusion", "k3-no-diffusion", "k2", "k4", "k6")
    names += ("k1-forced", "k3-rolled")
    names += ("k1-plain", "k1-size", "k1-clock", *ranks)
    others = [law(name, teacher, seed, MAIN_BUDGET) for name in names for teacher in TEACHERS for seed in every]
    # One law has flattened on language below the bar that three clear: the least number that does. And one law with
    # corrections of low rank, which at one budget has more of a classifier's attention than three laws: its curve.
    others += [law(n, LANGUAGE, seed, MAIN_BUDGET) for n in ("k2", "k4", "k6", *ranks) for seed in every]
    least = [law("k2", LANGUAGE, seed, b) for b in beyond for seed in range(SEEDS)]
    corrected = [
        law(n, t, seed, b) for b in beyond for seed in range(SEEDS) for t in SUBJECTS.values() for n in ranks[-2:]
    ]
    states = [law("k3", teacher, seed, MAIN_BUDGET, "states") for teacher in TEACHERS for seed in every]
    heroes = [law(name, t, 0, HERO_BUDGET) for name, t in zip(("k3", "k1"), TEACHERS, strict=True)]
    pretrained = [pretrained_law(name, teacher) for teacher in PRETRAINED for name in (*SEGMENTS, *BLOCKS)]
    return [
        *short,
        *seeds,
        *long[:6],
        *language,
        *doubled,
        *others,
        *least,
        *corrected,
        *states,
        *pretrained,
        *long[6:],
        *heroes,
    ]
