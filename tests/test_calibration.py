import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pdelens import DataError, adoption, calibration, datasets, ladder, rungs, subjects

pytestmark = pytest.mark.usefixtures("one_thread")
COMMITTED = Path(__file__).resolve().parents[1] / "data"
RUNG = calibration.rung_named("rung-image-patch4-full-k1-seed0", "smoke")


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Give the committed calibration pictures in place of the training set, and two ways of stepping."""
    monkeypatch.setattr(subjects, "fashion_mnist", lambda train: datasets.fashion_mnist_subset("calibration"))
    monkeypatch.setattr(calibration, "WAYS", {name: calibration.WAYS[name] for name in ("1", "converged")})
    for kept in (calibration._studied, calibration.banked, calibration.held):
        kept.cache_clear()
    yield
    calibration.banked.cache_clear()


def weights(path):
    return dict(calibration.load(RUNG.name, path)[0].state_dict())


def test_a_rung_is_calibrated_judged_and_kept(tmp_path):
    record = calibration.calibrate(RUNG, "smoke", tmp_path)
    assert record is not None and record["made"]["plan"]["steps"] == rungs.STEPS["smoke"]
    assert np.shape(record["judged"]["converged"]["cosine"]) == (6, 4)
    assert 0 <= record["judged"]["1"]["classes"] <= 1 and record["learnt"]["diffusivity"]["mean"][0] > 0
    assert record["made"]["share"] <= 0.17 and record["made"]["scale"] == "smoke"
    path = tmp_path / calibration.FOLDER / f"{RUNG.name}.safetensors"
    pde, made = calibration.load(RUNG.name, path)
    assert str(pde) == made["equation"] == str(RUNG.build(calibration.studied(RUNG.subject, tmp_path, "cpu")))
    before = path.read_bytes()
    again = calibration.calibrate(RUNG, "smoke", tmp_path)
    assert again == json.loads(json.dumps(record)) and path.read_bytes() == before
    assert not list(path.parent.glob("*.checkpoint*"))
    path.write_bytes(before[:-100])
    with pytest.raises(DataError, match="is no calibrated equation"):
        calibration.load(RUNG.name, path)


def test_a_record_that_lacks_a_judgement_is_judged_and_not_calibrated_again(tmp_path):
    whole = calibration.calibrate(RUNG, "smoke", tmp_path)
    assert whole["local"]["way"] == "converged" and np.shape(whole["local"]["unmet"]) == (6,)
    path = tmp_path / calibration.FOLDER / f"{RUNG.name}.json"
    path.write_text(json.dumps({part: values for part, values in whole.items() if part != "local"}))
    before = path.with_suffix(".safetensors").read_bytes()
    assert not calibration.is_whole(RUNG, "smoke", tmp_path)
    again = calibration.calibrate(RUNG, "smoke", tmp_path)
    assert path.with_suffix(".safetensors").read_bytes() == before and calibration.is_whole(RUNG, "smoke", tmp_path)
    assert again["made"] == json.loads(json.dumps(whole["made"])) and again == json.loads(path.read_text())
    for part in ("unmet", "linear", "error"):
        assert again["local"][part] == pytest.approx(whole["local"][part], abs=1e-5)
    other = replace(RUNG, family="diffusion", equation=rungs.LADDER["diffusion"])
    assert "local" not in calibration.calibrate(other, "smoke", tmp_path)


def test_one_that_was_stopped_goes_on_and_ends_the_same(tmp_path):
    calibration.calibrate(RUNG, "smoke", tmp_path / "whole")
    assert calibration.calibrate(RUNG, "smoke", tmp_path / "cut", until=0.0) is None
    assert list((tmp_path / "cut" / calibration.FOLDER).glob("*.checkpoint*"))
    assert calibration.calibrate(RUNG, "smoke", tmp_path / "cut") is not None
    whole, cut = (
        weights(tmp_path / part / calibration.FOLDER / f"{RUNG.name}.safetensors") for part in ("whole", "cut")
    )
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, atol=1e-6, rtol=0)


def test_one_of_another_plan_is_made_again(tmp_path, monkeypatch, capsys):
    calibration.calibrate(RUNG, "smoke", tmp_path)
    monkeypatch.setitem(rungs.STEPS, "smoke", 3)
    record = calibration.calibrate(RUNG, "smoke", tmp_path)
    assert record["made"]["plan"]["steps"] == 3 and "another plan" in capsys.readouterr().err


def test_divergence_says_where_and_the_last_good_state_is_kept(tmp_path, monkeypatch):
    """Growth without bound, from a rate no calibration survives."""
    wild = replace(RUNG, plan=replace(RUNG.plan, peak_rate=3.0, optimizer="adam"))
    monkeypatch.setitem(rungs.STEPS, "smoke", 60)
    with pytest.raises(RuntimeError, match=rf"{RUNG.name}: optimiser step \d+.*last good state is in .*checkpoint"):
        calibration.calibrate(wild, "smoke", tmp_path)
    kept = list((tmp_path / calibration.FOLDER).glob("*.checkpoint*"))
    assert kept and not (tmp_path / calibration.FOLDER / f"{RUNG.name}.json").exists()


def test_treatments_shorten_and_shuffle_a_flow():
    flow = calibration.studied("image-patch4-seed0", calibration.Path("."), "cpu").of("heldout", 4)
    short = calibration.treated(flow, replace(RUNG, horizon=4))
    assert short.layers == 4 and torch.equal(short.states[4], flow.states[4])
    mixed = calibration.treated(flow, replace(RUNG, shuffled=True))
    for before, after in zip(flow.states, mixed.states, strict=True):
        assert not torch.equal(before, after)
        torch.testing.assert_close(before.sum(-1).sort(1).values, after.sum(-1).sort(1).values, atol=1e-4, rtol=1e-4)
    # Each query still attends to the same tokens: the map moves with them.
    summary = [torch.einsum("bhqk,bkc->bhqc", f.attention[2], f.states[2]).sum(-1) for f in (flow, mixed)]
    torch.testing.assert_close(summary[0].sort(-1).values, summary[1].sort(-1).values)


def test_short_keeps_heads_only_where_asked():
    values = {"cosine": [[0.123456, 0.2], [0.3, 0.4]], "classes": 0.97654321, "r2": [0.1, 0.25]}
    assert calibration.short(values, True) == {
        "cosine": [[0.1235, 0.2], [0.3, 0.4]],
        "classes": 0.9765,
        "r2": [0.1, 0.25],
    }
    assert calibration.short(values, False)["cosine"] == [0.1617, 0.35]
    assert calibration.short({"diverged": "at 3"}, False) == {"diverged": "at 3"}


def test_unknown_rungs_are_named():
    with pytest.raises(ValueError, match="no rung is called 'rung-x'"):
        calibration.rung_named("rung-x")


def test_the_ladder_is_run_gathered_and_its_nulls_stand_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ladder, "root", lambda: tmp_path)
    only = "rung-image-patch4-full-k1-seed0,rung-image-patch4-diffusion-seed0"
    assert ladder.calibrate_all("smoke", "cpu", only, workers=1)
    folder = tmp_path / "_build" / "train" / "smoke"
    found = ladder.gathered(folder)
    assert sorted(found["rungs"]) == sorted(only.split(","))
    nulls = found[ladder.NULLS]["image-patch4-seed0"]
    assert {"uniform", "mean map", "untrained twin"} <= nulls["attention"].keys() and "ceiling" in nulls
    assert "100% of all" in capsys.readouterr().err
    assert ladder.calibrate_all("smoke", "cpu", only, workers=1), "all there: nothing to do"
    kept = ladder.gathered(tmp_path / "nothing", {"rungs": {"old": 1}, ladder.NULLS: {}})
    assert kept["rungs"] == {"old": 1}


def test_records_are_written_a_line_for_each_rung_and_to_five_digits(tmp_path):
    about = {"made": {"curve": [[120, 1.3700851202011108]], "equation": "∂u/∂t"}, "judged": {"r2": [-295.66712, 0.5]}}
    ladder.write(tmp_path / "x.json", {"rungs": {"b": about, "a": {"share": 1 / 3, "whole": True}}, "nulls": {}})
    text = (tmp_path / "x.json").read_text()
    assert ladder.known(tmp_path / "x.json")["rungs"] == {
        "a": {"share": 0.33333, "whole": True},
        "b": {"made": {"curve": [[120, 1.3701]], "equation": "∂u/∂t"}, "judged": {"r2": [-295.67, 0.5]}},
    }
    assert [line[:6] for line in text.splitlines()[2:4]] == ['  "a":', '  "b":']


def test_the_ladder_stops_at_its_time_and_names_what_diverged(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "root", lambda: tmp_path)
    assert not ladder.calibrate_all("smoke", "cpu", RUNG.name, minutes=0.0, workers=1)

    def failing(rung, *_):
        raise RuntimeError(f"{rung.name}: it diverged.")

    monkeypatch.setattr(ladder, "calibrate", failing)
    with pytest.raises(RuntimeError, match=f"{RUNG.name}: it diverged"):
        ladder.calibrate_all("smoke", "cpu", RUNG.name, workers=1)
    found = ladder.gathered(tmp_path / "_build" / "train" / "smoke")
    assert list(found[ladder.NULLS]) == [RUNG.subject], "its nulls are judged all the same"


def test_adopted_equations_can_be_loaded_and_their_records_read(project_copy, capsys):
    """Calibrate, adopt, load: as `make train` and `make adopt` do, in a project of its own."""
    for name in ("fashion-mnist-subset.safetensors", "weights/image-patch4-seed0.safetensors"):
        (project_copy / "data" / name).parent.mkdir(exist_ok=True)
        shutil.copy(COMMITTED / name, project_copy / "data" / name)
    lines = (COMMITTED / "SHA256SUMS").read_text().splitlines(keepends=True)
    kept = [
        line
        for line in lines
        if line.split()[1] in ("fashion-mnist-subset.safetensors", "weights/image-patch4-seed0.safetensors")
    ]
    (project_copy / "data" / "SHA256SUMS").write_text("".join(kept))
    folder = project_copy / "_build" / "train" / "smoke"
    record = calibration.calibrate(RUNG, "smoke", folder)
    other = replace(RUNG, family="diffusion", equation=rungs.LADDER["diffusion"])
    calibration.calibrate(other, "smoke", folder)
    adoption.adopt("smoke")
    assert f"weights/{RUNG.name}.safetensors" in capsys.readouterr().out
    assert not (project_copy / "data" / "weights" / f"{other.name}.safetensors").exists(), "its record is enough"
    ladder.ladder.cache_clear()
    found = ladder.ladder()["rungs"]
    ladder.ladder.cache_clear()
    assert sorted(found) == sorted([RUNG.name, other.name])
    assert found[RUNG.name] == ladder.rounded(json.loads(json.dumps(record)))
    pde, made = calibration.load(RUNG.name)
    model = calibration.studied(RUNG.subject, folder, "cpu")
    assert made["plan"]["steps"] == rungs.STEPS["smoke"]
    # What is loaded gives what was recorded.
    held, seen = (
        calibration.held(RUNG.subject, folder, "cpu", split, calibration.HELD["smoke"])
        for split in ("heldout", "calibration")
    )
    again = calibration.judge(pde, model, held, seen, {"1": calibration.WAYS["1"]})["1"]
    assert np.allclose(again["cosine"], found[RUNG.name]["judged"]["1"]["cosine"], atol=1e-4)
