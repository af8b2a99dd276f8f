import itertools
import math

import numpy as np
import pytest
import torch

from pdelens.information import gaussian, tasks

# Facts: `mutual_information` of the tasks of `benchmark-mi` 0.1.3 (cbg-ethz/bmi), as the package printed them.
BMI = {
    "1v1-normal-0.75": 0.413339,
    "normal_cdf-1v1-normal-0.75": 0.413339,
    "1v1-additive-0.1": 1.709438,
    "1v1-additive-0.75": 0.333333,
    "wiggly-1v1-normal-0.75": 0.413339,
    "half_cube-1v1-normal-0.75": 0.413339,
    "student-identity-1-1-1": 0.224171,
    "asinh-student-identity-1-1-1": 0.224171,
    "swissroll_x-normal_cdf-1v1-normal-0.75": 0.413339,
    "multinormal-dense-2-2-0.5": 0.293893,
    "multinormal-dense-3-3-0.5": 0.413339,
    "multinormal-dense-5-5-0.5": 0.592812,
    "multinormal-dense-25-25-0.5": 1.292184,
    "multinormal-sparse-2-2-2-2.0": 1.021651,
    "multinormal-sparse-3-3-2-2.0": 1.021651,
    "multinormal-sparse-5-5-2-2.0": 1.021651,
    "multinormal-sparse-25-25-2-2.0": 1.021651,
    "student-identity-2-2-1": 0.431946,
    "student-identity-3-3-2": 0.290922,
    "student-identity-5-5-2": 0.448151,
    "student-identity-5-5-3": 0.298544,
    "asinh-student-identity-5-5-2": 0.448151,
    "normal_cdf-multinormal-sparse-5-5-2-2.0": 1.021651,
    "half_cube-multinormal-sparse-5-5-2-2.0": 1.021651,
    "spiral-multinormal-sparse-3-3-2-2.0": 1.021651,
    "spiral-multinormal-sparse-5-5-2-2.0": 1.021651,
}
# The tasks that are normal as they stand, with no map after.
NORMAL = [task for task in tasks.tasks() if task.source.endswith("log-determinants") and task.dim_x < 60]


def integral(density, bounds):
    """Integral of p ln p over a rectangle by scipy's adaptive quadrature."""
    from scipy.integrate import dblquad

    def integrand(y, x):
        p = density(x, y)
        return p * math.log(p) if p > 0 else 0.0

    return dblquad(integrand, *bounds[0], *bounds[1], epsabs=1e-7)[0]


@pytest.mark.parametrize(("name", "value"), BMI.items())
def test_values_agree_with_bmi(name, value):
    assert tasks.task(name).mutual_information == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("task", tasks.tasks(), ids=lambda task: task.name)
def test_samples_have_the_stated_shape_and_follow_the_seed(task):
    x, y = task.sample(50, seed=3)
    assert x.shape == (50, task.dim_x) and y.shape == (50, task.dim_y)
    assert x.dtype == y.dtype == torch.float64 and x.isfinite().all() and y.isfinite().all()
    again, other = task.sample(50, seed=3), task.sample(50, seed=4)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    assert not torch.equal(x, other[0])
    assert task.source and task.mutual_information > 0


def test_catalogue_has_every_family_once():
    names = [task.name for task in tasks.tasks()]
    assert len(names) == len(set(names)) >= 16
    with pytest.raises(ValueError, match="'unknown' was asked for"):
        tasks.task("unknown")


def test_two_dense_normals_in_closed_form():
    """One-factor model: the sums of x and of y carry everything, with a correlation that can be written down."""
    for dims in (2, 5, 25):
        squared = (dims * 0.5) ** 2 / (dims * 0.5 + 0.5) ** 2
        wanted = -math.log(1 - squared) / 2
        assert tasks.dense(dims, dims).mutual_information == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(("dims", "information"), [(1, 0.3), (8, 2.0), (64, 4.0)])
def test_channel_has_the_information_it_was_made_for(dims, information):
    assert tasks.gaussian_channel(dims, information).mutual_information == pytest.approx(information, rel=1e-9)


def test_student_value_against_integration():
    from scipy.stats import multivariate_t, t

    wanted = gaussian.student_excess(1, 1, 3)
    joint = multivariate_t(shape=np.eye(2), df=3)  # type: ignore[arg-type]
    # asinh keeps the information and makes the tails short enough for a rectangle.
    grid = np.linspace(-14, 14, 561)
    points = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1)
    log_joint = joint.logpdf(np.sinh(points))
    ratio = log_joint - t.logpdf(np.sinh(points[..., 0]), 3) - t.logpdf(np.sinh(points[..., 1]), 3)
    weight = np.exp(log_joint) * np.cosh(points).prod(-1)
    assert float((weight * ratio).sum() * (grid[1] - grid[0]) ** 2) == pytest.approx(wanted, abs=1e-5)


def test_student_excess_vanishes_for_many_degrees_of_freedom():
    values = [gaussian.student_excess(3, 3, freedom) for freedom in (2, 10, 100, 1e4)]
    assert values == sorted(values, reverse=True) and 0 < values[-1] < 1e-6


@pytest.mark.parametrize("noise", [0.1, 0.75])
def test_additive_noise_against_integration(noise):
    from scipy.integrate import quad

    def density(y):
        return max(0.0, min(1, y + noise) - max(0, y - noise)) / (2 * noise)

    corners = sorted({-noise, noise, 1 - noise, 1 + noise})
    pieces = itertools.pairwise(corners)
    entropy = -sum(quad(lambda y: density(y) * math.log(density(y) or 1), *piece)[0] for piece in pieces)
    assert tasks.additive_uniform(noise).mutual_information == pytest.approx(entropy - math.log(2 * noise), abs=1e-7)


def test_two_modes_against_integration():
    from scipy.integrate import quad

    def density(y):
        return sum(math.exp(-((y - m) ** 2) / 2.5) for m in (-2, 2)) / (2 * math.sqrt(2.5 * math.pi))

    entropy = -quad(lambda y: density(y) * math.log(density(y)), -15, 15, epsabs=1e-10)[0]
    wanted = entropy - math.log(2 * math.pi * math.e * 0.25) / 2
    assert tasks.two_modes(2.0, 0.5).mutual_information == pytest.approx(wanted, abs=1e-7)


def test_crossing_against_integration():
    def density(x, y):
        squares = [(x * x + y * y - 2 * r * x * y) / (2 * (1 - 0.81)) for r in (-0.9, 0.9)]
        return sum(math.exp(-square) for square in squares) / (4 * math.pi * math.sqrt(1 - 0.81))

    wanted = math.log(2 * math.pi * math.e) + integral(density, ((-9, 9), (-9, 9)))
    assert tasks.crossing(0.9).mutual_information == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("task", NORMAL, ids=lambda task: task.name)
def test_normal_samples_have_the_covariance_that_gives_the_value(task):
    x, y = task.sample(40_000, seed=1)
    plug_in = gaussian.gaussian_information(np.cov(torch.cat([x, y], 1).T.numpy()), task.dim_x)
    upward = task.dim_x * task.dim_y / (2 * len(x))
    assert plug_in - upward == pytest.approx(task.mutual_information, abs=0.02)


def test_student_samples_have_the_moments_of_a_student():
    x, y = tasks.student(5, 5, 9).sample(60_000, seed=2)
    assert float(x.square().mean()) == pytest.approx(9 / 7, rel=0.03)
    # E x^2 y^2 = (nu / (nu - 2))^2 (nu - 2) / (nu - 4): the shared scale that carries the information.
    assert float((x.square() * y.square()).mean()) == pytest.approx((9 / 7) ** 2 * 7 / 5, rel=0.08)
    assert float((x * y).mean()) == pytest.approx(0, abs=0.02)


def test_additive_and_two_modes_moments():
    x, y = tasks.additive_uniform(0.75).sample(50_000, seed=1)
    assert float((y - x).abs().max()) <= 0.75 and float((y - x).var()) == pytest.approx(0.75**2 / 3, rel=0.03)
    x, y = tasks.two_modes(2.0, 0.5).sample(50_000, seed=1)
    assert float(x.var()) == pytest.approx(5, rel=0.03) and float((y - x).std()) == pytest.approx(0.5, rel=0.03)
    x, y = tasks.crossing(0.9).sample(50_000, seed=1)
    assert float((x * y).mean()) == pytest.approx(0, abs=0.03) and float(y.var()) == pytest.approx(1, rel=0.03)
    # E x^2 y^2 = 1 + 2 rho^2 for both arms of the X.
    assert float((x.square() * y.square()).mean()) == pytest.approx(1 + 2 * 0.81, rel=0.05)


@pytest.mark.parametrize("rising", [tasks.wiggly, tasks.half_cube, tasks.mixture_quantile(0.3, 0, 5)])
def test_columnwise_maps_rise_everywhere(rising):
    assert rising(torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]).diff(dim=0).min() > 0


@pytest.mark.parametrize(("weight", "first", "second"), [(0.3, 0, 5), (0.5, -1, 3), (0.2, 4, -2), (0.7, 2, 1)])
def test_mixture_quantile_inverts_the_mixture(weight, first, second):
    z = torch.linspace(-4, 4, 101, dtype=torch.float64)
    found = tasks.mixture_quantile(weight, first, second)(z)
    mixture = weight * torch.special.ndtr(found - first) + (1 - weight) * torch.special.ndtr(found - second)
    assert torch.allclose(mixture, torch.special.ndtr(z), atol=1e-12)


def test_copies_side_by_side_are_independent_and_add():
    base = tasks.bivariate(0.6)
    found = tasks.several(base, 3)
    x, y = found.sample(20_000, 0)
    assert found.mutual_information == pytest.approx(3 * base.mutual_information) and (found.dim_x, found.dim_y) == (
        3,
        3,
    )
    across = np.corrcoef(torch.cat([x, y], 1).T)[:3, 3:]
    np.testing.assert_allclose(across, 0.6 * np.eye(3), atol=0.03)


def test_spiral_is_undone_by_its_own_length_and_keeps_volumes():
    turn, back = tasks.spiral(0, 1, 0.4), tasks.spiral(0, 1, -0.4)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(back(turn(x)), x, atol=1e-12)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: turn(row[None])[0]))(x)
    assert torch.allclose(torch.linalg.det(jacobian), torch.ones(20, dtype=torch.float64), atol=1e-10)


def test_swiss_roll_can_be_unrolled():
    u = torch.rand(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = tasks.swiss_roll(u).norm(dim=1, keepdim=True) * 21
    assert torch.allclose((radius / (1.5 * math.pi) - 1) / 2, u, atol=1e-12)


def test_a_map_keeps_value_and_pairing():
    base = tasks.bivariate(0.6)
    mapped = base.through("asinh", torch.asinh)
    assert mapped.mutual_information == base.mutual_information and "kept by injective maps" in mapped.source
    (x, y), (mapped_x, mapped_y) = base.sample(30, 5), mapped.sample(30, 5)
    assert torch.allclose(mapped_x.sinh(), x) and torch.equal(mapped_y, y)


def test_samples_must_be_asked_for():
    with pytest.raises(ValueError, match="0 samples were asked for"):
        tasks.bivariate(0.5).sample(0)
