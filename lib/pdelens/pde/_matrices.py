"""Matrices as the terms hold them: side by side with their bias, and how large they are."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def spectral_norm(matrix: Tensor, iterations: int = 20) -> float:
    """Return the largest singular value by power iteration: to about a percent, at a fraction of an SVD's cost."""
    size = matrix.norm().clamp_min(1e-30)
    scaled = matrix / size  # its largest singular value is in [1/sqrt(rank), 1], so nothing over- or underflows
    vector = torch.ones(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        vector = scaled.T @ (scaled @ vector)
    return float(size * (scaled @ vector).norm() / vector.norm().clamp_min(1e-30))


def stacked(weight: Tensor, bias: Tensor, beside: int = 0) -> Tensor:
    """Put matrix, zeros for `beside` more channels and bias side by side: one coefficient, (out, in + beside + 1)."""
    return torch.cat([weight.detach(), bias.new_zeros(len(bias), beside), bias.detach()[:, None]], 1)


def beside(normalise: Callable[[Tensor], Tensor], width: int) -> int:
    """Return how many channels a normalisation shows beside the state's own."""
    return normalise(torch.ones(1, width)).shape[-1] - width


def matrix_and_bias(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """Undo `stacked`, each part contiguous: a strided matrix would keep the product from fusing the bias."""
    return stacked[:, :-1].contiguous(), stacked[:, -1].contiguous()


def affine(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """Return `x W^T + b` in the type of x, for states (..., in)."""
    return F.linear(x, matrix.to(x.dtype), bias.to(x.dtype))
