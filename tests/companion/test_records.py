import json
import re

import numpy as np
import pytest

import companion
from companion import records
from companion.records import RecordError


@pytest.fixture
def run(project_copy, monkeypatch):
    """Give a function that runs a one-record chapter, as a run or as a replay, and returns what it showed."""

    def run(value=1.25, replay=False, key="number", steady=False, **kwargs):
        monkeypatch.setenv("PDELENS_REPLAY", "1" if replay else "0")
        monkeypatch.setenv("PDELENS_STEADY", "1" if steady else "0")
        companion.start_chapter("07-test")
        shown = companion.record(key, value, **{"unit": "nats", "atol": 0.01, "rtol": 0.0} | kwargs)
        companion.finish_chapter()
        return shown

    run.path = project_copy / "data/results/07-test.json"
    return run


def stored(run):
    return json.loads(run.path.read_text())["records"]


def test_a_run_writes_what_it_shows(run):
    assert run(1 / 3, interval=(0.3, 0.4), seeds=5) == 0.33333333
    assert stored(run)["number"] == {
        "value": 0.33333333,
        "unit": "nats",
        "kind": "metric",
        "interval": [0.3, 0.4],
        "seeds": 5,
        "atol": 0.01,
        "rtol": 0.0,
    }


def test_replay_within_tolerance_shows_the_committed_value_and_writes_nothing(run):
    run(1.25)
    before = run.path.read_bytes()
    assert run(1.255, replay=True) == 1.25
    assert run.path.read_bytes() == before


def test_a_steady_run_keeps_a_value_that_agrees_and_replaces_one_that_does_not(run):
    run(1.25)
    before = run.path.read_bytes()
    assert run(1.255, steady=True) == 1.25 and run.path.read_bytes() == before
    assert run(1.27, steady=True) == 1.27 and stored(run)["number"]["value"] == 1.27
    assert run(1.275, steady=True, atol=0.001) == 1.275, "another tolerance is another record"
    assert run(1.2753) == 1.2753, "asked for anew, every number is written anew"


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({"value": 1.25}, {"value": 1.27}),
        ({"value": [1.0, 2.0]}, {"value": [1.0, 2.1]}),
        ({"value": [1.0, 2.0]}, {"value": [1.0]}),
        ({"value": 1.0, "interval": (0.9, 1.1)}, {"value": 1.0, "interval": (0.8, 1.1)}),
        ({"value": "reproduced"}, {"value": "not reproduced"}),
        ({"value": True}, {"value": False}),
    ],
)
def test_replay_beyond_tolerance_names_file_key_and_both_values(run, then, now):
    run(**then)
    with pytest.raises(RecordError) as error:
        run(**now, replay=True)
    part = "interval" if "interval" in now else "value"
    for named in ("07-test.json", "number", json.dumps(stored(run)["number"][part]), part):
        assert named in str(error.value)


def test_relative_tolerance_is_of_the_committed_value(run):
    run(100.0, atol=0.0, rtol=0.01)
    assert run(100.9, replay=True, atol=0.0, rtol=0.01) == 100.0
    with pytest.raises(RecordError):
        run(101.1, replay=True, atol=0.0, rtol=0.01)


@pytest.mark.parametrize("change", [{"unit": "bits"}, {"atol": 1.0}, {"seeds": 5}, {"interval": (1.0, 2.0)}])
def test_a_changed_contract_is_no_replay(run, change):
    run(1.25)
    with pytest.raises(RecordError, match="was recorded with another"):
        run(1.25, replay=True, **change)


def test_timings_are_never_compared(run):
    run(10.0, kind="timing", unit="s")
    assert run(99.0, replay=True, kind="timing", unit="s") == 10.0


def test_missing_and_superfluous_keys_are_named(run, monkeypatch):
    run(1.25)
    with pytest.raises(RecordError, match="other is not there"):
        run(1.25, replay=True, key="other")
    monkeypatch.setenv("PDELENS_REPLAY", "1")
    companion.start_chapter("07-test")
    with pytest.raises(RecordError, match="number stand there, but no cell recomputed"):
        companion.finish_chapter()


def test_replay_without_results_is_named(run):
    with pytest.raises(RecordError, match="nothing to compare with"):
        run(1.25, replay=True)


def test_half_a_run_loses_nothing_and_a_whole_one_drops_stale_keys(run):
    run(1.0, key="old")
    companion.start_chapter("07-test")
    companion.record("new", 2.0, unit="1", atol=0, rtol=0)
    assert set(stored(run)) == {"old", "new"}
    companion.finish_chapter()
    assert set(stored(run)) == {"new"}


def test_a_run_can_be_kept_out_of_the_committed_results(run, monkeypatch, tmp_path):
    run(1.0)
    monkeypatch.setenv("PDELENS_RESULTS", str(tmp_path / "elsewhere"))
    companion.start_chapter("07-test")
    companion.record("number", 2.0, unit="nats", atol=0, rtol=0)
    companion.finish_chapter()
    assert stored(run)["number"]["value"] == 1.0
    assert json.loads((tmp_path / "elsewhere/07-test.json").read_text())["records"]["number"]["value"] == 2.0


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"value": float("nan")}, RecordError, "only finite"),
        ({"value": {"a": 1}}, TypeError, "a dict was given"),
        ({"atol": None}, ValueError, "needs its tolerance"),
        ({"kind": "metrics"}, ValueError, "choose from metric, timing"),
    ],
)
def test_what_is_no_number_is_refused(run, kwargs, error, says):
    with pytest.raises(error, match=says):
        run(**kwargs)


def test_twice_the_same_key_is_refused_and_so_is_no_chapter(run):
    companion.start_chapter("07-test")
    companion.record("a", 1, unit="1", atol=0, rtol=0)
    with pytest.raises(RecordError, match="recorded twice"):
        companion.record("a", 1, unit="1", atol=0, rtol=0)
    companion.finish_chapter()
    with pytest.raises(RecordError, match="outside a chapter"):
        companion.record("b", 1, unit="1", atol=0, rtol=0)


def test_chapter_settings_are_checked(project_copy):
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        companion.start_chapter("07-test", scale="large")
    assert companion.start_chapter("07-test", scale="smoke").size(smoke=1, book=2) == 1
    assert companion.start_chapter("07-test", scale="full").size(smoke=1, book=2) == 2


def test_numpy_and_torch_values_become_plain_numbers(run):
    import torch

    companion.start_chapter("07-test")
    tolerance = {"unit": "1", "atol": 0, "rtol": 0}
    assert companion.record("a", np.float32(0.5), **tolerance) == 0.5
    assert companion.record("b", torch.tensor([1.0, 2.0]), **tolerance).tolist() == [1, 2]
    assert companion.record("c", np.arange(3), **tolerance).tolist() == [0, 1, 2]
    companion.finish_chapter()


def test_quote_hands_numbers_to_the_prose(run, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw, metadata: shown.append((data, metadata)))
    companion.start_chapter("07-test")
    companion.record("a", 0.5, unit="1", interval=(0.4, 0.6), atol=0, rtol=0)
    companion.record("list", [1, 2], unit="1", atol=0, rtol=0)
    companion.quote("a")
    assert [m["scrapbook"]["name"] for _, m in shown] == ["a", "a.low", "a.high"]
    assert [d["application/papermill.record/text/plain"] for d, _ in shown] == ["0.5", "0.4", "0.6"]
    with pytest.raises(RecordError, match="is an array"):
        companion.quote("list")
    with pytest.raises(RecordError, match="has not been recorded"):
        companion.quote("missing")
    companion.finish_chapter()


def test_one_key_belongs_to_one_chapter(run):
    run(1.0)
    run.path.with_name("08-other.json").write_text(run.path.read_text())
    with pytest.raises(RecordError, match="by 07-test and by 08-other"):
        records.all_records()


def test_a_chapter_ends_where_no_git_is_installed(tmp_path, monkeypatch):
    monkeypatch.delenv("PDELENS_REPLAY", raising=False)
    monkeypatch.setenv("PDELENS_RESULTS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    companion.start_chapter("99-mine")
    companion.record("mine", 1.0, unit="1", atol=0, rtol=0)
    companion.finish_chapter()
    assert "mine" in (tmp_path / "99-mine.json").read_text()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "../x"}, "chapter '../x' was given"),
        ({"name": ""}, "chapter '' was given"),
        ({"name": 1}, "chapter 1 was given"),
        ({"device": "gpu"}, "device 'gpu' was given: 'auto', 'cpu' or 'cuda' is wanted"),
        ({"scale": "huge"}, "scale 'huge' was given"),
    ],
)
def test_a_chapter_is_opened_by_a_name_and_on_a_device(project_copy, given, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        records.start_chapter(**{"name": "50-small"} | given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"rtol": float("inf")}, "rtol=inf was given: a finite number"),
        ({"atol": float("nan")}, "atol=nan was given"),
        ({"atol": -1.0}, "atol=-1.0 was given"),
        ({"interval": (1.0, 0.5)}, "its low end and then its high end are wanted"),
        ({"interval": (0.5, 1.0, 2.0)}, "its low end and then its high end are wanted"),
        ({"interval": (0.5, float("nan"))}, "its low end and then its high end are wanted"),
        ({"key": ""}, "key '' was given: a name is wanted"),
    ],
)
def test_a_record_has_a_name_a_tolerance_and_an_interval_that_mean_something(project_copy, given, says):
    records.start_chapter("50-small")
    with pytest.raises(ValueError, match=re.escape(says)):
        records.record(**{"key": "one", "value": 1.0, "unit": "1", "atol": 0, "rtol": 0} | given)
