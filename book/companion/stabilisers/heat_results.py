"""What heat does to finished teachers and to networks that train with it, beside heat among strangers."""

from typing import Any

import numpy as np

from ..seeds import SeedMean, over_seeds
from ..surrogates.study import of_teacher
from . import diffusing
from .map_claims import name_of
from .map_results import Records, lead, records
from .training_map import PART, STANDARD, Arm, heat_arms, heated

TEACHERS: dict[str, str] = dict(zip(("image", "text"), diffusing.TEACHERS, strict=True))


def teachers(modality: str) -> list[Any]:
    """Return the records of a modality's finished teachers, the lowest seed first."""
    named = {name.removeprefix(f"{PART}-{diffusing.KIND}-"): one for name, one in records(diffusing.KIND).items()}
    return of_teacher(named, TEACHERS[modality])


def places(modality: str) -> list[str]:
    """Return the depths at which heat was let flow, as the records name them."""
    return [str(depth) for depth in range(teachers(modality)[0]["layers"] + 1)]


def cost(modality: str, place: str, amount: float, part: str = "loss") -> SeedMean:
    """Return by how much heat raises a teacher's held-out loss (`part` "disordered": among strangers), over seeds."""
    return over_seeds([one[part][place][_at(one, amount)] - one["own"]["loss"] for one in teachers(modality)])


def costs(modality: str, amount: float, part: str = "loss") -> np.ndarray:
    """Return `cost` at every depth, (seeds, depths)."""
    return np.array([cost(modality, place, amount, part).seeds for place in places(modality)]).T


def of_strangers(modality: str, place: str, amount: float) -> SeedMean:
    """Return how much more heat among strangers raises a teacher's held-out loss than on the lattice, over seeds."""
    both = (cost(modality, place, amount, part).seeds for part in ("disordered", "loss"))
    return over_seeds([strangers - neighbours for strangers, neighbours in zip(*both, strict=True)])


def dose(modality: str, place: str, amount: float, part: str = "moved") -> SeedMean:
    """Return how far heat moves the state at a depth, over its size (`part` "moved disordered": among strangers)."""
    return over_seeds([one[part][place][_at(one, amount)] for one in teachers(modality)])


def by_layer(modality: str, part: str, name: str) -> np.ndarray:
    """Return a commutator or roughness of "trained" or "untrained" networks, (seeds, layers or depths)."""
    return np.array([one[part][name] for one in teachers(modality)])


def networks(found: Records, scale: str = "book") -> list[Arm]:
    """Return the networks that were trained with heat in them, in the map's order."""
    return [one for one in heat_arms(scale) if one.name in found]


def gained(arm: Arm, found: Records) -> SeedMean:
    """Return what heat while training gains, in nats of the best loss over the rates that both were trained at."""
    usual = found[name_of(arm.modality, arm.depth, STANDARD)]
    kept = [usual["rates"].index(rate) for rate in heated(usual["rates"])]
    same = {**usual, "loss": [[row[at] for at in kept] for row in usual["loss"]]}
    return lead(found[arm.name], same)


def _at(record: dict[str, Any], amount: float) -> int:
    return record["amounts"].index(amount)
