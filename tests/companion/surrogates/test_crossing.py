import numpy as np
import pytest

from companion.surrogates.crossing import gained, power_law


def test_a_power_law_is_found_and_carried_on():
    budgets = [1.0, 2.0, 4.0, 8.0, 16.0]
    law = power_law({b: 0.3 * b**-0.31 for b in budgets})
    assert law.scale == pytest.approx(0.3) and law.exponent == pytest.approx(0.31)
    assert law.exponent_interval == pytest.approx((0.31, 0.31), abs=1e-6)
    assert law.at(100.0) == pytest.approx(0.3 * 100**-0.31)
    value, (low, high) = law.needed(0.02)
    assert value == pytest.approx((0.3 / 0.02) ** (1 / 0.31)) and low == pytest.approx(value) == high


def test_intervals_cover_the_truth_as_often_as_they_say():
    random, inside, needed = np.random.default_rng(1), [], []
    truth = (0.3 / 0.05) ** (1 / 0.3)
    for _ in range(400):
        misses = {b: 0.3 * b**-0.3 * np.exp(0.05 * random.standard_normal()) for b in (1.0, 2.0, 4.0, 8.0, 16.0)}
        law = power_law(misses, draws=800)
        low, high = law.exponent_interval
        inside.append(low < 0.3 < high)
        _, (low, high) = law.needed(0.05)
        needed.append(low < truth < high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03) and np.mean(needed) == pytest.approx(0.95, abs=0.03)


def test_what_never_falls_is_never_there():
    value, (_, high) = power_law({1.0: 0.2, 2.0: 0.21, 4.0: 0.22}).needed(0.1)
    assert value == np.inf and high == np.inf
    assert power_law({1.0: 0.2, 2.0: 0.1, 4.0: 0.05}).needed(0.5)[0] == 0.0


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="misses at 2 budgets"):
        power_law({1.0: 0.2, 2.0: 0.1})
    with pytest.raises(ValueError, match=r"budgets \[1, 3\]"):
        gained({1: 0.2, 3: 0.1})
    assert gained({4: 0.18, 2: 0.2}) == pytest.approx(0.1)
