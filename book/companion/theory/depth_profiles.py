"""How alike a model's tokens are at every depth: cosine, interaction energy, effective rank, clusters; and a null."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pdelens.flow import Flow

from .clusters import mean_cosine

# Two tokens are in one cluster where a chain of tokens joins them, each to the next by a cosine above this.
LINKED = 0.9


@dataclass(frozen=True, eq=False)
class Profile:
    """Measures of the real tokens of every example at every depth, (examples, depths) each.

    `cosine`: the mean over pairs of different tokens. `energy`: `mean_ij exp(beta <x_i, x_j>) / (2 beta)` of the
    tokens' directions x, which self-attention with the identity for its matrices can only raise (Geshkovski et al.
    2023, arXiv 2312.10794). `rank`: the effective rank, the exponential of the entropy of the singular values' shares
    (Roy and Vetterli 2007). `clusters`: how many groups there are (`LINKED`).
    """

    cosine: Tensor
    energy: Tensor
    rank: Tensor
    clusters: Tensor

    def rises(self) -> Tensor:
        """Return the share of layers in which the energy rises, (examples,): 1 is what theory says of such a flow."""
        return (self.energy.diff(dim=1) > 0).double().mean(1)

    def plateau(self) -> Tensor:
        """Return the longest run of depths with one number of clusters, more than one and fewer than all, (examples,).

        In depths, the first and the last included; 0 where there is none: what is metastable holds for a while.
        """
        counts, found = self.clusters.numpy(), []
        for row in counts:
            best = run = 0
            for depth, count in enumerate(row):
                settled = 1 < count < row[0]
                run = (run + 1 if depth and count == row[depth - 1] else 1) if settled else 0
                best = max(best, run)
            found.append(best)
        return torch.tensor(found)


def profile(flow: Flow, beta: float = 1.0) -> Profile:
    """Return how alike the real tokens are at every depth of a Flow; cost O(tokens^2 width + tokens^3) an example.

    >>> apart = torch.eye(4)[None]
    >>> found = profile(Flow(states=[apart, torch.ones(1, 4, 4)]))
    >>> found.cosine.tolist(), found.rank.round(decimals=3).tolist(), found.clusters.tolist()
    ([[0.0, 1.0]], [[4.0, 1.0]], [[4, 1]])
    """
    if not flow.states:
        raise ValueError("a Flow without states was given: capture it with states=True.")
    rows = []
    for example in range(flow.examples):
        real = flow.mask[example]
        if int(real.sum()) < 2:
            raise ValueError(f"example {example} has {int(real.sum())} real tokens: pairs need at least two.")
        rows.append([_measured(state[example][real].double(), beta) for state in flow.states])
    cosine, energy, rank, clusters = torch.tensor(rows, dtype=torch.float64).unbind(-1)
    return Profile(cosine, energy, rank, clusters.long())


def _measured(tokens: Tensor, beta: float) -> tuple[float, float, float, float]:
    x = torch.nn.functional.normalize(tokens, dim=-1, eps=1e-300)
    gram = x @ x.T
    energy = (beta * gram).exp().mean() / (2 * beta)
    share = torch.linalg.svdvals(x)
    share = share / share.sum()
    rank = torch.special.entr(share).sum().exp()
    clusters, _ = connected_components(np.asarray(gram > LINKED), directed=False)
    return float(mean_cosine(x)), float(energy), float(rank), float(clusters)


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
