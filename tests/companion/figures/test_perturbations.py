"""Figures of perturbations: what is drawn is what was given."""

import numpy as np
import pytest

from companion.figures import perturbations as figures
from companion.seeds import over_seeds

GRID = (1, 2)


def lines(axes):
    return {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in axes.lines}


def test_curves_are_means_over_seeds_with_their_range(axes):
    sizes = np.array([0.1, 1.0])
    figures.by_size(axes[0], {"teacher": (sizes, np.array([[1.0, 2.0], [3.0, 6.0]]))})
    assert lines(axes[0]) == {"Transformer": [2, 4]} and axes[0].get_xscale() == axes[0].get_yscale() == "log"
    (band,) = axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6)
    figures.by_depth(axes[1], {"untrained twin": np.array([[1.0, 1.5, 2.0]])})
    found = lines(axes[1])
    assert found["untrained twin"] == [1, 1.5, 2] and found["identity"] == [1, 1]


def test_ranks_are_dots_with_intervals_a_row_for_each_kind(axes):
    found = {
        "noise": {"three laws": over_seeds([0.5, 0.7]), "one-step field": over_seeds([0.9])},
        "token": {"three laws": over_seeds([0.1, 0.3])},
    }
    figures.ranks(axes[0], found, {"noise": "noise", "token": "one token"})
    dots = [line for line in axes[0].lines if line.get_marker() in ("o", "d")]
    assert [float(line.get_xdata()[0]) for line in dots] == pytest.approx([0.6, 0.9, 0.2])
    assert [line.get_marker() for line in dots] == ["o", "d", "o"]
    low, high = found["noise"]["three laws"].interval
    assert axes[0].collections[0].get_segments()[0][:, 0].tolist() == pytest.approx([low, high])
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["noise", "one token"]


def test_exponents_are_drawn_in_their_order(axes):
    found = {"teacher": [over_seeds([1.0, 2.0]), over_seeds([0.5, 0.5])]}
    figures.spectrum(axes[0], found)
    (line,) = axes[0].lines
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == [1.5, 0.5]


def test_pretrained_models_are_drawn_beside_their_twins(axes):
    trained = {"growth": {"relative": [1, 0.5], "token": [1, 0.4]}, "layers": [[3.0, 2.0], [2.0, 1.0]]}
    twin = {"growth": {"relative": [1, 1.1], "token": [1, 1]}, "layers": [[1.5, 1.2], [1.4, 1.1]]}
    figures.relative_growth(axes[0], trained, twin)
    found = lines(axes[0])
    assert found["whole state"] == [1, 0.5] and found["median token"] == [1, 0.4]
    assert found["random twin, whole state"] == [1, 1.1]
    figures.layer_values(axes[1], trained, twin)
    found = lines(axes[1])
    assert found["trained, largest"] == [3, 2] and found["random twin, fourth"] == [1.2, 1.1]
    figures.shared_legend(axes[0].figure, axes[1])
    assert len(axes[0].figure.legends[0].get_texts()) == 4
