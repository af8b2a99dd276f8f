"""How non-linear a layer is, and what of a teacher an equation misses: which layers, which examples, which part."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from pdelens.agreement.measures import cosine
from pdelens.agreement.nulls import mean_map, mean_states
from pdelens.agreement.report import state_agreement
from pdelens.flow import Flow
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate


class NonAffinity(NamedTuple):
    """What the best affine map of each layer leaves, (layers,), as a share of variance.

    `states`: of the variance of the state after the layer; `steps`: of what the layer adds.
    """

    states: np.ndarray
    steps: np.ndarray


def non_affinity(reference: Flow, calibration: Flow, neighbours: bool = False) -> NonAffinity:
    """Return what the best affine map of each layer leaves: `1 - R2` of its prediction, held out.

    The map takes the teacher's true state before the layer; one matrix a layer, the same for all tokens, fitted by
    least squares on `calibration`. With `neighbours` it may also use, for every head, the states of all tokens
    averaged by that head's mean map (`nulls.mean_map`): still linear, no longer local. Variances are about the
    calibration split's mean per depth, token and channel. About 0.3 s for 256 examples of 49 tokens, width 64; with
    neighbours five times as much.
    """
    fitted, given = (_inputs(flow, calibration, neighbours) for flow in (calibration, reference))
    guesses = [reference.states[0]]
    for before, after, target in zip(fitted, given, calibration.states[1:], strict=True):
        design, wanted = (values[calibration.mask].double() for values in (_with_one(before), target))
        guess = _with_one(after).double() @ _solve(design.T @ design, design.T @ wanted)
        guesses.append(guess.to(after.dtype))
    steps = [guess - before for guess, before in zip(guesses[1:], reference.states, strict=False)]
    added = state_agreement([guesses[0], *steps], _steps(reference), _steps(calibration), cka=False)
    return NonAffinity(
        1 - state_agreement(guesses, reference, calibration, cka=False)["r2 mean over channels"],
        1 - added["r2 mean over channels"],
    )


@torch.no_grad()
def local_flow(pde: PDE, reference: Flow, **how: Any) -> Flow:
    """Return what an equation makes, layer by layer, of the teacher's own state before it: no error is carried on.

    Its state l + 1 solves the equation on [l, l + 1] from `reference.states[l]`; its attention l is read at that
    state. `how` goes to `integrate`.
    """
    states, maps = [reference.states[0]], []
    for layer, (start, end) in enumerate(pairwise(reference.depths.tolist())):
        flow = integrate(pde, reference.states[layer], [start, end], mask=reference.mask, check_steps=False, **how)
        states.append(flow.states[-1])
        maps += flow.attention[:1]
    return replace(reference, states=tuple(states), attention=tuple(maps))


def by_example(flow: Flow, reference: Flow, calibration: Flow) -> dict[str, np.ndarray]:
    """Return one number an example, (examples,), each over all layers.

    `cosine` of attention, mean over layers and heads; `unmet`, mean over depths from 1 of the squared error of a
    token over what is usual, the mean over all examples of the squared distance of a token from the calibration
    split's mean (so undecided examples, near that mean, are at no disadvantage); `entropy` of the reference's
    attention, mean over layers, heads and real rows, as a share of the logarithm of how many keys a row may see.
    """
    pairs = zip(flow.attention, reference.attention, strict=True)
    cosines = torch.stack([cosine(ours, theirs, reference.mask).mean(1) for ours, theirs in pairs])
    rows = reference.mask.double()
    entropies = []
    for layer, maps in enumerate(reference.attention):
        most = reference.allowed(layer).sum(-1)[:, 0].clamp_min(2).log()  # (examples, queries)
        entropies.append(torch.special.entr(maps).sum(-1).mean(1).double() / most)
    entropy = (torch.stack(entropies).mean(0) * rows).sum(1) / rows.sum(1)
    keep, unmet = reference.mask[..., None], []
    states = zip(flow.states, reference.states, mean_states(calibration), strict=True)
    for ours, theirs, mean in list(states)[1:]:
        error, spread = (((x - theirs) * keep).double().square().sum((1, 2)) for x in (ours, mean))
        unmet.append(error / rows.sum(1) / (spread.sum() / rows.sum()))
    found = {"cosine": cosines.mean(0), "unmet": torch.stack(unmet).mean(0), "entropy": entropy}
    return {name: values.double().numpy() for name, values in found.items()}


class LinearSplit(NamedTuple):
    """How a Flow's error divides, layer by layer, each (layers,).

    `unmet`: error over the teacher's variance, channels standardised, `1 - R2`; `linear`: share of the teacher's
    variance that an affine map of its own state before the layer predicts; `error`: that of the error.
    """

    unmet: np.ndarray
    linear: np.ndarray
    error: np.ndarray

    def missed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of the affine part that is missed, and that of the rest; each may be above 1."""
        rest = (1 - self.error) / np.maximum(1 - self.linear, 1e-9)
        return self.unmet * self.error / np.maximum(self.linear, 1e-9), self.unmet * rest

    def selectivity(self) -> np.ndarray:
        """Return `1 - affine / rest` of the shares missed: 0 where both are missed alike, 1 where only the rest is."""
        affine, rest = self.missed()
        return 1 - affine / np.maximum(rest, 1e-9)


def linear_split(flow: Flow, reference: Flow, calibration: Flow, folds: int = 8) -> LinearSplit:
    """Divide the teacher's state after each layer, and a Flow's error there, by what an affine map can give.

    The map takes the teacher's true state before the layer, one matrix for all tokens. For state and error alike it
    is fitted on all `folds` of the examples but one and judged on that one, in turn, so that no share is bought by
    the number of coefficients; a share below 0 counts as 0. Tokens of one example resemble each other: count
    examples, not tokens, and give more of them than channels (`affine, one step` of `nulls.state_nulls` should miss
    all of the rest; with too few it seems to miss less). Everything is about the calibration split's mean per token
    and channel. Meant for a `local_flow`: then the error is the layer's own.
    """
    means = mean_states(calibration)
    fold = torch.arange(reference.examples) % folds
    parts = [(fold == number)[:, None] & reference.mask for number in range(folds)]
    centred = replace(reference, states=tuple(u - mean for u, mean in zip(reference.states, means, strict=True)))
    found = []
    for layer, features in enumerate(centred.states[:-1], 1):
        truth = centred.states[layer].double()
        spread = truth[reference.mask].square().mean(0)
        live = spread > 1e-6 * spread.mean()
        error = (flow.states[layer] - reference.states[layer]).double()
        scaled = [values[..., live] / spread[live].sqrt() for values in (truth, error)]
        shares = [_predicted(_with_one(features.double()), values, parts) for values in scaled]
        found.append((float(scaled[1][reference.mask].square().mean()), *shares))
    return LinearSplit(*np.array(found).T)


class LayerCorrelation(NamedTuple):
    """Spearman's correlation over layers: one a seed, their mean, and an exact two-sided p-value."""

    mean: float
    seeds: tuple[float, ...]
    p: float


def layer_correlation(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> LayerCorrelation:
    """Return how two quantities (seeds, layers) go together over layers, seed by seed.

    The test permutes the layers of `first`, *in all seeds alike*, since seeds share what a depth does to them; with L
    layers no p-value is below 1/L!. Ties share their mean rank.

    >>> found = layer_correlation([[1, 2, 3, 4]], [[10, 20, 40, 30]])
    >>> round(found.mean, 3), round(found.p, 3)
    (0.8, 0.333)
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"values of shapes {a.shape} and {b.shape} were given: both must be (seeds, layers).")
    a, b = _standardised_ranks(a), _standardised_ranks(b)
    seeds = (a * b).sum(1)
    orders = np.array(list(permutations(range(a.shape[1]))))
    chance = np.einsum("sol,sl->o", a[:, orders], b) / len(a)
    p = float((np.abs(chance) >= abs(seeds.mean()) - 1e-9).mean())
    return LayerCorrelation(float(seeds.mean()), tuple(seeds.tolist()), p)


def _standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks along the last axis about their mean and of length 1 (0 where all are tied)."""
    ranks = rankdata(values, axis=-1)
    ranks = ranks - ranks.mean(-1, keepdims=True)
    return ranks / np.maximum(np.linalg.norm(ranks, axis=-1, keepdims=True), 1e-12)


def _steps(flow: Flow) -> Flow:
    added = (after - before for before, after in pairwise(flow.states))
    return replace(flow, states=(flow.states[0], *added))


def _inputs(flow: Flow, calibration: Flow, neighbours: bool) -> list[Tensor]:
    """Return what each layer's affine map may look at, (examples, tokens, features)."""
    if not neighbours:
        return list(flow.states[:-1])
    return [
        torch.cat([u, *(one.to(u) @ u for one in maps.unbind(1))], -1)  # averaged over tokens by the map of each head
        for u, maps in zip(flow.states[:-1], mean_map(calibration, flow), strict=True)
    ]


def _predicted(features: Tensor, values: Tensor, parts: Sequence[Tensor]) -> float:
    """Return the share of values' squares that a linear map of features predicts, fitted on the other parts."""
    sums = [(features[part].T @ features[part], features[part].T @ values[part]) for part in parts]
    gram, cross = (torch.stack(found).sum(0) for found in zip(*sums, strict=True))
    left = total = 0.0
    for part, (own_gram, own_cross) in zip(parts, sums, strict=True):
        guess = features[part] @ _solve(gram - own_gram, cross - own_cross)
        left += float((values[part] - guess).square().sum())
        total += float(values[part].square().sum())
    return max(0.0, 1 - left / max(total, 1e-30))


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[..., :1])], -1)


def _solve(gram: Tensor, cross: Tensor) -> Tensor:
    """Solve normal equations with a ridge far below the data's own scale, as states may lie in a subspace."""
    ridge = 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, cross)
