"""A figure is itself after rounding, and another one when anything a reader sees has changed."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

import companion
from companion import seals
from companion.figures import base
from companion.records import RecordError

ROWS = np.linspace(0, 6, 7)


def figure(*, curves=(0.9, 0.5), order=(0, 1), title="Cosine", noise=0.0, marker="o", bars=(3.0, 2.0, 1.0)):
    made, axes = base.panels(2)
    for place, level in zip(order, curves, strict=True):
        axes[0, 0].plot(ROWS, level - 0.05 * ROWS + noise, marker=marker, color=f"C{place}", label=f"law {place}")
    axes[0, 0].set(title=title, xlabel="depth", ylim=(0, 1))
    axes[0, 0].legend()
    axes[0, 1].bar(range(3), bars)
    stream = io.BytesIO()
    made.savefig(stream, format="png", dpi=50, bbox_inches="tight")
    plt.close(made)
    return seals.look_of_png(stream.getvalue())


@pytest.fixture(autouse=True)
def look():
    with plt.rc_context():
        base.style()
        yield


@pytest.mark.parametrize("same", [{}, {"noise": 1e-4}, {"curves": (0.9001, 0.4999)}], ids=str)
def test_one_figure(same):
    assert seals.look_alike(figure(), figure(**same))


@pytest.mark.parametrize(
    "other",
    [
        {"order": (1, 0)},
        {"curves": (0.9, 0.6)},
        {"curves": (0.5, 0.9)},
        {"noise": 0.05},
        {"bars": (1.0, 2.0, 3.0)},
        {"bars": (3.0, 2.0, 1.4)},
        {"marker": ""},
        {"title": "Cosine of something else, and longer"},
    ],
    ids=str,
)
def test_another_figure(other):
    assert not seals.look_alike(figure(), figure(**other))


def test_a_figure_of_another_size_is_another():
    assert not seals.look_alike("ff" * 9, "ff" * 12)


def chapter(level):
    companion.start_chapter("50-small")
    companion.record("one", 1, unit="1", atol=0, rtol=0)
    made, axes = base.panels(1)
    axes[0, 0].plot(ROWS, level * np.cos(ROWS), linewidth=3)
    axes[0, 0].set(ylim=(-1, 1))
    companion.finish_chapter()
    plt.close(made)


def test_a_replay_that_draws_another_figure_fails_and_names_it(project_copy, monkeypatch):
    chapter(0.9)
    path = project_copy / "data/results/50-small.json"
    before = path.read_bytes()
    monkeypatch.setenv("PDELENS_REPLAY", "1")
    chapter(0.9)
    with pytest.raises(RecordError, match=r"50-small\.json: figure 1 looks different"):
        chapter(0.4)
    assert path.read_bytes() == before
    monkeypatch.delenv("PDELENS_REPLAY")
    chapter(0.4)
    assert path.read_bytes() != before


def test_a_replay_that_draws_fewer_figures_fails(project_copy, monkeypatch):
    chapter(0.9)
    monkeypatch.setenv("PDELENS_REPLAY", "1")
    monkeypatch.setattr("companion.figures.base.keep_look", lambda figure: None)
    with pytest.raises(RecordError, match="0 figures were drawn, but 1 stand there"):
        chapter(0.9)


def test_rounding_elsewhere_changes_no_file(project_copy, monkeypatch):
    chapter(0.9)
    path = project_copy / "data/results/50-small.json"
    before = path.read_text().split('"figures"')[1]
    monkeypatch.setenv("PDELENS_STEADY", "1")
    chapter(0.9001)
    assert path.read_text().split('"figures"')[1] == before


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, {"a": {"value": 1}}, ["a: new, 1"]),
        ({"a": {"value": 1, "interval": [0, 2]}}, {}, ["a: gone, was 1 in [0, 2]"]),
        ({"a": {"value": 1}}, {"a": {"value": 2}}, ["a: 1 -> 2"]),
        ({"a": {"value": 1, "kind": "timing"}}, {"a": {"value": 2, "kind": "timing"}}, []),
        ({"a": {"value": 1, "kind": "timing"}}, {"a": {"value": 1, "kind": "metric"}}, ["a: 1 -> 1"]),
        ({"a": {"value": 1}}, {"a": {"value": 1}}, []),
    ],
)
def test_what_changes_is_a_line_each(before, after, says):
    assert seals.changes(before, after) == says


def drawn(dpi, outside=""):
    made, axes = base.panels(1)
    made.set_dpi(dpi)
    axes[0, 0].plot(ROWS, np.cos(ROWS), linewidth=3)
    axes[0, 0].text(0.5, 1.4, outside, transform=axes[0, 0].transAxes, fontsize=30)
    return made


def test_a_look_does_not_depend_on_the_resolution_that_a_figure_is_shown_at(monkeypatch):
    looks = set()
    for dpi in (50, 110, 200):
        monkeypatch.setitem(plt.rcParams, "savefig.dpi", dpi)
        made = drawn(dpi)
        looks.add(seals.look(made))
        plt.close(made)
    assert len(looks) == 1


def test_what_stands_outside_the_axes_is_looked_at():
    one, other = (drawn(50, text) for text in ("", "A LONG TITLE"))
    assert not seals.look_alike(seals.look(one), seals.look(other))
    plt.close("all")


def test_a_look_is_the_mean_colours_of_a_grid():
    """A picture of 24 x 16 fields of 2 x 3 pixels each, of which one in six is white."""
    from PIL import Image

    pixels = np.zeros((48, 48, 3), np.uint8)
    pixels[::3, ::2] = 255
    pixels[45:48, 46:48] = (10, 20, 30)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    found = np.frombuffer(bytes.fromhex(seals.look_of_png(stream.getvalue())), np.uint8).reshape(16, 24, 3)
    assert np.abs(found[:, :-1].astype(int) - 255 / 6).max() <= 1
    assert found[-1, -1].tolist() == [10, 20, 30] and seals.ROWS * seals.COLUMNS == 16 * 24


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        ({}, True),
        ({3: 12}, True),
        ({3: 13}, False),
        (dict.fromkeys(range(576), 1), True),
        (dict.fromkeys(range(600), 1), False),
    ],
    ids=str,
)
def test_one_field_may_differ_by_little_and_all_together_by_less(change, alike):
    """Of 1,152 numbers: 12 at one place, or half a step in the mean."""
    one, other = bytearray([100] * 1152), bytearray([100] * 1152)
    for place, by in change.items():
        other[place] += by
    assert seals.look_alike(one.hex(), other.hex()) == seals.look_alike(other.hex(), one.hex()) == alike


def test_a_seal_is_of_what_code_cells_put_out_alone(project_copy):
    def notebook(text="1", prose="words", source="x"):
        return {
            "cells": [
                {"cell_type": "markdown", "source": prose},
                {"cell_type": "code", "source": source, "outputs": [{"text": text}]},
                {"cell_type": "code", "source": source},
            ]
        }

    plain = seals.outputs_digest(notebook())
    assert plain == seals.outputs_digest(notebook(prose="other", source="y")) != seals.outputs_digest(notebook("2"))
    assert seals.sealed() == {}
    seals.seal("02-b", notebook())
    seals.seal("01-a", notebook("2"))
    seals.seal("02-b", notebook("3"))
    found = seals.sealed()
    assert list(found) == ["01-a", "02-b"] and found["02-b"] == seals.outputs_digest(notebook("3"))


ENTRY = {"value": 1.0, "unit": "1", "kind": "metric", "atol": 0.1, "rtol": 0.01, "seeds": 2, "interval": [0.0, 2.0]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"value": 1.109}, ""),
        ({"value": 1.111}, ": the value is 1.111 when recomputed, but 1.0 stands there (atol 0.1, rtol 0.01)."),
        ({"interval": [0.0, 2.119]}, ""),
        ({"interval": [0.0, 2.121]}, ": the interval is [0.0, 2.121] when recomputed, but [0.0, 2.0] stands there"),
        ({"interval": None}, " was recorded with another interval: run"),
        ({"unit": "nats", "seeds": 3}, " was recorded with another unit, seeds: run"),
        ({"atol": 0.2}, " was recorded with another atol: run"),
        ({"rtol": 0.02}, " was recorded with another rtol: run"),
        ({"kind": "timing"}, " was recorded with another kind: run"),
        ({"value": [1.0]}, ": the value is [1.0]"),
        ({"value": "1.0"}, ": the value is"),
    ],
    ids=str,
)
def test_a_difference_is_named_beyond_its_tolerance(changes, says):
    entry = {name: value for name, value in {**ENTRY, **changes}.items() if value is not None}
    found = seals.difference(entry, ENTRY)
    assert found.startswith(says) and bool(found) == bool(says)


def test_timings_are_never_compared_and_texts_only_as_they_are():
    timing = ENTRY | {"kind": "timing"}
    assert seals.difference(timing | {"value": 9.0, "unit": "min"}, timing) == ""
    text = {"value": "a", "unit": "text", "kind": "metric"}
    assert seals.difference(text, text) == "" != seals.difference(text | {"value": "b"}, text)
    assert seals.is_text([["a"]]) and seals.is_text(True) and not seals.is_text([[1.0]]) and not seals.is_text([])


def test_long_values_are_cut_to_one_line():
    (line,) = seals.changes({}, {"a": {"value": list(range(100))}})
    assert len(line) == len("a: new, ") + 120 and line.endswith("...")
    (line,) = seals.changes({}, {"a": {"value": "x" * 117}})
    assert line == f'a: new, "{"x" * 117}"'
    (line,) = seals.changes({}, {"a": {"value": "x" * 118}})
    assert line.endswith("...")
