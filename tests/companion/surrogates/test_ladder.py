import numpy as np
import pytest

from companion.surrogates import ladder

HEADS = np.array([[0.9, 0.8], [0.7, 0.5]])
NULL = [[0.6, 0.2], [0.96, 0.3]]


def made(seed, budget, lift=0.0, diverged=False):
    cosine = (HEADS + lift).tolist()
    good = {"cosine": cosine, "r2 pooled": [0.9, 0.8 + lift], "classes": 0.95}
    return {
        "made": {"subject": f"image-seed{seed}", "right-hand sides": 1000 * budget, "seconds": 1800 * budget**2},
        "judged": {"1": good, "converged": {"diverged": "at t = 3"} if diverged else good},
        "own steps": [[0.8, 0.5], [0.8495, 0.6002 + lift]],
    }


@pytest.fixture(autouse=True)
def records(monkeypatch):
    rungs = {f"rung-image-laws-k1-b4-seed{seed}": made(seed, 4, 0.01 * seed) for seed in range(5)}
    # A power law exactly: what is missing at the worst layer halves with each doubling.
    rungs |= {f"rung-image-laws-k3-b{b}-seed0": made(0, b, 0.4 - 0.2 / b) for b in (1, 2, 4, 8)}
    rungs["rung-image-laws-k3-rolled-b2-seed0"] = made(0, 2)
    rungs["rung-image-laws-k2-b4-seed0"] = made(0, 4, diverged=True)
    nulls = {
        f"image-seed{seed}": {"attention": {"uniform": NULL, "mean map": [[0.1, 0.1], [0.1, 0.1]]}} for seed in range(5)
    }
    monkeypatch.setattr(ladder, "law_records", lambda: {"rungs": rungs, "nulls": nulls})


def test_a_law_is_read_at_its_worst_layer_over_seeds():
    assert sorted(ladder.records_of("image", "k1", 4)) == [0, 1, 2, 3, 4]
    found = ladder.seed_mean("image", "k1", 4)
    assert found.seeds == pytest.approx([0.6, 0.61, 0.62, 0.63, 0.64]) and found.interval is not None
    assert ladder.seed_mean("image", "k1", 4, "r2 pooled").seeds[0] == pytest.approx(0.8)
    assert ladder.seed_mean("image", "k1", 4, "classes").mean == pytest.approx(0.95)
    # By hand: layer 1 misses .3 of the null's 1.2, layer 2 .8 of .74.
    assert ladder.value(made(0, 4), "converged", "pooled skill") == pytest.approx(1 - 0.8 / 0.74)
    assert np.isnan(ladder.seed_mean("image", "k2", 4).mean)
    assert ladder.records_of("image", "k3", 2).keys() == {0}, "another recipe's record is not this one's"


def test_a_curve_is_carried_on_to_the_bar():
    assert ladder.budgets_of("image", "k3") == [1, 2, 4, 8]
    assert ladder.misses("image", "k3") == pytest.approx({1000.0 * b: 0.2 / b for b in (1, 2, 4, 8)})
    found = ladder.crossing("image", "k3")
    assert found.curve.exponent == pytest.approx(1.0) and found.needed == pytest.approx(10_000)
    assert found.interval == pytest.approx((10_000, 10_000), rel=1e-3) and found.gained == pytest.approx(0.5)
    # Half an hour a thousand right-hand sides at the smallest budget, four at the largest: that is the pace.
    assert found.hours == pytest.approx(40) and found.hours_interval == pytest.approx((40, 40), rel=1e-3)
    assert ladder.crossing("image", "k3", 0.8).needed == pytest.approx(1000), "where it is there already"
    with pytest.raises(ValueError, match="a power law and its spread need three"):
        ladder.crossing("image", "k1")


def test_what_no_null_leaves_and_what_steps_do_not_resolve():
    assert ladder.untestable("image-seed0") == ["2.1"]
    assert ladder.unresolved(made(0, 4)) == pytest.approx(0.0005)
