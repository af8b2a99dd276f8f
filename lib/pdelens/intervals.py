"""Intervals: over seeds where there are seeds, over examples where there is one model."""

from collections.abc import Sequence

import numpy as np


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval for the mean over seeds (5 seeds: 4 degrees of freedom).

    >>> low, high = t_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    from scipy.special import stdtrit  # imported here: it would double the package's import time

    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(
            f"{array.size} value(s) of shape {array.shape} were given: an interval needs at least two seeds."
        )
    half = stdtrit(len(array) - 1, (1 + level) / 2) * array.std(ddof=1) / len(array) ** 0.5
    return float(array.mean() - half), float(array.mean() + half)


def bootstrap_interval(
    values, statistic=None, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return a percentile bootstrap interval, resampling examples (the first axis of `values`).

    `statistic` maps resampled `values` to a number (default: the mean). It speaks of other examples from the same
    source under the same model, not of other seeds; pages say which.

    >>> low, high = bootstrap_interval(np.arange(100.0))
    >>> low < 49.5 < high
    True
    """
    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        raise ValueError(f"{len(array)} example(s) were given: a bootstrap needs at least two.")
    random = np.random.default_rng(seed)
    apply = np.mean if statistic is None else statistic
    draws = [apply(array[random.integers(0, len(array), len(array))]) for _ in range(resamples)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
