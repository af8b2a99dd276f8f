import json

import numpy as np
import pytest

import companion
from companion.surrogates import cosine_rows as rows
from pdelens.agreement.report import Report
from pdelens.intervals import t_interval


@pytest.fixture
def records(project_copy):
    companion.start_chapter("01-test")
    return lambda: json.loads((project_copy / "data/results/01-test.json").read_text())["records"]


def report(*layers):
    """Return a report whose nulls have these cosines in two layers, by example alike."""
    maps = {
        measure: np.array(layers)[:, None, None].repeat(4, 1)
        for measure in ("cosine", "centred cosine", "top-1", "pearson")
    }
    return Report(maps, np.zeros((2, 4)))


def with_nulls(**nulls):
    return Report(report(1.0, 1.0).attention, np.zeros((2, 4)), nulls)


def test_a_null_is_recorded_by_its_worst_and_its_best_layer(records):
    trained, untrained = (
        with_nulls(uniform=report(0.3, 0.5)),
        [with_nulls(uniform=report(*v)) for v in ((0.9, 0.8), (0.7, 1.0))],
    )
    rows.null_scores("image", "uniform", trained, untrained)
    found = records()
    assert found["trained.image.uniform"]["value"] == pytest.approx(0.3)
    assert found["trained.image.uniform.most"]["value"] == pytest.approx(0.5)
    assert found["untrained.image.uniform"]["value"] == pytest.approx(0.75)
    assert found["untrained.image.uniform"]["interval"] == pytest.approx(t_interval([0.8, 0.7]))
    assert found["untrained.image.uniform.most"]["value"] == pytest.approx(0.95)
    assert found["trained.image.uniform.centred.most"]["value"] == pytest.approx(0.5)
    assert rows.cell("trained.image.uniform") == "0.300 (.300–.300)"


def test_the_best_null_is_the_one_with_the_highest_headline(records):
    reports = [with_nulls(low=report(0.1, 0.2), high=report(0.6, 0.9))]
    rows.best_null("one", reports, {"low": [0.1], "high": [0.6]})
    assert records()["one"]["value"] == pytest.approx(0.6) and "seeds" not in records()["one"]
    assert records()["one"]["interval"] == pytest.approx((0.6, 0.6))
    rows.best_null("seeds", reports, {"low": [0.1, 0.9], "high": [0.6, 0.6]})
    assert records()["seeds"]["value"] == pytest.approx(0.6) and records()["seeds"]["seeds"] == 2


def test_a_row_of_measures_is_shown_as_it_is_recorded(records):
    found = Report(
        {
            measure: np.array([[[0.9, 0.7]], [[0.8, 1.0]]])
            for measure in ("cosine", "centred cosine", "pearson", "top-1")
        },
        np.zeros((2, 1)),
    )
    cells = rows.power("key", found, np.array([[0.5, 0.5], [0.8, 0.6]]))
    # Pooled skill: 1 - .4 / 1 and 1 - .2 / .6.
    assert cells == ["0.80", "0.70", "0.80", "0.80", "0.60", "0.80"]
    assert records()["key.pooled-skill"]["value"] == pytest.approx(0.6)
    assert set(records()) == {f"key.{name.replace(' ', '-')}" for name in rows.POWER}
