"""What the jobs on gradients found, over seeds, as the page reads it."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..paths import data_file
from ..records import record
from ..seeds import SeedMean, over_seeds, record_mean
from ..surrogates import study
from ..surrogates.candidates import AFFINE, IDENTITY, RELEARNT
from ..surrogates.crossing import gained
from ..surrogates.laws import MAIN_BUDGET
from .branch_traces import TRACES
from .gradient_budgets import BUDGET, HALVES
from .gradients import CLASS, FLOW, NEAREST, PART, SEED, UNTRAINED
from .placements import PLACEMENTS, TRAINED
from .placements import UNTRAINED as BEGUN
from .spectra import SPECTRA

RECORDS = "gradients.json"
# Stands for each of the other seeds' teachers.
SEEDS = "other seeds"
# What knows nothing of this teacher's own map from inputs to classes, or its loss's gradient at the last depth alone.
NULLS = (UNTRAINED, IDENTITY, AFFINE, NEAREST, CLASS)


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of jobs on gradients in a folder, by kind and teacher (`gradients-<kind>-<teacher>.json`)."""
    return study.gathered(folder, PART)


@cache
def gradient_records() -> dict[str, Any]:
    """Return the committed records, by kind and by teacher with its seed."""
    return json.loads(data_file(RECORDS).read_text())


def records_of(kind: str, teacher: str) -> list[dict[str, Any]]:
    """Return a teacher's records of a kind, the lowest seed first; `teacher` as in "image-patch4"."""
    return study.of_teacher(gradient_records()[kind], teacher)


def over(kind: str, teacher: str, read: Callable[[Mapping[str, Any]], float]) -> SeedMean:
    """Return what is read of each record, over the seeds that have it (no such name: they have not)."""
    return study.over(records_of(kind, teacher), read)


def agreement(record: Mapping[str, Any], name: str, measure: str = "cosine") -> float:
    """Return how a gradient by the input agrees with the teacher's; of `SEEDS` the mean over other seeds' teachers."""
    if name == SEEDS:
        return float(np.mean([found[measure] for found in _seeds(record).values()]))
    return record["input"][name][measure]


def by_input(teacher: str, name: str, measure: str = "cosine") -> SeedMean:
    """Return how gradients by the input agree (`cosine`, or `rank` of tokens' saliency), over seeds."""
    return over("flow", teacher, lambda record: agreement(record, name, measure))


def best(record: Mapping[str, Any], apart: str = "") -> float:
    """Return the largest cosine of every other seed's teacher and every null, but for one null that stands apart."""
    others = [each["cosine"] for each in _seeds(record).values()]
    return max(others + [record["input"][name]["cosine"] for name in NULLS if name != apart])


def margin(teacher: str, name: str) -> SeedMean:
    """Return by how much an equation's cosine is above the best of all others, seed by seed."""
    return over("flow", teacher, lambda record: agreement(record, name) - best(record))


def skill(teacher: str, name: str) -> SeedMean:
    """Return the share of the best other's shortfall from 1 that an equation makes up, seed by seed."""
    return over("flow", teacher, lambda record: 1 - (1 - agreement(record, name)) / (1 - best(record)))


def best_null(teacher: str) -> tuple[str, SeedMean]:
    """Return the null of the highest mean cosine, and its own margin: over all other seeds and all other nulls."""
    name = max(NULLS, key=lambda null: by_input(teacher, null).mean)
    return name, over("flow", teacher, lambda record: agreement(record, name) - best(record, name))


def binding(teacher: str, law: str) -> tuple[float, float]:
    """Return what the first seed says of a budget: how much its last doubling gained, and the control's own margin.

    The gain is a share of what is missing to a cosine of 1; the control is the teacher's own architecture, learnt anew.
    """
    first, found = records_of(FLOW, teacher)[0], records_of(BUDGET, teacher)[0]["input"]
    half, whole = found[HALVES[law]]["cosine"], agreement(first, law)
    misses: dict[float, float] = {MAIN_BUDGET // 2: 1 - half, MAIN_BUDGET: 1 - whole}
    return gained(misses), found[RELEARNT]["cosine"] - best(first)


def recorded_for(key: str, teacher: str, law: str) -> SeedMean:
    """Record what the claim reads of a law: margin, skill, and what its budget leaves open; return the margin."""
    record_mean(key, margin(teacher, law))
    record_mean(f"{key}.skill", skill(teacher, law))
    for part, value in zip(("gained", "control"), binding(teacher, law), strict=True):
        record(f"{key}.{part}", value, unit="1", atol=0, rtol=1e-6)
    return margin(teacher, law)


def by_depth(teacher: str, name: str, part: str = "depths") -> np.ndarray:
    """Return a curve over depth for each seed that has it, (seeds, depths): `depths` (cosines), or `norms`."""
    rows = [record[part] for record in records_of("flow", teacher)]
    if name == SEEDS:
        theirs = [[row[n] for n in row if n.startswith(f"{SEED} ")] for row in rows]
        return np.array([np.mean(each, 0) for each in theirs if each])
    return np.array([row[name] for row in rows if name in row])


def at_depth(teacher: str, name: str, depth: int, part: str = "depths") -> SeedMean:
    """Return a curve's value at one depth, over seeds."""
    return over_seeds([float(row[depth]) for row in by_depth(teacher, name, part)])


def _seeds(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: found for name, found in record["input"].items() if name.startswith(f"{SEED} ")}


def spectrum(teacher: str, name: str, measure: str, start: int = 0) -> SeedMean:
    """Return `gap`, `enter` or `leave` of a model's largest singular values and directions, over seeds."""

    def read(record: Mapping[str, Any]) -> float:
        found = record["spectra"][str(start)]
        return found["chance"] if name == "chance" else found["models"][name][measure]

    return over(SPECTRA, teacher, read)


def spectrum_error(teacher: str, start: int = 0) -> float:
    """Return by how much any recorded singular value may be off, relative to itself: the largest, over all seeds."""
    rows = [record["spectra"][str(start)]["models"] for record in records_of(SPECTRA, teacher)]
    return max(found["error"] for row in rows for found in row.values())


def singular_values(teacher: str, name: str, start: int = 0) -> np.ndarray:
    """Return log10 of the largest singular values, means over examples, for each seed that has them, (seeds, count)."""
    rows = [record["spectra"][str(start)]["models"] for record in records_of(SPECTRA, teacher)]
    return np.array([np.mean(row[name]["log"], 0) / np.log(10) for row in rows if name in row])


def volume(teacher: str, name: str, part: str = "log") -> SeedMean:
    """Return the mean log singular value from the first depth to the last, over seeds.

    Of a network, from its layers' Jacobians (`log`), or what their traces alone say (`trace`); of a solved equation, by
    Liouville's formula: of all (`total`) or of a term.
    """

    def read(record: Mapping[str, Any]) -> float:
        found = record["flows"][name]
        return found["total"] if part == "total" else found["terms"][part]

    if part in ("log", "trace"):
        return over(SPECTRA, teacher, lambda record: float(sum(record["volume"]["layers"][name][part])))
    return over(TRACES, teacher, read)


def branch_trace(teacher: str, name: str) -> SeedMean:
    """Return the mean eigenvalue of a network's branches, summed over layers after the first, over seeds.

    At the entry the branch is large and its trace is noise.
    """
    return over(TRACES, teacher, lambda record: float(sum(record["traces"][name][1:])))


def volume_by_unit(teacher: str, name: str) -> np.ndarray:
    """Return the mean log singular value of each layer or unit of depth-time, (seeds, units)."""
    rows = [record["volume"]["layers"] for record in records_of(SPECTRA, teacher)]
    flows = [record["flows"] for record in records_of(TRACES, teacher)]
    layers = [row[name]["log"] for row in rows if name in row]
    return np.array(layers or [row[name]["units"] for row in flows if name in row])


def normality(teacher: str, name: str, measure: str) -> np.ndarray:
    """Return a measure of non-normality by layer, (seeds, layers)."""
    return np.array([record["normality"][name][measure] for record in records_of(SPECTRA, teacher)])


def fall_over_depth(teacher: str, name: str, measure: str) -> SeedMean:
    """Return the mean of a measure over the first two layers less that over the last two, over seeds."""
    return over_seeds([float(row[:2].mean() - row[-2:].mean()) for row in normality(teacher, name, measure)])


def placements(family: str, label: str, measure: str, *, trained: bool = True) -> np.ndarray:
    """Return a measure of the networks of one normalisation (`placements.measure`), a row a seed."""
    rows = gradient_records()[PLACEMENTS][family][label][TRAINED if trained else BEGUN]
    return np.array([row[measure] for row in rows])


def adjoint(teacher: str, kept: str, measure: str = "error") -> list[float]:
    """Return how far the adjoint's gradient, or its `path`, is off, a number for each seed; infinite if it gave up."""
    return [record["adjoint"][kept][measure] for record in records_of("adjoints", teacher)]
