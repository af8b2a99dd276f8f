"""Rows of the tables that compare equations with Transformers: numbers are recorded as they are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..records import quote, record
from ..seeds import SeedMean, record_mean
from . import comparison_nulls as beside
from . import results

MEASURES = ("cosine", "worst head", "centred cosine", "pooled skill", "r2", "classes")


def agreement(key: str, teacher: str, family: str, resolution: str = "converged", measures=MEASURES) -> list[str]:
    """Record an equation's measures over seeds, each under `<key>.<measure>`, and return them as shown.

    `pooled skill` is the worst layer's, against the best null of each head; the others as in `results.value`.
    """
    return [
        live_mean(f"{key}.pooled-skill", beside.pooled_mean(teacher, family, resolution))
        if measure == "pooled skill"
        else record_mean(_key(key, measure), results.seed_mean(teacher, family, measure, resolution))
        for measure in measures
    ]


def live_mean(key: str, mean: SeedMean, unit: str = "1") -> str:
    """Record a mean over seeds that is measured anew on each machine, and return it as shown."""
    if np.isfinite(mean.mean):
        record(key, mean.mean, unit=unit, interval=mean.interval, seeds=len(mean.seeds), atol=2e-3, rtol=5e-3)
    return str(mean)


def null(key: str, teacher: str, name: str) -> list[str]:
    """Record a null's cosine and worst head (`<key>`, `<key>.worst-head`) and return a row's five cells."""
    kept = name == beside.LOOK_UP
    shown = [
        live_mean(to, beside.look_up_mean(teacher, measure))
        if kept
        else record_mean(to, results.null_seed_mean(teacher, name, measure))
        for to, measure in ((key, "cosine"), (f"{key}.worst-head", "worst head"))
    ]
    return [*shown, *["–"] * (len(MEASURES) - 2)]


def other_seed(key: str, teacher: str) -> list[str]:
    """Record what another seed's teacher reaches (`<key>.<measure>`) and return a row's cells."""
    measures = ("cosine", "worst head", "centred cosine")
    shown = [record_mean(_key(key, measure), results.ceiling(teacher, measure)) for measure in measures]
    return [*shown, *["–"] * (len(MEASURES) - 3)]


def by_layer(key: str, teacher: str, families: Mapping[str, str]) -> list[list[str]]:
    """Record the best null, the equations' cosines and pooled skills, each (seeds, layers); return a row a layer.

    Cells are the mean over seeds and their range; `families` maps an equation to the last part of its key. The last
    two count heads over seeds: those that carry no test, and those where the first equation is no better than a null.
    """
    columns = {"null": [heads.mean(1) for heads in beside.by_seed(teacher).values()]}
    for family, name in families.items():
        columns[f"{name}.cosine"] = [heads.mean(1) for heads in beside.cosines(teacher, family).values()]
        columns[f"{name}.skill"] = list(beside.pooled(teacher, family).values())
    for name, values in columns.items():
        record(f"{key}.{name}", np.array(values), unit="1, by seed and layer", atol=2e-3, rtol=5e-3)
    heads = beside.untestable(teacher), beside.not_above(teacher, next(iter(families)))
    layers = range(len(columns["null"][0]))
    counted = [[str(sum(head.layer == layer + 1 for head in chosen)) for chosen in heads] for layer in layers]
    shown = [[spread([seed[layer] for seed in values]) for values in columns.values()] for layer in layers]
    return [[str(layer + 1), *shown[layer], *counted[layer]] for layer in layers]


def spread(values: Sequence[float]) -> str:
    """Return a mean with the range of what it is of.

    >>> spread([0.5, 0.7])
    '0.60 (0.50–0.70)'
    """
    return f"{np.mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def heads(key: str, teacher: str, families: Sequence[str]) -> list[list[str]]:
    """Record which heads carry no test and where equations are no better than a null; return a row for each seed.

    Also records `<key>.untestable` and, for each equation, `<key>.<family>.below` (how many heads over all seeds) and
    `.below.testable` (how many of them carry a test), and quotes them.
    """
    flat = beside.untestable(teacher)
    columns = [flat, *(beside.not_above(teacher, family) for family in families)]
    counts = {f"{key}.untestable": len(flat)}
    for family, column in zip(families, columns[1:], strict=True):
        counts[f"{key}.{family}.below"] = len(column)
        counts[f"{key}.{family}.below.testable"] = len(set(column) - set(flat))
    for name, count in counts.items():
        record(name, count, unit="heads", atol=0, rtol=0)
    quote(*counts)
    seeds = list(beside.by_seed(teacher))
    return [[str(seed), *(_named(column, seed) for column in columns)] for seed in seeds]


def _named(chosen: Sequence[beside.Head], seed: int) -> str:
    return ", ".join(str(head) for head in chosen if head.seed == seed) or "none"


def stepping(plan: Mapping[str, Any]) -> str:
    """Return in words how a calibration integrates: its method and its sub-steps a layer.

    >>> stepping({"graded": [], "method": "lie", "substeps": 1})
    'lie, 1 a layer'
    """
    if not plan["graded"]:
        return f"{plan['method']}, {plan['substeps']} a layer"
    counts = [f"{low} to {high}" if low < high else str(low) for low, high in plan["graded"]]
    words = f"{plan['method']}, {' then '.join(counts)} a layer"
    cuts = ", ".join(f"1/{1 / time:g}" for time in plan["entry"])
    return f"{words}; first layer cut at {cuts}" if cuts else words


def _key(key: str, measure: str) -> str:
    return f"{key}.{measure.replace(' ', '-')}"
