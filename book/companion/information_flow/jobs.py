"""The jobs of this study, by name."""

from ..jobs import Job, Run
from .content import content_jobs, content_names
from .edge_ranks import edge_jobs, edge_names


def token_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit `only`, of teachers whose law of three modes is there."""
    return [*content_jobs(run, only), *edge_jobs(run, only)]


def token_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return [*content_names(), *edge_names()]
