"""What the jobs on tokens' information found, over seeds, as the page reads it; and the distances of claim C9."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdelens.intervals import t_interval

from ..paths import data_file
from ..seeds import SeedMean, over_seeds
from ..surrogates import study
from ..surrogates.candidates import HALF, HEAT, IDENTITY, RELEARNT
from ..surrogates.crossing import gained
from ..surrogates.laws import MAIN_BUDGET
from .budgets import BUDGET
from .content import CONTENT, LAW, PART, PLACE, SHUFFLED, TEACHER, UNTRAINED
from .edge_ranks import EDGES
from .pretrained_content import TWIN
from .retrieval import LEVELS, RETRIEVAL
from .targets import OWN

RECORDS = "information-flow.json"
NULLS = (IDENTITY, HEAT, UNTRAINED, SHUFFLED, PLACE)
OTHER = "another seed's teacher"
Curves = Mapping[str, list[float]]


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of these jobs in a folder, by part and teacher (`information-flow-<part>-<teacher>`)."""
    return study.gathered(folder, PART)


@cache
def _committed() -> dict[str, Any]:
    return json.loads(data_file(RECORDS).read_text())


def records_of(part: str, teacher: str) -> list[dict[str, Any]]:
    """Return a teacher's committed records of a part, the lowest seed first; `teacher` as in "image-patch4"."""
    return study.of_teacher(_committed()[part], teacher)


def contents(teacher: str) -> list[dict[str, Any]]:
    """Return what tokens keep and learn, a record a seed."""
    return records_of(CONTENT, teacher)


def curves(teacher: str, name: str, target: str) -> Tensor:
    """Return usable information by depth for each seed that has it, (seeds, depths), nats."""
    rows = [record["curves"][name][target] for record in contents(teacher) if name in record["curves"]]
    return torch.tensor(rows, dtype=torch.float64)


def apart(one: Curves, other: Curves, depth: int | None = None) -> float:
    """Return how far curves of the same targets lie apart: the mean over them and depths from 1, or at one depth.

    >>> zero, up = ({target: [0.0, y, y] for target in ("itself", "class")} for y in (0.0, 0.5))
    >>> apart(zero, up), apart(up, up, 2)
    (0.5, 0.0)
    """
    rows = np.abs([np.subtract(one[target], other[target]) for target in one])
    return float(rows[:, 1:].mean() if depth is None else rows[:, depth].mean())


def distances(teacher: str) -> list[dict[str, float]]:
    """Return for each seed how far everything lies from the Transformer, by name; of other seeds' ones the nearer."""
    records, found = contents(teacher), []
    for number, record in enumerate(records):
        own = record["curves"][TEACHER]
        row = {name: apart(each, own) for name, each in record["curves"].items() if name != TEACHER}
        others = [each["curves"][TEACHER] for place, each in enumerate(records) if place != number]
        found.append(row | {OTHER: min(apart(each, own) for each in others)})
    return found


def distance(teacher: str, name: str) -> SeedMean:
    """Return how far something lies from the Transformer, nats, over the seeds that have it."""
    return over_seeds([row[name] for row in distances(teacher) if name in row])


def margin(teacher: str, name: str = LAW) -> SeedMean:
    """Return by how much something lies nearer to its Transformer than the nearest of all nulls and other seeds.

    Of what is itself a null, those beside it. Negative where one of them lies nearer.
    """
    rows = [row for row in distances(teacher) if name in row]
    return over_seeds([_nearest(row, name) - row[name] for row in rows])


def binding(teacher: str) -> tuple[float, float]:
    """Return what the first seed says of a budget: how much its last doubling gained, and the control's own margin.

    The gain is a share of the distance from the Transformer; the control is its own architecture, learnt anew.
    """
    own, near = contents(teacher)[0]["curves"][TEACHER], distances(teacher)[0]
    found = {name: apart(each, own) for name, each in records_of(BUDGET, teacher)[0]["curves"].items()}
    misses: dict[float, float] = {MAIN_BUDGET // 2: found[HALF], MAIN_BUDGET: near[LAW]}
    return gained(misses), _nearest(near) - found[RELEARNT]


def nearest_null(teacher: str) -> tuple[str, SeedMean]:
    """Return the null of the least mean distance, and the margin that it would have had in the equation's place."""
    name = min(_nulls(distances(teacher)[0]), key=lambda each: distance(teacher, each).mean)
    return name, margin(teacher, name)


def skill(teacher: str, name: str = LAW) -> SeedMean:
    """Return the share of the nearest null's distance that is made up, at the worst depth from 1, over seeds."""
    found = []
    for record in contents(teacher):
        own, many = record["curves"][TEACHER], range(1, len(record["curves"][TEACHER][OWN]))
        nulls = _nulls(record["curves"])
        best = [min(apart(record["curves"][null], own, depth) for null in nulls) for depth in many]
        mine = [apart(record["curves"][name], own, depth) for depth in many]
        found.append(min(1 - one / max(null, 1e-12) for one, null in zip(mine, best, strict=True)))
    return over_seeds(found)


def within(teacher: str, name: str) -> float:
    """Return the share of targets and depths from 1 where the mean over seeds lies in the Transformers' t-interval."""
    inside = []
    for target in contents(teacher)[0]["curves"][TEACHER]:
        known, mean = curves(teacher, TEACHER, target), curves(teacher, name, target).mean(0)
        for depth in range(1, known.shape[1]):
            low, high = t_interval(known[:, depth].tolist())
            inside.append(low <= float(mean[depth]) <= high)
    return float(np.mean(inside))


def retrieval(teacher: str, level: float, part: str, depth: int = 1) -> SeedMean:
    """Return what was found with noise of this level in every layer, over seeds (`retrieval.measure`).

    `part` is "bounds", "label" or "processed" at a depth from 1, "accuracy", or, where no noise enters, "clean".
    """
    place = LEVELS.index(level)

    def read(record: Mapping[str, Any]) -> float:
        if part == "clean":
            return record[part]
        return record[part][place] if part == "accuracy" else record[part][place][depth - 1]

    return over(RETRIEVAL, teacher, read)


def pretrained(model: str, *, trained: bool = True) -> dict[str, Any]:
    """Return what tokens of a pretrained model tell (`pretrained_content.measure`), or those of its twin."""
    return _committed()["pretrained"][model if trained else f"{model}-{TWIN}"]


def edge_curve(teacher: str, target: str, name: str, how: str = "rows") -> Tensor:
    """Return a map's rank correlation by layer for each seed, (seeds, layers).

    `target` is "next state" or "logits", effects of cut edges, or "information".
    """
    rows = [_edges(record, target)[name][how] for record in records_of(EDGES, teacher)]
    return torch.tensor(rows, dtype=torch.float64)


def edge_names(teacher: str, target: str) -> list[str]:
    """Return the maps that are held against a target."""
    return list(_edges(records_of(EDGES, teacher)[0], target))


def edge_mean(teacher: str, target: str, name: str, how: str = "rows") -> SeedMean:
    """Return a map's rank correlation, mean over layers, over seeds."""
    return over_seeds(edge_curve(teacher, target, name, how).mean(1).tolist())


def over(part: str, teacher: str, read: Callable[[Mapping[str, Any]], float]) -> SeedMean:
    """Return what is read of each record of a part, over seeds."""
    return study.over(records_of(part, teacher), read)


def _nulls(there: Iterable[str]) -> list[str]:
    """Return the nulls that there are: of a causal model no heat equation."""
    return [null for null in NULLS if null in there]


def _nearest(row: Mapping[str, float], but: str = "") -> float:
    """Return the distance of the nearest null or other seed's Transformer, `but` one."""
    return min(row[each] for each in (*_nulls(row), OTHER) if each != but)


def _edges(record: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    return record[target] if target == "information" else record["effects"][target]
