"""How even, how local, and how much a matter of position a model's attention is: what it can stand for."""

from typing import NamedTuple

import numpy as np
import torch

from pdelens.agreement.nulls import attention_nulls
from pdelens.agreement.report import compare
from pdelens.attention.heads import Thresholds, measure_heads
from pdelens.attention.positions import position_share
from pdelens.flow import Flow
from pdelens.lattice import Lattice

# The cosine with the uniform map from which a head is called nearly even.
EVEN = 0.9
UNITS = {
    "entropy": "share of ln n",
    "near": "share of what lands on the lattice",
    "position": "share of variance",
    "uniform": "cosine",
    "null": "cosine",
}


class Standing(NamedTuple):
    """Attention of one model on held-out examples, by a few numbers.

    `entropy`: mean, as a share of the largest possible. `near`: share of attention within two units of the query.
    `position`: share of row-centred log-attention that position explains in the median head. `null`: raw cosine of the
    best null, mean over heads in the worst layer; `uniform`: that of the uniform map.
    Shares of heads: `even`, with a cosine of at least `EVEN` with the uniform map; `testable`, whose best null leaves
    enough to make up; `local`, with more attention nearby than the uniform map has.
    """

    entropy: float
    near: float
    position: float
    null: float
    uniform: float
    even: float
    testable: float
    local: float


def standing(calibration: Flow, heldout: Flow, lattice: Lattice) -> Standing:
    """Return how a model's attention stands; nulls and positions are fitted on the calibration Flow."""
    heads = measure_heads(heldout, lattice)
    share = position_share(calibration, heldout, lattice)
    nulls = attention_nulls(heldout, calibration)
    report = compare(heldout, heldout, nulls=nulls, measures=["cosine"])
    flat = report.nulls["uniform"]
    return Standing(
        heads.summary("entropy")[0] / float(np.log(lattice.tokens)),
        heads.summary("mass near")[0],
        share.median("pair, unbiased")[0],
        max(null.headline() for null in report.nulls.values()),
        flat.headline(),
        float((flat.per_head() >= EVEN).mean()),
        float(report.testable().mean()),
        float((heads.mean("mass near") > near_if_even(lattice)).mean()),
    )


def near_if_even(lattice: Lattice, radius: float = Thresholds.radius) -> float:
    """Return the share of attention within `radius` of the query that the uniform map has, without special tokens.

    >>> from pdelens.lattice import Chain
    >>> near_if_even(Chain(5), 1.0)
    0.52
    """
    place = lattice.positions().double()
    return float((torch.cdist(place, place) <= radius + 1e-9).double().mean())
