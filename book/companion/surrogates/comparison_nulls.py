"""What stands beside an equation's attention, by seed, layer and head: the best null, and which heads carry a test."""

from functools import cache
from typing import NamedTuple

import numpy as np

from pdelens.agreement.nulls import nearest_maps
from pdelens.agreement.report import TESTABLE, compare, pooled_skill

from ..paths import DataError
from ..seeds import SeedMean, over_seeds
from ..teachers.teacher import HELD, Teacher, teacher_named, weights_of
from . import results

LOOK_UP = "nearest neighbours"


class Head(NamedTuple):
    """A head of one seed's teacher; layers and heads count from 1, as pages do."""

    seed: int
    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


@cache
def looked_up(teacher: str) -> np.ndarray | None:
    """Return the cosine of a look-up table by head, (layers, heads): the mean map of the five nearest examples.

    From the records where it is there; else measured, on the examples that equations are evaluated on; None for a seed
    whose weights are not committed. About three seconds.
    """
    known = results.null_records(teacher)[teacher]["attention"]
    if LOOK_UP in known:
        return np.asarray(known[LOOK_UP], dtype=float)
    try:
        weights_of(teacher)
    except DataError:
        return None
    return look_up(teacher_named(teacher), HELD["book"])


def look_up(teacher: Teacher, count: int) -> np.ndarray:
    """Measure that look-up table on a teacher's first `count` held-out examples, among as many calibration ones."""
    reference, calibration = (teacher.of(split, count) for split in ("heldout", "calibration"))
    maps = nearest_maps(calibration, teacher.nearest("heldout", count, count), reference)
    return compare(maps, reference, measures=["cosine"]).per_head()


def best(teacher: str) -> np.ndarray:
    """Return the best null's cosine of each head of one seed's teacher, the look-up table among them where known."""
    known, table = results.best_null(teacher), looked_up(teacher)
    return known if table is None else np.maximum(known, table)


def by_seed(teacher: str) -> dict[int, np.ndarray]:
    """Return `best` of every seed, (layers, heads)."""
    return {int(name[-1]): best(name) for name in results.null_records(teacher)}


def cosines(teacher: str, family: str, resolution: str = "converged") -> dict[int, np.ndarray]:
    """Return an equation's cosines by seed, (layers, heads).

    A seed whose solution diverged is left out, and so is a way of stepping of which means over heads alone are kept.
    """
    rows = results.records_of(teacher, family).items()
    found = {seed: np.asarray(about["judged"][resolution].get("cosine", 0.0)) for seed, about in rows}
    return {seed: numbers for seed, numbers in found.items() if numbers.ndim == 2}


def pooled(teacher: str, family: str, resolution: str = "converged") -> dict[int, np.ndarray]:
    """Return the skill of an equation against `best`, pooled over the heads of each layer, by seed, (layers,)."""
    beside = by_seed(teacher)
    return {seed: pooled_skill(found, beside[seed]) for seed, found in cosines(teacher, family, resolution).items()}


def pooled_mean(teacher: str, family: str, resolution: str = "converged") -> SeedMean:
    """Return the pooled skill of the worst layer, over seeds."""
    return over_seeds([float(layers.min()) for layers in pooled(teacher, family, resolution).values()])


def best_mean(teacher: str) -> SeedMean:
    """Return what the best null of each head reaches, mean over heads, worst layer, over seeds."""
    return over_seeds([float(heads.mean(1).min()) for heads in by_seed(teacher).values()])


def look_up_mean(teacher: str, measure: str = "cosine") -> SeedMean:
    """Return the look-up table's `cosine` (mean over heads, worst layer) or `worst head`, over the seeds known."""
    known = [found for name in results.null_records(teacher) if (found := looked_up(name)) is not None]
    return over_seeds([float(heads.min() if measure == "worst head" else heads.mean(1).min()) for heads in known])


def untestable(teacher: str) -> list[Head]:
    """Return the heads whose best null is above .95: they have nearly one map for all inputs and carry no test."""
    return [head for seed, null in by_seed(teacher).items() for head in _where(seed, null > TESTABLE)]


def not_above(teacher: str, family: str) -> list[Head]:
    """Return the heads in which an equation's converged attention is no better than the best null."""
    beside = by_seed(teacher)
    return [head for seed, found in cosines(teacher, family).items() for head in _where(seed, found <= beside[seed])]


def _where(seed: int, chosen: np.ndarray) -> list[Head]:
    return [Head(seed, int(layer) + 1, int(head) + 1) for layer, head in np.argwhere(chosen)]
