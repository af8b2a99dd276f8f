"""The studies of what goes on in a Transformer and its equation: their jobs, and where what they found is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .dynamics import flow_results
from .dynamics.information_flow import flow_jobs, flow_names
from .jobs import Job, Run
from .stabilisers import map_results
from .stabilisers.diffusing import diffusing_jobs, diffusing_names
from .stabilisers.training_map import map_jobs, map_names


def measured_jobs(run: Run, only: str = "*") -> Sequence[Job]:
    """Return the jobs that fit and can be done: what they measure is there."""
    return [*flow_jobs(run, only), *diffusing_jobs(run, only)]


def trained_jobs(run: Run, only: str = "*") -> Sequence[Job]:
    """Return the jobs that fit and train networks of their own: they need nothing but data, and hours."""
    return map_jobs(run, only)


def measured_names() -> list[str]:
    """Return the names of all jobs that measure, whether what they measure is there or not."""
    return [*flow_names(), *diffusing_names()]


def trained_names(scale: str) -> list[str]:
    """Return the names of all jobs that train networks of their own."""
    return map_names(scale)


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the studies found in a folder, by the file of `data/` that keeps it."""
    return {results.RECORDS: results.gathered(folder) for results in (flow_results, map_results)}
