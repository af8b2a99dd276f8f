import math

import numpy as np
import pytest
import torch

from pdelens.information import density


def normal(samples, columns, seed=0):
    return torch.randn(samples, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(samples, columns=1, rho=0.8, seed=0):
    x, noise = normal(samples, 2 * columns, seed).split(columns, 1)
    return x, rho * x + (1 - rho**2) ** 0.5 * noise, -columns / 2 * math.log(1 - rho**2)


def test_binned_counts_a_known_table():
    """Four cells with 4, 2, 1, 1 samples: the entropies by hand."""
    x = torch.tensor([0.0] * 6 + [1.0] * 2)[:, None]
    y = torch.tensor([0.0] * 4 + [1.0] * 2 + [0.0] + [1.0])[:, None]
    h_x = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    h_y = -(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8))
    h_xy = -(0.5 * math.log(0.5) + 0.25 * math.log(0.25) + 2 * 0.125 * math.log(0.125))
    for bins, width in ((2, None), (None, 1.0)):
        plug_in = density.binned(x, y, bins=bins, width=width)
        corrected = density.binned(x, y, bins=bins, width=width, correction="miller-madow")
        assert plug_in == pytest.approx(h_x + h_y - h_xy, abs=1e-12)
        assert corrected - plug_in == pytest.approx((1 + 1 - 3) / 16, abs=1e-12)


def test_cells_of_equal_count_hold_equal_counts():
    x = normal(120, 1).exp()
    assert density.binned_entropy(x, bins=6, equal="count") == (pytest.approx(math.log(6), abs=1e-12), 6)
    assert density.binned_entropy(x, bins=6).nats < math.log(6) - 0.5
    ties = torch.tensor([1.0, 1.0, 1.0, 2.0])[:, None]
    assert density.binned_entropy(ties, bins=4, equal="count").cells == 2


def test_binned_is_close_where_it_can_be():
    x, y, exact = correlated(5000)
    assert density.binned(x, y) == pytest.approx(exact, abs=0.06)
    independent = normal(5000, 1, seed=7)
    plug_in, corrected = (density.binned(x, independent, correction=c) for c in ("none", "miller-madow"))
    # First order: (bins - 1)^2 / 2N above the truth.
    assert 0.02 < plug_in < 961 / 10000
    assert abs(corrected) < plug_in


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_binned_entropy_of_a_wide_state_counts_samples(width):
    """In 64 dimensions the binned entropy is ln N at every width tried, and so is the information."""
    t = 3 * normal(2000, 64)
    entropy = density.binned_entropy(t, width=width)
    assert (entropy.nats, entropy.cells) == (pytest.approx(math.log(2000), abs=1e-12), 2000)
    unrelated = 3 * normal(2000, 64, seed=1)
    assert density.binned(t, unrelated, width=width) == pytest.approx(math.log(2000), abs=1e-12)


def test_chunks_change_nothing(monkeypatch):
    t, u = normal(60, 2), normal(60, 2, seed=1)
    whole = density.kernel_density(t, u)
    monkeypatch.setattr(density, "_ENTRIES", 400)
    assert density.kernel_density(t, u) == pytest.approx(whole, abs=1e-12)


def test_kernel_density_against_scipy():
    """Leave-one-out by scipy's density of the other samples, with the same kernel."""
    stats = pytest.importorskip("scipy.stats")
    x, y, _ = correlated(60)
    x, y = ((t - t.mean()) / t.std() for t in (x, y))
    width, logs = 0.4, []
    for index in range(60):
        others = [i for i in range(60) if i != index]

        def log_density(*columns, others=others, index=index):
            data = torch.cat(columns, 1).numpy()
            kde = stats.gaussian_kde(data[others].T)
            kde._data_cho_cov, covariance = None, np.eye(data.shape[1]) * width**2
            kernel = stats.multivariate_normal(np.zeros(data.shape[1]), covariance)
            return math.log(np.mean(kernel.pdf(data[index] - kde.dataset.T)))

        logs.append(log_density(x, y) - log_density(x) - log_density(y))
    assert density.kernel_density(x, y, bandwidth=width) == pytest.approx(np.mean(logs), abs=1e-10)


@pytest.mark.parametrize(("samples", "columns"), [(60, (1, 1)), (90, (2, 3))])
def test_kernel_density_takes_the_width_of_scott(samples, columns):
    """n^(-1 / (d + 4)) with the d columns of x and y together, which each have variance 1."""
    x, y = normal(samples, columns[0]), normal(samples, columns[1], seed=1)
    scott = samples ** (-1 / (sum(columns) + 4))
    assert density.kernel_density(x, y) == pytest.approx(density.kernel_density(x, y, bandwidth=scott), abs=1e-12)
    assert density.kernel_density(x, y) != pytest.approx(density.kernel_density(x, y, bandwidth=1.03 * scott), abs=1e-6)


def test_kernel_density_on_gaussians():
    x, y, exact = correlated(1500)
    assert density.kernel_density(x, y) == pytest.approx(exact, abs=0.06)
    assert density.kernel_density(5 * x - 3, -y) == pytest.approx(density.kernel_density(x, y), abs=1e-9)
    assert abs(density.kernel_density(x, normal(1500, 1, seed=9))) < 0.03
    assert density.kernel_density(x, x, bandwidth=1e-6) == pytest.approx(math.log(1499), abs=1e-6)


def test_renyi_of_two_points():
    """Eigenvalues (1 +- k)/2 with k the kernel between them; the joint kernel is the product."""
    x, y = (torch.tensor([[0.0], [distance]], dtype=torch.float64) for distance in (0.8, 1.1))
    k_x, k_y = (math.exp(-(distance**2) / (2 * 0.9**2)) for distance in (0.8, 1.1))
    for alpha in (0.5, 1.01, 2.0, 3.0):

        def entropy(k, alpha=alpha):
            return math.log(((1 + k) / 2) ** alpha + ((1 - k) / 2) ** alpha) / (1 - alpha)

        expected = entropy(k_x) + entropy(k_y) - entropy(k_x * k_y)
        assert density.renyi(x, y, alpha=alpha, bandwidth=0.9) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 1, 1.01, 2, 3.5])
def test_renyi_limits(alpha):
    # Of points far apart the joint kernel is the identity, as each one's is: every entropy is ln 40.
    apart = torch.arange(40.0)[:, None]
    assert density.renyi(apart, apart, alpha=alpha, bandwidth=1e-2) == pytest.approx(math.log(40), abs=1e-9)
    x, y = normal(40, 2), normal(40, 3, seed=1)
    value = density.renyi(x, y, alpha=alpha)
    assert 0 < value < math.log(40)
    assert value == pytest.approx(density.renyi(y, x, alpha=alpha), abs=1e-9)


def test_renyi_order_one_is_the_limit():
    x = normal(60, 2)
    near = [density.renyi(x, x, alpha=alpha) for alpha in (1 - 1e-5, 1, 1 + 1e-5)]
    assert near[0] != near[1] != near[2]
    assert near[1] == pytest.approx((near[0] + near[2]) / 2, abs=1e-6)
    assert near[0] == pytest.approx(near[2], abs=1e-3)


def test_renyi_follows_dependence_and_its_own_bandwidth():
    x, y, _ = correlated(300)
    unrelated = normal(300, 1, seed=5)
    assert density.renyi(x, y) > density.renyi(x, unrelated) + 0.2
    # The null is not 0, and grows without end as the kernel shrinks: it is no estimate of the information.
    assert density.renyi(x, unrelated, bandwidth=1e-5) == pytest.approx(math.log(300), abs=0.1)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda x: density.binned(x, x, bins=3, width=1.0), "bins=3, width=1.0"),
        (lambda x: density.binned_entropy(x), "bins=None, width=None"),
        (lambda x: density.binned(x, x, bins=0), "0 bins were asked for"),
        (lambda x: density.binned(x, x, width=-1.0), "width=-1.0 was given"),
        (lambda x: density.binned(x, x, bins=2, correction="mm"), "correction='mm' was given"),  # type: ignore[arg-type]
        (lambda x: density.kernel_density(x, x, bandwidth=-1.0), "bandwidth=-1.0 was given"),
        (lambda x: density.kernel_density(x, torch.ones(20, 1)), "A column of y is constant"),
        (lambda x: density.renyi(x, x, alpha=0.0), "alpha=0.0 was given"),
        (lambda x: density.renyi(x, torch.ones(20, 1)), "Most samples of y are equal"),
        (lambda x: density.renyi(torch.zeros(12000, 1), torch.zeros(12000, 1)), "give at most 11585 samples"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call(normal(20, 1))


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e7])
def test_distances_do_not_depend_on_where_the_samples_lie(offset):
    t = normal(30, 3) + offset
    rows = torch.tensor([3, 0, 29, 7])
    exact = (t[rows, None] - t).square().sum(-1)
    found = density.squared_distances(t, rows)
    torch.testing.assert_close(found, exact, atol=1e-7, rtol=1e-7)
    assert bool((found[torch.arange(4), rows] == 0).all()) and float(found.min()) == 0


def test_the_kernels_width_is_the_median_distance_by_the_rule():
    t = normal(25, 3)
    apart = torch.pdist(t).sort().values
    median = float(apart[(len(apart) - 1) // 2])
    width = median * 25 ** (-1 / 7)
    wanted = (-torch.cdist(t, t).square() / (2 * width**2)).exp()
    torch.testing.assert_close(density._kernel(t, "t", None), wanted, atol=1e-9, rtol=1e-9)


def test_rows_of_distances_come_in_parts(monkeypatch):
    monkeypatch.setattr(density, "_ENTRIES", 100)
    for samples in (7, 30, 300):
        parts = density.chunks(samples)
        assert torch.cat(parts).tolist() == list(range(samples))
        assert all(len(part) * samples <= 100 or len(part) == 1 for part in parts)


def test_cells_of_equal_width_end_at_the_largest_sample():
    t = torch.tensor([[0.0], [0.1], [0.5], [0.99], [1.0]])
    assert density._cells(t, 4, None, "width").flatten().tolist() == [0, 0, 2, 3, 3]
    assert density._cells(torch.ones(3, 1), 4, None, "width").flatten().tolist() == [0, 0, 0]
    assert density._cells(t - 0.3, None, 0.5, "width").flatten().tolist() == [-1, -1, 0, 1, 1]
