"""Small things that the page on perturbations proves, and then shows: a Jacobian that fits on it, another formula."""

from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from pdelens.models import Configuration, Transformer
from pdelens.sensitivity.flow_map import FlowMap, flow_map

from . import perturbation_results as results


def small_map(end: int | None = None) -> FlowMap:
    """Return the map of a random Transformer of four tokens and two layers on a random picture, 32 entries a state."""
    return flow_map(_small(), _picture(), 0, end)


def half_layer() -> FlowMap:
    """Return the attention half of its first layer, `u + attention(norm(u))`, at the same embedding."""
    model = _small()
    block: Any = model.blocks[0]
    return FlowMap(lambda u: u + block.attention(block.norm_attention(u), None), model.embedding(_picture()))


def _small() -> Transformer:
    return Transformer(Configuration(width=8, heads=2, layers=2, patch=14), seed=0).requires_grad_(False)


def _picture() -> torch.Tensor:
    return torch.randint(0, 255, (1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def rank_matrix(teacher: str, kind: str) -> tuple[np.ndarray, float]:
    """Return Spearman's correlations of the first seed's sensitivities, and the recorded partial one.

    Rows of the matrix: the equation's, the teacher's, the input's norm, the margin, the size of the change.
    """
    each, known = results.sensitivities(teacher, kind), results.given(teacher, kind)
    matrix = spearmanr(np.stack([each["three laws"], each["teacher"], *known], 1)).statistic  # type: ignore[attr-defined]
    stored = results.records_of(teacher)[0]["ranks"][results.kind_of(teacher, kind)]["three laws"]["partial"]
    return np.asarray(matrix), float(stored)
