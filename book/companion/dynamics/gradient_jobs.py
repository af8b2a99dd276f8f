"""The jobs on gradients: one of each kind for every teacher, and where the normalisation stands elsewhere."""

from ..jobs import Job, Run
from ..surrogates.study import jobs_of, names_of
from ..teachers.recipes import CHEAP
from .adjoints import Adjoints
from .branch_traces import BranchTraces
from .gradient_budgets import GradientBudget
from .gradients import Gradients
from .placements import Placements, placement_jobs
from .spectra import Spectra

KINDS = (Gradients, Spectra, Adjoints, BranchTraces, GradientBudget)


def gradient_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose law is there: calibrated in the run's folder, or committed."""
    return [*jobs_of(KINDS, run, only), *placement_jobs(run, only)]


def gradient_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return [*names_of(KINDS), *(Placements(family).name for family in CHEAP)]
