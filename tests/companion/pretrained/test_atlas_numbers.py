import json

import numpy as np
import pytest

import companion
from companion.pretrained.atlas_numbers import shown, slug


@pytest.fixture
def chapter(project_copy):
    companion.start_chapter("07-test")
    yield project_copy / "data/results/07-test.json"
    companion.finish_chapter()


ABOUT = {"unit": "share", "atol": 0.01, "rtol": 0}


def test_a_cell_shows_what_is_recorded(chapter, capsys):
    assert shown("one", np.float64(1 / 3), **ABOUT) == "0.33"
    assert shown("two", 1 / 3, (0.3, 0.4), digits=3, **ABOUT) == "0.333 (0.300,\u00a00.400)"
    assert shown("three", 1 / 3, (0.301, 0.4), percent=True, **ABOUT) == "33% (30,\u00a040)"
    assert shown("four", 12, digits=0, **ABOUT) == "12"
    stored = json.loads(chapter.read_text())["records"]
    assert stored["two"] == {"value": 0.33333333, "interval": [0.3, 0.4], "kind": "metric", **ABOUT}
    assert stored["four"]["value"] == 12


def test_a_replay_shows_the_committed_number(chapter, monkeypatch):
    shown("one", 0.331, (0.2, 0.5), **ABOUT)
    companion.finish_chapter()
    monkeypatch.setenv("PDELENS_REPLAY", "1")
    companion.start_chapter("07-test")
    assert shown("one", 0.339, (0.205, 0.505), **ABOUT) == "0.33 (0.20,\u00a00.50)"


def test_what_is_shown_can_be_quoted(chapter, monkeypatch):
    quoted = []
    monkeypatch.setattr("companion.records.quote", quoted.append)
    shown("one", 0.5, **ABOUT)
    assert quoted == ["one"]


def test_names_become_keys():
    assert [slug(name) for name in ("offset, unbiased", "most on special tokens", "speed")] == [
        "offset-unbiased",
        "most-on-special-tokens",
        "speed",
    ]
