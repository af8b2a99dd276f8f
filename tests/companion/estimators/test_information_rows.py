"""Rows of tables: what is recorded under which key, and what a row says."""

import pytest

from companion import records
from companion.estimators import information_rows
from companion.estimators.results import Panel


@pytest.fixture
def kept(monkeypatch):
    found = {}
    monkeypatch.setattr(information_rows, "record", lambda key, value, **about: found.update({key: value}) or value)
    monkeypatch.setattr(information_rows, "quote", lambda *keys: [found[key] for key in keys])
    return found


def test_a_row_of_intervals(kept):
    rows = [
        {"task": "a", "value": 2.2, "interval": (1.9, 2.5), "warned": 1},
        {"task": "a", "value": 3.0, "interval": (2.5, 3.5), "warned": 1},
    ]
    row = information_rows.judged("auto.*.other", "others", rows, {"a": {"truth": 2.0}})
    assert row == ["others", "1 (2)", "50%", "50%", "40%", "30.0%", "5.40"]
    assert kept["info.auto.coverage.other"] == 0.5 and kept["info.auto.score.other"] == pytest.approx(5.4)
    assert set(kept) == {f"info.auto.{part}.other" for part in information_rows.PARTS}


def test_results_by_kind():
    names = ["1v1-normal-0.75", "spiral-multinormal-sparse-3-3-2-2.0", "1v1-X-0.9"]
    trials = {
        "results": {"auto": [{"task": name} for name in names], "unseen": [{"task": "multinormal-dense-2-8-0.5"}]}
    }
    kinds = information_rows.by_kind(trials)
    assert {kind: len(rows) for kind, rows in kinds.items()} == {"all": 3, "elliptical": 1, "other": 2, "outside": 0}


def test_what_to_believe(kept):
    def row(truth, value, channel=True):
        about = {"method": "ksg", "samples": 50, "dims": [2, 2]}
        return about | {"truth": truth, "value": value, "channel": channel}

    panel = Panel([row(0.5, 0.5), row(1.0, 0.9), row(2.0, 1.0), row(0.8, 0.4, channel=False)])
    assert information_rows.believed(panel, ("ksg",)) == [["50", "2 + 2", "0.5 to 1 (0.50)"]]
    assert kept == {"info.believe.ksg.50.2": [0.5, 1.0], "info.believe.ksg.50.2.crossed": 0.5}
    bad = Panel([row(0.5, 0.1), row(1.0, 0.1)])
    assert information_rows.believed(bad, ("ksg",)) == [["50", "2 + 2", "none"]]


def test_records_need_an_open_chapter(monkeypatch):
    monkeypatch.setattr(records, "_running", None)
    with pytest.raises(records.RecordError):
        information_rows.believed(
            Panel([{"method": "ksg", "samples": 5, "dims": [1, 1], "channel": True, "truth": 1.0, "value": 1.0}]),
            ("ksg",),
        )
