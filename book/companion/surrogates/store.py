"""The records of the sweep: written once, read by every page."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..paths import data_file, replace_text
from . import controls
from .laws import FAMILY

RECORDS, LAWS = "ladder.json", "laws.json"
NULLS = "nulls"
PARTS = ("rungs", NULLS, controls.NAME)
_OF_LAWS = f"-{FAMILY}"  # in the name of every rung of the ladder of laws


def gathered(folder: Path) -> dict[str, Any]:
    """Return what was found of every equation in a folder, their nulls and the controls."""
    found: dict[str, Any] = {part: {} for part in PARTS}
    for part, beginning in zip(PARTS, ("rung-", f"{NULLS}-", f"{controls.NAME}-"), strict=True):
        for path in sorted(folder.glob(f"{beginning}*.json")):
            if not path.stem.endswith("-calibrated"):  # not yet evaluated
                name = path.stem if part == PARTS[0] else path.stem.removeprefix(beginning)
                found[part][name] = json.loads(path.read_text())["record"]
    return found


def divided(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what was found by the file that it belongs to: the sweep of hypotheses, or the ladder of laws.

    The ladder takes days, and grows a rung at a time while pages about the sweep stay as they are. Nulls go with the
    equations that they stand beside.
    """
    laws = {name: about for name, about in found["rungs"].items() if _OF_LAWS in name}
    sweep = {name: about for name, about in found["rungs"].items() if _OF_LAWS not in name}
    teachers, others = ({about["made"]["subject"] for about in part.values()} for part in (laws, sweep))
    beside = {name: about for name, about in found[NULLS].items() if name in teachers}
    rest = {name: about for name, about in found[NULLS].items() if name in others or name not in teachers}
    return {
        RECORDS: {"rungs": sweep, NULLS: rest, controls.NAME: dict(found[controls.NAME])},
        LAWS: {"rungs": laws, NULLS: beside},
    }


def added(known: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is known with what was found over it, part by part."""
    return {part: {**known.get(part, {}), **rows} for part, rows in found.items()}


def known(path: Path) -> dict[str, Any]:
    """Return what a file of records holds, nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write records with one line for each equation.

    Numbers keep five significant digits, more than any of them is good for over seeds: the file holds the learning
    curves and the profiles of two hundred calibrations, and is fetched with every clone.
    """
    replace_text(path, in_lines(rounded(found), separators=(",", ":")))


def in_lines(found: Mapping[str, Mapping[str, Any]], **how: Any) -> str:
    """Return records as JSON (`how` to `json.dumps`), one line for each part: a change of one is one line's."""
    parts = []
    for part, whole in found.items():
        rows = (f"  {json.dumps(name)}: {json.dumps(about, **how)}" for name, about in sorted(whole.items()))
        parts.append(f" {json.dumps(part)}: {{\n" + ",\n".join(rows) + "}")
    return "{\n" + ",\n".join(parts) + "}\n"


def rounded(value: Any) -> Any:
    """Return records with their numbers as `write` keeps them."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@cache
def sweep_records() -> dict[str, Any]:
    """Return what is known of every equation, by name: what made it, how it was judged, what it learnt."""
    return json.loads(data_file(RECORDS).read_text())


@cache
def law_records() -> dict[str, Any]:
    """Return what is known of the ladder of laws, likewise."""
    return json.loads(data_file(LAWS).read_text())
