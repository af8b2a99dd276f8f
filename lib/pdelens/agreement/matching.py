"""Which head is which: heads aligned across layers and matched across seeds by the Hungarian method."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..flow import Flow


def match_heads(flow: Flow, reference: Flow) -> list[Tensor]:
    """Return, per layer, the order of `flow`'s heads that best matches `reference`'s (Hungarian).

    Both Flows must be of the calibration split: held-out data never decides an order. Pairs are scored by the cosine
    of maps centred on the mean over heads and examples.
    """
    return [_assignment(ours, theirs) for ours, theirs in zip(flow.attention, reference.attention, strict=True)]


def align_heads(calibration: Flow) -> list[Tensor]:
    """Return, per layer, the order of heads that best continues the layer before it.

    Heads have no order of their own within a layer; a model that shares parameters across depth needs one. Layer 0
    keeps its order.
    """
    orders = [torch.arange(calibration.heads)]
    previous = calibration.attention[0]
    for attention in calibration.attention[1:]:
        order = _assignment(attention, previous)
        orders.append(order)
        previous = attention[:, order]
    return orders


def _assignment(ours: Tensor, theirs: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    # `agreement.centred_cosine` of every pair at once, as one product.
    middle = theirs.mean((0, 1), keepdim=True)
    ours, theirs = (F.normalize((maps - middle).flatten(2), dim=-1) for maps in (ours, theirs))
    scores = (theirs @ ours.transpose(1, 2)).mean(0)  # (their heads, our heads)
    _, order = linear_sum_assignment(-scores.cpu().double().numpy())
    return torch.as_tensor(order)
