"""Information between inputs and a deterministic network's layers: at stated noise, and of leading components."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.information.noise import noise_curve


def read_states(flow: Flow) -> list[Tensor]:
    """Return the mean over tokens at every depth, (examples, width) each, float64: what a small teacher reads out."""
    return [state.mean(1).double() for state in flow.states]


def over_noise(states: Sequence[Tensor], levels: Sequence[float], relative: bool, seed: int = 0) -> np.ndarray:
    """Return I(X; T + noise) in nats for equally likely inputs, (depths, levels); two draws of the noise each.

    `levels` are standard deviations: in units of each layer's own `noise.scale` where `relative`, else absolute.
    """
    rows = [noise_curve(state, levels, relative=relative, draws=2, seed=seed) for state in states]
    return np.array([[float(found) for found in row] for row in rows])


def leading(state: Tensor, columns: int) -> Tensor:
    """Return the scores of the leading principal components of a state (examples, width), (examples, columns)."""
    centred = state - state.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False)[2].T[:, :columns]
