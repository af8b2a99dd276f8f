"""The studies of what goes on in a Transformer and its equation: their jobs, and where what they found is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .bottleneck import results as bottleneck_results
from .bottleneck.planes import bottleneck_jobs, bottleneck_names
from .dynamics import flow_results, gradient_results, perturbation_results
from .dynamics.gradient_jobs import gradient_jobs, gradient_names
from .dynamics.information_flow import flow_jobs, flow_names
from .dynamics.perturbation_jobs import perturbation_jobs, perturbation_names
from .dynamics.pretrained_sensitivity import sensitivity_jobs
from .information_flow import results as token_results
from .information_flow.jobs import token_jobs, token_names
from .jobs import Job, Run, run_of
from .stabilisers import map_results
from .stabilisers.diffusing import diffusing_jobs, diffusing_names
from .stabilisers.equations import equation_jobs, equation_names
from .stabilisers.training_map import map_jobs, map_names


def measured_jobs(run: Run, only: str = "*") -> Sequence[Job]:
    """Return the jobs that fit and can be done: what they measure is there."""
    main = (flow_jobs, gradient_jobs, perturbation_jobs, sensitivity_jobs)
    more = (bottleneck_jobs, token_jobs, diffusing_jobs, equation_jobs)
    return [job for family in (*main, *more) for job in family(run, only)]


def trained_jobs(run: Run, only: str = "*", missing: bool = False) -> Sequence[Job]:
    """Return the jobs that fit and train networks of their own: they need nothing but data, and hours.

    `missing` leaves out those of which `data/` holds a record of this scale.
    """
    there = map_results.committed(run.scale) if missing else set()
    return [job for job in map_jobs(run, only) if job.name not in there]


def measured_names(scale: str) -> list[str]:
    """Return the names of all jobs that measure, whether what they measure is there or not."""
    families = (flow_names, gradient_names, perturbation_names, token_names, diffusing_names, equation_names)
    found = [name for family in families for name in family()]
    return [*found, *bottleneck_names(scale), *(job.name for job in sensitivity_jobs(run_of(scale, "cpu")))]


def trained_names(scale: str) -> list[str]:
    """Return the names of all jobs that train networks of their own."""
    return map_names(scale)


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the studies found in a folder, by the file of `data/` that keeps it."""
    known = (flow_results, gradient_results, perturbation_results, bottleneck_results, token_results, map_results)
    return {results.RECORDS: results.gathered(folder) for results in known}
