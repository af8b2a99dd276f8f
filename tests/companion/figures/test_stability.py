import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from companion.figures import base, stability


@pytest.mark.parametrize("split", [False, True])
def test_a_map_has_a_colour_for_each_outcome_and_the_proved_region_in_red(axes, split):
    steps = torch.linspace(0, 0.5, 3), torch.linspace(0, 2.4, 2)
    found = torch.tensor([[0, 0, 1], [0, 2, 2]])
    stability.step_map(axes, *steps, found, split, "a title")
    (mesh,) = axes.collections
    np.testing.assert_array_equal(mesh.get_array().reshape(2, 3), found)
    colours = [to_hex(colour) for colour in mesh.to_rgba(np.array([0, 1, 2]))]
    assert colours == ["#30668c", "#9cc5c9", "#f2efe6"]
    (line,) = axes.lines
    corners = [[0, 1], [0.25, 1], [0.25, 0]] if split else [[0, 1], [0.25, 0]]
    assert line.get_xydata().tolist() == corners and line.get_color() == base.THRESHOLD_COLOUR
    assert axes.get_title() == "a title" and "D" in axes.get_xlabel()


def test_errors_are_points_and_the_nominal_order_is_a_line_through_the_finest(axes):
    found = {"one": (1, [0.5, 0.25], [0.3, 0.1]), "two": (2, [0.5, 0.25], [0.2, 0.04])}
    stability.orders(axes, found)
    points, line, more, parabola = axes.lines
    assert points.get_label() == "one" and points.get_linestyle() == "None"
    np.testing.assert_allclose(points.get_xydata(), [[0.5, 0.3], [0.25, 0.1]])
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.1])
    np.testing.assert_allclose(parabola.get_ydata(), [0.16, 0.04])
    assert points.get_color() == line.get_color() != more.get_color() == parabola.get_color()
    assert points.get_marker() != more.get_marker()
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1/2", "1/4"]
