"""Which token influenced which: a flow's propagator, attention rollout, the heat kernel, and how maps of them agree.

A map has rows for some target tokens, (examples, targets, tokens): who influenced them, as in attention. `targets` are
their places, (examples, targets).
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
    return rollouts(flow, start)[-1]


def rollouts(flow: Flow, start: int = 0) -> list[Tensor]:
    """Return attention rollout (`rollout`) from a depth to every depth from there on, the identity first."""
    identity = torch.eye(flow.tokens, dtype=torch.float64)
    found = [identity.expand(flow.examples, -1, -1)]
    for attention in flow.attention[start:]:
        found.append((attention.mean(1).double().cpu() + identity) / 2 @ found[-1])
    return found


def solution_map(pde: PDE, u: Tensor, mask: Tensor, start: float = 0.0, end: float | None = None) -> FlowMap:
    """Return the map from a state at depth-time `start`, one of `STEPS`, to the solution at `end`, by those steps.

    With no `end` to the last. Its Jacobian is the equation's propagator: steps that crowd at the entry are none that
    `flow_map` makes.
    """
    end = pde.depth if end is None else end
    times = [time for time in STEPS if start <= time <= end]
    if times[0] != start or times[-1] != end:
        raise ValueError(f"depth-times {start:g} to {end:g} were asked for: {STEPS} are where steps begin.")
    padding = padding_of(mask)

    def function(state: Tensor) -> Tensor:
        return integrate(pde, state, times, "rk4", mask=padding, check_steps=False).states[-1]

    return FlowMap(function, u, padding, (start, end))


def row_influence(flow_map: FlowMap, targets: Tensor, *, draws: int = 8, seed: int = 0) -> Tensor:
    """Return how much each token's change moves chosen ones: `|J_ij|`, Frobenius norms, (examples, targets, tokens).

    Rows of what `pdelens.sensitivity.singular.influence` gives whole, from products with the transpose: each target
    costs `draws` of them, however many tokens there are. Exact where a state's width is at most `draws`, else the root
    of the mean of `|J_ij^T z|^2` over random z ~ N(0, 1) at the target, drawn anew for every row (Hutchinson 1990).
    """
    examples, _, width = flow_map.point.shape
    exact, generator = width <= draws, torch.Generator().manual_seed(seed)
    many = width if exact else draws
    squares, every = torch.zeros(*targets.shape, flow_map.point.shape[1], dtype=torch.float64), torch.arange(examples)
    for row in range(targets.shape[1]):
        for draw in range(many):
            z = torch.randn(examples, width, generator=generator, dtype=torch.float64)
            change = torch.zeros_like(flow_map.point)
            change[every, targets[:, row]] = (torch.eye(width)[draw].expand_as(z) if exact else z).to(change)
            squares[:, row] += flow_map.vjp(change).detach().double().square().sum(-1).cpu()
    return (squares if exact else squares / many).sqrt()


def rows_of(maps: Tensor, targets: Tensor) -> Tensor:
    """Return the targets' rows of whole maps (examples, tokens, tokens)."""
    return maps.gather(1, targets[..., None].expand(-1, -1, maps.shape[-1]))


def drawn_targets(mask: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return so many real tokens of each example at random, in their order: (examples, count)."""
    if int(mask.sum(1).min()) < count:
        raise ValueError(f"{count} targets were asked for, but an example has {int(mask.sum(1).min())} real tokens.")
    order = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(~mask.cpu(), -1)
    return order.topk(count, 1).indices.sort(1).values


class HeatKernels:
    """The heat equation's propagators `exp(s Laplacian)` on a lattice, for examples with padding: all s from one basis.

    No heat passes to or from padding, and padded tokens stay as they are.

    >>> from pdelens.lattice import Chain
    >>> kernels = HeatKernels(Chain(3), torch.tensor([[True, True, False]]))
    >>> kernels(50.0).round(decimals=3).abs().tolist()
    [[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]]
    """

    def __init__(self, lattice: Lattice, mask: Tensor):
        identity = torch.eye(lattice.tokens, dtype=torch.float64).expand(len(mask), -1, -1)
        self.values, self.basis = torch.linalg.eigh(laplacian(identity, lattice, mask=padding_of(mask)))

    def __call__(self, amount: float) -> Tensor:
        """Return the propagators (examples, tokens, tokens) after `amount`, diffusivity times depth-time."""
        return self.basis * (amount * self.values).exp()[:, None] @ self.basis.mT


def own_share(maps: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return the part of what reaches a target that is its own, mean over an example's targets: (examples,)."""
    real = maps.double().cpu() * mask[:, None].cpu()
    own = real.gather(2, targets[..., None])[..., 0]
    return (own / real.sum(-1).clamp_min(1e-300)).mean(1)


def others_shares(maps: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return each row without its own token, as shares that sum to 1: who *else* influenced it, and how much.

    Rows that nothing else reaches are 0, and so is what stands in the padding.
    """
    others = (maps.double().cpu() * mask[:, None].cpu()).scatter(2, targets[..., None], 0.0)
    return others / others.sum(-1, keepdim=True).clamp_min(1e-300)


def mean_rollout(calibration: Flow, start: int = 0) -> Tensor:
    """Return the mean rollout of a teacher on calibration examples, (tokens, tokens): what places alone say.

    The mean of each entry is over the examples that have both tokens.
    """
    pairs = (calibration.mask[:, :, None] & calibration.mask[:, None, :]).double().cpu()
    return (rollout(calibration, start) * pairs).sum(0) / pairs.sum(0).clamp_min(1)


def map_cosine(found: Tensor, wanted: Tensor) -> Tensor:
    """Return the cosine of flattened maps, (examples,); 0 where one is empty."""
    norms = found.flatten(1).norm(dim=1) * wanted.flatten(1).norm(dim=1)
    return (found * wanted).sum((1, 2)) / norms.clamp_min(1e-300)


def token_distances(lattice: Lattice) -> np.ndarray:
    """Return the Euclidean distance of every two tokens on their lattice, (tokens, tokens), in lattice units."""
    places = lattice.positions().double().reshape(lattice.tokens, -1)
    return torch.cdist(places, places).round(decimals=6).numpy()


def rank_given_distance(found: Tensor, wanted: Tensor, targets: Tensor, distances: np.ndarray, mask: Tensor) -> Tensor:
    """Return Spearman's correlation of two maps over pairs of different tokens, given their distance: (examples,).

    Both maps' entries are ranked over an example's rows; from each rank goes the mean rank of all pairs at the same
    distance; the rest is correlated (a partial rank correlation with distance as a class). A map that knows distance
    alone scores 0, and so does one without any rest.
    """
    rows = []
    for ours, theirs, places, real in zip(found, wanted, targets.cpu().numpy(), mask.cpu().numpy(), strict=True):
        keep = np.broadcast_to(real, ours.shape).copy()
        keep[np.arange(len(places)), places] = False
        classes = np.unique(distances[places][keep], return_inverse=True)[1]
        rest = [_without_class(rankdata(_rounded(one.numpy()[keep])), classes) for one in (ours, theirs)]
        norms = np.linalg.norm(rest[0]) * np.linalg.norm(rest[1])
        rows.append(float(rest[0] @ rest[1] / norms) if norms > 1e-9 else 0.0)
    return torch.tensor(rows, dtype=torch.float64)


def best_heat(
    kernels: HeatKernels, wanted: Tensor, targets: Tensor, mask: Tensor, amounts: Sequence[float]
) -> tuple[float, Tensor]:
    """Return the amount of diffusion whose shares have the highest mean cosine with the wanted ones, and its rows.

    Chosen on the examples themselves: in favour of what is to be beaten.
    """
    rows = [rows_of(kernels(one), targets) for one in amounts]
    scores = [float(map_cosine(others_shares(one, targets, mask), wanted).mean()) for one in rows]
    best = int(np.argmax(scores))
    return amounts[best], rows[best]


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values to nine digits, so that what is equal but for rounding is tied."""
    return np.round(values / max(np.abs(values).max(), 1e-300), 9)


def _without_class(ranks: np.ndarray, classes: np.ndarray) -> np.ndarray:
    sums, counts = np.bincount(classes, ranks), np.bincount(classes)
    return ranks - (sums / counts)[classes]
