"""What a classifier's answers are worth: the confusion of classes, and confidence against accuracy."""

from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """Confidence and accuracy by bins of equally many examples: `confidence`, `accuracy`, `examples` (bins,).

    `error` is the expected calibration error, the mean over examples of |accuracy - confidence| of their bins.
    """

    confidence: Tensor
    accuracy: Tensor
    examples: Tensor
    error: float


def reliability(logits: Tensor, labels: Tensor, bins: int = 10) -> Reliability:
    r"""Return how often a classifier is right when it says how sure it is.

    A confidence is the probability of the named class; examples are sorted by it into bins of (nearly) equal numbers,
    and $\mathrm{ECE}=\sum_b\frac{n_b}{n}\,|\mathrm{accuracy}_b-\mathrm{confidence}_b|$. Finite bins make a perfectly
    calibrated classifier's error positive too, by about $\sqrt{2a(1-a)/(\pi n_b)}$: `reliability_floor`. `logits`
    (examples, classes), `labels` (examples,). Guo et al. 2017; equal numbers: Nixon et al. 2019.

    >>> sure = torch.tensor([[9.0, -9.0]]).repeat(100, 1)
    >>> round(reliability(sure, torch.arange(100) % 2).error, 3)
    0.5
    """
    _check(logits, labels)
    if not 1 <= bins <= len(labels):
        raise ValueError(f"{bins} bins of {len(labels)} examples were asked for: 1 to one for each example are there.")
    confidence, named = torch.softmax(logits.double(), -1).max(-1)
    right = (named == labels).double()
    # Ties are not split by the order in which examples came: a stable order of the confidences alone.
    parts = confidence.argsort(stable=True).tensor_split(bins)
    means = torch.tensor([[float(confidence[p].mean()), float(right[p].mean()), len(p)] for p in parts]).double()
    gaps = (means[:, 1] - means[:, 0]).abs()
    return Reliability(means[:, 0], means[:, 1], means[:, 2], float((gaps * means[:, 2]).sum() / len(labels)))


def reliability_floor(logits: Tensor, bins: int = 10, draws: int = 200, seed: int = 0) -> float:
    """Return the calibration error that these confidences would have, on average, if they were perfectly calibrated.

    Answers are drawn right with the stated confidence, so it is what chance and bins alone give.
    """
    confidence = torch.softmax(logits.double(), -1).max(-1).values
    generator = torch.Generator().manual_seed(seed)
    parts = confidence.argsort(stable=True).tensor_split(bins)
    right = (torch.rand(draws, len(confidence), generator=generator, dtype=torch.float64) < confidence).double()
    gaps = [(right[:, p].mean(1) - confidence[p].mean()).abs() * len(p) for p in parts]
    return float(torch.stack(gaps).sum(0).mean() / len(confidence))


def _check(answers: Tensor, labels: Tensor) -> None:
    if len(answers) != len(labels) or not len(labels):
        raise ValueError(f"{len(answers)} answers and {len(labels)} classes were given: each example needs both.")
