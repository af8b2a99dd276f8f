"""What the map says of the claims: is a stabiliser necessary, does it help; and of a change that is no stabiliser."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..jobs import Run
from ..seeds import SeedMean, over_seeds
from .map_results import (
    Help,
    Records,
    Without,
    best_losses,
    counterexample,
    helped,
    lowest,
    stable_rates,
    within_a_step,
    working_rate,
)
from .switches import NORMALISATIONS, RESIDUALS
from .training_map import BESIDE_DEPTH, SHAPES, SIZES, STANDARD, Arm, arms

Network = tuple[str, str]
# The standard network without its stabiliser.
GONE: dict[str, Network] = {"c7": ("none", "pre"), "c8": ("plain", "none")}
# A normalisation in the place of another: no stabiliser more, and none less.
NULL: Network = ("plain", "rms")
LACKS: dict[str, Callable[[Network], bool]] = {
    "c7": lambda network: network[0] in ("none", "skipless"),
    "c8": lambda network: network[1] == "none",
}
# As many networks as lack the stabiliser, which nobody calls unstable: what would be "necessary" by chance.
ODD: dict[str, Callable[[Network], bool]] = {
    "c7": lambda network: network[0] in ("plain", "none"),
    "c8": lambda network: network[1] == "rms",
}
NETWORKS: tuple[Network, ...] = tuple((r, n) for r in RESIDUALS for n in NORMALISATIONS)


def name_of(modality: str, depth: int, network: Network) -> str:
    """Return a network's record."""
    return Arm(modality, *network, depth).name


def names(modality: str, depth: int, kind: Callable[[Network], bool] = lambda network: True) -> list[str]:
    """Return the records of all networks of a depth, or of those of a kind."""
    return [name_of(modality, depth, one) for one in NETWORKS if kind(one)]


def depths(modality: str, found: Records, scale: str = "book") -> list[int]:
    """Return the depths at which every network has been trained."""
    known = SIZES[scale]["depths"][modality]
    return [depth for depth in known if all(name in found for name in names(modality, depth))]


def share_there(found: Records, scale: str = "book") -> float:
    """Return which share of the map's networks have been trained: 1 where it is whole."""
    places = SIZES[scale]["depths"].items()
    wanted = [name for modality, own in places for depth in own for name in names(modality, depth)]
    return sum(name in found for name in wanted) / len(wanted)


def cells(scale: str) -> int:
    """Return how many trainings a scale's map has."""
    return sum(len(arm.plan(scale).cells) for arm in arms(scale))


def hours(scale: str, found: Records) -> float:
    """Return how many hours of one core a scale's map takes, at the pace of the book's networks that are there."""
    cost = {size: {arm.name: arm.cost(Run(size, Path())) for arm in arms(size)} for size in ("book", scale)}
    there = [name for name in cost["book"] if name in found]
    pace = sum(cost["book"][name] for name in there) / sum(found[name]["seconds"] for name in there)
    return sum(cost[scale].values()) / pace / 3600


def without(claim: str, modality: str, depth: int, found: Records, kinds: Mapping[str, Any] = LACKS) -> Without:
    """Return the best network that lacks a claim's stabiliser, beside the best of all, at a depth."""
    nearest = counterexample(names(modality, depth, kinds[claim]), names(modality, depth), found)
    assert nearest is not None
    return nearest


def best_of_all(modality: str, depth: int, found: Records) -> str:
    """Return the network with the lowest loss of all at a depth."""
    return lowest(names(modality, depth), found)


def best_with_a_norm(modality: str, depth: int, found: Records) -> str:
    """Return the best network with a normalisation of whatever kind."""
    return lowest(names(modality, depth, lambda one: not LACKS["c8"](one)), found)


def best_without_either(modality: str, depth: int, found: Records) -> str:
    """Return the best network with neither a residual connection nor a normalisation."""
    return lowest(names(modality, depth, lambda one: LACKS["c7"](one) and LACKS["c8"](one)), found)


def help_of(claim: str, modality: str, depth: int, found: Records) -> Help:
    """Return what a claim's stabiliser gains the standard network; of "null" what LayerNorm gains over RMSNorm."""
    other = GONE.get(claim, NULL)
    return helped(found[name_of(modality, depth, STANDARD)], found[name_of(modality, depth, other)])


def beside(network: Network, switch: str, found: Records, scale: str = "book") -> Help:
    """Return what a network on pictures gains by a switch of `BESIDE` over the same network without it."""
    return helped(*(found[Arm("image", *network, BESIDE_DEPTH[scale], one).name] for one in (switch, "")))


def working_gain(claim: str, modality: str, depth: int, found: Records) -> SeedMean:
    """Return what a claim's stabiliser gains in octaves of the largest rate that works, over seeds that have both.

    The interval is wider by a step of the grid on each side, as that of stable rates is.
    """
    level, other = learnt(modality, depth, found), GONE.get(claim, NULL)
    records = [found[name_of(modality, depth, one)] for one in (STANDARD, other)]
    pairs = zip(*(working_rate(one, level) for one in records), strict=True)
    return within_a_step([math.log2(a / b) for a, b in pairs if a and b], records[0]["rates"])


def by_chance(claim: str, found: Records, draws: int = 2000) -> float:
    """Return the share of random groups of networks, as many as lack the stabiliser, that would be called necessary.

    That is: whose best network lies above the best of all, interval and all, at every depth of both modalities.
    """
    generator, size = np.random.default_rng(0), sum(map(LACKS[claim], NETWORKS))
    places = [(modality, depth) for modality in SHAPES for depth in depths(modality, found)]
    losses = np.array([[best_losses(found[name]) for name in names(*place)] for place in places])
    means = losses.mean(-1)  # (places, networks)
    best = np.take_along_axis(losses, means.argmin(1)[:, None, None], 1)
    above = np.array([[over_seeds(row).low > 0 for row in each] for each in losses - best])
    groups = [generator.choice(len(NETWORKS), size, replace=False) for _ in range(draws)]
    # A group's difference is that of its best network.
    nearest = [group[means[:, group].argmin(1)] for group in groups]
    return float(np.mean([above[range(len(places)), one].all() for one in nearest]))


class Worst(NamedTuple):
    """The depth at which a number's bad end is lowest, and the number there."""

    depth: int
    number: SeedMean


def worst(by_depth: Mapping[int, SeedMean]) -> Worst:
    """Return a number where its interval's lower end is lowest over depths: a claim has to hold at every one."""
    depth = min(by_depth, key=lambda one: (by_depth[one].low, one))
    return Worst(depth, by_depth[depth])


def learnt(modality: str, depth: int, found: Records) -> float:
    """Return the loss below which a network counts as working: half-way from chance to the best of its depth."""
    best = float(np.mean(best_losses(found[best_of_all(modality, depth, found)])))
    return (math.log(SHAPES[modality].outputs) + best) / 2


def shown(modality: str, depth: int, found: Records) -> dict[str, str]:
    """Return the networks that a depth's table shows, by what they are there for."""
    return {
        "standard": name_of(modality, depth, STANDARD),
        "best": best_of_all(modality, depth, found),
        "no connection": without("c7", modality, depth, found).arm,
        "no norm": without("c8", modality, depth, found).arm,
        "norm": best_with_a_norm(modality, depth, found),
        "neither": best_without_either(modality, depth, found),
    }


def rates_by_depth(
    modality: str, residual: str, kind: str, found: Records
) -> dict[str, dict[int, tuple[float, float, float]]]:
    """Return by normalisation and depth the largest "stable" or "working" rate: geometric mean, least and largest.

    Of the working ones over the seeds that have any; a network that no seed gets to work is left out.
    """
    rates: dict[str, dict[int, tuple[float, float, float]]] = {}
    for norm in NORMALISATIONS:
        for depth in depths(modality, found):
            record = found[name_of(modality, depth, (residual, norm))]
            own = stable_rates(record) if kind == "stable" else working_rate(record, learnt(modality, depth, found))
            if there := [rate for rate in own if rate is not None]:
                mean = float(np.exp(np.mean(np.log(there))))
                rates.setdefault(norm, {})[depth] = (mean, min(there), max(there))
    return rates
