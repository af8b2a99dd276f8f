"""What the page measures itself: noise swept on two committed teachers, and the checks of what is proved there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.information.noise import noise_curve
from pdelens.models import Transformer

from ..teachers.teacher import cached_teacher
from . import measures
from .subjects import Sample, flow_at

TRAINED, UNTRAINED = "trained", "untrained"


@dataclass(eq=False)
class Swept:
    """A committed teacher and its untrained twin on the same held-out inputs, and I(X; T + noise) of both.

    `levels` of relative noise for the means over tokens; all tokens' numbers, of which there are as many more, get
    `measures.TOKENS`.
    """

    flows: dict[str, Flow]
    labels: Tensor
    levels: Sequence[float]

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return len(self.labels)

    @cached_property
    def pooled(self) -> dict[str, list[Tensor]]:
        """Means over tokens by depth, (inputs, width) each."""
        return {name: measures.pooled(flow) for name, flow in self.flows.items()}

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """Information in nats, (depths, levels), by names such as "trained, pooled" and "untrained, tokens"."""
        return {name: values for name, (values, _) in self._measured.items()}

    @property
    def error(self) -> float:
        """The largest standard error of all, in nats."""
        return max(error for _, error in self._measured.values())

    @property
    def ceiling(self) -> float:
        """The entropy of the inputs, ln N."""
        return math.log(self.inputs)

    @property
    def width(self) -> int:
        """Numbers in a mean over tokens."""
        return self.pooled[TRAINED][0].shape[1]

    @property
    def numbers(self) -> float:
        """Numbers in all real tokens of an input, on average."""
        flow = self.flows[TRAINED]
        return float(flow.mask.sum()) / self.inputs * self.width

    @cached_property
    def _measured(self) -> dict[str, tuple[np.ndarray, float]]:
        found = {}
        for name, flow in self.flows.items():
            mask = None if bool(flow.mask.all()) else flow.mask
            mean = [measures.curve(state, self.levels) for state in self.pooled[name]]
            every = [measures.curve(state, measures.TOKENS, mask) for state in flow.states]
            for kind, rows in (("pooled", mean), ("tokens", every)):
                found[f"{name}, {kind}"] = np.array([row for row, _ in rows]), max(error for _, error in rows)
        return found


def swept(teacher: str, count: int) -> Swept:
    """Return a committed teacher, such as "image-patch4-seed0", on its first `count` held-out inputs."""
    one = cached_teacher(teacher)
    inputs, labels = one.inputs("heldout", count)
    given = inputs["inputs"] if isinstance(inputs, dict) else inputs
    sample = Sample(given, labels, torch.arange(len(labels)))
    models = {TRAINED: one.model, UNTRAINED: one.untrained().model}
    flows = {name: flow_at(model, sample) for name, model in models.items() if isinstance(model, Transformer)}
    return Swept(flows, labels, measures.POOLED)


def bound(width: int, noise: np.ndarray | float) -> np.ndarray:
    """Return the upper bound d / (2 r^2) of information at relative noise r, in nats.

    >>> float(bound(64, 4.0))
    2.0
    """
    return width / (2 * np.square(noise))


def highest_half_noise(width: int, inputs: int) -> float:
    """Return the largest relative noise that can leave half of ln N: sqrt(d / ln N), by the bound.

    >>> highest_half_noise(64, 512) == (64 / math.log(512)) ** 0.5
    True
    """
    return math.sqrt(width / math.log(inputs))


def drawn_together(states: Tensor, labels: Tensor, share: float) -> Tensor:
    """Return states whose classes are drawn together, each about its own mean, until this share of scatter is within.

    Class means stay. ValueError where there is no scatter within or between classes.
    """
    inner = measures.residuals(states, labels)
    within, between = inner.square().sum(), (states - inner - states.mean(0)).square().sum()
    if not (within > 0 and between > 0 and 0 < share < 1):
        raise ValueError(
            f"a share of {share} was asked for: one between 0 and 1, of states with two spread-out classes."
        )
    return states - inner + inner * (between / within * share / (1 - share)).sqrt()


def predicted(states: Tensor, labels: Tensor, noise: float) -> float:
    """Return H(Y) + I(X; T + noise | Y), what there is where the noise confuses no two classes, in nats.

    The noise is over the scale of all states; each class is read by itself. It is an upper bound at any noise.
    """
    counts = torch.bincount(labels)
    size = float((states - states.mean(0)).square().mean().sqrt())
    found = measures.label_entropy(labels)
    for label, count in enumerate(counts.tolist()):
        if count > 1:
            own = noise_curve(states[labels == label], [noise * size], draws=measures.DRAWS)[0]
            found += count / len(labels) * float(own)
    return found
