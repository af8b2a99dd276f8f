"""`python -m companion`: what the Makefile calls."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .paths import SCALES, DataError


def main(arguments: list[str] | None = None) -> None:
    """Run one of the book's programs; a failure that a person can mend is one sentence."""
    parser = argparse.ArgumentParser(prog="python -m companion", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    for add in (_fetch, _chapters, _train, _trials, _adopt, _list):
        add(programs)
    given = parser.parse_args(arguments)
    import torch

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        given.run(given)
    except (DataError, RuntimeError, ValueError) as error:
        sys.exit(f"pdelens: {error}")


def _fetch(programs) -> None:
    parser = programs.add_parser("fetch", help="download what the committed chapters read, or the named packages")
    parser.add_argument("names", nargs="*")
    parser.set_defaults(run=_run_fetch)


def _run_fetch(given) -> None:
    from .fetch import fetch_all

    fetch_all(given.names)


def _chapters(programs) -> None:
    parser = programs.add_parser("chapters", help="run the chapters that are out of date")
    parser.add_argument("--chapter", default="", help="only chapters whose name begins so")
    _add_scale(parser)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--force", action="store_true", help="run even what is current")
    parser.add_argument(
        "--check", action="store_true", help="say what is out of date or touched up, and fail where anything is"
    )
    parser.set_defaults(run=_run_chapters)


def _run_chapters(given) -> None:
    if given.check:
        from .inspection import check_chapters

        check_chapters(given.chapter)
    else:
        from .chapters import run_chapters

        run_chapters(given.chapter, given.scale, given.device, force=given.force)


def _train(programs) -> None:
    parser = programs.add_parser("train", help="teachers, plain methods beside them, equations; resumable")
    _add_run(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--only", default="*", help="patterns of names, by commas")
    parser.add_argument("--missing", action="store_true", help="equations and networks without a record in data/ alone")
    parser.add_argument("--seeds", type=int, default=5, help="at most so many seeds of each teacher")
    parser.add_argument("--stack", type=int, help="models trained as one tensor program (CPU: 1, GPU: all)")
    parser.set_defaults(run=_run_train)


def _run_train(given) -> None:
    from .jobs import run_jobs, run_of
    from .studies import measured_jobs, measured_names, trained_jobs
    from .surrogates.sweep import sweep_jobs
    from .teachers.comparisons import comparison_jobs
    from .teachers.recipes import fits
    from .teachers.stacking_cost import StackingCost
    from .teachers.train import train_jobs

    if not _names(given.scale, given.only):
        raise ValueError(f"nothing is called {given.only!r}: `python -m companion list` shows what there is.")
    patterns = given.only.split(",")
    measurable = [name for name in measured_names(given.scale) if fits(name, patterns)]
    run = run_of(given.scale, given.device, given.minutes)
    how = {"workers": given.workers, "executor": given.executor, "settings": _settings(given.slurm)}
    # What comes after reads the teachers.
    taught = train_jobs(run, given.only, given.seeds, given.stack)
    if run_jobs(taught, run, **how):
        beside = [job for job in (StackingCost(),) if fits(job.name, patterns)]
        calibrated = [*comparison_jobs(run, given.only), *beside, *sweep_jobs(run, given.only, given.missing)]
        # What is measured of the equations comes after them.
        measured = measured_jobs(run, given.only) if run_jobs(calibrated, run, **how) else None
        if measured:
            run_jobs(measured, run, **how)
        trained = trained_jobs(run, given.only, given.missing)
        if trained:
            run_jobs(trained, run, **how)
        if measured is not None:
            left = [name for name in measurable if name not in {job.name for job in measured}]
            _say_waiting(left, run.folder, done=bool(taught or calibrated or measured or trained))


def _say_waiting(left: Sequence[str], folder: Path, *, done: bool) -> None:
    """Say what was left, since weights that it reads are not there; where nothing was done, that is an error."""
    from .paths import say

    if left:
        others = f" and {len(left) - 1} more" * (len(left) > 1)
        sentence = f"{left[0]}{others} cannot be measured yet: their teachers or equations are not in {folder}."
        sentence += " Train those first, by names that `python -m companion list` shows."
        if not done:
            raise ValueError(sentence)
        say(sentence)


def _settings(text: str) -> dict[str, Any]:
    """Return `name=value` pairs as submitit's settings: names are Slurm's, or those that submitit has of its own."""
    pairs = dict(pair.split("=", 1) for pair in text.split() if "=" in pair)
    own = ("timeout_min", "cpus_per_task", "mem_gb", "name", "nodes", "tasks_per_node", "gpus_per_node")
    named = {
        name if name in own or name.startswith("slurm_") else f"slurm_{name}": value for name, value in pairs.items()
    }
    return {name: int(value) if value.isdigit() else value for name, value in named.items()}


def _names(scale: str, only: str = "*") -> list[str]:
    """Return the names of all that `train` makes and that fit."""
    from .jobs import run_of
    from .studies import measured_names, trained_names
    from .surrogates.sweep import names
    from .teachers.comparisons import NAME, comparison_jobs
    from .teachers.recipes import fits, recipes_of
    from .teachers.stacking_cost import STACKING

    plain = [NAME, *(job.name for job in comparison_jobs(run_of(scale, "cpu")))]
    found = [*(recipe.name for recipe in recipes_of(scale)), *plain, STACKING, *names(scale)]
    found += [*measured_names(scale), *trained_names(scale)]
    return [name for name in found if fits(name, only.split(","))]


def _trials(programs) -> None:
    parser = programs.add_parser("trials", help="the estimators of information on tasks with known answers")
    _add_run(parser)
    parser.set_defaults(run=_run_trials)


def _run_trials(given) -> None:
    from .estimators.trials import gather, trial_jobs
    from .jobs import run_jobs, run_of

    run = run_of(given.scale, "cpu", given.minutes)
    how = {"workers": given.workers, "executor": given.executor, "settings": _settings(given.slurm)}
    if run_jobs(trial_jobs(run), run, **how):
        print(f"The results are in {gather(run)}.")


def _add_scale(parser) -> None:
    parser.add_argument("--scale", choices=SCALES, default="book")


def _add_run(parser) -> None:
    """Add what every program of jobs is told."""
    _add_scale(parser)
    parser.add_argument("--minutes", type=float, help="stop after so long; run again to go on")
    parser.add_argument("--workers", type=int, help="processes (CPU: one for each core; GPU: eight)")
    parser.add_argument("--executor", choices=["processes", "slurm"], default="processes")
    parser.add_argument("--slurm", default="", help="settings of Slurm, such as 'partition=gpu timeout_min=120'")


def _adopt(programs) -> None:
    parser = programs.add_parser("adopt", help="move complete weights and results into data/")
    _add_scale(parser)
    parser.add_argument("--only", help="patterns of teachers' names, by commas (default: what pages load)")
    parser.set_defaults(run=_run_adopt)


def _run_adopt(given) -> None:
    from .adopt import adopt
    from .teachers.recipes import COMMITTED

    adopt(given.scale, given.only or ",".join(COMMITTED))


def _list(programs) -> None:
    parser = programs.add_parser("list", help="what `train` makes")
    _add_scale(parser)
    parser.add_argument("--only", default="*", help="patterns of names, by commas")
    parser.set_defaults(run=_run_list)


def _run_list(given) -> None:
    from .teachers.recipes import recipes_of
    from .teachers.train import describe

    known = dict(
        zip((recipe.name for recipe in recipes_of(given.scale)), describe(recipes_of(given.scale)), strict=True)
    )
    print("\n".join(known.get(name, name) for name in _names(given.scale, given.only)))


if __name__ == "__main__":
    main()
