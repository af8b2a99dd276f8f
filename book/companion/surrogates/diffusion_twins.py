"""Diffusion, by what is lost without it: twins, fits at fixed diffusivities, what was learnt, controls."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdelens.agreement.report import skill

from ..claims.register import EQUIVALENT
from ..seeds import SeedMean, over_seeds
from . import results
from .controls import NAME, Control
from .evaluate import headline
from .specs import DIFFUSIVITIES
from .store import sweep_records


def reading(paired: SeedMean, margin: float | None = EQUIVALENT) -> str:
    """Return what a difference paired by seed says, in words.

    With a margin an interval that lies within it says "no effect within the margin", whether or not it has zero in it:
    a difference may be real and too small to matter. Else an interval without zero says "raises it" or "lowers it". One
    with zero in it says "undecided" where it reaches beyond the margin, and no more than that where none was stated.

    >>> [reading(SeedMean(0.0, ends, (0.0, 0.0))) for ends in ((-0.002, 0.009), (0.002, 0.02), (-0.02, 0.002))]
    ['no effect within the margin', 'raises it', 'undecided']
    """
    if paired.interval is None:
        return "one seed"
    low, high = paired.interval
    if margin is not None and -margin <= low and high <= margin:
        return "no effect within the margin"
    if low <= 0 <= high:
        return "undecided" if margin is not None else "zero in its interval"
    return "raises it" if low > 0 else "lowers it"


def profile(teacher: str, measure: str) -> list[SeedMean]:
    """Return a converged measure of the equations whose D was held at each of `specs.DIFFUSIVITIES`."""
    return [results.seed_mean(teacher, f"fixed-d{value:g}", measure) for value in DIFFUSIVITIES]


def spread(teacher: str, measure: str, family: str = "full-k1") -> float:
    """Return the standard deviation of a converged measure over seeds, 0 where there is one."""
    seeds = results.seed_mean(teacher, family, measure).seeds
    return float(np.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0


def channels(teacher: str, family: str = "full-k1") -> dict[int, np.ndarray]:
    """Return the diffusivities that an equation learnt, by seed and channel."""
    rows = results.records_of(teacher, family)
    return {number: np.array(about["learnt"]["diffusivity"]["channels"]) for number, about in rows.items()}


def learnt(teacher: str, initial: float) -> dict[str, SeedMean]:
    """Return over seeds the `mean` and `largest` D of a channel, the share of `small` ones, and the mean `velocity`.

    Small is below a tenth of where every channel began (`initial`); the velocity is that of the equation that may
    advect, the mean over directions of its size.
    """
    columns = np.stack(list(channels(teacher).values()))
    moving = results.records_of(teacher, "full-k1-advection").values()
    speeds = [float(np.mean(np.abs(about["learnt"]["velocity"]["mean"]))) for about in moving]
    found: dict[str, Sequence[float]] = {
        "mean": columns.mean(1).tolist(),
        "largest": columns.max(1).tolist(),
        "small": (columns < initial / 10).mean(1).tolist(),
        "velocity": speeds,
    }
    return {name: over_seeds(values) for name, values in found.items()}


def control(kind: str) -> Mapping[str, Any] | None:
    """Return the record of a control (`controls.KINDS`): the ladder's recipe, else an older one, else None."""
    known = sweep_records()[NAME]
    return known.get(Control(kind).name.removeprefix(f"{NAME}-"), known.get(kind))


def of_control(about: Mapping[str, Any]) -> dict[str, float]:
    """Return a control's numbers: attention's `cosine`, the best `null`'s, the `skill`, state `r2`; all at the worst.

    Where its teacher diffuses and the equation too, `diffusivity` is the largest relative error over channels.
    """
    best = np.max([np.array(values) for values in about["nulls"].values()], axis=0)
    found = {
        "cosine": headline(about),
        "null": float(best.mean(1).min()),
        "skill": float(skill(np.array(about["cosine"]), best).mean(1).min()),
        "r2": float(min(about["r2" if "r2" in about else "r2 mean over channels"])),
    }
    ours, true = (np.array(about.get(name) or []) for name in ("diffusivity", "true diffusivity"))
    if len(ours) and len(true):
        found["diffusivity"] = float(np.abs(ours / true - 1).max())
    return found


def blindness(whole: Mapping[str, Any] | None, without: Mapping[str, Any] | None) -> str:
    """Return what the twin without diffusion says of a teacher that diffuses: whether twins can show diffusion at all.

    `whole` and `without` are controls: the full equation and its twin, both calibrated to the diffusive teacher.
    """
    if whole is None or without is None:
        return "has not been calibrated yet, so the comparison of twins may be blind to diffusion"
    lost = headline(whole) - headline(without)
    if lost > EQUIVALENT:
        return f"falls short of the full equation by {lost:.3f}: where diffusion is at work, twins show it"
    return f"comes within {abs(lost):.3f} of the full equation: attention stands in for diffusion, and twins are blind"
