from dataclasses import asdict, replace

import pytest

from companion.surrogates import schedules
from companion.surrogates.specs import ENTRY, ONE_STEP, REFINED, SCHEDULES
from pdelens.pde.plan import Plan


def sides(plan: Plan) -> float:
    return schedules.right_hand_sides(asdict(plan), layers=6)


def test_right_hand_sides_are_those_of_a_roll_out():
    assert sides(ONE_STEP) == 6
    assert sides(replace(ONE_STEP, method="heun")) == 12 and sides(replace(ONE_STEP, method="rk4")) == 24
    assert sides(replace(ONE_STEP, substeps=(1, 3))) == 12
    # One and two sub-steps a layer.
    assert sides(replace(ONE_STEP, refinement=1.0)) == 18
    # (4 + 5 x 1.5) sub-steps of two stages; the last quarter twice as many.
    assert sides(REFINED) == pytest.approx(2 * 11.5 * 1.25)
    # Three entry times make nine parts of 1.5 sub-steps.
    assert sides(ENTRY) == pytest.approx(2 * 9 * 1.5 * 1.25)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (ONE_STEP, "Lie, 1 a layer"),
        (replace(ONE_STEP, **SCHEDULES["random"]), "Lie, 1 to 3 a layer"),
        (replace(ONE_STEP, **SCHEDULES["penalty"]), "Lie, 1 a layer; penalty"),
        (ENTRY, "Heun, 1 to 2 a layer, crowded at the entry; forced, doubled"),
    ],
)
def test_plans_are_told_in_words(plan, text):
    assert schedules.describe(asdict(plan), layers=6) == text
