"""What the page's small checks stand on."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from companion.dynamics import perturbation_checks as checks
from companion.dynamics import perturbation_results as results


def test_the_small_map_has_a_jacobian_that_can_be_written_down():
    found = checks.small_map()
    assert found.matrix().shape == (1, 32, 32) and found.depths == (0, 2) and checks.small_map(1).depths == (0, 1)
    v = torch.randn(1, 4, 8)
    torch.testing.assert_close((found.matrix()[0] @ v.flatten()).view_as(v), found.jvp(v))


def test_rank_correlations_are_of_the_first_seeds_examples(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(5, 12))
    names = ("norm", "margin", "shift")
    record = {
        "sensitivity": {"shift": {"three laws": rows[0].tolist(), "teacher": rows[1].tolist()}},
        "known": dict(zip(names, rows[2:].tolist(), strict=True)),
        "ranks": {"shift": {"three laws": {"partial": 0.5}}},
    }
    monkeypatch.setattr(results, "committed", lambda: {"perturbations": {"image-patch4-seed0": record}})
    matrix, stored = checks.rank_matrix("image-patch4", "natural")
    assert stored == 0.5 and matrix.shape == (5, 5)
    assert matrix[0, 4] == pytest.approx(spearmanr(rows[0], rows[4]).statistic)


def test_half_a_layer_is_the_first_half_of_the_small_map():
    half, whole = checks.half_layer(), checks.small_map(1)
    torch.testing.assert_close(half.point, whole.point)
    block = checks._small().blocks[0]
    torch.testing.assert_close(half.value + block.mlp(block.norm_mlp(half.value)), whole.value)
