import math

import numpy as np
import pytest
import torch

from companion.theory import cosine
from pdelens.agreement import measures


@pytest.mark.parametrize("shape", [(7, 7), (3, 11), (20, 4)])
def test_identity_to_uniform(shape):
    maps = torch.softmax(2 * torch.randn(5, 2, *shape, dtype=torch.float64), -1)
    flat = torch.full((1, 1, *shape), 1 / shape[1], dtype=torch.float64)
    assert torch.allclose(cosine.cosine_to_uniform(maps), measures.cosine(maps, flat), atol=1e-12)


def test_causal_identity():
    tril = torch.ones(13, 13, dtype=torch.float64).tril()
    logits = torch.randn(5, 2, 13, 13, dtype=torch.float64).masked_fill(tril == 0, -torch.inf)
    maps, flat = torch.softmax(logits, -1), (tril / tril.sum(-1, keepdim=True))[None, None]
    assert torch.allclose(cosine.cosine_to_uniform(maps, causal=True), measures.cosine(maps, flat), atol=1e-12)


@pytest.mark.parametrize("heads", [1, 4, 12])
@pytest.mark.parametrize("spread", [0.1, 0.3, 0.5])
def test_laws_against_simulation(spread, heads):
    generator = torch.Generator().manual_seed(0)
    found = cosine.unrelated_cosines(49, spread, pairs=40, heads=heads, generator=generator)
    assert found["independent"].mean() == pytest.approx(cosine.independent_law(spread, heads), abs=0.01)
    if heads == 1:
        assert found["uniform"].mean() == pytest.approx(cosine.uniform_law(spread), abs=0.01)


def test_law_fails_where_its_range_ends():
    generator = torch.Generator().manual_seed(0)
    found = cosine.unrelated_cosines(49, 2.0, pairs=40, generator=generator)["independent"].mean()
    assert cosine.range_of_law(49) < 2.0
    assert found > 4 * cosine.independent_law(2.0)


def test_spread_for_inverts_the_law():
    for heads in (1, 12):
        assert cosine.independent_law(cosine.spread_for(0.98, heads), heads) == pytest.approx(0.98)
    assert cosine.spread_for(0.98) == pytest.approx(math.sqrt(-math.log(0.98)), rel=1e-12)


@pytest.mark.parametrize("tokens", [16, 49])
@pytest.mark.parametrize("spread", [0.2, 1.0])
def test_variance_of_the_centred_cosine_is_exact(tokens, spread):
    """Theorem on unrelated maps: mean 0 and the stated variance, given the rows' norms."""
    generator = torch.Generator().manual_seed(0)
    first = cosine.random_attention(tokens, spread, 1, generator=generator).double()[0, 0] - 1 / tokens
    second = cosine.random_attention(tokens, spread, 1, generator=generator).double()[0, 0] - 1 / tokens
    a, b = first.square().sum(-1), second.square().sum(-1)
    exact = (a * b).sum() / (a.sum() * b.sum()) / (tokens - 1)
    draws = []
    for _ in range(4000):
        order = torch.rand(tokens, tokens, generator=generator).argsort(-1)
        draws.append(float((first * second.gather(-1, order)).sum() / (a.sum() * b.sum()).sqrt()))
    assert np.mean(draws) == pytest.approx(0, abs=4 * float(exact.sqrt()) / 4000**0.5)
    assert np.var(draws) == pytest.approx(float(exact), rel=0.1)


def test_exchange_rate_against_simulation():
    generator = torch.Generator().manual_seed(0)
    mean = torch.softmax(torch.randn(1, 1, 30, 30, generator=generator), -1)
    truth = mean + 0.02 * torch.randn(400, 1, 30, 30, generator=generator)
    ours = truth + 0.01 * torch.randn(400, 1, 30, 30, generator=generator)
    raw, null = measures.cosine(ours, truth).mean(), measures.cosine(mean, truth).mean()
    measured = measures.centred_cosine(ours, truth, mean[0]).mean()
    assert float(measured) == pytest.approx(float(cosine.centred_from_raw(raw, null)), abs=5e-3)


def test_logit_spread_is_recovered():
    generator = torch.Generator().manual_seed(0)
    maps = cosine.random_attention(49, 0.7, 50, heads=3, generator=generator)
    assert cosine.logit_spread(maps).tolist() == pytest.approx([0.7] * 3, abs=0.01)
