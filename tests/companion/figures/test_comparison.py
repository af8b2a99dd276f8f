import numpy as np
import pytest

from companion.figures import comparison

GRID = (1, 3)


def test_cosines_are_spaced_by_what_they_lack(axes):
    comparison.by_what_is_missing(axes[0])
    height = axes[0].transData.transform
    places = [height((0, value))[1] for value in (0.0, 0.9, 0.99)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert [label.get_text() for label in axes[0].get_yticklabels()][-2] == "0.98"


def test_every_head_of_every_seed_is_drawn_and_hollow_where_it_carries_no_test(axes):
    ours = {0: np.array([[0.9, 0.99999], [0.8, 0.7]]), 1: np.array([[0.6, 0.6], [0.5, 0.97]])}
    nulls = {1: np.full((2, 2), 0.3), 0: np.array([[0.5, 0.97], [0.5, 0.5]])}
    comparison.heads_beside_nulls(axes[0], ours, nulls, 0.95)
    full_null, flat_null, full, flat = [np.asarray(drawn.get_offsets()) for drawn in axes[0].collections]
    assert len(full_null) == len(full) == 7 and len(flat_null) == len(flat) == 1
    # Above the axis: drawn at its top.
    assert flat[0, 1] == pytest.approx(1 - comparison.LEAST) and flat_null[0, 1] == pytest.approx(0.97)
    lines = {line.get_label(): line.get_ydata() for line in axes[0].lines}
    assert lines["equation"] == pytest.approx([(0.9 + 0.99999 + 1.2) / 4, 2.97 / 4], abs=1e-6)
    assert lines["best null of each head"] == pytest.approx([0.5175, 0.4])


def test_a_row_of_maps_has_one_scale_and_its_bar(axes):
    teacher = np.linspace(0, 1, 400).reshape(20, 20)
    comparison.maps(axes, teacher, {"one": teacher / 2, "two": teacher / 3}, "teacher")
    scales = {axis.images[0].get_clim() for axis in axes}
    assert len(scales) == 1 and scales.pop() == pytest.approx((0, 0.995), abs=1e-6)
    assert [axis.get_title() for axis in axes] == ["teacher", "one", "two"]
    assert len(axes[0].figure.axes) == 4, "a bar stands beside them"
