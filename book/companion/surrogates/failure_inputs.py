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
from pdelens.agreement.nulls import mean_map
from pdelens.agreement.report import compare
from pdelens.flow import Flow
from pdelens.intervals import bootstrap_interval
from pdelens.pde.equation import PDE

from ..data import corruptions
from ..data import tokens as text
from ..teachers.teacher import Teacher
from . import errors, evaluate

UNCHANGED = "unchanged"
# Kinds of changes, by the families of `corruptions`.
GROUPS = {
    "grey values": ("gaussian noise", "gaussian blur", "contrast", "inversion"),
    "moved, turned, covered": ("translation", "rotation", "occlusion"),
    "shuffled": ("patches shuffled", "pieces shuffled"),
    "another source": ("photographs", "pure noise", "Brown corpus"),
}
# Of a family with five severities two are shown.
LEVELS = (None, 2, 5)


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
        return float(spearmanr(*pairs.T).statistic) if np.ptp(pairs, axis=0).all() else 0.0

    pairs = np.stack([first, second], 1)
    found, degrees = rho(pairs), len(pairs) - 2
    t = found * np.sqrt(degrees / max(1 - found**2, 1e-12))
    return Correlation(found, bootstrap_interval(pairs, rho, resamples=resamples), float(2 * stdtr(degrees, -abs(t))))


def clear(found: Mapping[Any, Correlation], rate: float = 0.05) -> dict[Any, bool]:
    """Return which correlations are kept at a false discovery rate over all of them (Benjamini and Hochberg 1995)."""
    adjusted = false_discovery_control([one.p for one in found.values()])
    return dict(zip(found, (adjusted <= rate).tolist(), strict=True))


def mean_map_cosine(calibration: Flow, reference: Flow) -> float:
    """Return what the teacher's mean map has on average over examples: the null of a single example's cosine."""
    pairs = zip(mean_map(calibration, reference), reference.attention, strict=True)
    maps = tuple(maps.expand_as(attention) for maps, attention in pairs)
    return float(errors.by_example(replace(reference, attention=maps), reference, calibration)["cosine"].mean())


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
    """How teacher, equations and nulls do on inputs changed in one way: `evaluate.followed`, and the `one step` field's
    cosine, at one step a layer; with the 95 % bootstrap interval of the converged `cosine` over examples.
    """

    values: dict[str, float]
    interval: tuple[float, float]


def judged_shifts(
    teacher: Teacher, kind: str, calibration: Flow, equations: Mapping[str, tuple[PDE, Mapping[str, Any]]], count: int
) -> dict[str, Shift]:
    """Return how a teacher is followed on so many inputs of each shift.

    `equations` are `converged` and `one step`, each with how `integrate` solves it. All shifts are solved at once, so
    that the adaptive solver's steps are the same for all.
    """
    changed = changed_inputs(teacher, kind, count)
    every = torch.cat(list(changed.values()))
    reference = teacher.flow(every if kind == "image" else {"inputs": every, "mask": every != text.PAD})
    solved = {name: evaluate.rolled_out(pde, reference, **how) for name, (pde, how) in equations.items()}
    found = {}
    for number, name in enumerate(changed):
        part = slice(number * count, (number + 1) * count)
        here, plain = reference.select(part), reference.select(slice(0, count))
        flow, single = (solved[way].select(part) for way in ("converged", "one step"))
        values = evaluate.followed(flow, here, plain, calibration)
        values["one step"] = compare(single, here, measures=["cosine"]).headline()
        found[name] = Shift(values, compare(flow, here, measures=["cosine"]).headline_interval())
    return found
