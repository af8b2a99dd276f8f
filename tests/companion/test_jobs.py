"""Independent jobs beside each other: what each of them meets, what is kept of it, and what the others see."""

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_jobs import Half, Settings

from companion import jobs
from companion.data.splits import TOKENIZER
from companion.estimators.trials import trial_jobs
from companion.jobs import Run
from companion.paths import SCALES, DataError, root
from companion.surrogates.sweep import sweep_jobs
from companion.teachers.comparisons import comparison_jobs
from companion.teachers.stacking_cost import StackingCost
from companion.teachers.train import train_jobs


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
    shutil.copy(root() / "data" / TOKENIZER, tmp_path / TOKENIZER)  # else it would be learnt
    run = Run(scale, tmp_path)
    programs = (train_jobs, comparison_jobs, sweep_jobs, trial_jobs)
    todo = [job for program in programs for job in program(run)] + [StackingCost()]
    assert len({job.name for job in todo}) == len(todo) > 4
    for job in todo:
        assert pickle.loads(pickle.dumps(job)) == job
