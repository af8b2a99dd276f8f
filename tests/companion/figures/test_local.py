"""What the figures of heads as drift and diffusion draw: the numbers they are given, and the formulas beside them."""

import numpy as np
import pytest

from companion.figures import local
from companion.figures.base import THRESHOLD_COLOUR

GRID = (2, 3)


def test_decay_has_the_head_its_flow_and_its_first_order(axes):
    wave = np.array([0.0, 0.5, 1.0, 2.0])
    eigenvalues = np.array([1.0, 0.8, 0.3, 1e-9])
    local.decay(axes[0, 0], wave, eigenvalues, 0.75, "a head")
    points, flow, step = axes[0, 0].lines
    # The last is rounding, and the first order has no logarithm where 0.75 k^2 is past 1.
    np.testing.assert_allclose(points.get_xydata(), [[0, 0], [0.5, np.log(0.8)], [1, np.log(0.3)]])
    np.testing.assert_allclose(flow.get_xydata(), [[0, 0], [0.5, -0.1875], [1, -0.75], [2, -3]])
    np.testing.assert_allclose(step.get_xydata(), [[0, 0], [0.5, np.log(0.8125)], [1, np.log(0.25)]])
    assert points.get_label() == "a head" and points.get_linestyle() == "None" and step.get_linestyle() == "--"
    assert points.get_color() == flow.get_color() == step.get_color()


def test_every_head_has_its_field_in_its_panel(axes):
    random = np.random.default_rng(0)
    drift, spread = random.normal(size=(2, 3, 6, 2)), random.uniform(size=(2, 3, 6))
    last = local.drift_fields(axes, drift, spread, (2, 3))
    for (layer, head), axis in np.ndenumerate(axes):
        assert axis.get_title() == f"{layer}.{head}"
        (image,), (arrows,) = axis.images, axis.collections
        np.testing.assert_allclose(image.get_array(), spread[layer, head].reshape(2, 3))
        # Rows go down and columns to the right: the second coordinate is the arrow's horizontal one.
        np.testing.assert_allclose(arrows.U, drift[layer, head, :, 1])
        np.testing.assert_allclose(arrows.V, drift[layer, head, :, 0])
        np.testing.assert_allclose(arrows.get_offsets(), [[i % 3, i // 3] for i in range(6)])
    assert last is axes[1, 2].images[0] and arrows.get_facecolor()[0][0] == pytest.approx(0xB4 / 255)
    assert THRESHOLD_COLOUR == "#b40426"


def test_what_is_left_over_is_a_strip_for_each_approximation(axes):
    random = np.random.default_rng(1)
    found = {
        model: {name: random.uniform(0.1, 2, size=(2, 4)) for name in local.APPROXIMATIONS} | {"truncated": np.ones(8)}
        for model in ("untrained", "trained")
    }
    local.left_over(axes[0, :2], found)
    for axis, (model, values) in zip(axes[0, :2], found.items(), strict=True):
        assert axis.get_title() == model and axis.get_yscale() == "log"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == list(local.APPROXIMATIONS.values())
        dots, bars = axis.collections[::2], axis.collections[1::2]
        assert len(dots) == len(bars) == 7
        for place, (name, cloud, bar) in enumerate(zip(local.APPROXIMATIONS, dots, bars, strict=True)):
            np.testing.assert_allclose(cloud.get_offsets()[:, 1], values[name].ravel())
            assert np.abs(cloud.get_offsets()[:, 0] - place).max() < 0.2
            assert bar.get_segments()[0][0][1] == pytest.approx(np.median(values[name]))
        (line,) = axis.lines
        assert set(line.get_ydata()) == {1} and line.get_color() == "black"
    assert (axes[0, 0].get_ylabel(), axes[0, 1].get_ylabel()) == ("remainder", "")
