"""Information between inputs and a deterministic network's layers: at stated noise, and of leading components."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.information.noise import noisy_information


def read_states(flow: Flow) -> list[Tensor]:
    """Return the mean over tokens at every depth, (examples, width) each, float64: what a small teacher reads out."""
    return [state.mean(1).double() for state in flow.states]


def scale(state: Tensor) -> float:
    """Return the root-mean-square distance from the mean, per channel, of a state (examples, width).

    >>> scale(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    1.0
    """
    return float(state.var(0, correction=0).mean().sqrt())


def over_noise(states: Sequence[Tensor], levels: Sequence[float], relative: bool, seed: int = 0) -> np.ndarray:
    """Return I(X; T + noise) in nats for equally likely inputs, (depths, levels); two draws of the noise each.

    `levels` are standard deviations: in units of each layer's own `scale` where `relative`, else absolute.
    """
    sizes = [scale(state) if relative else 1.0 for state in states]
    rows = [
        [noisy_information(state, variance=(level * size) ** 2, draws=2, seed=seed) for level in levels]
        for state, size in zip(states, sizes, strict=True)
    ]
    return np.array(rows)


def leading(state: Tensor, columns: int) -> Tensor:
    """Return the scores of the leading principal components of a state (examples, width), (examples, columns)."""
    centred = state - state.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False)[2].T[:, :columns]
