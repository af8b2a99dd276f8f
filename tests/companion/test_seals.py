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
