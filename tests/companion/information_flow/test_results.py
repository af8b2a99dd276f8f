"""What the page reads: distances of curves, the margin of claim C9 and its skill, cropped to nothing."""

import json

import numpy as np
import pytest

from companion.information_flow import results
from companion.information_flow.content import LAW, TEACHER
from companion.information_flow.targets import TARGETS
from companion.surrogates.candidates import HALF, RELEARNT


def flat(*values):
    """Return curves that are the same for every target: 0 at depth 0, then the values."""
    return {target: [0.0, *values] for target in TARGETS}


def record(own, law, nulls):
    named = dict(zip(results.NULLS, (flat(*row) for row in nulls), strict=True))
    return {"curves": {TEACHER: flat(*own), LAW: flat(*law), **named}}


FAR = [(9, 9)] * 5
NULLS = [(9, 9), (9, 9), (1.5, 2.5), (9, 9), (1.8, 2.2)]
RECORDS = [record((1, 2), (1.1, 2.1), NULLS), record((1.2, 2.2), (1.2, 2.6), NULLS), record((1, 2.6), (1, 2.6), NULLS)]


@pytest.fixture
def known(monkeypatch):
    rows = {f"image-patch4-seed{seed}": each for seed, each in enumerate(RECORDS)} | {"image-patch40-seed0": {}}
    shown = {
        name: {"rows": [0.5, value], "given": [0.0, 0.0]} for name, value in (("attention", 0.7), ("rollout", 0.1))
    }
    edges = {"effects": {"next state": shown}, "information": shown, "size": [3.0]}
    budget = {"curves": {HALF: flat(1.2, 2.05), RELEARNT: flat(1, 2.1)}}
    kinds = {"content": rows, "edges": {"image-patch4-seed0": edges}, "budget": {"image-patch4-seed0": budget}}
    bounds = {"bounds": [[9, 9], [3.0, 2.0], [1, 1]], "accuracy": [0.9, 0.8, 0.7], "clean": 0.95, "ceiling": 5.5}
    more = bounds | {"bounds": [[9, 9], [3.5, 2.2], [1, 1]], "accuracy": [0.9, 0.6, 0.7], "clean": 0.93}
    kinds["retrieval"] = {"image-patch4-seed1": more, "image-patch4-seed0": bounds}
    kinds["pretrained"] = {"MiniLM": {"rows": 1}, "MiniLM-twin": {"rows": 2}}
    monkeypatch.setattr(results, "_committed", lambda: kinds)


def test_distances_are_means_over_targets_and_depths_from_1(known):
    first, second, third = results.distances("image-patch4")
    assert (first[LAW], second[LAW], third[LAW]) == pytest.approx((0.1, 0.2, 0))
    assert first["untrained twin"] == pytest.approx(0.5) and first["position alone"] == pytest.approx(0.5)
    assert (first[results.OTHER], second[results.OTHER], third[results.OTHER]) == pytest.approx((0.2, 0.2, 0.3))
    assert results.distance("image-patch4", LAW).mean == pytest.approx(0.1)
    assert results.distance("image-patch4", "one-step field").seeds == ()


def test_the_margin_is_to_the_nearest_null_or_other_seed(known):
    assert results.margin("image-patch4").seeds == pytest.approx((0.1, 0.0, 0.3))
    # Untrained: .5, .3, .3; position: .5, .3, .6; of each the nearest that is not itself.
    assert results.margin("image-patch4", "untrained twin").seeds == pytest.approx((-0.3, -0.1, 0.0))
    assert results.margin("image-patch4", results.OTHER).seeds == pytest.approx((0.3, 0.1, 0.0)), "not to itself"
    name, found = results.nearest_null("image-patch4")
    assert name == "untrained twin" and found.seeds == pytest.approx((-0.3, -0.1, 0.0))


def test_a_budget_binds_where_its_last_doubling_gained_much(known):
    # Distances of seed 0: .1, at half the budget .125, learnt anew .05; the nearest other .2.
    assert results.binding("image-patch4") == pytest.approx((1 - 0.1 / 0.125, 0.2 - 0.05))


def test_bounds_are_read_at_a_level_of_noise(known):
    assert results.retrieval("image-patch4", 1.0, "bounds").seeds == (3, 3.5)
    assert results.retrieval("image-patch4", 1.0, "bounds", 2).seeds == (2, 2.2)
    assert results.retrieval("image-patch4", 3.0, "bounds", 2).seeds == (1, 1)
    assert results.retrieval("image-patch4", 1.0, "accuracy").seeds == (0.8, 0.6)
    assert results.retrieval("image-patch4", 1.0, "clean").seeds == (0.95, 0.93)


def test_pretrained_models_have_twins(known):
    assert [results.pretrained("MiniLM", trained=kind)["rows"] for kind in (True, False)] == [1, 2]


def test_skill_is_of_the_worst_depth_and_of_nulls_alone(known):
    # Depth 1: nulls .5 .3 .5; equation .1 0 0. Depth 2: nulls .2 0 .1; equation .1 .4 0.
    found = results.skill("image-patch4").seeds
    assert found[0] == pytest.approx(1 - 0.1 / 0.2) and found[1] < -1e6 and found[2] == pytest.approx(1)


def test_within_is_the_share_inside_the_seeds_interval(known):
    assert results.within("image-patch4", LAW) == 1
    assert results.within("image-patch4", "identity") == 0
    assert results.within("image-patch4", TEACHER) == 1


def test_edges_are_read_by_target_and_layer(known):
    assert results.edge_curve("image-patch4", "next state", "attention").tolist() == [[0.5, 0.7]]
    assert results.edge_mean("image-patch4", "information", "rollout").mean == pytest.approx(0.3)
    assert results.edge_curve("image-patch4", "information", "rollout", "given").tolist() == [[0, 0]]
    assert results.edge_names("image-patch4", "next state") == ["attention", "rollout"]
    assert results.over("edges", "image-patch4", lambda each: each["size"][0]).seeds == (3,)


def test_curves_are_over_the_seeds_that_have_them(known):
    assert results.curves("image-patch4", LAW, "class").tolist() == [[0, 1.1, 2.1], [0, 1.2, 2.6], [0, 1, 2.6]]
    assert results.curves("image-patch4", "one-step field", "class").shape == (0,)
    assert np.isnan(results.distance("image-patch4", "one-step field").mean)


def test_records_of_a_folder_are_gathered_by_part_and_teacher(tmp_path):
    for name in ("information-flow-content-image-patch4-seed0", "information-flow-edges-text-seed1", "rung-a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"record": {"name": name}, "identity": 1}))
    found = results.gathered(tmp_path)
    assert {part: list(rows) for part, rows in found.items()} == {
        "content": ["image-patch4-seed0"],
        "edges": ["text-seed1"],
    }
    assert found["edges"]["text-seed1"] == {"name": "information-flow-edges-text-seed1"}
