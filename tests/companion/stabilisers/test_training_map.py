"""The map's jobs: which networks there are, what a record holds, and that a cell is where its seed and rate are."""

import json
import math
from dataclasses import replace

import pytest
import torch

from companion.data.splits import Examples, Splits
from companion.jobs import Run
from companion.stabilisers import training_map
from companion.stabilisers.batch import alone, train
from companion.stabilisers.diffusion import Diffusion
from companion.stabilisers.training_map import RATES, SIZES, Arm, arms, heat_arms, map_jobs, measured, rounded


@pytest.fixture
def pictures(monkeypatch):
    random = torch.Generator().manual_seed(0)
    data = Examples(
        torch.randint(0, 256, (64, 28, 28), dtype=torch.uint8, generator=random),
        torch.randint(0, 10, (64,), generator=random),
    )
    monkeypatch.setattr(training_map, "load_splits", lambda *_: Splits(data, data, {}))
    monkeypatch.setattr(training_map, "digest_of", lambda *_: "pictures")
    return data


def test_the_map_is_whole():
    found = arms("book")
    plain = [arm for arm in found if not arm.switch]
    assert len({arm.name for arm in found}) == len(found)
    assert len(plain) == 4 * 6 * 5 and [arm.depth for arm in plain] == sorted(arm.depth for arm in plain)
    assert {arm.depth for arm in plain if arm.modality == "text"} == {6, 12}
    cells = sum(len(arm.plan("book").cells) for arm in plain)
    assert cells == 4200 and len(found) - len(plain) == 12 + 16
    beside = [arm for arm in found if arm.switch and arm.heat is None]
    assert len(beside) == 12 and all(arm.modality == "image" and arm.depth == 12 for arm in beside)
    assert len(RATES) == 7 and RATES[0] == 2e-4 and RATES[-1] == pytest.approx(0.8192)


def test_switches_beside_the_map_change_one_thing_each():
    usual = Arm("image", "plain", "pre", 12).plan("book")
    assert usual.warm and not usual.clip and usual.switches.gain == 1
    assert Arm("image", "plain", "pre", 12, "clipped").plan("book") == replace(usual, clip=1.0)
    assert Arm("image", "plain", "pre", 12, "cold").plan("book") == replace(usual, warm=False)
    assert Arm("image", "plain", "pre", 12, "small").plan("book") == replace(
        usual, switches=replace(usual.switches, gain=0.1)
    )


def test_heat_while_training_is_where_the_name_says():
    usual = Arm("image", "plain", "pre", 6).plan("book")
    heated = Arm("image", "plain", "pre", 6, "heat-after-0.3-disorder").plan("book")
    heat = Diffusion("after", 0.3, 1)
    assert heated == replace(usual, rates=RATES[1:5], switches=replace(usual.switches, diffusion=heat))
    assert Arm("image", "plain", "pre", 6, "heat-6-3.0-lattice").heat == Diffusion("6", 3.0)
    assert Arm("image", "plain", "pre", 6, "clipped").heat is None
    found = [arm.heat for arm in heat_arms("book")]
    assert len(set(found)) == 16 and {one.place for one in found} == {"0", "before", "after", "6"}
    assert Arm("image", "plain", "pre", 2, "heat-0-0.3-lattice").plan("smoke").rates == SIZES["smoke"]["rates"]


def test_a_job_and_its_record(pictures, tmp_path):
    run = Run("smoke", tmp_path)
    arm = Arm("image", "scaled", "none", 2)
    assert arm.recorded(run) is None
    record = arm.do(run)
    arm.keep(run, record)
    assert arm.recorded(run) == json.loads(json.dumps(record)) and not list(tmp_path.glob("*checkpoint*"))
    plan = arm.plan("smoke")
    for name in ("loss", "accuracy", "diverged", "curve"):
        assert len(record[name]) == len(plan.seeds) and all(len(row) == len(plan.rates) for row in record[name])
    assert all(len(one["gradients"]) == 3 and one["gradients"][-1] == 1 for one in record["begun"])
    assert 1.5 < record["begun"][0]["loss"] < 4 and record["curve"][0][0][-1] == pytest.approx(
        record["begun"][0]["loss"], rel=0.3
    )
    assert "best loss" in arm.line(record)
    # Another plan is another record.
    assert Arm("image", "scaled", "none", 2, "clipped").identity(run) != arm.identity(run)


def test_a_cell_lies_where_its_seed_and_rate_are(pictures, tmp_path):
    arm = Arm("image", "plain", "pre", 2)
    record = arm.do(Run("smoke", tmp_path))
    plan = arm.plan("smoke")
    stack, found = train(alone(plan, plan.seeds[1], plan.rates[0]), pictures)
    held = Examples(*(column[:32] for column in training_map.shuffled(pictures)))
    single = measured(stack, held, found["diverged"])
    assert record["loss"][1][0] == pytest.approx(single["loss"][0][0], rel=1e-4)
    assert record["states"]["distance"][1][0] == pytest.approx(single["states"]["distance"][0][0], rel=1e-3)
    assert record["begun"][1]["loss"] == pytest.approx(single["begun"][0]["loss"], rel=1e-4)
    assert record["loss"][1][0] != record["loss"][0][0]


# In single precision training amplifies what rounding differs by, the more the larger the rate; in double it can't.
@pytest.mark.parametrize(("rates", "dtype"), [(RATES[:2], torch.float32), (RATES[1:3], torch.float64)], ids=str)
@pytest.mark.parametrize("network", [("plain", "pre"), ("skipless", "none")])
def test_a_cell_of_the_books_own_size_alone_is_its_cell_in_the_stack(pictures, network, rates, dtype):
    plan = replace(Arm("image", *network, 6).plan("book"), seeds=(0, 3), rates=rates, steps=30)
    together, whole = train(plan, pictures, dtype=dtype)
    for cell in (0, 3):
        single, own = train(alone(plan, *plan.cells[cell]), pictures, dtype=dtype)
        assert own["curve"][-1][0] == pytest.approx(whole["curve"][-1][cell], rel=1e-5)
        with torch.no_grad():
            one, other = (model(pictures.inputs[:16]) for model in (single.model(0), together.model(cell)))
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_what_diverged_has_a_date_and_no_loss(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(training_map.SIZES, "smoke", training_map.SIZES["smoke"] | {"rates": (1e-3, 1e6), "steps": 20})
    record = Arm("image", "plain", "none", 2).do(Run("smoke", tmp_path))
    for seed in range(2):
        assert record["diverged"][seed][0] is None and 1 < record["diverged"][seed][1] <= 20
        assert record["loss"][seed][1] is None and record["states"]["rank"][seed][1] is None
    assert "2 of 4 diverged" in Arm("image", "plain", "none", 2).line(record)


def test_time_that_is_up_keeps_what_is_done(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("companion.stabilisers.batch.EVERY", 2)
    arm, late = Arm("image", "none", "dyt", 2), Run("smoke", tmp_path, deadline=0.0)
    assert arm.do(late) is None and (tmp_path / f"{arm.name}.checkpoint.safetensors").exists()
    begun = arm.do(Run("smoke", tmp_path))
    assert begun["loss"] == arm.do(Run("smoke", tmp_path))["loss"]


def test_patterns_choose_jobs(tmp_path):
    run = Run("book", tmp_path)
    assert {job.normalisation for job in map_jobs(run, "stabilisers-image-plain-*-6")} == set(
        training_map.NORMALISATIONS
    )
    assert map_jobs(run, "dynamics-*") == []


def test_numbers_are_rounded_and_what_is_not_finite_is_none():
    assert rounded({"a": [1.234567, math.inf, float("nan")], "b": (3, None), "c": "x"}) == {
        "a": [1.2346, None, None], "b": [3, None], "c": "x",
    }  # fmt: skip
