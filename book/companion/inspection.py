"""What is wrong with a committed page: stale, retold, touched up, or at odds with its records."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from . import chapters, seals
from .paths import results_folder
from .records import GLUE

# Tags that a cell may carry: the first is papermill's, the second lets the footer (time, commit) differ in a replay.
TAGS = {"parameters", "nbval-ignore-output", "hide-input", "remove-input", "remove-cell"}
# What a replay leaves out beside the footers: 09 prints whole live estimates, to digits that differ by machine; the
# numbers that its prose reads are recorded apart.
LEFT_OUT = {"16-information": 1}


def faults(path: Path) -> list[str]:
    """Return, as sentences, how a chapter's committed notebook departs from its source, its last run or its records."""
    target, results = chapters.notebook_path(path.stem), results_folder() / f"{path.stem}.json"
    if not target.exists() or not results.exists():
        return ["has no committed notebook or no records: run `make chapters`"]
    committed, whole = nbformat.read(target, as_version=4), json.loads(results.read_text())
    fresh, found = chapters.read_source(path), []
    if not chapters.is_current(path):
        found.append("out of date, its code or what it read is another now: run `make chapters`")
    if [_told(cell) for cell in committed.cells] != [_told(cell) for cell in fresh.cells]:
        found.append("words, captions or tags differ from the chapter's: run `make chapters`")
    if seals.outputs_digest(committed) != seals.sealed().get(path.stem):
        found.append("outputs are not those of its last run: `git checkout` them, or run it with FORCE=1")
    tags = {tag for cell in fresh.cells for tag in cell.metadata.get("tags", [])}
    left_out = sum("nbval-ignore-output" in cell.metadata.get("tags", []) for cell in fresh.cells)
    if tags - TAGS or left_out > 1 + LEFT_OUT.get(path.stem, 0):
        found.append(f"a cell is left out of the replay by its tags ({', '.join(sorted(tags))})")
    return found + _misquoted(committed, whole["records"]) + _misprinted(committed, whole["about"])


def _told(cell: Any) -> tuple[str, str, Any]:
    return cell.cell_type, cell.source, cell.metadata


def _misquoted(notebook: Any, records: dict[str, Any]) -> list[str]:
    """Name the numbers handed to the prose that are not the recorded ones."""
    found = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        name = output.get("metadata", {}).get("scrapbook", {}).get("name")
        if name is None:
            continue
        key = re.sub(r"\.(low|high)$", "", name)
        entry = records.get(name) or records.get(key)
        known = None
        if entry is not None:
            low_high = name not in records and "interval" in entry
            known = repr(entry["interval"][name.endswith(".high")] if low_high else entry["value"])
        if output["data"].get(GLUE + "text/plain") != known:
            found.append(f"hands {name} to the prose as {output['data'].get(GLUE + 'text/plain')}, recorded is {known}")
    return found


def _misprinted(notebook: Any, about: dict[str, Any]) -> list[str]:
    """Say where the last line tells of another run than the records do."""
    printed = "".join(output.get("text", "") for output in notebook.cells[-1].get("outputs", []))
    wanted = "at scale {scale}, seed {seed}, on {device}; Python {python}, torch {torch};".format(**about)
    return [] if wanted in printed else [f"its last line is not of the run that its records are of ({wanted})"]


def check_chapters(pattern: str = "") -> None:
    """Print of each chapter whether it is as its last run left it; exit with an error where one is not."""
    wrong = []
    for path in chapters.sources(pattern):
        found = faults(path)
        wrong += [path.stem] if found else []
        print("\n".join(f"{path.stem}: {fault}" for fault in found) or f"{path.stem}: current")
    if wrong:
        sys.exit(f"pdelens: {', '.join(wrong)}: see above.")
