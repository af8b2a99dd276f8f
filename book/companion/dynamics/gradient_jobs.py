"""The jobs on gradients: one of each kind for every teacher."""

from ..jobs import Job, Run
from ..surrogates.study import jobs_of, names_of
from .adjoints import Adjoints
from .branch_traces import BranchTraces
from .gradient_budgets import GradientBudget
from .gradients import Gradients
from .spectra import Spectra

KINDS = (Gradients, Spectra, Adjoints, BranchTraces, GradientBudget)


def gradient_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose law is there: calibrated in the run's folder, or committed."""
    return jobs_of(KINDS, run, only)


def gradient_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return names_of(KINDS)
