"""The jobs on perturbations: one of each kind for every teacher."""

from ..jobs import Job, Run
from ..surrogates.study import jobs_of, names_of
from .perturbations import Perturbations
from .singular_changes import SingularChanges

KINDS = (Perturbations, SingularChanges)


def perturbation_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose law is there: calibrated in the run's folder, or committed."""
    return jobs_of(KINDS, run, only)


def perturbation_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return names_of(KINDS)
