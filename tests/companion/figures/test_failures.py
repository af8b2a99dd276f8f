import matplotlib.pyplot as plt
import numpy as np
import pytest
from drawn import named
from matplotlib.colors import to_hex

from companion.figures import failures
from companion.surrogates.failure_inputs import GROUPS, UNCHANGED
from companion.surrogates.failure_layers import Losses

SIX = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01])


def shown(axis):
    """Return the labels on the vertical axis that lie inside it."""
    axis.figure.canvas.draw()
    low, high = axis.get_ylim()
    return [
        label.get_text()
        for place, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
        if low <= place <= high
    ]


def test_shares_on_a_logarithmic_scale_have_plain_numbers(axes):
    axes.plot([0.0011, 0.9])
    failures.logarithmic(axes)
    assert axes.get_yscale() == "log" and shown(axes) == ["0.001", "0.01", "0.1", "1"]


def test_a_short_scale_has_numbers_between(axes):
    axes.plot([0.13, 0.9])
    failures.logarithmic(axes)
    assert shown(axes) == ["0.2", "0.5"]


def test_non_affinities_stand_beside_their_null(axes):
    found = {"state": SIX, "state-with-averages": SIX / 2, "state-untrained": SIX / 4, "step": SIX * 9}
    failures.non_affinities(axes, found)
    assert named(axes, "each token alone").get_ydata() == pytest.approx(SIX)
    assert named(axes, "and averages over tokens").get_ydata() == pytest.approx(SIX / 2)
    assert named(axes, "untrained twin").get_ydata() == pytest.approx(SIX / 4)
    assert named(axes, "untrained twin").get_xdata().tolist() == [1, 2, 3, 4, 5, 6]


def test_widths_are_drawn_at_both_ways_of_stepping(axes):
    found = {("k1", "16", "converged"): 0.5, ("k1", "64", "converged"): 0.4}
    found |= {("k1", "16", "1"): 2.0, ("k1", "64", "1"): 3.0}
    failures.widths(axes, found, {"k1": "shared"}, ["sixteen", "sixty-four"])
    converged, single = axes.lines
    assert converged.get_ydata() == pytest.approx([0.5, 0.4]) and converged.get_label() == "shared"
    assert single.get_ydata() == pytest.approx([2, 3]) and single.get_markerfacecolor() == "white"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["sixteen", "sixty-four"]


def test_losses_are_means_over_seeds_in_their_range(axes):
    two = np.stack([SIX, 3 * SIX])
    failures.losses(axes, Losses(two, two / 2, two[:1], two * 9))
    assert named(axes, "equation, local").get_ydata() == pytest.approx(2 * SIX)
    assert named(axes, "affine map, local").get_ydata() == pytest.approx(SIX)
    assert named(axes, "equation, rolled out").get_ydata() == pytest.approx(SIX)
    local = axes.collections[0].get_paths()[0].vertices
    assert local[local[:, 0] == 1][:, 1].min() == 0.5 and local[local[:, 0] == 1][:, 1].max() == 1.5
    assert any(list(line.get_ydata()) == [1, 1] for line in axes.lines), "the mean state"


def test_the_horizon_has_a_panel_for_each_measure():
    figure, panels = plt.subplots(2)
    found = {"all": (1 - SIX, SIX), "short": (1 - 2 * SIX, 2 * SIX), "null": (SIX, SIX + 0.3)}
    failures.horizon(panels, found, {"all": "all layers", "short": "four"}, end=4.5)
    for panel, part in zip(panels, (0, 1), strict=True):
        assert named(panel, "four").get_ydata() == pytest.approx(found["short"][part])
        assert named(panel, "null").get_ydata() == pytest.approx(found["null"][part])
        assert any(list(line.get_xdata()) == [4.5, 4.5] for line in panel.lines)
    assert panels[0].get_yscale() == "linear" and panels[1].get_yscale() == "log"
    plt.close(figure)


def test_every_example_is_a_point_and_every_null_a_named_line(axes):
    known = {"margin of the teacher": np.array([1.0, 2.0, 3.0]), "teacher is right": np.array([1.0, 0.0, 1.0])}
    failures.margins(axes, known, np.array([0.9, 0.8, 0.7]), {"mean map": 0.5, "look-up": 0.6})
    right, wrong = axes.collections
    assert right.get_offsets().tolist() == [[1, 0.9], [3, 0.7]] and right.get_label() == "teacher right"
    assert wrong.get_offsets().tolist() == [[2, 0.8]]
    heights = {text.get_text(): text for text in axes.texts}
    assert heights["mean map"].xy[1] == 0.5 and heights["look-up"].xy[1] == 0.6
    assert heights["mean map"].get_verticalalignment() == "top", "names don't meet"
    assert heights["look-up"].get_verticalalignment() == "bottom"
    assert {0.5, 0.6} <= {line.get_ydata()[0] for line in axes.lines}


def test_maps_of_an_example_have_one_scale():
    figure, panels = plt.subplots(3)
    theirs, ours = np.full((2, 2), 0.25), np.array([[1.0, 0.0], [0.0, 1.0]])
    failures.example(panels, np.ones((4, 4)), [theirs, ours], "worst: 0.81")
    assert panels[0].get_title() == "worst: 0.81" and not panels[0].get_xticks().size
    teacher, equation = (panel.images[0] for panel in panels[1:])
    assert teacher.get_array().data == pytest.approx(np.full((2, 2), 0.5)), "square roots"
    assert equation.get_clim()[1] == teacher.get_clim()[1] == 0.5
    plt.close(figure)


def test_shifts_are_coloured_by_kind(axes):
    row = {"moved": 1.0, "cosine": 0.8, "one step": 0.7, "mean map": 0.4}
    found = {"image": {UNCHANGED: row | {"moved": 0.0}, "inversion": row}, "text": {"pieces shuffled": row}}
    failures.shifts(axes, found, "one step")
    points, crosses = axes.collections[::2], axes.collections[1::2]
    assert [one.get_offsets()[0].tolist() for one in points] == [[0, 0.7], [1, 0.7], [1, 0.7]]
    assert [one.get_offsets()[0].tolist() for one in crosses] == [[0, 0.4], [1, 0.4], [1, 0.4]]
    colours = [to_hex(one.get_facecolor()[0]) for one in points]
    assert len(set(colours)) == 3 and len(points[1].get_paths()[0]) != len(points[2].get_paths()[0])
    assert axes.get_xlim()[1] > 3, "whatever is moved far is inside"
    failures.shift_legend(axes)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [UNCHANGED, *GROUPS, "mean map"], "six looks, not one for each of twenty shifts"
