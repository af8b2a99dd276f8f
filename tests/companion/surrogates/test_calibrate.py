import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from companion import adopt, jobs
from companion.data import fashion_mnist
from companion.jobs import Run, perform, run_jobs
from companion.paths import data_file
from companion.surrogates import calibrate, evaluate, files, specs, store, sweep
from companion.surrogates.calibrate import Calibration
from companion.teachers import bank, teacher

COMMITTED = Path(__file__).resolve().parents[3] / "data"
SPEC = files.spec_named("rung-image-patch4-full-k1-seed0", "smoke")
JOB = Calibration(SPEC)


def replaced(monkeypatch):
    monkeypatch.setattr(teacher, "fashion_mnist", lambda train: fashion_mnist.fashion_mnist_subset("calibration"))
    two = {name: evaluate.RESOLUTIONS[name] for name in ("1", "converged")}
    monkeypatch.setattr(calibrate, "RESOLUTIONS", two)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Give the committed calibration pictures in place of the training set, and two resolutions."""
    replaced(monkeypatch)
    for kept in (teacher.cached_teacher, bank.cached_bank, teacher.flow_on):
        kept.cache_clear()
    yield
    bank.cached_bank.cache_clear()


@pytest.fixture
def run(tmp_path):
    return Run("smoke", tmp_path)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A folder with the equation calibrated, and its record: made once, for tests that start from there."""
    made = Run("smoke", tmp_path_factory.mktemp("calibrated"))
    with pytest.MonkeyPatch.context() as changed:
        replaced(changed)
        return made.folder, perform(JOB, made)


@pytest.fixture
def done(calibrated, run):
    """A run into a copy of that folder, and the record."""
    shutil.copytree(calibrated[0], run.folder, dirs_exist_ok=True)
    return run, calibrated[1]


def weights(run):
    return dict(files.load(SPEC.name, run)[0].state_dict())


def test_an_equation_is_calibrated_evaluated_and_kept(done):
    run, record = done
    assert record["made"]["plan"]["steps"] == specs.STEPS["smoke"]
    assert np.shape(record["judged"]["converged"]["cosine"]) == (6, 4)
    assert 0 <= record["judged"]["1"]["classes"] <= 1 and record["learnt"]["diffusivity"]["mean"][0] > 0
    assert record["made"]["share"] <= 0.17 and record["made"]["scale"] == "smoke"
    assert record["local"]["way"] == "converged" and np.shape(record["local"]["unmet"]) == (6,)
    path = run.folder / f"{SPEC.name}.safetensors"
    pde, made = files.load(SPEC.name, run)
    assert str(pde) == made["equation"] == str(SPEC.build(teacher.cached_teacher(SPEC.teacher, run)))
    before = path.read_bytes()
    assert run_jobs([JOB], run, workers=1) and path.read_bytes() == before
    assert JOB.recorded(run) == json.loads(json.dumps(record))
    assert not list(path.parent.glob("*.checkpoint*"))
    path.write_bytes(before[:-100])
    assert JOB.recorded(run) is None
    with pytest.raises(ValueError, match="is damaged"):
        files.load(SPEC.name, run)


def test_one_whose_evaluation_changed_is_evaluated_and_not_calibrated_again(done, monkeypatch):
    run, whole = done
    before = (run.folder / f"{SPEC.name}.safetensors").read_bytes()
    monkeypatch.setattr(calibrate, "RESOLUTIONS", calibrate.RESOLUTIONS | {"2": evaluate.RESOLUTIONS["2"]})
    monkeypatch.setattr(calibrate, "fit", None)  # whoever calibrates fails
    assert JOB.recorded(run) is None
    again = perform(JOB, run)
    assert (run.folder / f"{SPEC.name}.safetensors").read_bytes() == before
    assert set(again["judged"]) == {"1", "2", "converged"} and JOB.recorded(run) is not None
    assert again["judged"]["converged"] == whole["judged"]["converged"]
    assert again["made"]["curve"] == [list(row) for row in whole["made"]["curve"]]
    for part in ("unmet", "linear", "error"):
        assert again["local"][part] == pytest.approx(whole["local"][part], abs=1e-5)


def test_only_main_families_have_their_error_divided(run):
    other = replace(SPEC, family="diffusion", equation=specs.EQUATIONS["diffusion"])
    assert "local" not in perform(Calibration(other), run)


def test_one_that_was_stopped_goes_on_and_ends_the_same(done, tmp_path):
    whole, cut = done[0], Run("smoke", tmp_path / "cut")
    (tmp_path / "cut").mkdir()
    assert JOB.do(replace(cut, deadline=0.0)) is None
    assert list(cut.folder.glob("*.checkpoint*")) and JOB.recorded(cut) is None
    assert isinstance(perform(JOB, cut), dict)
    theirs = weights(cut)
    for name, value in weights(whole).items():
        torch.testing.assert_close(theirs[name], value, atol=1e-6, rtol=0)


def test_one_of_another_plan_or_teacher_is_made_again(done, monkeypatch, capsys):
    run, _ = done
    monkeypatch.setitem(specs.STEPS, "smoke", 3)
    assert JOB.recorded(run) is None and "another plan" in capsys.readouterr().err
    record = perform(JOB, run)
    assert record["made"]["plan"]["steps"] == 3
    model, made = teacher.models.load(teacher.weights_of(SPEC.teacher))
    with torch.no_grad():
        model.head.weight.add_(1.0)
    from companion.teachers.files import save

    save(model, run.folder / f"{SPEC.teacher}.safetensors", made)
    assert JOB.recorded(run) is None, "it was calibrated to other weights"


def test_divergence_says_where_and_the_last_good_state_is_kept(run, monkeypatch):
    """Growth without bound, from a rate no calibration survives."""
    wild = Calibration(replace(SPEC, plan=replace(SPEC.plan, peak_rate=3.0, optimizer="adam")))
    monkeypatch.setitem(specs.STEPS, "smoke", 60)
    with pytest.raises(RuntimeError, match=rf"{SPEC.name}: optimiser step \d+.*last good state is in .*checkpoint"):
        run_jobs([wild], run, workers=1)
    assert list(run.folder.glob("*.checkpoint*")) and not (run.folder / f"{SPEC.name}.json").exists()


def test_short_keeps_heads_only_where_asked():
    values = {"cosine": [[0.123456, 0.2], [0.3, 0.4]], "classes": 0.97654321, "r2": [0.1, 0.25]}
    assert calibrate.compact(values, True) == {
        "cosine": [[0.1235, 0.2], [0.3, 0.4]],
        "classes": 0.9765,
        "r2": [0.1, 0.25],
    }
    assert calibrate.compact(values, False)["cosine"] == [0.1617, 0.35]
    assert calibrate.compact({"diverged": "at 3"}, False) == {"diverged": "at 3"}


def test_unknown_equations_are_named():
    with pytest.raises(ValueError, match="no equation is called 'rung-x'"):
        files.spec_named("rung-x")


@pytest.mark.replay
def test_the_sweep_is_run_gathered_and_its_nulls_stand_beside_it(run, capsys):
    only = "rung-image-patch4-full-k1-seed0,rung-image-patch4-diffusion-seed0"
    todo = sweep.sweep_jobs(run, only)
    assert [job.name for job in todo] == [*reversed(sorted(only.split(","))), "nulls-image-patch4-seed0"]
    assert run_jobs(todo, run, workers=1)
    found = store.gathered(run.folder)
    assert sorted(found["rungs"]) == sorted(only.split(",")) and found["power"] == {}
    nulls = found[store.NULLS]["image-patch4-seed0"]
    assert {"uniform", "mean map", "untrained twin"} <= nulls["attention"].keys() and "ceiling" in nulls
    assert "100% of all" in capsys.readouterr().err
    assert all(job.recorded(run) is not None for job in todo), "all there: nothing to do"
    assert store.added({"rungs": {"old": 1}}, {"rungs": {"new": 2}}) == {"rungs": {"old": 1, "new": 2}}


def test_a_sweep_goes_on_from_what_is_committed(run, project_copy):
    only = "rung-image-patch4-laws-k1-b1-seed0,rung-text-classifier-laws-k1-b1-seed0"
    name, other = only.split(",")
    for file in store.RECORDS, store.LAWS:
        about = {"made": {"scale": "smoke" if file == store.LAWS else "book"}}
        store.write(project_copy / "data" / file, {"rungs": {name if file == store.LAWS else other: about}})
    assert sweep.committed("smoke") == {name} and sweep.committed("book") == {other}
    assert [job.name for job in sweep.sweep_jobs(run, only)][:2] == [name, other]
    assert [job.name for job in sweep.sweep_jobs(run, only, True)] == [other, "nulls-text-classifier-seed0"]


def test_the_ladder_of_laws_has_a_file_of_its_own_with_the_nulls_beside_it():
    def of(teacher):
        return {"made": {"subject": teacher}}

    rungs = {"rung-a-laws-k1-b1-seed0": of("a-seed0"), "rung-a-full-k1-seed0": of("a-seed0")}
    rungs |= {"rung-b-laws-k1-b1-seed0": of("b-seed0")}
    nulls = {"a-seed0": 1, "b-seed0": 2, "c-seed0": 3}
    found = store.divided({"rungs": rungs, "nulls": nulls, "power": {"p": 4}})
    laws, sweep = found["laws.json"], found["ladder.json"]
    assert laws["rungs"].keys() == {"rung-a-laws-k1-b1-seed0", "rung-b-laws-k1-b1-seed0"}
    assert laws["nulls"] == {"a-seed0": 1, "b-seed0": 2}
    assert sweep == {
        "rungs": {"rung-a-full-k1-seed0": of("a-seed0")},
        "nulls": {"a-seed0": 1, "c-seed0": 3},
        "power": {"p": 4},
    }


def test_records_are_written_a_line_for_each_equation_and_to_five_digits(tmp_path):
    about = {"made": {"curve": [[120, 1.3700851202011108]], "equation": "∂u/∂t"}, "judged": {"r2": [-295.66712, 0.5]}}
    store.write(tmp_path / "x.json", {"rungs": {"b": about, "a": {"share": 1 / 3, "whole": True}}, "nulls": {}})
    text = (tmp_path / "x.json").read_text()
    assert store.known(tmp_path / "x.json")["rungs"] == {
        "a": {"share": 0.33333, "whole": True},
        "b": {"made": {"curve": [[120, 1.3701]], "equation": "∂u/∂t"}, "judged": {"r2": [-295.67, 0.5]}},
    }
    assert [line[:6] for line in text.splitlines()[2:4]] == ['  "a":', '  "b":']


def test_adopted_equations_can_be_loaded_and_their_records_read(project_copy, capsys):
    """Calibrate, adopt, load: as `make train` and `make adopt` do, in a project of its own."""
    needed = ("fashion-mnist-subset.safetensors", "weights/image-patch4-seed0.safetensors")
    for name in needed:
        (project_copy / "data" / name).parent.mkdir(exist_ok=True)
        shutil.copy(COMMITTED / name, project_copy / "data" / name)
    lines = (COMMITTED / "SHA256SUMS").read_text().splitlines(keepends=True)
    (project_copy / "data" / "SHA256SUMS").write_text("".join(line for line in lines if line.split()[1] in needed))
    run = jobs.run_of("smoke", "cpu")
    other = replace(SPEC, family="diffusion", equation=specs.EQUATIONS["diffusion"])
    record = perform(JOB, run)
    perform(Calibration(other), run)
    flow = {"record": {"states": [0.123456]}, "identity": 0}
    (run.folder / "dynamics-flow-image-patch4-seed0.json").write_text(json.dumps(flow))
    (run.folder / "gradients-spectra-image-patch4-seed0.json").write_text(json.dumps(flow))
    (run.folder / "bottleneck-plane-image-patch7-seed0.json").write_text(json.dumps(flow))
    elsewhere = {"flow": {"text-classifier-seed1": {"kept": 1.0}}}
    (project_copy / "data" / "gradients.json").write_text(json.dumps(elsewhere))
    adopt.adopt("smoke")
    assert f"weights/{SPEC.name}.safetensors" in capsys.readouterr().out
    measured = json.loads(data_file("dynamics.json").read_text())
    gradients = json.loads(data_file("gradients.json").read_text())
    assert gradients == elsewhere | {"spectra": {"image-patch4-seed0": {"states": [0.12346]}}}
    assert measured == {"flow": {"image-patch4-seed0": {"states": [0.12346]}}}
    measured = json.loads(data_file("bottleneck.json").read_text())
    assert measured == {"plane": {"image-patch7-seed0": {"states": [0.12346]}}, "equation": {}}
    assert not (project_copy / "data" / "weights" / f"{other.name}.safetensors").exists(), "its record is enough"
    store.sweep_records.cache_clear()
    found = store.sweep_records()["rungs"]
    store.sweep_records.cache_clear()
    assert sorted(found) == sorted([SPEC.name, other.name])
    assert found[SPEC.name] == store.rounded(json.loads(json.dumps(record)))
    pde, made = files.load(SPEC.name)
    assert made["plan"]["steps"] == specs.STEPS["smoke"]
    # What is loaded gives what was recorded.
    held, seen = teacher.evaluation_flows(SPEC.teacher, run)
    model = teacher.cached_teacher(SPEC.teacher, run)
    again = evaluate.evaluate(pde, model, held, seen, {"1": evaluate.RESOLUTIONS["1"]})["1"]
    assert np.allclose(again["cosine"], found[SPEC.name]["judged"]["1"]["cosine"], atol=1e-4)
