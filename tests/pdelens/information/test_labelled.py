"""Classes: what is claimed of them is what is so, and counts are no classes."""

import math

import numpy as np
import pytest
import torch

from pdelens import check_estimator, mutual_information
from pdelens.information import methods
from pdelens.information.ksg import class_ksg
from pdelens.information.labelled import labelled


def noisy(seed, samples=1500, shift=2.0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, samples)
    return shift * y + random.normal(size=samples), y


def mixture_information(shift=2.0):
    """Information of three classes a shift apart in unit noise, by quadrature."""
    x = np.linspace(-12, 16, 200_001)
    each = np.exp(-0.5 * (x[:, None] - shift * np.arange(3)) ** 2) / math.sqrt(2 * math.pi)
    mixed = each.mean(1)
    inside = np.where(mixed > 0, mixed * np.log(np.maximum(mixed, 1e-300)), 0)
    return float(-np.trapezoid(inside, x) - 0.5 * math.log(2 * math.pi * math.e))


def column(values):
    return torch.as_tensor(np.asarray(values, dtype=float))[:, None]


@pytest.mark.parametrize("labels_first", [False, True])
def test_bias_claimed_on_labels_is_the_bias(labels_first):
    truth, found = mixture_information(), []
    for seed in range(4):
        x, y = noisy(seed)
        found.append(mutual_information(*((y, x) if labels_first else (x, y)), "binned", shuffles=5))
    real = np.mean([each.value for each in found]) - truth
    assert abs(real - np.mean([each.bias for each in found])) < 0.05
    assert all(each.interval[0] < truth < each.interval[1] and not each.warnings for each in found)


def test_model_of_labels_has_the_mixtures_information():
    x, y = noisy(0, samples=20_000)
    model = labelled(column(x), column(y), np.random.default_rng(1))
    assert abs(model.information - mixture_information()) < 0.02
    drawn, labels = model.sample(4000, np.random.default_rng(2))
    turned = labelled(column(y), column(x), np.random.default_rng(1)).sample(4000, np.random.default_rng(2))
    assert torch.equal(turned[0], labels) and torch.equal(turned[1], drawn)
    assert set(labels.flatten().tolist()) == {0, 1, 2}
    assert abs(float(drawn[labels == 2].mean()) - 4) < 0.1 and abs(float(drawn[labels == 0].std()) - 1) < 0.1


def test_two_label_columns_have_the_information_of_their_table():
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 3000)
    x = (y + random.integers(0, 2, 3000)) % 3
    model = labelled(column(x), column(y), random)
    assert abs(model.information - math.log(3 / 2)) < 0.01
    drawn, labels = model.sample(2000, random)
    assert set(((drawn - labels) % 3).flatten().tolist()) == {0.0, 1.0}
    found = mutual_information(x, y, "binned", shuffles=5)
    assert abs(found.value - math.log(3 / 2)) < 0.02 and abs(found.bias) < 0.02


def test_continuous_columns_have_no_such_model():
    random = np.random.default_rng(0)
    x, y = torch.from_numpy(random.normal(size=(2, 400, 1)))
    assert labelled(x, y, random) is None


def test_counts_are_numbers_and_few_classes_are_asked_about():
    random = np.random.default_rng(0)
    age = random.integers(18, 90, 2000)
    income = 0.05 * age + random.normal(size=2000)
    halves, whole = (mutual_information(each, income, shuffles=5) for each in (age / 2, age))
    assert abs(halves.value - whole.value) < 0.01
    assert "counts, not labels" in whole.warnings[0] and "labels" not in halves.warnings[0]
    said = mutual_information(age, income, labels=False, shuffles=5)
    assert "labels" not in said.warnings[0]
    with pytest.raises(ValueError, match="labels=False where they are counts"):
        mutual_information(age, income, labels=True, shuffles=5)
    stars = random.integers(1, 6, 2000)
    with pytest.raises(ValueError, match="labels=False where they are counts"):
        mutual_information(stars, stars + random.normal(size=2000), shuffles=5)
    assert mutual_information(stars, stars + random.normal(size=2000), labels=False, shuffles=5).value > 0.3
    with pytest.raises(ValueError, match="labels='no' was given"):
        mutual_information(age, income, labels="no")


def test_a_probe_takes_whole_numbers_as_it_is_told(monkeypatch):
    asked = []
    monkeypatch.setattr(methods.neural, "probe_bound", lambda x, y, **_: asked.append("classes") or 0.0)
    monkeypatch.setattr(methods.neural, "gaussian_probe_bound", lambda x, y, **_: asked.append("numbers") or 0.0)
    x, rank = torch.randn(400, 1), column(np.arange(400) % 13)
    for labels in (None, True, False):
        plan = methods.chosen("probe", labels)
        plan.make(10, 0)(x, rank)
        plan.quick(10, 0)(x, rank)
    assert asked == ["classes"] * 4 + ["numbers"] * 2


def test_the_nearest_neighbours_of_classes_come_with_their_circumstances():
    """Standardised columns, ties broken in x alone, null, interval and bias as with every method."""
    truth, (x, y) = mixture_information(), noisy(0, samples=600)
    found = mutual_information(x, y, "class_ksg", shuffles=19)
    assert found.interval[0] < truth < found.interval[1] and abs(found.bias) < 0.1 and found.p_value == 0.05
    assert abs(found.null_mean) < 0.05 and found.warnings == ()
    wanted = class_ksg(column((x - x.mean()) / x.std(ddof=1)), column(y)[:, 0], neighbours=10)
    assert found.value == pytest.approx(wanted, abs=1e-9)
    rounded = mutual_information(x.round(1), y, "class_ksg", shuffles=5)
    assert "column 0 of x are tied" in rounded.warnings[1] and abs(rounded.value - found.value) < 0.05
    for labels in (x, np.stack([y, y + 1], 1)):
        with pytest.raises(ValueError, match="method='class_ksg' wants class labels, one column"):
            mutual_information(x, labels, "class_ksg")
    with pytest.raises(ValueError, match="takes class labels, which no map may bend"):
        check_estimator(x, y, "class_ksg")
