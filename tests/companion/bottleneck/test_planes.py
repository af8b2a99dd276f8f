"""The jobs on small teachers: each number is the plain measure of the states that it is said to be of."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_teacher import SHAPE, Tiny, teacher

from companion.bottleneck import measures, planes, subjects
from companion.bottleneck.planes import FAMILY, Equation, Plane
from companion.jobs import Run
from companion.surrogates import study
from companion.teachers import files
from companion.teachers.recipes import Recipe
from pdelens.models import Transformer

TINY = Recipe("image-patch7", replace(SHAPE, layers=2), 1, 4)
TWIN = replace(TINY, variant="random-labels", random_labels=True, examples=50)


def sample(seed, count):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 255, (count, 8, 8), generator=generator).to(torch.uint8)
    pictures[:, :4] = pictures[:, :4] // 3 + (80 * (torch.arange(count) % 3)[:, None, None]).to(torch.uint8)
    return subjects.Sample(pictures, torch.arange(count) % 3, torch.arange(count))


def stand_in(states, labels, groups, family):
    """Return a number that changes with all that a probe is given; what is usable is tested where it is defined."""
    return float((states * (1 + labels + 2 * groups)[:, None]).abs().mean()) + len(family)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with the moments of a teacher and of its twin, and small samples."""
    for recipe in (TINY, TWIN):
        for number, path in enumerate(path for path in subjects.moments(recipe, tmp_path).values() if path is not None):
            files.save(replace(recipe, seed=number + 5).untrained(), path, {})
    monkeypatch.setitem(planes.SIZES, "smoke", (20, 60, 60, (10, 20)))
    monkeypatch.setattr(measures, "usable", stand_in)
    monkeypatch.setattr(planes, "CONVERGED", {"method": "rk4", "substeps": 4})
    monkeypatch.setattr(subjects, "held_out", lambda configuration, count, folder: sample(0, count))
    monkeypatch.setattr(subjects, "memorised", lambda recipe, count, folder: sample(1, count))
    return Run("smoke", tmp_path)


def test_a_plane_holds_the_plain_measures_of_each_moment(run):
    record = Plane(TINY).do(run)
    found = subjects.moments(TINY, run.folder)
    assert record["steps"] == list(found) and list(record["moments"]) == [str(step) for step in found]
    assert (record["examples"], record["inputs"]) == (60, 20) and record["ceiling"] == pytest.approx(math.log(3))
    seen = sample(0, 60)
    for step in (0, TINY.snapshots[-1], 4):
        row = record["moments"][str(step)]
        states = measures.pooled(subjects.flow_at(subjects.model_at(TINY, found[step]), seen))
        wanted, _ = measures.compressed(states[2], seen.labels, 20)
        assert (row["noise"][2], row["entropy"][2], row["scatter"][2]) == pytest.approx(wanted, rel=1e-6)
        assert row["binned"][1] == measures.literature(states[1][:20])["binned"] and 0 < row["error"] < 0.3
    assert row["within"][1] == pytest.approx(measures.within(states[1][:20], seen.labels[:20]), rel=1e-6)
    usable = [measures.usable(state, seen.labels, seen.groups, FAMILY) for state in states]
    assert row[FAMILY] == pytest.approx(usable, abs=1e-6)
    assert row["linear"] == pytest.approx([measures.usable(states[2], seen.labels, seen.groups, "linear")], abs=1e-6)
    assert row["ksg"][2] == pytest.approx(measures.neighbours(states[0][:20], states[2][:20]), abs=1e-6)
    assert row["curves"]["pooled"][2] == pytest.approx(measures.curve(states[2][:20], measures.POOLED)[0], abs=1e-6)
    whole = subjects.flow_at(subjects.model_at(TINY, found[4]), seen).states[1][:20]
    assert row["curves"]["tokens"][1] == pytest.approx(measures.curve(whole, measures.TOKENS)[0], abs=1e-6)
    assert row["curves"]["half, tokens"][1] == pytest.approx(measures.half_noise(whole)[0], rel=1e-6)
    assert record["counts"]["10"] == pytest.approx([measures.half_noise(states[depth][:10])[0] for depth in (1, 2)])
    between = record["moments"][str(TINY.snapshots[-1])]
    assert len(between[f"{FAMILY}, last"]) == 1 and "memorised" not in record and FAMILY not in between


def test_a_twin_is_measured_on_what_it_has_learnt_too_and_has_no_first_moment_of_its_own(run):
    record = Plane(TWIN).do(run)
    assert 0 not in record["steps"] and "0" not in record["moments"]
    rows = record["memorised"]["moments"]
    assert list(rows) == ["0", "4"] and record["memorised"]["examples"] == 60
    seen = sample(1, 60)
    states = measures.pooled(subjects.flow_at(subjects.model_at(TWIN, subjects.moments(TWIN, run.folder)[4]), seen))
    assert rows["4"]["scatter"][2] == pytest.approx(math.log(measures.scatter_share(states[2], seen.labels)) / 2)
    assert len(rows["4"][FAMILY]) == 3 and FAMILY not in rows["0"]


def test_other_activations_are_measured_without_their_labels_until_the_end(run):
    other = replace(TINY, variant="tanh", configuration=replace(TINY.configuration, activation="tanh"))
    for number, path in enumerate(path for path in subjects.moments(other, run.folder).values() if path is not None):
        files.save(replace(other, seed=number + 5).untrained(), path, {})
    rows = Plane(other).do(run)["moments"]
    assert FAMILY not in rows["0"] and FAMILY in rows["4"]
    assert all(f"{FAMILY}, last" not in row for row in rows.values())


def test_an_equation_stands_beside_its_teacher_on_the_same_inputs(run, monkeypatch):
    tiny = Tiny(teacher(0), 60)
    equation = tiny.equation("laws-k3-b2")
    one = teacher(0)
    untrained = replace(one, model=Transformer(SHAPE, 9).eval())
    given = SimpleNamespace(model=one.model, untrained=lambda: untrained)
    monkeypatch.setattr(planes, "cached_teacher", lambda name, run: given)
    monkeypatch.setattr(planes.candidates, "equation_there", lambda name, run: equation)
    record = Equation("image-patch4-seed0").do(run)
    found, seen = record["subjects"], sample(0, 60)
    flow = subjects.flow_at(teacher(0).model, seen)
    solved = measures.pooled(subjects.solved(equation, flow))
    assert found["three laws"]["noise"][3] == pytest.approx(measures.compressed(solved[3], seen.labels, 20)[0].noise)
    own = measures.pooled(flow)[3]
    assert found["teacher"]["entropy"][3] == pytest.approx(measures.matrix_entropy(own))
    assert found["three laws"]["entropy"][0] == pytest.approx(found["teacher"]["entropy"][0]), "one embedding"
    twin = measures.pooled(subjects.flow_at(untrained.model, seen))[3]
    assert found["untrained"]["entropy"][3] == pytest.approx(measures.matrix_entropy(twin))
    assert 0 < record["solver"] < 0.05


def test_jobs_wait_for_what_they_measure(tmp_path, monkeypatch):
    (tmp_path / "data" / "weights").mkdir(parents=True)
    monkeypatch.setattr(planes.candidates, "root", lambda: tmp_path)
    run = Run("book", tmp_path / "run")
    run.folder.mkdir()
    assert planes.bottleneck_jobs(run) == []
    names = planes.bottleneck_names("book")
    assert len(names) == len(set(names)) == 6 + 2 * (3 * 3 + 2)
    one = Equation("text-classifier-seed1")
    (run.folder / f"{one.law}.safetensors").write_bytes(b"law")
    assert planes.bottleneck_jobs(run) == [], "its teacher is not there"
    (run.folder / f"{one.teacher}.safetensors").write_bytes(b"teacher")
    committed = Equation("image-patch4-seed2")
    for file in (committed.teacher, committed.law):
        (tmp_path / "data" / "weights" / f"{file}.safetensors").write_bytes(b"kept")
    assert [job.name for job in planes.bottleneck_jobs(run)] == [one.name, committed.name]
    assert planes.bottleneck_jobs(run, "bottleneck-plane-*") == []
    monkeypatch.setattr(subjects, "trained_there", lambda recipe, folder: recipe.name == "text-short-seed2")
    assert [job.name for job in planes.bottleneck_jobs(run, "*plane*")] == ["bottleneck-plane-text-short-seed2"]


def test_an_identity_changes_with_the_weights(run):
    before = Plane(TINY).identity(run)
    files.save(replace(TINY, seed=77).untrained(), run.folder / f"{TINY.name}.safetensors", {})
    assert Plane(TINY).identity(run) != before
    path = run.folder / "law.safetensors"
    path.write_bytes(b"one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes.candidates, "weights_there", lambda name, run: path)
        patch.setattr(study, "weights_of", lambda name, folder: path)
        before = Equation("image-patch4-seed0").identity(run)
        path.write_bytes(b"two")
        assert Equation("image-patch4-seed0").identity(run) != before


def test_a_finished_plane_says_how_much_is_compressed():
    record = {"steps": [0, 4], "moments": {"4": {"noise": [9.0, 0.5, 0.2]}, "0": {"noise": [0, 0, 0]}}}
    assert "+0.300 nats" in Plane(TINY).line(record)
