"""Chains with known information: by another integral, by their construction, and through the estimator."""

import math

import numpy as np
import pytest
import torch

from companion.information_flow import chain
from pdelens.information.usable import usable_information


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 2.0, 5.0])
def test_a_class_in_noise_has_the_information_of_a_mixture(ratio):
    # Entropy of the mixture less that of the noise, on a grid.
    t, step = np.linspace(-20, 20, 40001, retstep=True)
    density = sum(np.exp(-((t - at) ** 2) / 2) for at in (ratio, -ratio)) / math.sqrt(8 * math.pi)
    entropy = -(density * np.log(np.maximum(density, 1e-300))).sum() * step
    assert chain.two_class_information(ratio) == pytest.approx(entropy - 0.5 * math.log(2 * math.pi * math.e), abs=1e-7)


def test_the_chain_is_what_it_says():
    states, classes, known = chain.noisy_chain(20000, 3, 4, 1.5, 0.7, seed=1)
    assert known == sorted(known, reverse=True) and len(known) == len(states) == 4
    for depth, u in enumerate(states):
        sign = (2.0 * classes - 1)[:, None]
        mean = (sign * u).mean(0)
        assert float(mean.norm()) == pytest.approx(1.5, abs=0.05)
        spread = (u - sign * mean).square().mean().sqrt()
        assert float(spread) == pytest.approx(math.sqrt(1 + depth * 0.49), rel=0.02)


def test_probes_obey_data_processing_on_it_and_know_the_truth():
    states, classes, known = chain.noisy_chain(2000, 2, 4, 1.5, 1.0)
    found = [float(usable_information(u, classes, permutations=0)) for u in states]
    assert found == sorted(found, reverse=True) and found == pytest.approx(known, abs=0.06)


def test_a_product_is_usable_only_where_it_is_written():
    (pair, product), classes = chain.product_chain(2000)
    assert torch.equal(pair[:, 0] * pair[:, 1], product[:, 0])
    assert abs(float(usable_information(pair, classes, permutations=0))) < 0.02
    assert float(usable_information(product, classes, permutations=0)) > 0.6


def test_three_tokens_correlate_as_asked_and_the_source_has_no_edge():
    now, after, cut = chain.three_tokens(20000, 3, 0.6, weight=0.5)
    receiver, source, double = now.unbind(1)
    assert float((source * double).mean()) == pytest.approx(0.6, abs=0.02)
    assert float(double.square().mean()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(after[:, 0], receiver + 0.5 * double)
    assert torch.equal(cut, after[:, 0]) and torch.equal(after[:, 1:], now[:, 1:])
