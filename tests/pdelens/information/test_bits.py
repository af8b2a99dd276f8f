import numpy as np
import pytest
from scipy.spatial.distance import cdist

from pdelens.information import _bits


def points(samples, dims, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, dims))


def held_within(data, radius):
    return (cdist(data, data, "chebyshev") <= radius[:, None]).sum(1)


def test_every_centre_gets_a_radius_that_holds_a_few_times_as_many_points(monkeypatch):
    data, plain = points(1500, 3), np.empty
    columns = _bits.Columns(data)
    with monkeypatch.context() as local:
        # What is not written is seen.
        local.setattr(
            np, "empty", lambda shape, dtype=float: np.zeros(shape, dtype) + (np.nan if dtype is float else 0)
        )
        radius = _bits._reach(columns, columns.values, 10)
    assert np.empty is plain and np.isfinite(radius).all() and len(radius) == 1500
    held = held_within(data, radius)
    assert 25 < np.median(held) < 60 and np.mean((held >= 10) & (held < 160)) > 0.97


def test_a_sample_too_large_to_compare_is_asked_for_its_own_neighbours(monkeypatch):
    monkeypatch.setattr(_bits, "FEW", 96)
    data = points(1500, 3)
    held = held_within(data, _bits._reach(_bits.Columns(data), data.T, 10))
    assert 25 < np.median(held) < 60 and np.mean((held >= 10) & (held < 160)) > 0.97


@pytest.mark.parametrize("words", [1, 3])
def test_members_are_the_bits_that_are_set(words):
    inside = np.random.default_rng(0).random((5, 64 * words)) < 0.1
    inside[2] = False
    sets = np.packbits(inside, 1, bitorder="little").view(np.uint64)
    assert _bits._members(sets).tolist() == np.flatnonzero(inside).tolist()


def test_prefix_sets_grow_by_one_point():
    order = np.random.default_rng(1).permutation(100)
    prefixes = np.ones((101, 2), np.uint64)
    _bits._fill_prefixes(prefixes, order)
    bits = np.unpackbits(prefixes.view(np.uint8), axis=1, bitorder="little")
    for count in (0, 1, 2, 50, 100):
        assert np.flatnonzero(bits[count]).tolist() == sorted(order[:count])


def test_queries_that_found_enough_are_dealt_out_once_with_those_alike(monkeypatch):
    monkeypatch.setattr(_bits, "PAIRS", 64)
    counts = np.array([3, 4, 5, 7, 8, 15, 16, 31, 40, 0, 9, 4])
    parts = list(_bits._alike(counts, 4))
    assert sorted(np.concatenate(parts)) == [k for k in range(12) if counts[k] >= 4]
    for part in parts:
        assert counts[part].max() < 2 * counts[part].min() and len(part) * counts[part].max() <= 64


def test_the_least_come_in_order():
    distance = np.random.default_rng(2).random((7, 20))
    for number in (1, 5, 20):
        where, least = _bits._least(distance, number)
        assert np.array_equal(least, np.sort(distance, 1)[:, :number])
        assert np.array_equal(np.take_along_axis(distance, where, 1), least)


@pytest.mark.parametrize("strict", [True, False])
def test_an_interval_is_that_of_rounded_differences(strict):
    column = np.sort(np.random.default_rng(3).integers(0, 9, 60) / 10)
    centres, others = np.random.default_rng(4).choice(column, (2, 30))
    radius = np.abs(others - centres)
    first, last = _bits.interval(column, centres, radius, strict)
    for number in range(30):
        apart = np.abs(column - centres[number])
        inside = apart < radius[number] if strict else apart <= radius[number]
        assert inside.sum() == last[number] - first[number]
        assert not inside.any() or np.flatnonzero(inside)[0] == first[number]


def test_counts_come_in_parts(monkeypatch):
    data = points(300, 2)
    columns, radius = _bits.Columns(data), np.linspace(0.05, 2, 300)
    wanted = (cdist(data, data, "chebyshev") < radius[:, None]).sum(1)
    for chunk, sets in ((512, 2**26), (7, 1), (64, 38 * 100)):
        monkeypatch.setattr(_bits, "CHUNK", chunk)
        monkeypatch.setattr(_bits, "SETS", sets)
        assert _bits.count_in_boxes(columns, columns.values, radius, True).tolist() == wanted.tolist()
        parts = list(_bits._parts(300, 300))
        assert [k for part in parts for k in range(part.start, part.stop)] == list(range(300))
        assert all(part.stop - part.start <= max(chunk, sets // 38) for part in parts)
