import numpy as np
import pytest

from companion.figures import surrogates
from companion.seeds import over_seeds


def test_names_keep_their_order_and_their_distance():
    values = np.random.default_rng(0).uniform(0, 1, 20)
    places = surrogates.spread(values.tolist(), 0.04)
    assert np.array_equal(np.argsort(places), np.argsort(values))
    assert np.diff(np.sort(places)).min() >= 0.04 - 1e-12
    # What is far apart already stays where it is, and what moves keeps its centre.
    assert surrogates.spread([0.1, 0.5, 0.9], 0.04) == pytest.approx([0.1, 0.5, 0.9])
    assert surrogates.spread([0.5] * 4, 0.1).mean() == pytest.approx(0.5) and surrogates.spread([], 0.1).size == 0
    assert surrogates.spread([0.2, 0.98, 0.99], 0.1, 1.0).round(3).tolist() == [0.2, 0.9, 1.0]


def test_every_hypothesis_null_and_the_bar_have_their_names(axes):
    marks = [
        surrogates.Mark(0.17, over_seeds([0.8, 0.9]), "full", "long"),
        surrogates.Mark(0.0, over_seeds([0.3]), "identity", "read"),
        surrogates.Mark(1.0, over_seeds([float("nan")]), "diverged", "short"),
    ]
    surrogates.fidelity(axes, marks, {"uniform": 0.5, "mean map": 0.5}, 0.6)
    written = {text.get_text() for text in axes.texts}
    assert {"full", "identity", "uniform", "mean map", "another seed's teacher", "0.98"} <= written
    assert "diverged" not in written and axes.get_xscale() == "log"


def test_what_lies_below_the_edge_is_an_arrow_at_it(axes):
    surrogates.equation_dots(axes, ["a", "b", "c"], {"R2": [over_seeds([v]) for v in (0.5, -3.0, np.nan)]}, {"R2": 0.1})
    places = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
    assert places == [0.5, 0.0] and [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]


def test_a_calibration_is_named_once_for_all_its_seeds(axes):
    curve = np.array([[1, 2.0, 3.0], [2, 1.0, 1.5]])
    surrogates.learning_curves(axes, {"full": [curve, curve / 2]})
    assert [line.get_label().startswith("_") for line in axes.lines] == [False, True]
