import numpy as np
import pytest

from companion.figures import depth_time


def test_dashed_lines_have_their_slopes(axes):
    layers = (6, 12, 24)
    depth_time.tied(axes, layers, {"Lie": [4.0, 2.0, 1.0], "Strang": [1.6, 0.4, 0.1], "control": [3.0, 2.0, 1.0]})
    dashed = [line.get_ydata() for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed[0] == pytest.approx([2.4, 1.2, 0.6]) and dashed[1] == pytest.approx([0.96, 0.24, 0.06])


def test_a_step_has_a_line_a_theory_and_none(axes):
    depth_time.step_error(axes, (1, 0.5), {"both parts": [0.2, 0.1], "commutator alone": [0.6, 0.6]})
    assert axes.get_legend_handles_labels()[1] == ["both parts", "commutator alone", "no theory"]


def test_refined_models_are_a_mean_and_a_range_up_to_infinity(axes):
    values = np.array([[1.0, 0.4], [1.0, 0.8]])
    depth_time.refined(axes, "trained", values, (1, "converged"))
    assert axes.lines[0].get_ydata() == pytest.approx([1, 0.6])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.4, 1.0))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "∞"]
    depth_time.refined(axes, "text", values[:1], (1, "converged"))
    assert len(axes.collections) == 1
    depth_time.null(axes, "text", 0.3)
    assert axes.lines[-1].get_color() == axes.lines[-2].get_color()
