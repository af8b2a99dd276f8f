import numpy as np
import pytest

from companion.surrogates import comparison_nulls, proportion_ladder, results
from companion.surrogates.specs import TEACHERS
from companion.teachers.teacher import cached_teacher

TEACHER = TEACHERS["image"]
HEADS = {0: [[0.9, 0.7], [1.0, 0.97]], 1: [[0.8, 0.8], [0.5, 0.9]]}
BEST = {0: [[0.5, 0.5], [0.6, 0.98]], 1: [[0.5, 0.5], [0.6, 0.6]]}


def rung(teacher, seed, cosines, steps=600):
    return {
        "made": {"subject": f"{teacher}-seed{seed}", "plan": {"steps": steps}},
        "judged": {"converged": {"cosine": cosines, "r2": [0.9, 0.5]}, "1": {"cosine": [0.9, 0.8]}},
    }


@pytest.fixture
def known(monkeypatch):
    """Two seeds of one equation by hand, calibrated at three lengths."""
    rungs = {}
    for seed, heads in HEADS.items():
        rungs[f"rung-{TEACHER}-full-k1-short-seed{seed}"] = rung(TEACHER, seed, [[0.6, 0.6], [0.8, 0.8]])
        rungs[f"rung-{TEACHER}-full-k1-seed{seed}"] = rung(TEACHER, seed, heads, 2400)
    rungs[f"rung-{TEACHER}-full-k1-long-seed0"] = rung(TEACHER, 0, [[0.9, 0.9], [1.0, 1.0]], 9600)
    rungs[f"rung-{TEACHER}-full-k2-seed0"] = rung(TEACHER, 0, HEADS[0])
    rungs["rung-other-full-k1-seed0"] = rung("other", 0, HEADS[0])
    # What is on record lacks the nearest neighbours, which are the best of each head here.
    nulls = {f"{TEACHER}-seed{seed}": {"attention": {"uniform": [[0.1, 0.1]] * 2}} for seed in HEADS}
    nulls["other-seed0"] = {"attention": {"uniform": [[0.7, 0.5], [0.0, 0.0]]}}
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": rungs, "nulls": nulls})
    monkeypatch.setattr(comparison_nulls, "best", lambda name: np.array(BEST[int(name[-1])]))


@pytest.fixture(scope="module")
def ladder():
    models = {m: cached_teacher(f"{t}-seed0") for m, t in TEACHERS.items()}
    return models, proportion_ladder.hypotheses(models)


@pytest.mark.parametrize(("family", "modes"), [("full-k1", 1), ("full-k2", 2), ("full-k3", 3)])
def test_the_full_equation_has_and_costs_what_the_proposition_says(ladder, family, modes):
    models, found = ladder
    width = models["image"].width
    share = modes / models["image"].layers * (12 * width + 10) / (12 * width + 13)
    assert found[family].share == pytest.approx(share) and found[family].modes == str(modes)
    for modality, dims in (("image", 2), ("text", 1)):
        tokens = proportion_ladder.tokens(models[modality])
        ratio = 1 + (2 * dims + 1) / (12 * models[modality].width + 2 * tokens)
        assert found[family].operations[modality] == pytest.approx(ratio)


def test_the_ladder_is_counted_from_what_each_hypothesis_is(ladder):
    models, found = ladder
    assert list(found) == list(proportion_ladder.NAMES)
    # One number a channel; two more with a velocity on the grid.
    assert found["diffusion"].parameters == models["image"].width
    assert found["advection-diffusion"].parameters == 3 * models["image"].width
    assert found["full-k1"].parameters - found["no-diffusion-k1"].parameters == models["image"].width
    assert {name for name, one in found.items() if not one.attends} == {
        "diffusion",
        "advection-diffusion",
        "residual",
        "diffusion-residual",
    }
    assert found["narrow-k1"].modes == "–" and found["narrow-k1"].parameters <= found["full-k1"].parameters
    assert found["full-k1"].equation == "∂u/∂t = D Δu + W A(u) V n(u) + R(n(u))"


def test_an_equation_is_short_beside_the_main_one(known):
    assert proportion_ladder.steps(TEACHER, "full-k1") == 2400
    assert proportion_ladder.is_short(TEACHER, "full-k2") and not proportion_ladder.is_short(TEACHER, "full-k1")


def test_skill_is_pooled_over_heads_then_the_worst_layer(known):
    # Missing of what the nulls miss: .4 of 1, .03 of .42; .4 of 1, .6 of .8.
    skills = proportion_ladder.skills(TEACHER, "full-k1")
    assert skills[0] == pytest.approx([0.6, 1 - 0.03 / 0.42]) and skills[1] == pytest.approx([0.6, 0.25])
    assert proportion_ladder.by_seed(TEACHER, "full-k1", "pooled skill") == pytest.approx({0: 0.6, 1: 0.25})
    assert proportion_ladder.by_seed(TEACHER, "full-k1", "r2") == {0: 0.5, 1: 0.5}
    found = proportion_ladder.measured(TEACHER, "full-k1", "pooled skill")
    assert found.mean == pytest.approx(0.425) and found.interval is not None
    assert proportion_ladder.measured(TEACHER, "full-k1", "cosine", "1").seeds == pytest.approx((0.8, 0.8))


def test_a_model_without_seeds_is_held_against_the_nulls_on_record(known):
    assert proportion_ladder.skills("other", "full-k1")[0] == pytest.approx([0.5, 1 - 0.03 / 2])


def test_a_doubling_gains_as_the_power_law_through_two_lengths_does(known):
    # Missing at the worst layer: .4 and .4, then .2 and .3 after four times the steps, which are two doublings; the
    # first seed alone goes on to .1, after as many again.
    assert proportion_ladder.gained(TEACHER, "full-k1-short") == pytest.approx(1 - np.sqrt(0.5 / 0.8))
    for family in ("full-k1", "full-k1-long"):
        assert proportion_ladder.gained(TEACHER, family) == pytest.approx(1 - np.sqrt(0.1 / 0.2))
    assert proportion_ladder.gained(TEACHER, "full-k1-short", "r2") == pytest.approx(0.0)


def test_nothing_says_that_the_only_length_is_the_last(known):
    assert proportion_ladder.gained(TEACHER, "full-k2") == 1.0
