"""Numbers: recorded once, quoted everywhere, compared when a chapter is replayed.

A chapter opens with `start_chapter`, records every number that it shows, and closes with `finish_chapter`. A run
writes `data/results/<chapter>.json`; under `PDELENS_REPLAY=1` nothing is written, and each value is compared with the
committed one. Under `PDELENS_STEADY=1` (`make chapters` without `FORCE=1`) a run keeps the committed value where its
own agrees with it.
"""

import json
import math
import os
import platform
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import paths, seals
from .paths import refuse_unknown_scale, replace_text, results_folder

GLUE = "application/papermill.record/"
KINDS = ("metric", "timing")
NAME = re.compile(r"\w+(-\w+)*")


class RecordError(AssertionError):
    """A number could not be recorded, or its replay differs; the message names file and key."""


@dataclass
class Chapter:
    """The chapter that is running: where its numbers go, and what it runs on."""

    name: str
    device: str
    seed: int
    scale: str
    replay: bool
    began: float
    path: Path
    committed: dict[str, dict[str, Any]]
    steady: dict[str, dict[str, Any]] = field(default_factory=dict)
    looks: tuple[str, ...] = ()
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: list[Any] = field(default_factory=list)

    def size(self, *, smoke: int, book: int, full: int | None = None) -> int:
        """Return how much to compute at this scale (`full` as `book`, if not given)."""
        return {"smoke": smoke, "book": book, "full": book if full is None else full}[self.scale]


_running: Chapter | None = None


def start_chapter(name: str, *, device: str = "auto", seed: int = 0, scale: str = "book") -> Chapter:
    """Open a chapter: its records are `data/results/<name>.json`.

    `device="auto"` takes a GPU where there is one. Seeds torch and NumPy, keeps the model hub out of it and silences
    progress bars, whose text no replay could match. Raises `ValueError` for an unknown scale or device and
    `RecordError` where a replay has nothing to compare with.
    """
    global _running
    refuse_unknown_scale(scale)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"chapter {name!r} was given: a name such as '01-cosine' is wanted.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(_kind(device)).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was given, but torch sees no GPU here: use device='auto' or 'cpu'.")
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    warnings.filterwarnings("ignore", message="IProgress not found")
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries that still use the global state)
    replay = os.environ.get("PDELENS_REPLAY") == "1"
    given = os.environ.get("PDELENS_RESULTS")
    folder = Path(given) if given and not replay else results_folder()
    path = folder / f"{name}.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    committed = whole.get("records", {})
    if replay and not committed:
        raise RecordError(f"{path} is missing, so there is nothing to compare with: run `make chapters` first.")
    known = results_folder() / f"{name}.json"
    keeps = os.environ.get("PDELENS_STEADY") == "1" and not replay and known.exists()
    if keeps:
        whole = json.loads(known.read_text())
    steady = whole["records"] if keeps else {}
    paths.files_read.clear()
    looks = tuple(whole.get("figures", ()))
    _running = Chapter(name, device, seed, scale, replay, time.perf_counter(), path, committed, steady, looks)
    return _running


def record(
    key: str,
    value: Any,
    *,
    unit: str,
    interval: Sequence[float] | None = None,
    seeds: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    kind: str = "metric",
) -> Any:
    """Record a number (or text, or an array of numbers) under a key, and return what to show.

    In a run, the value goes to the chapter's results, rounded to eight digits, and comes back so. In a replay it is
    compared with the committed one: beyond `atol + rtol * |committed|` (texts: any difference; `interval` likewise)
    it raises `RecordError` naming file, key and both values; within, the committed value comes back, so that what is
    shown does not flicker. `kind="timing"` is never compared. `seeds` says over how many seeds the interval runs.
    """
    chapter = _open_chapter("record")
    if kind not in KINDS:
        raise ValueError(f"{key}: kind {kind!r} was given: choose from {', '.join(KINDS)}.")
    if not isinstance(key, str) or not key.strip():
        raise ValueError(f"key {key!r} was given: a name is wanted.")
    if key in chapter.entries:
        raise RecordError(f"{key} is recorded twice in {chapter.name}: give each number a key of its own.")
    plain = _plain(key, value)
    numeric = not seals.is_text(plain)
    if kind == "metric" and numeric and (atol is None or rtol is None):
        raise ValueError(f"{key}: a metric needs its tolerance: give atol and rtol (0 where it is exact).")
    _refuse_nonsense(key, atol, rtol, interval)
    entry: dict[str, Any] = {"value": plain, "unit": unit, "kind": kind}
    if interval is not None:
        entry["interval"] = _plain(key, list(interval))
    if seeds is not None:
        entry["seeds"] = seeds
    if kind == "metric" and numeric:
        entry |= {"atol": atol, "rtol": rtol}
    entry = _compared(chapter, key, entry) if chapter.replay else _steadied(chapter, key, entry)
    chapter.entries[key] = entry
    if not chapter.replay:
        # Keys of an earlier run stay until the chapter is finished: half a run loses nothing.
        _write(chapter, {**chapter.committed, **chapter.entries})
    return _shown(entry["value"])


def _refuse_nonsense(key: str, atol: float | None, rtol: float | None, interval: Sequence[float] | None) -> None:
    for name, tolerance in (("atol", atol), ("rtol", rtol)):
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise ValueError(f"{key}: {name}={tolerance} was given: a finite number, not negative, is wanted.")
    if interval is not None and (len(interval) != 2 or not float(interval[0]) <= float(interval[1])):
        raise ValueError(f"{key}: interval {list(interval)} was given: its low end and then its high end are wanted.")


def keep_look(figure: Any) -> None:
    """Have a figure's look recorded, and compared in a replay, when the chapter that is running ends."""
    if _running is not None:
        _running.figures.append(figure)


def recorded(key: str) -> dict[str, Any]:
    """Return this chapter's entry for a key: `value`, `unit`, and `interval` where it has one."""
    chapter = _open_chapter("recorded")
    if key not in chapter.entries:
        raise RecordError(f"{key} has not been recorded in {chapter.name} yet: record it before showing it.")
    return chapter.entries[key]


def quote(*keys: str) -> None:
    """Hand recorded numbers to the prose: ``{glue:text}`key:.2f` `` then shows them.

    An entry with an interval also gives `key.low` and `key.high`. Shows nothing in the notebook.
    """
    from IPython.display import display

    for key in keys:
        entry = recorded(key)
        values = {key: entry["value"]}
        if "interval" in entry:
            values |= {f"{key}.low": entry["interval"][0], f"{key}.high": entry["interval"][1]}
        for name, value in values.items():
            if isinstance(value, list):
                raise RecordError(f"{name} is an array: record the one number that the prose needs, and quote that.")
            display(
                {GLUE + "text/plain": repr(value)},
                raw=True,
                metadata={"scrapbook": {"name": name, "mime_prefix": GLUE}},
            )


def finish_chapter() -> None:
    """Close the chapter: drop stale keys, note what it read and how its figures look, print how and where it ran.

    In a replay, raises `RecordError` where a committed number was not recomputed or a figure looks different.
    """
    global _running
    chapter = _open_chapter("finish_chapter")
    unseen = sorted(chapter.committed.keys() - chapter.entries.keys())
    if chapter.replay and unseen:
        raise RecordError(f"{chapter.path}: {', '.join(unseen)} stand there, but no cell recomputed them.")
    looks = _looks(chapter)
    if not chapter.replay:
        _write(chapter, chapter.entries, looks)
    print(_footer(chapter))
    _running = None


def all_records() -> dict[str, dict[str, Any]]:
    """Return every committed record of every chapter, by key."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(results_folder().glob("*.json")):
        for key, entry in json.loads(path.read_text())["records"].items():
            if key in found:
                raise RecordError(f"{key} is recorded by {found[key]['chapter']} and by {path.stem}: rename one.")
            found[key] = {**entry, "chapter": path.stem}
    return found


def _kind(device: str) -> str:
    """Return a device's name as torch has it, or say what names there are."""
    try:
        return str(torch.device(device))
    except (RuntimeError, TypeError):
        raise ValueError(f"device {device!r} was given: 'auto', 'cpu' or 'cuda' is wanted.") from None


def _looks(chapter: Chapter) -> list[str]:
    """Return how the figures look: as committed where they look alike; raise where a replay's do not."""
    found = [seals.look(figure) for figure in chapter.figures]
    same = len(found) == len(chapter.looks)
    if chapter.replay and not same:
        raise RecordError(f"{chapter.path}: {len(found)} figures were drawn, but {len(chapter.looks)} stand there.")
    for number, look in enumerate(found if same else ()):
        if seals.look_alike(look, chapter.looks[number]):
            found[number] = chapter.looks[number]
        elif chapter.replay:
            raise RecordError(
                f"{chapter.path}: figure {number + 1} looks different from the committed one: run `make chapters`, "
                "and look at it."
            )
    return found


def _open_chapter(caller: str) -> Chapter:
    if _running is None:
        raise RecordError(f"{caller} was called outside a chapter: call start_chapter('NN-name') first.")
    return _running


def _plain(key: str, value: Any) -> Any:
    """Return a value as JSON holds it, numbers rounded to eight significant digits."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(key, item) for item in value]
    if isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not np.isfinite(value):
            raise RecordError(f"{key} is {value}: only finite numbers are recorded.")
        return float(f"{value:.8g}")
    raise TypeError(f"{key}: a {type(value).__name__} was given: record numbers, texts or arrays of numbers.")


def _shown(plain: Any) -> Any:
    return np.array(plain) if isinstance(plain, list) and not seals.is_text(plain) else plain


def _compared(chapter: Chapter, key: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the committed entry if the recomputed one agrees with it, else raise."""
    if key not in chapter.committed:
        raise RecordError(f"{chapter.path}: {key} is not there: run `make chapters` to record it.")
    committed = chapter.committed[key]
    if difference := seals.difference(entry, committed):
        raise RecordError(f"{chapter.path}: {key}{difference}")
    return committed


def _steadied(chapter: Chapter, key: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the committed entry where a run agrees with it, so that rounding on another machine changes no file."""
    committed = chapter.steady.get(key)
    return entry if committed is None or entry["kind"] == "timing" or seals.difference(entry, committed) else committed


def _write(chapter: Chapter, entries: dict[str, dict[str, Any]], looks: Sequence[str] = ()) -> None:
    rows = [f"  {json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)]
    about = json.dumps(
        {
            "chapter": chapter.name,
            "scale": chapter.scale,
            "seed": chapter.seed,
            **_machine(chapter),
            "data": sorted(paths.files_read),
        }
    )
    figures = ",\n".join(f'  "{look}"' for look in looks)
    records = ",\n".join(rows)
    replace_text(chapter.path, f'{{"about": {about},\n "figures": [\n{figures}],\n "records": {{\n{records}\n}}}}\n')


def _machine(chapter: Chapter) -> dict[str, str]:
    gpu, threads = chapter.device.startswith("cuda"), torch.get_num_threads()
    return {
        "device": torch.cuda.get_device_name() if gpu else f"CPU ({threads} thread{'s' * (threads != 1)})",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _footer(chapter: Chapter) -> str:
    machine = _machine(chapter)
    commit = paths.commit()
    seconds = time.perf_counter() - chapter.began
    return (
        f"Ran in {seconds:.0f} s at scale {chapter.scale}, seed {chapter.seed}, on {machine['device']}; "
        f"Python {machine['python']}, torch {machine['torch']}; commit {commit or 'unknown'}."
    )
