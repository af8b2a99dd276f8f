"""The ladder as a whole: every rung calibrated, the nulls beside them, what pages read of it (`data/ladder.json`)."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import power
from .calibration import FOLDER, HELD, calibrate, held, is_whole, studied
from .judgement import nulls_of
from .project import DataError, data_file, replace_text, root
from .rungs import Rung, rungs
from .subjects import MINILM
from .teachers import fits

RECORDS = "ladder.json"
NULLS = "nulls"
PARTS = ("rungs", NULLS, power.NAME)


def matching(scale: str, only: str = "*") -> list[Rung]:
    """Return the rungs whose names fit one of the patterns, which are separated by commas."""
    return [rung for rung in rungs(scale) if fits(rung.name, only.split(","))]


def names(scale: str) -> list[str]:
    """Return what there is to calibrate."""
    return [*(rung.name for rung in rungs(scale)), *(f"{power.NAME}-{kind}" for kind in power.KINDS)]


def calibrate_all(
    scale: str, device: str, only: str = "*", *, minutes: float | None = None, workers: int | None = None
) -> bool:
    """Calibrate what fits `only` into `_build/train/<scale>/rungs`, and judge it and its nulls; the power checks too.

    Complete ones are kept. `minutes` ends the run early, with checkpoints, and then False is returned.
    `workers` processes take a rung each (one for each core on a CPU; on a GPU, which small equations do not
    fill, eight). A rung that diverges does not stop the others; `RuntimeError` names it at the end.
    """
    folder = root() / "_build" / "train" / scale
    until = None if minutes is None else time.time() + 60 * minutes
    wanted = matching(scale, only)
    todo = [rung for rung in wanted if not is_whole(rung, scale, folder)]
    workers = workers or (os.cpu_count() or 1 if device == "cpu" else 8)
    failed, unfinished, began, done, total = [], 0, time.time(), 0.0, sum(rung.cost(scale) for rung in todo)
    for rung, outcome in _outcomes(todo, workers, scale, folder, device, until):
        done += rung.cost(scale)
        if isinstance(outcome, RuntimeError):
            failed.append(str(outcome))
        unfinished += outcome is None
        left = (time.time() - began) / 60 * (total / done - 1)
        tqdm.write(
            f"{rung.name}: {_line(outcome)}; {done / total:.0%} of all, about {left:.0f} min left", file=sys.stderr
        )
    for kind in power.KINDS:
        if fits(f"{power.NAME}-{kind}", only.split(",")):
            unfinished += power.check(kind, scale, folder / FOLDER, device, until) is None
    if failed:
        raise RuntimeError(" ".join(failed))
    for name in dict.fromkeys(rung.subject for rung in wanted):
        path = folder / FOLDER / f"{NULLS}-{name}.json"
        if not unfinished and not path.exists():
            replace_text(path, json.dumps(judge_nulls(name, scale, folder, device)) + "\n")
    return not unfinished


def _line(outcome: dict[str, Any] | RuntimeError | None) -> str:
    if outcome is None:
        return "time is up"
    if isinstance(outcome, RuntimeError):
        return str(outcome)
    worst = {way: min(outcome["judged"][way].get("r2", [float("nan")])) for way in ("1", "converged")}
    return f"state R2 {worst['1']:.3f} at one step a layer, {worst['converged']:.3f} converged"


def _outcomes(
    todo: list[Rung], workers: int, scale: str, folder: Path, device: str, until: float | None
) -> Iterator[tuple[Rung, Any]]:
    """Yield each rung with its record, None where time was up, or the error it ended in."""
    if workers == 1:
        for rung in todo:
            yield rung, _attempt(rung, scale, folder, device, until)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_settle, initargs=(threads,)) as pool:
        futures = {pool.submit(_attempt, rung, scale, folder, device, until): rung for rung in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _attempt(rung: Rung, scale: str, folder: Path, device: str, until: float | None):
    if until is not None and time.time() > until:
        return None
    try:
        return calibrate(rung, scale, folder, device, until)
    except DataError:
        raise
    except RuntimeError as error:
        return error


def _settle(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True, warn_only=True)


def judge_nulls(name: str, scale: str, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Return what stands beside every rung of a subject: nulls, and the ceiling that the next seed's teacher sets."""
    model = studied(name, folder, device)
    reference = held(name, folder, device, "heldout", HELD[scale])
    calibration = held(name, folder, device, "calibration", HELD[scale])
    own = model.untrained().of("heldout", HELD[scale], device)
    flows = []
    if name != MINILM:
        other = f"{name[:-1]}{(int(name[-1]) + 1) % 5}"
        try:
            flows = [held(other, folder, device, split, HELD[scale]) for split in ("calibration", "heldout")]
        except DataError:
            pass  # weights of that seed are neither trained here nor committed
    return nulls_of(model, reference, calibration, own, flows)


def gathered(folder: Path, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what was found of every rung in a folder, their nulls and the power checks, over what was known before."""
    found: dict[str, Any] = {part: dict((known or {}).get(part, {})) for part in PARTS}
    for path in sorted((folder / FOLDER).glob("*.json")):
        part = next((part for part in PARTS[1:] if path.stem.startswith(f"{part}-")), PARTS[0])
        found[part][path.stem.removeprefix(f"{part}-")] = json.loads(path.read_text())
    return found


def known(path: Path) -> dict[str, Any]:
    """Return what a file of records holds, nothing where there is none."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write records with one line for each rung, so that a change of one is a change of one line."""
    parts = [
        f" {json.dumps(part)}: {{\n"
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(about)}" for name, about in sorted(whole.items()))
        + "}"
        for part, whole in found.items()
    ]
    replace_text(path, "{\n" + ",\n".join(parts) + "}\n")


@cache
def ladder() -> dict[str, Any]:
    """Return what is known of every rung, by name: what made it, how it was judged, what it learnt."""
    return json.loads(data_file(RECORDS).read_text())
