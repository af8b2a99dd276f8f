import math

import pytest
import torch

from pdelens.information import density, noise


def normal(samples, columns, seed=0):
    return torch.randn(samples, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integrated(t, variance):
    """The information of a mixture's index in one column, by quadrature."""
    grid = torch.linspace(-60, 60, 400001, dtype=torch.float64)
    mixture = (-((grid - t) ** 2) / (2 * variance)).exp().mean(0) / math.sqrt(2 * math.pi * variance)
    entropy = -float(torch.trapezoid(torch.special.xlogy(mixture, mixture), grid))
    return entropy - 0.5 * math.log(2 * math.pi * math.e * variance)


@pytest.mark.parametrize("variance", [0.001, 0.05, 0.5, 5.0, 50.0])
def test_noisy_information_is_the_integrated_one(variance):
    t = normal(12, 1)
    found = noise.noisy_information(t, variance=variance, draws=4000)
    assert found == pytest.approx(integrated(t, variance), abs=0.015)


def test_noisy_information_lies_between_its_bounds_in_many_columns():
    t = normal(300, 20)
    for variance in (0.1, 1.0, 10.0, 100.0):
        lower, upper = noise.kernel_bounds(t, variance=variance)
        found = noise.noisy_information(t, variance=variance, draws=20)
        assert lower - 0.02 <= found <= upper + 0.02
    assert noise.noisy_information(t, variance=1e-6) == pytest.approx(math.log(300), abs=1e-9)
    assert noise.noisy_information(t, variance=1e9) == pytest.approx(0, abs=1e-4)


def test_noisy_information_of_a_channel_far_below_the_ceiling():
    """One column, many inputs: nearly the Gaussian channel's own information, which the inputs sample."""
    t, variance = normal(4000, 1), 0.25
    assert noise.noisy_information(t, variance=variance, draws=2) == pytest.approx(0.5 * math.log(5), abs=0.04)


def test_chunks_change_nothing(monkeypatch):
    t = normal(60, 2)
    whole = noise.kernel_bounds(t, variance=0.2), noise.noisy_information(t, variance=0.2)
    monkeypatch.setattr(density, "_ENTRIES", 400)
    assert noise.kernel_bounds(t, variance=0.2) == pytest.approx(whole[0], abs=1e-12)
    assert noise.noisy_information(t, variance=0.2) == pytest.approx(whole[1], abs=1e-12)


def test_kernel_bounds_of_two_points():
    distance, variance = 1.5, 0.7
    t = torch.tensor([[0.0, 0.0], [distance, 0.0]])
    expected = [-math.log((1 + math.exp(-(distance**2) / (scale * variance))) / 2) for scale in (8, 2)]
    assert noise.kernel_bounds(t, variance=variance) == pytest.approx(expected, abs=1e-12)


def test_kernel_bounds_hold_the_numerically_integrated_truth():
    t = normal(12, 1)
    for variance in (0.001, 0.05, 0.5, 5.0, 50.0):
        lower, upper = noise.kernel_bounds(t, variance=variance)
        assert lower - 1e-9 <= integrated(t, variance) <= upper + 1e-9
        assert upper > lower + 0.01 or variance in (0.001, 50.0)


def test_kernel_bounds_agree_and_are_both_wrong():
    """A Gaussian channel of 64 columns at signal-to-noise 1 carries 64/2 ln 2 = 22.18 nats; both bounds say ln 2000."""
    exact = 64 / 2 * math.log(1 + 1 / 1.0)
    lower, upper = noise.kernel_bounds(normal(2000, 64), variance=1.0)
    assert exact == pytest.approx(22.18, abs=0.005)
    assert (lower, upper) == (pytest.approx(7.60, abs=0.005), pytest.approx(math.log(2000), abs=1e-3))


def test_kernel_bounds_limits_and_labels():
    t = normal(50, 3)
    assert noise.kernel_bounds(torch.ones(50, 3), variance=1.0) == pytest.approx((0, 0), abs=1e-12)
    assert noise.kernel_bounds(t, variance=1e-9) == pytest.approx((math.log(50), math.log(50)), abs=1e-9)
    labels = torch.arange(50) % 2
    apart = 1e3 * labels[:, None] + torch.zeros(50, 3)
    assert noise.kernel_bounds(apart, variance=1.0, labels=labels) == pytest.approx((math.log(2),) * 2, abs=1e-9)
    lower, upper = noise.kernel_bounds(t, variance=0.3, labels=labels)
    assert 0 <= lower < upper < noise.kernel_bounds(t, variance=0.3)[1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: noise.kernel_bounds(x, variance=0.0), "variance=0.0 was given"),
        (lambda x: noise.kernel_bounds(x, variance=1.0, labels=x[:, 0]), "one integer for each of the 20 samples"),
        (lambda x: noise.noisy_information(x, variance=-1.0), "variance=-1.0 was given"),
        (lambda x: noise.noisy_information(x, variance=1.0, draws=0), "0 draws were asked for"),
        (lambda x: noise.noisy_information(x[:, 0], variance=1.0), r"shape \(20,\)"),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call(normal(20, 2))


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_inputs_far_apart_are_told_apart_at_every_draw(draws):
    assert noise.noisy_information(normal(40, 3), variance=1e-6, draws=draws) == pytest.approx(math.log(40), abs=1e-9)


def test_one_draw_is_the_mean_over_inputs_term_by_term():
    """Against the definition, with the very noise: one draw, then a pair of opposite ones, then a third."""
    t, variance = normal(9, 2), 0.7
    half = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for draws in (1, 2, 3):
        first = torch.randn((draws + 1) // 2, 9, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        terms = []
        for drawn in [first[0], -first[0], half[1]][:draws]:
            z = variance**0.5 * drawn
            for i in range(9):
                moved = [(t[i] - t[j] + z[i]).square().sum() - z[i].square().sum() for j in range(9)]
                terms.append(torch.stack(moved).div(-2 * variance).exp().mean().log())
        found = noise.noisy_information(t, variance=variance, draws=draws, seed=5)
        assert found == pytest.approx(-float(torch.stack(terms).mean()), abs=1e-12)


def test_bounds_of_labels_are_differences_of_mixtures():
    t, labels, variance = normal(11, 2), torch.tensor([0, 1, 1, 4, 4, 4, 4, 0, 1, 4, 4]), 0.4

    def mixture(rows, scale):
        means = [(-(rows - one).square().sum(1) / (2 * scale)).exp().mean().log() for one in rows]
        return -float(torch.stack(means).mean())

    found = noise.kernel_bounds(t, variance=variance, labels=labels)
    for number, (own, theirs) in enumerate(((4 * variance, variance), (variance, 4 * variance))):
        inside = sum(mixture(t[labels == k], theirs) * float((labels == k).double().mean()) for k in (0, 1, 4))
        assert found[number] == pytest.approx(
            max(mixture(t, own) - inside, 0) if number == 0 else mixture(t, own) - inside
        )
