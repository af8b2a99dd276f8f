"""The estimators on tasks with exact information: what each is worth, measured, for the chapter on them.

Run by `make trials`; `design` says what is run. A job is one task in one study, which goes on where it stopped;
`information.json` holds all results with a header and the summary.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..jobs import Job, Run, provenance
from ..paths import DataError, replace_text
from .design import KEY, SCALES, SHORT, Scale, Trial, trials
from .results import FILE, coverage

NAME = "trials"


@dataclass(frozen=True)
class TaskTrials(Job):
    """All trials of one study on one task."""

    study: str
    task: str

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{NAME}-{self.study}-{self.task}"

    def trials(self, run: Run) -> tuple[Trial, ...]:
        """Return the trials; no field, since a task holds functions, which no process can send to another."""
        return _grouped(SCALES[run.scale])[self.study, self.task]

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the trials."""
        return {"trials": [list(trial.key) for trial in self.trials(run)], "shortened": SHORT, "scale": run.scale}

    def cost(self, run: Run) -> float:
        """Return the number of trials."""
        return float(len(self.trials(run)))

    def do(self, run: Run) -> dict[str, Any] | None:
        """Return the results, a dictionary a trial."""
        partial = run.folder / f"{self.name}.part"
        done = json.loads(partial.read_text()) if partial.exists() else []
        todo = self.trials(run)
        done = done if [_key(one) for one in done] == [trial.key for trial in todo[: len(done)]] else []
        for trial in todo[len(done) :]:
            if run.late:
                return None
            done.append(trial.run())
            replace_text(partial, json.dumps(done))
        partial.unlink(missing_ok=True)
        return {"results": done}


def trial_jobs(run: Run) -> list[TaskTrials]:
    """Return the jobs of a scale, the quick and telling studies first."""
    return [TaskTrials(study, task) for study, task in _grouped(SCALES[run.scale])]


@cache
def _grouped(scale: Scale) -> dict[tuple[str, str], tuple[Trial, ...]]:
    """Return a scale's trials by study and task, kept: every job asks for its own, and tasks take a while to make."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials(scale):
        found.setdefault((trial.study, trial.task.name), []).append(trial)
    return {place: tuple(those) for place, those in found.items()}


def gather(run: Run) -> Path:
    """Write `information.json` of every job's results, in the design's order; `DataError` where some are not there."""
    found: dict[tuple, dict[str, Any]] = {}
    for job in trial_jobs(run):
        record = job.recorded(run)
        if record is None:
            raise DataError(f"{job.name} is not done yet: run `make trials SCALE={run.scale}` to its end first.")
        found |= {_key(one): one for one in record["results"]}
    planned = list(trials(SCALES[run.scale]))
    content = _content(run, planned, [found[trial.key] for trial in planned])
    path = run.folder / FILE
    replace_text(path, json.dumps(content, separators=(",", ":")) + "\n")
    return path


def _key(result: dict[str, Any]) -> tuple:
    return tuple(result[name] for name in KEY)


def _content(run: Run, planned: Sequence[Trial], records: list[dict[str, Any]]) -> dict[str, Any]:
    truths = {
        trial.task.name: {
            "dims": [trial.task.dim_x, trial.task.dim_y],
            "truth": round(trial.task.mutual_information, 6),
            "source": trial.task.source,
        }
        for trial in planned
    }
    scale = SCALES[run.scale]
    header = {
        "scale": run.scale,
        "samples": scale.samples,
        "seeds": scale.seeds,
        "unit": "nats",
        "neighbours": 10,
        "shortened": SHORT,
        "seconds": "CPU seconds of one thread",
        **provenance(run.device),
    }
    return {"header": header, "summary": summary(records, truths), "tasks": truths, "results": _packed(records)}


def _packed(records: list[dict[str, Any]]) -> dict[str, list]:
    """Rows instead of dictionaries, a third of the size; the first row of each study names the columns."""
    auto = ("task", "seed", "value", "interval", "warned", "choice", "seconds")
    columns = {
        "auto": auto,
        "unseen": auto,
        "table": ("task", "method", "seed", "value", "seconds"),
        "panel": ("task", "method", "samples", "seed", "value", "interval", "seconds"),
    }
    return {
        study: [list(names), *([one.get(name) for name in names] for one in records if one["study"] == study)]
        for study, names in columns.items()
    }


def summary(records: list[dict[str, Any]], truths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what the records of `auto` say, pooled and by task: coverage, widths, errors, warnings."""
    rows = [record for record in records if record["study"] == "auto"]
    others = [record for record in records if record["study"] == "unseen"]

    def of(some: list[dict[str, Any]]) -> dict[str, Any]:
        found = coverage(some, truths)
        return {
            "results": found.results,
            "coverage": round(found.coverage, 4),
            "median_width": round(found.width, 4),
            "median_error": round(found.error, 4),
            "largest_error": round(found.largest, 4),
            "below_10_percent": found.close,
            "unwarned_of_them": round(found.quiet, 4) if found.close else None,
            "above_20_percent": found.far,
            "warned_of_them": round(found.warned, 4) if found.far else None,
            "seconds": round(statistics.fmean(row["seconds"] for row in some), 3),
        }

    names = dict.fromkeys(row["task"] for row in rows)
    return {
        "all": of(rows),
        "unseen": of(others) if others else None,
        "by_task": {name: of([row for row in rows if row["task"] == name]) for name in names},
    }
