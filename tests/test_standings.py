import numpy as np
import pytest

from pdelens import standings


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Two seeds of one rung whose numbers can be followed by hand."""
    heads = {0: [[0.9, 0.7], [1.0, 0.8]], 1: [[0.8, 0.8], [0.9, 0.9]]}
    rungs = {
        f"rung-image-full-seed{seed}": {
            "made": {"subject": f"image-seed{seed}"},
            "judged": {
                "1": {"cosine": [0.95, 0.9], "r2": [0.8, 0.5]},
                "converged": {"cosine": heads[seed], "r2": [0.6 + seed / 10, 0.9], "classes": 0.5},
                "16": {"diverged": "at 3"},
            },
        }
        for seed in (0, 1)
    }
    rungs["rung-image-full-no-d-seed0"] = rungs["rung-image-full-seed1"]
    nulls = {
        f"image-seed{seed}": {"attention": {"uniform": [[0.5, 0.5], [0.6, 0.6]], "mean map": [[0.4, 0.6]] * 2}}
        for seed in (0, 1)
    }
    monkeypatch.setattr(standings, "ladder", lambda: {"rungs": rungs, "nulls": nulls})


def test_headlines_are_the_worst_layer_of_the_mean_over_heads():
    first = standings.found("image", "full")[0]
    assert standings.value(first, "converged", "cosine") == pytest.approx(0.8)
    assert standings.value(first, "converged", "worst head") == pytest.approx(0.7)
    assert standings.value(first, "converged", "r2") == pytest.approx(0.6)
    assert standings.value(first, "converged", "classes") == 0.5
    assert standings.value(first, "1", "cosine") == pytest.approx(0.9), "a way that keeps means over heads"
    # Best nulls: .5 .6 / .6 .6, so skills .8 .25 / 1 .5.
    assert standings.value(first, "converged", "skill") == pytest.approx(0.525)
    assert standings.value(first, "converged", "median skill") == pytest.approx(0.65)


def test_what_is_not_known_is_nan_and_unknown_measures_are_named():
    first = standings.found("image", "full")[0]
    for way, measure in (
        ("16", "cosine"),
        ("1", "worst head"),
        ("1", "skill"),
        ("1", "median skill"),
        ("converged", "cka"),
    ):
        assert np.isnan(standings.value(first, way, measure))
    with pytest.raises(ValueError, match="measure 'kappa' was given"):
        standings.value(first, "converged", "kappa")


def test_families_are_told_apart_and_seeds_give_intervals():
    assert sorted(standings.found("image", "full")) == [0, 1] and list(standings.found("image", "full-no-d")) == [0]
    both = standings.standing("image", "full", "r2")
    assert both.seeds == pytest.approx((0.6, 0.7)) and both.interval is not None
    assert both.interval[0] < 0.6 < both.mean < 0.7 < both.interval[1]
    alone = standings.standing("image", "full-no-d", "r2")
    assert alone.interval is None and alone.low == alone.mean and both.low == both.interval[0]
    paired = standings.difference("image", "full", "full-no-d", "r2")
    assert paired.seeds == pytest.approx((-0.1,)) and str(standings.standing("image", "nothing")) == "–"


def test_a_standing_is_shown_to_the_digits_that_it_is_good_for():
    assert str(standings.over_seeds([0.5, 0.7])) == "0.600 ± 1.271"
    assert str(standings.over_seeds([0.8441])) == "0.844"
    assert str(standings.over_seeds([-10.0, -11.0])) == "-10.5 ± 6.4"
    assert str(standings.over_seeds([-1000.0, -1830.0])) == "-1415 ± 5273"


def test_nulls_by_name_and_the_best_of_each_head():
    assert standings.null("image-seed0", "mean map") == pytest.approx(0.5)
    assert standings.best_null("image-seed0").tolist() == [[0.5, 0.6], [0.6, 0.6]]


def test_a_divided_error_is_read_by_seed_where_it_is_on_record(monkeypatch):
    local = {"way": "converged", "unmet": [0.2, 0.1], "linear": [0.4, 0.9], "error": [0.1, 0.5]}
    rows = {"rung-image-full-seed0": {"local": local}, "rung-image-full-seed1": {}, "rung-image-other-seed0": {}}
    monkeypatch.setattr(standings, "ladder", lambda: {"rungs": rows})
    (found,) = standings.divided("image", "full").values()
    # Missed of the affine part: .2 * .1 / .4 and .1 * .5 / .9; of the rest: .2 * .9 / .6 and .1 * .5 / .1.
    assert found.selectivity() == pytest.approx([1 - 0.05 / 0.3, 1 - (0.05 / 0.9) / 0.5])
    assert list(standings.divided("image", "full")) == [0] and standings.divided("image", "other") == {}


def test_states_are_measured_against_the_best_rolled_out_null_of_each_depth(monkeypatch):
    states = {"affine, one step": [0.99, 0.99], "affine, rolled out": [0.5, -0.2], "mean state": [0.0, 0.0]}
    monkeypatch.setattr(standings, "ladder", lambda: {"nulls": {"image-seed0": {"states": states}}})
    assert standings.state_null("image-seed0") == pytest.approx([0.5, 0.0])
    assert standings.state_null_standing("image").seeds == pytest.approx((0.0,))
    about = {"made": {"subject": "image-seed0"}, "judged": {"converged": {"r2": [0.9, 0.7]}, "1": {"diverged": "at 3"}}}
    # Skills .8 and .7.
    assert standings.state_skill(about) == pytest.approx(0.7)
    assert np.isnan(standings.state_skill(about, "1"))


def test_nulls_and_ceilings_over_seeds(monkeypatch):
    both = standings.null_standing("image", "mean map")
    assert both.seeds == pytest.approx((0.5, 0.5)) and both.interval == pytest.approx((0.5, 0.5))
    assert standings.null_standing("image", "mean map", "worst head").mean == pytest.approx(0.4)
    assert standings.null_standing("image", "best").mean == pytest.approx(0.55)
    assert standings.ceiling("image").seeds == (), "no other seed's teacher is known"
    rows = {"one": {"ceiling": {"cosine": [[0.6, 0.8], [0.9, 0.9]], "centred cosine": [[0.1, 0.3], [0.4, 0.4]]}}}
    monkeypatch.setattr(standings, "ladder", lambda: {"nulls": rows})
    assert standings.ceiling("one").mean == pytest.approx(0.7)
    assert standings.ceiling("one", "worst head").mean == pytest.approx(0.6)
    assert standings.ceiling("one", "centred cosine").mean == pytest.approx(0.2)
