"""The two examples that are shown of each modality: the one of median agreement and the worst, and all that moves."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow

from ..surrogates.candidates import HEAT, IDENTITY, ONE_STEP, SOLVED, Beside, beside, example_agreement, variances
from ..surrogates.evaluate import rolled_out
from ..surrogates.solution_fields import CONVERGED
from ..theory import token_influence as maps
from . import flow_results, strips
from .information_flow import AMOUNTS, ROLLOUT, TEACHER

STRIPS = (TEACHER, "three laws", ONE_STEP, SOLVED, HEAT, IDENTITY)


class Influenced(NamedTuple):
    """Rows of influence as shares of others, and how they agree with the teacher's: cosine, rank given distance."""

    shares: Tensor
    cosine: float
    rank: float


@dataclass(eq=False)
class Shown:
    """Two examples of a teacher of seed 0: its flow and those beside it, the agreement of each, the projection."""

    family: str
    numbers: dict[str, int]
    one: Beside
    flows: dict[str, Flow]
    agreement: dict[str, np.ndarray]
    to: strips.Projection

    def strips(self, row: int) -> dict[str, np.ndarray]:
        """Return the strips (tokens, depths) of an example by name."""
        mask = self.one.reference.mask
        return {name: strips.strip(self.to, self.flows[name].states, row, mask) for name in STRIPS}

    @property
    def reach(self) -> float:
        """Where the colours of all strips end: 98 of 100 of the teacher's numbers lie within."""
        values = [np.abs(self.strips(row)[TEACHER]).ravel() for row in range(len(self.numbers))]
        return float(np.quantile(np.concatenate(values), 0.98))

    def influence(self, row: int) -> tuple[Tensor, dict[str, Influenced]]:
        """Return an example's targets, and by name who else influenced them from the embedding on.

        Measured rows as they are stored, rollout and heat made here; (targets, tokens) each.
        """
        flow = self.one.reference.select([row])
        targets, found = flow_results.stored_rows(self.family, list(self.numbers.values())[row])
        targets, mask, lattice = targets[None], flow.mask, self.one.teacher.lattice
        known = {name: rows[None] for name, rows in found.items()}
        known[ROLLOUT] = maps.rows_of(maps.rollout(flow), targets)
        known[HEAT] = maps.best_heat(maps.HeatKernels(lattice, mask), known[TEACHER], targets, mask, AMOUNTS)[1]
        wanted, distances = known[TEACHER], maps.token_distances(lattice)
        shares = {name: maps.others_shares(each, targets, mask) for name, each in known.items()}
        return targets[0], {
            name: Influenced(
                each[0],
                float(maps.map_cosine(each, wanted)),
                float(maps.rank_given_distance(each, wanted, targets, distances, mask)),
            )
            for name, each in shares.items()
        }

    def moving(self, row: int) -> dict[str, tuple[tuple[float, ...], np.ndarray]]:
        """Return the times and the places (times, tokens, 2) in the plane of teacher and equation, on one example."""
        flow = self.one.reference.select([row])
        equation = self.one.equations["three laws"]
        with torch.no_grad():
            solved = rolled_out(equation, flow, depths=strips.TIMES, **CONVERGED)
        whole = tuple(float(depth) for depth in flow.depths)
        return {
            TEACHER: (whole, strips.paths(self.to, flow.states, flow.mask)),
            "three laws": (strips.TIMES, strips.paths(self.to, solved.states, flow.mask)),
        }


def shown_examples(family: str) -> Shown:
    """Return the shown examples of a family's first seed, such as "image-patch4".

    Which they are was found on all examples (`information_flow`); all else is made here.
    """
    records = flow_results.records_of(family)
    whole = beside(f"{family}-seed0", records[0]["examples"])
    numbers = {name: number for name, (number, _) in flow_results.shown(family).items()}
    one = whole.only(*numbers.values())
    with torch.no_grad():
        flows = {TEACHER: one.reference, **one.flows(**CONVERGED)}
        usual = variances(whole.reference, whole.calibration)
        agreement = {n: example_agreement(flow.states, one.reference, usual).numpy() for n, flow in flows.items()}
    return Shown(family, numbers, one, flows, agreement, strips.projection(one.calibration))
