import numpy as np
import pytest
from scipy import stats

from pdelens.information import copulas
from pdelens.information.copulas import Copula, fit, ranks, scores


def correlation(dims=5, seed=0):
    rows = np.random.default_rng(seed).standard_normal((3 * dims, dims))
    return np.corrcoef(rows.T)


@pytest.mark.parametrize("freedom", [np.inf, 3.0])
@pytest.mark.parametrize("wanted", [0.2, 1.0, 6.0])
def test_turned_copulas_have_what_was_wanted_and_keep_each_side(freedom, wanted):
    copula = Copula(correlation(), 2, freedom)
    found = copula.with_information(wanted + copula.excess)
    assert found.information == pytest.approx(wanted + copula.excess, rel=1e-9) and found.freedom == freedom
    assert np.array_equal(found.correlation[:2, :2], copula.correlation[:2, :2])
    assert np.array_equal(found.correlation[2:, 2:], copula.correlation[2:, 2:])
    assert np.array_equal(found.correlation, found.correlation.T)


@pytest.mark.parametrize("wanted", [0.0, -0.3])
def test_a_copula_of_no_information_has_nothing_across(wanted):
    found = Copula(correlation(), 2).with_information(wanted)
    assert np.abs(found.correlation[:2, 2:]).max() < 1e-12
    shared = Copula(correlation(), 2, 3.0)
    assert shared.with_information(wanted).information == pytest.approx(shared.excess)
    with pytest.raises(ValueError, match="a finite number is wanted"):
        shared.with_information(np.nan)


def test_canonical_variables_are_uncorrelated_within_and_strongest_first():
    copula = Copula(correlation(), 2)
    rows = np.linalg.cholesky(copula.correlation).T  # whose second moments are the correlation
    x, y = copula.canonical(rows)
    np.testing.assert_allclose(x.T @ x, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(y.T @ y, np.eye(3), atol=1e-12)
    across = np.abs(x.T @ y)
    assert across[0, 0] > across[1, 1] > 0.01
    across[[0, 1], [0, 1]] = 0
    assert across.max() < 1e-12


@pytest.mark.parametrize("freedom", [np.inf, 4.0])
def test_samples_have_the_law(freedom):
    copula = Copula(correlation(3), 1, freedom)
    rows = copula.sample(4000, np.random.default_rng(0))
    # Kendall's tau of an elliptical law is 2 / pi arcsin(r), whatever its radius.
    for i, j in ((0, 1), (0, 2), (1, 2)):
        tau = stats.kendalltau(rows[:, i], rows[:, j]).statistic
        assert tau == pytest.approx(2 / np.pi * np.arcsin(copula.correlation[i, j]), abs=0.04)
    law = stats.norm if np.isinf(freedom) else stats.t(freedom)
    assert stats.kstest(rows[:, 1], law.cdf).pvalue > 0.01


def test_samples_like_the_data_have_its_columns():
    data = np.random.default_rng(0).exponential(size=(50, 3))
    found = Copula(correlation(3), 1).like(data, np.random.default_rng(1))
    assert np.array_equal(np.sort(found, 0), np.sort(data, 0)) and not np.array_equal(found, data)
    rows = Copula(correlation(3), 1).sample(50, np.random.default_rng(1))
    assert np.array_equal(ranks(found), ranks(rows))


@pytest.mark.parametrize("freedom", [np.inf, 2.5])
def test_the_likelihood_is_that_of_the_joint_law_less_its_columns(freedom):
    matrix, ordered = correlation(3), ranks(np.random.default_rng(0).standard_normal((40, 3)))
    law = stats.norm if np.isinf(freedom) else stats.t(freedom)
    values = law.ppf((ordered + 0.5) / 40)
    np.testing.assert_allclose(scores(40, freedom)[ordered], values, rtol=1e-7, atol=1e-9)
    joint = (
        stats.multivariate_normal(np.zeros(3), matrix)
        if np.isinf(freedom)
        else stats.multivariate_t(np.zeros(3), matrix, freedom)
    )
    wanted = joint.logpdf(values).sum() - law.logpdf(values).sum()
    assert copulas._log_likelihood(ordered, matrix, freedom) == pytest.approx(wanted, rel=1e-8)


def test_the_scatter_is_a_fixed_point_of_the_weighted_correlation():
    rows = Copula(correlation(3), 1, 3.0).sample(300, np.random.default_rng(0))
    ordered = ranks(rows)
    found = copulas._scatter(ordered, np.eye(3), 3.0, rounds=60)
    values = stats.t(3.0).ppf((ordered + 0.5) / 300)
    lengths = np.einsum("ni,ij,nj->n", values, np.linalg.inv(found), values)
    scatter = sum(6 / (3 + length) * np.outer(row, row) for row, length in zip(values, lengths, strict=True))
    spread = np.sqrt(np.diag(scatter))
    np.testing.assert_allclose(found, scatter / np.outer(spread, spread), atol=1e-6)


@pytest.mark.parametrize("freedom", [2.2, 4.3])
def test_degrees_of_freedom_are_those_of_the_highest_likelihood(freedom):
    rows = Copula(correlation(3), 1, freedom).sample(3000, np.random.default_rng(1))
    found = fit(rows, 1).copula
    assert found.freedom == pytest.approx(freedom, rel=0.2)
    ordered = ranks(rows)

    def height(value):
        return copulas._log_likelihood(ordered, copulas._scatter(ordered, np.eye(3), value, rounds=30), value)

    grid = found.freedom * np.array([0.85, 1.0, 1.15])
    assert max(grid, key=height) == found.freedom
    normal = Copula(correlation(3), 1).sample(1000, np.random.default_rng(2))
    assert fit(normal, 1).copula.freedom == np.inf


def test_ranks_are_places_in_each_column():
    rows = np.random.default_rng(0).standard_normal((30, 4))
    found = ranks(rows)
    assert all(found[i, j] == (rows[:, j] < rows[i, j]).sum() for i in range(30) for j in range(4))


@pytest.mark.parametrize("freedom", [1.0, 1.5, 4.0, 10.0, 25.0, 50.0])
@pytest.mark.parametrize("top", [0.09, 0.23, 0.6])
def test_freedom_is_refined_to_the_top_of_a_parabola_within_its_neighbours(freedom, top, monkeypatch):
    def height(value):
        away = 1 / value - top
        return -(away**2) - 0.3 * away**3

    monkeypatch.setattr(copulas, "_scatter", lambda *_, **__: None)
    monkeypatch.setattr(copulas, "_log_likelihood", lambda ranks, scatter, value: height(value))
    tried = copulas._FREEDOMS
    place = tried.index(freedom)
    found = copulas._refined(None, None, freedom)
    if freedom in (tried[0], tried[-1]):
        assert found == freedom
        return
    near = tried[place - 1 : place + 2]
    a, b, _ = np.linalg.solve([[1 / v**2, 1 / v, 1] for v in near], [height(v) for v in near])
    highest = -b / (2 * a)
    assert found == pytest.approx(min(max(1 / highest, near[0]), near[2]))
