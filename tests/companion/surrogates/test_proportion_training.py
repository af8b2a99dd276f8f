import json

import numpy as np
import pytest

import companion
from companion.seeds import over_seeds
from companion.surrogates import costs, files, proportion_goals, proportion_training, results
from companion.surrogates.proportion_goals import GOALS, PRETRAINED_GOALS
from companion.surrogates.specs import TEACHERS
from companion.teachers.teacher import cached_teacher
from pdelens import integrate

CURVE = [[100, 9.0, 4.0], [700, 9.0, 2.5], [900, 9.0, 1.5], [1000, 9.0, 1.0]]


@pytest.fixture
def recorded(project_copy):
    """Open a chapter and give what it recorded, without its `much.`."""
    companion.start_chapter("10-test")

    def values():
        whole = json.loads((project_copy / "data/results/10-test.json").read_text())["records"]
        return {key.removeprefix("much."): entry["value"] for key, entry in whole.items()}

    return values


@pytest.fixture
def known(monkeypatch):
    """Every equation in two seeds: a number for each family, the second seed's .1 higher."""
    families = {*proportion_training.SUPERVISIONS, *proportion_training.TRIED.values(), *proportion_training.MAIN}
    families |= {*proportion_training.MINILM, "full-k1-short"}
    plan = {"steps": 1000, "batch": 16}
    rungs = {}
    for teacher in (*TEACHERS.values(), "minilm"):
        for number, family in enumerate(sorted(families)):
            for seed in (0, 1):
                value = number / 100 + seed / 10
                way = {"cosine": [[value] * 2] * 2, "centred cosine": [[value] * 2] * 2, "r2": [value]}
                way |= {"classes": value, "accuracy": value}
                rungs[f"rung-{teacher}-{family}-seed{seed}"] = {
                    "made": {
                        "subject": teacher,
                        "plan": plan,
                        "seconds": 60 * (number + 1),
                        "share": 0.25,
                        "curve": CURVE,
                        "best": 0.5,
                    },
                    "judged": {"converged": way, "1": {"cosine": [value, value]}},
                }
    nulls = {"minilm": {"attention": {"uniform": [[0.2, 0.9], [0.6, 0.4]]}}}
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": rungs, "nulls": nulls})
    return {family: number / 100 + 0.05 for number, family in enumerate(sorted(families))}


def test_what_the_loss_asked_for_stands_beside_the_best_null(recorded, known):
    floor = {"cosine": 0.1, "r2": 0.2, "classes": 0.3, "accuracy": 0.4}
    rows = proportion_training.supervision_rows(dict.fromkeys(TEACHERS, floor))
    assert rows[4] == ["image", "*best null*", "0.100", "–", "0.200", "0.300", "0.400"] and len(rows) == 10
    mean = known["full-k1-labels"]
    assert rows[3][:3] == ["image", "labels alone", f"{mean:.3f} ± 0.635"]
    assert recorded()["supervision.text.full-k1-labels.accuracy"] == pytest.approx(mean)


def test_the_last_fifth_of_a_calibration_by_hand(recorded, known):
    rows, curves = proportion_training.budget_rows()
    # At 800 of 1,000 steps the loss is 2, half-way from 2.5 to 1.5, and then falls to 1.
    assert recorded()["image.full-k1.late"] == pytest.approx(0.5)
    minutes = recorded()["text.full-k3.minutes"]
    assert minutes == 1 + sorted(known).index("full-k3")
    assert rows[1] == ["image", "full, K = 3", "2", "1,000 x 16", f"{minutes:.0f}", "0.500 ± 0.000", "50.0%"]
    assert np.array_equal(curves["text"]["full, K = 3"][1], CURVE)


def test_what_was_tried_is_a_change_from_the_short_equation(recorded, known):
    first, *rows = proportion_training.tried_rows()
    assert first[0] == "*full, K = 1, short*" and first[1] == first[4] == f"{known['full-k1-short']:.3f} ± 0.635"
    change = known["full-k1-rk4"] - known["full-k1-short"]
    row = next(row for row in rows if row[0].startswith("RK4"))
    assert row[1].startswith(f"{change:+.3f} ±") and len(rows) == len(proportion_training.TRIED)
    assert recorded()["tried.text.full-k1-rk4.r2.change"] == pytest.approx(change)
    assert recorded()["tried.minutes"] == 1 + max(
        sorted(known).index(family) for family in proportion_training.TRIED.values()
    )


def test_every_goal_is_shown_with_its_verdict_and_verdicts_are_counted(recorded, monkeypatch):
    def measured(teacher, family, measure, resolution):
        high = family == "full-k1" and measure != "worst head"
        return over_seeds([0.995, 0.995] if high else [0.5, 0.5])

    monkeypatch.setattr(proportion_goals, "measured", measured)
    monkeypatch.setattr(proportion_goals, "gained", lambda *_: 1.0)
    rows = proportion_training.goal_rows()
    assert rows[2] == ["cosine", "1", "0.98", "0.995 ± 0.000", "0.995 ± 0.000", "reproduced"]
    assert rows[-1] == ["MiniLM: cosine", "up to 3", "0.95", "–", "0.500 ± 0.000", "undecided (budget)"]
    found, met = recorded(), sum(goal.family == "full-k1" and goal.what != "worst head" for goal in GOALS)
    assert (found["goals"], found["goals.met"], found["goals.part"]) == (len(rows), met, 0)
    assert found["goals.open"] == len(GOALS) + len(PRETRAINED_GOALS) - met


def test_the_pretrained_models_equations_have_their_share_and_no_classes(recorded, known):
    rows = proportion_training.minilm_rows()
    mean = known["full-k1"]
    assert rows[0][:4] == ["full, K = 1", "25.0%", f"{mean:.3f} ± 0.635", f"{mean:.3f} ± 0.635"]
    assert {len(row) for row in rows} == {7}
    # Missing of what the nulls lack: the first layer's lack .9, the second's 1.
    skill = 1 - 2 * (1 - mean) / 0.9
    assert recorded()["table.minilm.full-k1.pooled-skill"] == pytest.approx(skill)
    assert recorded()["minilm.null.flattest"] == 0.9 and rows[-1][3] == "0.500"


@pytest.mark.replay
def test_right_hand_sides_operations_and_what_is_reached(monkeypatch):
    found = {}
    monkeypatch.setattr(proportion_training, "recorded", lambda key, value, *_, **__: found.setdefault(key, value))
    teacher = cached_teacher("image-patch4-seed0")
    rows = proportion_training.evaluation_rows({"image": teacher}, 2)
    assert [row[1] for row in rows] == list(proportion_training.SOLVED.values())
    pde, _ = files.load("rung-image-patch4-full-k1-seed0")
    reference, number, plain = teacher.of("heldout", 2), [], pde.total
    object.__setattr__(pde, "total", lambda *given: number.append(1) or plain(*given))
    flow = integrate(pde, reference.states[0], method="dopri5", rtol=1e-3, atol=1e-3)
    assert found["sides.image.full-k1.1e-03"] == len(number)
    width, tokens = teacher.width, reference.states[0].shape[1]
    each = (1 + 5 / (12 * width + 2 * tokens)) / teacher.layers
    assert found["sides.image.full-k1.1e-03.operations"] == pytest.approx(each * len(number), rel=1e-6)
    layers = []
    for ours, theirs in zip(flow.attention, reference.attention, strict=True):
        a, b = ours.flatten(2), theirs.flatten(2)
        layers.append(float(((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean()))
    assert found["sides.image.full-k1.1e-03.cosine"] == pytest.approx(min(layers), abs=1e-4)
    assert rows[0][2:] == [
        f"{found['sides.image.full-k1.1e-06']:.0f}",
        f"{found['sides.image.full-k1.1e-06.operations']:.0f}",
        str(len(number)),
        f"{each * len(number):.0f}",
        f"{min(layers):.3f}",
    ]
    assert costs.flops(pde, tokens) / proportion_training.block_operations(teacher) == pytest.approx(each)
