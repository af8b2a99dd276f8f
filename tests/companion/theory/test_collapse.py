"""Tokens followed to their end, against closed forms and plain loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from companion.theory import clusters, collapse


def test_pairs_of_an_orthonormal_start_share_the_exact_cosine():
    found = collapse.pair_cosines(1.0, 8, (0.5, 2.0))
    exact = clusters.equiangular_cosine(1.0, 8, (0.5, 2.0))
    assert found.shape == (2, 56) and np.abs(found - exact[:, None]).max() < 1e-5


def test_without_content_half_is_reached_at_the_closed_forms_time():
    start = torch.eye(9, dtype=torch.float64)[None]
    exact = 0.5 * math.log((1 + 8 * 0.5) / 0.5)
    found = collapse.half_times(0.0, start, until=4.0, every=0.05)
    assert found.shape == (1,) and 0 <= found[0] - exact < 0.05
    assert collapse.half_times(0.0, start, until=1.0, every=0.05)[0] == np.inf


def test_random_tokens_lie_on_the_sphere():
    found = collapse.random_tokens(3, 5, torch.Generator().manual_seed(0))
    assert found.shape == (3, 5, 5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3, 5, dtype=torch.float64))


def test_layers_are_what_they_are_called():
    u = collapse.random_tokens(1, 5, torch.Generator().manual_seed(1))
    weights = torch.softmax(2.0 * u @ u.mT, -1)
    unit = torch.nn.functional.normalize
    wanted = {
        "attention alone": weights @ u,
        "normalised": unit(weights @ u, dim=-1),
        "residual": u + weights @ u,
        "residual, normalised": unit(u + weights @ u, dim=-1),
        "null: no attention": u,
    }
    for name, layer in collapse.kinds_of_layer(2.0).items():
        torch.testing.assert_close(layer(0, u), wanted[name])


def test_the_cubic_law_is_read_off_a_diameter_that_follows_it():
    widths = [0.9, 0.4]
    while widths[-1] > 1e-30:
        widths.append(2 * widths[-1] ** 3)
    exponents, share = collapse.cubic_law(np.array(widths), beta=1.0)
    # .4, .128 and .0042 count; what they become is above rounding but for the last.
    wanted = [math.log(b) / math.log(a) for a, b in pairwise(widths[1:]) if b > 1e-12]
    assert exponents.tolist() == pytest.approx(wanted) and len(wanted) == 3
    bounds = [(math.exp(4 * w**2) - 1) / 2 * w for w in widths[1:4]]
    assert share == pytest.approx(max(w / b for w, b in zip(widths[2:5], bounds, strict=True)))


def test_a_fidelity_term_without_attention_to_others_changes_nothing():
    """At large beta each token sees itself alone: the start is a fixed point. At beta 0 the mean token is exact."""
    start = collapse.random_tokens(1, 6, torch.Generator().manual_seed(2))
    times = np.linspace(0, 3, 31)
    assert collapse.kept_apart(start, 0.5, 1e6, times) == pytest.approx(float(clusters.rank_residual(start)))
    # beta = 0: the mean stands still and c = u - mean follows c' = -c + strength (c0 - c).
    strength, mean = 0.5, start.mean(1, keepdim=True)
    left = (np.exp(-(1 + strength) * times) + strength) / (1 + strength)
    for found, share in zip(collapse.kept_apart(start, strength, 0.0, times), left, strict=True):
        exact = mean + share * (start - mean)
        assert found == pytest.approx(float(clusters.rank_residual(exact)), abs=1e-6)


def test_averaging_may_spread_up_to_its_limit():
    assert collapse.counter_example(16, 40.0) == pytest.approx(16**2 / (4 * 15))
    assert collapse.counter_example(16, 0.0) == pytest.approx(0, abs=1e-12)


def test_small_readings():
    assert collapse.last_factor([4.0, 2.0, 0.5]) == 0.25
    path = [torch.eye(3, dtype=torch.float64)[None], torch.ones(1, 3, 3, dtype=torch.float64)]
    assert collapse.residuals({"a": path})["a"].tolist() == pytest.approx([math.sqrt(2 / 3), 0], abs=1e-12)
