"""How far tokens are from being all alike, and how fast attention brings them there."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.integrate import quad, solve_ivp
from torch import Tensor, nn

from pdelens.attention.capture import flow_of
from pdelens.pde.constraints import UnitSphere
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of
from pdelens.pde.terms import NonLocal, SelfAttention, Term


def centred(u: Tensor) -> Tensor:
    """Return `u - 1 mean(u)`: what is left of states (..., tokens, width) without their mean token."""
    return u - u.mean(-2, keepdim=True)


def rank_residual(u: Tensor) -> Tensor:
    """Return `|u - 1 mean(u)| / |u|` (Frobenius), (...): 0 where all tokens are equal, at most 1.

    Source: Dong, Cordonnier and Loukas 2021 (arXiv 2103.03404), there with another norm.

    >>> import torch
    >>> float(rank_residual(torch.ones(4, 2))), float(rank_residual(torch.tensor([[1.0], [-1.0]])))
    (0.0, 1.0)
    """
    return centred(u).flatten(-2).norm(dim=-1) / u.flatten(-2).norm(dim=-1).clamp_min(1e-300)


def diameter(u: Tensor) -> Tensor:
    """Return the largest distance between two tokens of (..., tokens, width), (...).

    >>> import torch
    >>> float(diameter(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])))
    5.0
    """
    # Differences, not `cdist`'s expanded squares, which lose small distances to rounding.
    return (u.unsqueeze(-2) - u.unsqueeze(-3)).norm(dim=-1).flatten(-2).amax(-1)


def iterate(step: Callable[[int, Tensor], Tensor], u: Tensor, steps: int) -> list[Tensor]:
    """Return `u, step(0, u), step(1, step(0, u)), ...`: as many steps as asked for.

    >>> import torch
    >>> [float(x) for x in iterate(lambda _, x: x / 2, torch.tensor(1.0), 2)]
    [1.0, 0.5, 0.25]
    """
    found = [u]
    for number in range(steps):
        found.append(step(number, found[-1]))
    return found


def energy_ratio(attention: Tensor, u: Tensor) -> Tensor:
    """Return `|c(A u)|^2 / |c(u)|^2` per head, c = `centred`: above 1 where attention spreads tokens apart.

    `attention` (batch, heads, tokens, tokens), `u` (batch, tokens, width); the result (batch, heads).

    >>> import torch
    >>> apart = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    >>> round(float(energy_ratio(apart[None, None], torch.eye(4)[None, :, :1])), 3)
    1.333
    """
    before = centred(u).square().sum((-1, -2))
    return centred(attention @ u.unsqueeze(-3)).square().sum((-1, -2)) / before.unsqueeze(-1)


def without_terms(model: nn.Module, pictures: Tensor) -> tuple[dict[str, list[float]], Tensor]:
    """Return how far a teacher's tokens are from being all alike over depth, with terms of its equation switched off.

    By name, the mean over pictures of `rank_residual` at every depth: `full`, `no-reaction`, `no-attention`, `pure`,
    where each layer's attention replaces the state. Beside it the `energy_ratio` of every head on the normalised states
    that it sees, (layers, pictures, heads).
    """
    pde, flow = equation_of(model), flow_of(model, pictures)
    begin, attention = flow.states[0].double(), pde.terms["attention"]
    assert isinstance(attention, SelfAttention)
    paths = {}
    for name, off in (("full", ()), ("no-reaction", ("reaction",)), ("no-attention", ("attention",))):
        with pde.without(*off):
            paths[name] = integrate(pde, begin).states
    paths["pure"] = iterate(lambda layer, u: attention(float(layer), u), begin, flow.layers)
    residuals = {name: [float(rank_residual(u).mean()) for u in states] for name, states in paths.items()}
    seen = zip(flow.attention, flow.states[:-1], strict=True)
    return residuals, torch.stack([energy_ratio(a, attention.normalise(u)) for a, u in seen])


class Fidelity(Term):
    """`strength (anchor - u)`: pulls tokens back to where they began, against over-smoothing.

    `anchor` is a state (..., tokens, width). Source: the regularised functional of NeuTRENO (Nguyen, Nguyen and
    Baraniuk 2023, arXiv 2312.00751), here as the gradient flow of its fidelity part.

    >>> import torch
    >>> Fidelity(torch.ones(2, 3), 0.5)(0.0, torch.zeros(2, 3)).tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """

    symbol = "λ (u₀ − u)"

    def __init__(self, anchor: Tensor, strength: float):
        super().__init__()
        self.anchor, self.strength = anchor, strength

    def forward(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `strength (anchor - u)`."""
        return self.strength * (self.anchor - u)


def sphere_flow(beta: float, depth: float) -> PDE:
    """Return `dx/dt = P_x A(x) x` on the unit sphere, on depth-time [0, depth].

    The equation is that of {prf:ref}`def-sphere-flow`; `A(u) - I` instead of `A(u)` is the same, since the projection
    removes `x` itself.

    >>> print(sphere_flow(1.0, 2))
    ∂z/∂t = P_z[(A(u) − I) u],  t in [0, 2]
    """
    return PDE({"attention": NonLocal(beta)}, None, depth, UnitSphere())


def equiangular_rate(cosine: np.ndarray, beta: float, tokens: int) -> np.ndarray:
    """Return `2 e^{bg} (1 - g)(1 + (n-1) g) / (e^b + (n-1) e^{bg})`, the speed of the common cosine g.

    >>> float(equiangular_rate(np.array(0.0), 0.0, 4))
    0.5
    """
    ahead = np.exp(beta * (cosine - 1))  # both exponentials divided by e^b, which may be large
    return 2 * ahead * (1 - cosine) * (1 + (tokens - 1) * cosine) / (1 + (tokens - 1) * ahead)


def equiangular_cosine(beta: float, tokens: int, times: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the common cosine of all pairs at `times` (not negative), from an orthonormal start.

    Exact for the flow of `sphere_flow` with self-attention included and width >= tokens ({prf:ref}`thm-equiangular`);
    solved by DOP853 at rtol 1e-12. Source: Geshkovski et al. 2023 (arXiv 2312.10794).

    >>> equiangular_cosine(1.0, 16, [1.0, 2.0]).round(5).tolist()
    [0.24687, 0.72172]
    """
    times = np.asarray(times, dtype=float)
    if tokens < 2 or times.ndim != 1 or times.size == 0 or times.min() < 0:
        raise ValueError(f"{tokens} tokens and times {times} were given: at least 2, and a row of times >= 0.")
    instants, place = np.unique(times, return_inverse=True)
    end = max(float(times.max()), 1e-12)
    solved = solve_ivp(
        lambda _, g: equiangular_rate(g, beta, tokens), (0.0, end), [0.0], "DOP853", instants, rtol=1e-12, atol=1e-14
    )
    return solved.y[0][place]


def clustering_time(beta: float, tokens: int, level: float = 0.5) -> float:
    """Return when the common cosine reaches `level`, from an orthonormal start: the integral of 1 / g'.

    For beta = 0 it is `ln((1 + (n-1) level) / (1 - level)) / 2`; for large beta it grows like `e^beta`
    ({prf:ref}`prop-clustering-time`).

    >>> round(clustering_time(0.0, 16), 6) == round(float(np.log(17)) / 2, 6)
    True
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} was given: a cosine between 0 and 1 is wanted.")
    value, _ = quad(lambda g: 1 / equiangular_rate(g, beta, tokens), 0, level, epsabs=0, epsrel=1e-11, limit=200)
    return float(value)


def mean_cosine(x: Tensor) -> Tensor:
    """Return the mean cosine over pairs of different tokens, (...), of unit vectors (..., tokens, width).

    >>> import torch
    >>> float(mean_cosine(torch.eye(3)))
    0.0
    """
    tokens = x.shape[-2]
    return (x.sum(-2).square().sum(-1) - x.square().sum((-1, -2))) / (tokens * (tokens - 1))
