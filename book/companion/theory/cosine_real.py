"""What the closed forms of `theory.cosine` leave out when heads are real: skewed logits, few directions, shrinking.

The statements stand, with proofs, in the chapter *What does a cosine of 0.98 mean?*.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement.matching import match_heads
from pdelens.agreement.report import Report, compare
from pdelens.flow import Flow

Flows = tuple[Flow, Flow]


def shrunken(null, share):
    """Raw cosine of `M + t (A - M)` and A, for t = `share`, where the mean map scores `null`: `centred` stays 1.

    `(c0^2 + t (1 - c0^2)) / sqrt(c0^2 + t^2 (1 - c0^2))`, as a ratio of root-mean-square norms.

    >>> float(shrunken(0.6, 1.0)), round(float(shrunken(0.6, 0.0)), 3)
    (1.0, 0.6)
    """
    known = np.square(np.asarray(null, dtype=float))
    return (known + share * (1 - known)) / np.sqrt(known + np.square(share) * (1 - known))


def logit_skewness(attention: Tensor) -> Tensor:
    """Skewness of the logits behind maps (batch, heads, queries, keys) with no masked key, (heads,).

    Of the log-weights about each row's mean, pooled over rows and examples; weights below 1e-30 are taken as 1e-30.
    Positive: a few keys stand out; negative: a few keys are shut off.
    """
    logs = attention.double().clamp_min(1e-30).log()
    centred = logs - logs.mean(-1, keepdim=True)
    third, second = (centred.pow(power).mean((0, 2, 3)) for power in (3, 2))
    return third / second.pow(1.5)


def skewness_by_head(attention: Sequence[Tensor]) -> np.ndarray:
    """Return the logits' skewness of every head of one map a layer, layer by layer, (layers * heads,)."""
    return np.concatenate([logit_skewness(maps).cpu().numpy() for maps in attention])


def skewed_law(spread, skewness):
    """Limit of the cosine to the constant map to third order in the logits: `exp(-(s^2 + k) / 2)`, `k = skewness s^3`.

    >>> float(skewed_law(0.0, 3.0))
    1.0
    """
    spread = np.asarray(spread, dtype=float)
    return np.exp(-(spread**2 + np.asarray(skewness) * spread**3) / 2)


def root_mean_square(report: Report, measure: str = "centred cosine") -> np.ndarray:
    """Return the root mean square of a measure over examples, (layers, heads).

    Of another input's maps about the mean map, it is `1 / sqrt(n)` for a head that varies in n directions alike.
    """
    return np.sqrt(np.square(report.attention[measure]).mean(1))


class Pair(NamedTuple):
    """How one model's attention agrees with another's: head by head of each layer, and with heads from anywhere."""

    matched: Report
    anywhere: Report


def pair(ours: Flows, theirs: Flows) -> Pair:
    """Compare two models' Flows (calibration, held-out) on the same examples, the second being the reference.

    `matched`: the heads of each layer in the order that fits the reference's best (Hungarian). `anywhere`: for each
    head of the reference the head of any layer that is most like it; one may be taken twice. Both are chosen on the
    calibration examples.
    """
    orders = match_heads(ours[0], theirs[0])
    anywhere = _taken(ours[1], nearest_heads(ours[0], theirs[0]))
    measures = ["cosine", "centred cosine"]
    found = (ours[1].permute_heads(orders).attention, anywhere)
    return Pair(*(compare(maps, theirs[1], None, theirs[0], measures) for maps in found))


def nearest_heads(ours: Flow, reference: Flow) -> Tensor:
    """Return the layer and head of `ours` most like each head of the reference, (layers, heads, 2).

    Scored as `match_heads` scores: by the cosine of maps centred on the reference layer's mean over heads and examples.
    """
    found = []
    for theirs in reference.attention:
        middle = theirs.mean((0, 1), keepdim=True)
        target = _unit(theirs - middle)
        scores = torch.cat([target @ _unit(maps - middle).transpose(1, 2) for maps in ours.attention], 2).mean(0)
        best = scores.argmax(1)
        found.append(torch.stack([best // ours.heads, best % ours.heads], 1))
    return torch.stack(found)


def _unit(maps: Tensor) -> Tensor:
    return torch.nn.functional.normalize(maps.flatten(2), dim=-1)


def _taken(flow: Flow, places: Tensor) -> list[Tensor]:
    """Return maps (examples, heads, queries, keys) for each layer, of the heads named by `places`."""
    return [torch.stack([flow.attention[layer][:, head] for layer, head in row.tolist()], 1) for row in places]
