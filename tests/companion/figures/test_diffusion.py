import numpy as np
import pytest

from companion.figures import diffusion


def test_a_wide_spread_does_not_flatten_the_profile(axes):
    learnt = diffusion.Learnt(0.03, 0.7, 5.0)
    diffusion.profile(axes, (0.02, 0.1, 0.4), (0.8, 0.7, 0.5), learnt, "C0")
    low, high = axes.get_ylim()
    assert low == pytest.approx(0.5 - 0.35 * 0.3) and high == pytest.approx(0.8 + 0.35 * 0.3)
    (bar,) = axes.collections
    assert bar.get_segments()[0].tolist() == pytest.approx(np.array([[0.03, -4.3], [0.03, 5.7]]))
    line = axes.lines[0]
    assert line.get_ydata() == pytest.approx([0.8, 0.7, 0.5]) and axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.02", "0.1", "0.4"]


def test_a_flat_profile_still_has_a_panel(axes):
    diffusion.profile(axes, (0.02, 0.4), (0.8, 0.8), diffusion.Learnt(0.1, 0.8, 0.0), "C0")
    low, high = axes.get_ylim()
    assert low < 0.8 < high


def test_shares_are_stacked(axes):
    diffusion.budget(axes, {"diffusion": np.array([0.1, 0.2]), "attention": np.array([0.9, 0.8])})
    bars = [value for bar in axes.patches for value in (bar.get_y(), bar.get_height())]
    assert bars == pytest.approx([0, 0.1, 0, 0.2, 0.1, 0.9, 0.2, 0.8])
    assert axes.get_legend_handles_labels()[1] == ["diffusion", "attention"]
