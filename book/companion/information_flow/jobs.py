"""The jobs of this study: one of each kind for every teacher, and one for every pretrained model and its twin."""

from ..jobs import Job, Run
from ..surrogates.study import jobs_of, names_of
from .budgets import TokenBudget
from .content import TokenContent
from .edge_ranks import EdgeRanks
from .pretrained_content import MODELS, PretrainedContent, content_jobs
from .retrieval import Retrieval

KINDS = (TokenContent, EdgeRanks, TokenBudget, Retrieval)


def token_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose weights are there, and their laws' where a kind reads them."""
    return [*jobs_of(KINDS, run, only), *content_jobs(run, only)]


def token_names() -> list[str]:
    """Return the names of all jobs, whether what they read is there or not."""
    pretrained = (PretrainedContent(model, trained) for model in MODELS for trained in (True, False))
    return [*names_of(KINDS), *(job.name for job in pretrained)]
