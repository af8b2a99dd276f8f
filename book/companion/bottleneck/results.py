"""What the jobs on the bottleneck found, over seeds, as the page reads it."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..paths import data_file
from ..seeds import SeedMean, over_seeds
from ..surrogates import study
from .measures import MEASURES, Compression
from .planes import EQUATION, FAMILY, PART, PLANE, RANDOM, TRAINED

RECORDS = "bottleneck.json"
READINGS = ("depth", "training")
# Beside a trained teacher and its variants: before the first step, and a random-label twin on what it learnt by heart.
UNTRAINED, MEMORISED = "untrained", "memorised"
TOKENS = "half, tokens"
Row = Mapping[str, Any]


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records in a folder, by part and teacher (files `bottleneck-<part>-<teacher>`)."""
    return {PLANE: {}, EQUATION: {}} | study.gathered(folder, PART)


@cache
def records() -> dict[str, dict[str, Any]]:
    """Return the committed records, by part and teacher with its seed."""
    return json.loads(data_file(RECORDS).read_text())


def by_seed(family: str, variant: str = TRAINED, part: str = PLANE) -> dict[int, dict[str, Any]]:
    """Return a variant's records by seed; `part` is `PLANE` or, of a main teacher, `EQUATION`."""
    start = "-".join(piece for piece in (family, variant, "seed") if piece)
    rows = records()[part]
    return {int(name.removeprefix(start)): rows[name] for name in sorted(rows) if name[: len(start)] == start}


def moments(family: str, subject: str) -> dict[int, dict[int, Row]]:
    """Return what is known of a subject by seed and by step, the first step first.

    `subject` is a variant ("": trained), `UNTRAINED`, or `MEMORISED`. A random-label twin begins as the trained teacher
    of its seed, and is left out where that is not there.
    """
    if subject == UNTRAINED:
        return {seed: {0: rows[0]} for seed, rows in moments(family, TRAINED).items() if 0 in rows}
    variant = RANDOM if subject == MEMORISED else subject
    trained, found = by_seed(family), {}
    for seed, record in by_seed(family, variant).items():
        whole = record["memorised"] if subject == MEMORISED else record
        rows = {int(step): row for step, row in whole["moments"].items()}
        if subject == RANDOM:
            if seed not in trained:
                continue
            rows[0] = trained[seed]["moments"]["0"]
        found[seed] = dict(sorted(rows.items()))
    return found


def compression(family: str, subject: str, reading: str) -> dict[int, Compression]:
    """Return by seed how much is compressed, in nats, above 0 where something is: from depth 1 to the last at the last
    moment, or at the last depth from the first moment to the last.
    """
    found = {}
    for seed, rows in moments(family, subject).items():
        first, last = rows[min(rows)], rows[max(rows)]
        pairs = {m: (last[m][1] if reading == "depth" else first[m][-1], last[m][-1]) for m in MEASURES}
        found[seed] = Compression(**{measure: before - after for measure, (before, after) in pairs.items()})
    return found


def measured(family: str, subject: str, reading: str, measure: str) -> SeedMean:
    """Return one measure's compression over seeds."""
    return over_seeds([getattr(each, measure) for each in compression(family, subject, reading).values()])


def fallen(family: str, subject: str, measure: str, part: str = PLANE, between: tuple[int, int] = (1, -1)) -> SeedMean:
    """Return how far a measure falls between two depths at the last moment, over the seeds that have it.

    `TOKENS` is ln of the half-noise of all tokens' numbers. With `part` `EQUATION` the subject is a main teacher, its
    untrained twin or its equation.
    """
    rows = row_values(family, subject, measure) if part == PLANE else beside(family, subject, measure)
    start, end = between
    return over_seeds((rows[:, start] - rows[:, end]).tolist() if len(rows) else [])


def beyond(own: Compression, twin: Compression) -> float:
    """Return what the measure that shows least of it has beyond the twin's compression, and beyond none.

    >>> round(beyond(Compression(0.5, 0.4, 0.3), Compression(0.1, -0.2, 0.2)), 6)
    0.1
    """
    return min(ours - max(theirs, 0.0) for ours, theirs in zip(own, twin, strict=True))


def margin(family: str, reading: str, subject: str = TRAINED) -> SeedMean:
    """Return a subject's compression `beyond` the random-label twin's on held-out inputs, over the seeds of both."""
    own, twin = (compression(family, one, reading) for one in (subject, RANDOM))
    return over_seeds([beyond(own[seed], twin[seed]) for seed in own if seed in twin])


def beyond_by(family: str, reading: str, measure: str) -> SeedMean:
    """Return what one measure of a trained teacher has beyond the twin's compression, and beyond none, over seeds."""
    own, twin = (compression(family, one, reading) for one in (TRAINED, RANDOM))
    pairs = [(getattr(own[seed], measure), getattr(twin[seed], measure)) for seed in own if seed in twin]
    return over_seeds([ours - max(theirs, 0.0) for ours, theirs in pairs])


def usable_over(rows: Mapping[int, Row], reading: str) -> list[float]:
    """Return usable information about the label by depth at the last moment, or by moment at the last depth."""
    if reading == "depth":
        return list(rows[max(rows)][FAMILY])
    return [row[FAMILY][-1] if FAMILY in row else row[f"{FAMILY}, last"][-1] for row in rows.values()]


def kept(family: str, reading: str) -> SeedMean:
    """Return the share that the last state keeps of what the best depth (moment) can tell of the label beyond the twin.

    The share of the twin's last state's shortfall to the best that is made up; 0 where nothing goes beyond the twin.
    """
    found, twins = [], moments(family, RANDOM)
    for seed, rows in moments(family, TRAINED).items():
        if seed in twins:
            values, twin = usable_over(rows, reading), usable_over(twins[seed], "depth")[-1]
            found.append((values[-1] - twin) / (max(values) - twin) if max(values) > twin else 0.0)
    return over_seeds(found)


def ends(family: str, subject: str, depth: int) -> SeedMean:
    """Return usable information about the label at a depth, at the subject's last moment."""
    found = [rows[max(rows)][FAMILY][depth] for rows in moments(family, subject).values() if FAMILY in rows[max(rows)]]
    return over_seeds(found)


def row_values(family: str, subject: str, measure: str) -> np.ndarray:
    """Return a measure by depth at the last moment, (seeds, depths); only of seeds that have it."""
    rows = [rows[max(rows)] for rows in moments(family, subject).values()]
    return _values(rows, measure)


def _values(rows: Sequence[Row], measure: str) -> np.ndarray:
    if measure == TOKENS:
        return np.log([row["curves"][measure] for row in rows if "curves" in row])
    return np.array([row[measure] for row in rows if measure in row])


def path(family: str, subject: str, measure: str) -> tuple[list[int], np.ndarray]:
    """Return the steps of the moments, and a measure at the last depth by moment, (seeds, moments)."""
    found = moments(family, subject)
    if measure == FAMILY:
        values = [usable_over(rows, "training") for rows in found.values()]
    else:
        values = [[row[measure][-1] for row in rows.values()] for rows in found.values()]
    return list(next(iter(found.values()), {})), np.array(values)


def beside(teacher: str, subject: str, measure: str) -> np.ndarray:
    """Return a measure by depth of a main teacher, its untrained twin or its equation, (seeds, depths)."""
    return _values([record["subjects"][subject] for record in by_seed(teacher, part=EQUATION).values()], measure)


def gap(teacher: str, measure: str) -> SeedMean:
    """Return the largest distance over depths from 1 of an equation's measure from its teacher's."""
    pairs = [beside(teacher, subject, measure) for subject in ("three laws", "teacher")]
    return over_seeds(np.abs(pairs[0] - pairs[1])[:, 1:].max(1).tolist() if len(pairs[0]) else [])


def by_inputs(family: str, subject: str) -> tuple[list[int], np.ndarray]:
    """Return the numbers of inputs, and compression from depth 1 to the last by noise for each, (seeds, numbers)."""
    found = [record["counts"] for record in by_seed(family, subject).values()]
    counts = [int(count) for count in found[0]] if found else []
    return counts, np.array([[np.log(row[str(n)][0] / row[str(n)][1]) for n in counts] for row in found])


def since_highest(family: str, subject: str, measure: str) -> SeedMean:
    """Return how far a measure of the last depth falls from its highest moment of training to the end, over seeds."""
    _, values = path(family, subject, measure)
    return over_seeds((values.max(1) - values[:, -1]).tolist() if len(values) else [])


def since_lowest(family: str, subject: str, measure: str) -> SeedMean:
    """Return how far a measure of the last depth rises from its lowest moment of training to the end, over seeds."""
    _, values = path(family, subject, measure)
    return over_seeds((values[:, -1] - values.min(1)).tolist() if len(values) else [])


def inputs(family: str) -> int:
    """Return how many equally likely inputs a family's noise was measured on; 1 without a record."""
    return next((record["inputs"] for record in by_seed(family).values()), 1)


def ceiling(family: str) -> float:
    """Return the entropy of the labels of a family's held-out inputs, in nats; 0 without a record."""
    return next((record["ceiling"] for record in by_seed(family).values()), 0.0)


def rises(teachers: Sequence[str], level: int, kind: str = "pooled") -> list[float]:
    """Return by how many nats I(X; T + noise) changes from each depth to the next, at one relative noise, every seed.

    Of main teachers and their untrained twins, from depth 1 on: where noise is added at the read-out nothing forbids
    that it rises.
    """
    found = []
    for teacher in teachers:
        for record in by_seed(teacher, part=EQUATION).values():
            for subject in ("teacher", UNTRAINED):
                curve = np.array(record["subjects"][subject]["curves"][kind])[1:, level]
                found += np.diff(curve).tolist()
    return found
