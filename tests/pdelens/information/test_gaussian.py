import math

import numpy as np
import pytest
import torch

from pdelens.information import gaussian as parametric


def draw(samples, dx, dy, seed=0):
    """Jointly Gaussian samples, x and y mixed by a random matrix, with the exact information."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dx + dy, dx + dy, generator=generator, dtype=torch.float64)
    both = torch.randn(samples, dx + dy, generator=generator, dtype=torch.float64) @ mixing.T
    covariance = mixing @ mixing.T
    blocks = covariance[:dx, :dx], covariance[dx:, dx:], covariance
    h_x, h_y, h_xy = (float(block.logdet()) / 2 for block in blocks)
    return both[:, :dx], both[:, dx:], h_x + h_y - h_xy


@pytest.mark.parametrize("samples, dx, dy", [(12, 1, 1), (12, 3, 2), (30, 5, 5)])
def test_gaussian_is_unbiased_at_every_size(samples, dx, dy):
    """The Wishart correction is exact: the mean over many small data sets is the truth, not only its limit."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(dx + dy, dx + dy, generator=generator, dtype=torch.float64)
    *_, exact = draw(2, dx, dy, seed=1)
    values = []
    for _ in range(400):
        both = torch.randn(samples, dx + dy, generator=generator, dtype=torch.float64) @ mixing.T
        values.append(parametric.gaussian(both[:, :dx], both[:, dx:]))
    assert np.mean(values) == pytest.approx(exact, abs=4 * float(np.std(values)) / 20)


def test_correction_matters():
    """At 30 samples of 5 + 5 the plug-in value is off by half a nat and more; the test above would see it."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 30, 5, generator=generator, dtype=torch.float64)
    covariance = torch.cov(torch.cat([x, y], 1).T)
    plug_in = float((covariance[:5, :5].logdet() + covariance[5:, 5:].logdet() - covariance.logdet()) / 2)
    assert plug_in - parametric.gaussian(x, y) > 0.5


def test_gaussian_against_the_covariances():
    x, y, _ = draw(500, 3, 2)
    covariance = torch.cov(torch.cat([x, y], 1).T)
    plug_in = float((covariance[:3, :3].logdet() + covariance[3:, 3:].logdet() - covariance.logdet()) / 2)
    psi = torch.special.digamma((499 - torch.arange(5, dtype=torch.float64)) / 2)
    excess = float(psi[:3].sum() + psi[:2].sum() - psi.sum()) / 2
    assert parametric.gaussian(x, y) == pytest.approx(plug_in - excess, abs=1e-10)


def test_linear_maps_change_nothing():
    x, y, _ = draw(200, 3, 4)
    generator = torch.Generator().manual_seed(2)
    first = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    second = 1e4 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
    assert parametric.gaussian(x @ first + 7, y @ second) == pytest.approx(parametric.gaussian(x, y), abs=1e-8)
    assert parametric.gaussian(y, x) == pytest.approx(parametric.gaussian(x, y), abs=1e-12)


def test_near_determinism_keeps_its_digits():
    """1 - r^2 would be lost below 1e-16; the truth here is ln(1e9)."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 20000, 1, generator=generator, dtype=torch.float64)
    assert parametric.gaussian(x, x + 1e-9 * noise) == pytest.approx(math.log(1e9), abs=0.03)
    assert parametric.gaussian(x, 3 * x) == math.inf


def test_copula_of_a_bent_gaussian_is_that_of_the_gaussian():
    x, y, exact = draw(4000, 2, 2)
    plain = parametric.gaussian_copula(x, y)
    assert parametric.gaussian_copula(x.exp(), y**3) == plain
    assert plain == pytest.approx(exact, abs=0.05)
    # Without scores the bent columns are misjudged, so the invariance above is not for free.
    assert parametric.gaussian(x.exp(), y**3) < exact - 0.3


def test_copula_bounds_a_single_column_from_below():
    """y has x's sign nine times in ten and a size of its own: correlation 1.6 / pi, information that of the sign."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, generator=generator)
    flip = torch.where(torch.rand(4000, 1, generator=generator) < 0.1, -1.0, 1.0)
    y = flip * torch.where(x > 0, 1.0, -1.0) * torch.randn(4000, 1, generator=generator).abs()
    exact = math.log(2) + 0.1 * math.log(0.1) + 0.9 * math.log(0.9)
    found = parametric.gaussian_copula(x, y)
    assert found == pytest.approx(-0.5 * math.log(1 - (1.6 / math.pi) ** 2), abs=0.03)
    assert found < exact - 0.2


def test_copula_misses_a_parabola():
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    assert abs(parametric.gaussian_copula(x, x**2)) < 0.01


def test_scores_share_ties_and_have_the_normal_quantiles():
    scores = parametric.normal_scores(torch.tensor([[1.0], [2.0], [2.0], [9.0]]))
    quantile = float(torch.special.ndtri(torch.tensor(0.8, dtype=torch.float64)))
    assert scores.flatten().tolist() == pytest.approx([-quantile, 0, 0, quantile], abs=1e-12)


@pytest.mark.parametrize(
    "x, y, said",
    [
        (torch.randn(5, 2), torch.randn(6, 2), "x has 5 samples and y has 6"),
        (torch.randn(5), torch.randn(5, 2), r"x of shape \(5,\) was given"),
        (torch.tensor([[1.0], [float("nan")]]), torch.randn(2, 1), "x has 1 values that are not finite"),
        (torch.randn(6, 3), torch.randn(6, 3), "give at least 7 or fewer columns"),
        (torch.full((9, 1), 0.1), torch.randn(9, 1), "Column 0 of x is constant"),
        (torch.randn(9, 1), torch.randn(9, 1).repeat(1, 2), "columns of y .* have rank 1"),
    ],
)
def test_bad_input_is_named(x, y, said):
    with pytest.raises(ValueError, match=said):
        parametric.gaussian(x, y)


def test_one_column_that_is_known_exactly_is_enough_for_no_bound():
    generator = torch.Generator().manual_seed(2)
    x, other = torch.randn(300, 3, generator=generator, dtype=torch.float64).split((2, 1), 1)
    assert parametric.gaussian(x, torch.cat([other, 2 * x[:, :1] - x[:, 1:]], 1)) == math.inf
    assert parametric.gaussian(x, torch.cat([other, x[:, :1] + 0.5 * other.square()], 1)) < 2
