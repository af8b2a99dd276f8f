import json
import os

import numpy as np
import pytest

import companion
from companion import keeping
from companion.paths import DataError, checksums
from companion.records import RecordError


@pytest.fixture
def page(project_copy, monkeypatch):
    """Give a function that runs a chapter of one long measurement in two parts, and says which parts were made."""
    work = project_copy / "work"
    work.mkdir()

    def run(values=None, *, replay=False, steady=False, ends=True, **how):
        monkeypatch.setenv("PDELENS_REPLAY", str(int(replay)))
        monkeypatch.setenv("PDELENS_STEADY", str(int(steady)))
        monkeypatch.setenv("PDELENS_RESULTS", str(work))
        values = {"a": [1.0, 2.0], "b": 1 / 3} if values is None else values
        run.made = []
        parts = {name: lambda name=name: run.made.append(name) or values[name] for name in values}
        if replay:
            monkeypatch.delenv("PDELENS_RESULTS")
        chapter = companion.start_chapter("07-test")
        found = companion.kept(chapter, "long", parts, **{"again": "b", "atol": 1e-3, "rtol": 0} | how)
        companion.record("sum", sum(float(value.sum()) for value in found.values()), unit="one", atol=1, rtol=0)
        companion.finish_chapter()
        if ends and not replay:
            (work / "07-test.json").replace(project_copy / "data/results/07-test.json")
            keeping.adopt("07-test", work)
        return {name: value.tolist() for name, value in found.items()}

    run.file = project_copy / "data/kept/07-test-long.json"
    run.results = project_copy / "data/results/07-test.json"
    return run


def test_a_run_measures_all_and_a_replay_one_part(page):
    assert page() == {"a": [1, 2], "b": 0.33333333} and page.made == ["a", "b"]
    assert json.loads(page.file.read_text()) == {"a": [1, 2], "b": 0.33333333}
    assert checksums().keys() == {"kept/07-test-long.json"}
    assert json.loads(page.results.read_text())["about"]["data"] == ["kept/07-test-long.json"]
    assert page({"a": [5.0, 6.0], "b": 0.3334}, replay=True) == {"a": [1, 2], "b": 0.33333333} and page.made == ["b"]


def test_a_replay_whose_part_is_another_fails_and_names_it(page):
    page()
    with pytest.raises(RecordError, match=r"07-test-long\.json: b is another when measured again \(atol 0\.001"):
        page({"a": [1.0, 2.0], "b": 0.335}, replay=True)
    with pytest.raises(RecordError, match="a is another"):
        page({"a": [1.0], "b": 1 / 3}, replay=True, again="a")
    with pytest.raises(RecordError, match="holds other parts"):
        page({"b": 1 / 3}, replay=True)


def test_what_is_kept_is_what_was_listed(page):
    page()
    page.file.write_text(page.file.read_text().replace("2.0", "2.5"))
    with pytest.raises(DataError, match=r"kept/07-test-long\.json has SHA-256"):
        page(replay=True)


def test_a_steady_run_keeps_parts_that_agree(page):
    page()
    assert page({"a": [1.0005, 2.0], "b": 0.5}, steady=True) == {"a": [1, 2], "b": 0.5} and page.made == ["a", "b"]
    assert page({"a": [1.0005, 2.0], "b": 0.5}) == {"a": [1.0005, 2], "b": 0.5}
    assert page({"a": [[1.0005], [2.0]], "b": 0.5}, steady=True)["a"] == [[1.0005], [2]], "of another shape"


def test_a_run_that_fails_leaves_what_is_kept_alone(page):
    page()
    before = page.file.read_bytes()
    page({"a": [7.0, 8.0], "b": 9.0}, ends=False)
    assert page.file.read_bytes() == before


def test_a_page_that_measures_nothing_long_any_more_keeps_nothing(page, tmp_path):
    page()
    (tmp_path / "empty").mkdir()
    keeping.adopt("07-test", tmp_path / "empty")
    assert not page.file.exists() and checksums() == {}


def test_a_notebook_run_by_hand_keeps_at_once(project_copy, monkeypatch):
    monkeypatch.setitem(os.environ, "PDELENS_STEADY", "0")
    chapter = companion.start_chapter("07-test")
    companion.kept(chapter, "long", {"a": lambda: np.arange(3)}, again="a", atol=0, rtol=0)
    assert json.loads((project_copy / "data/kept/07-test-long.json").read_text()) == {"a": [0, 1, 2]}
    assert not list((project_copy / "data/results").glob("*.kept"))


def test_bad_input_is_named(page):
    with pytest.raises(ValueError, match=r"again='c' was given: name one of the parts a, b\."):
        page(again="c")
    with pytest.raises(RecordError, match="not finite"):
        page({"b": float("nan")})
