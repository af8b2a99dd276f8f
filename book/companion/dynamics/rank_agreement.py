"""Do two models find the same examples sensitive: rank correlation, also given what is known without any model."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation over examples; what does not vary goes with nothing: there it is 0."""
    return partial_rank_correlation(first, second, ())


def partial_rank_correlation(first: np.ndarray, second: np.ndarray, known: Sequence[np.ndarray]) -> float:
    """Return Spearman's correlation over examples given others: of what their ranks do not explain, linearly.

    `known` are numbers of each example; one that repeats another adds nothing. What is left of numbers that do not vary
    beyond rounding, or that `known` explains, goes with nothing: there it is 0. Source: Kendall 1942, of ranks.

    >>> x = np.arange(8.0)
    >>> partial_rank_correlation(x, x**3, [x[::-1]]), round(partial_rank_correlation(x, -x, []), 6)
    (0.0, -1.0)
    """
    size = len(first)
    design = np.stack([np.ones(size), *(rankdata(one) for one in known)], 1)
    rest = []
    for values in (first, second):
        ranks = rankdata(_rounded(np.asarray(values, dtype=float)))
        rest.append(ranks - design @ np.linalg.lstsq(design, ranks, rcond=1e-9)[0])
    norms = [float(np.linalg.norm(one)) for one in rest]
    # Ranks are of the examples' number: what is left of them by rounding alone is far below.
    return float(rest[0] @ rest[1] / (norms[0] * norms[1])) if min(norms) > 1e-6 * size else 0.0


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values to five digits of the largest, so that what is equal but for rounding is tied."""
    return np.round(values / max(np.abs(values).max(), 1e-300), 5)
