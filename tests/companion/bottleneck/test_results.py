"""What the page reads of the jobs' records, by hand from made-up ones."""

import json

import numpy as np
import pytest

from companion.bottleneck import results
from companion.bottleneck.measures import Compression
from companion.bottleneck.planes import EQUATION, FAMILY, PLANE, RANDOM, TRAINED


def row(noise, entropy, scatter, usable=None, last=None):
    found = {"noise": noise, "entropy": entropy, "scatter": scatter}
    return found | ({FAMILY: usable} if usable else {}) | ({f"{FAMILY}, last": last} if last else {})


FIRST = row([1.0, 1.0, 1.2], [2.0, 2.0, 2.0], [-0.1, -0.1, -0.2], [0.2, 0.3, 0.3])
MIDDLE = row([1.0, 1.0, 1.0], [2.0, 2.0, 1.9], [-0.1, -0.2, -0.4], last=[0.9])
LAST = row([1.0, 0.9, 0.5], [2.0, 1.8, 1.5], [-0.1, -0.3, -0.9], [0.2, 0.5, 0.8])
LAST["curves"] = {"half, tokens": [9.0, 8.0, 2.0]}
TWIN = row([1.0, 0.9, 0.8], [2.0, 1.8, 1.9], [-0.1, -0.2, -0.3], [0.2, 0.2, 0.1])
LEARNT = {
    "0": row([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]),
    "9": row([1.0, 0.9, 0.1], [2.0, 1.9, 0.4], [0.0, -0.1, -1.5], [0.0, 0.3, 2.0]),
}


@pytest.fixture
def known(monkeypatch):
    planes = {
        "a-seed0": {
            "moments": {"9": LAST, "0": FIRST, "4": MIDDLE},
            "counts": {"8": [2.0, 1.0], "16": [3.0, 1.0]},
            "ceiling": 1.5,
            "inputs": 32,
        },
        "a-seed1": {
            "moments": {"9": MIDDLE | {FAMILY: [0.2, 0.4, 0.9]}, "0": FIRST},
            "counts": {"8": [1, 1], "16": [1, 1]},
        },
        "a-random-labels-seed0": {"moments": {"9": TWIN}, "memorised": {"moments": LEARNT}},
        "a-random-labels-seed2": {"moments": {"9": TWIN}, "memorised": {"moments": LEARNT}},
        "a-tanh-seed0": {"moments": {"9": LAST, "0": FIRST}},
        "ab-seed0": {"moments": {"9": TWIN}},
    }
    subjects = {
        "teacher": LAST | {"curves": {"pooled": [[9, 9], [3, 2], [2, 2.5]]}},
        "untrained": FIRST | {"curves": {"pooled": [[9, 9], [1, 1], [4, 1]]}},
        "three laws": MIDDLE,
    }
    found = {PLANE: planes, EQUATION: {"m-seed0": {"subjects": subjects}, "m-seed1": {"subjects": subjects}}}
    monkeypatch.setattr(results, "records", lambda: found)


def test_seeds_are_those_of_a_variant_and_of_no_other(known):
    assert list(results.by_seed("a")) == [0, 1] and list(results.by_seed("a", RANDOM)) == [0, 2]
    assert list(results.by_seed("m", part=EQUATION)) == [0, 1] and results.by_seed("z") == {}


def test_moments_are_in_order_and_a_twin_begins_as_the_trained_teacher_of_its_seed(known):
    found = results.moments("a", TRAINED)
    assert list(found[0]) == [0, 4, 9] and found[0][9] is LAST
    twins = results.moments("a", RANDOM)
    assert list(twins) == [0], "seed 2 has no beginning" and list(twins[0]) == [0, 9] and twins[0][0] is FIRST
    assert list(results.moments("a", results.UNTRAINED)[1]) == [0]
    assert results.moments("a", results.MEMORISED)[0] == {0: LEARNT["0"], 9: LEARNT["9"]}


def test_compression_is_what_falls_over_depth_or_over_training(known):
    (found, _) = results.compression("a", TRAINED, "depth").values()
    assert found == pytest.approx((0.4, 0.3, 0.6))
    assert results.compression("a", TRAINED, "training")[0] == pytest.approx((0.7, 0.5, 0.7))
    assert results.compression("a", results.UNTRAINED, "depth")[0] == pytest.approx((-0.2, 0.0, 0.1))
    assert results.compression("a", results.UNTRAINED, "training")[0] == (0, 0, 0)
    assert results.compression("a", RANDOM, "training")[0] == pytest.approx((0.4, 0.1, 0.1))
    assert results.compression("a", results.MEMORISED, "depth")[0] == pytest.approx((0.8, 1.5, 1.4))
    assert results.measured("a", TRAINED, "depth", "entropy").seeds == pytest.approx((0.3, 0.3 - 0.2))


def test_a_margin_is_the_least_measures_beyond_the_twin_and_beyond_none(known):
    # The twin's over depth: noise .1, entropy -.1 (counted as none), scatter .1.
    assert results.margin("a", "depth").seeds == pytest.approx((0.3,)), "seed 1 has no twin"
    assert results.margin("a", "training").seeds == pytest.approx((0.3,))
    assert results.margin("a", "depth", results.UNTRAINED).seeds == pytest.approx((-0.3,))
    assert results.margin("a", "depth", results.MEMORISED).seeds == pytest.approx((0.7, 0.7)[:1])
    each = [results.beyond_by("a", "depth", measure).seeds for measure in ("noise", "entropy", "scatter")]
    assert [value for (value,) in each] == pytest.approx([0.3, 0.3, 0.5])
    assert results.beyond(Compression(-0.1, 1, 1), Compression(-0.5, 0, 0)) == -0.1, "less expanded is not compressed"


def test_what_is_kept_is_of_the_best_depth_and_moment_beyond_the_twin(known):
    assert results.kept("a", "depth").seeds == (1.0,)
    assert results.kept("a", "training").seeds == pytest.approx(((0.8 - 0.1) / (0.9 - 0.1),))
    assert results.ends("a", RANDOM, 2).seeds == (0.1,) and results.ends("a", TRAINED, -1).seeds == (0.8, 0.9)


def test_nothing_is_kept_where_nothing_goes_beyond_the_twin(known, monkeypatch):
    twin = {"a-random-labels-seed0": {"moments": {"9": TWIN | {FAMILY: [0, 0, 2.0]}}}}
    found = results.records()
    monkeypatch.setattr(results, "records", lambda: {PLANE: found[PLANE] | twin})
    assert results.kept("a", "depth").seeds == (0.0,)


def test_paths_for_figures(known):
    assert results.row_values("a", TRAINED, "noise").tolist() == [LAST["noise"], MIDDLE["noise"]]
    assert results.row_values("a", "relu", "noise").shape == (0,)
    assert results.fallen("a", TRAINED, "noise").seeds == pytest.approx((0.4, 0.0))
    assert results.fallen("a", TRAINED, "noise", between=(0, 1)).seeds == pytest.approx((0.1, 0.0))
    assert results.ceiling("a") == 1.5 and results.ceiling("z") == 0
    assert results.inputs("a") == 32 and results.inputs("z") == 1
    assert results.since_highest("a", RANDOM, "noise").seeds == pytest.approx((0.4,))
    assert results.since_highest("z", TRAINED, "noise").seeds == ()
    assert results.fallen("a", TRAINED, results.TOKENS).seeds == pytest.approx((np.log(4),)), "one seed has it"
    steps, values = results.path("a", RANDOM, "noise")
    assert steps == [0, 9] and values.tolist() == [[1.2, 0.8]]
    assert results.path("a", RANDOM, FAMILY)[1].tolist() == [[0.3, 0.1]]
    assert results.path("a", "relu", "noise")[0] == []
    counts, found = results.by_inputs("a", TRAINED)
    assert counts == [8, 16]
    np.testing.assert_allclose(found, [[np.log(2), np.log(3)], [0, 0]])


def test_equations_lie_beside_their_teacher(known):
    assert results.fallen("m", "teacher", "noise", EQUATION).seeds == pytest.approx((0.4, 0.4))
    assert results.gap("m", "noise").mean == pytest.approx(0.5)
    assert results.gap("m", "scatter").mean == pytest.approx(0.5)
    assert (
        results.beside("m", "three laws", "noise").shape == (2, 3)
        and results.fallen("z", "teacher", "noise", EQUATION).seeds == ()
    )
    assert results.rises(["m"], 0) == [-1, 3, -1, 3] and results.rises(["m"], 1) == [0.5, 0, 0.5, 0]


def test_records_of_a_folder_are_gathered_by_part_and_teacher(tmp_path):
    for name in ("bottleneck-plane-image-patch7-seed0", "bottleneck-equation-text-seed1", "dynamics-flow-a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"record": {"name": name}}))
    found = results.gathered(tmp_path)
    assert {part: list(rows) for part, rows in found.items()} == {
        PLANE: ["image-patch7-seed0"],
        EQUATION: ["text-seed1"],
    }
    assert found[EQUATION]["text-seed1"] == {"name": "bottleneck-equation-text-seed1"}


def test_turns_of_training_are_read_at_the_end(monkeypatch):
    rows = np.array([[1.0, 0.2, 0.5], [0.9, 0.1, 0.1]])
    monkeypatch.setattr(results, "path", lambda family, subject, measure: ([0, 4, 9], rows))
    assert results.since_lowest("a", TRAINED, "noise").seeds == pytest.approx((0.3, 0.0))
    assert results.since_highest("a", TRAINED, "noise").seeds == pytest.approx((0.5, 0.8))


def test_a_twin_begins_as_the_teacher_of_its_own_seed(monkeypatch):
    planes = {f"b-seed{seed}": {"moments": {"9": LAST, "0": first}} for seed, first in ((0, MIDDLE), (3, FIRST))}
    monkeypatch.setattr(
        results, "records", lambda: {PLANE: planes | {"b-random-labels-seed3": {"moments": {"9": TWIN}}}}
    )
    assert results.moments("b", RANDOM)[3][0] is FIRST


def test_an_equations_gap_is_the_largest_from_depth_one_whichever_way(monkeypatch):
    subjects = {"teacher": {"noise": [9.0, 3.0, 2.0]}, "three laws": {"noise": [0.0, 1.0, 2.5]}}
    monkeypatch.setattr(results, "records", lambda: {EQUATION: {"m-seed0": {"subjects": subjects}}})
    assert results.gap("m", "noise").seeds == (2.0,) and results.gap("z", "noise").seeds == ()
