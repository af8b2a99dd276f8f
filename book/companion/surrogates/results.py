"""How the equations stand: headline numbers of the recorded judgements, over seeds, beside their nulls."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pdelens.agreement.report import skill

from ..seeds import SeedMean, over_seeds
from .errors import LinearSplit
from .store import NULLS, sweep_records

# What can be asked of a judged way of stepping; the first need the cosine of every head.
OF_HEADS = ("worst head", "skill", "median skill")
OTHERS = ("cosine", "centred cosine", "head mean", "r2", "r2, worst decile", "cka", "classes", "accuracy", "read")
MEASURES = (*OF_HEADS, *OTHERS)


def records_of(teacher: str, family: str) -> dict[int, dict[str, Any]]:
    """Return the records of an equation by seed; `teacher` as in `specs.TEACHERS`, such as "image-patch4"."""
    return by_seed(sweep_records()["rungs"], teacher, family)


def by_seed(rungs: Mapping[str, Any], teacher: str, family: str) -> dict[int, dict[str, Any]]:
    """Return an equation's records among those of every rung, by seed."""
    start = f"rung-{teacher}-{family}-seed"
    return {int(name[-1]): rungs[name] for name in sorted(rungs) if name[:-1] == start}


def value(about: Mapping[str, Any], resolution: str, measure: str) -> float:
    """Return one number of a record: mean over heads (and examples), then the worst layer or depth.

    `worst head` is the smallest over layers and heads; `skill` is against the best null of each layer and head. A
    head that has one map for all inputs leaves its null hardly a shortfall to divide by, so beside the worst layer's
    mean stands the `median skill` over layers and heads. nan where the solution diverged, where the equation has no
    attention, or where the way keeps no single heads.
    """
    evaluated = about["judged"][resolution]
    key = "cosine" if measure in OF_HEADS else measure
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r} was given: choose from {', '.join(MEASURES)}.")
    if key not in evaluated:
        return float("nan")
    numbers = np.asarray(evaluated[key], dtype=float)
    if measure in OF_HEADS:
        if numbers.ndim < 2:
            return float("nan")
        if measure != "worst head":
            numbers = skill(numbers, best_null(about["made"]["subject"]))
    return _of_heads(numbers, measure) if numbers.ndim == 2 else float(numbers.min())


def best_null(teacher: str) -> np.ndarray:
    """Return the best null's cosine of each layer and head of a teacher, (layers, heads)."""
    return np.max([np.asarray(values) for values in sweep_records()[NULLS][teacher]["attention"].values()], axis=0)


def null(teacher: str, name: str) -> float:
    """Return a null's cosine, mean over heads, worst layer."""
    return _of_heads(np.asarray(sweep_records()[NULLS][teacher]["attention"][name]), "cosine")


def state_null(teacher: str) -> np.ndarray:
    """Return R2, by depth from 1, of the best null that sees the embedding alone: identity, affine maps, mean state."""
    return best_blind(sweep_records()[NULLS][teacher]["states"])


def best_blind(known: Mapping[str, Any]) -> np.ndarray:
    """Return the largest of R2s by depth among state nulls that see the embedding alone: none is told a layer's state.

    >>> best_blind({"identity": [0.5, 0.1], "mean state": [0.2, 0.3], "affine, one step": [0.9, 0.9]}).tolist()
    [0.5, 0.3]
    """
    return np.max([known[name] for name in known if not name.endswith("one step")], axis=0)


def state_skill(about: Mapping[str, Any], resolution: str = "converged") -> float:
    """Return the share of the best state null's shortfall that an equation makes up, `1 - (1 - R2) / (1 - R2_null)`.

    Both at the same depth; the worst depth. nan where the solution diverged.
    """
    evaluated = about["judged"][resolution]
    if "r2" not in evaluated:
        return float("nan")
    return float(skill(evaluated["r2"], state_null(about["made"]["subject"])).min())


def seed_mean(teacher: str, family: str, measure: str = "cosine", resolution: str = "converged") -> SeedMean:
    """Return a measure of an equation over its seeds."""
    return over_seeds([value(about, resolution, measure) for about in records_of(teacher, family).values()])


def difference(
    teacher: str, family: str, other: str, measure: str = "cosine", resolution: str = "converged"
) -> SeedMean:
    """Return an equation's measure minus another's, paired by seed."""
    ours, theirs = records_of(teacher, family), records_of(teacher, other)
    pairs = [value(ours[s], resolution, measure) - value(theirs[s], resolution, measure) for s in ours if s in theirs]
    return over_seeds(pairs)


def split_of_error(teacher: str, family: str) -> dict[int, LinearSplit]:
    """Return how an equation's local error divides, by seed, where it is on record (`calibrate.DIVIDED`)."""
    return {
        number: LinearSplit(*(np.array(about["local"][part]) for part in LinearSplit._fields))
        for number, about in records_of(teacher, family).items()
        if "local" in about
    }


def null_seed_mean(teacher: str, name: str, measure: str = "cosine") -> SeedMean:
    """Return an attention null's `cosine` or `worst head` over the seeds whose nulls are known.

    "best" is the best null of each layer and head: what a choice after the fact could reach.
    """
    chosen = [
        best_null(teacher) if name == "best" else np.asarray(about["attention"][name])
        for teacher, about in null_records(teacher).items()
    ]
    return over_seeds([_of_heads(numbers, measure) for numbers in chosen])


def state_null_seed_mean(teacher: str) -> SeedMean:
    """Return the R2 of the best state null that sees the embedding alone, worst depth, over the same seeds."""
    return over_seeds([float(state_null(teacher).min()) for teacher in null_records(teacher)])


def ceiling(teacher: str, measure: str = "cosine") -> SeedMean:
    """Return what another seed's teacher reaches, by `cosine`, `worst head` or `centred cosine`."""
    key = measure.replace("worst head", "cosine")
    rows = [about["ceiling"][key] for about in null_records(teacher).values() if "ceiling" in about]
    return over_seeds([_of_heads(np.asarray(numbers), measure) for numbers in rows])


def null_records(teacher: str) -> dict[str, dict[str, Any]]:
    """Return what is known of the nulls of a teacher's seeds; one without seeds is its own."""
    rows = sweep_records()[NULLS]
    return {name: rows[name] for name in sorted(rows) if name == teacher or name[:-1] == f"{teacher}-seed"}


def _of_heads(numbers: np.ndarray, measure: str) -> float:
    if measure == "median skill":
        return float(np.median(numbers))
    return float(numbers.min() if measure == "worst head" else numbers.mean(-1).min())
