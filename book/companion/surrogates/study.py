"""What studies of teachers and their equations share: which jobs can be done, what they are of, records over seeds."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..jobs import Job, Run
from ..paths import sha256
from ..seeds import SeedMean, over_seeds
from ..teachers.recipes import fits
from ..teachers.teacher import weights_of
from . import candidates
from .laws import TEACHERS

# Seeds whose law of three modes is calibrated.
SEEDS = 3
Records = Mapping[str, Mapping[str, Any]]


def teacher_names(kind: Any = None) -> list[str]:
    """Return the teachers that are studied, by seed: by every kind of job, or by one (its `subjects`)."""
    return [f"{teacher}-seed{seed}" for seed in range(SEEDS) for teacher in getattr(kind, "subjects", TEACHERS)]


def other_seed(teacher: str, step: int = 1) -> str:
    """Return the teacher so many seeds further among those that are studied, round and round.

    >>> other_seed("image-patch4-seed2")
    'image-patch4-seed0'
    """
    return f"{teacher[:-1]}{(int(teacher[-1]) + step) % SEEDS}"


def jobs_of(kinds: Iterable[Callable[[str], Job]], run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, a kind after the other, of teachers that are there: in a run's folder, or kept.

    A kind says by `needs` which families of equations have to be there, too; else it is the law of three modes.
    """

    def ready(kind: Callable[[str], Job], name: str) -> bool:
        families = getattr(kind, "needs", (candidates.LAWS["three laws"],))
        files = (name, *(candidates.equation_name(name, family) for family in families))
        return all(candidates.weights_there(file, run) is not None for file in files)

    found = [kind(name) for kind in kinds for name in teacher_names(kind) if ready(kind, name)]
    return [job for job in found if fits(job.name, only.split(","))]


def names_of(kinds: Iterable[Callable[[str], Job]]) -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return [kind(name).name for kind in kinds for name in teacher_names(kind)]


def weight_digests(teachers: Iterable[str], equations: Iterable[str], run: Run) -> dict[str, str | None]:
    """Return the digests of teachers' and equations' weights by name, None of an equation that is not there."""
    paths = {name: weights_of(name, run.folder) for name in teachers}
    paths |= {name: candidates.weights_there(name, run) for name in equations}
    return {name: None if path is None else sha256(path) for name, path in paths.items()}


def gathered(folder: Path, study: str) -> dict[str, dict[str, Any]]:
    """Return the records of a study in a folder, by part and teacher (files `<study>-<part>-<teacher>.json`)."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(f"{study}-*.json")):
        part, _, teacher = path.stem.removeprefix(f"{study}-").partition("-")
        found.setdefault(part, {})[teacher] = json.loads(path.read_text())["record"]
    return found


def of_teacher(rows: Records, teacher: str) -> list[Any]:
    """Return a teacher's records, the lowest seed first; `teacher` as in "image-patch4"."""
    return [rows[name] for name in sorted(rows) if name.startswith(f"{teacher}-seed")]


def over(records: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], float | None]) -> SeedMean:
    """Return what is read of each record, over the seeds that have it (None, or no such name: they have not)."""
    found = []
    for record in records:
        try:
            value = read(record)
        except KeyError:
            continue
        if value is not None:
            found.append(float(value))
    return over_seeds(found)


def rounded(value: Any) -> Any:
    """Return a record as JSON holds it: numbers to five digits, tensors as lists, what is not finite as None.

    >>> import torch
    >>> rounded({"a": [1 / 3, 2, float("nan")], "b": torch.tensor([1e-9])})
    {'a': [0.33333, 2, None], 'b': [1e-09]}
    """
    if isinstance(value, Tensor):
        return rounded(value.tolist())
    if isinstance(value, Mapping):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
