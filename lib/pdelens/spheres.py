"""Self-attention as a flow of points on the unit sphere, and its exactly solvable case.

With Q = K = V = I the tokens move by `dx_i/dt = P_{x_i} sum_j A_ij x_j`, `A = softmax(beta <x_i, x_j>)`
(Geshkovski, Letrouit, Polyanskiy and Rigollet, arXiv 2312.10794). From an orthonormal start all
pairs keep one common cosine, which solves a scalar equation: an oracle for every integrator.
"""

from collections.abc import Sequence

import numpy as np
from scipy.integrate import quad, solve_ivp
from torch import Tensor

from .pde import PDE, Sphere
from .terms import NonLocal


class UnitSphere(Sphere):
    """The constraint `|z_i| = 1` for every token (`Sphere` has mean 0 and radius sqrt(width)).

    >>> import torch
    >>> UnitSphere().retract(torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self):
        super().__init__(epsilon=0.0)

    def retract(self, z: Tensor) -> Tensor:
        """Return the nearest point of the sphere, `z / |z|`, for states (..., tokens, width)."""
        return z / z.norm(dim=-1, keepdim=True)

    def project(self, z: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity's tangential part, `velocity - <velocity, z> z`."""
        return velocity - z * (z * velocity).sum(-1, keepdim=True)


def sphere_flow(beta: float, depth: float) -> PDE:
    """Return `dx/dt = P_x A(x) x` on the unit sphere, on depth-time [0, depth].

    The equation is that of {prf:ref}`def-sphere-flow`; `A(u) - I` instead of `A(u)` is the same, since
    the projection removes `x` itself.

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

    Exact for the flow of `sphere_flow` with self-attention included and width >= tokens
    ({prf:ref}`thm-equiangular`); solved by DOP853 at rtol 1e-12.
    Source: Geshkovski et al. 2023 (arXiv 2312.10794).

    >>> equiangular_cosine(1.0, 16, [1.0, 2.0]).round(5).tolist()
    [0.24687, 0.72172]
    """
    times = np.asarray(times, dtype=float)
    if tokens < 2 or times.ndim != 1 or times.size == 0 or times.min() < 0:
        raise ValueError(f"{tokens} tokens and times {times} were given: at least 2, and a row of times >= 0.")
    order = np.argsort(times)
    solved = solve_ivp(
        lambda _, g: equiangular_rate(g, beta, tokens),
        (0.0, max(float(times.max()), 1e-12)),
        [0.0],
        method="DOP853",
        t_eval=times[order],
        rtol=1e-12,
        atol=1e-14,
    )
    found = np.empty_like(times)
    found[order] = solved.y[0]
    return found


def clustering_time(beta: float, tokens: int, level: float = 0.5) -> float:
    """Return when the common cosine reaches `level`, from an orthonormal start: the integral of 1 / g'.

    For beta = 0 it is `ln((1 + (n-1) level) / (1 - level)) / 2`; for large beta it grows
    like `e^beta` ({prf:ref}`prop-clustering-time`).

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
