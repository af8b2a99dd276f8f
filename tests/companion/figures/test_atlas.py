import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgba

from companion.figures import atlas, base
from pdelens.plots import COLOURS


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_heads_are_ordered_anew_for_each_radius_beside_the_even_head(axes):
    within = {1.0: np.array([[0.1, 0.6], [0.3, 0.2]]), 4.0: np.array([[0.9, 0.5], [0.4, 0.8]])}
    atlas.mass_curves(axes, within, {1.0: 0.05, 4.0: 0.3})
    lines = labelled(axes)
    assert lines["within 1"].get_ydata().tolist() == [0.6, 0.3, 0.2, 0.1]
    assert lines["within 4"].get_ydata().tolist() == [0.9, 0.8, 0.5, 0.4]
    assert lines["within 1"].get_xdata().tolist() == [0.125, 0.375, 0.625, 0.875]
    assert lines["even head"].get_linestyle() == "--"
    dashed = {to_hex(line.get_color()): line.get_ydata()[0] for line in axes.lines if line.get_label()[0] == "_"}
    colours = [to_hex(lines[f"within {radius}"].get_color()) for radius in (1, 4)]
    assert dashed == {colours[0]: 0.05, colours[1]: 0.3}


def test_every_head_stands_by_spread_and_drift_in_its_classs_colour(axes):
    spread, drift = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 0.2], [0.3, 0.4]])
    classes = np.array([["advective", "diffusive"], ["sink", "diffusive"]])
    atlas.drift_against_spread(axes, (spread, drift), (spread + 10, drift / 10), classes)
    lines = labelled(axes)
    assert list(lines) == ["untrained twin", "sink", "advective", "diffusive"], "no class without heads"
    assert lines["untrained twin"].get_xydata().ravel() == pytest.approx([11, 0.5, 12, 0.02, 13, 0.03, 14, 0.04])
    assert lines["diffusive"].get_xydata().tolist() == [[2, 0.2], [4, 0.4]]
    assert lines["advective"].get_xydata().tolist() == [[1, 5]] and lines["sink"].get_xydata().tolist() == [[3, 0.3]]
    assert lines["sink"].get_color() == COLOURS["sink"]
    assert lines["untrained twin"].get_zorder() > lines["sink"].get_zorder(), "it would be hidden behind the heads"
    (diagonal,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert np.array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_layers_have_their_medians_and_the_twins(axes):
    heads = np.array([[0.1, 0.2, 0.9], [0.3, 0.4, 0.5]])
    atlas.by_layer(axes, heads, heads / 10, "mass", "C1")
    dots, median, twin = axes.lines
    assert dots.get_xydata().tolist() == [[0, 0.1], [0, 0.2], [0, 0.9], [1, 0.3], [1, 0.4], [1, 0.5]]
    assert median.get_ydata().tolist() == [0.2, 0.4] and median.get_label() == "mass"
    assert twin.get_ydata() == pytest.approx([0.02, 0.04])
    assert (twin.get_linestyle(), twin.get_color()) == ("--", "C1")
    atlas.by_layer(axes, heads, heads / 10, "mass", "C1", color="0.45", linestyle=":", label="twin")
    assert (axes.lines[-1].get_linestyle(), axes.lines[-1].get_color()) == (":", "0.45")


def test_causal_heads_stand_beside_the_even_head_from_one_token_on(axes):
    trained = np.arange(101.0)[:, None] * np.ones(5)
    even = np.array([0.5, 1, 1.5, 2, 2.5])
    atlas.against_even(axes, trained, trained + 1, even, even / 5, "head 1.2")
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((5, 95))
    lines = labelled(axes)
    assert lines["trained heads"].get_xydata().tolist() == [[back, 50] for back in range(1, 6)]
    assert lines["untrained twin"].get_xydata().tolist() == [[1, 51], [3, 51], [5, 51]]
    assert lines["even head"].get_ydata().tolist() == even.tolist() and lines["even head"].get_color() == "black"
    assert lines["head 1.2"].get_ydata() == pytest.approx(even / 5)


def test_what_is_left_out_stands_in_rows_the_first_on_top(axes):
    each = {"one step": np.array([100.0, 10, 1000]), "row": np.array([0.2, 0.1, 0.3, 0.4])}
    atlas.remainders(axes, each)
    dots = [np.asarray(part.get_offsets()) for part in axes.collections[::2]]
    bars = [part.get_segments()[0] for part in axes.collections[1::2]]
    assert dots[0][:, 0].tolist() == [100, 10, 1000] and dots[1][:, 0].tolist() == [0.2, 0.1, 0.3, 0.4]
    assert all(np.abs(part[:, 1] - row).max() <= 0.2 for row, part in enumerate(dots))
    assert [bar[0][0] for bar in bars] == pytest.approx([100, 0.25])
    low, high = axes.get_ylim()
    assert low > high and axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["one step", "row"]
    (line,) = axes.lines
    assert set(line.get_xdata()) == {1}


def test_the_query_is_marked_in_its_row_and_column(axes):
    atlas.queried(axes, np.zeros((32, 32, 3)), (3, 1), 8, "a picture")
    corners = axes.lines[0].get_xydata()
    assert corners.min(0).tolist() == [4, 12] and corners.max(0).tolist() == [8, 16]
    assert axes.get_title() == "a picture"


def test_a_portrait_says_all_that_its_head_is_furthest_in(axes):
    attention = np.linspace(0, 1, 16).reshape(4, 4)
    atlas.portrait(axes, attention, ["sharpest", "longest range", "flattest"], (2, 7), "sink")
    assert axes.get_title() == "sharpest,\nlongest range,\nflattest\n2.7"
    assert np.allclose(axes.images[0].get_array(), np.sqrt(attention))
    assert axes.spines["left"].get_edgecolor() == to_rgba(COLOURS["sink"])


def test_shared_panels_keep_the_first_row_on_top():
    figure, axes = base.panels(3, sharey=True)
    for axis in axes[0]:
        atlas.remainders(axis, {"a": np.ones(2), "b": np.ones(2)})
    low, high = axes[0, 0].get_ylim()
    plt.close(figure)
    assert low > high
