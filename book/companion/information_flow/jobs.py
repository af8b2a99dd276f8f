"""The jobs of this study: one of each kind for every teacher, and one for every pretrained model and its twin."""

from ..jobs import Job, Run
from ..surrogates.candidates import weights_there
from ..surrogates.study import jobs_of, names_of, teacher_names
from ..teachers.recipes import fits
from .budgets import TokenBudget
from .content import TokenContent
from .edge_ranks import EdgeRanks
from .pretrained_content import MODELS, PretrainedContent, content_jobs
from .retrieval import Retrieval

KINDS = (TokenContent, EdgeRanks, TokenBudget)


def token_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit `only`, of teachers whose law of three modes is there; bounds need none."""
    bounds = [Retrieval(name) for name in teacher_names(Retrieval) if weights_there(name, run)]
    found = [job for job in bounds if fits(job.name, only.split(","))]
    return [*jobs_of(KINDS, run, only), *found, *content_jobs(run, only)]


def token_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    pretrained = (PretrainedContent(model, trained) for model in MODELS for trained in (True, False))
    return [*names_of((*KINDS, Retrieval)), *(job.name for job in pretrained)]
