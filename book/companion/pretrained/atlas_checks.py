"""Checks of what is read off a model without its maps, against maps that were stored."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pdelens.attention.moments import attention_moments
from pdelens.attention.statistics import AttentionStatistics
from pdelens.lattice import Lattice


def largest_gaps(found: Sequence[AttentionStatistics], maps: Sequence[Tensor], lattice: Lattice) -> dict[str, float]:
    """Return the largest difference of entropy, drift, diffusivity and special mass, over all of a model.

    `found`: each layer's statistics; `maps`: each layer's attention (examples, heads, tokens, tokens), whose own are
    taken in float64. Nats, lattice units, their squares, shares. Drift and diffusivity are compared where more than a
    millionth of a row lands on the lattice: elsewhere a displacement means nothing.
    """
    gaps: dict[str, list[float]] = {"entropy": [], "drift": [], "diffusivity": [], "special mass": []}
    for layer, weights in zip(found, maps, strict=True):
        exact, read = attention_moments(weights.double(), lattice), layer.moments(lattice)
        on = exact.special_mass < 1 - 1e-6
        pairs = {
            "entropy": (layer.entropy, torch.special.entr(weights.double()).sum(-1)),
            "drift": (read.drift[on], exact.drift[on]),
            "diffusivity": (read.diffusivity[on], exact.diffusivity[on]),
            "special mass": (read.special_mass, exact.special_mass),
        }
        for name, (ours, known) in pairs.items():
            gaps[name].append(float((ours.cpu() - known).abs().max()))
    return {name: max(each) for name, each in gaps.items()}
