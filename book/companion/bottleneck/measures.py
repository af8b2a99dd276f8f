"""What is measured of a layer's states: what they tell of the input at stated noise, of the label, and their shape."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.information.density import binned_entropy
from pdelens.information.ksg import ksg
from pdelens.information.noise import half_information_noise, kernel_bounds, noise_curve
from pdelens.information.usable import usable_information

# Deviations of the noise over the layer's scale: two decades, for the mean over tokens and for all tokens' numbers.
POOLED, TOKENS = np.geomspace(0.1, 10, 9).tolist(), np.geomspace(1, 100, 9).tolist()
# Noise is drawn so often for each input, in opposite pairs.
DRAWS = 4
# The literature's settings: bins over the range of a layer's units, the variance of the kernels that the planes of
# MNIST networks were drawn with (Saxe et al. 2018), neighbours.
BINS, VARIANCE, NEIGHBOURS = 30, 0.1, 5
# The measures of compression, all of them logarithms of ratios without a unit.
MEASURES = ("noise", "entropy", "scatter")


class Compression(NamedTuple):
    """What compression is read from, in nats, smaller where more is compressed.

    `noise` is ln of the noise, over the layer's scale, that leaves half of ln N; `entropy` that of `matrix_entropy`;
    `scatter` half of ln of the `scatter_share`.
    """

    noise: float
    entropy: float
    scatter: float


def pooled(flow: Flow) -> list[Tensor]:
    """Return the mean over real tokens at every depth, (examples, width) each, in double precision."""
    real = flow.mask.double()
    share = real / real.sum(1, keepdim=True)
    return [torch.einsum("etw,et->ew", state.double(), share) for state in flow.states]


def matrix_entropy(states: Tensor) -> float:
    r"""Return the von Neumann entropy of the states' covariance of trace one, in nats: ln of an effective rank.

    $-\sum_i \lambda_i \ln \lambda_i$, the limit for $\alpha \to 1$ of the matrix-based Renyi entropy with a linear
    kernel about the mean; at most ln of the smaller of features and inputs less one. It knows no noise and no scale.
    `states` (inputs, features). ValueError where they are all the same. Source: Giraldo et al. 2015
    (10.1109/TIT.2014.2370058).

    >>> cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(matrix_entropy(cross), 6) == round(math.log(2), 6)
    True
    """
    centred = (states - states.mean(0)).double()
    values = torch.linalg.svdvals(centred).square()
    if not values.sum() > 0:
        raise ValueError("The states of all inputs are the same: there is no scatter to speak of.")
    return float(torch.special.entr(values / values.sum()).sum())


def scatter_share(states: Tensor, labels: Tensor) -> float:
    """Return the share of the states' scatter about their mean that lies within classes, 0 (points) to 1.

    `states` (inputs, features), `labels` (inputs,). ValueError where all states are the same.

    >>> scatter_share(torch.tensor([[0.0], [2.0], [10.0], [12.0]]), torch.tensor([0, 0, 1, 1])) == 1 / 26
    True
    """
    states = states.double()
    total = float((states - states.mean(0)).square().sum())
    if not total > 0:
        raise ValueError("The states of all inputs are the same: there is no scatter to speak of.")
    classes = [states[labels == label] for label in labels.unique()]
    return sum(float((own - own.mean(0)).square().sum()) for own in classes) / total


def half_noise(states: Tensor, mask: Tensor | None = None) -> tuple[float, float]:
    """Return the noise over the layer's scale that leaves half of ln N, and its relative error."""
    found = half_information_noise(states, mask=mask, draws=DRAWS)
    return found.relative, found.error / found.sigma


def curve(states: Tensor, levels: Sequence[float], mask: Tensor | None = None) -> tuple[list[float], float]:
    """Return I(X; T + noise) at each level of relative noise, in nats, and the largest standard error."""
    found = noise_curve(states, levels, relative=True, mask=mask, draws=DRAWS)
    return [float(each) for each in found], max(each.error for each in found)


def compressed(states: Tensor, labels: Tensor, inputs: int) -> tuple[Compression, float]:
    """Return the three measures of one depth, and the standard error of the first.

    `inputs` of the states, the first ones, are X; entropy and scatter are those of all.
    """
    half, error = half_noise(states[:inputs])
    scatter = math.log(scatter_share(states, labels)) / 2
    return Compression(math.log(half), matrix_entropy(states), scatter), error


def within(states: Tensor, labels: Tensor) -> float:
    """Return ln of the half-noise of what is left of states about their classes' means, over its own scale, in nats.

    Where layers do no more than draw classes together, it does not change.
    """
    return math.log(half_noise(residuals(states, labels))[0])


def residuals(states: Tensor, labels: Tensor) -> Tensor:
    """Return states less the mean of their class, (inputs, features).

    >>> residuals(torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 0, 1])).flatten().tolist()
    [-1.0, 1.0, 0.0]
    """
    found = states.clone()
    for label in labels.unique():
        found[labels == label] -= states[labels == label].mean(0)
    return found


def literature(states: Tensor) -> dict[str, float]:
    """Return what planes of deterministic networks were drawn with, of one layer's states, in nats.

    `binned`: entropy of cells, `BINS` over the range of all units; `kernels`: the upper bound of pairwise kernels at
    the fixed `VARIANCE`, in the states' own units.
    """
    width = float(states.max() - states.min()) / BINS
    return {"binned": binned_entropy(states, width=width).nats, "kernels": kernel_bounds(states, variance=VARIANCE)[1]}


def neighbours(embedding: Tensor, states: Tensor) -> float:
    """Return KSG's estimate of the information between the embedding and a layer, each column of deviation 1."""
    columns = [each[:, each.std(0) > 1e-9] for each in (embedding, states)]
    first, second = ((each - each.mean(0)) / each.std(0) for each in columns)
    return ksg(first, second, neighbours=NEIGHBOURS)


def usable(states: Tensor, labels: Tensor, groups: Tensor, family: str) -> float:
    """Return usable information about the label, held out, in nats."""
    return float(usable_information(states, labels, family, groups=groups, permutations=0))


def label_entropy(labels: Tensor) -> float:
    """Return the entropy of the labels' shares in nats: the ceiling of what can be known of them."""
    return float(torch.special.entr(torch.bincount(labels).double() / len(labels)).sum())


def by_inputs(states: Sequence[Tensor], counts: Sequence[int]) -> dict[str, list[float]]:
    """Return the noise that leaves half of ln N, for each state, by the number of inputs."""
    return {str(count): [half_noise(state[:count])[0] for state in states] for count in counts}


def columns_of(rows: Sequence[Compression]) -> dict[str, list[float]]:
    """Return measures of several depths by measure."""
    return {name: [getattr(row, name) for row in rows] for name in MEASURES}
