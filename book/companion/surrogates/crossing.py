"""Learning curves of the ladder: how a miss falls with the budget, and what it would cost to cross a bar."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student


class PowerLaw(NamedTuple):
    """A miss that falls as `miss = scale * budget ** -exponent`, with what a fit leaves open.

    `exponent_interval` is Student's 95 % interval; `draws` are pairs (log scale, exponent) that the fit allows, for
    intervals of what follows from both.
    """

    scale: float
    exponent: float
    exponent_interval: tuple[float, float]
    draws: np.ndarray

    def at(self, budget: float) -> float:
        """Return the miss at a budget."""
        return self.scale * budget**-self.exponent

    def needed(self, miss: float) -> tuple[float, tuple[float, float]]:
        """Return the budget at which the miss has fallen to this, with its 95 % interval (infinite where it never is).

        >>> law = power_law({1: 0.4, 2: 0.2, 4: 0.1})
        >>> round(law.needed(0.05)[0], 6)
        8.0
        """
        logs = np.array([self._log_needed(miss, *draw) for draw in self.draws])
        low, high = np.quantile(logs, [0.025, 0.975], method="nearest")
        return float(np.exp(self._log_needed(miss, np.log(self.scale), self.exponent))), (np.exp(low), np.exp(high))

    @staticmethod
    def _log_needed(miss: float, log_scale: float, exponent: float) -> float:
        gap = log_scale - np.log(miss)
        if gap <= 0:
            return -np.inf  # it is there at any budget
        return gap / exponent if exponent > 0 else np.inf


def power_law(misses: Mapping[float, float], draws: int = 4000) -> PowerLaw:
    """Fit `miss = scale * budget ** -exponent` by least squares in the logarithms, to three budgets at least.

    `misses` maps budgets to what is missing there, `1 - cosine`. Its uncertainty is that of a straight line through so
    few points: Student's t with n - 2 degrees of freedom. Raises `ValueError` for fewer than three budgets.
    """
    if len(misses) < 3:
        raise ValueError(f"misses at {len(misses)} budgets were given: a power law and its spread need three at least.")
    x, y = np.log(list(misses)), np.log(list(misses.values()))
    design = np.stack([np.ones_like(x), -x], 1)
    (log_scale, exponent), *_ = np.linalg.lstsq(design, y, rcond=None)
    free = len(x) - 2
    spread = float(((y - design @ [log_scale, exponent]) ** 2).sum() / free)
    covariance = spread * np.linalg.inv(design.T @ design)
    half = float(student.ppf(0.975, free) * covariance[1, 1] ** 0.5)
    random = np.random.default_rng(0)
    noise = random.standard_normal((draws, 2)) @ np.linalg.cholesky(covariance + 1e-18 * np.eye(2)).T
    noise /= np.sqrt(random.chisquare(free, (draws, 1)) / free)
    allowed = np.array([log_scale, exponent]) + noise
    return PowerLaw(float(np.exp(log_scale)), float(exponent), (exponent - half, exponent + half), allowed)


def gained(misses: Mapping[float, float]) -> float:
    """Return the share of what was missing that the last doubling of the budget gained.

    >>> gained({1: 0.4, 2: 0.2, 4: 0.19})
    0.05
    """
    budgets = sorted(misses)
    if len(budgets) < 2 or budgets[-1] != 2 * budgets[-2]:
        raise ValueError(f"budgets {budgets} were given: the last is to be twice the one before.")
    return round(1 - misses[budgets[-1]] / misses[budgets[-2]], 12)
