import json
import math
from types import SimpleNamespace

import pytest

from companion.estimators import design, trials
from companion.jobs import Run, perform, run_jobs
from companion.paths import DataError
from pdelens.information import neural, tasks
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


def test_a_quick_scale_takes_one_number_of_samples_throughout():
    planned = list(design.trials(design.SCALES["smoke"]))
    assert len({trial.samples for trial in planned}) == 1
    assert {trial.study for trial in planned} == {"auto", "table", "panel"} and len(planned) < 30


def test_larger_scales_hold_all_that_smaller_ones_do():
    book, full = design.SCALES["book"], design.SCALES["full"]
    for name in ("dims", "informations", "panel_samples"):
        ours, theirs = getattr(book, name), getattr(full, name)
        assert theirs[: len(ours)] == ours and len(theirs) == len(ours) + 1
    assert full.panel_seeds > book.panel_seeds
    assert full.samples > book.samples and full.seeds == book.seeds and full.methods == book.methods


def test_trials_are_those_of_the_design():
    """Slow methods have one seed, a probe one label, panels of several crossings at most five dimensions."""
    names = ("1v1-normal-0.75", "multinormal-sparse-3-3-2-2.0")
    small = design.Scale(
        70, 3, 2, 1, names, ("ksg", "sliced", "probe"), (1, 6), (0.5, 1.0), (80, 90), 2, ("auto", "ksg")
    )
    found = list(design.trials(small))
    flat = [(one.task.name, one.method, one.seed) for one in found if one.study == "table"]
    expected = [(name, "ksg", seed) for seed in (0, 1) for name in names]
    expected += [(name, "sliced", 0) for name in names] + [(names[0], "probe", 0)]
    assert sorted(flat) == sorted(expected)
    auto = [(one.task.name, one.seed) for one in found if one.study == "auto"]
    assert auto == [(name, seed) for seed in range(3) for name in names]
    unseen = [(one.task.name, one.seed, one.method) for one in found if one.study == "unseen"]
    assert unseen == [(one.name, 0, "auto") for one in tasks.unseen()]
    panel = [one for one in found if one.study == "panel"]
    # Four Gaussian channels and one crossing; two sizes; one seed of auto and two of ksg.
    assert len(panel) == 5 * 2 * 3 and {one.samples for one in panel} == {80, 90}
    assert sorted({(one.method, one.seed) for one in panel}) == [("auto", 0), ("ksg", 0), ("ksg", 1)]
    assert {(one.task.dim_x, round(one.task.mutual_information, 6)) for one in panel} == {
        (1, 0.5),
        (6, 0.5),
        (1, 1.0),
        (6, 1.0),
        (1, round(crossing(0.9).mutual_information, 6)),
    }
    assert {one.samples for one in found if one.study != "panel"} == {70}


def test_a_trial_says_what_it_is_and_how_long_it_took(monkeypatch):
    clock = iter([10.0, 12.34567])
    monkeypatch.setattr(design.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(design, "_estimator", lambda method, seed: lambda x, y: 0.123456789 + len(x) + seed)
    one = design.Trial("table", tasks.task("1v1-normal-0.75"), "ksg", 50, 3)
    assert one.run() == {
        "study": "table",
        "task": "1v1-normal-0.75",
        "method": "ksg",
        "samples": 50,
        "seed": 3,
        "value": 53.12346,
        "seconds": 2.346,
    }


def test_tasks_and_seeds_see_draws_of_their_own(monkeypatch):
    drawn = []
    monkeypatch.setattr(design, "_estimator", lambda method, seed: lambda x, y: drawn.append(x.clone()) or 0.0)
    first, other = tasks.task("1v1-normal-0.75"), tasks.several(tasks.task("1v1-normal-0.75"), 1)
    for task, seed in ((first, 0), (first, 0), (first, 1), (other, 0)):
        design.Trial("table", task, "ksg", 20, seed).run()
    assert (drawn[0] == drawn[1]).all() and not (drawn[0] == drawn[2]).any()
    assert first.name == other.name or not (drawn[0] == drawn[3]).any()


def test_auto_is_asked_with_its_seed_and_its_answer_is_kept(monkeypatch):
    asked = []

    def found(x, y, **how):
        asked.append(how)
        return SimpleNamespace(value=0.1234567, interval=(0.1000049, 0.2), warnings=("a", "b"), method="ksg")

    monkeypatch.setattr(design, "mutual_information", found)
    record = design.Trial("auto", tasks.task("1v1-normal-0.75"), "auto", 30, 4).run()
    assert asked == [{"shuffles": 1, "seed": 4}]
    about = {name: record[name] for name in ("value", "interval", "warned", "choice")}
    assert about == {"value": 0.12346, "interval": [0.1, 0.2], "warned": 2, "choice": "ksg"}


def test_trained_critics_are_trained_for_less(monkeypatch):
    asked = []
    monkeypatch.setattr(design.neural, "nwj", lambda x, y, **how: asked.append(how) or 0.5)
    design.Trial("table", tasks.task("1v1-normal-0.75"), "nwj", 30, 2).run()
    seeds, steps = design.SHORT["nwj"]["seeds"], design.SHORT["nwj"]["steps"]
    assert asked == [{"seed": 2, "seeds": seeds, "steps": steps}]
    import inspect

    usual = inspect.signature(neural.info_nce).parameters["steps"].default
    assert steps < usual
