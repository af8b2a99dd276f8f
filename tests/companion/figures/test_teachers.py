"""What the figures of teachers draw: the pictures, curves and levels that they are given."""

import numpy as np
import pytest
import torch

from companion.figures import teachers
from companion.teachers.reliability import Reliability

GRID = (4, 10)


def test_each_class_has_its_first_pictures_in_its_column(axes):
    labels = np.tile(np.arange(10), 5)[::-1]
    images = np.arange(50)[:, None, None] * np.ones((1, 28, 28))
    teachers.examples(axes, images, labels)
    for (row, kind), axis in np.ndenumerate(axes):
        first = [int(place) for place in np.flatnonzero(labels == kind)][:4]
        assert np.all(axis.images[0].get_array() == first[row])
        assert axis.get_title() == (teachers.CLASSES[kind] if row == 0 else "")
        assert not axis.axison and len(axis.lines) == (12 if row == 3 else 0)
    across = [line.get_ydata()[0] for line in axes[3, 0].lines[::2]]
    down = [line.get_xdata()[0] for line in axes[3, 0].lines[1::2]]
    assert across == down == [3.5, 7.5, 11.5, 15.5, 19.5, 23.5]  # between the pixels of 7 x 7 patches


@pytest.mark.parametrize(("column", "label"), [(1, "nats a token"), (2, "accuracy")])
def test_learning_shows_running_batches_pale_and_other_examples_dark(axes, column, label):
    curves = [np.array([[0, 4, 0.1, 5, 0.2], [10, 2, 0.5, 3, 0.4]]) + shift for shift in (0, 0.01)]
    teachers.learning(axes[0, 0], curves, column, (5,), "a title")
    *lines, dot = axes[0, 0].lines
    for number, curve in enumerate(curves):
        pale, dark = lines[2 * number : 2 * number + 2]
        np.testing.assert_allclose(pale.get_xydata(), curve[:, [0, column]])
        np.testing.assert_allclose(dark.get_xydata(), curve[:, [0, column + 2]])
        assert pale.get_alpha() < dark.get_alpha()
    # Half way between the two points of the first seed's dark curve.
    np.testing.assert_allclose(dot.get_xydata(), [[5, curves[0][:, column + 2].mean()]])
    assert (axes[0, 0].get_title(), axes[0, 0].get_ylabel()) == ("a title", label)


def test_levels_are_named_dashed_lines(axes):
    teachers.levels(axes[0, 0], {"pairs": 4.9, "triples": 4.4})
    assert [set(line.get_ydata()) for line in axes[0, 0].lines] == [{4.9}, {4.4}]
    assert all(line.get_linestyle() == "--" for line in axes[0, 0].lines)
    written = {text.get_text(): text.get_position()[1] for text in axes[0, 0].texts}
    assert written == {"pairs": 4.9, "triples": 4.4}


def test_knowing_has_a_line_for_each_seed_and_the_diagonal(axes):
    curves = [
        Reliability(torch.tensor([0.5, 0.9]) - shift, torch.tensor([0.6, 0.8]), torch.tensor([3, 3]), 0.1)
        for shift in (0.0, 0.1)
    ]
    teachers.knowing(axes[0, 0], curves, "image teachers")
    *lines, diagonal = axes[0, 0].lines
    for line, curve in zip(lines, curves, strict=True):
        np.testing.assert_allclose(line.get_xdata(), curve.confidence)
        np.testing.assert_allclose(line.get_ydata(), curve.accuracy)
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert diagonal.get_linestyle() == "--" and axes[0, 0].get_title() == "image teachers"
    assert [text.get_text() for text in axes[0, 0].get_legend().get_texts()] == ["seed 0", "seed 1"]
