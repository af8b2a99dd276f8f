import numpy as np
import pytest
from drawn import named

from companion.figures import solution
from companion.figures.refinement import Curve, alone


def curve(mean, half):
    mean, half = np.array(mean), np.array(half)
    return Curve(mean, mean - half, mean + half)


def test_the_solution_stands_beyond_a_break(axes):
    found = curve([0.9, 0.8, 0.7, 0.6, 0.5, 0.2], [0.1] * 6)
    solution.refinement(axes, {"full-k1": found}, null=0.4)
    line = named(axes, solution.LOOKS["full-k1"]["label"])
    assert line.get_ydata().tolist() == [0.9, 0.8, 0.7, 0.6, 0.5], "the line ends before the break"
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    assert points[0].get_xydata().tolist() == [[5.8, 0.2]]
    assert [tick.get_text() for tick in axes.get_xticklabels()][-2:] == ["16", "∞"]
    strokes = [line for line in axes.lines if list(line.get_ydata()) == [-0.02, 0.02]]
    assert len(strokes) == 2 and all(4 < x < 5.8 for stroke in strokes for x in stroke.get_xdata())
    assert named(axes, "best null").get_ydata()[0] == 0.4
    bars, band = axes.collections
    assert sorted(line[0, 0] for line in bars.get_segments()) == pytest.approx([0, 1, 2, 3, 4, 5.8])
    assert max(vertex[0] for path in band.get_paths() for vertex in path.vertices) == 4, "no band across the break"


def test_an_interval_wider_than_the_panel_hides_nothing(axes):
    found = curve([0.9, 0.5, -0.5, -3.0, 0.1, 0.8], [0.1, 0.1, 5.0, 0.1, np.nan, 0.1])
    solution.refinement(axes, {"full-k1": found}, null=0.4, floor=-1.0)
    bars, band = axes.collections
    assert [line[0, 0] for line in bars.get_segments()] == pytest.approx([0, 1, 5.8])
    assert {vertex[0] for path in band.get_paths() for vertex in path.vertices} <= {0.0, 1.0}


def test_what_lies_below_the_floor_is_drawn_there(axes):
    solution.refinement(axes, {"blocks": alone([0.9, 0.5, -0.5, -3.0, 0.1, -2.0])}, null=0.4, floor=-1.0)
    (under,) = (line for line in axes.lines if line.get_marker() == "v")
    assert under.get_xydata().tolist() == [[3, -1], [5.8, -1]]
    line = named(axes, solution.LOOKS["blocks"]["label"])
    assert line.get_ydata().tolist() == [0.9, 0.5, -0.5, -1.0, 0.1]
    assert axes.get_ylim()[0] == -1


def test_the_toy_has_a_line_a_slope_and_its_goal(axes):
    solution.toy(axes, {0.0: [6, 6, 6], 0.9: [6, 3, 2]}, (1, 2, 1024), goal=6)
    assert named(axes, "a = 0.9").get_ydata().tolist() == [6, 3]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "∞"]


def test_a_way_marks_whole_depths(axes):
    path = np.array([[0.0, 1, 2, 3], [0, 1, 4, 9]])
    solution.way(axes, path[:, ::3], path, [0, 2], path[:, :2] + 1, title="one")
    (circles,) = (line for line in axes.lines if line.get_markerfacecolor() == "white")
    assert circles.get_xydata().tolist() == [[0, 0], [2, 4]]
    assert named(axes, "one step a layer").get_xydata().tolist() == [[1, 1], [2, 2]]
    assert [text.get_text() for text in axes.texts] == ["0", "1"] and axes.get_title() == "one"


def test_stiffness_is_beside_one_over_the_size(axes):
    found = {"one-step": np.array([8.0, 2.0]), "refined": np.array([9.0, 3.0])}
    solution.stiffness(axes, found, {"one-step": "a", "refined": "b"}, np.array([0.5, 2.0]))
    assert named(axes, "1 over the state's size, scaled").get_ydata().tolist() == [12, 3]
    assert named(axes, "a").get_ydata().tolist() == [8, 2] and axes.get_yscale() == "log"


def test_defects_have_their_null(axes):
    found = {"one-step": np.array([0.9, 0.4]), "affine": np.array([0.6, 0.5])}
    solution.defects(axes, found, {"one-step": "a"})
    assert named(axes, "a").get_ydata().tolist() == [0.9, 0.4]
    assert named(axes, "best affine map (null)").get_ydata().tolist() == [0.6, 0.5]


def test_the_legend_stands_below(axes):
    axes.plot([0, 1], label="one")
    solution.below(axes.figure, axes, 2)
    (legend,) = axes.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one"]
