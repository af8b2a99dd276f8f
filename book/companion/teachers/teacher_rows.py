"""What tables of teachers show: their names, what one costs, and how good they are beside plain methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from pdelens.intervals import t_interval
from pdelens.models import Configuration, Transformer

SEEDS = 5
FAMILIES = {
    "image-patch4": "pictures, patches of 4 x 4",
    "text-classifier": "texts, classified",
    "text-causal": "texts, next token",
    "image-patch7": "pictures, patches of 7 x 7",
    "text-short": "short texts, classified",
}
VARIANTS = {
    "": "as above: GELU, pre-norm, layer norm",
    "relu": "ReLU",
    "tanh": "tanh",
    "linear": "no activation",
    "post": "post-norm",
    "rms": "RMS norm",
    "dyt": "dynamic tanh for norm",
    "none": "no norm",
    "random-labels": "random classes (2,000 examples)",
}


def _bags(length: int) -> dict[str, str]:
    methods = {"1": "TF-IDF of words", "2": "TF-IDF of words and pairs", "pieces": "TF-IDF of the same pieces"}
    return {f"text-{length}-tfidf-{key}": method for key, method in methods.items()}


# Family, what a table calls it, and the plain methods that are shown below it.
TASKS: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "image-patch4",
        "image, 49 tokens",
        {
            "image-linear": "linear model on pixels",
            "image-neighbours": "5 nearest neighbours",
            "image-dense": "perceptron of equal size",
            "image-convolutional": "convolutions, equal size",
        },
    ),
    ("image-patch7", "image, 16 tokens", {}),
    ("text-classifier", "text, 48 tokens", _bags(48)),
    ("text-short", "text, 24 tokens", _bags(24)),
    ("text-causal", "next token, nats", {f"text-causal-runs-{n}": f"runs of up to {n}, Kneser-Ney" for n in (1, 2, 3)}),
)


@dataclass(frozen=True)
class Size:
    """How large a teacher is and what its training costs: `flops` of one example's forward pass, `training` in Tflop.

    `in_layers` is the share of parameters in layers; the others embed and read out.
    """

    tokens: int
    parameters: int
    in_layers: float
    flops: float
    steps: int
    batch: int
    training: float

    def shown(self) -> list[str]:
        """Return the cells of a table."""
        small = [f"{self.tokens}", f"{self.parameters:,}", f"{self.in_layers:.0%}", f"{self.flops * 1e-6:.0f}"]
        return [*small, f"{self.steps:,} x {self.batch}", f"{self.training:.0f}"]


def size_of(about: Mapping[str, Any]) -> Size:
    """Return a teacher's size from what is known of it (`results.histories`).

    A training step is counted as three forward passes: one forward, two backward.
    """
    configuration = Configuration(**about["configuration"])
    model = Transformer(configuration)
    total = sum(p.numel() for p in model.parameters())
    layers = sum(p.numel() for p in model.blocks.parameters())
    training = 3 * configuration.flops * about["batch"] * about["steps"] * 1e-12
    size = (configuration.tokens, total, layers / total, configuration.flops)
    return Size(*size, about["steps"], about["batch"], training)


@dataclass(frozen=True)
class Mark:
    """How good something is: a share of right answers, or nats a token, with its 95 % interval where it has one."""

    value: float
    unit: str
    interval: tuple[float, float] | None
    over: str
    seeds: int | None = None

    def shown(self) -> list[str]:
        """Return the cells of a table: the mark, its interval, and over what that runs."""
        form = "{:.1%}" if self.unit == "share" else "{:.2f}"
        between = "none" if self.interval is None else " to ".join(form.format(end) for end in self.interval)
        return [form.format(self.value), between, self.over]


def over_seeds(known: Mapping[str, Mapping[str, Any]], family: str, measure: str) -> Mark:
    """Return a family's mean mark over its seeds with Student's interval; `measure` is `accuracy` or `loss`."""
    values = [float(known[f"{family}-seed{n}"][f"test_{measure}"]) for n in range(SEEDS)]
    return Mark(float(np.mean(values)), _unit(measure), t_interval(values), f"t, {SEEDS} seeds", SEEDS)


def plain_mark(about: Mapping[str, Any], measure: str) -> Mark:
    """Return a plain method's mark, a share of right answers with Wilson's interval over the test examples.

    Where it has seeds (`test_accuracies`), their mean with Student's over them. A loss has none: only its mean over
    all test tokens is known.
    """
    if len(each := about.get("test_accuracies", [])) > 1:
        return Mark(float(np.mean(each)), _unit(measure), t_interval(each), f"t, {len(each)} seeds", len(each))
    value = about[f"test_{measure}"]
    if measure != "accuracy":
        return Mark(value, _unit(measure), None, "one model")
    n = about["test_examples"]
    low, high = binomtest(round(value * n), n).proportion_ci(method="wilson")
    return Mark(value, _unit(measure), (float(low), float(high)), f"{n:,} examples")


def _unit(measure: str) -> str:
    return "share" if measure == "accuracy" else "nats"
