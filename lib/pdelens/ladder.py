"""The ladder as a whole: every rung calibrated, the nulls beside them, what pages read of it (`data/ladder.json`)."""

import json
import os
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import power
from .calibration import FOLDER, HELD, calibrate, is_whole, judged_on, studied
from .judgement import nulls_of
from .project import DataError, data_file, replace_text, root
from .rungs import Rung, rungs
from .subjects import MINILM
from .teachers import fits
from .workers import outcomes

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
    `workers` processes take a job each (one for each core on a CPU; on a GPU, which small equations do not
    fill, eight). A rung that diverges does not stop the others; `RuntimeError` names it at the end.
    """
    folder = root() / "_build" / "train" / scale
    until = None if minutes is None else time.time() + 60 * minutes
    wanted = matching(scale, only)
    todo: list[Rung | str] = [rung for rung in wanted if not is_whole(rung, scale, folder)]
    checks = [kind for kind in power.KINDS if fits(f"{power.NAME}-{kind}", only.split(","))]
    todo += [f"{power.NAME}-{kind}" for kind in checks if power.known(kind, scale, folder / FOLDER) is None]
    nulls = [f"{NULLS}-{subject}" for subject in dict.fromkeys(rung.subject for rung in wanted)]
    todo += [name for name in nulls if not (folder / FOLDER / f"{name}.json").exists()]
    workers = workers or (os.cpu_count() or 1 if device == "cpu" else 8)
    failed, unfinished, began, done, total = [], 0, time.time(), 0.0, sum(_cost(job, scale) for job in todo)
    for job, outcome in outcomes(
        todo, _done, scale, folder, device, workers=workers, deadline=until, flush_denormal=True
    ):
        done += _cost(job, scale)
        if isinstance(outcome, RuntimeError):
            failed.append(str(outcome))
        unfinished += outcome is None
        left = (time.time() - began) / 60 * (total / done - 1)
        name = job if isinstance(job, str) else job.name
        tqdm.write(f"{name}: {_line(outcome)}; {done / total:.0%} of all, about {left:.0f} min left", file=sys.stderr)
    if failed:
        raise RuntimeError(" ".join(failed))
    return not unfinished


def _done(job: Rung | str, scale: str, folder: Path, device: str, until: float | None) -> dict[str, Any] | None:
    """Do one job: calibrate a rung, check the power of it all, or judge what stands beside a subject's rungs."""
    if isinstance(job, Rung):
        return calibrate(job, scale, folder, device, until)
    part, _, name = job.partition("-")
    if part == power.NAME:
        return power.check(name, scale, folder / FOLDER, device, until)
    found = judge_nulls(name, scale, folder, device)
    replace_text(folder / FOLDER / f"{job}.json", json.dumps(found) + "\n")
    return found


def _cost(job: Rung | str, scale: str) -> float:
    """Return a job's cost in the unit of `Rung.cost`; nulls take about as long as a hundred thousand of them."""
    if isinstance(job, Rung):
        return job.cost(scale)
    return power.cost(scale) if job.startswith(power.NAME) else 1e5


def _line(outcome: dict[str, Any] | RuntimeError | None) -> str:
    if outcome is None:
        return "time is up"
    if isinstance(outcome, RuntimeError):
        return str(outcome)
    if "judged" not in outcome:
        return "done"
    worst = {way: min(outcome["judged"][way].get("r2", [float("nan")])) for way in ("1", "converged")}
    return f"state R2 {worst['1']:.3f} at one step a layer, {worst['converged']:.3f} converged"


def judge_nulls(name: str, scale: str, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Return what stands beside every rung of a subject: nulls, and the ceiling that the next seed's teacher sets."""
    model = studied(name, folder, device)
    reference, calibration = judged_on(name, folder, device, scale)
    own = model.untrained().of("heldout", HELD[scale], device)
    flows = ()
    if name != MINILM:
        other = f"{name[:-1]}{(int(name[-1]) + 1) % 5}"
        try:
            flows = judged_on(other, folder, device, scale)[::-1]
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
    """Write records with one line for each rung, so that a change of one is a change of one line.

    Numbers keep five significant digits, more than any of them is good for over seeds: the file holds the learning
    curves and the profiles of two hundred calibrations, and is fetched with every clone.
    """
    parts = [
        f" {_dense(part)}: {{\n"
        + ",\n".join(f"  {_dense(name)}: {_dense(about)}" for name, about in sorted(whole.items()))
        + "}"
        for part, whole in found.items()
    ]
    replace_text(path, "{\n" + ",\n".join(parts) + "}\n")


def _dense(value: Any) -> str:
    return json.dumps(rounded(value), separators=(",", ":"))


def rounded(value: Any) -> Any:
    """Return records with their numbers as `write` keeps them."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@cache
def ladder() -> dict[str, Any]:
    """Return what is known of every rung, by name: what made it, how it was judged, what it learnt."""
    return json.loads(data_file(RECORDS).read_text())
