"""The jobs on gradients: one of each kind for every teacher."""

from ..jobs import Job, Run
from .adjoints import Adjoints
from .branch_traces import BranchTraces
from .gradients import Gradients, jobs_of, teacher_names
from .spectra import Spectra

KINDS = (Gradients, Spectra, Adjoints, BranchTraces)


def gradient_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose law is there: calibrated in the run's folder, or committed."""
    return [job for kind in KINDS for job in jobs_of(kind, run, only)]


def gradient_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return [kind(teacher).name for kind in KINDS for teacher in teacher_names()]
