import json

import numpy as np
import pytest

import companion
from companion.seeds import over_seeds
from companion.surrogates import comparison_nulls as beside
from companion.surrogates import comparison_rows, results
from companion.surrogates.comparison_nulls import Head


@pytest.fixture
def records(project_copy):
    """Open a chapter and give what it has recorded so far."""
    companion.start_chapter("06-test")

    def values():
        whole = json.loads((project_copy / "data/results/06-test.json").read_text())["records"]
        return {key: entry["value"] for key, entry in whole.items()}

    return values


@pytest.fixture(autouse=True)
def known(monkeypatch):
    nulls = {0: np.array([[0.5, 0.7], [0.96, 0.98]]), 1: np.array([[0.3, 0.5], [0.9, 0.9]])}
    ours = {0: np.array([[0.9, 0.9], [0.97, 0.97]]), 1: np.array([[0.7, 0.9], [0.8, 0.96]])}
    monkeypatch.setattr(beside, "by_seed", lambda teacher: nulls)
    monkeypatch.setattr(beside, "cosines", lambda *_: ours)
    monkeypatch.setattr(results, "seed_mean", lambda t, f, measure, r: over_seeds([0.5, 0.7]))
    monkeypatch.setattr(results, "ceiling", lambda t, measure: over_seeds([0.1, 0.1]))
    monkeypatch.setattr(results, "null_seed_mean", lambda t, name, measure: over_seeds([0.2]))
    monkeypatch.setattr(beside, "look_up_mean", lambda t, measure: over_seeds([0.6]))


def test_what_a_row_shows_is_on_record(records):
    shown = comparison_rows.agreement("a", "image", "full")
    assert len(shown) == len(comparison_rows.MEASURES) and shown[0] == "0.600 ± 1.271"
    # Missing: .2 of .8 and .06 of .06; .4 of 1.2 and .24 of .2: worst layers 0 and -.2.
    assert records()["a.pooled-skill"] == pytest.approx(-0.1)
    assert records()["a.worst-head"] == pytest.approx(0.6) and "a.centred-cosine" in records()
    assert comparison_rows.agreement("b", "image", "full", measures=["r2"]) == ["0.600 ± 1.271"]


def test_a_measure_that_is_not_known_is_shown_and_not_recorded(records):
    assert comparison_rows.live_mean("nothing", over_seeds([])) == "–"
    companion.record("one", 1.0, unit="1", atol=0, rtol=0)
    assert list(records()) == ["one"]


def test_nulls_and_other_seeds_fill_their_columns_alone(records):
    columns = len(comparison_rows.MEASURES)
    assert comparison_rows.null("n", "image", "uniform") == ["0.200", "0.200", *["–"] * (columns - 2)]
    assert comparison_rows.null("l", "image", beside.LOOK_UP)[0] == "0.600"
    assert comparison_rows.other_seed("c", "image")[2:] == ["0.100 ± 0.000", *["–"] * (columns - 3)]
    assert {"n", "n.worst-head", "l", "l.worst-head", "c.cosine", "c.centred-cosine"} <= records().keys()


def test_layers_show_means_ranges_and_how_many_heads_carry_no_test(records):
    rows = comparison_rows.by_layer("a", "image", {"full": "k1"})
    assert rows[0] == ["1", "0.50 (0.40–0.60)", "0.85 (0.80–0.90)", "0.71 (0.67–0.75)", "0", "0"]
    assert rows[1][1] == "0.94 (0.90–0.97)" and rows[1][-2:] == ["2", "2"]
    assert np.allclose(records()["a.null"], [[0.6, 0.97], [0.4, 0.9]])
    assert np.shape(records()["a.k1.skill"]) == (2, 2)


def test_heads_are_named_by_seed_and_counted(records, monkeypatch):
    monkeypatch.setattr(beside, "not_above", lambda t, family: [Head(0, 2, 2), Head(1, 1, 1)])
    rows = comparison_rows.heads("a", "image", ["full"])
    assert rows == [["0", "2.1, 2.2", "2.2"], ["1", "none", "1.1"]]
    assert records() == {"a.untestable": 2, "a.full.below": 2, "a.full.below.testable": 1}


def test_a_way_of_stepping_in_words():
    plan = {"graded": [[3, 5], [2, 2]], "method": "heun", "entry": [1 / 64, 1 / 4]}
    assert comparison_rows.stepping(plan) == "heun, 3 to 5 then 2 a layer; first layer cut at 1/64, 1/4"
    assert comparison_rows.stepping(plan | {"entry": []}) == "heun, 3 to 5 then 2 a layer"
