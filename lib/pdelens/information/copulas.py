"""Elliptical copulas fitted to samples: dependence like the data's, whose information is known exactly."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .gaussian import gaussian_information, student_excess, wishart_excess

# Degrees of freedom that are tried; beyond 50 a Student copula of usual sizes cannot be told from a normal one.
_FREEDOMS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 25.0, 50.0)


@dataclass(frozen=True)
class Copula:
    r"""A normal (`freedom` infinite) or Student copula of x (the first `dim_x` coordinates) and y (the others).

    Its information is that of the normal of the same `correlation` plus the excess of a shared scale
    (`gaussian.student_excess`); increasing maps of single columns keep it.
    """

    correlation: np.ndarray
    dim_x: int
    freedom: float = np.inf

    @property
    def excess(self) -> float:
        """What the shared scale adds, in nats."""
        dim_y = len(self.correlation) - self.dim_x
        return student_excess(self.dim_x, dim_y, self.freedom) if np.isfinite(self.freedom) else 0.0

    @property
    def information(self) -> float:
        """The exact mutual information in nats."""
        return gaussian_information(self.correlation, self.dim_x) + self.excess

    def sample(self, samples: int, random: np.random.Generator) -> np.ndarray:
        """Return rows (samples, dim_x + dim_y) of the elliptical law itself (normal or Student columns)."""
        rows = random.standard_normal((samples, len(self.correlation))) @ np.linalg.cholesky(self.correlation).T
        if np.isfinite(self.freedom):
            rows *= np.sqrt(self.freedom / random.chisquare(self.freedom, samples))[:, None]
        return rows

    def like(self, data: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return as many rows as `data` with this dependence and exactly the values of each of its columns.

        A column's values are dealt out in the order of a fresh sample, so that nothing but the dependence differs
        from the data, and no pair of rows comes twice.
        """
        return np.take_along_axis(np.sort(data, axis=0), ranks(self.sample(len(data), random)), axis=0)

    def with_information(self, wanted: float) -> "Copula":
        r"""Return the copula whose canonical correlations are turned up or down until it has `wanted` nats.

        $r \to \tanh(s \,\mathrm{artanh}\, r)$ for all, s found by bisection; the dependence within x and within y
        stays. The excess of a shared scale cannot be turned, so that no less than it is reached. ValueError where
        `wanted` is not finite.
        """
        if not np.isfinite(wanted):
            raise ValueError(f"{wanted} nats were asked for: a finite number is wanted.")
        root_x, root_y, (u, correlations, v) = self._canonical()
        angles = np.arctanh(np.clip(correlations, 1e-6, 1 - 1e-9))
        aim = max(wanted - self.excess, 0.0)
        low, high = 0.0, 1.0
        while np.log(np.cosh(high * angles)).sum() < aim:  # -ln(1 - tanh^2) / 2 = ln cosh
            high *= 2
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if np.log(np.cosh(middle * angles)).sum() < aim else (low, middle)
        pairs = len(angles)
        across = root_x @ (u[:, :pairs] * np.tanh(high * angles)) @ v[:pairs] @ root_y.T
        turned = self.correlation.copy()
        turned[: self.dim_x, self.dim_x :], turned[self.dim_x :, : self.dim_x] = across, across.T
        return replace(self, correlation=turned)

    def canonical(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of rows (samples, dim_x + dim_y) turned to canonical variables, strongest pair first.

        Invertible linear maps of x and of y: they keep the information and make the columns of x, and those of y,
        uncorrelated where the rows have this copula's correlation.
        """
        root_x, root_y, (u, _, v) = self._canonical()
        x = np.linalg.solve(root_x, rows[:, : self.dim_x].T).T @ u
        return x, np.linalg.solve(root_y, rows[:, self.dim_x :].T).T @ v.T

    def _canonical(self):
        root_x = np.linalg.cholesky(self.correlation[: self.dim_x, : self.dim_x])
        root_y = np.linalg.cholesky(self.correlation[self.dim_x :, self.dim_x :])
        across = np.linalg.solve(root_x, self.correlation[: self.dim_x, self.dim_x :])
        return root_x, root_y, np.linalg.svd(np.linalg.solve(root_y, across.T).T)


class Fit(NamedTuple):
    """A fitted copula, and its information in nats less the mean excess of sampling."""

    copula: Copula
    information: float


def fit(rows: np.ndarray, dim_x: int) -> Fit:
    r"""Return the elliptical copula that the rows' ranks fit best.

    Columns become normal scores (Student scores of the tried degrees of freedom); the correlation is theirs (for
    Student, of the rows weighted by $(\nu + d) / (\nu + m)$, m the squared Mahalanobis length, iterated); the degrees
    of freedom maximise the pseudo-likelihood (Demarta and McNeil 2005), and Student's is taken only where it gains 3
    nats or more. The mean excess of the normal part, exact for Wishart matrices, is taken off.

    >>> rows = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.75], [0.75, 1]], 2000)
    >>> bool(abs(fit(rows, 1).information - 0.413) < 0.05), fit(rows, 1).copula.freedom
    (True, inf)
    """
    samples, dims = rows.shape
    ordered = ranks(rows)
    correlation = _invertible(np.corrcoef(scores(samples)[ordered].T).reshape(dims, dims))
    baseline = _log_likelihood(ordered, correlation, np.inf)
    freedom, best = np.inf, baseline
    for tried in reversed(_FREEDOMS) if dims > 1 else ():
        likelihood = _log_likelihood(ordered, _scatter(ordered, correlation, tried, rounds=3), tried)
        if likelihood < best:  # one peak: farther from normal it only falls
            break
        freedom, best = tried, likelihood
    if best < baseline + 3:
        freedom = np.inf
    if np.isfinite(freedom):
        freedom = _refined(ordered, correlation, freedom)
        correlation = _scatter(ordered, correlation, freedom)
    copula = Copula(correlation, dim_x, freedom)
    return Fit(copula, copula.information - wishart_excess(samples, dim_x, dims - dim_x))


def ranks(rows: np.ndarray) -> np.ndarray:
    """Return each entry's place in its column, from 0, (samples, columns); ties as they come.

    >>> ranks(np.array([[3.0], [1.0], [2.0]])).T.tolist()
    [[2, 0, 1]]
    """
    columns = np.ascontiguousarray(rows.T)
    places = np.empty(columns.shape, dtype=np.int64)
    np.put_along_axis(places, columns.argsort(1), np.arange(len(rows))[None], axis=1)
    return np.ascontiguousarray(places.T)


@lru_cache(maxsize=64)
def scores(samples: int, freedom: float = np.inf) -> np.ndarray:
    """Return the normal or Student quantiles at (i - 1/2) / samples, rising, (samples,)."""
    from scipy.special import ndtri, stdtrit  # imported here: it would double the package's import time

    levels = (np.arange(samples) + 0.5) / samples
    return stdtrit(freedom, levels) if np.isfinite(freedom) else ndtri(levels)


def _refined(ranks: np.ndarray, correlation: np.ndarray, freedom: float) -> float:
    """Give the top of the parabola in 1 / freedom through the best tried value and its two neighbours."""
    place = _FREEDOMS.index(freedom)
    if place in (0, len(_FREEDOMS) - 1):
        return freedom
    near = _FREEDOMS[place - 1 : place + 2]
    heights = [_log_likelihood(ranks, _scatter(ranks, correlation, value, rounds=5), value) for value in near]
    curvature, slope, _ = np.polyfit([1 / value for value in near], heights, 2)
    top = -slope / (2 * curvature) if curvature < 0 else 0.0
    return float(np.clip(1 / top, near[0], near[2])) if top > 0 else freedom


def _scatter(ranks: np.ndarray, start: np.ndarray, freedom: float, rounds: int = 8) -> np.ndarray:
    """Give the correlation of Student's maximum likelihood at fixed degrees of freedom."""
    values = scores(len(ranks), freedom)[ranks]
    correlation = start
    for _ in range(rounds):
        lengths = (values * (values @ np.linalg.inv(correlation))).sum(1)
        weighted = values * ((freedom + ranks.shape[1]) / (freedom + lengths))[:, None]
        scatter = weighted.T @ values
        spread = np.sqrt(np.diag(scatter))
        correlation = _invertible(scatter / np.outer(spread, spread))
    return correlation


def _invertible(correlation: np.ndarray) -> np.ndarray:
    """Give a correlation with a billionth of independence: columns that determine others have about 10 nats."""
    return (correlation + 1e-9 * np.eye(len(correlation))) / (1 + 1e-9)


def _log_likelihood(ranks: np.ndarray, correlation: np.ndarray, freedom: float) -> float:
    """Give the log-density of the ranks under the copula, summed over rows: joint less the columns'."""
    from scipy.special import gammaln

    dims = ranks.shape[1]
    column = scores(len(ranks), freedom)
    values = column[ranks]
    lengths = (values * (values @ np.linalg.inv(correlation))).sum(1)
    log_determinant = np.linalg.slogdet(correlation)[1]
    if np.isfinite(freedom):
        half = (freedom + dims) / 2
        joint = gammaln(half) + (dims - 1) * gammaln(freedom / 2) - dims * gammaln((freedom + 1) / 2)
        rows = joint - half * np.log1p(lengths / freedom)
        margins = -(freedom + 1) / 2 * np.log1p(column**2 / freedom)
    else:
        rows, margins = -lengths / 2, -(column**2) / 2
    return float(rows.sum() - len(ranks) * log_determinant / 2 - dims * margins.sum())
