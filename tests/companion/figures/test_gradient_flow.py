"""Figures of gradients: what is drawn is what was given."""

import numpy as np
import pytest

from companion.figures import gradient_flow as figures

RANDOM = np.random.default_rng(0)
GRID = (1, 4)


def test_curves_are_means_over_seeds_with_their_range(axes):
    found = {"teacher": np.array([[1.0, 2.0], [3.0, 6.0]]), "identity": np.array([[5.0, 5.0]]), "one law": np.empty(0)}
    figures.curves(axes[0], found, start=1)
    lines = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes[0].lines}
    assert lines == {"Transformer": ([1, 2], [2, 4]), "identity": ([1, 2], [5, 5])}
    (band,) = axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6)
    figures.units(axes[1], {"teacher": np.zeros((2, 6))})
    assert axes[1].lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]


def test_gradients_are_drawn_each_to_its_own_largest_beside_the_picture(axes):
    found = {
        name: RANDOM.normal(size=(4, 4)) * size for name, size in (("teacher", 1), ("three laws", 9), ("seed 1", 2))
    }
    pixels = RANDOM.uniform(size=(4, 4))
    figures.picture_row(axes, pixels, found, {name: 0.25 for name in found}, "no. 1")
    np.testing.assert_array_equal(axes[0].images[0].get_array(), pixels)
    for panel, gradient in zip(axes[1:], found.values(), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), gradient)
        top = np.quantile(abs(gradient), 0.995)
        assert panel.images[0].get_clim() == (pytest.approx(-top), pytest.approx(top))
    assert [panel.get_title() for panel in axes] == ["no. 1", "Transformer", "equation: 0.25", "another\nseed: 0.25"]


def test_saliency_has_a_row_for_each_word_and_a_column_for_each_model(axes):
    found = {name: RANDOM.uniform(0, 0.4, 3) for name in ("teacher", "three laws")}
    figures.saliency_columns(axes[0], ["good", "bad", "film"], found, {"teacher": 1.0, "three laws": 0.5})
    shares = axes[0].images[0].get_array()
    np.testing.assert_allclose(shares, 100 * np.stack(list(found.values()), 1))
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["good", "bad", "film"]
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["Transformer", "equation\n0.50"]


def test_normalisations_are_drawn_trained_and_as_they_began(axes):
    trained = {name: np.array([[float(number), 1.0]]) for number, name in enumerate(figures.NORMS)}
    begun = {name: each + np.array([[10.0], [30.0]]) for name, each in trained.items()}
    figures.placements(axes[0], trained, begun, 1)
    lines = {line.get_label(): line for line in axes[0].lines if not line.get_label().startswith("_")}
    assert len(lines) == 8
    full, broken = lines["dynamic tanh"], lines["dynamic tanh, untrained"]
    assert full.get_ydata().tolist() == [2, 1] and full.get_xdata().tolist() == [1, 2]
    assert broken.get_ydata().tolist() == [22, 21] and broken.get_linestyle() == "--"
    assert broken.get_color() == full.get_color() and len(axes[0].collections) == 4
    heights = axes[0].collections[2].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (11, 32)


def test_a_span_is_of_two_digits_and_names_what_has_no_number():
    assert figures.span([0.00043, 0.2]) == "0.00043 to 0.2"
    assert figures.span([0.5]) == "0.5" and figures.span([1.0, float("inf")]) == "1 to no path"
