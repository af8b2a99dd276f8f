"""Tokens in a common projection: the two directions in which a teacher's tokens differ most, at all depths alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow

from ..data.tokens import tokenizer

# Depth-times at which a moving equation is shown: closer where a small embedding is carried far at once.
TIMES = (0.0, 1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, *(1 + number / 2 for number in range(11)))


@dataclass(frozen=True, eq=False)
class Projection:
    """A centre and two directions of normalised tokens, and the share of each depth's variance along them.

    `centre` (width,), `axes` (2, width); `share` (depths, 2), about each depth's own mean.
    """

    centre: Tensor
    axes: Tensor
    share: np.ndarray

    def __call__(self, state: Tensor) -> Tensor:
        """Return tokens (..., width) in the two directions, (..., 2): what layers see of them, the length left out."""
        return (normalised(state) - self.centre) @ self.axes.T


def normalised(state: Tensor) -> Tensor:
    """Return tokens with mean 0 and variance 1 over channels, as layer normalisation shows them; float64."""
    return torch.nn.functional.layer_norm(state.double(), state.shape[-1:])


def projection(calibration: Flow) -> Projection:
    """Return the first two principal directions of a teacher's normalised tokens, those of all depths together.

    Each depth weighs the same. A direction's sign is that of its largest entry.
    """
    rows = [normalised(state[calibration.mask]) for state in calibration.states]
    pooled = torch.cat(rows)
    centre = pooled.mean(0)
    axes = torch.linalg.svd(pooled - centre, full_matrices=False)[2][:2]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    shares = []
    for row in rows:
        about = row - row.mean(0)
        shares.append(((about @ axes.T).square().sum(0) / about.square().sum()).tolist())
    return Projection(centre, axes, np.array(shares))


def strip(to: Projection, states: Sequence[Tensor], example: int, mask: Tensor) -> np.ndarray:
    """Return the first coordinate of an example's real tokens at every depth, (tokens, depths)."""
    real = mask[example]
    return torch.stack([to(state[example][real])[:, 0] for state in states], 1).numpy()


def paths(to: Projection, states: Sequence[Tensor], mask: Tensor) -> np.ndarray:
    """Return where one example's real tokens are in the plane, (times, tokens, 2)."""
    return torch.stack([to(state[0][mask[0]]) for state in states]).numpy()


def pieces(tokens: Tensor, mask: Tensor) -> list[str]:
    """Return the pieces of words of one text, each as it reads."""
    coder = tokenizer()
    return [coder.decode([number]).strip() or "␣" for number in tokens[mask.bool()].tolist()]
