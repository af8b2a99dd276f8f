import numpy as np
import pytest

from companion.claims.verdicts import Verdict
from companion.surrogates import ladder, law_evidence, results

NULL = [[0.6, 0.2], [0.5, 0.3]]
STATES = {"mean state": [0.0, 0.0], "affine, rolled out": [0.6, 0.1], "affine, one step": [0.9, 0.9]}


def judged(cosine, r2):
    return {"cosine": cosine, "r2 pooled": r2, "r2 mean over channels": r2, "classes": 0.9}


def made(seed, budget, converged, once=None):
    return {
        "made": {"subject": f"image-seed{seed}", "right-hand sides": 1000 * budget},
        "judged": {"1": once or judged([[0.1, 0.1], [0.1, 0.1]], [0.0, 0.0]), "converged": converged},
    }


def once(seed, steps, cosine):
    made = {"subject": f"image-seed{seed}", "plan": {"steps": steps}}
    return {"made": made, "judged": {"1": {"cosine": cosine}}}


@pytest.fixture(autouse=True)
def records(monkeypatch):
    good = judged([[0.9, 0.8], [0.7, 0.5]], [0.9, 0.7])
    rungs = {f"rung-image-laws-k1-b2-seed{seed}": made(seed, 2, good) for seed in (0, 1, 2)}
    rungs["rung-image-laws-k1-b1-seed0"] = made(0, 1, judged([[0.9, 0.8], [0.3, 0.1]], [0.9, 0.4]))
    rungs["rung-image-laws-k3-b2-seed0"] = made(0, 2, {"diverged": "at t = 3"})
    rungs["rung-image-laws-blocks-b2-seed0"] = made(0, 2, good, judged([[1.0, 0.99], [0.97, 0.99]], [0.99, 0.95]))
    nulls = {f"image-seed{s}": {"attention": {"uniform": NULL}, "states pooled": STATES} for s in (0, 1, 2)}
    laws = {"rungs": rungs, "nulls": nulls}
    for module in (ladder, law_evidence):
        monkeypatch.setattr(module, "law_records", lambda: laws)
    sweep = {f"rung-image-full-k1-one-step-seed{s}": once(s, 900, [[1.0, 0.8], [0.9, 0.9]]) for s in (0, 1, 7)}
    sweep["rung-image-full-k1-one-step-short-seed0"] = once(0, 225, [[0.4, 0.6], [0.7, 0.9]])
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": sweep, "nulls": {}})


def test_states_are_held_against_what_sees_the_embedding_alone():
    assert law_evidence.null_states("image-seed0").tolist() == [0.6, 0.1]
    # By hand: (.9 - .6) / .4 at depth 1, (.7 - .1) / .9 at depth 2.
    about = ladder.records_of("image", "k1", 2)[0]
    assert law_evidence.state_skill(about) == pytest.approx(0.6 / 0.9)
    assert np.isnan(law_evidence.state_skill(ladder.records_of("image", "k3", 2)[0]))


def test_the_last_doubling_gains_a_share_of_what_was_missing():
    # Worst layer: .2 at one budget, .6 at twice it; depth 2: .4, then .7.
    assert ladder.last_gain("image", "k1") == pytest.approx(1 - 0.4 / 0.8)
    assert ladder.last_gain("image", "k1", ladder.R2) == pytest.approx(1 - 0.3 / 0.6)
    assert ladder.last_gain("image", "blocks", resolution="1") == 1.0, "one budget says nothing of a curve"


def test_what_survives_is_the_excess_over_the_nulls_kept_at_the_worst_layer():
    found = law_evidence.survives("image", "k1", 2)
    # By hand: .9 of 1 at layer 1, .4 of 1 at layer 2; seed 2 has no field of one step.
    assert found.seeds == pytest.approx([0.4, 0.4])
    assert law_evidence.survives("image", "k3", 2).seeds == (), "a solution that diverged keeps nothing to be measured"


def test_a_law_stands_by_its_number_skill_gain_and_control():
    found = law_evidence.standing("image", "k1", 2)
    assert found.number.mean == pytest.approx(0.6) and len(found.number.seeds) == 3
    assert found.skill.mean == pytest.approx(1 - 0.8 / 1.2)
    assert (found.gained, found.control) == pytest.approx((0.5, 0.98))
    states = law_evidence.standing("image", "k1", 2, ladder.R2)
    assert (states.number.mean, states.control) == pytest.approx((0.7, 0.95))
    assert states.evidence.skill == pytest.approx(0.6 / 0.9) and states.evidence.seeds
    assert np.isnan(law_evidence.standing("image", "k1", 1).control), "a longer one is no control of a shorter"
    assert law_evidence.standing("image", "k1", 4).control == pytest.approx(0.98), "it would have no less in more"


def test_a_falling_curve_leaves_the_verdict_open_and_a_cleared_bar_is_one_modality():
    teachers = {"image": "image"}
    assert law_evidence.judged(teachers, "k1", 2, ladder.COSINE, 0.98) is Verdict.UNDECIDED
    assert law_evidence.judged(teachers, "k1", 2, ladder.R2, 0.65) is Verdict.IN_PART


def test_the_field_calibrated_with_one_step_stands_as_a_network():
    found = law_evidence.stepped("image")
    assert found.number.seeds == pytest.approx([0.9, 0.9, 0.9])
    # By hand: layer 1 misses .2 of the null's 1.2, layer 2 .2 of 1.2; seed 7 has no nulls.
    assert found.skill.seeds == pytest.approx([1 - 0.2 / 1.2] * 2)
    # .5 is missing at a quarter of the steps, .1 at all: a doubling gains 1 - sqrt(.2).
    assert (found.gained, found.control) == pytest.approx((1 - 0.2**0.5, 0.98))


def test_survival_is_judged_by_what_the_control_has_of_the_same_agreement():
    found = law_evidence.survival("image", "k1", 2)
    assert found.number.seeds == pytest.approx([0.4, 0.4]) and found.gained == pytest.approx(0.5)
    # The control's excess over the nulls: 1.19 of 1 at layer 1, 1.16 of 1 at layer 2.
    assert found.control == pytest.approx(1.16) and found.skill.mean == pytest.approx(1 - 0.8 / 1.2)


def test_the_null_of_states_and_what_a_claim_reads_are_recorded(monkeypatch):
    assert law_evidence.null_mean("image", 2).seeds == pytest.approx([0.1] * 3)
    kept = {}
    monkeypatch.setattr(law_evidence, "record", lambda key, value, **about: kept.update({key: value}))
    monkeypatch.setattr(law_evidence, "record_mean", lambda key, mean, **about: kept.update({key: mean.mean}))
    law_evidence.recorded_for("laws.c1.image", law_evidence.standing("image", "k1", 2))
    expected = {"": 0.6, ".skill": 1 - 0.8 / 1.2, ".gained": 0.5, ".control": 0.98}
    assert kept == pytest.approx({f"laws.c1.image{part}": value for part, value in expected.items()})
