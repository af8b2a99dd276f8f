"""The probes against scikit-learn's, and what their penalties and starts do."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from pdelens.information.probes import PENALTIES, LinearProbe, chosen, standardised, two_layer_losses
from pdelens.information.splits import parted


def classes_of(seed, samples=400, features=6, classes=4, apart=1.0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, samples)
    means = apart * random.normal(size=(classes, features))
    return means[labels] + random.normal(size=(samples, features)), labels


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_linear_probe_is_scikit_learns(penalty, classes):
    x, labels = classes_of(1, classes=classes)
    x = standardised(x, np.arange(300))
    shares = np.bincount(labels[:300]) / 300
    ours = LinearProbe(6, shares).fit(x[:300], labels[:300], penalty)
    theirs = LogisticRegression(C=1 / (300 * penalty), tol=1e-10, max_iter=10_000)
    if classes == 2:  # theirs has one weight a feature there, which is penalised as half of two
        theirs = LogisticRegression(C=2 / (300 * penalty), tol=1e-10, max_iter=10_000)
    theirs.fit(x[:300], labels[:300])
    wanted = log_loss(labels[300:], theirs.predict_proba(x[300:]))
    assert ours.losses(x[300:], labels[300:]).mean() == pytest.approx(wanted, abs=2e-5)
    each = -np.log(theirs.predict_proba(x[300:])[np.arange(100), labels[300:]])
    assert np.abs(ours.losses(x[300:], labels[300:]) - each).max() < 2e-3


def test_features_are_standardised_by_the_training_rows():
    x = np.random.default_rng(0).normal(size=(50, 4)) * [1, 1e-200, 1e200, 3] + [5, 0, 0, 1]
    x[:40, 3] = 0.1
    train = np.arange(40)
    found = standardised(x, train)
    wanted = StandardScaler().fit(x[train][:, :1]).transform(x[:, :1]) / 2
    assert np.abs(found[:, :1] - wanted).max() < 1e-12
    assert np.square(found[train]).mean(0) == pytest.approx([0.25, 0.25, 0.25, 0.0]) and not found[:, 3].any()


def test_the_penalty_is_the_best_of_a_plain_search():
    x, labels = classes_of(3, samples=300, features=30, apart=0.3)
    x, inner, validation = standardised(x, np.arange(200)), np.arange(150), np.arange(150, 200)
    probe = chosen(x, labels, inner, validation, 4)
    losses = []
    for penalty in PENALTIES:
        plain = LogisticRegression(C=1 / (150 * penalty), tol=1e-8, max_iter=10_000).fit(x[inner], labels[inner])
        losses.append(log_loss(labels[validation], plain.predict_proba(x[validation])))
    best = int(np.argmin(losses))
    assert probe.penalty in PENALTIES[best - 1 : best + 1] and 1 < best < 12
    assert probe.losses(x[validation], labels[validation]).mean() == pytest.approx(min(losses), abs=2e-4)


def test_what_only_harms_is_left_alone():
    x, labels = np.random.default_rng(1).normal(size=(120, 60)), np.random.default_rng(3).integers(0, 3, 120)
    x = standardised(x, np.arange(100))
    probe = chosen(x, labels, np.arange(80), np.arange(80, 100), 3)
    shares = np.bincount(labels[:80]) / 80
    assert probe.penalty >= 0.1
    assert probe.losses(x[100:], labels[100:]).mean() < -np.log(shares[labels[100:]]).mean() + 0.02
    none = chosen(x[:, :0], labels, np.arange(80), np.arange(80, 100), 3)
    assert np.isinf(none.penalty) and none.losses(x[:, :0], labels) == pytest.approx(-np.log(shares[labels]))


def test_a_network_that_training_harms_is_its_linear_probe(monkeypatch):
    from pdelens.information import probes

    x, labels = classes_of(2)
    parts = parted(x, labels, None, 0.25, np.random.default_rng(0))
    x = standardised(x, parts.train)
    start = chosen(x, labels, parts.inner, parts.validation, 4)
    monkeypatch.setattr(probes, "_STEPS", 0)
    found = two_layer_losses([x, x], [start, start], parts, seed=0)
    assert found.shape == (2, len(parts.test))
    assert np.abs(found - start.losses(x[parts.test], labels[parts.test])).max() < 1e-5


def test_members_do_not_meet_and_parts_of_the_memory_change_nothing(monkeypatch):
    from pdelens.information import probes

    monkeypatch.setattr(probes, "_STEPS", 30)
    x, labels = classes_of(2)
    parts = parted(x, labels, None, 0.25, np.random.default_rng(0))
    own, other = standardised(x, parts.train), standardised(x[::-1].copy(), parts.train)
    starts = [chosen(each, labels, parts.inner, parts.validation, 4) for each in (own, other)]
    both = two_layer_losses([own, other], starts, parts, seed=0)
    twice = two_layer_losses([own, own], starts[:1] * 2, parts, seed=0)
    assert np.array_equal(both[0], twice[0]) and both[0].mean() < both[1].mean() - 0.2
    monkeypatch.setattr(probes, "_ENTRIES", 100)
    assert np.abs(two_layer_losses([own, other], starts, parts, seed=0) - both).max() < 1e-4
