"""What a residual connection and a normalisation do, where it can be proved: collapse, growth, scale invariance.

With row-stochastic attention A (frozen: whatever the state, it is given) and a matrix W, a layer without a residual
connection is `u <- A u W`, one with it `u <- u + A u W`. A state's *diameter* is the largest distance of two tokens.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .clusters import iterate


def ergodicity(attention: Tensor) -> Tensor:
    """Return Dobrushin's coefficient of maps (..., queries, keys): half the largest l1 distance of two rows.

    `diam(A u) <= ergodicity(A) diam(u)` in every norm, since two rows differ by a signed measure of that mass; 0 where
    all queries look alike, 1 where some two look at nothing in common.

    >>> float(ergodicity(torch.eye(3))), float(ergodicity(torch.full((3, 3), 1 / 3)))
    (1.0, 0.0)
    """
    return torch.cdist(attention, attention, p=1).amax((-2, -1)) / 2


def collapse_bounds(maps: Sequence[Tensor], matrices: Sequence[Tensor]) -> np.ndarray:
    """Return which share of the diameter is left at most after each layer `u <- A u W`, (layers + 1,).

    The product of `ergodicity(A) |W|` (spectral norms) so far, from 1 on.
    """
    factors = [float(ergodicity(a)) * _norm(w) for a, w in zip(maps, matrices, strict=True)]
    return np.cumprod([1.0, *factors])


def kept_bounds(maps: Sequence[Tensor], matrices: Sequence[Tensor]) -> np.ndarray:
    """Return which share of the diameter is left at least after each layer `u <- u + A u W`, (layers + 1,).

    By the triangle inequality a layer keeps at least `1 - ergodicity(A) |W|`, where that is positive.
    """
    factors = [max(0.0, 1 - float(ergodicity(a)) * _norm(w)) for a, w in zip(maps, matrices, strict=True)]
    return np.cumprod([1.0, *factors])


def layers_of(start: Tensor, maps: Sequence[Tensor], matrices: Sequence[Tensor], carried: float) -> list[Tensor]:
    """Return the states of `u <- carried u + A u W`, the start first."""
    return iterate(lambda layer, u: carried * u + maps[layer] @ u @ matrices[layer], start, len(maps))


def growth_of_random_branches(scale: float, layers: int) -> float:
    """Return E|u(L)|^2 / |u(0)|^2 of `u <- u + u W` with independent matrices, E|u W|^2 = scale^2 |u|^2.

    `(1 + scale^2)^layers`, exactly, since the branches have mean 0; with `scale = s / sqrt(layers)`, as the scaled
    residual connection has it, no more than `exp(s^2)` at any depth: no normalisation is needed for that.

    >>> growth_of_random_branches(1.0, 12), round(growth_of_random_branches(12**-0.5, 12), 3)
    (4096.0, 2.613)
    """
    return float((1 + scale**2) ** layers)


def bounded_growth(start: Tensor, branches: Sequence[float]) -> np.ndarray:
    """Return what |u| is at most after each layer `u <- u + f(n(u))` with `|f(n(.))| <= b`: linear, not exponential.

    `start` is a state, `branches` the bounds b by layer; what looks at a normalised state is bounded.
    """
    return float(start.norm()) + np.concatenate([[0.0], np.cumsum(branches)])


def relaxed(step: Callable[[Tensor], Tensor], start: Tensor, size: float, time: float) -> Tensor:
    """Return the state of `du/dt = f(u) - u` at a time, by Euler's steps of a size.

    With steps of size 1 that is `u <- f(u)`, a network without residual connections: what it leaves out is what the
    equation damps.
    """
    u = start
    for _ in range(round(time / size)):
        u = u + size * (step(u) - u)
    return u


def scale_invariant_path(
    gradient: Callable[[Tensor], Tensor], start: Tensor, rate: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return |w|^2 along gradient descent, (steps + 1,), and rate^2 |g|^2 of every step, (steps,).

    Where a loss does not change with the length of w, as before a normalisation, its gradient is orthogonal to w, and
    every step lengthens it: `|w'|^2 = |w|^2 + rate^2 |g|^2`, while the gradient shrinks as 1 / |w|. A rate too large
    for the first steps makes itself smaller.
    """
    w, sizes, added = start, [float(start.square().sum())], []
    for _ in range(steps):
        g = gradient(w)
        w = w - rate * g
        sizes.append(float(w.square().sum()))
        added.append(rate**2 * float(g.square().sum()))
    return np.array(sizes), np.array(added)


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))
