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


def test_logit_spread_is_about_each_rows_own_mean():
    """Rows alike but for an offset, on maps with fewer queries than keys, by loops."""
    generator = torch.Generator().manual_seed(1)
    logits = (
        torch.randn(2, 3, 1, 7, generator=generator, dtype=torch.float64) * torch.tensor([0.5, 1.0, 2.0])[:, None, None]
    )
    logits = logits.expand(2, 3, 5, 7) + 0.1 * torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    found = cosine.logit_spread(torch.softmax(logits, -1))
    for head in range(3):
        rows = [logits[example, head, query] for example in range(2) for query in range(5)]
        variances = [sum((row - row.mean()) ** 2) / 6 for row in rows]
        assert float(found[head]) == pytest.approx(math.sqrt(sum(variances) / 10), rel=1e-9)


def test_a_weight_of_zero_is_a_small_one():
    row = torch.tensor([0.5, 0.5, 0.0])
    logs = np.array([math.log(0.5), math.log(0.5), math.log(1e-30)])
    found = cosine.logit_spread(row.expand(1, 1, 4, 3))
    assert float(found) == pytest.approx(np.std(logs, ddof=1), rel=1e-6)


def test_unrelated_maps_centred_on_the_constant_have_cosines_about_zero():
    generator = torch.Generator().manual_seed(0)
    found = cosine.unrelated_cosines(12, 0.3, pairs=300, heads=2, generator=generator)
    assert {name: len(values) for name, values in found.items()} == {"uniform": 300, "independent": 300, "centred": 300}
    spread = cosine.chance_spread(12)
    assert abs(found["centred"].mean()) < 4 * spread / 300**0.5
    assert found["centred"].std() == pytest.approx(spread, rel=0.2)


def test_cosines_of_simulated_maps_are_those_of_their_means_over_heads():
    found = cosine.unrelated_cosines(5, 1.0, 4, 3, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    one, other = (torch.randn(4, 3, 5, 5, generator=generator).softmax(-1).mean(1).flatten(1) for _ in range(2))
    pairs = {"independent": (one, other), "centred": (one - 0.2, other - 0.2), "uniform": (one, torch.ones(4, 25))}
    for name, (a, b) in pairs.items():
        expected = (a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1)
        assert found[name].tolist() == pytest.approx(expected.tolist(), abs=1e-5), name


@pytest.mark.parametrize(("tokens", "queries"), [(2, 1), (3, 1), (5, 3), (4, 4)])
def test_chance_spread_of_rows_that_point_anywhere(tokens, queries):
    """Rows of equal norm, drawn at random among those that sum to nothing: the variance of their cosine."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(2, 20000, queries, tokens))
    rows -= rows.mean(-1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    cosines = (rows[0] * rows[1]).sum((1, 2)) / queries
    found = cosine.chance_spread(tokens, queries)
    assert cosines.std() == pytest.approx(found, rel=0.03)
    if tokens == queries:
        assert cosine.chance_spread(tokens) == found


def test_logits_are_scaled_before_the_softmax():
    maps = cosine.random_attention(6, 1.5, 2, 3, torch.Generator().manual_seed(4))
    logits = 1.5 * torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(maps, logits.exp() / logits.exp().sum(-1, keepdim=True))
    assert cosine.random_attention(6, 1.5, 2).shape == (2, 1, 6, 6)


def test_laws_at_numbers_of_heads_and_tokens():
    assert cosine.uniform_law(0.0) == cosine.independent_law(0.0) == 1
    assert cosine.independent_law(0.8) == pytest.approx(cosine.uniform_law(0.8) ** 2)
    # A map of H heads: the variance that is not shared falls as 1 / H.
    excess = [1 / cosine.independent_law(0.8, heads) - 1 for heads in (1, 2, 8)]
    assert [excess[0] / part for part in excess] == pytest.approx([1, 2, 8])
    # The largest of n weights, exp(s sqrt(2 ln n)), has then the square that all have together, n exp(2 s^2).
    s = cosine.range_of_law(50)
    assert 2 * s * math.sqrt(2 * math.log(50)) == pytest.approx(math.log(50) + 2 * s**2)


def test_the_exchange_rate_in_closed_form_and_single_precision():
    """A truth of mean m and deviation 1, and an error e: raw^2 = (m^2 + 1) / (m^2 + 1 + e^2), centred^2 without m."""
    for mean, error in ((2.0, 0.5), (0.5, 1.0), (7.0, 0.1)):
        null = math.sqrt(mean**2 / (mean**2 + 1))
        raw = math.sqrt((mean**2 + 1) / (mean**2 + 1 + error**2))
        assert float(cosine.centred_from_raw(raw, null)) == pytest.approx(1 / math.sqrt(1 + error**2), rel=1e-9)
    near = np.float32(0.9999)
    assert cosine.centred_from_raw(near, near) == pytest.approx(
        cosine.centred_from_raw(float(near), float(near)), rel=1e-12
    )
    found = cosine.centred_from_raw(np.array([0.9, 1.0], np.float32), [0.5, 0.5])
    assert found.dtype == np.float64 and found[1] == 1
