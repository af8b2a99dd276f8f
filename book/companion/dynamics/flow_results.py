"""What the jobs on information flow found, over seeds, as the page reads it."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..paths import data_file
from ..seeds import SeedMean
from ..surrogates import study
from .information_flow import FLOW, PART, UNIT

RECORDS = "dynamics.json"
MEASURES = ("norm", "cosine", "rank", "clusters")


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of jobs on dynamics in a folder, by part and teacher (files `dynamics-<part>-<teacher>`)."""
    return study.gathered(folder, PART)


@cache
def flow_records() -> dict[str, Any]:
    """Return the committed records on information flow, by teacher with its seed."""
    return json.loads(data_file(RECORDS).read_text())[FLOW]


def records_of(teacher: str) -> list[dict[str, Any]]:
    """Return a teacher's records, the lowest seed first; `teacher` as in "image-patch4"."""
    return study.of_teacher(flow_records(), teacher)


def over(teacher: str, read: Callable[[Mapping[str, Any]], float | None]) -> SeedMean:
    """Return what is read of each record, over the seeds that have it (None, or no such name: they have not)."""
    return study.over(records_of(teacher), read)


def worst_r2(teacher: str, name: str) -> SeedMean:
    """Return the pooled R2 of states at the worst depth."""
    return over(teacher, lambda record: min(record["states"][name]))


def mean_r2(teacher: str, name: str) -> SeedMean:
    """Return the pooled R2 of states, mean over the depths from 1."""
    return over(teacher, lambda record: sum(record["states"][name]) / len(record["states"][name]))


def gap(teacher: str, name: str, measure: str) -> SeedMean:
    """Return how much of the teacher's change of a measure over depth is missed: 0 is the teacher, 1 the embedding."""
    return over(teacher, lambda record: record["profiles"][name]["gap"][measure])


def curve(teacher: str, name: str, measure: str) -> Tensor:
    """Return a measure by depth for each seed that has it, (seeds, depths)."""
    rows = [record["profiles"][name][measure] for record in records_of(teacher) if name in record["profiles"]]
    return torch.tensor(rows, dtype=torch.float64)


def influence(teacher: str, name: str, measure: str, target: str, start: int = 0) -> SeedMean:
    """Return how a map of influence agrees with a target's, by `cosine` or `rank`; `own` is its own tokens' share."""

    def read(record: Mapping[str, Any]) -> float:
        found = record["influence"][str(start)]
        return found["own"][name] if measure == "own" else found[target][name][measure]

    return over(teacher, read)


def shown(teacher: str) -> dict[str, tuple[int, float]]:
    """Return the first seed's shown examples by what they are, "worst" and "median": their numbers and agreement."""
    found = flow_records()[f"{teacher}-seed0"]["shown"]
    pairs = list(zip(found["examples"], found["agreement"], strict=True))
    return {"median": pairs[len(pairs) // 2], "worst": pairs[0]}


def stored_rows(teacher: str, example: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the first seed's rows of influence on a shown example: their targets, and shares (targets, tokens)."""
    record = flow_records()[f"{teacher}-seed0"]
    targets = torch.tensor(record["targets"][record["shown"]["examples"].index(example)])
    found = record["maps"][str(example)]
    return targets, {name: torch.tensor(rows, dtype=torch.float64) * UNIT for name, rows in found.items()}
