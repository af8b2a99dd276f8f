import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from pdelens.information import density, noise
from pdelens.information.mixture import mixture_of, overlaps
from pdelens.information.streams import own_generator


def normal(samples, columns, seed=0):
    return torch.randn(samples, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integrated(t, variance):
    """The information of a mixture's index in one column, by quadrature."""
    t, width = torch.as_tensor(t, dtype=torch.float64).flatten(), 12 * math.sqrt(variance)
    low, high = float(t.min()) - width, float(t.max()) + width
    grid = torch.linspace(low, high, 20_001 + int(10 * (high - low) / width) * 400, dtype=torch.float64)[:, None]
    mixture = (-((grid - t) ** 2) / (2 * variance)).exp().mean(1) / math.sqrt(2 * math.pi * variance)
    entropy = -float(torch.trapezoid(torch.special.xlogy(mixture, mixture), grid[:, 0]))
    return entropy - 0.5 * math.log(2 * math.pi * math.e * variance)


def quantiles(samples):
    """Points of a standard normal law as even as can be, (samples, 1)."""
    return torch.special.ndtri((torch.arange(samples, dtype=torch.float64) + 0.5) / samples)[:, None]


def covered(t, sigma, truth, seeds=100, **settings):
    """Return how many of the seeds' intervals hold the truth."""
    found = (noise.noisy_information(t, sigma, seed=seed, **settings).interval for seed in range(seeds))
    return sum(low <= truth <= high for low, high in found)


TWELVE = normal(12, 1)


@pytest.mark.parametrize("sigma", [0.03, 0.2, 0.7, 2.0, 7.0, 300.0])
def test_noisy_information_is_the_integrated_one(sigma):
    found = noise.noisy_information(TWELVE, sigma, draws=4000)
    truth = integrated(TWELVE, sigma**2)
    assert abs(found.value - truth) < 4 * found.error and found.error < 0.007
    assert found.error < 0.05 * min(found.value, found.ceiling - found.value)


# 91 of 100 and more are what a 95 % interval has in 97 of 100 trials; more than 99 would be too wide an interval.
@pytest.mark.parametrize(
    ("t", "sigma"),
    [(TWELVE, 0.07), (TWELVE, 0.3), (TWELVE, 2.0), (TWELVE, 100.0), ([0.0, 1.0], 1.0), ([0.0, 2.0], 1.0)],
    ids=str,
)
def test_intervals_hold_the_integrated_truth_in_95_of_100_seeds(t, sigma):
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
    assert 91 <= covered(t, sigma, integrated(t, sigma**2), draws=240) <= 99


@pytest.mark.parametrize("apart", [5.0, 6.0, 7.0, 8.0, 10.0])
def test_intervals_hold_what_few_draws_meet(apart):
    """What is missing to ln 2 hangs on draws beyond half the distance: the spread of the others says nothing of it."""
    two = torch.tensor([[0.0], [apart]])
    truth = integrated(two, 1.0)
    found = [noise.noisy_information(two, 1.0, draws=2000, seed=seed) for seed in range(100)]
    assert sum(each.interval[0] <= truth <= each.interval[1] for each in found) >= 95
    off = np.sqrt(np.mean([(each.value - truth) ** 2 for each in found]))
    assert max(each.error for each in found) < 3 * (1 + off) * math.exp(-(apart**2) / 16) / 4000**0.5


def test_a_gaussian_channel_in_95_of_100_seeds():
    """One column, evenly spread inputs: nearly the channel's own 1/2 ln(1 + s^2 / sigma^2)."""
    t, sigma = quantiles(80), 0.8
    exact = 0.5 * math.log(1 + float(t.var(correction=0)) / sigma**2)
    assert abs(exact - integrated(t, sigma**2)) < 2e-3
    assert 91 <= covered(t, sigma, integrated(t, sigma**2), draws=4) <= 99
    assert abs(noise.noisy_information(t, sigma, draws=200).value - exact) < 6e-3


def test_columns_that_are_independent_add_up():
    """A grid's information is the sum of its columns': three of them, each by quadrature."""
    line = quantiles(5)[:, 0]
    grid = torch.cartesian_prod(line, 2 * line, 3 * line)
    truth = sum(integrated(k * line, 1.0) for k in (1, 2, 3))
    assert 91 <= covered(grid, 1.0, truth, draws=40) <= 99


def test_both_ends():
    t = normal(40, 3)
    apart = torch.tensor([[0.0], [100.0]])
    for sigma in (1e-300, 1e-160, 1e-9, 1e-3):
        for found, ceiling in (
            (noise.noisy_information(t, sigma, draws=4), 40),
            (noise.noisy_information(apart, sigma), 2),
        ):
            assert found.value == pytest.approx(math.log(ceiling), abs=1e-12) and found.error < 1e-6
    for sigma in (1e6, 1e100, 1e300):
        found = noise.noisy_information(t, sigma, draws=4)
        assert 0 <= found.value < 1e-11 and 0 <= found.error < 1e-11
    far = noise.noisy_information(t, 1e3, draws=400)
    # To first order in 1 / sigma^2 it is the trace of the covariance over 2 sigma^2, whatever the law.
    assert far.value == pytest.approx(float(t.var(0, correction=0).sum()) / 2e6, rel=0.02)


def test_states_that_are_equal_or_nearly_so():
    """Equal ones are one point of more weight; near ones, far from the mean, keep all digits of their distance."""
    some = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 2.0], [7.0, 7.0]])
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    for sigma in (1e-12, 1e-3):
        found = noise.noisy_information(some, sigma)
        assert found.value == pytest.approx(float(torch.special.entr(weights).sum()), abs=1e-9)
    repeated = torch.tensor([[0.0], [0.0], [0.0], [1.5]])
    assert abs(noise.noisy_information(repeated, 1.0, draws=4000).value - integrated(repeated, 1.0)) < 0.01
    for wide in (1, 9):
        near = torch.zeros(4, wide, dtype=torch.float64)
        near[1, 0], near[2:, 0] = 1e-9, torch.tensor([1.0, 1.0 + 1e-9], dtype=torch.float64)
        truth = math.log(2) + integrated([0.0, 1.0], 1.0)
        assert 88 <= covered(near, 1e-9, truth, draws=200) <= 100
        found = noise.noisy_information(near, 1e-9)
        assert abs(found.value - truth) < 4 * found.error < 0.03


def test_noisy_information_lies_between_its_bounds_in_many_columns():
    t = normal(300, 20)
    for sigma in (0.3, 1.0, 3.0, 10.0):
        lower, upper = noise.kernel_bounds(t, variance=sigma**2)
        found = noise.noisy_information(t, sigma, draws=20).value
        assert lower - 0.02 <= found <= upper + 0.02


def test_more_noise_and_projections_never_tell_more():
    t = normal(60, 6)
    curve = [found.value for found in noise.noise_curve(t, np.geomspace(0.05, 50, 25).tolist(), draws=40)]
    assert (
        all(after <= before + 1e-12 for before, after in itertools.pairwise(curve)) and curve[0] > 4 > 0.01 > curve[-1]
    )
    for seed in range(3):
        basis = torch.linalg.qr(normal(6, 6, seed=seed)).Q
        for sigma in (0.5, 1.5):
            values = [noise.noisy_information(t @ basis[:, :k], sigma, draws=100) for k in (6, 3, 1)]
            assert all(b.value < a.value + 3 * (a.error + b.error) for a, b in itertools.pairwise(values))
            assert values[-1].value < values[0].value - 0.5


def test_wide_states_are_taken_in_their_span():
    """A rotation, or columns of noughts, changes nothing but the draws."""
    t = normal(30, 4)
    wide = torch.cat([t, torch.zeros(30, 96)], 1) @ torch.linalg.qr(normal(100, 100, seed=3)).Q
    for sigma in (0.4, 1.2):
        narrow, found = (noise.noisy_information(each, sigma, draws=400) for each in (t, wide))
        assert abs(narrow.value - found.value) < 4 * math.hypot(narrow.error, found.error) < 0.06
        assert narrow.relative == pytest.approx(found.relative / 5)
    assert (found.inputs, found.features, found.draws) == (30, 100, 400)


def test_one_pair_has_an_upper_error():
    t = normal(100, 2)
    values = [noise.noisy_information(t, 0.5, draws=2, seed=seed) for seed in range(60)]
    spread = np.std([found.value for found in values])
    assert all(spread < found.error < 3 * spread for found in values)


def test_noise_is_not_the_data_whoever_drew_them_from_the_same_seed():
    t = normal(200, 2, seed=7)
    drawn = torch.randn(4, 200, 2, generator=own_generator(7), dtype=torch.float64)
    assert max(abs(float((t * each).mean())) for each in drawn) < 0.25
    values = [noise.noisy_information(t, 0.5, draws=8, seed=seed) for seed in (7, 8)]
    assert abs(values[0].value - values[1].value) < 4 * math.hypot(*(each.error for each in values))


def test_chunks_change_nothing(monkeypatch):
    t = torch.cat([normal(60, 2), normal(3, 2) + 1e-7])
    near = torch.cat([t, t[:1] + 1e-9])

    def found():
        curve = noise.noise_curve(near, [1e-9, 0.2, 1.0], draws=6)
        return [(each.value, each.error) for each in curve], noise.half_information_noise(t, draws=6)

    whole = noise.kernel_bounds(t, variance=0.2), *found()
    monkeypatch.setattr(density, "_ENTRIES", 400)
    parts = noise.kernel_bounds(t, variance=0.2), *found()
    for one, other in zip(whole, parts, strict=True):
        assert np.asarray(one) == pytest.approx(np.asarray(other), abs=1e-12)


def test_a_curve_is_its_points():
    t = normal(20, 3)
    curve = noise.noise_curve(t, [0.1, 2.0], relative=True, draws=6, seed=3)
    for found, level in zip(curve, (0.1, 2.0), strict=True):
        alone = noise.noisy_information(t, level, relative=True, draws=6, seed=3)
        assert found == alone and found.relative == pytest.approx(level)
        assert found.sigma == pytest.approx(level * float(t.var(0, correction=0).mean().sqrt()))
    assert str(curve[0]).startswith("2.964 +- 0.046 nats of 2.996 at sigma = 0.104 (0.1 of the scale)")
    assert float(curve[1]) == curve[1].value != noise.noisy_information(t, 2.0, relative=True, draws=6, seed=4).value


def test_padding_tells_nothing():
    """Filled in with the mean over the inputs that are real there; the scale is of real entries."""
    t = normal(15, 4).reshape(15, 2, 2)
    mask = torch.ones(15, 3, dtype=torch.bool)
    mask[:, 2] = False
    garbage = torch.cat([t, 1e3 * normal(15, 2, seed=5)[:, None]], 1)
    settings = {"relative": True, "draws": 6}
    cropped = noise.noisy_information(t, 0.5, **settings)
    padded = noise.noisy_information(garbage, 0.5, mask=mask, **settings)
    assert abs(padded.value - cropped.value) < 4 * math.hypot(padded.error, cropped.error)
    assert padded.sigma == pytest.approx(cropped.sigma) and noise.scale(garbage, mask) == pytest.approx(noise.scale(t))
    mask[3, 1] = False
    garbage[3, 1] = torch.nan_to_num(torch.tensor(float("inf")))
    filled = t.clone()
    filled[3, 1] = t[mask[:, 1], 1].mean(0)
    slow = [
        filled[i, p, c] - t[mask[:, p], p, c].mean() for i in range(15) for p in (0, 1) if mask[i, p] for c in (0, 1)
    ]
    assert noise.scale(garbage.float().double(), mask) == pytest.approx(float(torch.stack(slow).square().mean()) ** 0.5)
    by_entry = mask[:, :2].repeat_interleave(2, 1)
    flat = noise.noisy_information(garbage[:, :2].flatten(1), 0.5, mask=by_entry, **settings)
    truth = noise.noisy_information(filled, flat.sigma, draws=6)
    assert flat.value == pytest.approx(truth.value, abs=1e-12)


@pytest.mark.parametrize(("samples", "columns"), [(2, 1), (12, 1), (60, 5), (40, 100)])
def test_noise_that_leaves_half(samples, columns):
    t = 3 * normal(samples, columns)
    found = noise.half_information_noise(t)
    assert found.relative == pytest.approx(found.sigma / noise.scale(t)) and 0 < found.error < 0.02 * found.sigma
    left = noise.noisy_information(t, found.sigma, draws=40_000 // samples // 2 * 2, seed=9)
    slope = noise.noisy_information(t, 1.05 * found.sigma, draws=2000 // samples * 2, seed=9).value - left.value
    error = math.hypot(left.error, found.error * slope / 0.05 / found.sigma)
    assert abs(left.value - math.log(samples) / 2) < 4 * error < 0.06 * math.log(samples)


def test_noise_that_leaves_half_has_its_own_error():
    """Against quadrature and a root finder, in 95 of 100 seeds; twice as large states want twice the noise."""
    exact = brentq(lambda s: integrated(TWELVE, s * s) - math.log(12) / 2, 0.05, 5)
    found = [noise.half_information_noise(TWELVE, draws=60, seed=seed) for seed in range(40)]
    assert 34 <= sum(abs(each.sigma - exact) < 1.96 * each.error for each in found)
    errors = np.std([each.sigma for each in found]) / np.array([each.error for each in found])
    assert 0.7 < errors.mean() < 1.4
    wide = normal(30, 200)
    many = [noise.half_information_noise(wide, draws=10, seed=seed) for seed in range(20)]
    assert 0.6 < np.std([each.sigma for each in many]) / np.mean([each.error for each in many]) < 1.6
    doubled = noise.half_information_noise(2 * TWELVE, draws=60)
    assert doubled == pytest.approx((2 * found[0].sigma, 2 * found[0].error, found[0].relative), rel=1e-9)


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
        (lambda x: noise.noisy_information(x, -1.0), "sigma=-1.0 was given"),
        (lambda x: noise.noisy_information(x, 1.0, draws=0), "draws=0 was given"),
        (lambda x: noise.noisy_information(x, 1.0, draws=3), "draws come in opposite pairs"),
        (lambda x: noise.noisy_information(x[:, 0], 1.0), r"shape \(20,\)"),
        (lambda x: noise.noisy_information(x[:1], 1.0), "One input was given"),
        (lambda x: noise.noisy_information(x * 0 + 0.1, 1.0), "states of all 20 inputs are the same"),
        (lambda x: noise.noisy_information(x * 1e200, 1.0), "divide the states by their size"),
        (lambda x: noise.noisy_information(x, 1.0, mask=torch.zeros(20, 2)), "no real entry"),
        (lambda x: noise.noisy_information(x, 1.0, draws=2**30), r"they take 160\.0 GiB, more than 16"),
        (lambda x: noise.noise_curve(x, []), r"sigmas of shape \(0,\)"),
        (lambda x: noise.noise_curve(x, [1.0, 0.0]), "sigmas=0.0 was given"),
        (
            lambda x: noise.half_information_noise(torch.cat([x[:1]] * 19 + [x[1:2]])),
            "20 inputs have 2 different states",
        ),
    ],
)
def test_bad_input_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call(normal(20, 2))


def test_draws_are_the_mean_over_inputs_term_by_term():
    """Against the definition, with the very noise, value and error."""
    t, sigma = normal(9, 2), 0.8
    drawn = torch.randn(3, 9, 2, generator=own_generator(5), dtype=torch.float64)
    terms = torch.zeros(3, 9, dtype=torch.float64)
    for pair, i, sign in itertools.product(range(3), range(9), (1, -1)):
        z = sign * sigma * drawn[pair, i]
        moved = [(t[i] - t[j] + z).square().sum() - z.square().sum() for j in range(9)]
        terms[pair, i] -= torch.stack(moved).div(-2 * sigma**2).exp().mean().log() / 2
    found = noise.noisy_information(t, sigma, draws=6, seed=5)
    assert found.value == pytest.approx(float(terms.mean()), abs=1e-12)
    assert found.error == pytest.approx(float((terms.var(0) / 3).sum()) ** 0.5 / 9, abs=1e-12)
    assert noise.noisy_information(t, sigma, draws=6, seed=6).value != found.value


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


def test_overlaps_of_merged_inputs_are_weighted_by_how_many_they_are():
    states = normal(5, 2)[[0, 1, 1, 1, 2, 3, 4, 4]]
    mixture = mixture_of(states, None, 2, 0)
    weights, sigma = mixture.log_weights.exp().tolist(), 0.4
    assert sorted(weights) == pytest.approx([1 / 8, 1 / 8, 1 / 8, 2 / 8, 3 / 8])
    for i, found in enumerate(overlaps(mixture, sigma).tolist()):
        wanted = sum(
            math.sqrt(weights[j] / weights[i])
            * math.exp(-float((mixture.points[i] - mixture.points[j]).square().sum()) / (8 * sigma**2))
            for j in range(5)
            if j != i
        )
        assert found == pytest.approx(wanted, rel=1e-9)
