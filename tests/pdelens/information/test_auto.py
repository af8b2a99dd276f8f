import numpy as np
import pytest
import torch

from pdelens.information import auto
from pdelens.information.estimate import mutual_information
from pdelens.information.gaussian import student_excess
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
