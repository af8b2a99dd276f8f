import matplotlib.pyplot as plt
import numpy as np
import pytest

from companion.estimators.results import Panel
from companion.figures import information


def test_names_are_cut_short_and_say_the_truth():
    assert information.label("half_cube-multinormal-sparse-5-5-2-2.0", 1.0217) == "half_cube-mn-sparse-5-5-2-2.0  1.02"
    assert information.label("gaussian-channel-8-2.0", 2.0) == "channel-8-2.0  2.00"


def test_the_ceiling_is_a_sum_of_inverse_numbers():
    assert information.ksg_ceiling(500, 10) == pytest.approx(sum(1 / n for n in range(11, 500)))


def test_channels_show_crossings_as_crosses():
    rows = [
        {"method": "ksg", "samples": 50, "dims": [1, 1], "channel": channel, "truth": 0.5, "value": 0.4}
        for channel in (True, False)
    ]
    figure, axes = plt.subplots(2, 2, squeeze=False)
    information.channels(axes, Panel([*rows, *({**row, "samples": 90} for row in rows)]), (1, 5), (50, 90))
    crosses = [[line for line in axis.lines if line.get_marker() == "x"] for axis in axes.ravel()]
    assert [len(found) for found in crosses] == [1, 0, 1, 0]
    assert axes[0, 0].get_title() == "1 + 1, N = 50" and axes[1, 0].get_ylabel() == "estimated"
    ceilings = [line.get_ydata()[0] for line in axes[0, 0].lines if line.get_linestyle() == ":"]
    assert ceilings == pytest.approx([information.ksg_ceiling(50)])
    plt.close(figure)


def test_intervals_are_drawn_over_the_truth(axes):
    rows = {
        "auto": [{"task": "b", "seed": 0, "value": 1.0, "interval": (0.5, 2.0)}],
        "ksg": [{"task": "b", "seed": 0, "value": 0.5, "interval": (0.4, 0.6)}],
    }
    information.intervals(axes, rows, {"a": 1.0, "b": 2.0})
    spans = [collection.get_segments()[0] for collection in axes.collections]
    assert [list(span[:, 1]) for span in spans] == [[0.25, 1.0], [0.2, 0.3]]
    assert all(abs(span[0, 0] - 1) < 0.5 for span in spans) and spans[0][0, 0] != spans[1][0, 0]
    assert axes.get_legend_handles_labels()[1] == ["auto", "ksg"]


def test_lines_of_neighbours_depths_and_levels(axes):
    information.neighbours(axes, (1, 10), {"pair": np.array([1.0, 0.5])})
    assert axes.lines[0].get_ydata() == pytest.approx([1, 0.5])
    axes.clear()
    curves = np.array([[3.0, 2.0], [1.0, 0.5], [0.2, 0.1]])
    information.over_levels(axes, (0.1, 1.0), curves, 3.5)
    assert [list(line.get_ydata()) for line in axes.lines[:3]] == curves.tolist()
    assert axes.lines[3].get_ydata()[0] == 3.5
    axes.clear()
    information.over_depth(axes, (0.1, 1.0), curves, 3.5)
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == curves.T.tolist()
