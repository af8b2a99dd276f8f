import json
import math

import pytest

from companion.estimators import design, trials
from companion.jobs import Run, perform, run_jobs
from companion.paths import DataError
from pdelens.information import tasks
from pdelens.information.tasks import crossing


def test_trials_go_on_where_they_stopped_and_sum_up(tmp_path, monkeypatch):
    small = design.Scale(150, 2, 1, 0, ("1v1-normal-0.75",), ("ksg", "gaussian"), (1,), (0.5,), (100,), 1, ("ksg",))
    monkeypatch.setitem(design.SCALES, "smoke", small)
    run, calls = Run("smoke", tmp_path), []
    todo = trials.trial_jobs(run)
    assert [job.study for job in todo] == ["auto", "table", "panel", "panel"]
    with pytest.raises(DataError, match="is not done yet"):
        trials.gather(run)
    late = iter([False, False, True, True])  # time is up after the first trial of two

    class Late(Run):
        late = property(lambda self: next(late))

    assert perform(todo[0], Late("smoke", tmp_path)) is None and list(tmp_path.glob("*.part"))
    monkeypatch.setattr(design.Trial, "run", _counted(design.Trial.run, calls))
    assert run_jobs(todo, run, workers=1) and len(calls) == 1 + 2 + 2 and not list(tmp_path.glob("*.part"))
    assert run_jobs(todo, run, workers=1) and len(calls) == 5, "all there: nothing to do"
    assert trials.gather(run) == tmp_path / "information.json"
    content = json.loads((tmp_path / "information.json").read_text())
    assert content["summary"]["all"]["results"] == 2 and content["header"]["samples"] == 150
    assert [len(rows) - 1 for rows in content["results"].values()] == [2, 0, 2, 2]


def test_a_partial_result_of_other_trials_is_not_used(tmp_path, monkeypatch):
    run, (job, *_) = Run("smoke", tmp_path), trials.trial_jobs(Run("smoke", tmp_path))
    other = job.trials(run)[0].run() | {"seed": 99}
    (tmp_path / f"{job.name}.part").write_text(json.dumps([other]))
    record = perform(job, run)
    assert [one["seed"] for one in record["results"]] == [trial.seed for trial in job.trials(run)]


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
    planned = list(design.trials(design.SCALES["book"]))
    assert len({trial.key for trial in planned}) == len(planned)
    pooled = [trial for trial in planned if trial.study == "auto"]
    assert len(pooled) == 20 * len({trial.task.name for trial in pooled}) >= 20 * 16


def test_copies_side_by_side_are_independent_and_add():
    both = tasks.several(crossing(0.9), 2)
    x, y = both.sample(4000, 0)
    assert x.shape == y.shape == (4000, 2) and both.mutual_information == 2 * crossing(0.9).mutual_information
    squares = (x.square() - 1).T @ (y.square() - 1) / 4000  # 2 rho^2 within a copy, nothing across
    assert squares.diagonal().tolist() == pytest.approx([1.62, 1.62], abs=0.4)
    assert abs(squares[0, 1]) < 0.15 > abs(squares[1, 0])
