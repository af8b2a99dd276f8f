"""How often classifiers agree, against loops over every pair of classifiers, of examples, and of draws."""

from itertools import combinations

import numpy as np
import pytest
import torch

from companion.teachers import teacher_agreement as agreement

NAMES = torch.randint(0, 4, (3, 60), generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(1))


def matched(first, second):
    """Return how often two answers drawn at random from two lists are the same, by trying all pairs."""
    return np.mean([one == other for one in first.tolist() for other in second.tolist()])


def test_same_name_counts_pairs_of_classifiers_for_each_example():
    found = agreement.same_name(NAMES)
    assert found.shape == (60,)
    for example in range(60):
        said = NAMES[:, example].tolist()
        assert found[example] == pytest.approx(np.mean([a == b for a, b in combinations(said, 2)]))


def test_blind_agreement_is_that_of_answers_drawn_from_all():
    expected = np.mean([matched(NAMES[a], NAMES[b]) for a, b in combinations(range(3), 2)])
    assert agreement.same_by_chance(NAMES, 4) == pytest.approx(expected)


def test_agreement_given_the_class_is_that_of_answers_drawn_within_it():
    expected = 0.0
    for kind in range(4):
        of = LABELS == kind
        pairs = [matched(NAMES[a, of], NAMES[b, of]) for a, b in combinations(range(3), 2)]
        expected += int(of.sum()) / 60 * np.mean(pairs)
    assert agreement.same_by_class(NAMES, LABELS, 4) == pytest.approx(expected)


def test_classifiers_that_err_on_their_own_agree_as_the_class_alone_has_it():
    random = torch.Generator().manual_seed(2)
    labels = torch.arange(3).repeat(4000)
    moved = torch.rand(2, len(labels), generator=random) < torch.tensor([0.1, 0.3, 0.5])[labels]
    names = torch.where(moved, (labels + 1) % 3, labels)
    assert agreement.same_name(names).mean() == pytest.approx(agreement.same_by_class(names, labels, 3), abs=0.02)
    # Errors on the same examples are what it does not explain.
    shared = names[:1].repeat(2, 1)
    assert agreement.same_name(shared).mean() == 1 > agreement.same_by_class(shared, labels, 3) + 0.2


def test_a_confusion_has_a_row_for_each_true_class():
    found = agreement.confusion(NAMES, LABELS, 4)
    for kind in range(4):
        for name in range(4):
            shares = [float((said[LABELS == kind] == name).double().mean()) for said in NAMES]
            assert found[kind, name] == pytest.approx(np.mean(shares))
    np.testing.assert_allclose(found.sum(1), 1)


def test_one_classifier_and_missing_classes_are_refused():
    for call in (agreement.same_name, lambda names: agreement.same_by_chance(names, 4)):
        with pytest.raises(ValueError, match="two classifiers or more"):
            call(NAMES[:1])
    with pytest.raises(ValueError, match="each example needs both"):
        agreement.same_by_class(NAMES, LABELS[:-1], 4)
