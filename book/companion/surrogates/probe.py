"""What a pretrained model is used for: a linear probe, fitted to its own embeddings, asked about a solution's."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..jobs import Run
from ..teachers.teacher import Teacher, cached_teacher


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of a teacher's embeddings, and their mean (calibration examples)."""

    classifier: Any
    mean: Tensor

    def accuracy(self, embeddings: Tensor, labels: Tensor) -> float:
        """Return the share of embeddings (examples, width) that get their class."""
        return float(self.classifier.score(embeddings.cpu().numpy(), labels.cpu().numpy()))

    def cosine(self, ours: Tensor, theirs: Tensor) -> float:
        """Return the mean cosine of embeddings about the teacher's mean: different inputs alone have .67 without it."""
        centred = (one.cpu() - self.mean for one in (ours, theirs))
        return float(torch.nn.functional.cosine_similarity(*centred, dim=-1).mean())


@lru_cache(maxsize=2)
def probe_of(name: str, run: Run, count: int) -> Probe:
    """Return the probe of a pretrained teacher, fitted to so many training examples; kept.

    Multinomial logistic regression on standardised embeddings (scikit-learn), its penalty chosen by five-fold
    cross-validation.
    """
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    teacher = cached_teacher(name, run)
    embeddings, labels = embedded(teacher, "train", count)
    chosen: dict[str, Any] = {"Cs": 5, "cv": 5, "max_iter": 2000, "scoring": "accuracy", "use_legacy_attributes": False}
    classifier = make_pipeline(StandardScaler(), LogisticRegressionCV(**chosen))
    classifier.fit(embeddings.numpy(), labels.numpy())
    return Probe(classifier, embedded(teacher, "calibration", count)[0].mean(0))


@torch.no_grad()
def embedded(teacher: Teacher, split: str, count: int) -> tuple[Tensor, Tensor]:
    """Return a pretrained teacher's own embeddings (examples, width) of a split, and their classes."""
    assert teacher.embed is not None
    inputs, labels = teacher.inputs(split, count)
    found = []
    for start in range(0, len(labels), 250):
        assert isinstance(inputs, dict)
        flow = teacher.flow({name: values[start : start + 250] for name, values in inputs.items()})
        found.append(teacher.embed(flow.states[-1], flow.padding))
    return torch.cat(found), labels
