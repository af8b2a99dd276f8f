"""What the map of training says: best losses, edges of divergence, sensitivity; necessary, helpful, or neither."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import log2
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import binomtest

from ..paths import data_file, root
from ..seeds import SeedMean, over_seeds
from . import diffusing, equations
from .training_map import PART, SIZES, Arm, arms

RECORDS = "stabilisers.json"
MAP = "map"
Records = Mapping[str, Mapping[str, Any]]


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records in a folder by part (the map, diffusion in teachers, equations), and by the job's name."""
    found: dict[str, dict[str, Any]] = {MAP: {}, diffusing.KIND: {}, equations.KIND: {}}
    for path in sorted(folder.glob(f"{PART}-*.json")):
        kind = path.stem.split("-")[1]
        found[kind if kind in found else MAP][path.stem] = json.loads(path.read_text())["record"]
    return found


@cache
def records(part: str = MAP) -> dict[str, Any]:
    """Return the committed records of a part, by the job's name."""
    return json.loads(data_file(RECORDS).read_text())[part]


def committed(scale: str) -> set[str]:
    """Return the names of the networks of which `data/` holds a record of a scale: it has as many seeds."""
    if not (root() / "data" / RECORDS).exists():
        return set()
    return {name for name, one in records().items() if len(one["loss"]) == SIZES[scale]["seeds"]}


def known(found: Records, scale: str = "book") -> list[Arm]:
    """Return the arms of a scale that have a record, in the order of the map."""
    return [arm for arm in arms(scale) if arm.name in found]


def best_losses(record: Mapping[str, Any]) -> list[float]:
    """Return each seed's lowest held-out loss over the rates; what it began with where every rate diverged."""
    return [
        min([loss for loss in row if loss is not None], default=begun["loss"])
        for row, begun in zip(record["loss"], record["begun"], strict=True)
    ]


def best_rate(record: Mapping[str, Any]) -> int:
    """Return the number of the rate whose mean loss over seeds is lowest; diverged cells count as they began."""
    return int(np.argmin(np.mean(_losses(record), 0)))


def stable_rates(record: Mapping[str, Any]) -> list[float]:
    """Return each seed's largest rate up to which no rate diverged; half a step below the grid where the first did.

    Half a step of the grid, since all that is known then is that the edge lies below.
    """
    rates, found = record["rates"], []
    for row in record["diverged"]:
        stable = next((number for number, at in enumerate(row) if at is not None), len(rates))
        found.append(rates[stable - 1] if stable else rates[0] * (rates[0] / rates[1]) ** 0.5)
    return found


def edge_is_inside(record: Mapping[str, Any]) -> bool:
    """Say whether some rate diverged in every seed and some rate in none: the edge lies inside the grid."""
    columns = list(zip(*record["diverged"], strict=True))
    return any(None not in one for one in columns) and any(set(one) == {None} for one in columns)


def sensitivity(record: Mapping[str, Any]) -> list[float]:
    """Return each seed's mean excess of the loss over its best, over all rates of the grid.

    A loss counts as no more than that of the beginning, so that one diverged cell is not all that is seen (Wortsman et
    al. 2023, arXiv 2309.14322).
    """
    return [float(np.mean(row) - min(row)) for row in _losses(record)]


def _losses(record: Mapping[str, Any]) -> list[list[float]]:
    """Return the losses [seed][rate], none above that of the beginning."""
    return [
        [begun["loss"] if loss is None else min(loss, begun["loss"]) for loss in row]
        for row, begun in zip(record["loss"], record["begun"], strict=True)
    ]


class Share(NamedTuple):
    """A share of trials with its interval of 95 % (Clopper and Pearson)."""

    share: float
    low: float
    high: float


def divergence(record: Mapping[str, Any], rate: int) -> Share:
    """Return the share of seeds that diverged at a rate, by its number."""
    column = [row[rate] for row in record["diverged"]]
    return share_of(sum(at is not None for at in column), len(column))


def share_of(hits: int, trials: int, level: float = 0.95) -> Share:
    """Return a binomial share with Clopper and Pearson's interval.

    >>> share_of(0, 5).high.__round__(3)
    0.522
    """
    found = binomtest(hits, trials).proportion_ci(level, "exact")
    return Share(hits / trials, float(found.low), float(found.high))


def first_divergence(record: Mapping[str, Any], rate: int) -> float | None:
    """Return the median step at which seeds diverged at a rate, None where none did."""
    steps = [row[rate] for row in record["diverged"] if row[rate] is not None]
    return float(np.median(steps)) if steps else None


def by_rate(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean loss over seeds at each rate, diverged cells as they began, and the share that diverged."""
    diverged = np.array([[at is not None for at in row] for row in record["diverged"]])
    return np.mean(_losses(record), 0), diverged.mean(0)


def at_rate(record: Mapping[str, Any], measure: str, rate: int) -> SeedMean:
    """Return what is kept of cells beside their states, at a rate, over the seeds that did not diverge there."""
    return over_seeds([row[rate] for row in record[measure] if row[rate] is not None])


def at_best(record: Mapping[str, Any], measure: str) -> SeedMean:
    """Return a measure of the states after training at the best rate, over the seeds that did not diverge there."""
    values = [row[best_rate(record)] for row in record["states"][measure]]
    return over_seeds([value for value in values if value is not None])


def at_start(record: Mapping[str, Any], measure: str) -> SeedMean:
    """Return a measure of the states before training, over seeds."""
    return over_seeds([one[measure] for one in record["begun"] if one[measure] is not None])


def gradient_share(record: Mapping[str, Any]) -> SeedMean:
    """Return log10 of the gradient's norm at depth 0 over that at depth L before training, over seeds."""
    return over_seeds([float(np.log10(one["gradients"][0])) for one in record["begun"] if one["gradients"][0]])


def working_rate(record: Mapping[str, Any], level: float) -> list[float | None]:
    """Return each seed's largest rate at which it ends with a held-out loss below a level; None where none does.

    A stable rate says how much a network bears, this one how much is of use.
    """
    return [
        max(
            (rate for rate, loss in zip(record["rates"], row, strict=True) if loss is not None and loss < level),
            default=None,
        )
        for row in record["loss"]
    ]


def within_a_step(octaves: list[float], rates: Sequence[float]) -> SeedMean:
    """Return a difference of edges over seeds, its interval wider by a step of the grid of rates on each side."""
    found, step = over_seeds(octaves), log2(rates[1] / rates[0])
    low, high = found.interval or (found.mean, found.mean)
    return found._replace(interval=(low - step, high + step)) if octaves else found


class Without(NamedTuple):
    """The best network without a stabiliser, and by how much its best losses lie above those of the best of all."""

    arm: str
    difference: SeedMean


def counterexample(without: Iterable[str], among: Iterable[str], found: Records) -> Without | None:
    """Return the network without a stabiliser whose best loss comes nearest to the best one's of all.

    Seeds are compared one by one. Where the interval of the differences does not lie above 0, the stabiliser is not
    *necessary*, in these conditions.
    """
    there = {name for name in {*without, *among} if name in found}
    if not (own := there.intersection(without)):
        return None
    near, best = lowest(own, found), lowest(there, found)
    return Without(near, lead(found[best], found[near]))


def lowest(names: Iterable[str], found: Records) -> str:
    """Return the network whose mean best loss is the lowest."""
    return min(names, key=lambda name: (np.mean(best_losses(found[name])), name))


def lead(record: Mapping[str, Any], other: Mapping[str, Any]) -> SeedMean:
    """Return by how much a network's best losses lie below another's, nats, seed by seed: negative where it loses."""
    both = zip(best_losses(record), best_losses(other), strict=True)
    return over_seeds([theirs - own for own, theirs in both])


class Help(NamedTuple):
    """What a stabiliser gains: octaves of the largest stable rate, nats of the best loss, nats of sensitivity."""

    octaves: SeedMean
    nats: SeedMean
    sensitivity: SeedMean


def helped(with_it: Mapping[str, Any], without: Mapping[str, Any]) -> Help:
    """Return what one network gains over another, seed by seed: both begin with the same numbers and see the same data.

    An edge is known to a step of the grid only: the interval of octaves is wider by one on each side.
    """
    rates = zip(stable_rates(with_it), stable_rates(without), strict=True)
    excess = zip(sensitivity(with_it), sensitivity(without), strict=True)
    return Help(
        within_a_step([log2(a / b) for a, b in rates], with_it["rates"]),
        lead(with_it, without),
        over_seeds([b - a for a, b in excess]),
    )
