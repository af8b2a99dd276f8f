import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pdelens.agreement import measures

MAP_MEASURES = (measures.cosine, measures.row_cosine, measures.jensen_shannon, measures.total_variation, measures.top1)


def plain_measures(p, a):
    """The slow oracle: one example and head at a time, in float64 NumPy."""
    rows = []
    for x, y in zip(p, a, strict=True):
        m = (x + y) / 2
        kl = lambda u, v: sum(i * math.log(i / j) for i, j in zip(u, v, strict=True) if i > 0)  # noqa: E731
        overlap = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        rows.append([overlap, (kl(x, m) + kl(y, m)) / 2, abs(x - y).sum() / 2, float(x.argmax() == y.argmax())])
    row, js, tv, top = np.mean(rows, 0)
    return (p * a).sum() / np.linalg.norm(p) / np.linalg.norm(a), row, js, tv, top


def test_measures_equal_the_plain_oracle(attention):
    p, a = attention(seed=1, dtype=torch.float64), attention(seed=2, dtype=torch.float64)
    oracle = np.array(
        [
            [plain_measures(x, y) for x, y in zip(ps, as_, strict=True)]
            for ps, as_ in zip(p.numpy(), a.numpy(), strict=True)
        ]
    )
    for number, measure in enumerate(MAP_MEASURES):
        np.testing.assert_allclose(measure(p, a).numpy(), oracle[..., number], atol=1e-12)


def test_a_map_agrees_with_itself(attention):
    a = attention()
    for measure, exact in zip(MAP_MEASURES, (1, 1, 0, 0, 1), strict=True):
        assert torch.allclose(measure(a, a), torch.full((6, 3), float(exact)), atol=1e-5)


def test_disjoint_rows_are_as_far_as_can_be():
    a, b = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    a[..., 0], b[..., 1] = 1, 1
    values = [float(measure(a, b)) for measure in MAP_MEASURES]
    assert values == pytest.approx([0, 0, math.log(2), 1, 0], abs=1e-6)


def test_padded_rows_do_not_count(attention):
    p, a = attention(seed=1), attention(seed=2)
    rows = torch.ones(6, 7, dtype=torch.bool)
    rows[:, 4:] = False
    spoiled = p.clone()
    spoiled[:, :, 4:] = torch.eye(7)[4:]
    mean = a.mean(0)
    for measure in MAP_MEASURES:
        assert torch.equal(measure(p, a, rows), measure(spoiled, a, rows))
        assert torch.allclose(measure(p, a, rows), measure(p[:, :, :4], a[:, :, :4]), atol=1e-6)
    assert torch.equal(measures.centred_cosine(p, a, mean, rows), measures.centred_cosine(spoiled, a, mean, rows))


def test_centred_cosine_of_the_mean_itself_is_zero(attention):
    a = attention()
    mean = a.mean(0)
    assert float(measures.centred_cosine(mean[None], a, mean).abs().max()) == 0
    assert torch.allclose(measures.centred_cosine(a, a, mean), torch.ones(6, 3))


def test_centred_on_uniform_is_pearson(attention):
    p, a = attention(seed=1, dtype=torch.float64), attention(seed=2, dtype=torch.float64)
    ours = measures.centred_cosine(p, a, torch.full((1, 1, 7, 7), 1 / 7, dtype=torch.float64))
    pearson = np.corrcoef(p[2, 1].ravel().numpy(), a[2, 1].ravel().numpy())[0, 1]
    assert float(ours[2, 1]) == pytest.approx(pearson, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 4))
def test_measures_ignore_the_order_of_keys_and_stay_in_range(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    p, a = (torch.softmax(spread * torch.randn(2, 2, 6, 6, generator=generator), -1) for _ in range(2))
    order = torch.randperm(6, generator=generator)
    for measure in MAP_MEASURES:
        value = measure(p, a)
        assert torch.allclose(value, measure(p[..., order], a[..., order]), atol=1e-5)
        assert float(value.min()) >= -1e-6 and float(value.max()) <= 1 + 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_measured_in_float32(attention, dtype):
    a = attention().to(dtype)
    assert measures.cosine(a, a).dtype == torch.float32
    assert torch.allclose(measures.cosine(a, a), torch.ones(6, 3), atol=1e-5)


def test_r2_exact_mean_and_broken():
    truth, mean = torch.randn(50, 4, 3), torch.zeros(4, 3)
    assert torch.allclose(measures.state_r2(truth, truth, mean), torch.ones(3, dtype=torch.float64))
    assert torch.allclose(measures.state_r2(mean.expand_as(truth), truth, mean), torch.zeros(3, dtype=torch.float64))
    rows = torch.ones(50, 4, dtype=torch.bool)
    rows[:, 3] = False
    spoiled = truth.clone()
    spoiled[:, 3] = 100
    assert torch.allclose(measures.state_r2(spoiled, truth, mean, rows), torch.ones(3, dtype=torch.float64))


def test_cka_against_the_gram_matrix_form():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 5, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(5, 3, generator=generator, dtype=torch.float64) + torch.randn(120, 3, generator=generator)

    def hsic(first, second):
        n = len(first)
        k, l = (v - v.mean(0) for v in (first, second))  # noqa: E741
        k, l = k @ k.T, l @ l.T  # noqa: E741
        k.fill_diagonal_(0), l.fill_diagonal_(0)
        one = torch.ones(n, dtype=torch.float64)
        total = torch.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    oracle = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert measures.linear_cka(x, y) == pytest.approx(float(oracle), abs=1e-10)


def test_cka_is_invariant_to_rotation_and_near_zero_for_strangers():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2000, 8, generator=generator), torch.randn(2000, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0]
    assert measures.linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert abs(measures.linear_cka(x, y)) < 0.01


def test_bad_input_is_named(attention):
    with pytest.raises(ValueError, match=r"\(batch, heads, queries, keys\)"):
        measures.cosine(attention(tokens=7), attention(tokens=6))
    with pytest.raises(ValueError, match="rows have shape"):
        measures.cosine(attention(), attention(), torch.ones(2, 2))
    with pytest.raises(ValueError, match="at least 20 a feature"):
        measures.linear_cka(torch.randn(50, 10), torch.randn(50, 10))
