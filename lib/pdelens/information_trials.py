"""The estimators on tasks with exact information: what each is worth, measured, for the chapter on them.

Run as `python -m pdelens.information_trials --scale smoke|book|full`; `information_studies` says what is run.

Each result is a line of `_build/train/<scale>/information.jsonl`, so that an interrupted run goes on where it
stopped; `information.json` beside it holds all of them with a header and the summary.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from . import project
from .information_studies import SCALES, SHORT, Trial, trials


def run(scale_name: str, folder: Path, *, minutes: float | None = None, progress: bool = True) -> Path | None:
    """Run what is not yet there and return the path of `information.json`, or None where time ran out before.

    A line is written whole or, if the run is cut off in it, left out when the file is read again.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    lines, began = folder / "information.jsonl", time.monotonic()
    done = _read(lines)
    planned = list(trials(SCALES[scale_name]))
    left = [trial for trial in planned if trial.key not in done]
    for trial in tqdm(left, initial=len(planned) - len(left), total=len(planned), disable=not progress):
        if minutes is not None and time.monotonic() - began > 60 * minutes:
            return None
        record = trial.run()
        done[trial.key] = record
        with lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    return _write(scale_name, folder, planned, [done[trial.key] for trial in planned])


def _read(lines: Path) -> dict[tuple, dict[str, Any]]:
    records: dict[tuple, dict[str, Any]] = {}
    if not lines.exists():
        return records
    text = lines.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        lines.write_text(whole, encoding="utf-8")  # a cut line would swallow the next one
    for line in whole.splitlines():
        record = json.loads(line)
        records[tuple(record[name] for name in ("study", "task", "method", "samples", "seed"))] = record
    return records


def _write(scale_name: str, folder: Path, planned: list[Trial], records: list[dict[str, Any]]) -> Path:
    from importlib.metadata import version

    truths = {
        trial.task.name: {
            "dims": [trial.task.dim_x, trial.task.dim_y],
            "truth": round(trial.task.mutual_information, 6),
            "source": trial.task.source,
        }
        for trial in planned
    }
    scale = SCALES[scale_name]
    header = {
        "scale": scale_name,
        "samples": scale.samples,
        "seeds": scale.seeds,
        "unit": "nats",
        "neighbours": 10,
        "shortened": SHORT,
        "seconds": "CPU seconds of one thread",
        "versions": {name: version(name) for name in ("torch", "numpy", "scipy", "pdelens")},
        "python": platform.python_version(),
    }
    content = {"header": header, "summary": summary(records, truths), "tasks": truths, "results": _packed(records)}
    target, draft = folder / "information.json", folder / "information.json.part"
    draft.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    return draft.replace(target)


def _packed(records: list[dict[str, Any]]) -> dict[str, list]:
    """Rows instead of dictionaries, a third of the size; the first row of each study names the columns."""
    columns = {
        "auto": ("task", "seed", "value", "interval", "warned", "choice", "seconds"),
        "unseen": ("task", "seed", "value", "interval", "warned", "choice", "seconds"),
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
        inside, width, error = [], [], []
        for row in some:
            truth, (low, high) = truths[row["task"]]["truth"], row["interval"]
            inside.append(low <= truth <= high)
            width.append((high - low) / truth)
            error.append(abs(row["value"] / truth - 1))
        close = [not row["warned"] for row, miss in zip(some, error, strict=True) if miss < 0.1]
        far = [bool(row["warned"]) for row, miss in zip(some, error, strict=True) if miss > 0.2]
        return {
            "results": len(some),
            "coverage": round(statistics.fmean(inside), 4),
            "median_width": round(statistics.median(width), 4),
            "median_error": round(statistics.median(error), 4),
            "largest_error": round(max(error), 4),
            "below_10_percent": len(close),
            "unwarned_of_them": round(statistics.fmean(close), 4) if close else None,
            "above_20_percent": len(far),
            "warned_of_them": round(statistics.fmean(far), 4) if far else None,
            "seconds": round(statistics.fmean(row["seconds"] for row in some), 3),
        }

    names = list(dict.fromkeys(row["task"] for row in rows))
    return {
        "all": of(rows),
        "unseen": of(others) if others else None,
        "by_task": {name: of([row for row in rows if row["task"] == name]) for name in names},
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the trials of a scale from the command line."""
    parser = argparse.ArgumentParser(prog="python -m pdelens.information_trials", description=__doc__)
    parser.add_argument("--scale", choices=tuple(SCALES), default="book")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; run again to go on")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run has left")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = project.root() / "_build" / "train" / chosen.scale
    if chosen.fresh:
        (folder / "information.jsonl").unlink(missing_ok=True)
    path = run(chosen.scale, folder, minutes=chosen.minutes)
    print(f"The results are in {path}." if path else "Time is up; run again to go on.")


if __name__ == "__main__":
    main()
