"""The program behind `make train` and `make adopt`: deterministic on one machine, resumable after a kill.

Each teacher's file carries what made it, and how good it is with its weights as the file holds them.
"""

import argparse
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import ladder, models, stacked, teachers, text, yardsticks
from .adoption import adopt
from .examples import Examples, coder, digest_of, sets
from .optimisation import forget
from .project import DataError, root
from .teachers import Job
from .workers import device_name, outcomes

# The most of each test set that a smoke run looks at.
SMOKE_TESTS = 200


def train_stack(jobs: Sequence[Job], scale: str, folder: Path, device: str, deadline: float | None = None) -> list[str]:
    """Train one stack into a folder; return a line on each teacher, none where time was up first."""
    found = sets(_kind(jobs[0]), jobs[0].configuration.length, folder)
    train, held, tests = found.small(SMOKE_TESTS) if scale == "smoke" else found

    def keep(job: Job, model: models.Transformer, step: int) -> None:
        path = folder / f"{job.name}-step{step:05d}.safetensors"
        _write(path, models.rounded(model), made_by(job, scale, device) | {"step": step}, tests)

    def stop(done: int) -> bool:
        return deadline is not None and done % jobs[0].checkpoint_every == 0 and time.time() > deadline

    position = (*multiprocessing.current_process()._identity, 1)[0] - 1
    finished, records = stacked.train(
        jobs, train, folder, held=held, device=device, stop=stop, keep=keep, position=position
    )
    if finished is None:
        return []
    lines = []
    for job, model, record in zip(jobs, finished, records, strict=True):
        made = made_by(job, scale, device) | {
            "seconds": round(record["seconds"] / len(jobs)),
            "stack": len(jobs),
            "data_sha256": digest_of(_kind(job), job.configuration.length, folder),
            "curve": record["curve"],
        }
        model = models.rounded(model)
        seen = stacked.treated(job, train)
        made["train_accuracy"] = stacked.evaluate(model, Examples(*(column[:2000] for column in seen)))["accuracy"]
        if job.configuration.vocabulary:
            made["tokenizer_sha256"] = text.describe(coder(folder))["sha256"]
        made = _write(folder / f"{job.name}.safetensors", model, made, tests)
        lines.append(f"{job.name}: test accuracy {made['test_accuracy']:.4f}, {made['seconds']} s")
    forget(stacked.checkpoint_of(jobs, folder))
    return lines


def made_by(job: Job, scale: str, device: str) -> dict[str, Any]:
    """Return what made a weight file: scale, seed, recipe, device, versions."""
    recipe = ("steps", "batch", "peak_rate", "weight_decay", "label_smoothing", "word_dropout", "shift", "examples")
    return {
        "scale": scale,
        "seed": job.seed,
        **{setting: getattr(job, setting) for setting in recipe},
        "random_labels": job.random_labels,
        "device": device_name(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def _write(path: Path, model: models.Transformer, made: dict[str, Any], tests: dict[str, Examples]) -> dict[str, Any]:
    """Measure a model on the test sets and write it, whole or not at all; return what its header says."""
    for test, data in tests.items():
        made |= {f"{test}_{measure}": value for measure, value in stacked.evaluate(model, data).items()}
    draft = path.with_suffix(".draft")
    models.save(model, draft, made, torch.float16)
    draft.replace(path)
    return made


def _kind(job: Job) -> str:
    return "text" if job.configuration.vocabulary else "image"


def train_all(
    scale: str,
    device: str,
    only: str = "*",
    *,
    seeds: int = teachers.SEEDS,
    minutes: float | None = None,
    workers: int | None = None,
    stack: int | None = None,
) -> bool:
    """Train the teachers of a scale into `_build/train/<scale>/`; whole ones are kept.

    `only` are patterns of names, by commas; `minutes` ends the run early, with checkpoints, and then
    False is returned; `workers` processes (CPU: one for each core) train a stack each, of at most
    `stack` models (a CPU gains nothing from stacking what keeps it busy: 1; a GPU: all that fit
    together). A teacher that diverges does not stop the others; `RuntimeError` names it at the end.
    """
    folder = root() / "_build" / "train" / scale
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = device == "cpu"
    workers = workers or (os.cpu_count() or 1 if on_cpu else 1)
    jobs = tuple(job for job in teachers.chosen(teachers.jobs(scale), only) if job.seed < seeds)
    todo = [
        part
        for part in teachers.stacks(jobs, stack or (1 if on_cpu else max(1, len(jobs))))
        if not all(_is_whole(folder / f"{job.name}.safetensors", job, scale) for job in part)
    ]
    if any(job.configuration.vocabulary for part in todo for job in part):
        coder(folder)
    deadline = None if minutes is None else time.time() + 60 * minutes
    began, total = time.time(), sum(map(_cost, todo))
    cost, failed, unfinished = 0.0, [], 0
    for part, lines in outcomes(todo, train_stack, scale, folder, device, workers=workers, deadline=deadline):
        cost += _cost(part)
        left = (time.time() - began) / 60 * (total / cost - 1)
        if isinstance(lines, RuntimeError):
            failed.append(str(lines))
        unfinished += not lines
        for line in lines if isinstance(lines, list) else []:
            tqdm.write(f"{line}; {cost / total:.0%} of all, about {left:.0f} min left", file=sys.stderr)
    if failed:
        raise RuntimeError(" ".join(failed))
    return not unfinished


def _is_whole(path: Path, job: Job, scale: str) -> bool:
    """Say whether this very job's file is there; one of another recipe is named, and made again."""
    if not path.exists():
        return False
    try:
        model, made = models.load(path)
    except DataError as error:
        print(error, file=sys.stderr)
        return False
    wanted = made_by(job, scale, "cpu")
    same = all(made.get(key) == wanted[key] for key in wanted.keys() - {"device", "versions"})
    if same and model.configuration == job.configuration:
        return True
    print(f"{path} was made by another recipe: training it again.", file=sys.stderr)
    return False


def _cost(jobs: Sequence[Job]) -> float:
    return sum(float(job.steps * job.batch * job.configuration.flops) for job in jobs)


def _others(scale: str) -> list[str]:
    """Return the names of what is made beside the teachers."""
    return [yardsticks.NAME, yardsticks.STACKING, *ladder.names(scale)]


def main(arguments: list[str] | None = None) -> None:
    """Train, measure and calibrate, or adopt; the program behind `make train` and `make adopt`."""
    parser = argparse.ArgumentParser(prog="python -m pdelens.training", description=__doc__)
    parser.add_argument("action", choices=["train", "adopt", "list"])
    parser.add_argument("--scale", choices=teachers.SCALES, default="book")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--only", help="patterns of names, by commas; train: all, adopt: what is committed")
    parser.add_argument("--seeds", type=int, default=teachers.SEEDS, help="at most so many seeds of each")
    parser.add_argument("--minutes", type=float, help="stop after so long; run again to go on")
    parser.add_argument("--workers", type=int, help="processes (CPU: one for each core)")
    parser.add_argument("--stack", type=int, help="models trained as one tensor program (CPU: 1, GPU: all)")
    given = parser.parse_args(arguments)
    device = given.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.use_deterministic_algorithms(True, warn_only=True)
    only = given.only or "*"
    patterns = only.split(",")
    folder = root() / "_build" / "train" / given.scale
    try:
        names = [*(job.name for job in teachers.jobs(given.scale)), *_others(given.scale)]
        # Adopting looks at files, snapshots among them, and says itself where none fits.
        if given.action != "adopt" and not any(teachers.fits(name, patterns) for name in names):
            raise ValueError(f"nothing is called {only!r}: `python -m pdelens.training list` shows what there is.")
        if given.action == "list":
            for job in teachers.chosen(teachers.jobs(given.scale), only):
                print(f"{job.name}: {job.steps} steps of {job.batch}, {_cost([job]) * 3e-12:.0f} Tflop")
            print("\n".join(name for name in _others(given.scale) if teachers.fits(name, patterns)))
        elif given.action == "adopt":
            adopt(given.scale, given.only or ",".join(teachers.COMMITTED))
        elif not train_all(
            given.scale,
            device,
            only,
            seeds=given.seeds,
            minutes=given.minutes,
            workers=given.workers,
            stack=given.stack,
        ):
            print("Time is up; what is done is kept: run the same command again to go on.")
        else:
            if teachers.fits(yardsticks.NAME, patterns):
                yardsticks.measure(given.scale, folder)
            if teachers.fits(yardsticks.STACKING, patterns):
                yardsticks.stacking(given.scale, folder, device)
            if not ladder.calibrate_all(given.scale, device, only, minutes=given.minutes, workers=given.workers):
                print("Time is up; what is done is kept: run the same command again to go on.")
    except (DataError, RuntimeError, ValueError) as error:
        sys.exit(f"pdelens: {error}")


if __name__ == "__main__":
    main()
