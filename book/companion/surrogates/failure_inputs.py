"""On which inputs an equation fails: example by example, and on inputs that nobody calibrated it for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import stdtr
from scipy.stats import false_discovery_control, spearmanr
from torch import Tensor

from pdelens.agreement.measures import cosine
from pdelens.agreement.nulls import mean_map, nearest_inputs, nearest_maps
from pdelens.agreement.report import compare
from pdelens.flow import Flow
from pdelens.intervals import bootstrap_interval
from pdelens.pde.equation import PDE

from ..data import corruptions
from ..data import tokens as text
from ..teachers.teacher import Teacher, features
from . import errors, evaluate

UNCHANGED, LOOK_UP = "unchanged", "look-up"
# What is held against an agreement on changed inputs.
NULLS = ("mean map", LOOK_UP, "unchanged map")
# Kinds of changes, by the families of `corruptions`.
GROUPS = {
    "grey values": ("gaussian noise", "gaussian blur", "contrast", "inversion"),
    "moved, turned, covered": ("translation", "rotation", "occlusion"),
    "shuffled": ("patches shuffled", "pieces shuffled"),
    "another source": ("photographs", "pure noise", "Brown corpus"),
}
# Of a family with five severities two are shown.
LEVELS = (None, 2, 5)


@torch.no_grad()
def known_of(teacher: Teacher, reference: Flow, calibration: Flow) -> dict[str, np.ndarray]:
    """Return four things known of each held-out example without any equation, (examples,) each.

    `margin of the teacher` (its two largest logits' difference), `teacher is right`, `entropy of its attention` (as a
    share of the largest), and `number of tokens` of a text or `mean grey value` of a picture. `reference` is the
    teacher's Flow on the first so many held-out examples.
    """
    inputs, labels = teacher.inputs("heldout", reference.examples)
    logits = teacher.readout(reference.states[-1], reference.mask)
    top = logits.topk(2, -1).values
    found = {
        "margin of the teacher": (top[:, 0] - top[:, 1]).numpy(),
        "teacher is right": (logits.argmax(-1) == labels).float().numpy(),
        "entropy of its attention": errors.by_example(reference, reference, calibration)["entropy"],
    }
    if isinstance(inputs, Tensor):
        return found | {"mean grey value": inputs.float().mean((1, 2)).numpy()}
    return found | {"number of tokens": reference.mask.sum(1).numpy()}


class Correlation(NamedTuple):
    """Spearman's rank correlation over examples, its 95 % bootstrap interval, and a p-value by Student's t."""

    rho: float
    interval: tuple[float, float]
    p: float


def rank_correlation(first: np.ndarray, second: np.ndarray, resamples: int = 200) -> Correlation:
    """Return how two numbers an example go together, examples resampled in pairs.

    What is constant in a sample goes with nothing: there it is 0.

    >>> rank_correlation(np.arange(9.0), np.arange(9.0) ** 3).rho.__round__(6)
    1.0
    """

    def rho(pairs: np.ndarray) -> float:
        if not np.ptp(pairs, axis=0).all():
            return 0.0
        about: Any = spearmanr(pairs)
        return float(about.statistic)

    pairs = np.stack([first, second], 1)
    found, degrees = rho(pairs), len(pairs) - 2
    t = found * np.sqrt(degrees / max(1 - found**2, 1e-12))
    return Correlation(found, bootstrap_interval(pairs, rho, resamples=resamples), float(2 * stdtr(degrees, -abs(t))))


def clear(found: Mapping[Any, Correlation], rate: float = 0.05) -> dict[Any, bool]:
    """Return which correlations are kept at a false discovery rate over all of them (Benjamini and Hochberg 1995)."""
    adjusted = false_discovery_control([one.p for one in found.values()])
    return dict(zip(found, (adjusted <= rate).tolist(), strict=True))


def null_cosines(calibration: Flow, reference: Flow, nearest: Tensor) -> dict[str, float]:
    """Return what two nulls have on average over examples: what a single example's cosine is held against.

    `mean map` is the teacher's over calibration examples; `look-up` its mean over those `nearest` to each example
    (examples, count).
    """
    known = {"mean map": mean_map(calibration, reference), LOOK_UP: nearest_maps(calibration, nearest, reference)}
    found = {}
    for name, maps in known.items():
        pairs = zip(maps, reference.attention, strict=True)
        flow = replace(reference, attention=tuple(ours.expand_as(theirs) for ours, theirs in pairs))
        found[name] = float(errors.by_example(flow, reference, calibration)["cosine"].mean())
    return found


def least_alike(flow: Flow, reference: Flow) -> int:
    """Return the layer, from 0, whose attention agrees least, mean over heads and examples."""
    pairs = zip(flow.attention, reference.attention, strict=True)
    return int(np.argmin([float(cosine(ours, theirs, reference.mask).mean()) for ours, theirs in pairs]))


def worst_and_usual(values: np.ndarray, each: int = 2) -> list[int]:
    """Return the examples with the smallest values, then the first few between the 40th and the 60th percentile.

    >>> worst_and_usual(np.array([0.1, 0.5, 0.9, 0.2, 0.6, 0.3, 0.8]), 1)
    [0, 1]
    """
    low, high = np.quantile(values, [0.4, 0.6])
    usual = np.flatnonzero((values > low) & (values < high))[:each]
    return [*np.argsort(values)[:each].tolist(), *usual.tolist()]


def group_of(kind: str, name: str) -> str:
    """Return which kind of change a shift of pictures or texts is (`GROUPS`, or `UNCHANGED`)."""
    if name == UNCHANGED:
        return name
    family = corruptions.corruptions(kind)[name].family
    return next(group for group, families in GROUPS.items() if family in families)


def changed_inputs(teacher: Teacher, kind: str, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the first held-out pictures or texts, unchanged first, and by name as every shift changes them."""
    plain = teacher.inputs("heldout", count)[0]
    plain = plain["inputs"] if isinstance(plain, dict) else plain
    grouped = {family for families in GROUPS.values() for family in families}
    return {UNCHANGED: plain} | {
        name: shift(plain, seed)
        for name, shift in corruptions.corruptions(kind).items()
        if shift.family in grouped and shift.level in LEVELS
    }


class Shift(NamedTuple):
    """How teacher, equations and nulls do on inputs changed in one way, with the interval of the converged cosine.

    `values`: those of `evaluate.followed`; `look-up`, the cosine of the teacher's mean map over the five calibration
    inputs nearest to the changed one; and the `one step` field's cosine, at one step a layer. `interval`: of `cosine`,
    95 %, examples resampled.
    """

    values: dict[str, float]
    interval: tuple[float, float]


@torch.no_grad()
def judged_shifts(
    teacher: Teacher, kind: str, calibration: Flow, equations: Mapping[str, tuple[PDE, Mapping[str, Any]]], count: int
) -> dict[str, Shift]:
    """Return how a teacher is followed on so many inputs of each shift.

    `equations` are `converged` and `one step`, each with how `integrate` solves it. All shifts are solved at once, so
    that the adaptive solver's steps are the same for all.
    """
    changed = changed_inputs(teacher, kind, count)
    every = torch.cat(list(changed.values()))
    given = every if kind == "image" else {"inputs": every, "mask": every != text.PAD}
    reference = teacher.flow(given)
    solved = {name: evaluate.rolled_out(pde, reference, **how) for name, (pde, how) in equations.items()}
    near = nearest_inputs(features(given), features(teacher.inputs("calibration", calibration.examples)[0]))
    found = {}
    for number, name in enumerate(changed):
        part = slice(number * count, (number + 1) * count)
        here, plain = reference.select(part), reference.select(slice(0, count))
        flow, single = (solved[way].select(part) for way in ("converged", "one step"))
        values = evaluate.followed(flow, here, plain, calibration)
        others = {"one step": single, LOOK_UP: nearest_maps(calibration, near[part], here)}
        values |= {other: compare(maps, here, measures=["cosine"]).headline() for other, maps in others.items()}
        found[name] = Shift(values, compare(flow, here, measures=["cosine"]).headline_interval())
    return found
