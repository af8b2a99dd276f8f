"""Mutual information of Gaussians, and of what is Gaussian after a monotone map of each column."""

import numpy as np
import torch
from torch import Tensor

# A direction of y closer than this to the span of x differs from it by rounding alone.
_ROUNDING = 1e-12


def gaussian(x: Tensor, y: Tensor) -> float:
    r"""Return the mutual information that a joint Gaussian with the samples' covariance has, in nats.

    $$I = -\tfrac12 \sum_i \ln(1 - r_i^2) - b(N), \qquad
      b = \tfrac12\Big[\sum_{i<d_x} + \sum_{i<d_y} - \sum_{i<d_x+d_y}\Big] \psi\big(\tfrac{N-1-i}{2}\big)$$

    with `r` the canonical correlations. `b` is the exact mean excess of the plug-in value: for Gaussian samples the
    result is unbiased at every N, so at independence it is negative half the time. Otherwise its limit is a lower bound
    of the information where x or y (each taken whole) is Gaussian, and no bound where neither is. `math.inf` where a
    combination of y's columns is one of x's. x (samples, dx), y (samples, dy), samples > dx + dy, columns linearly
    independent: else ValueError. Cost: one QR of each, `samples * (dx + dy)^2`. Source: Kullback 1959; moments of the
    Wishart log-determinant: Muirhead 1982; used so by Ince et al. 2017 (10.1002/hbm.23471).

    >>> x, noise = torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0))
    >>> abs(gaussian(x, 0.8 * x + 0.6 * noise) + 0.5 * torch.tensor(0.36).log().item()) < 0.1
    True
    """
    x, y = paired(x, y)
    if len(x) <= x.shape[1] + y.shape[1]:
        raise ValueError(
            f"{len(x)} samples of {x.shape[1]} + {y.shape[1]} columns were given: a covariance of full rank needs "
            f"more samples than columns; give at least {x.shape[1] + y.shape[1] + 1} or fewer columns."
        )
    first, second = _orthonormal(x, "x"), _orthonormal(y, "y")
    # 1 - r^2 loses its digits near r = 1: the part of y outside the span of x keeps them.
    outside = second - first @ (first.T @ second)
    sines = torch.linalg.svdvals(outside)
    if sines.min() < _ROUNDING:
        return torch.inf
    return float(-sines.log().sum()) - wishart_excess(len(x), x.shape[1], y.shape[1])


def gaussian_copula(x: Tensor, y: Tensor) -> float:
    r"""Return the Gaussian information of the columns' normal scores, in nats.

    Every column is replaced by $\Phi^{-1}(\mathrm{rank}/(N+1))$, which no increasing map of the column changes, and
    `gaussian` is taken of the scores. It is exact (for large N) for whatever becomes a joint Gaussian by one monotone
    map per column. Where x or y is a single column, the limit is a lower bound whatever the law, for a single
    column's scores are Gaussian; with several columns on both sides it is one only where the scores of x, or those of
    y, are jointly Gaussian. It misses dependence that leaves the scores uncorrelated, all of `y = x^2` for an even x.

    Shapes, errors and cost as `gaussian`, and a sort of each column. The bias correction is exact for Gaussian
    samples and good to O(1/N) for scores. Ties share their mean rank; columns with many are discrete, and this is not
    for them. Source: Ince et al. 2017 (10.1002/hbm.23471).

    >>> x, noise = torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0))
    >>> y = 0.8 * x + 0.6 * noise
    >>> gaussian_copula(x, y) == gaussian_copula(x.exp(), y**3)
    True
    """
    x, y = paired(x, y)
    return gaussian(normal_scores(x), normal_scores(y))


def normal_scores(x: Tensor) -> Tensor:
    """Return each column's ranks through the normal quantile function, (samples, columns), float64.

    `ndtri(rank / (samples + 1))`, ranks from 1; ties share their mean rank.

    >>> normal_scores(torch.tensor([[3.0], [1.0], [2.0]])).round(decimals=3).flatten().tolist()
    [0.674, -0.674, 0.0]
    """
    from scipy.stats import rankdata  # imported here: it would double the package's import time

    ranks = torch.from_numpy(rankdata(x.detach().cpu().numpy(), axis=0)).to(x.device)
    return torch.special.ndtri(ranks / (len(x) + 1))


def paired(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64, or raise ValueError where they are not samples of one pair of variables.

    >>> paired(torch.zeros(3, 1), torch.zeros(4, 1))
    Traceback (most recent call last):
    ...
    ValueError: x has 3 samples and y has 4: row i of both must belong to sample i.
    """
    for name, values in (("x", x), ("y", y)):
        if values.ndim != 2 or values.shape[1] == 0:
            raise ValueError(
                f"{name} of shape {tuple(values.shape)} was given: (samples, columns) is wanted; "
                "a single column is `values[:, None]`."
            )
        if not values.isfinite().all():
            raise ValueError(f"{name} has {int((~values.isfinite()).sum())} values that are not finite: remove them.")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples and y has {len(y)}: row i of both must belong to sample i.")
    if len(x) < 2:
        raise ValueError(f"{len(x)} sample(s) were given: information needs at least two.")
    return x.detach().double(), y.detach().double()


def _orthonormal(x: Tensor, name: str) -> Tensor:
    """Give an orthonormal basis of the centred columns' span, (samples, columns)."""
    centred = x - x.mean(0)
    length = centred.norm(dim=0)
    # A constant column is left with the rounding of its mean.
    alive = length > 1e-14 * len(x) ** 0.5 * x.abs().amax(0)
    if not alive.all():
        raise ValueError(f"Column {int((~alive).nonzero()[0])} of {name} is constant: leave it out.")
    basis, triangle = torch.linalg.qr(centred / length)
    rank = int((torch.linalg.svdvals(triangle) > _ROUNDING).sum())
    if rank < x.shape[1]:
        raise ValueError(
            f"The {x.shape[1]} columns of {name} ({len(x)} samples) have rank {rank}: "
            "leave out those that are linear combinations of others, or project onto principal directions."
        )
    return basis


def wishart_excess(samples: int, dim_x: int, dim_y: int) -> float:
    r"""Return the mean of the plug-in Gaussian information less the truth, for Gaussian samples, in nats.

    >>> round(wishart_excess(2000, 5, 5), 4)  # about dim_x dim_y / (2 samples)
    0.0063
    """

    def log_determinant(dims: int) -> Tensor:
        return torch.special.digamma((samples - 1 - torch.arange(dims, dtype=torch.float64)) / 2).sum()

    return float(log_determinant(dim_x) + log_determinant(dim_y) - log_determinant(dim_x + dim_y)) / 2


def gaussian_information(covariance: np.ndarray, dim_x: int) -> float:
    r"""Return I(X;Y) in nats of jointly normal X (the first `dim_x` coordinates) and Y (the others).

    $I = \frac{1}{2} \ln \det \Sigma_X \det \Sigma_Y / \det \Sigma$; $-\frac{1}{2}\ln(1-\rho^2)$ in 1 + 1 dimensions.

    >>> round(gaussian_information(np.array([[1.0, 0.75], [0.75, 1.0]]), 1), 4)
    0.4133
    """
    parts = (covariance[:dim_x, :dim_x], covariance[dim_x:, dim_x:], covariance)
    x, y, both = (float(np.linalg.slogdet(part)[1]) for part in parts)
    return (x + y - both) / 2


def student_excess(dim_x: int, dim_y: int, freedom: float) -> float:
    r"""Return what a multivariate Student t has in I(X;Y) beyond the normal of the same dispersion, in nats.

    $h(d_x) + h(d_y) - h(d_x + d_y)$ of standard Student vectors with `freedom` degrees of freedom $\nu$, where $h(d)
    = \ln\frac{\Gamma(\nu/2) (\nu\pi)^{d/2}}{\Gamma((\nu+d)/2)} + \frac{\nu+d}{2}\left[\psi(\frac{\nu+d}{2}) -
    \psi(\frac{\nu}{2})\right]$ (Arellano-Valle, Contreras-Reyes and Genton 2013).

    >>> round(student_excess(5, 5, 2), 4)
    0.4482
    """
    from scipy.special import digamma, gammaln

    def entropy(dims: int) -> float:
        half = (freedom + dims) / 2
        log_volume = gammaln(freedom / 2) - gammaln(half) + dims / 2 * np.log(freedom * np.pi)
        return float(log_volume + half * (digamma(half) - digamma(freedom / 2)))

    return entropy(dim_x) + entropy(dim_y) - entropy(dim_x + dim_y)
