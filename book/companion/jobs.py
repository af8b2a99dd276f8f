"""Runs resumable jobs: what is whole is kept, what was killed goes on, what failed is named and stops nothing else.

A job says what it is (`identity`), what it costs and what it finds; where it runs is its executor's matter: processes
on this machine, or Slurm. A result is whole if its record stands beside it, made by this very identity, and every
file that it names has the digest that it had.
"""

import fcntl
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .paths import DataError, refuse_unknown_scale, replace_text, root, say, sha256

Outcome = dict[str, Any] | RuntimeError | None


@dataclass(frozen=True)
class Run:
    """At which scale, on which device, into which folder, and until when (as `time.time`) jobs are done.

    Runs that differ in their deadline alone are equal: no result depends on it.
    """

    scale: str
    folder: Path
    device: str = "cpu"
    deadline: float | None = field(default=None, compare=False)

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return self.deadline is not None and time.time() > self.deadline


def run_of(scale: str, device: str = "auto", minutes: float | None = None) -> Run:
    """Return a run into `_build/train/<scale>`; `auto` takes a GPU where there is one."""
    refuse_unknown_scale(scale)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    folder = root() / "_build" / "train" / scale
    folder.mkdir(parents=True, exist_ok=True)
    return Run(scale, folder, device, None if minutes is None else time.time() + 60 * minutes)


class Job(ABC):
    """One piece of work with one result; it has to be picklable, and to look at `run.late` now and then."""

    # Sub-normal numbers cost a solver a hundred times the others, and change nothing that it is asked for.
    flush_denormal = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The result's name: its record is `<name>.json` in the run's folder."""

    @abstractmethod
    def identity(self, run: Run) -> dict[str, Any]:
        """Return, as JSON holds it, all that decides the result."""

    @abstractmethod
    def do(self, run: Run) -> dict[str, Any] | None:
        """Return the record of what was found, or None where time was up first (and what is done is kept).

        Raises `RuntimeError` where this job fails, `DataError` where all would.
        """

    def cost(self, run: Run) -> float:
        """Return what the job costs beside the others of its kind: for telling how long is left."""
        return 1.0

    def files(self, run: Run) -> tuple[str, ...]:
        """Return the files, in the run's folder, that belong to the result."""
        return ()

    def line(self, record: Mapping[str, Any]) -> str:
        """Return what to say of a finished job."""
        return "done"

    def recorded(self, run: Run) -> dict[str, Any] | None:
        """Return the record of a whole result, None where there is none."""
        return kept(run, self.name, self.identity(run))

    def keep(self, run: Run, record: Mapping[str, Any]) -> None:
        """Write the record."""
        keep(run, self.name, self.identity(run), record, self.files(run))


def keep(
    run: Run, name: str, identity: Mapping[str, Any], record: Mapping[str, Any], files: Sequence[str] = ()
) -> None:
    """Write a record with its identity and the digests of the files that belong to it."""
    digests = {file: sha256(run.folder / file) for file in files}
    whole = {"identity": identity, "files": digests, "provenance": provenance(run.device), "record": record}
    replace_text(run.folder / f"{name}.json", json.dumps(whole) + "\n")


def kept(run: Run, name: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a record if it and its files are whole and of this identity; else say in a sentence why not."""
    path = run.folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        whole = json.loads(path.read_text())
        same, files, record = whole["identity"] == json.loads(json.dumps(identity)), whole["files"], whole["record"]
    except (ValueError, KeyError, TypeError) as error:
        say(f"{path} is damaged ({error}): making it again.")
        return None
    if not same:
        say(f"{path} was made by another plan: making it again.")
        return None
    for file, digest in files.items():
        if not (run.folder / file).exists() or sha256(run.folder / file) != digest:
            say(f"{run.folder / file} is not what was written: making it again.")
            return None
    return record


def provenance(device: str) -> dict[str, Any]:
    """Return on what a result was made: the device's name, and the versions that numbers may depend on.

    >>> provenance("cpu")["device"].startswith("CPU, ")
    True
    """
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    versions = {package: version(package) for package in ("torch", "numpy", "scipy", "pdelens")}
    return {"device": name, "versions": {"python": platform.python_version(), **versions}}


def run_jobs(
    jobs: Sequence[Job],
    run: Run,
    *,
    workers: int | None = None,
    executor: str = "processes",
    settings: Mapping[str, Any] | None = None,
) -> bool:
    """Do the jobs that are not whole; return whether all are, or say what is left where time was up.

    `executor` is "processes" (`workers` of them; a CPU: one for each core, a GPU, which small jobs do not fill:
    eight) or "slurm" (`settings` are submitit's). A job that fails does not stop the others: `RuntimeError` names all
    of them at the end. A `DataError`, which all would meet, stops at once.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"executor {executor!r} was given: choose from {', '.join(EXECUTORS)}.")
    todo = [job for job in jobs if job.recorded(run) is None]
    began, done, total = time.time(), 0.0, sum(job.cost(run) for job in todo)
    failed, left = [], {job.name for job in todo}
    workers = workers or (os.cpu_count() or 1 if run.device == "cpu" else 8)
    for job, outcome in EXECUTORS[executor](todo, run, workers, settings or {}):
        done += job.cost(run)
        if isinstance(outcome, RuntimeError):
            failed.append(str(outcome))
            said = str(outcome)
        else:
            said = "not finished" if outcome is None else job.line(outcome)
        left -= {job.name} if isinstance(outcome, dict) else set()
        minutes = (time.time() - began) / 60 * (total / done - 1)
        tqdm.write(f"{job.name}: {said}; {done / total:.0%} of all, about {minutes:.0f} min left", file=sys.stderr)
    if failed:
        raise RuntimeError(" ".join(failed))
    if left:
        names = [job.name for job in todo if job.name in left]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        say(f"Left: {', '.join(names[:5])}{more}. What is done is kept: run the same command again to go on.")
    return not left


def perform(job: Job, run: Run) -> Outcome:
    """Do one job and write its record; what it fails with is returned, what all would meet is raised."""
    if run.late:
        return None
    torch.set_flush_denormal(job.flush_denormal)
    try:
        with _alone(run.folder / f".{job.name}.lock"):
            record = job.do(run)
            if record is not None:
                job.keep(run, record)
            return record
    except DataError:
        raise
    except RuntimeError as error:
        return error
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, so that no two make the same result at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            name = path.name.removeprefix(".").removesuffix(".lock")
            raise RuntimeError(f"{name} is being made by another process: wait for it, or end it.") from None
        yield
        path.unlink(missing_ok=True)


def _processes(
    jobs: Sequence[Job], run: Run, workers: int, settings: Mapping[str, Any]
) -> Iterator[tuple[Job, Outcome]]:
    """Yield jobs with their outcomes as they end: here and in order with one worker, else each in its own process."""
    if workers == 1:
        for job in jobs:
            yield job, perform(job, run)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_settle, initargs=(threads, os.getpid())) as pool:
        futures = {pool.submit(perform, job, run): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            # Leaving the pool waits for all that it was given: what has not begun shall not.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _settle(threads: int, parent: int) -> None:
    # Ctrl-C reaches every process: here it would only end the job at hand, and the next would begin.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # whoever would take the result is gone

    threading.Thread(target=watch, daemon=True).start()


class _Requeued:
    """What Slurm runs: a job that is preempted, or out of its time, is put into the queue again and resumes."""

    def __call__(self, job: Job, run: Run) -> Outcome:
        torch.use_deterministic_algorithms(True, warn_only=True)
        return perform(job, run)

    def checkpoint(self, job: Job, run: Run):
        """Return what to submit again (submitit asks at a time limit or a preemption)."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job, run)


def _slurm(jobs: Sequence[Job], run: Run, workers: int, settings: Mapping[str, Any]) -> Iterator[tuple[Job, Outcome]]:
    """Yield jobs with their outcomes as an array of Slurm jobs ends; None for one that was cancelled."""
    import submitit

    if not jobs:
        return
    pool = submitit.AutoExecutor(folder=run.folder / "slurm", cluster="slurm", slurm_max_num_timeout=1000)
    pool.update_parameters(**{"name": "pdelens", "timeout_min": 240, "cpus_per_task": 1} | dict(settings))
    waiting = dict(zip(pool.map_array(_Requeued(), jobs, [run] * len(jobs)), jobs, strict=True))
    missing: dict[Any, int] = {}
    while waiting:
        queued = _queue()
        for handle, job in list(waiting.items()):
            if handle.paths.result_pickle.exists():
                del waiting[handle]
                yield job, _result(handle)
                continue
            # A job that has just ended may have left the queue before its result is seen.
            missing[handle] = 0 if handle.job_id in queued else missing.get(handle, 0) + 1
            if missing[handle] > 5:
                del waiting[handle]
                yield job, None
            elif run.late and queued.get(handle.job_id) == "PENDING":
                handle.cancel()
        time.sleep(2)


def _queue() -> dict[str, str]:
    """Return the state of every job in the queue of this user, by number."""
    asked = ["squeue", "--noheader", "--array", "--me", "--format=%i %T"]
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"Slurm does not answer ({done.stderr.strip()}): look at `sinfo`, then run again.")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def _result(handle: Any) -> Outcome:
    try:
        return handle.result()
    except Exception as error:  # whatever the job raised, or what is left of it
        said = [line for line in str(error).splitlines() if line.strip()][-1:] or [repr(error)]
        log = handle.paths.stderr
        raise DataError(f"a job on Slurm ended in an error: {said[0].strip()} (its log: {log}).") from None


EXECUTORS: dict[str, Callable[..., Iterator[tuple[Job, Outcome]]]] = {"processes": _processes, "slurm": _slurm}
