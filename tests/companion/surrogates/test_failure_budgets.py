import pytest

from companion.claims.verdicts import Verdict
from companion.seeds import over_seeds
from companion.surrogates import failure_budgets, ladder, results
from companion.surrogates.specs import TEACHERS

IMAGE, TEXT = TEACHERS.values()
PLAN = {"substeps": 1, "graded": [[3, 5], [1, 2]], "entry": [], "method": "heun", "doubled": 0.25, "refinement": 0.0}


def of_budget(teacher, pooled, alike, sides=1000):
    states = {"r2 pooled": pooled, "r2 mean over channels": alike}
    single = {"r2 pooled": [0.99, 0.98], "r2 mean over channels": [0.97, 0.96]}
    about = {"subject": teacher, "right-hand sides": sides}
    return {"made": about, "judged": {"converged": states, "1": single}}


def of_steps(steps, r2):
    return {"made": {"plan": PLAN | {"steps": steps, "batch": 16}}, "judged": {"converged": {"r2": r2}}}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Laws of two seeds at two budgets, and one equation at three lengths, whose numbers can be followed by hand."""
    laws, sweep = {}, {}
    for teacher in (IMAGE, TEXT):
        laws[f"rung-{teacher}-laws-k1-b1-seed0"] = of_budget(f"{teacher}-seed0", [0.8, 0.7], [0.6, 0.65])
        laws[f"rung-{teacher}-laws-k1-b2-seed0"] = of_budget(f"{teacher}-seed0", [0.9, 0.8], [0.7, 0.75], 2000)
        laws[f"rung-{teacher}-laws-k1-b2-seed1"] = of_budget(f"{teacher}-seed1", [0.6, 0.9], [0.5, 0.55], 2000)
        laws[f"rung-{teacher}-laws-blocks-b1-seed0"] = of_budget(f"{teacher}-seed0", [0.1, 0.1], [0.1, 0.1])
        for ending, steps, worst in (("-short", 600, 0.2), ("", 2400, 0.8), ("-long", 9600, 0.95)):
            sweep[f"rung-{teacher}-full-k1{ending}-seed0"] = of_steps(steps, [0.99, worst])
        sweep[f"rung-{teacher}-full-k1-seed1"] = of_steps(2400, [0.7, 0.9])
    monkeypatch.setattr(ladder, "law_records", lambda: {"rungs": laws})
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": sweep})
    return sweep


def test_a_law_misses_its_worst_depths_share_in_either_norm():
    assert failure_budgets.missed_at(IMAGE, "k1", 1).seeds == pytest.approx([0.3])
    assert failure_budgets.missed_at(IMAGE, "k1", 2).seeds == pytest.approx([0.2, 0.4])
    assert failure_budgets.missed_at(IMAGE, "k1", 2, "each channel alike").mean == pytest.approx((0.3 + 0.5) / 2)
    assert failure_budgets.missed_at(IMAGE, "k3", 2).seeds == (), "not yet calibrated"


def test_the_teachers_own_layers_are_judged_at_one_step_each():
    assert failure_budgets.missed_at(IMAGE, "blocks", 1).mean == pytest.approx(0.02)
    assert failure_budgets.control(TEXT) == pytest.approx(0.02)
    assert failure_budgets.control(TEXT, "each channel alike") == pytest.approx(0.04)


def test_what_calibrations_spent():
    assert failure_budgets.spent(IMAGE, "k1", 2) == 2000
    # 4 and 1.5 Heun steps of two stages, a quarter of them doubled, in two layers.
    assert failure_budgets.sides_of(IMAGE) == pytest.approx(2 * (4 + 1.5) * 1.25 * 2400 * 16)


def test_what_more_steps_gain():
    assert failure_budgets.missed_by_steps(IMAGE) == pytest.approx({600: 0.8, 2400: 0.2, 9600: 0.05})
    # A quarter in four times the steps is half in twice as many.
    assert failure_budgets.last_doubling(IMAGE) == pytest.approx(0.5)
    assert failure_budgets.missed(IMAGE, "full-k1").seeds == pytest.approx([0.2, 0.3])


def flatten(sweep, teacher):
    sweep[f"rung-{teacher}-full-k1-long-seed0"] = of_steps(9600, [0.99, 0.81])


FAR, NEAR = over_seeds([0.2, 0.21, 0.22]), over_seeds([0.03, 0.031, 0.032])
SELECTIVE, BLIND = over_seeds([0.8, 0.8, 0.81]), over_seeds([0.2, 0.2, 0.21])
BAR = 0.0396


def judged(image, text, **how):
    return failure_budgets.judged({"image": image, "text": text}, BAR, **how)


def test_a_limit_counts_only_where_the_curve_is_flat(known):
    assert judged((FAR, SELECTIVE), (FAR, SELECTIVE)) == Verdict.UNDECIDED
    assert judged((FAR, SELECTIVE), (FAR, SELECTIVE), budget=False) == Verdict.REPRODUCED
    flatten(known, IMAGE)
    assert judged((FAR, SELECTIVE), (FAR, SELECTIVE)) == Verdict.IN_PART
    assert judged((FAR, BLIND), (FAR, SELECTIVE)) == Verdict.UNDECIDED
    flatten(known, TEXT)
    assert judged((FAR, SELECTIVE), (FAR, SELECTIVE)) == Verdict.REPRODUCED
    assert judged((FAR, SELECTIVE), (FAR, SELECTIVE), family="full-k3") == Verdict.UNDECIDED, "of one length"


def test_nor_where_the_teachers_own_layers_miss_as_much(known):
    for teacher in (IMAGE, TEXT):
        flatten(known, teacher)
    both = (FAR, SELECTIVE), (FAR, SELECTIVE)
    assert judged(*both, norm="each channel alike") == Verdict.UNDECIDED, "they miss .04"
    assert judged(*both) == Verdict.REPRODUCED


def test_one_seed_earns_a_part_and_what_is_allowed_earns_nothing(known):
    for teacher in (IMAGE, TEXT):
        flatten(known, teacher)
    one = over_seeds([0.2]), over_seeds([0.8])
    assert judged(one, one) == Verdict.IN_PART
    assert judged((NEAR, SELECTIVE), (NEAR, SELECTIVE)) == Verdict.NOT_REPRODUCED
    # The interval's bad end decides: .21 +- .13 reaches below the bar, as does a selectivity of .65 +- .35 below half.
    wide = over_seeds([0.05, 0.21, 0.37])
    assert judged((wide, SELECTIVE), (wide, SELECTIVE)) == Verdict.NOT_REPRODUCED
    unsure = over_seeds([0.45, 0.65, 0.85])
    assert judged((FAR, unsure), (FAR, unsure)) == Verdict.NOT_REPRODUCED
