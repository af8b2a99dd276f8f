"""Figures of the bottleneck: what is drawn is what was given."""

import numpy as np
import pytest

from companion.figures import bottleneck as figures

GRID = (1, 2)


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_swept_noise_has_a_line_a_depth_the_ceiling_its_half_and_the_bound(axes):
    trained, untrained = np.arange(9.0).reshape(3, 3), 10 + np.arange(9.0).reshape(3, 3)
    figures.swept(axes[0], [0.1, 1, 10], trained, untrained, 4.0, 8)
    found = lines(axes[0])
    for depth in range(3):
        assert found[f"depth {depth}"].get_ydata().tolist() == trained[depth].tolist()
    assert found["untrained, 1"].get_ydata().tolist() == untrained[1].tolist()
    assert found["untrained, 2"].get_ydata().tolist() == untrained[2].tolist()
    noise, bound = found["bound"].get_data()
    np.testing.assert_allclose(bound, 4 / noise**2)
    level = [line.get_ydata()[0] for line in axes[0].lines if str(line.get_label()).startswith("_")]
    assert level == [4.0, 2.0] and axes[0].get_xscale() == "log"


def test_measures_over_depth_are_means_with_their_range(axes):
    curves = {
        "trained": np.array([[1.0, 2.0], [3.0, 6.0]]),
        "memorised": np.array([[5.0, 4.0]]),
        "tanh": np.empty((0,)),
    }
    figures.over_depth(axes[0], curves, top=7.0)
    found = lines(axes[0])
    assert found["trained"].get_ydata().tolist() == [2, 4]
    assert found["the twin, on what it learnt by heart"].get_ydata().tolist() == [5, 4]
    (band,) = axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6) and len(axes[0].lines) == 3
    assert axes[0].lines[-1].get_ydata()[0] == 7 and axes[0].get_ylim() == (0, pytest.approx(7.7))


def test_the_first_step_of_training_has_a_place_on_the_logarithmic_axis(axes):
    figures.over_training(axes[0], {"trained": ([0, 100], np.array([[1.0, 2.0]])), "tanh": ([], np.empty((0,)))})
    (line,) = axes[0].lines
    assert line.get_xdata().tolist() == [3, 100] and line.get_ydata().tolist() == [1, 2]
    assert [text.get_text() for text in axes[0].get_xticklabels()][:2] == ["0", "10"]


def test_a_plane_has_half_noise_across_and_usable_information_up(axes):
    across, up = np.log([[1.0, 2.0], [1.0, 8.0]]), np.array([[0.1, 0.3], [0.3, 0.5]])
    figures.plane(axes[0], {"trained": (across, up), "tanh": (np.empty((0,)), up)}, 2.0, ("1", "6"))
    line = lines(axes[0])["trained"]
    np.testing.assert_allclose(line.get_xdata(), [1, 4])
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.4])
    assert [(text.get_text(), text.xy) for text in axes[0].texts] == [
        ("1", (pytest.approx(1), pytest.approx(0.2))),
        ("6", (pytest.approx(4), pytest.approx(0.4))),
    ]
    flat, upright = (np.array([part.vertices for part in bars.get_paths()]) for bars in axes[0].collections)
    np.testing.assert_allclose(flat[1, :, 0], [2, 8])
    np.testing.assert_allclose(upright[1, :, 1], [0.3, 0.5])


def test_numbers_of_inputs_are_named(axes):
    figures.by_inputs(axes[0], {"trained": ([64, 1024], np.array([[0.1, 0.2]]))})
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["64", "1,024"]
    assert lines(axes[0])["trained"].get_ydata().tolist() == [0.1, 0.2]


def test_a_legend_names_every_look_of_all_planes_once(axes):
    for panel, names in zip(axes, (("trained", "tanh"), ("trained", "teacher")), strict=True):
        paths = {name: (np.zeros((1, 2)), np.ones((1, 2))) for name in names}
        figures.plane(panel, paths, 2.0, ("0", "6"))
    figures.plane_legend(axes[0].figure, np.array([axes]))
    (legend,) = axes[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["trained", "trained, tanh", "Transformer"]
    assert [panel.get_xlabel() for panel in axes] == ["half-noise"] * 2


def test_what_tokens_tell_is_drawn_beside_the_twin_with_its_intervals(axes):
    trained = {
        "depths": [0, 3],
        "ceiling": 2.0,
        "curves": {"itself": [2.0, 1.0], "next": [0.1, 0.5]},
        "interval": {"itself": [[1.9, 2.1], [0.8, 1.1]], "next": [[0.0, 0.2], [0.4, 0.6]]},
    }
    twin = trained | {"curves": {"itself": [2.0, 1.9], "next": [0.0, 0.1]}}
    figures.tokens_told(axes[0], trained, twin)
    found = lines(axes[0])
    assert found["itself"].get_data()[0].tolist() == [0, 3] and found["next"].get_ydata().tolist() == [0.1, 0.5]
    assert found["next, twin"].get_ydata().tolist() == [0, 0.1] and found["next, twin"].get_linestyle() == "--"
    assert "distance 1" not in found
    bars = axes[0].collections[1].get_segments()
    assert [[height for _, height in bar] for bar in bars] == [[0, 0.2], [0.4, 0.6]]
