"""How alike a model's tokens are at every depth: cosine, interaction energy, effective rank, clusters; and a null."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pdelens.flow import Flow

from .clusters import mean_cosine

# The cosine above which two tokens count as neighbours in a cluster, if nothing else is said.
LINKED = 0.9


@dataclass(frozen=True, eq=False)
class Profile:
    """Measures of the real tokens of every example at every depth, (examples, depths) each.

    `cosine`: the mean over pairs of different tokens. `energy`: `mean_ij exp(beta <x_i, x_j>) / (2 beta)` of the
    tokens' directions x, which self-attention with the identity for its matrices can only raise (Geshkovski et al.
    2023, arXiv 2312.10794). `rank`: the effective rank, the exponential of the entropy of the singular values' shares
    (Roy and Vetterli 2007).
    """

    cosine: Tensor
    energy: Tensor
    rank: Tensor

    def rises(self) -> Tensor:
        """Return the share of layers in which the energy rises, (examples,): 1 is what theory says of such a flow."""
        return (self.energy.diff(dim=1) > 0).double().mean(1)


def profile(flow: Flow, beta: float = 1.0) -> Profile:
    """Return how alike the real tokens are at every depth of a Flow; cost O(tokens^2 width + tokens^3) an example.

    >>> apart = torch.eye(4)[None]
    >>> found = profile(Flow(states=[apart, torch.ones(1, 4, 4)]))
    >>> found.cosine.tolist(), found.rank.round(decimals=3).tolist()
    ([[0.0, 1.0]], [[4.0, 1.0]])
    """
    rows = [[_measured(x, beta) for x in directions] for directions in _directions(flow)]
    cosine, energy, rank = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    return Profile(cosine, energy, rank)


def clusters(flow: Flow, linked: float = LINKED) -> Tensor:
    """Return how many groups of real tokens there are at every depth of every example, (examples, depths).

    Two tokens are in one group where a chain of tokens joins them, each to the next by a cosine above `linked`. There
    is no natural value of it: what is said of clusters is said over several. Cost O(tokens^2 width) an example.

    >>> apart = torch.eye(4)[None]
    >>> clusters(Flow(states=[apart, torch.ones(1, 4, 4)])).tolist()
    [[4, 1]]
    """
    return torch.tensor(
        [
            [connected_components(np.asarray(x @ x.T > linked), directed=False)[0] for x in directions]
            for directions in _directions(flow)
        ]
    )


def plateaus(counts: Tensor) -> Tensor:
    """Return the longest run of depths with one number of clusters, more than one and fewer than all, (examples,).

    In depths, the first and the last included; 0 where there is none: what is metastable holds for a while. `counts`
    (examples, depths).

    >>> plateaus(torch.tensor([[9, 4, 4, 4, 1], [9, 9, 9, 1, 1]])).tolist()
    [3, 0]
    """
    found = []
    for row in counts.numpy():
        best = run = 0
        for depth, count in enumerate(row):
            settled = 1 < count < row[0]
            run = (run + 1 if depth and count == row[depth - 1] else 1) if settled else 0
            best = max(best, run)
        found.append(best)
    return torch.tensor(found)


def _directions(flow: Flow) -> Iterator[list[Tensor]]:
    """Yield the directions of each example's real tokens at every depth, (tokens, width) each, float64."""
    if not flow.states:
        raise ValueError("a Flow without states was given: capture it with states=True.")
    for example in range(flow.examples):
        real = flow.mask[example]
        if int(real.sum()) < 2:
            raise ValueError(f"example {example} has {int(real.sum())} real tokens: pairs need at least two.")
        rows = (state[example][real].double() for state in flow.states)
        yield [torch.nn.functional.normalize(row, dim=-1, eps=1e-300) for row in rows]


def _measured(x: Tensor, beta: float) -> tuple[float, float, float]:
    energy = (beta * (x @ x.T)).exp().mean() / (2 * beta)
    share = torch.linalg.svdvals(x)
    share = share / share.sum()
    return float(mean_cosine(x)), float(energy), float(torch.special.entr(share).sum().exp())


def mixed(flow: Flow, seed: int = 0) -> Flow:
    """Return a Flow whose examples take each token from another example: what tokens of one text share, they lack.

    A null for clusters: places keep their states' distribution, and company is drawn at random, the same at every
    depth. Only states are kept.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(flow.examples, generator=generator) for _ in range(flow.tokens)], 1)
    place = torch.arange(flow.tokens).expand_as(order)
    states = tuple(state[order.to(state.device), place.to(state.device)] for state in flow.states)
    mask = flow.mask[order.to(flow.mask.device), place.to(flow.mask.device)]
    return replace(flow, states=states, attention=(), mask=mask, visible=(), key_mask=None)
