import numpy as np
import pytest

from companion.claims.register import EQUIVALENT
from companion.seeds import SeedMean
from companion.surrogates import diffusion_twins, laws, results
from companion.surrogates.specs import DIFFUSIVITIES


def paired(low, high):
    return SeedMean((low + high) / 2, (low, high), (low, high))


@pytest.mark.parametrize(
    ("ends", "margin", "expected"),
    [
        ((-0.005, 0.009), 0.01, "no effect within the margin"),
        ((0.001, 0.01), 0.01, "no effect within the margin"),
        ((-0.01, -0.001), 0.01, "no effect within the margin"),
        ((0.001, 0.0101), 0.01, "raises it"),
        ((-0.0101, -0.001), 0.01, "lowers it"),
        ((-0.001, 0.0101), 0.01, "undecided"),
        ((-0.0101, 0.001), 0.01, "undecided"),
        ((-0.001, 0.001), None, "zero in its interval"),
        ((0.001, 0.002), None, "raises it"),
        ((-0.002, -0.001), None, "lowers it"),
    ],
)
def test_a_difference_is_read_by_its_interval_and_the_margin(ends, margin, expected):
    assert diffusion_twins.reading(paired(*ends), margin) == expected


def test_one_seed_says_nothing():
    assert diffusion_twins.reading(SeedMean(0.5, None, (0.5,))) == "one seed"


def equation(cosine, channels=(), velocity=0.0):
    learnt = {"diffusivity": {"channels": list(channels)}, "velocity": {"mean": [velocity, -3 * velocity]}}
    judged = {"converged": {"cosine": [[cosine]], "r2": [cosine / 2]}}
    return {"made": {"subject": "image"}, "judged": judged, "learnt": learnt}


@pytest.fixture
def rungs(monkeypatch):
    found = {f"rung-image-fixed-d{value:g}-seed0": equation(1 - value) for value in DIFFUSIVITIES}
    found |= {
        "rung-image-full-k1-seed0": equation(0.8, (0.001, 0.03, 0.2)),
        "rung-image-full-k1-seed1": equation(0.6, (0.001, 0.002, 0.3)),
        "rung-image-full-k1-advection-seed0": equation(0.8, velocity=0.25),
        "rung-image-alone-seed0": equation(0.8),
    }
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": found})


def test_profiles_follow_the_diffusivities(rungs):
    found = diffusion_twins.profile("image", "cosine")
    assert [one.mean for one in found] == pytest.approx([0.98, 0.95, 0.9, 0.8, 0.6])
    assert diffusion_twins.spread("image", "cosine") == pytest.approx(0.2 / 2**0.5)
    assert diffusion_twins.spread("image", "r2") == pytest.approx(0.1 / 2**0.5)
    assert diffusion_twins.spread("image", "cosine", "alone") == 0


def test_what_was_learnt_is_over_channels_and_then_seeds(rungs):
    found = diffusion_twins.learnt("image", initial=0.05)
    assert found["mean"].seeds == pytest.approx((0.231 / 3, 0.303 / 3))
    assert found["largest"].seeds == pytest.approx((0.2, 0.3))
    assert found["small"].seeds == pytest.approx((1 / 3, 2 / 3))
    assert found["velocity"].mean == pytest.approx(0.5)
    assert list(diffusion_twins.channels("image")) == [0, 1]


def test_controls_of_the_ladders_recipe_come_before_older_ones(monkeypatch):
    old, new = {"of": "old"}, {"of": "new"}
    known = {"power": {"equation": old, f"equation-b{laws.MAIN_BUDGET}": new, "layers": old}}
    monkeypatch.setattr(diffusion_twins, "sweep_records", lambda: known)
    assert diffusion_twins.control("equation") is new and diffusion_twins.control("layers") is old
    assert diffusion_twins.control("no-diffusion") is None


def test_a_controls_numbers_are_the_worst_layers():
    about = {
        "cosine": [[0.9, 0.7], [0.6, 0.8]],
        "nulls": {"uniform": [[0.5, 0.2], [0.2, 0.5]], "mean map": [[0.4, 0.4], [0.6, 0.2]]},
        "r2": [0.9, 0.3],
        "diffusivity": [0.11, 0.19],
        "true diffusivity": [0.1, 0.2],
    }
    found = diffusion_twins.of_control(about)
    # Best nulls .5 .4 / .6 .5, so skills .8 .5 / 0 .6.
    wanted = {"cosine": 0.7, "null": 0.45, "skill": 0.3, "r2": 0.3, "diffusivity": 0.1}
    assert found == pytest.approx(wanted)
    newer = {key: value for key, value in about.items() if key != "r2"} | {"r2 mean over channels": [0.4, 0.5]}
    assert diffusion_twins.of_control(newer)["r2"] == 0.4
    assert "diffusivity" not in diffusion_twins.of_control(about | {"diffusivity": []})
    assert "diffusivity" not in diffusion_twins.of_control(about | {"true diffusivity": []})


def test_twins_are_blind_where_attention_stands_in():
    def reaching(value):
        return {"cosine": np.full((2, 2), value).tolist()}

    whole = reaching(0.99)
    assert "not been calibrated" in diffusion_twins.blindness(whole, None)
    assert "not been calibrated" in diffusion_twins.blindness(None, whole)
    assert "twins are blind" in diffusion_twins.blindness(whole, reaching(0.99 - EQUIVALENT / 2))
    assert "falls short of" in diffusion_twins.blindness(whole, reaching(0.99 - 2 * EQUIVALENT))
    assert "falls short of the full equation by 0.190" in diffusion_twins.blindness(whole, reaching(0.8))
