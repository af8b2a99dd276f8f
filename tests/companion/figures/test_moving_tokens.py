"""The animation: what is drawn without a script, what the script is given, what is read aloud."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from companion.figures import moving_tokens

PATHS = np.random.default_rng(0).normal(size=(3, 2, 2))
NAMES = ['"quoted" <piece>', "film"]


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [about for name, about in self.tags if name == tag]


@pytest.fixture
def places():
    return moving_tokens.frames(PATHS, *moving_tokens.corners([PATHS]))


@pytest.fixture
def seen(places):
    seen = Seen()
    panels = {"Transformer": ((0, 1, 2), places), "equation": ((0, 0.5, 2), places[::-1])}
    seen.feed(moving_tokens.html("here", panels, "dots move", NAMES))
    return seen


def test_frames_fill_the_panel_in_one_scale_and_upwards():
    low, high = np.array([-1.0, 0.0]), np.array([3.0, 2.0])
    found = moving_tokens.frames(np.array([[[-1.0, 0.0], [3.0, 2.0], [1.0, 1.0]]]), low, high)[0]
    edge, side = moving_tokens.EDGE, moving_tokens.SIDE
    assert found[:, 0].tolist() == [edge, side - edge, side // 2]
    scale = (side - 2 * edge) / 4
    assert found[:, 1].tolist() == [round(side / 2 + scale), round(side / 2 - scale), side // 2]
    assert found.dtype.kind == "i"


def test_corners_are_of_all_paths():
    low, high = moving_tokens.corners([PATHS, PATHS + 5])
    np.testing.assert_allclose([low, high], [PATHS.min((0, 1)), PATHS.max((0, 1)) + 5])


def test_without_a_script_tokens_stand_at_the_end_of_their_paths(seen, places):
    circles = [(int(one["cx"]), int(one["cy"])) for one in seen.all("circle")]
    assert circles == [*map(tuple, places[-1].tolist()), *map(tuple, places[0].tolist())]
    ways = [one["points"] for one in seen.all("polyline")]
    assert ways[1] == " ".join(f"{x},{y}" for x, y in places[:, 1].tolist()) and len(ways) == 4
    assert seen.all("div")[-1].get("class") == "controls" and "hidden" in seen.all("div")[-1]


def test_the_script_has_every_time_and_place(seen, places):
    script = next(text for text in seen.texts if "getElementById" in text)
    data = json.loads(re.search(r"all=(\[.*?\]),slide", script, re.DOTALL)[1])
    assert [one["t"] for one in data] == [[0, 1, 2], [0, 0.5, 2]]
    assert data[0]["p"] == places.reshape(3, -1).tolist()
    assert 'getElementById("here")' in script


def test_it_is_named_reached_by_keys_and_nothing_is_loaded(seen):
    assert [one["aria-label"] for one in seen.all("svg")] == ["Transformer: dots move", "equation: dots move"]
    assert all(one["role"] == "img" for one in seen.all("svg"))
    (slider,) = seen.all("input")
    assert slider["type"] == "range" and float(slider["max"]) == 2
    assert seen.all("label")[0]["for"] == slider["id"] and len(seen.all("button")) == 1
    assert [text for text in seen.texts if text in NAMES] == NAMES * 2
    assert not [about for _, about in seen.tags if {"src", "href", "onclick"} & about.keys()]


def test_where_no_html_can_be_shown_a_sentence_stands(places, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    moving_tokens.show("here", {"a": ((0, 1, 2), places)}, "dots move", NAMES, "see the figure")
    assert shown[0]["text/plain"] == "see the figure" and "<svg" in shown[0]["text/html"]
