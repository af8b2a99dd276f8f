"""What is said of jobs while they run, where they run, and what Slurm answers."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from companion import jobs
from companion.jobs import Job, Run
from companion.paths import DataError


@dataclass(frozen=True)
class Half(Job):
    """Halves a number; 3 fails."""

    number: int

    @property
    def name(self):
        return f"half-{self.number}"

    def identity(self, run):
        return {"number": self.number}

    def do(self, run):
        if self.number == 3:
            raise RuntimeError("3 has no half.")
        return {"half": self.number / 2}


@pytest.fixture
def run(tmp_path):
    return Run("smoke", tmp_path)


def told(capsys, monkeypatch, outcomes, costs, minutes):
    """Return what is said of jobs whose outcomes come at these minutes."""

    @dataclass(frozen=True)
    class Costly(Half):
        def cost(self, run):
            return costs[self.number]

    def executor(todo, run, workers, settings):
        for job, outcome, at in zip(todo, outcomes, minutes, strict=True):
            now[0] = 1e6 + 60 * at
            yield job, outcome

    now = [1e6]
    monkeypatch.setattr(jobs.time, "time", lambda: now[0])
    monkeypatch.setitem(jobs.EXECUTORS, "processes", executor)
    monkeypatch.setattr(Costly, "line", lambda self, record: f"found {record['half']}")
    monkeypatch.setattr(jobs.tqdm, "write", lambda text, file: print(text, file=file))
    run, todo = Run("smoke", Path("nowhere")), [Costly(number) for number in range(len(costs))]
    try:
        whole = jobs.run_jobs(todo, run)
    except RuntimeError as error:
        whole = str(error)
    return whole, capsys.readouterr().err.splitlines()


def test_what_is_left_is_told_from_what_was_done(capsys, monkeypatch):
    """1,200 minutes for a tenth: 10,800 are left; then 2,000 for half: as many."""
    outcomes = [{"half": 1}, {"half": 2}, {"half": 3}]
    whole, lines = told(capsys, monkeypatch, outcomes, (1.0, 4.0, 5.0), (1200, 2000, 2100))
    assert whole is True
    assert lines == [
        "half-0: found 1; 10% of all, about 10800 min left",
        "half-1: found 2; 50% of all, about 2000 min left",
        "half-2: found 3; 100% of all, about 0 min left",
    ]


def test_failures_are_named_together_after_the_rest(capsys, monkeypatch):
    outcomes = [RuntimeError("no luck."), None, RuntimeError("none here."), {"half": 2}]
    whole, lines = told(capsys, monkeypatch, outcomes, (1.0,) * 4, (1, 2, 3, 4))
    assert whole == "no luck. none here."
    assert lines[:2] == [
        "half-0: no luck.; 25% of all, about 3 min left",
        "half-1: not finished; 50% of all, about 2 min left",
    ]


def test_one_that_is_left_is_named_alone(capsys, monkeypatch):
    whole, lines = told(capsys, monkeypatch, [{"half": 1}, None], (1.0, 1.0), (1, 2))
    assert whole is False and lines[-1].startswith("Left: half-1. What is done is kept")
    five = told(capsys, monkeypatch, [None] * 5, (1.0,) * 5, range(1, 6))[1][-1]
    assert five.startswith("Left: half-0, half-1, half-2, half-3, half-4. What")


@pytest.mark.parametrize(
    ("device", "workers", "expected"), [("cpu", None, 6), ("cuda", None, 8), ("cpu", 3, 3), ("cuda", 2, 2)]
)
def test_workers_are_the_cores_or_what_a_gpu_takes(device, workers, expected, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setitem(jobs.EXECUTORS, "slurm", lambda *given: asked.append(given) or [])
    monkeypatch.setattr(jobs.os, "cpu_count", lambda: 6)
    run = Run("smoke", tmp_path, device)
    jobs.run_jobs([Half(2)], run, workers=workers, executor="slurm", settings={"a": 1})
    jobs.run_jobs([Half(2)], run, workers=workers, executor="slurm")
    assert asked == [([Half(2)], run, expected, {"a": 1}), ([Half(2)], run, expected, {})]


class Handle:
    """A job of Slurm that ended in an error."""

    class paths:
        stderr = "log.err"

    def __init__(self, error):
        self.error = error

    def result(self):
        if self.error is None:
            return {"half": 1}
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("Traceback:\n  File x\nValueError: too small\n \n"), "in an error: ValueError: too small (its log"),
        (KeyError(), r"in an error: KeyError() (its log: log.err)"),
        (OSError(" \n"), "OSError("),
    ],
)
def test_an_error_on_slurm_is_its_last_line_and_where_its_log_is(error, said):
    assert jobs._result(Handle(None)) == {"half": 1}
    with pytest.raises(DataError) as caught:
        jobs._result(Handle(error))
    assert said in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_run_goes_into_its_scales_folder_until_its_minutes_are_up(project_copy, monkeypatch):
    monkeypatch.setattr(jobs.time, "time", lambda: 1000.0)
    found = jobs.run_of("smoke", "cpu", 2.5)
    assert found.folder == project_copy / "_build/train/smoke" and found.folder.is_dir()
    assert found.deadline == 1150.0 and not found.late and jobs.run_of("book", "cpu").deadline is None
    monkeypatch.setattr(jobs.time, "time", lambda: 1151.0)
    assert found.late and not jobs.run_of("smoke", "cpu").late
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert jobs.run_of("smoke").device == ("cuda" if there else "cpu")
        assert jobs.run_of("smoke", "cpu").device == "cpu"


def test_a_lock_is_left_by_one_that_fails_and_taken_again(run):
    with pytest.raises(ZeroDivisionError), jobs._alone(run.folder / "deep" / ".half-2.lock"):
        raise ZeroDivisionError
    with jobs._alone(run.folder / "deep" / ".half-2.lock"):
        pass
    assert list((run.folder / "deep").iterdir()) == []


def test_subnormal_numbers_are_back_after_a_job_that_failed(run):
    @dataclass(frozen=True)
    class Failing(Half):
        flush_denormal = True

    assert isinstance(jobs.perform(Failing(3), run), RuntimeError)
    assert float(torch.tensor([1e-39]) * 0.5) > 0


def test_jobs_cost_alike_and_have_no_files_unless_they_say_so(run):
    assert Half(2).cost(run) == 1.0 and Half(2).files(run) == () and Half(2).line({}) == "done"


@pytest.mark.parametrize(
    ("output", "state"), [("", {}), ("7_1 PENDING\n8 RUNNING\n", {"7_1": "PENDING", "8": "RUNNING"})]
)
def test_the_queue_is_read_by_number(monkeypatch, output, state):
    asked = []

    def answered(command, **how):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, output, "")

    monkeypatch.setattr(jobs.subprocess, "run", answered)
    assert jobs._queue() == state and asked[0][0] == "squeue" and "--me" in asked[0]
    monkeypatch.setattr(jobs.subprocess, "run", lambda c, **how: subprocess.CompletedProcess(c, 1, "", "down\n"))
    with pytest.raises(RuntimeError, match=r"Slurm does not answer \(down\)"):
        jobs._queue()


class Silent:
    """A job on Slurm whose result never comes."""

    def __init__(self, number, folder):
        self.job_id = str(number)
        self.paths = SimpleNamespace(result_pickle=folder / f"{number}.pkl")


@pytest.mark.parametrize(("seen", "asked"), [([], 6), ([0], 7), ([0, 1, 2], 9), ([0, 3], 10)])
def test_a_job_that_has_left_the_queue_for_six_looks_is_given_up(seen, asked, monkeypatch, run):
    import submitit

    pool = SimpleNamespace(update_parameters=lambda **settings: None, map_array=lambda *about: [Silent(7, run.folder)])
    monkeypatch.setattr(submitit, "AutoExecutor", lambda **about: pool)
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    looks = []

    def queue():
        looks.append(len(looks))
        return {"7": "RUNNING"} if looks[-1] in seen else {}

    monkeypatch.setattr(jobs, "_queue", queue)
    assert list(jobs._slurm([Half(2)], run, 1, {})) == [(Half(2), None)]
    assert len(looks) == asked
