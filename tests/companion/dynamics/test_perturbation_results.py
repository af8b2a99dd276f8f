"""What the page reads of the records on perturbations: by hand on made-up ones."""

import json

import pytest

from companion.claims.register import CHANGES, register
from companion.dynamics import perturbation_results as results
from companion.dynamics.changes import SMALL
from companion.dynamics.perturbation_cast import NEAREST, OTHERS, UNTRAINED
from companion.surrogates.candidates import AFFINE, HALF, ONE_STEP, RELEARNT
from pdelens.intervals import t_interval

PARTIAL = {"three laws": 0.9, OTHERS[0]: 0.5, OTHERS[1]: 0.6, UNTRAINED: 0.1, AFFINE: 0.0, NEAREST: 0.2}


def row(shift, seed):
    ranks = {name: {"partial": value + shift * (name == "three laws"), "raw": 1.0} for name, value in PARTIAL.items()}
    if seed == 0:
        ranks |= {ONE_STEP: {"partial": 0.7}, HALF: {"partial": 0.8}, RELEARNT: {"partial": 0.95}}
    return ranks


def record(seed, kinds):
    curve = {
        "sizes": [1e-4, SMALL, 1e-2, 0.1, 1.0],
        "ratio": [0.97, 1.0, 1.04, 1.06, 1.0],
        "accuracy": [1, 1, 1, 0.5, 0],
    }
    curve |= {"by depth": [1.0, 2.0 + seed, 8.0], "by size": [3.0 + seed] * 5}
    return {
        "growth": {
            kind: {"teacher": curve, AFFINE: curve | {"accuracy": 0.25, "by depth": [1.0, 4.0]}} for kind in kinds
        },
        "ranks": {kind: row(0.01 * seed * (kind != "token") - 0.3 * (kind == "token"), seed) for kind in kinds},
        "accuracy": {"teacher": 0.75 + 0.1 * seed},
        "transfer": {"teacher": [0.4, 0.3, 0.2, 0.1]},
        "exponents": {"teacher": {"0": [1.0, 0.5], "1": [0.25 + seed, 0.1]}, "three laws": {"1": [1.5 + seed, 0.0]}},
        "sphere": {"teacher": {"0": [5.0, 6.0], "1": [2.0, 1.0]}},
        "sensitivity": {kind: {"teacher": [1.0, 2.0]} for kind in kinds},
        "known": {"norm": [1, 2], "margin": [3, 4], **{kind: [5, 6] for kind in kinds}},
    }


@pytest.fixture(autouse=True)
def made_up(monkeypatch):
    kinds = {"image": ("noise", "token", "gradient", "shift"), "text": ("noise", "token", "gradient", "swap")}
    found = {
        f"{name}-seed{seed}": record(seed, each)
        for name, each in {"image-patch4": kinds["image"], "text-classifier": kinds["text"]}.items()
        for seed in range(3)
    }
    pretrained = {"MiniLM": {"tokens": 128}, "MiniLM-twin": {"tokens": 1}}
    monkeypatch.setattr(results, "committed", lambda: {"perturbations": found, "sensitivity": pretrained})


def test_records_are_gathered_by_kind_of_job(tmp_path):
    for name in (
        "perturbations-image-patch4-seed0",
        "singular-a-seed1",
        "sensitivity-MiniLM-twin",
        "dynamics-flow-a-seed0",
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"record": {"name": name}}))
    assert results.gathered(tmp_path) == {
        "perturbations": {"image-patch4-seed0": {"name": "perturbations-image-patch4-seed0"}},
        "singular": {"a-seed1": {"name": "singular-a-seed1"}},
        "sensitivity": {"MiniLM-twin": {"name": "sensitivity-MiniLM-twin"}},
    }


def test_the_greatest_growth_is_read_over_the_seeds_that_have_it(monkeypatch):
    rows = {
        f"image-patch4-seed{seed}": {
            "reached": {"three laws": 0.5 + 0.1 * seed},
            "ranks": {"three laws": {"raw": 0, "partial": 0.9}}
            | ({"one-step field": {"partial": 0.8}} if not seed else {}),
            "transfer": {"three laws": [0.9, 0.4 + 0.1 * seed, 0.0]},
            "error": {"three laws": 0.01 + seed, "affine maps": 9.0},
        }
        for seed in range(2)
    }
    monkeypatch.setattr(results, "committed", lambda: {"singular": rows})
    assert results.greatest("image-patch4", "reached", "three laws").seeds == (0.5, 0.6)
    assert results.greatest("image-patch4", "rank", "three laws").seeds == (0.9, 0.9)
    assert results.greatest("image-patch4", "rank", "one-step field").seeds == (0.8,)
    assert results.greatest("image-patch4", "attacked", "three laws").seeds == (0.4, 0.5)
    assert results.greatest_error(["three laws"], ["image-patch4"]) == 1.01


def test_growth_between_depths_is_a_ratio_over_seeds():
    found = results.growth("image-patch4", "natural", "teacher", 1, 2)
    assert found.seeds == pytest.approx((4.0, 8 / 3, 2.0)) and found.interval == pytest.approx(t_interval(found.seeds))
    assert results.by_depth("text-classifier", "natural", "teacher")[:, 1].tolist() == [2, 3, 4]
    assert results.growth_off("image-patch4", "natural", AFFINE).seeds == (2.0, 2.0, 2.0), "as far below as above"
    sizes, values = results.by_size("image-patch4", "noise", "teacher")
    assert sizes[1] == SMALL and values.shape == (3, 5) and values[2, 0] == 5


def test_the_linear_regime_ends_where_growth_leaves_five_per_cent():
    assert results.linear_up_to("image-patch4", "noise", "teacher") == 1e-2
    assert results.linear_up_to("image-patch4", "noise", "teacher", 0.1) == 1.0
    assert results.linear_up_to("image-patch4", "noise", "teacher", 0.01) == 0.0


def test_numbers_are_read_at_their_place():
    assert results.exponent("image-patch4", "teacher", 0, 1).seeds == (0.25, 1.25, 2.25)
    assert results.exponent_gap("image-patch4").seeds == (1.25, 1.25, 1.25)
    assert results.on_sphere("image-patch4", "teacher", 1, True).mean == 1
    assert results.on_sphere("image-patch4", "teacher", 1, False).mean == 2
    assert results.accuracy("image-patch4", "teacher").mean == pytest.approx(0.85)
    assert results.accuracy("image-patch4", "teacher", "gradient", 0.1).mean == 0.5
    assert results.attacked("image-patch4", "teacher", 0.1).mean == pytest.approx(0.3)
    assert results.rank("image-patch4", "noise", OTHERS[0]).mean == pytest.approx(0.55), "the mean of both others"
    assert results.best_null("image-patch4", "noise").mean == pytest.approx(0.6)
    assert results.rank("image-patch4", "noise", ONE_STEP).interval is None
    assert results.pretrained("MiniLM", trained=False) == {"tokens": 1}
    assert [each.tolist() for each in results.given("text-classifier", "natural")] == [[1, 2], [3, 4], [5, 6]]


def test_the_margin_is_over_the_best_of_all_others_in_each_seed():
    found = results.standing("image-patch4", "noise")
    assert found.margin.seeds == pytest.approx((0.3, 0.31, 0.32))
    assert found.skill.seeds == pytest.approx((0.3 / 0.4, 0.31 / 0.4, 0.32 / 0.4))
    assert found.gained == pytest.approx(0.5) and found.control == pytest.approx(0.35)
    assert found.best == OTHERS[1] and found.null.mean == pytest.approx(0.1)


def test_the_one_step_field_is_read_in_its_worst_kind():
    found = results.one_step("image-patch4")
    assert found.seeds == pytest.approx((0.1,)) and found.interval is None


def test_all_that_the_claim_reads_is_recorded(monkeypatch):
    known = {}
    monkeypatch.setattr(results, "record", lambda key, value, **about: known.update({key: value}))
    monkeypatch.setattr(results, "record_mean", lambda key, mean, *about: known.update({key: mean}))
    for modality, teacher in (("image", "image-patch4"), ("text", "text-classifier")):
        results.record_claim(modality, teacher)
    claim = next(claim for claim in register() if claim.name == "C5")
    assert set(claim.read) == set(known) and len(CHANGES) == 4
    assert known["perturbations.c5.token.text"].mean == pytest.approx(0.0)


def test_a_pretrained_models_numbers_are_at_the_end_and_means_over_layers(monkeypatch):
    about = {
        "exponents": [0.5, 0.1],
        "growth": {"relative": [1, 0.5], "token": [1, 0.25], "absolute": [1, 9.0]},
        "asymmetry": [0.2, 0.4],
        "coupling": [0.01, 0.03],
        "chance": 0.001,
        "influence": {"rank": 0.75},
    }
    monkeypatch.setattr(results, "committed", lambda: {"sensitivity": {"MiniLM-twin": about}})
    found = results.pretrained_numbers("MiniLM", trained=False)
    assert list(found.values()) == pytest.approx([0.5, 0.5, 0.25, 0.3, 20.0, 0.75, 9.0])
