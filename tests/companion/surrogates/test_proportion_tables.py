import json

import numpy as np
import pytest

import companion
from companion.seeds import over_seeds
from companion.surrogates import comparison_nulls, proportion_tables, results
from companion.surrogates.proportion_ladder import Hypothesis
from companion.surrogates.proportion_nulls import MEASURES
from companion.surrogates.specs import TEACHERS

IMAGE = TEACHERS["image"]
OTHER = "another seed's teacher"
# Cosines of (layers, heads), worst layer .8 and .7, by family and seed.
COSINES = {
    "full-k1": {0: [[0.9, 0.9], [0.8, 0.8]], 1: [[0.9, 0.9], [0.7, 0.7]]},
    "no-diffusion-k1": {0: [[0.9, 0.9], [0.6, 0.6]]},
    "narrow-k1": {0: [[0.99, 0.99], [0.99, 0.99]]},
    "residual": {0: None},
}
BEST = np.array([[0.5, 0.5], [0.75, 0.65]])


@pytest.fixture
def recorded(project_copy):
    """Open a chapter and give the records so far, without their `much.`."""
    companion.start_chapter("10-test")

    def entries():
        whole = json.loads((project_copy / "data/results/10-test.json").read_text())["records"]
        return {key.removeprefix("much."): entry for key, entry in whole.items()}

    return entries


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Both teachers with the same equations, so that what is expected is expected of each."""
    rungs = {}
    for teacher in TEACHERS.values():
        for family, seeds in COSINES.items():
            for seed, heads in seeds.items():
                way = {"r2": [0.6 - seed / 10, 0.9], "classes": 0.8, "read": [[0.4, 0.6], [0.5, 0.7]]}
                way |= {"cosine": heads} if heads else {}
                rungs[f"rung-{teacher}-{family}-seed{seed}"] = {
                    "made": {"subject": f"{teacher}-seed{seed}"},
                    "judged": {"converged": way, "1": {"cosine": [0.3, 0.2]} if heads else {}},
                }
    one = {
        "attention": {"uniform": [[0.5, 0.5], [0.4, 0.4]]},
        "states": {"identity": [0.3, 0.35], "affine, one step": [0.9, 0.9]},
        "ceiling": {"cosine": [[0.2, 0.2], [0.1, 0.3]]},
    }
    nulls = {f"{teacher}-seed{seed}": one for teacher in TEACHERS.values() for seed in (0, 1)}
    monkeypatch.setattr(results, "sweep_records", lambda: {"rungs": rungs, "nulls": nulls})
    monkeypatch.setattr(comparison_nulls, "best", lambda name: BEST)


def hypothesis(label, share, attends=True):
    return Hypothesis(label, "", "1", 0, share, {}, attends)


def test_a_difference_has_a_sign_and_what_prose_quotes_is_recorded(recorded):
    assert proportion_tables.signed(over_seeds([0.25])) == "+0.250"
    assert proportion_tables.signed(over_seeds([-0.25])) == "-0.250" and proportion_tables.signed(over_seeds([])) == "–"
    assert proportion_tables.quoted("a", over_seeds([0.5]), proportion_tables.signed) == "+0.500"
    assert proportion_tables.quoted("b", over_seeds([np.nan])) == "–"
    found = recorded()
    assert found["a"]["value"] == 0.5 and found["say.a"]["value"] == "+0.500"
    assert found["say.b"]["value"] == "no number" and "b" not in found


def test_maps_are_shown_by_their_worst_layer_and_their_range(recorded, monkeypatch):
    layers = {"uniform": [[0.5, 0.4], [0.7, 0.6]], "best null": [[0.9, 0.6], [0.7, 0.8]], OTHER: [[0.2, 0.1]]}
    monkeypatch.setattr(proportion_tables, "layers", lambda t: {name: np.array(rows) for name, rows in layers.items()})
    rows, means = proportion_tables.map_rows()
    assert [row[0] for row in rows] == ["uniform", "*best null of each head*", OTHER]
    assert rows[0][1:3] == rows[0][3:] == ["0.500 ± 1.271", "0.400 to 0.700"]
    assert means["text"] == pytest.approx({"uniform": 0.5, "best null": 0.65, OTHER: 0.1})
    found = recorded()
    assert found["image.other-seed"]["value"] == pytest.approx(0.1) and "image.null.best-null" in found
    assert found["text.heads"]["value"] == 8 and found["text.untestable"]["value"] == 0


def test_predictors_of_states_are_recorded_by_name_and_equations_by_family(recorded, monkeypatch):
    values = {"identity": dict.fromkeys(MEASURES, 0.25), "one law": dict.fromkeys(MEASURES, 0.5)}
    monkeypatch.setattr(proportion_tables, "predictors", lambda *_: {name: dict(one) for name, one in values.items()})
    rows, found = proportion_tables.predictor_rows(4, {"full-k1": "one law"})
    assert rows[0] == ["image", "identity", *["0.250"] * 5] and rows[-1] == ["text", "one law", *["0.500"] * 5]
    assert found["image"] == values
    assert recorded()["image.null.identity.r2"]["value"] == 0.25
    assert recorded()["states.text.full-k1.r2-pooled"]["value"] == 0.5


def test_the_level_to_beat_is_the_best_of_all_that_is_no_equation():
    states = {
        "identity": {"read": 0.2, "r2": 0.1, "r2-pooled": 0.4, "classes": 0.7, "accuracy": 0.3},
        "affine": {"read": 0.6, "r2": 0.0, "r2-pooled": 0.5, "classes": 0.6, "accuracy": 0.4},
        "one law": dict.fromkeys(MEASURES, 0.99),
    }
    maps = {"image": {"best null": 0.5, OTHER: 0.9}, "text": {"best null": 0.7, "uniform": 0.1}}
    found = proportion_tables.floors(maps, dict.fromkeys(TEACHERS, states), ["one law"])
    # R2 of the identity over seeds, .3, is above that of these two.
    image = {"read": 0.6, "r2": 0.3, "r2-pooled": 0.5, "classes": 0.7, "accuracy": 0.4, "cosine": 0.5}
    assert found["image"] == pytest.approx(image)
    assert found["text"] == pytest.approx(image | {"cosine": 0.7, "read": 0.7})


def test_pairs_are_differences_by_shared_seed(recorded):
    rows = proportion_tables.pair_rows([("diffusion", "full-k1", "no-diffusion-k1")], ["cosine", "r2"])
    assert rows[0] == ["image", "diffusion", "+0.200", "+0.000", "1"] and rows[1][0] == "text"
    assert recorded()["buys.text.full-k1-over-no-diffusion-k1.cosine"]["value"] == pytest.approx(0.2)


def test_pairs_that_one_policy_calibrated_are_kept_from_those_of_two(monkeypatch):
    monkeypatch.undo()

    def plan(teacher, family):
        known = results.records_of(teacher, family).values()
        return {k: v for k, v in next(iter(known))["made"]["plan"].items() if k not in ("seed", "validate_every")}

    for teacher in TEACHERS.values():
        for _, family, other in proportion_tables.ALIKE:
            ours, theirs = plan(teacher, family), plan(teacher, other)
            if (family, other) == ("full-k1", "full-k1-short"):
                assert ours.pop("steps") == 3 * theirs.pop("steps")
            assert ours == theirs
        for _, family, other in proportion_tables.UNLIKE:
            ours, theirs = plan(teacher, family), plan(teacher, other)
            assert ours["steps"] == theirs["steps"] and ours != theirs


def test_every_equation_is_shown_stepped_once_and_converged(recorded):
    (row, none) = proportion_tables.hypothesis_rows(IMAGE, "image", {"full-k1": "one law", "residual": "R"})
    # Skill of the worst layer: .4 missing of .6 and .6 of .6.
    assert row[:4] == ["one law", "0.200 ± 0.000", "0.750 ± 0.635", "0.750 ± 0.635"]
    assert row[4:] == ["0.167 ± 2.118", "0.550 ± 0.635", "0.800 ± 0.000"]
    assert none[:6] == ["R", "–", "–", "–", "–", "0.600"]
    entry = recorded()["table.image.full-k1.pooled-skill"]
    assert entry["value"] == pytest.approx(1 / 6) and entry["atol"] > 0


def test_the_last_rows_are_the_best_null_and_another_seed(recorded):
    floor = {"cosine": 0.5, "r2": 0.4, "classes": 0.3}
    *rows, null, other = proportion_tables.all_rows("text", floor)
    assert null == ["*best null*", "–", "0.500", "0.500", "0.000", "0.400", "0.300"]
    assert other == [f"*{OTHER}*", "–", "0.200 ± 0.000", "0.100 ± 0.000", "–", "–", "–"]
    labels = [row[0] for row in rows]
    assert len(set(labels)) == len(labels) and "one step: full, K = 3" in labels and "unshared, K = L" in labels


def test_an_equation_beats_its_nulls_layer_by_layer(recorded):
    found = {
        "full-k1": hypothesis("one law", 0.2),
        "no-diffusion-k1": hypothesis("D = 0", 0.1),
        "narrow-k1": hypothesis("narrow", 0.05),
        "residual": hypothesis("R", 0.01, attends=False),
    }
    proportion_tables.standing(found, bar=0.5)
    values = {key: entry["value"] for key, entry in recorded().items()}
    # The second layer's nulls have .7 on average: .8 beats them, .7 does not, .6 does not.
    assert (values["image.full-k1.beaten"], values["image.full-k1.layers"]) == (3, 4)
    assert (values["text.no-diffusion-k1.beaten"], values["text.no-diffusion-k1.layers"]) == (1, 2)
    assert values["image.cheapest"] == "none"
    # By the interval's end, and by the one seed's number.
    assert values["image.clear"] == 1
    assert values["image.residual"] == 0.5 and values["say.text.narrow-k1"] == "0.990"


def test_the_smallest_that_beats_all_its_nulls_is_named_with_its_share(recorded, monkeypatch):
    monkeypatch.setattr(comparison_nulls, "best", lambda name: BEST - 0.2)
    found = {"full-k1": hypothesis("one law", 0.2), "no-diffusion-k1": hypothesis("D = 0", 0.1)}
    proportion_tables.standing(found, bar=0.98)
    assert recorded()["image.cheapest"]["value"] == "D = 0 (10.0%, one seed)"
    assert recorded()["image.clear"]["value"] == 0


def test_the_scale_of_a_single_seeds_difference_is_the_spread_over_seeds(recorded):
    assert proportion_tables.noise("image") == pytest.approx(np.sqrt(0.005))
    assert recorded()["image.noise"]["value"] == pytest.approx(np.sqrt(0.005))
