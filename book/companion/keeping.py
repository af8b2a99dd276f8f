"""Measurements too long for a replay: made when a chapter runs, kept in `data/kept`, and sampled by every replay.

A page that takes minutes to measure could not be replayed in every test run. Its long cells hand their measurements
over in parts: a run makes all of them, a replay makes one again, compares it, and reads the others; what the page
derives from them, its records, tables and figures, is replayed as ever. Other code makes the page out of date, and
its next run measures anew.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .paths import data_file, files_read, replace_text, results_folder, root, sha256, write_checksums
from .records import Chapter, RecordError

FOLDER = "kept"


def kept(
    chapter: Chapter, name: str, parts: Mapping[str, Callable[[], Any]], *, again: str, atol: float, rtol: float
) -> dict[str, np.ndarray]:
    """Return what each part measures, an array of numbers (any shape), by the parts' names.

    In a run all parts are made, and go to `data/kept/<chapter>-<name>.json` if the chapter ends well; a part that
    agrees with the one kept there (within `atol + rtol * |kept|`) stays as it was, unless the run is forced. A replay
    makes the part `again` alone, raises `RecordError` where it is not what was kept, and reads the others, from a file
    whose digest must be the listed one. Values are rounded to eight digits.
    """
    if again not in parts:
        raise ValueError(f"again={again!r} was given: name one of the parts {', '.join(parts)}.")
    file = f"{FOLDER}/{chapter.name}-{name}.json"
    if not chapter.replay:
        return _made(chapter, name, file, parts, atol, rtol)
    known = _read(file)
    if known.keys() != parts.keys():
        raise RecordError(f"data/{file} holds other parts than {chapter.name} asks for: run `make chapters`.")
    if not _agree(_rounded(parts[again]()), known[again], atol, rtol):
        raise RecordError(f"data/{file}: {again} is another when measured again (atol {atol}, rtol {rtol}).")
    return known


def _made(
    chapter: Chapter, name: str, file: str, parts: Mapping[str, Callable[[], Any]], atol: float, rtol: float
) -> dict[str, np.ndarray]:
    steady = os.environ.get("PDELENS_STEADY") == "1" and (root() / "data" / file).exists()
    known, found = _read(file) if steady else {}, {}
    for part, measure in parts.items():
        value = _rounded(measure())
        found[part] = known[part] if part in known and _agree(value, known[part], atol, rtol) else value
    lines = ",\n".join(f" {json.dumps(part)}: {json.dumps(value.tolist())}" for part, value in found.items())
    made = chapter.path.parent / f"{chapter.name}-{name}.kept"
    replace_text(made, f"{{\n{lines}\n}}\n")
    if made.parent == results_folder():  # a notebook that somebody runs by hand: no chapter's run will move it
        _take([made])
    files_read.add(file)
    return found


def _read(file: str) -> dict[str, np.ndarray]:
    return {part: np.array(value) for part, value in json.loads(data_file(file).read_text()).items()}


def _rounded(value: Any) -> np.ndarray:
    """Return numbers as JSON will hold them."""
    found = np.asarray(value, dtype=float)
    if not np.isfinite(found).all():
        raise RecordError("a measurement that is not finite was handed over: only finite numbers are kept.")
    return np.vectorize(lambda number: float(f"{number:.8g}"), otypes=[float])(found)


def _agree(value: np.ndarray, known: np.ndarray, atol: float, rtol: float) -> bool:
    return value.shape == known.shape and bool((abs(value - known) <= atol + rtol * abs(known)).all())


def adopt(stem: str, folder: Path) -> None:
    """Move what a chapter's run measured from its folder into `data/kept`, and drop what it measures no longer."""
    target = root() / "data" / FOLDER
    made = {path.with_suffix(".json").name: path for path in sorted(folder.glob(f"{stem}-*.kept"))}
    for path in target.glob(f"{stem}-*.json"):
        if path.name not in made:
            path.unlink()
    _take(list(made.values()))


def _take(made: list[Path]) -> None:
    target, names = root() / "data" / FOLDER, {path: path.with_suffix(".json").name for path in made}
    if made:
        target.mkdir(exist_ok=True)
    for path, name in names.items():
        path.replace(target / name)
    write_checksums({f"{FOLDER}/{name}": sha256(target / name) for name in names.values()})
