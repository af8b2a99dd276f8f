"""Figures of the map of training: what is drawn is what was given."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from companion.figures import stabilisers as figures


def test_a_map_has_a_dot_at_each_rows_lowest_loss_and_a_cross_where_cells_diverged(axes):
    losses = np.array([[2.0, 0.5, np.nan], [1.0, 1.5, 2.0]])
    diverged = np.array([[0, 0, 1.0], [0, 0, 0.4]])
    figures.loss_map(axes, losses, diverged, (2e-4, 8e-4, 0.05), (0.5, 2.0))
    (drawn,) = axes.images
    shown = drawn.get_array()
    assert shown.mask.tolist() == [[False, False, True], [False] * 3] and shown[0, 1] == 0.5
    places = {
        marker: [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == marker]
        for marker in "xo"
    }
    assert places["o"] == [(1, 0), (0, 1)] and sorted(places["x"]) == [(2, 0), (2, 1)]
    large, small = (line.get_markersize() for line in axes.lines if line.get_marker() == "x")
    assert large > small
    figures.names(axes, ["pre", "none"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["LayerNorm before", "no norm"]
    figures.loss_scale(axes.figure, [axes], (0.5, 2.0), "loss")
    assert drawn.norm.vmin == 0.5 and axes.figure.axes[-1].get_ylabel() == "loss"


def test_edges_are_lines_with_intervals_beside_one_another(axes):
    found = {"pre": {6: (0.2, 0.1, 0.4), 24: (0.1, 0.1, 0.1)}, "none": {6: (0.05, 0.05, 0.05), 24: (0.02, 0.01, 0.03)}}
    figures.edges(axes, found, [6, 24], 0.8)
    one, other = axes.containers
    assert one[0].get_ydata().tolist() == [0.2, 0.1] and other[0].get_ydata().tolist() == [0.05, 0.02]
    assert one[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([0.1, 0.4])
    assert one[0].get_xdata()[0] < 6 < other[0].get_xdata()[0] < 6.3
    assert [label.get_text() for label in axes.get_xticklabels()] == ["6", "24"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    top = next(line for line in axes.lines if line.get_linestyle() == ":")
    assert top.get_ydata()[0] == 0.8


def test_where_no_network_works_there_is_no_line(axes):
    figures.edges(axes, {}, [6, 12], 0.8)
    assert not axes.containers and axes.get_xlim()[0] < 6 < 12 < axes.get_xlim()[1]


def test_gradients_by_depth_are_geometric_means(axes):
    figures.by_depth(axes, {"rms": np.array([[1.0, 4.0], [4.0, 4.0]])})
    (line,) = axes.lines
    assert line.get_ydata().tolist() == pytest.approx([2, 4]) and line.get_color() == figures.NORM_LOOKS["rms"]["color"]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 4)


def test_heat_among_strangers_is_dashed(axes):
    own, others = np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[1.0, 2.0]])
    figures.heat_costs(axes, {0.3: (own, others), 3.0: (2 * own, others)})
    styles = [line.get_linestyle() for line in axes.lines]
    assert styles == ["-", "--", "-", "--", "-"]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.2, 0.3])
    assert axes.get_legend_handles_labels()[1] == ["0.3", "3"]
    assert to_rgba(axes.lines[0].get_color()) == to_rgba(axes.lines[1].get_color())


def test_two_sets_of_curves_beside_each_other(axes):
    figures.both(axes, np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.5, 0.5]]), ("one", "other"))
    one, other = axes.lines
    assert one.get_xdata().tolist() == [1, 2] and one.get_ydata().tolist() == [2, 3] and one.get_label() == "one"
    assert other.get_linestyle() == "--" and axes.get_ylim()[0] == 0
