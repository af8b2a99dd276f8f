"""What the trials of the estimators found (`make trials`), as the arrays that figures and tables show."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..paths import data_file

FILE = "information.json"
# Tasks whose copula is neither normal nor Student: there no family that `auto` fits is right.
OTHER = ("additive", "two_modes", "X-", "spiral", "swissroll")


def load() -> dict[str, Any]:
    """Return the committed trials: `header`, `summary`, `tasks`, and `results` by study as lists of dictionaries."""
    trials = json.loads(data_file(FILE).read_text())
    studies = trials["results"].items()
    rows = {study: [dict(zip(names, row, strict=True)) for row in found] for study, (names, *found) in studies}
    return trials | {"results": rows}


@dataclass(frozen=True, eq=False)
class Grid:
    """Mean estimate over truth, (tasks, methods), nan where a method was not run, and seconds a call, (methods,)."""

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    ratios: np.ndarray
    seconds: np.ndarray

    def error(self, method: str) -> float:
        """Return the median over tasks of |estimate / truth - 1|."""
        return float(np.nanmedian(np.abs(self.ratios[:, self.methods.index(method)] - 1)))


def grid(trials: dict[str, Any]) -> Grid:
    """Return every estimator on every task, and `auto` before them."""
    truths = trials["tasks"]
    rows = [row | {"method": "auto"} for row in trials["results"]["auto"]] + trials["results"]["table"]
    tasks = tuple(dict.fromkeys(row["task"] for row in rows))
    methods = tuple(dict.fromkeys(row["method"] for row in rows))
    found: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault((row["task"], row["method"]), []).append(row["value"] / truths[row["task"]]["truth"])
        seconds.setdefault(row["method"], []).append(row["seconds"])
    ratios = np.array([[np.mean(found.get((task, method), np.nan)) for method in methods] for task in tasks])
    return Grid(tasks, methods, ratios, np.array([np.median(seconds[method]) for method in methods]))


@dataclass(frozen=True, eq=False)
class Panel:
    """True against estimated information: rows of the study, with `truth` and `dims` of each row's task."""

    rows: list[dict[str, Any]]

    @property
    def samples(self) -> tuple[int, ...]:
        """The numbers of samples, rising."""
        return tuple(sorted({row["samples"] for row in self.rows}))

    @property
    def dims(self) -> tuple[int, ...]:
        """The columns of x (and of y), rising."""
        return tuple(sorted({row["dims"][0] for row in self.rows}))

    def curves(self, samples: int, dims: int, channel: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return each method's truths, rising, and mean estimates; of Gaussian channels, or of the crossings."""
        found: dict[str, dict[float, list[float]]] = {}
        for row in self.rows:
            if (row["samples"], row["dims"][0], row["channel"]) == (samples, dims, channel):
                found.setdefault(row["method"], {}).setdefault(row["truth"], []).append(row["value"])
        return {
            method: (np.array(sorted(by)), np.array([np.mean(by[truth]) for truth in sorted(by)]))
            for method, by in found.items()
        }

    def believed(self, method: str, samples: int, dims: int, within: float = 0.2) -> tuple[float, float, float]:
        """Return between which truths the channels' estimates stay within this share, and the crossings' ratio.

        The longest run of neighbouring truths counts, (0, 0) where there is none; the ratio is estimate over truth,
        nan where no crossing has so many columns.
        """
        truth, found = self.curves(samples, dims)[method]
        best, start = (0.0, 0.0), 0
        for place, good in enumerate([*(np.abs(found / truth - 1) <= within), False]):
            if good:
                continue
            if place > start and (not best[1] or truth[place - 1] / truth[start] > best[1] / best[0]):
                best = (float(truth[start]), float(truth[place - 1]))
            start = place + 1
        crossed = self.curves(samples, dims, channel=False).get(method)
        return *best, float(crossed[1][0] / crossed[0][0]) if crossed else float("nan")


def panel(trials: dict[str, Any]) -> Panel:
    """Return the study of true against estimated over dims, samples and information."""
    rows = []
    for row in trials["results"]["panel"]:
        about = trials["tasks"][row["task"]]
        channel = row["task"].startswith("gaussian-channel")
        rows.append(row | {"truth": about["truth"], "dims": about["dims"], "channel": channel})
    return Panel(rows)


class Covered(NamedTuple):
    """How `auto` did on some results: share of intervals that hold the truth, and what else it said.

    `width` and `error` are medians relative to the truth; `quiet` is the share without a warning of the `close`
    results whose error is under 10 %, `warned` that with one of the `far` results whose error passes 20 %.
    """

    results: int
    coverage: float
    width: float
    error: float
    largest: float
    close: int
    quiet: float
    far: int
    warned: float


def covered(trials: dict[str, Any], kind: str = "all") -> Covered:
    """Return what `auto` achieved on all tasks, on the "elliptical" ones, on the "other" ones, or on one by name; or
    on those "unseen", which are outside the catalogue that it was built with.
    """
    rows = trials["results"]["unseen" if kind == "unseen" else "auto"]
    if kind in ("elliptical", "other"):
        rows = [row for row in rows if any(part in row["task"] for part in OTHER) == (kind == "other")]
    elif kind not in ("all", "unseen"):
        rows = [row for row in rows if row["task"] == kind]
    if not rows:
        raise ValueError(
            f"no result of auto is on {kind!r}: 'all', 'elliptical', 'other', 'unseen' or a task's name is wanted."
        )
    return coverage(rows, trials["tasks"])


def coverage(rows: Sequence[dict[str, Any]], tasks: dict[str, dict[str, Any]]) -> Covered:
    """Return what `auto` achieved in these results (at least one), of tasks with known truths."""
    truth = np.array([tasks[row["task"]]["truth"] for row in rows])
    low, high = np.array([row["interval"] for row in rows]).T
    error = np.abs(np.array([row["value"] for row in rows]) / truth - 1)
    warned = np.array([row["warned"] > 0 for row in rows])
    close, far = error < 0.1, error > 0.2
    return Covered(
        len(rows),
        float(((low <= truth) & (truth <= high)).mean()),
        float(np.median((high - low) / truth)),
        float(np.median(error)),
        float(error.max()),
        int(close.sum()),
        float((~warned[close]).mean()) if close.any() else 1.0,
        int(far.sum()),
        float(warned[far].mean()) if far.any() else 1.0,
    )
