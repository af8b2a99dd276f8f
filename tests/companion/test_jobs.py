"""Independent jobs beside each other: what each of them meets, what is kept of it, and what the others see."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from companion import jobs
from companion.estimators.trials import trial_jobs
from companion.jobs import Job, Run
from companion.paths import SCALES, DataError
from companion.surrogates.sweep import sweep_jobs
from companion.teachers.comparisons import comparison_jobs
from companion.teachers.stacking_cost import StackingCost
from companion.teachers.train import train_jobs


@dataclass(frozen=True)
class Half(Job):
    """Halves a number into a file; 3 fails, 5 is what all would meet."""

    number: int
    offset: int = 0

    @property
    def name(self):
        return f"half-{self.number}"

    def identity(self, run):
        return {"number": self.number, "offset": self.offset, "scale": run.scale}

    def files(self, run):
        return (f"{self.name}.txt",)

    def do(self, run):
        if self.number == 3:
            raise RuntimeError("3 has no half.")
        if self.number == 5:
            raise DataError("5 is in nobody's data.")
        (run.folder / f"{self.name}.txt").write_text("made")
        with (run.folder / "calls").open("a") as calls:
            calls.write(f"{self.number}\n")
        return {"half": self.number / 2 + self.offset}


@dataclass(frozen=True)
class Settings(Job):
    """What a job finds set; a number this small is zero only where sub-normal ones are flushed."""

    flush_denormal: bool = False
    name: str = "settings"

    def identity(self, run):
        return {}

    def do(self, run):
        return {"threads": torch.get_num_threads(), "flushed": float(torch.tensor([1e-39]) * 0.5) == 0.0}


@pytest.fixture
def run(tmp_path):
    return Run("smoke", tmp_path)


def done(run):
    path = run.folder / "calls"
    return sorted(path.read_text().split()) if path.exists() else []


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_fails_does_not_stop_the_rest_and_is_named(run, workers):
    with pytest.raises(RuntimeError, match="3 has no half"):
        jobs.run_jobs([Half(2, 10), Half(3), Half(4)], run, workers=workers)
    assert Half(2, 10).recorded(run) == {"half": 11} and Half(4).recorded(run) == {"half": 2}
    assert Half(3).recorded(run) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_what_all_would_meet_is_raised(run, workers):
    with pytest.raises(DataError, match="nobody's data"):
        jobs.run_jobs([Half(5)], run, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_no_time_is_left_for_is_named(run, workers, capsys):
    late = dataclasses.replace(run, deadline=time.time() - 1)
    assert not jobs.run_jobs([Half(number) for number in (2, 4, 6, 8, 10, 12, 14)], late, workers=workers)
    assert "Left: half-2, half-4, half-6, half-8, half-10 and 2 more." in capsys.readouterr().err
    assert done(run) == [] and late == run and hash(late) == hash(run)


def test_what_is_whole_is_kept(run):
    assert jobs.run_jobs([Half(2), Half(4)], run, workers=1)
    assert jobs.run_jobs([Half(2), Half(4), Half(6)], run, workers=1)
    assert done(run) == ["2", "4", "6"]


TAMPERING = {
    "another plan": lambda run: None,
    "a file is gone": lambda run: (run.folder / "half-2.txt").unlink(),
    "a bit of a file is flipped": lambda run: (run.folder / "half-2.txt").write_text("Made"),
    "the record is cut": lambda run: (run.folder / "half-2.json").write_text('{"identity": {'),
    "the record is another thing": lambda run: (run.folder / "half-2.json").write_text("[]"),
}


@pytest.mark.parametrize("tampering", TAMPERING)
def test_what_is_not_whole_is_made_again_and_the_reason_is_said(run, tampering, capsys):
    jobs.run_jobs([Half(2)], run, workers=1)
    TAMPERING[tampering](run)
    job = Half(2, 1) if tampering == "another plan" else Half(2)
    jobs.run_jobs([job], run, workers=1)
    assert done(run) == ["2", "2"] and "making it again" in capsys.readouterr().err
    assert job.recorded(run) == {"half": 1 + job.offset}


def test_a_record_says_where_it_was_made(run):
    jobs.run_jobs([Half(2)], run, workers=1)
    about = json.loads((run.folder / "half-2.json").read_text())["provenance"]
    assert about["device"].startswith("CPU, ") and set(about["versions"]) == {
        "python",
        "torch",
        "numpy",
        "scipy",
        "pdelens",
    }


@pytest.mark.parametrize("flush", [False, True])
def test_a_process_takes_its_share_of_the_cores_and_flushes_denormals_if_told(run, flush):
    jobs.run_jobs([Settings(flush)], run, workers=2)
    found = json.loads((run.folder / "settings.json").read_text())["record"]
    assert found["flushed"] == flush and found["threads"] == max(1, (os.cpu_count() or 1) // 2)


def test_no_two_make_the_same_at_once(run):
    with jobs._alone(run.folder / ".half-2.lock"):
        outcome = jobs.perform(Half(2), run)
    assert isinstance(outcome, RuntimeError) and "half-2 is being made by another process" in str(outcome)
    assert jobs.perform(Half(2), run) == {"half": 1}


def test_unknown_executors_and_scales_are_named(run):
    with pytest.raises(ValueError, match="choose from processes, slurm"):
        jobs.run_jobs([], run, executor="cloud")
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        jobs.run_of("tiny")


SLOW = """
import pathlib, sys, time
from dataclasses import dataclass
from companion.jobs import Job, Run, run_jobs

@dataclass(frozen=True)
class Slow(Job):
    number: int

    @property
    def name(self):
        return f"slow-{self.number}"

    def identity(self, run):
        return {}

    def do(self, run):
        (run.folder / f"begun-{self.number}").touch()
        time.sleep(600)

if __name__ == "__main__":
    import slow
    run_jobs([slow.Slow(number) for number in range(8)], Run("smoke", pathlib.Path(sys.argv[1])), workers=2)
"""


def alive(folder):
    """Return how many processes run this test's script, by their command lines and folders."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found += str(folder) in (entry / "environ").read_bytes().decode(errors="ignore")
            found -= (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_end_from_outside_ends_the_jobs_at_hand_and_begins_no_others(tmp_path, how):
    (tmp_path / "slow.py").write_text(SLOW)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    running = subprocess.Popen(
        [sys.executable, str(tmp_path / "slow.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths, "PDELENS_TEST": str(tmp_path)},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob("begun-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        if how == signal.SIGINT:
            os.killpg(running.pid, how)  # as a terminal does
        else:
            os.kill(running.pid, how)  # the main process alone
        assert running.wait(60) != 0
        until = time.monotonic() + 30
        while alive(tmp_path) > 0 and time.monotonic() < until:
            time.sleep(0.2)
        assert alive(tmp_path) <= 0
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert len(list(tmp_path.glob("begun-*"))) == 2


@pytest.mark.parametrize("scale", SCALES)
def test_every_job_of_every_program_can_be_sent_to_another_process(scale, tmp_path):
    run = Run(scale, tmp_path)
    programs = (train_jobs, comparison_jobs, sweep_jobs, trial_jobs)
    todo = [job for program in programs for job in program(run)] + [StackingCost()]
    assert len({job.name for job in todo}) == len(todo) > 4
    for job in todo:
        assert pickle.loads(pickle.dumps(job)) == job


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
    assert Settings().cost(run) == 1.0 and Settings().files(run) == () and Settings().line({}) == "done"


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
