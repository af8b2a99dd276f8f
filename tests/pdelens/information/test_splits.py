"""What is fitted and what is read share no group, and neither lacks a class that it needs."""

import numpy as np
import pytest
import torch

from pdelens.information.splits import parted, shuffled, split


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_a_share_of_every_class_is_held_out(share):
    labels = random().permutation(np.repeat([0, 1, 2], [400, 100, 20]))
    for seed in range(5):
        held = split(labels, np.arange(520), share, random(seed))
        assert all(abs(held[labels == k].sum() - share * (labels == k).sum()) <= 1 for k in range(3))
    assert (split(labels, np.arange(520), share, random(1)) != held).any(), "another seed, other examples"


def test_each_example_is_held_out_as_often_as_any_other():
    labels = np.arange(24) % 3
    often = sum(split(labels, np.arange(24), 0.25, random(seed)) for seed in range(2000)) / 2000
    assert abs(often - 0.25).max() < 0.04


def test_groups_stay_whole_and_every_class_is_trained_on():
    for seed in range(20):
        groups = random(seed).integers(0, 60, 500)
        groups = np.unique(groups, return_inverse=True)[1]
        labels = groups % 2
        labels[groups == 7] = 2  # a class of one group
        labels[(groups == 8) | (groups == 9)] = 3
        held = split(labels, groups, 0.4, random(seed))
        assert not set(groups[held]) & set(groups[~held])
        assert set(labels[~held]) == {0, 1, 2, 3} and not held[groups == 7].any()
        assert 0.3 < held.mean() < 0.5


def test_a_shuffle_moves_whole_groups():
    groups = np.array([2, 0, 1, 0, 2, 1, 0, 1, 2])
    met = set()
    for seed in range(60):
        order = shuffled(groups, random(seed))
        assert sorted(order) == list(range(9))
        # Within each group, in its order, stand the members of one group in theirs.
        taken = [groups[order[groups == k]] for k in range(3)]
        assert all(len(set(each)) == 1 for each in taken)
        assert all((np.diff(order[groups == k]) > 0).all() for k in range(3))
        met.add(tuple(each[0] for each in taken))
    assert len(met) == 6
    uneven = shuffled(np.array([0, 0, 0, 1, 2, 2]), random(3))
    assert sorted(uneven) == list(range(6)) and (np.diff(np.flatnonzero(np.isin(uneven, [0, 1, 2]))) == 1).all()
    assert sorted(shuffled(np.arange(50), random())) == list(range(50))


def test_parts_share_no_group_and_hold_everything():
    x, groups = random().normal(size=(400, 2)), np.arange(400) // 4
    parts = parted(x, torch.arange(400) % 5 - 2, groups + 100, 0.25, random())
    sides = [set(parts.groups[rows]) for rows in (parts.inner, parts.validation, parts.test)]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert sorted([*parts.inner, *parts.validation]) == list(parts.train) and parts.classes == 5
    assert sorted([*parts.train, *parts.test]) == list(range(400))
    assert len(parts.test) == 100 and len(parts.validation) == pytest.approx(60, abs=8)
    mask = torch.zeros(400, dtype=torch.bool)
    mask[:80] = True
    given = parted(x, np.arange(400) % 5, groups, mask, random())
    assert list(given.test) == list(range(80))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"target": np.arange(40)}, "40 examples of 40 classes were given: at least 80 are wanted"),
        ({"target": np.arange(40) / 2}, "use target.long"),
        ({"target": np.zeros(40, int)}, "target has one class"),
        ({"target": np.arange(39) % 2}, r"\(40,\) is wanted, one an example"),
        ({"x": np.ones((40, 2))}, "the same in every example"),
        ({"x": np.ones((10, 2)) * np.arange(10)[:, None], "target": np.arange(10) % 2}, "at least 20 are wanted"),
        ({"groups": np.zeros(40, int)}, "Fewer than two groups of examples are held out"),
        ({"groups": np.arange(40) / 2}, "use groups.long"),
        ({"held_out": 1.0}, "a share below 1 is wanted"),
        ({"held_out": 0.0}, "a number above 0 is wanted"),
        ({"held_out": np.arange(40) < 10, "groups": np.arange(40) // 4}, "held_out parts 1 of the groups"),
        ({"held_out": np.arange(39) < 10}, "held_out of shape"),
        ({"held_out": np.arange(40)}, "other values than 0 and 1"),
        ({"held_out": np.arange(40) % 2 == 0}, "1 of 2 classes have no training example"),
        ({"groups": np.arange(40) // 14}, "Fewer than two groups|too few to choose a penalty by"),
    ],
)
def test_what_no_probe_can_be_fitted_to(changed, says):
    good = {"x": random().normal(size=(40, 2)), "target": np.arange(40) % 2, "groups": None, "held_out": 0.25}
    parted(**good, random=random())
    with pytest.raises((ValueError, TypeError), match=says):
        parted(**good | changed, random=random())
