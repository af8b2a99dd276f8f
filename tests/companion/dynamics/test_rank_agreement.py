"""Rank correlations against scipy and against the inverse of the correlation matrix."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from companion.dynamics.rank_agreement import partial_rank_correlation, rank_correlation

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.normal(size=(4, 30)) + RANDOM.normal(size=30)


def by_inverse(rows):
    """Return the partial correlation of the first two rows given the others, of their ranks."""
    precision = np.linalg.inv(spearmanr(rows.T).statistic)
    return -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])


def test_without_anything_known_it_is_spearmans():
    assert rank_correlation(ROWS[0], ROWS[1]) == pytest.approx(spearmanr(ROWS[0], ROWS[1]).statistic)
    tied = np.round(ROWS)
    assert rank_correlation(tied[0], tied[1]) == pytest.approx(spearmanr(tied[0], tied[1]).statistic)


def test_given_others_it_is_that_of_the_inverse_matrix():
    found = partial_rank_correlation(ROWS[0], ROWS[1], [ROWS[2], ROWS[3]])
    assert found == pytest.approx(by_inverse(ROWS)) and abs(found - rank_correlation(ROWS[0], ROWS[1])) > 0.1


def test_what_is_known_twice_is_known_once():
    once = partial_rank_correlation(ROWS[0], ROWS[1], [ROWS[2]])
    assert partial_rank_correlation(ROWS[0], ROWS[1], [ROWS[2], 3 * ROWS[2]]) == pytest.approx(once)


def test_what_does_not_vary_or_is_known_already_goes_with_nothing():
    same = 1 + 1e-7 * ROWS[1]
    assert rank_correlation(same, ROWS[1]) == 0
    assert partial_rank_correlation(ROWS[0], ROWS[1], [ROWS[0] ** 3]) == 0
