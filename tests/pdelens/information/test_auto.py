import numpy as np
import pytest
import torch
from scipy import stats

from pdelens.information import auto
from pdelens.information.copulas import Copula, Fit
from pdelens.information.estimate import mutual_information
from pdelens.information.gaussian import gaussian_copula, normal_scores, student_excess
from pdelens.information.ksg import ksg
from pdelens.information.tasks import additive_uniform, bivariate, crossing, sparse, student, task


def calibrated(task_or_pair, samples=1000, seed=0):
    x, y = task_or_pair.sample(samples, seed) if hasattr(task_or_pair, "sample") else task_or_pair
    return auto.calibrated(x, y, neighbours=10, random=np.random.default_rng(seed))


def test_the_interval_covers_three_tasks_on_five_seeds():
    """A copula, a Student and neither; `companion.estimators.trials` records all tasks with 20 seeds at book scale."""
    names = ("multinormal-sparse-3-3-2-2.0", "student-identity-2-2-1", "1v1-X-0.9")
    found = [(task(name), calibrated(task(name), 400, seed)) for name in names for seed in range(5)]
    inside = [result.interval[0] <= one.mutual_information <= result.interval[1] for one, result in found]
    assert np.mean(inside) >= 0.85
    widths = [(result.interval[1] - result.interval[0]) / one.mutual_information for one, result in found]
    assert np.median(widths) < 0.6
    close = [not result.warnings for one, result in found if abs(result.value / one.mutual_information - 1) < 0.1]
    assert np.mean(close) >= 0.8


def test_the_sparse_task_is_within_a_tenth_where_plain_ksg_is_far_below():
    wanted = task("multinormal-sparse-5-5-2-2.0")
    x, y = wanted.sample(2000, 0)
    found = calibrated((x, y))
    assert found.value == pytest.approx(1.0217, rel=0.1) and not found.warnings
    assert ksg(x, y) < 0.7 and "Gaussian copula" in found.because and found.method == "Gaussian copula"


def test_the_student_task_is_right_or_flagged():
    found = calibrated(task("student-identity-5-5-2"), 1000)
    assert found.value == pytest.approx(0.4482, rel=0.1) or found.warnings
    assert found.interval[0] < 0.4482 < found.interval[1] and found.method.startswith("Student copula with 2")


@pytest.mark.parametrize("base", [crossing(0.9), additive_uniform(0.75)], ids=lambda base: base.name)
def test_what_no_elliptical_copula_explains_is_added(base):
    found = calibrated(base, 800)
    assert found.method == "corrected ksg" and "does not explain KSG" in found.because and not found.elliptical
    assert found.value == pytest.approx(base.mutual_information, rel=0.2)


def test_an_extrapolated_value_is_flagged():
    found = calibrated(task("spiral-multinormal-sparse-5-5-2-2.0"), 1000)
    assert any("extrapolated to none" in warning for warning in found.warnings)
    assert found.interval[1] > 0.9 and found.interval[1] - found.interval[0] > 0.3


def test_a_shared_scale_within_x_and_within_y_is_not_taken_for_information():
    """x and y are Student each for itself: a joint Student copula claims 0.2 nats, and KSG contradicts it."""
    (x, _), (_, y) = student(5, 1, 2).sample(700, 0), student(1, 5, 2).sample(700, 1)
    found = calibrated((x, y))
    assert found.method == "corrected ksg" and found.interval[0] < 0.05 and found.warnings


def test_where_ksg_is_blind_the_value_is_conditional_and_says_so():
    found = calibrated(sparse(20, 20), 500)
    assert any("too little to check the Gaussian copula" in warning for warning in found.warnings)
    assert found.interval[0] < 1.0217 < found.interval[1]


def test_what_determines_the_other_is_flagged():
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = mutual_information(x, x.exp(), shuffles=2)
    assert found.value > 5 and any("nearly determine each other" in warning for warning in found.warnings)


def test_a_true_value_near_the_ceiling_of_ksg_is_covered_and_flagged():
    wanted = bivariate(0.99999)
    found = calibrated(wanted, 300)
    assert found.interval[0] < wanted.mutual_information < found.interval[1]
    assert any("nearly determine each other" in warning for warning in found.warnings)


def test_maps_of_columns_and_linear_maps_keep_the_value():
    x, y = task("multinormal-sparse-3-3-2-2.0").sample(500, 0)
    plain = calibrated((x, y))
    assert calibrated((x.exp(), y**3)).value == pytest.approx(plain.value, abs=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    # Scores of turned columns are others: they differ by less than the value's own deviation, 0.05.
    assert calibrated((x @ turn, y)).value == pytest.approx(plain.value, abs=0.05)


def test_x_and_y_may_change_places():
    x, y = task("swissroll_x-normal_cdf-1v1-normal-0.75").sample(500, 0)
    assert calibrated((x, y)).value == pytest.approx(calibrated((y, x)).value, abs=0.05)


@pytest.mark.parametrize("dims", [(1, 1), (3, 2)])
def test_the_ladder_is_ksg_for_each_number_of_neighbours(dims):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, dims[0], generator=generator, dtype=torch.float64)
    y = x[:, :1] + torch.randn(300, dims[1], generator=generator, dtype=torch.float64)
    ladder = (3, 5, 10, 20)
    assert auto.ksg_ladder(x, y, ladder) == pytest.approx([ksg(x, y, neighbours=k) for k in ladder], abs=1e-9)


def test_extrapolation_is_exact_for_its_own_power():
    ladder = np.array([3.0, 5.0, 10.0, 20.0])
    for power in (0.1, 0.5, 1.0):
        assert auto._at_zero(ladder, power) @ (0.7 - 0.2 * ladder**power) == pytest.approx(0.7)


def test_the_quick_statistic_sees_copulas_and_crossings():
    statistic = auto.quick(10)
    x, y = crossing(0.9).sample(500, 0)
    apart = statistic(x, y.roll(1, 0))
    assert abs(apart) < 0.06 < 0.1 < statistic(x, y)


def test_correlated_students_that_the_catalogue_does_not_have():
    x, y = sparse(3, 3).sample(2000, 0)
    generator = torch.Generator().manual_seed(5)
    scale = (3 / torch.randn(2000, 3, generator=generator, dtype=torch.float64).square().sum(1)).sqrt()[:, None]
    truth = sparse(3, 3).mutual_information + student_excess(3, 3, 3)
    found = calibrated((x * scale, y * scale))
    assert found.interval[0] < truth < found.interval[1] and found.value == pytest.approx(truth, rel=0.1)


def test_every_ksg_has_the_neighbours_that_were_asked_for(monkeypatch):
    taken = set()
    plain, ladder = auto.ksg, auto.ksg_ladder
    monkeypatch.setattr(auto, "_FITS", 5)
    monkeypatch.setattr(auto, "_SAMPLES", 5)
    monkeypatch.setattr(auto, "ksg", lambda x, y, **given: (taken.add(given["neighbours"]), plain(x, y, **given))[1])
    monkeypatch.setattr(auto, "ksg_ladder", lambda x, y, ks: (taken.add(ks), ladder(x, y, ks))[1])
    x, y = bivariate(0.8).sample(60, 0)
    auto.calibrated(x, y, neighbours=4, random=np.random.default_rng(0))
    assert taken == {4, (4,)}


def misfit(data, samples, ladder=(3, 5, 10, 20), residuals=None):
    samples = np.broadcast_to(np.asarray(samples, dtype=float), (10, len(ladder)))
    residuals = np.zeros_like(samples) if residuals is None else residuals
    return auto._Misfit(np.broadcast_to(np.asarray(data, dtype=float), len(ladder)), samples, residuals, ladder)


def test_a_copula_is_contradicted_beyond_students_one_per_cent():
    residuals = np.random.default_rng(0).standard_normal((10, 4))
    found = misfit(0.0, 0.0, residuals=residuals)
    spread = np.sqrt((residuals[:, 0] ** 2).sum() / 8 * (1 + 1 / 10))
    assert found.deviation(np.array([1.0, 0, 0, 0])) == pytest.approx(spread)
    limit = 3.355387 * spread  # Student's two-sided 1 % at 8 degrees of freedom
    for sign in (1, -1):
        assert misfit(sign * 1.001 * limit, 0.0, residuals=residuals).significant
        assert not misfit(sign * 0.999 * limit, 0.0, residuals=residuals).significant
    assert not misfit(0.75, 0.75).significant, "the very same is no contradiction"


@pytest.mark.parametrize(
    ("truth", "bias", "beyond", "flagged"),
    [
        (2.0, 0.3, -1.5, False),  # 15 % of the truth, 60 % of the value
        (2.0, 0.5, -1.5, True),
        (0.5, 0.2, 0.0, True),
        (0.5, 0.2, 1.0, False),  # 40 % of the truth, 13 % of the value
        (0.5, -0.2, 0.0, True),
        (0.5, 0.09, 0.0, False),
    ],
)
def test_the_bias_is_told_where_it_is_a_fifth_of_the_truth_and_of_the_value(truth, bias, beyond, flagged):
    rho = (1 - np.exp(-2 * truth)) ** 0.5
    fitted = Fit(Copula(np.array([[1, rho], [rho, 1]]), 1), truth)
    made = auto.Calibration(fitted.copula, np.full(24, truth), [])
    found = misfit(truth + bias + beyond, truth + bias)
    result = auto._corrected(fitted, made, found, (400, 2), np.zeros((16, 4)))
    assert result.value == pytest.approx(truth + beyond) and result.bias == pytest.approx(bias)
    assert any("more than 20 %" in warning for warning in result.warnings) is flagged
    assert not any("extrapolated to none" in warning for warning in result.warnings)
    low, high = result.interval
    assert high - result.value == pytest.approx(abs(bias)) and low == pytest.approx(max(0, result.value - abs(bias)))


def test_an_extrapolation_is_told_where_it_moves_the_value_by_a_fifth():
    """KSG that misses more of the data the wider its neighbourhoods are, and nothing of the copula's samples."""
    ladder, truth = np.array([3.0, 5.0, 10.0, 20.0]), 1.0
    rho = (1 - np.exp(-2 * truth)) ** 0.5
    fitted = Fit(Copula(np.array([[1, rho], [rho, 1]]), 1), truth)
    made = auto.Calibration(fitted.copula, np.full(24, truth), [])
    for slope, told in ((0.01, False), (0.1, True)):
        result = auto._corrected(fitted, made, misfit(2.0 - slope * ladder, truth), (400, 2), np.zeros((16, 4)))
        assert any("extrapolated to none" in warning for warning in result.warnings) is told
        # Two columns: powers 1/2 and 1, of which the second is the data's own.
        assert result.interval[0] <= 2.0 <= result.interval[1]
        steep = auto._at_zero(ladder, 0.5) @ (2.0 - slope * ladder)
        assert result.value == pytest.approx((2.0 + steep) / 2)
        assert result.interval[1] == pytest.approx(max(steep, 2.0))


def test_values_near_the_ceiling_are_flagged_from_seven_tenths_on():
    ceiling = auto.ceiling_of_neighbours(500, 10)
    assert auto._near_ceiling(0.69 * ceiling, 500, 10) == ()
    assert "nearly determine each other" in auto._near_ceiling(0.71 * ceiling, 500, 10)[0]


def test_halves_are_complementary_and_drawn_anew():
    x = torch.arange(21.0)[:, None]
    found = auto.halves(x, 2 * x, lambda a, b: (float(a.sum()), float(b.sum()), len(a)), 5, np.random.default_rng(0))
    assert found.shape == (6, 3)
    assert np.allclose(found[::2, 0] + found[1::2, 0], 210) and np.allclose(found[:, 1], 2 * found[:, 0])
    assert set(found[::2, 2]) == {10} and set(found[1::2, 2]) == {11} and len(set(found[::2, 0])) == 3


def test_noise_of_a_weighted_sum_is_the_datas_and_that_of_the_samples_mean():
    random = np.random.default_rng(0)
    own, residuals = random.standard_normal((16, 4)), random.standard_normal((10, 4))
    weights = np.array([0.5, -1.0, 2.0, 0.1])
    data = np.var(own @ weights, ddof=1)
    samples = ((residuals @ weights - (residuals @ weights).mean()) ** 2).sum() / 8 / 10
    assert auto._noise(misfit(0, 0, residuals=residuals), own, weights) == pytest.approx((data + samples) ** 0.5)


def calibration(truth, informations=None):
    rho = (1 - np.exp(-2 * truth)) ** 0.5
    fitted = Fit(Copula(np.array([[1, rho], [rho, 1]]), 1), truth)
    return fitted, auto.Calibration(fitted.copula, np.full(24, truth) if informations is None else informations, [])


@pytest.mark.parametrize("slope", [0.3, 0.05, -0.05, -0.3])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_what_is_added_is_the_line_at_no_neighbours_held_back_by_noise(slope, noise):
    random, ladder, truth, columns = np.random.default_rng(0), np.array([3.0, 5.0, 10.0, 20.0]), 0.8, 5
    expected = truth - 0.1 + 0.02 * ladder**0.4
    own, residuals = noise * random.standard_normal((16, 4)), noise * random.standard_normal((10, 4))
    found = misfit(expected + 0.4 - slope * ladder**0.3, expected, residuals=residuals)
    result = auto._corrected(*calibration(truth), found, (400, columns), own)
    values, reached, errors, left = [], [], [], []
    for power in (1 / columns, 2 / columns):
        x = ladder**power
        line = x.mean() * (x.mean() - x) / ((x - x.mean()) ** 2).sum() + 1 / 4  # least squares, read at 0
        step = line @ found.beyond - found.beyond[2]
        plain = np.array([0, 0, 1.0, 0])
        spread = np.hypot(np.std(own @ (line - plain), ddof=1), np.std(residuals @ (line - plain), ddof=2) / 10**0.5)
        weights = plain + max(0, 1 - (spread / step) ** 2) * (line - plain)
        reached.append(truth + line @ found.beyond)
        values.append(truth + weights @ found.beyond)
        errors.append(np.hypot(np.std(own @ weights, ddof=1), np.std(residuals @ weights, ddof=2) / 10**0.5))
        left.append(weights @ expected - truth)
    plain_value = truth + found.beyond[2]
    wanted = max(np.mean(values), min(plain_value, 0))
    margin = np.hypot(stats.t(8).ppf(0.975) * max(errors), np.mean(left))
    assert result.value == pytest.approx(wanted, abs=1e-9) and result.bias == pytest.approx(np.mean(left), abs=1e-9)
    low, high = min(wanted, *values, *reached) - margin, max(wanted, *values, *reached) + margin
    assert result.interval == pytest.approx((min(max(0, low), wanted), max(0, high)), abs=1e-9)
    far = max(reached, key=lambda value: abs(value - plain_value)) - plain_value
    told = [warning for warning in result.warnings if "extrapolated to none" in warning]
    assert bool(told) == bool(abs(far) > 0.2 * abs(wanted))
    assert not told or f"lie {far:+.3f} of {wanted:.3f} nats" in told[0]


@pytest.mark.parametrize(("beyond", "seen"), [(0.0, 0.5), (0.3, 0.5), (-0.3, 0.5), (0.3, 0.05), (0.3, 1.3)])
def test_a_copula_that_holds_has_what_was_not_seen_in_its_interval(beyond, seen):
    random, truth = np.random.default_rng(0), 0.8
    informations = truth + 0.04 + 0.05 * random.standard_normal(24)
    residuals = 0.01 * random.standard_normal((10, 1))
    found = misfit(seen * truth + beyond, seen * truth, (10,), residuals)
    result = auto._elliptical(*calibration(truth, informations), found, 400)
    error = ((residuals**2).sum() / 8 * 1.1) ** 0.5
    departure = max(abs(beyond), error) / min(max(seen, 0.2), 1)
    margin = stats.t(23).ppf(0.975) * np.hypot(informations.std(ddof=1), departure)
    value = truth - (informations.mean() - truth)
    assert result.value == pytest.approx(value) and result.elliptical
    assert result.interval == pytest.approx((max(0, value - margin), value + margin))


def test_the_quick_statistic_is_a_mean_of_two():
    x, y = sparse(3, 3).sample(200, 0)
    for k in (3, 10):
        both = gaussian_copula(x, y), ksg(normal_scores(x), normal_scores(y), neighbours=k)
        assert auto.quick(k)(x, y) == pytest.approx(sum(both) / 2, abs=1e-12)


@pytest.mark.parametrize(("dims", "pairs"), [((3, 1), 1), ((1, 3), 1), ((2, 2), 2), ((4, 3), 2)])
def test_as_many_leading_pairs_are_checked_as_both_have(dims, pairs, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(200, sum(dims)))
    rows[:, dims[0]] += rows[:, 0]
    asked, fitted = [], auto.fit
    monkeypatch.setattr(auto, "fit", lambda rows, dim_x: asked.append((rows.shape, dim_x)) or fitted(rows, dim_x))
    auto._leading(rows, dims[0], 10, np.random.default_rng(1))
    assert asked[:2] == [((100, sum(dims)), dims[0]), ((100, 2 * pairs), pairs)]
