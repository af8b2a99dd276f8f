import numpy as np
import pytest

from companion.claims.verdicts import Claim, Verdict
from companion.surrogates import comparison_nulls, results, solution_verdicts
from companion.surrogates.specs import TEACHERS

GOOD = {"cosine": [[0.99, 0.99], [0.985, 0.985]], "head mean": [0.99, 0.99], "r2": [0.97, 0.95]}
SHORT = {"cosine": [[0.9, 0.9], [0.8, 0.8]], "head mean": [0.9, 0.85], "r2": [0.7, 0.6]}


def record(teacher, judged, steps=1800):
    about = {"subject": teacher, "plan": {"steps": steps}}
    return {"made": about, "judged": {"converged": judged, "1": judged}}


@pytest.fixture
def rungs(monkeypatch):
    """Give two seeds each of an equation that falls short and of a control that does not; nulls of .5."""
    found, nulls = {}, {}
    for teacher in TEACHERS.values():
        for seed in (0, 1):
            name = f"{teacher}-seed{seed}"
            found[f"rung-{teacher}-law-seed{seed}"] = record(name, SHORT)
            found[f"rung-{teacher}-good-seed{seed}"] = record(name, GOOD)
            nulls[name] = {
                "attention": {"uniform": [[0.5, 0.5], [0.5, 0.5]]},
                "states": {"mean state": [0.0, 0.2], "affine, one step": [0.99, 0.99]},
            }
        found[f"rung-{teacher}-unshared-one-step-seed0"] = record(f"{teacher}-seed0", GOOD)
    known = {"rungs": found, "nulls": nulls}
    monkeypatch.setattr(results, "sweep_records", lambda: known)
    monkeypatch.setattr(comparison_nulls, "looked_up", lambda teacher: None)
    return found


def lengths(rungs, short, long):
    """Add calibrations of a third and of three times the steps, of these cosines in every head."""
    for teacher in TEACHERS.values():
        for ending, steps, value in (("-short", 600, short), ("-long", 5400, long)):
            judged = {**SHORT, "cosine": np.full((2, 2), value)}
            rungs[f"rung-{teacher}-law{ending}-seed0"] = record(f"{teacher}-seed0", judged, steps)


def test_curves_go_by_steps(rungs):
    assert solution_verdicts.learning_curve("image-patch4", "law", "cosine") == pytest.approx({1800: 0.8})
    lengths(rungs, 0.6, 0.9)
    found = solution_verdicts.learning_curve("image-patch4", "law", "cosine")
    assert list(found) == [600, 1800, 5400] and list(found.values()) == pytest.approx([0.6, 0.8, 0.9])
    # Tripled, .2 becomes .1; doubled, it becomes .2 / 2^(log 2 / log 3).
    assert solution_verdicts.gained(found) == pytest.approx(1 - 0.5 ** (np.log(2) / np.log(3)))


def test_one_length_says_nothing_of_flatness():
    assert solution_verdicts.gained({1800: 0.8}) == 1.0
    assert solution_verdicts.gained({1800: 0.8, 5400: 0.8}) == 0.0


def test_a_budget_is_the_last_gain_and_what_the_same_architecture_reaches(rungs):
    lengths(rungs, 0.6, 0.9)
    found = solution_verdicts.budget("image-patch4", "law")
    assert found == pytest.approx({"gained": 1 - 0.5 ** (np.log(2) / np.log(3)), "control": 0.985})


def test_the_pages_claims_read_its_own_records():
    found = solution_verdicts.claim_of("c2b")
    assert found.bar == 0.98 and solution_verdicts.claim_of("c2").bar == 0.9
    records = {f"c2b.{m}": {"value": 0.99, "interval": [0.985, 0.995]} for m in TEACHERS}
    records |= {f"c2b.{m}.skill": {"value": 0.9} for m in TEACHERS}
    records |= {
        f"c2b.{m}.{part}": {"value": value} for m in TEACHERS for part, value in (("gained", 0.2), ("control", 1))
    }
    assert found.verdict(records) == Verdict.REPRODUCED
    records["c2b.text"]["interval"][0] = records["c2b.image"]["interval"][0] = 0.97
    assert found.verdict(records) == Verdict.UNDECIDED
    nulls = {f"c2b.null.{m}": {"value": 0.99} for m in TEACHERS}
    assert found.null_verdicts(nulls) == {"trained models": Verdict.REPRODUCED}


def test_the_verdict_waits_for_a_flat_curve(rungs):
    assert solution_verdicts.judged("c2b", "law", 0.98) == Verdict.UNDECIDED, "one length"
    lengths(rungs, 0.6, 0.9)
    assert solution_verdicts.judged("c2b", "law", 0.98) == Verdict.UNDECIDED, "it rises"
    lengths(rungs, 0.79, 0.801)
    assert solution_verdicts.judged("c2b", "law", 0.98) == Verdict.NOT_REPRODUCED
    for teacher in TEACHERS.values():
        rungs[f"rung-{teacher}-unshared-one-step-seed0"] = record(f"{teacher}-seed0", SHORT)
    assert solution_verdicts.judged("c2b", "law", 0.98) == Verdict.UNDECIDED, "no student gets there"
    assert solution_verdicts.judged("c2b", "good", 0.98) == Verdict.REPRODUCED
    assert solution_verdicts.judged("c2", "good", 0.96) != Verdict.REPRODUCED


def test_evidence_has_its_parts_by_modality(rungs):
    found = solution_verdicts.evidence("c2", "law")
    assert list(found) == list(TEACHERS) and list(found["image"]) == ["r2", "state skill"]
    assert found["text"]["r2"].mean == pytest.approx(0.6)
    # Against the best null that sees the embedding alone: .7 of 1 and .4 of .8 at the second depth.
    assert found["text"]["state skill"].mean == pytest.approx(0.5)
    assert solution_verdicts.evidence("c2b", "law")["image"]["skill"].mean == pytest.approx(0.6)
    assert solution_verdicts.control("image-patch4", "cosine") == pytest.approx(0.985)
    assert solution_verdicts.control("image-patch4", "r2") == pytest.approx(0.95)


def test_a_head_that_needs_no_equation_does_not_decide_the_skill(rungs):
    known = results.sweep_records()["nulls"]
    for name in known:
        known[name]["attention"]["uniform"] = [[0.99, 0.5], [0.5, 0.5]]
    # Shortfalls of the first layer: .1 and .1 against .01 and .5; by head the mean would be far below zero.
    found = solution_verdicts.evidence("c2b", "law")["image"]["skill"]
    assert found.mean == pytest.approx(min(1 - 0.2 / 0.51, 0.6)) and len(found.seeds) == 2


def test_what_survives_is_a_share_of_the_lead_over_the_null(rungs):
    for seed in (0, 1):
        about = rungs[f"rung-image-patch4-law-seed{seed}"]
        about["judged"] = {"1": {**SHORT, "cosine": [[0.9, 0.9], [0.9, 0.9]]}, "converged": SHORT}
    assert solution_verdicts.survives("image-patch4", "law", 0.5) == pytest.approx(0.75)
    assert solution_verdicts.survives("image-patch4", "law", 0.85) == pytest.approx(-1.0)


def test_a_short_calibration_is_a_failure_where_no_budget_counts():
    claim = Claim("C", "", "", bar=0.98, budget=True, readings={"": {"image": "c.image"}})
    known = {"c.image": {"value": 0.9, "interval": [0.8, 0.95]}, "c.image.skill": {"value": 0.9}}
    known |= {"c.image.gained": {"value": 0.3}, "c.image.control": {"value": 0.99}}
    assert claim.verdict(known) == Verdict.UNDECIDED
    assert solution_verdicts.without_budget(claim, known) == Verdict.NOT_REPRODUCED


def test_depths_are_means_over_seeds(rungs):
    rungs["rung-image-patch4-law-seed1"] = record("image-patch4-seed1", {**SHORT, "r2": [0.9, 0.4]})
    found = solution_verdicts.by_depth("image-patch4", "r2", "law")
    assert found == pytest.approx([0.8, 0.5])
    assert solution_verdicts.by_depth("image-patch4", "cka", "law") is None
    assert solution_verdicts.null_by_depth("image-patch4", "mean state") == pytest.approx([0.0, 0.2])
