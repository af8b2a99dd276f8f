import json
import math

import pytest

from pdelens import information_studies as studies
from pdelens import information_trials as trials
from pdelens.information_tasks import crossing

pytestmark = pytest.mark.usefixtures("one_thread")


def test_trials_go_on_where_they_stopped_and_sum_up(tmp_path, monkeypatch):
    small = studies.Scale(150, 2, 1, 0, ("1v1-normal-0.75",), ("ksg", "gaussian"), (1,), (0.5,), (100,), 1, ("ksg",))
    monkeypatch.setitem(trials.SCALES, "smoke", small)
    assert trials.run("smoke", tmp_path, minutes=0, progress=False) is None
    path = trials.run("smoke", tmp_path, progress=False)
    assert path == tmp_path / "information.json"
    content = json.loads((tmp_path / "information.json").read_text())
    assert content["summary"]["all"]["results"] == 2 and content["header"]["samples"] == 150
    assert [len(rows) - 1 for rows in content["results"].values()] == [2, 0, 2, 2]

    lines = tmp_path / "information.jsonl"
    kept = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join(kept[:-1]) + kept[-1][:20])  # cut off in the middle of the last line
    calls = []
    monkeypatch.setattr(studies.Trial, "run", _counted(studies.Trial.run, calls))
    trials.run("smoke", tmp_path, progress=False)
    assert len(calls) == 1 and len(lines.read_text().splitlines()) == len(kept)


def _counted(function, calls):
    def counted(self):
        calls.append(self)
        return function(self)

    return counted


def test_the_summary_counts_what_it_says():
    truths = {"a": {"truth": 1.0}}
    base = {"study": "auto", "task": "a", "seconds": 1.0}
    rows = [
        base | {"value": 1.05, "interval": [0.9, 1.2], "warned": 0},
        base | {"value": 1.02, "interval": [0.9, 1.1], "warned": 1},
        base | {"value": 1.5, "interval": [1.3, 1.8], "warned": 1},
    ]
    found = trials.summary(rows, truths)["all"]
    assert found["coverage"] == pytest.approx(2 / 3, abs=1e-4) and found["median_width"] == pytest.approx(0.3)
    assert (found["below_10_percent"], found["unwarned_of_them"]) == (2, 0.5)
    assert (found["above_20_percent"], found["warned_of_them"]) == (1, 1.0)
    assert math.isclose(found["largest_error"], 0.5)


def test_every_trial_of_a_scale_is_another():
    planned = list(studies.trials(studies.SCALES["book"]))
    assert len({trial.key for trial in planned}) == len(planned)
    pooled = [trial for trial in planned if trial.study == "auto"]
    assert len(pooled) == 20 * len({trial.task.name for trial in pooled}) >= 20 * 16


def test_copies_side_by_side_are_independent_and_add():
    both = studies.several(crossing(0.9), 2)
    x, y = both.sample(4000, 0)
    assert x.shape == y.shape == (4000, 2) and both.mutual_information == 2 * crossing(0.9).mutual_information
    squares = (x.square() - 1).T @ (y.square() - 1) / 4000  # 2 rho^2 within a copy, nothing across
    assert squares.diagonal().tolist() == pytest.approx([1.62, 1.62], abs=0.4)
    assert abs(squares[0, 1]) < 0.15 > abs(squares[1, 0])
