"""What attention and reaction look at a state through: normalisations without gain and bias."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_normalise(u: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Layer normalisation without gain and bias: onto the mean-0 sphere of radius sqrt(width)."""
    return F.layer_norm(u, u.shape[-1:], eps=epsilon)


def rms_normalise(u: Tensor, epsilon: float = 1e-6) -> Tensor:
    """RMS normalisation without gain: onto the sphere of radius sqrt(width)."""
    return u * (u.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def layer_and_size(u: Tensor, epsilon: float = 1e-5) -> Tensor:
    """Layer normalisation and beside it `log rms(u)`, one channel more: what the norm hides, a token's size."""
    size = 0.5 * (u.square().mean(-1, keepdim=True) + epsilon).log()
    return torch.cat([layer_normalise(u, epsilon), size], -1)


def dynamic_tanh(u: Tensor, scale: float = 0.5) -> Tensor:
    """DyT (Zhu et al. 2025) without gain and bias: `tanh(scale u)`, no statistics over the token."""
    return torch.tanh(scale * u)


NORMALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer": layer_normalise,
    "layer+size": layer_and_size,
    "rms": rms_normalise,
    "dyt": dynamic_tanh,
    "none": lambda u: u,
}
