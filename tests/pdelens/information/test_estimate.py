import math
import re

import numpy as np
import pandas
import pytest
import scipy.signal
import torch

from pdelens.information import auto, copulas, estimate, methods, samples
from pdelens.information.estimate import mutual_information
from pdelens.information.samples import serial
from pdelens.information.tasks import bivariate, sparse, task

FAST = ["ksg", "ksg2", "gaussian", "gaussian_copula", "binned", "kernel_density"]


def normals(samples=300, correlation=0.75, seed=0):
    return bivariate(correlation).sample(samples, seed)


@pytest.mark.parametrize("method", FAST)
def test_plain_methods_state_everything_and_cover_an_easy_truth(method):
    x, y = normals(500)
    found = mutual_information(x, y, method, shuffles=40)
    assert found.interval[0] <= 0.4133 <= found.interval[1] and found.interval[0] <= found.value <= found.interval[1]
    assert found.p_value == pytest.approx(1 / 41) and abs(found.null_mean) < 0.15 and 0 < found.null_std < 0.1
    assert (found.method, found.unit, found.samples, found.dims) == (method, "nats", 500, (1, 1))
    assert found.shuffles == 40 and found.null_samples == 500 and found.seconds > 0
    assert float(found) == found.value and method in str(found) and "nats" in str(found)


@pytest.mark.parametrize("method", ["ksg", "gaussian", "auto"])
def test_independent_data_have_no_warning_and_a_large_p_value(method):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(400, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    found = mutual_information(x, y, method, shuffles=40)
    assert found.p_value > 0.05 and found.interval[0] < 0.02 and abs(found.value) < 0.1
    assert found.warnings == ()


def test_p_values_of_independent_data_are_uniform():
    generator = torch.Generator().manual_seed(0)
    p = [
        mutual_information(x, y, "gaussian", shuffles=19, seed=seed).p_value
        for seed, (x, y) in enumerate(torch.randn(40, 2, 60, generator=generator))
    ]
    assert np.mean(p) == pytest.approx(0.5, abs=4 * (1 / 12 / 40) ** 0.5)
    assert min(p) >= 1 / 20 and np.mean(np.array(p) <= 0.25) == pytest.approx(0.25, abs=0.2)


def test_intervals_of_the_gaussian_method_cover_the_truth_as_often_as_stated():
    inside = [
        low <= bivariate(0.6).mutual_information <= high
        for low, high in (
            mutual_information(*normals(100, 0.6, seed), "gaussian", shuffles=1, seed=seed).interval
            for seed in range(60)
        )
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.08)


def test_halves_have_the_deviation_of_the_whole():
    """Without replacement: halves have twice the variance, of which what they share takes half."""
    x, y = normals(2000)

    def mean(a, b):
        return float(a.mean())

    values = auto.halves(x, y, mean, 400, np.random.default_rng(0))
    assert values.std() == pytest.approx(float(x.std()) / 2000**0.5, rel=0.1)


def test_raw_ksg_on_the_sparse_task_is_flagged_and_its_interval_reaches_the_truth():
    wanted = task("multinormal-sparse-5-5-2-2.0")
    found = mutual_information(*wanted.sample(1000, 1), "ksg", shuffles=19)
    assert found.value < 0.7 < wanted.mutual_information <= found.interval[1]
    assert any("bias is -" in warning and "20 %" in warning for warning in found.warnings)
    assert found.bias == pytest.approx(found.value - wanted.mutual_information, abs=0.15)


def test_a_value_near_the_ceiling_is_flagged():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    found = mutual_information(x, x + 1e-4 * torch.randn(60, 1, generator=generator), "ksg", shuffles=10)
    psi = torch.special.digamma(torch.tensor([60.0, 10.0], dtype=torch.float64))
    assert found.ceiling == pytest.approx(float(psi[0] - psi[1]))
    assert any("70 % of what the method can report" in warning for warning in found.warnings)
    assert mutual_information(*normals(60), "binned", shuffles=1).ceiling == pytest.approx(math.log(60))
    assert mutual_information(*normals(60), "gaussian", shuffles=1).ceiling == math.inf


@pytest.mark.parametrize("method", ["renyi", "sliced"])
def test_quantities_of_their_own_state_no_bias(method):
    found = mutual_information(*normals(120, 0.9), method, shuffles=9)
    assert not methods.METHODS["probe"].repeats
    assert math.isnan(found.bias) and "quantity of its own" in found.because
    assert found.interval[0] <= found.value <= found.interval[1] and found.p_value == pytest.approx(0.1)


@pytest.mark.parametrize("method", ["info_nce", "nwj", "mine"])
def test_trained_methods_have_a_cheaper_statistic_for_the_null_and_their_own_ceiling(method):
    chosen = methods.METHODS[method]
    assert chosen.quick is not None and chosen.shuffles <= 19
    x, y = normals(400, 0.9)
    apart = y[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    statistic = chosen.quick(10, 0)
    assert statistic(x, y) > 0.3 > 0.1 > abs(statistic(x, apart))
    assert 3 < chosen.ceiling(400, 10) <= math.log(400)


def test_the_probe_wants_one_column():
    with pytest.raises(ValueError, match="y has 2 columns: method='probe' wants one column"):
        mutual_information(normals()[0], torch.randn(300, 2), "probe")


def test_the_null_says_how_many_samples_it_used():
    x, y = normals(1500)
    assert mutual_information(x, y, "ksg", shuffles=3).null_samples == 500
    assert mutual_information(x, y, "gaussian", shuffles=3).null_samples == 1500


def test_same_seed_same_answer():
    x, y = normals()
    first, second = (mutual_information(x, y, "ksg", shuffles=5, seed=4) for _ in range(2))
    assert (first.value, first.interval, first.null_mean) == (second.value, second.interval, second.null_mean)
    assert mutual_information(x, y, "ksg", shuffles=5, seed=5).interval != first.interval


def test_scale_and_numbers_a_column_or_a_vector_do_not_matter():
    x, y = normals()
    plain = mutual_information(x, y, "ksg", shuffles=2).value
    assert mutual_information(1e3 * x[:, 0], y[:, 0] - 7, "ksg", shuffles=2).value == pytest.approx(plain, abs=1e-9)
    assert mutual_information(x.float(), y.float(), "ksg", shuffles=2).value == pytest.approx(plain, abs=1e-3)


def test_labels_go_to_methods_that_take_them():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (400,), generator=generator)
    x = torch.randn(400, 1, generator=generator) * 0.1 + labels[:, None]
    with pytest.raises(ValueError, match="class labels by the look of them: this method needs continuous values"):
        mutual_information(x, labels.float(), "ksg")
    found = mutual_information(x, labels, "binned", shuffles=5)
    assert found.value == pytest.approx(math.log(4), abs=0.3) and found.p_value == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(50, 2, 2), torch.randn(50), r"x has shape \(50, 2, 2\): \(samples, columns\)"),
        (torch.randn(50), torch.randn(49), "x has 50 samples and y has 49: row i of both must belong to sample i"),
        (torch.randn(21), torch.randn(21), r"21 samples were given: at least 22 are wanted, 2 \(neighbours \+ 1\)"),
        (torch.tensor([math.nan] + [1.0, 2.0] * 20), torch.randn(41), "x has 1 of 41 rows with NaN or infinity"),
        (torch.randn(41), torch.tensor([math.inf] + [1.0, 2.0] * 20), "y has 1 of 41 rows with NaN or infinity"),
        (torch.stack([torch.randn(50), torch.ones(50)], 1), torch.randn(50), "Column 1 of x is constant"),
        (torch.randn(40, 30), torch.randn(40, 30), "40 samples of 30 [+] 30 columns were given: 126 are wanted"),
        (torch.empty(0, 2), torch.empty(0, 2), r"x has shape \(0, 2\)"),
    ],
)
def test_bad_input_is_turned_away_in_one_sentence(x, y, message):
    with pytest.raises(ValueError, match=message):
        mutual_information(x, y)


def test_unknown_settings_are_turned_away():
    with pytest.raises(ValueError, match="method='knn' was given: 'auto' or one of ksg"):
        mutual_information(*normals(), "knn")
    with pytest.raises(ValueError, match="neighbours=0 was given: a whole number"):
        mutual_information(*normals(), neighbours=0)


def test_ties_get_a_stated_jitter_as_wide_as_the_rounding():
    x, y = normals(500)
    rounded = (x * 10).round() / 10
    found = mutual_information(rounded, y, "ksg", shuffles=5)
    assert any("of column 0 of x are tied: uniform noise of width 0.1 was added" in note for note in found.warnings)
    assert found.value == pytest.approx(mutual_information(x, y, "ksg", shuffles=5).value, abs=0.06)
    mended, _, _ = samples.untied(rounded, y, torch.Generator().manual_seed(0))
    assert len(mended.unique()) == 500 and float((mended - rounded).abs().max()) <= 0.05 + 1e-12


def test_repeated_pairs_are_named():
    x, y = normals(100)
    found = mutual_information(torch.cat([x, x[:30]]), torch.cat([y, y[:30]]), "ksg", shuffles=3)
    assert any("30 of 130 pairs are exact repeats" in note for note in found.warnings)


def test_labels_are_told_from_rounded_numbers():
    assert samples.is_labels(torch.arange(200.0) % 7)
    assert not samples.is_labels(torch.arange(200.0))
    assert not samples.is_labels((torch.arange(200.0) % 7) / 7)


def test_a_fitted_copula_knows_its_information():
    rows = torch.cat(sparse(3, 2).sample(4000, 0), 1).numpy()
    fitted = copulas.fit(np.exp(rows), 3)
    assert fitted.information == pytest.approx(1.0217, abs=0.06) and fitted.copula.freedom == math.inf
    rows = torch.cat(task("student-identity-3-3-2").sample(4000, 0), 1).numpy()
    fitted = copulas.fit(np.arctan(rows), 3)
    assert fitted.copula.freedom == pytest.approx(2, abs=0.2)
    assert fitted.information == pytest.approx(0.2909, abs=0.03)


@pytest.mark.parametrize("wanted", [0.0, 0.2, 1.7])
@pytest.mark.parametrize(("dim_x", "freedom"), [(1, math.inf), (2, math.inf), (3, 3.0)])
def test_a_copula_is_turned_to_any_information(wanted, dim_x, freedom):
    correlation = np.asarray(np.corrcoef(np.random.default_rng(0).standard_normal((4, 12))))
    copula = copulas.Copula(correlation, dim_x, freedom).with_information(wanted)
    assert copula.information == pytest.approx(max(wanted, copula.excess), abs=1e-8)
    assert np.allclose(copula.correlation[:dim_x, :dim_x], correlation[:dim_x, :dim_x])
    assert np.linalg.eigvalsh(copula.correlation).min() > 0


def test_samples_like_the_data_have_their_values_and_the_copulas_dependence():
    data = np.random.default_rng(0).lognormal(size=(3000, 2))
    copula = copulas.Copula(np.array([[1, 0.8], [0.8, 1]]), 1)
    drawn = copula.like(data, np.random.default_rng(1))
    assert np.array_equal(np.sort(drawn, 0), np.sort(data, 0))
    assert copulas.fit(drawn, 1).information == pytest.approx(copula.information, abs=0.05)


def test_canonical_variables_are_uncorrelated_within_and_keep_all_columns():
    rows = torch.cat(sparse(3, 1, pairs=1).sample(500, 0), 1).numpy() @ np.diag([1, 5, 2, 3])
    rows[:, 1] += rows[:, 0]
    scores = copulas.scores(500)[copulas.ranks(rows)]
    x, y = copulas.fit(rows, 3).copula.canonical(scores)
    assert x.shape == (500, 3) and y.shape == (500, 1)
    assert np.allclose(np.corrcoef(x.T), np.eye(3), atol=1e-8)
    across = (x - x.mean(0)).T @ y[:, 0] / len(x)
    assert abs(across[1:]).max() < 1e-8 and abs(across[0]) > 0.7


def test_a_calibration_sample_has_the_information_asked_for():
    x, y = normals(2000)
    truth, found = estimate.calibration(x, y, methods.METHODS["gaussian"].make(10, 0), information=1.0, repeats=6)
    assert truth == pytest.approx(1.0) and found.mean() == pytest.approx(1.0, abs=0.05) and found.std() > 0


def test_ties_are_told_once_and_rounding_not_at_all():
    generator = torch.Generator().manual_seed(0)
    single = torch.randn(20_000, 4, generator=generator).float()
    assert any(len(column.unique()) < len(column) for column in single.T), "single precision makes ties"
    x, y, notes = samples.untied(single[:, :2].double(), single[:, 2:].double(), torch.Generator().manual_seed(0))
    assert notes == () and all(len(column.unique()) == 20_000 for column in torch.cat([x, y], 1).T)
    rounded = (10 * torch.randn(400, 3, generator=generator).double()).round() / 10
    _, _, notes = samples.untied(rounded[:, :2], rounded[:, 2:], torch.Generator().manual_seed(0))
    assert len(notes) == 1 and notes[0].startswith("3 columns have tied values (most, ") and "0.1 there" in notes[0]


def test_a_value_is_inside_its_own_interval():
    for seed in range(8):
        random = np.random.default_rng(seed)
        found = mutual_information(random.normal(size=200), random.normal(size=200), shuffles=5)
        assert found.interval[0] <= found.value <= found.interval[1], seed


def test_tables_are_welcome_and_what_is_no_number_is_named():
    random = np.random.default_rng(0)
    x = random.normal(size=300)
    y = x + 0.3 * random.normal(size=300)
    plain = mutual_information(x, y, "gaussian", shuffles=5).value
    for given in (pandas.DataFrame({"a": x}), pandas.Series(x), x.tolist(), np.ma.masked_array(x), x[::-1][::-1]):
        assert mutual_information(given, y, "gaussian", shuffles=5).value == pytest.approx(plain)
    for wrong, says in (
        (np.ma.masked_less(y, 0.0), r"y has \d+ masked entries: .*none missing"),
        (x + 1j * y, "y is complex: give real and imaginary parts as two columns"),
        (torch.complex(torch.tensor(x), torch.tensor(y)), "y is complex"),
        (["a"] * 300, "y=.* was given: a table of numbers"),
        ([[1.0, 2.0], [3.0]], "y=.* was given: a table of numbers"),
        ([None] * 300, "y=.* was given: a table of numbers"),
    ):
        with pytest.raises((ValueError, TypeError), match=says):
            mutual_information(x, wrong, "gaussian", shuffles=5)


@pytest.mark.parametrize("count", [2.5, 0, -1, True, "3", float("nan")])
def test_counts_are_whole_numbers(count):
    x = np.random.default_rng(0).normal(size=(300, 2))
    for name in ("neighbours", "shuffles"):
        with pytest.raises(ValueError, match=f"{name}=.* was given: a whole number, at least 1, is wanted"):
            mutual_information(x[:, 0], x[:, 1], "gaussian", **{name: count})


def series(correlation, count, generator):
    noise = torch.randn(count, generator=generator, dtype=torch.float64).numpy()
    return torch.from_numpy(scipy.signal.lfilter([1], [1, -correlation], noise))[:, None]


@pytest.mark.parametrize("correlation", [0.5, 0.7, 0.9])
def test_rows_of_a_series_count_as_theory_says(correlation):
    generator = torch.Generator().manual_seed(0)
    square = correlation**2  # of two first-order series; Bartlett's sum is geometric
    wanted = 8000 * (1 - square) / (1 + square)
    found = []
    for _ in range(10):
        (said,) = serial(series(correlation, 8000, generator), series(correlation, 8000, generator))
        found.append(float(re.findall(r"count for about (\d+)", said)[0]))
    assert np.median(found) == pytest.approx(wanted, rel=0.1)


def test_rows_that_do_not_follow_one_another_are_not_warned_of():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        x, y = (torch.randn(250, 4, generator=generator) for _ in range(2))
        assert serial(x, y) == ()
    x, y = series(0.9, 4000, generator), torch.randn(4000, 1, generator=generator)
    assert serial(x, y) == (), "a series against independent rows: the null is right"
    assert serial(x.sort(0).values, x.sort(0).values + y) == (), "a table sorted by a column"
    classes = torch.arange(400).div(100, rounding_mode="floor")[torch.randperm(4).repeat_interleave(100) * 100][:, None]
    assert serial(torch.randn(400, 2, generator=generator) + 3 * classes, classes.double()) == (), "sorted by class"
    assert serial(classes.double(), torch.randn(400, 2, generator=generator) + 3 * classes) == ()


def test_a_time_series_is_warned_of_and_its_null_is_wrong_without():
    generator = torch.Generator().manual_seed(3)
    small = []
    for _ in range(20):
        x, y = series(0.95, 400, generator), series(0.95, 400, generator)
        found = mutual_information(x, y, "gaussian", shuffles=40)
        assert any(warning.startswith("Rows follow one another") for warning in found.warnings)
        small.append(found.p_value < 0.05)
    assert sum(small) > 5, "independent series, and p < .05 in far more than one in twenty"
