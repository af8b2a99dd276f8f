"""Tokens followed to their end: particles on the sphere, layers of several kinds, and a term that keeps them apart."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from pdelens.pde.constraints import UnitSphere
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import NonLocal

from . import clusters

# Below this, rounding takes over from any law of collapse.
ROUNDING = 1e-12


def pair_cosines(beta: float, tokens: int, times: Sequence[float]) -> np.ndarray:
    """Return the cosines of all pairs of an orthonormal start at times, (times, pairs), by particles (RK4)."""
    start = torch.eye(tokens, dtype=torch.float64)[None]
    flow = integrate(clusters.sphere_flow(beta, max(times)), start, (0.0, *times), "rk4", 10)
    different = ~torch.eye(tokens, dtype=torch.bool)
    return np.stack([(x @ x.mT)[0][different].numpy() for x in flow.states[1:]])


def random_tokens(starts: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Return tokens drawn uniformly on the unit sphere of as many dimensions, (starts, tokens, tokens)."""
    drawn = torch.randn(starts, tokens, tokens, generator=generator, dtype=torch.float64)
    return UnitSphere().retract(drawn)


def half_times(beta: float, starts: Tensor, until: float = 24.0, every: float = 0.2) -> np.ndarray:
    """Return when each start's mean cosine reaches one half, (starts,), to the next tick; infinity where it doesn't."""
    ticks = np.arange(0, until + every / 2, every)
    flow = integrate(clusters.sphere_flow(beta, until), starts, ticks.tolist(), "rk4", 1)
    cosines = torch.stack([clusters.mean_cosine(x) for x in flow.states]).numpy()
    return np.where(cosines[-1] >= 0.5, ticks[(cosines >= 0.5).argmax(0)], np.inf)


def kinds_of_layer(beta: float) -> dict[str, Callable[[int, Tensor], Tensor]]:
    """Return layers by name: attention alone, normalised, with a residual connection, with both; and one without it."""
    ball, attention = UnitSphere(), NonLocal(beta)

    def averaged(u: Tensor) -> Tensor:
        return attention(0.0, u) + u

    return {
        "attention alone": lambda _, u: averaged(u),
        "normalised": lambda _, u: ball.retract(averaged(u)),
        "residual": lambda _, u: u + averaged(u),
        "residual, normalised": lambda _, u: ball.retract(u + averaged(u)),
        "null: no attention": lambda _, u: ball.retract(u + u),
    }


def cubic_law(widths: np.ndarray, beta: float) -> tuple[np.ndarray, float]:
    """Return the exponents by which layers of attention alone shrink a diameter, and their largest share of the bound.

    `widths` (layers + 1,). The exponent of a layer is `ln d_{l+1} / ln d_l`; only layers from a diameter below one
    half to one above rounding count.
    """
    valid = [k for k in range(1, len(widths) - 1) if widths[k + 1] > ROUNDING and widths[k] < 0.5]
    before, after = widths[valid], widths[[k + 1 for k in valid]]
    bound = np.expm1(4 * beta * before**2) / 2 * before
    return np.log(after) / np.log(before), float((after / bound).max())


def kept_apart(start: Tensor, strength: float, beta: float, times: np.ndarray) -> np.ndarray:
    """Return the tokens' residual over time under attention and a fidelity term to the start itself, (times,)."""
    terms = {"attention": NonLocal(beta), "fidelity": clusters.Fidelity(start, strength)}
    flow = integrate(PDE(terms, None, float(times[-1])), start, times.tolist(), "rk4", 2)
    return np.array([float(clusters.rank_residual(u)) for u in flow.states])


def last_factor(values: Sequence[float] | np.ndarray) -> float:
    """Return by which factor the last layer multiplied a number."""
    return float(values[-1] / values[-2])


def counter_example(tokens: int, sharpness: float) -> float:
    """Return by how much attention with logits +-sharpness multiplies the energy of a single token that differs.

    Half of the rows read the first token, half the second: the example that shows that averaging may spread.
    """
    spike = torch.eye(tokens, dtype=torch.float64)[None, :, :1]
    logits = torch.full((tokens, tokens), -sharpness, dtype=torch.float64)
    logits[torch.arange(tokens), torch.arange(tokens) % 2] = sharpness
    return float(clusters.energy_ratio(torch.softmax(logits, -1)[None, None], spike))


def residuals(paths: Mapping[str, Sequence[Tensor]]) -> dict[str, np.ndarray]:
    """Return the tokens' residual along every path, (layers + 1,) each."""
    return {name: np.array([float(clusters.rank_residual(u)) for u in path]) for name, path in paths.items()}
