import numpy as np
import pytest

from companion import seeds
from companion.surrogates import results


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Two seeds of one equation whose numbers can be followed by hand."""
    heads = {0: [[0.9, 0.7], [1.0, 0.8]], 1: [[0.8, 0.8], [0.9, 0.9]]}
    specs = {
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
    specs["rung-image-full-no-d-seed0"] = specs["rung-image-full-seed1"]
    nulls = {
        f"image-seed{seed}": {"attention": {"uniform": [[0.5, 0.5], [0.6, 0.6]], "mean map": [[0.4, 0.6]] * 2}}
        for seed in (0, 1)
    }
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": specs, "nulls": nulls})


def test_headlines_are_the_worst_layer_of_the_mean_over_heads():
    first = results.records_of("image", "full")[0]
    assert results.value(first, "converged", "cosine") == pytest.approx(0.8)
    assert results.value(first, "converged", "worst head") == pytest.approx(0.7)
    assert results.value(first, "converged", "r2") == pytest.approx(0.6)
    assert results.value(first, "converged", "classes") == 0.5
    assert results.value(first, "1", "cosine") == pytest.approx(0.9), "a way that keeps means over heads"
    # Best nulls: .5 .6 / .6 .6, so skills .8 .25 / 1 .5.
    assert results.value(first, "converged", "skill") == pytest.approx(0.525)
    assert results.value(first, "converged", "median skill") == pytest.approx(0.65)


def test_what_is_not_known_is_nan_and_unknown_measures_are_named():
    first = results.records_of("image", "full")[0]
    for resolution, measure in (
        ("16", "cosine"),
        ("1", "worst head"),
        ("1", "skill"),
        ("1", "median skill"),
        ("converged", "cka"),
    ):
        assert np.isnan(results.value(first, resolution, measure))
    with pytest.raises(ValueError, match="measure 'kappa' was given"):
        results.value(first, "converged", "kappa")


def test_families_are_told_apart_and_seeds_give_intervals():
    assert sorted(results.records_of("image", "full")) == [0, 1] and list(results.records_of("image", "full-no-d")) == [
        0
    ]
    both = results.seed_mean("image", "full", "r2")
    assert both.seeds == pytest.approx((0.6, 0.7)) and both.interval is not None
    assert both.interval[0] < 0.6 < both.mean < 0.7 < both.interval[1]
    alone = results.seed_mean("image", "full-no-d", "r2")
    assert alone.interval is None and alone.low == alone.mean and both.low == both.interval[0]
    paired = results.difference("image", "full", "full-no-d", "r2")
    assert paired.seeds == pytest.approx((-0.1,)) and str(results.seed_mean("image", "nothing")) == "–"


def test_a_standing_is_shown_to_the_digits_that_it_is_good_for():
    assert str(seeds.over_seeds([0.5, 0.7])) == "0.600 ± 1.271"
    assert str(seeds.over_seeds([0.8441])) == "0.844"
    assert str(seeds.over_seeds([-10.0, -11.0])) == "-10.5 ± 6.4"
    assert str(seeds.over_seeds([-1000.0, -1830.0])) == "-1415 ± 5273"


def test_nulls_by_name_and_the_best_of_each_head():
    assert results.null("image-seed0", "mean map") == pytest.approx(0.5)
    assert results.best_null("image-seed0").tolist() == [[0.5, 0.6], [0.6, 0.6]]


def test_a_divided_error_is_read_by_seed_where_it_is_on_record(monkeypatch):
    local = {"way": "converged", "unmet": [0.2, 0.1], "linear": [0.4, 0.9], "error": [0.1, 0.5]}
    rows = {"rung-image-full-seed0": {"local": local}, "rung-image-full-seed1": {}, "rung-image-other-seed0": {}}
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": rows})
    (found,) = results.split_of_error("image", "full").values()
    # Missed of the affine part: .2 * .1 / .4 and .1 * .5 / .9; of the rest: .2 * .9 / .6 and .1 * .5 / .1.
    assert found.selectivity() == pytest.approx([1 - 0.05 / 0.3, 1 - (0.05 / 0.9) / 0.5])
    assert list(results.split_of_error("image", "full")) == [0] and results.split_of_error("image", "other") == {}


def test_states_are_measured_against_the_best_rolled_out_null_of_each_depth(monkeypatch):
    states = {"affine, one step": [0.99, 0.99], "affine, rolled out": [0.5, -0.2], "mean state": [0.0, 0.0]}
    monkeypatch.setattr(results, "sweep_records", lambda: {"nulls": {"image-seed0": {"states": states}}})
    assert results.state_null("image-seed0") == pytest.approx([0.5, 0.0])
    assert results.state_null_seed_mean("image").seeds == pytest.approx((0.0,))
    about = {"made": {"subject": "image-seed0"}, "judged": {"converged": {"r2": [0.9, 0.7]}, "1": {"diverged": "at 3"}}}
    # Skills .8 and .7.
    assert results.state_skill(about) == pytest.approx(0.7)
    assert np.isnan(results.state_skill(about, "1"))


def test_nulls_and_ceilings_over_seeds(monkeypatch):
    both = results.null_seed_mean("image", "mean map")
    assert both.seeds == pytest.approx((0.5, 0.5)) and both.interval == pytest.approx((0.5, 0.5))
    assert results.null_seed_mean("image", "mean map", "worst head").mean == pytest.approx(0.4)
    assert results.null_seed_mean("image", "best").mean == pytest.approx(0.55)
    assert results.ceiling("image").seeds == (), "no other seed's teacher is known"
    rows = {"one": {"ceiling": {"cosine": [[0.6, 0.8], [0.9, 0.9]], "centred cosine": [[0.1, 0.3], [0.4, 0.4]]}}}
    monkeypatch.setattr(results, "sweep_records", lambda: {"nulls": rows})
    assert results.ceiling("one").mean == pytest.approx(0.7)
    assert results.ceiling("one", "worst head").mean == pytest.approx(0.6)
    assert results.ceiling("one", "centred cosine").mean == pytest.approx(0.2)
