"""Which token influenced which: a flow's propagator, attention rollout, the heat kernel, and how maps of them agree.

A map is (examples, tokens, tokens): row i is the token at the end, column j the one at the start, as in attention.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from pdelens.flow import Flow, padding_of
from pdelens.lattice import Lattice, laplacian
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.flow_map import FlowMap

# Depth-times between which one Runge-Kutta step of order 4 each follows a calibrated equation to within two per cent of
# its movement: they halve towards the entry, where a small embedding is carried far at once.
STEPS = (0.0, *(2.0**-k for k in range(8, -1, -1)), 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)


def rollout(flow: Flow, start: int = 0) -> Tensor:
    """Return attention rollout from a depth to the last, `prod_l (I + A_l) / 2`, later layers to the left.

    `A_l` is the mean over heads; the 1/2 is the residual connection's. Rows sum to 1. Source: Abnar and Zuidema 2020,
    arXiv 2005.00928.

    >>> even = torch.full((1, 1, 2, 2), 0.5)
    >>> rollout(Flow(attention=[even, even])).tolist()
    [[[0.625, 0.375], [0.375, 0.625]]]
    """
    identity = torch.eye(flow.tokens, dtype=torch.float64)
    total = identity.expand(flow.examples, -1, -1)
    for attention in flow.attention[start:]:
        total = (attention.mean(1).double().cpu() + identity) / 2 @ total
    return total


def solution_map(pde: PDE, u: Tensor, mask: Tensor, start: float = 0.0) -> FlowMap:
    """Return the map from a state at depth-time `start`, one of `STEPS`, to the solution at the last, by those steps.

    Its Jacobian is the equation's propagator: steps that crowd at the entry are none that `flow_map` makes.
    """
    times = [time for time in STEPS if start <= time <= pde.depth]
    if times[0] != start or times[-1] != pde.depth:
        raise ValueError(f"depth-times {start:g} to {pde.depth:g} were asked for: {STEPS} are where steps begin.")
    padding = padding_of(mask)

    def function(state: Tensor) -> Tensor:
        return integrate(pde, state, times, "rk4", mask=padding, check_steps=False).states[-1]

    return FlowMap(function, u, padding, (start, pde.depth))


class HeatKernels:
    """The heat equation's propagators `exp(s Laplacian)` on a lattice, for examples with padding: all s from one basis.

    No heat passes to or from padding, and padded tokens stay as they are.

    >>> from pdelens.lattice import Chain
    >>> HeatKernels(Chain(2), torch.ones(1, 2, dtype=torch.bool))(50.0).round(decimals=3).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    """

    def __init__(self, lattice: Lattice, mask: Tensor):
        identity = torch.eye(lattice.tokens, dtype=torch.float64).expand(len(mask), -1, -1)
        self.values, self.basis = torch.linalg.eigh(laplacian(identity, lattice, mask=padding_of(mask)))

    def __call__(self, amount: float) -> Tensor:
        """Return the propagators (examples, tokens, tokens) after `amount`, diffusivity times depth-time."""
        return self.basis * (amount * self.values).exp()[:, None] @ self.basis.mT


def own_share(maps: Tensor, mask: Tensor) -> Tensor:
    """Return the part of what reaches a token that is its own, mean over each example's real tokens: (examples,)."""
    real = _real(maps, mask)
    share = real.diagonal(dim1=1, dim2=2) / real.sum(-1).clamp_min(1e-300)
    return share.sum(1) / mask.sum(1)


def others_shares(maps: Tensor, mask: Tensor) -> Tensor:
    """Return each row without its own token, as shares that sum to 1: who *else* influenced it, and how much.

    Rows that nothing else reaches, and padded ones, are 0.
    """
    real = _real(maps, mask)
    real.diagonal(dim1=1, dim2=2).zero_()
    return real / real.sum(-1, keepdim=True).clamp_min(1e-300)


def mean_of_others(shares: Tensor, mask: Tensor) -> Tensor:
    """Return, for each example, the mean map of the other ones, over those that have both tokens.

    What a predictor says that knows places alone. Rows are shares again.
    """
    pairs = (mask[:, :, None] & mask[:, None, :]).double()
    count = (pairs.sum(0) - pairs).clamp_min(1)
    return others_shares((shares.sum(0) - shares) / count, mask)


def map_cosine(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the cosine of flattened maps, (examples,); 0 where one is empty."""
    norms = found.flatten(1).norm(dim=1) * wanted.flatten(1).norm(dim=1)
    return (found * wanted).sum((1, 2)) / norms.clamp_min(1e-300)


def token_distances(lattice: Lattice) -> np.ndarray:
    """Return the Euclidean distance of every two tokens on their lattice, (tokens, tokens), in lattice units."""
    places = lattice.positions().double().reshape(lattice.tokens, -1)
    return torch.cdist(places, places).round(decimals=6).numpy()


def rank_given_distance(found: Tensor, wanted: Tensor, distances: np.ndarray, mask: Tensor) -> Tensor:
    """Return Spearman's correlation of two maps over pairs of different tokens, given their distance: (examples,).

    Both maps' entries are ranked over an example's pairs; from each rank goes the mean rank of all pairs at the same
    distance; the rest is correlated (a partial rank correlation with distance as a class). A map that knows distance
    alone scores 0, and so does one without any rest.
    """
    rows = []
    for ours, theirs, real in zip(found, wanted, mask.cpu(), strict=True):
        keep = np.outer(real, real) & ~np.eye(len(real), dtype=bool)
        classes = np.unique(distances[keep], return_inverse=True)[1]
        rest = [_without_class(rankdata(_rounded(one.numpy()[keep])), classes) for one in (ours, theirs)]
        norms = np.linalg.norm(rest[0]) * np.linalg.norm(rest[1])
        rows.append(float(rest[0] @ rest[1] / norms) if norms > 1e-9 else 0.0)
    return torch.tensor(rows, dtype=torch.float64)


def best_heat(kernels: HeatKernels, wanted: Tensor, mask: Tensor, amounts: Sequence[float]) -> tuple[float, Tensor]:
    """Return the amount of diffusion whose shares have the highest mean cosine with the wanted ones, and its kernel.

    Chosen on the examples themselves: in favour of what is to be beaten.
    """
    scores = [float(map_cosine(others_shares(kernels(one), mask), wanted).mean()) for one in amounts]
    best = amounts[int(np.argmax(scores))]
    return best, kernels(best)


def _real(maps: Tensor, mask: Tensor) -> Tensor:
    keep = mask.cpu()
    return maps.double().cpu() * (keep[:, :, None] & keep[:, None, :])


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values to nine digits, so that what is equal but for rounding is tied."""
    return np.round(values / max(np.abs(values).max(), 1e-300), 9)


def _without_class(ranks: np.ndarray, classes: np.ndarray) -> np.ndarray:
    sums, counts = np.bincount(classes, ranks), np.bincount(classes)
    return ranks - (sums / counts)[classes]
