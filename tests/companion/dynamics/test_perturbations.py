"""The jobs on perturbations: what is measured of a small teacher, against plain definitions."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_teacher import Tiny, teacher

from companion.dynamics import changes, exponents, movers, perturbation_cast, perturbation_jobs
from companion.dynamics import perturbations as job
from companion.dynamics.changes import GRADIENT, NOISE, SHIFT, SMALL, TOKEN
from companion.dynamics.perturbation_cast import AGAIN, NEAREST, OTHERS, TEACHER, UNTRAINED, Cast, movers_of
from companion.jobs import Run
from companion.surrogates import candidates
from companion.surrogates.candidates import AFFINE, ONE_STEP, SOLVED


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(movers, "STEPS", tuple(map(float, range(7))))
        patch.setattr(perturbation_cast, "REFINED", {"image": 1})
        patch.setattr(exponents, "ROUNDS", 8)
        tiny = Tiny(teacher(0), 6)
        fields = {name: pde for name, pde in tiny.equations.items() if name != "one law"}
        cast = movers_of(tiny.teacher, fields, [teacher(1), teacher(2)])
        cast[AFFINE] = movers.affine_of(tiny.teacher, tiny.calibration)
        known = tiny.teacher.inputs("calibration", 9)[0]
        near = torch.arange(6)[:, None] + torch.arange(4)
        labels = torch.tensor([0, 1, 2, 0, 1, 2])
        one = Cast(cast, tiny.inputs, labels, known, torch.zeros(9, dtype=torch.long), near)
        yield one, job.measure(one, 3, 2, 1)


def jacobian(model, u, start=0):
    def function(state):
        for block in model.blocks[start:]:
            state = block(state[None], None)[0]
        return state

    return torch.func.jacrev(function)(u).flatten(2).flatten(0, 1)


def test_the_cast_is_the_teacher_its_fields_other_seeds_and_nulls(measured):
    cast, record = measured
    assert set(record["accuracy"]) == {TEACHER, "three laws", ONE_STEP, SOLVED, *OTHERS, UNTRAINED, AFFINE}
    assert cast.movers[OTHERS[1]].model is not cast.movers[TEACHER].model
    assert record["examples"] == 6 and set(record["solver"]) == {"three laws", SOLVED}


def test_growth_along_the_gradient_is_that_of_the_jacobian(measured):
    cast, record = measured
    mover = cast.movers[TEACHER]
    point = changes.point_of(mover, cast.inputs)
    direction = mover.lifted(mover.attack(point.u, None, cast.labels))
    wanted = []
    for u, v in zip(point.u, direction, strict=True):
        wanted.append(float((jacobian(mover.model, u) @ v.flatten()).norm() / v.norm()))
    np.testing.assert_allclose(record["sensitivity"][GRADIENT][TEACHER], wanted, rtol=1e-2)
    found = record["growth"][GRADIENT][TEACHER]
    small = found["sizes"].index(SMALL)
    assert found["by size"][small] == pytest.approx(np.exp(np.log(wanted).mean()), rel=1e-2)
    assert found["by depth"][-1] == pytest.approx(found["by size"][small]) and found["by depth"][0] == pytest.approx(1)
    assert found["ratio"][small] == 1 and len(record["growth"][GRADIENT][SOLVED]["sizes"]) == 2


def test_sensitivity_to_noise_is_the_root_mean_square_over_streams_of_ones_own(measured):
    cast, record = measured
    mover = cast.movers[TEACHER]
    point, squares = changes.point_of(mover, cast.inputs), []
    for draw in range(3):
        z = changes.drawn_noise(mover, point, job.crc32(f"{TEACHER}, held-out, {NOISE}, {draw}".encode()))
        direction = mover.lifted(z)
        rows = zip(point.u, direction, strict=True)
        squares.append([float((jacobian(mover.model, u) @ v.flatten()).norm() / v.norm()) ** 2 for u, v in rows])
    np.testing.assert_allclose(record["sensitivity"][NOISE][TEACHER], np.sqrt(np.mean(squares, 0)), rtol=1e-2)
    assert record["sensitivity"][NOISE][AGAIN] != record["sensitivity"][NOISE][TEACHER]


def test_ranks_are_of_the_recorded_sensitivities(measured):
    record = measured[1]
    for kind in (NOISE, TOKEN, GRADIENT, SHIFT):
        table, own = record["sensitivity"][kind], record["sensitivity"][kind][TEACHER]
        for name in ("three laws", OTHERS[0], NEAREST):
            wanted = spearmanr(table[name], own).statistic
            assert record["ranks"][kind][name]["raw"] == pytest.approx(wanted, abs=1e-4)
        given = [record["known"][name] for name in ("norm", "margin", kind)]
        wanted = job.partial_rank_correlation(np.array(table["three laws"]), np.array(own), list(map(np.array, given)))
        assert record["ranks"][kind]["three laws"]["partial"] == pytest.approx(wanted, abs=1e-4)
        assert TEACHER not in record["ranks"][kind] and (AGAIN in record["ranks"][kind]) == (kind in (NOISE, TOKEN))


def test_a_look_up_is_the_mean_of_its_neighbours(measured):
    cast, record = measured
    mover = cast.movers[TEACHER]
    point, each = changes.point_of(mover, cast.known), []
    for pictures in changes.shifted(cast.known):
        found = changes.grown(mover, point, mover.embedded(pictures) - point.u)
        each.append(found.growth[:, -1].square())
    known = torch.stack(each).mean(0).sqrt()
    wanted = [float(known[place : place + 4].mean()) for place in range(6)]
    np.testing.assert_allclose(record["sensitivity"][SHIFT][NEAREST], wanted, rtol=1e-3)


def test_accuracy_and_transfer_are_shares_of_right_answers(measured):
    cast, record = measured
    mover, other = cast.movers[TEACHER], cast.movers[OTHERS[0]]
    answers = mover.teacher.model(cast.inputs).argmax(-1)
    assert record["accuracy"][TEACHER] == pytest.approx(float((answers == cast.labels).float().mean()), abs=1e-4)
    own, theirs = (changes.point_of(one, cast.inputs) for one in (mover, other))
    attack = other.attack(theirs.u, None, cast.labels)
    change = changes.sized(mover, own, attack, 1.0)
    u = own.u + change
    for block in mover.model.blocks:
        u = block(u, None)
    hits = mover.model.readout(u).argmax(-1) == cast.labels
    assert record["transfer"][OTHERS[0]][-1] == pytest.approx(float(hits.float().mean()), abs=1e-4)


def test_exponents_are_log_singular_values_a_layer(measured):
    cast, record = measured
    mover = cast.movers[TEACHER]
    point = changes.point_of(mover, cast.inputs)
    for start in (0, 1):
        rows = [torch.linalg.svdvals(jacobian(mover.model, u, start)).log() for u in point.states[start][:1]]
        wanted = torch.stack(rows).mean(0)[: exponents.COUNT] / (6 - start)
        np.testing.assert_allclose(record["exponents"][TEACHER][str(start)], wanted.numpy(), atol=2e-3)
    assert SOLVED not in record["exponents"] and OTHERS[1] not in record["sphere"]


def test_noise_is_split_at_the_norms_sphere(measured):
    cast, record = measured
    mover = cast.movers[TEACHER]
    point = changes.point_of(mover, cast.inputs)
    noise = torch.randn(point.u.shape, generator=torch.Generator().manual_seed(3))
    u, found = point.states[1], []
    x = u - u.mean(-1, keepdim=True)
    flat = noise - noise.mean(-1, keepdim=True)
    tangent = flat - x * (x * flat).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True)
    for part in (tangent, noise - tangent):
        rows = zip(u, part, strict=True)
        grew = [float((jacobian(mover.model, a, 1) @ b.flatten()).norm() / b.norm()) for a, b in rows]
        found.append(np.exp(np.log(grew).mean()))
    np.testing.assert_allclose(record["sphere"][TEACHER]["1"], found, rtol=1e-2)


def test_what_is_dear_has_fewer_draws_and_what_decides_nothing_the_fewest(measured):
    cast = measured[0]
    draws = {name: job.draws_for(mover, name, 16, 6) for name, mover in cast.movers.items()}
    assert draws[TEACHER] == draws[ONE_STEP] == draws[AFFINE] == 16
    assert draws["three laws"] == 6 and draws[SOLVED] == 3


def test_a_job_is_of_its_weights_and_its_sizes(tmp_path):
    run, one = Run("smoke", tmp_path), job.Perturbations("image-patch4-seed2")
    assert one.others == ("image-patch4-seed0", "image-patch4-seed1")
    assert one.name == "perturbations-image-patch4-seed2"
    before = one.identity(run)
    assert {"image-patch4-seed2", "image-patch4-seed1", "rung-image-patch4-laws-k3-b1-seed2"} <= set(before["weights"])
    (tmp_path / "rung-image-patch4-laws-k3-b2-seed2.safetensors").write_bytes(b"other")
    assert one.identity(run)["weights"] != before["weights"]
    assert job.Perturbations("a-seed0").cost(Run("book", tmp_path)) > one.cost(run) > 0
    assert "0.700" in one.line({"ranks": {NOISE: {"three laws": {"partial": 0.7}}}})


def test_only_teachers_whose_law_is_there_are_measured(tmp_path, monkeypatch):
    run, there = Run("smoke", tmp_path), ("text-classifier-seed1", "rung-text-classifier-laws-k3-b2-seed1")
    monkeypatch.setattr(candidates, "weights_there", lambda name, run: tmp_path if name in there else None)
    found = [one.name for one in perturbation_jobs.perturbation_jobs(run)]
    assert found == ["perturbations-text-classifier-seed1", "singular-text-classifier-seed1"]
    assert len(set(perturbation_jobs.perturbation_names())) == 12


def test_each_examples_sensitivity_is_kept_of_the_first_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "measure", lambda cast, *how: {"sensitivity": {"a": cast}, "known": {"b": how}})
    monkeypatch.setattr(job, "cast_of", lambda *about: about[:4])
    run = Run("smoke", tmp_path)
    first, second = (job.Perturbations(f"image-patch4-seed{seed}").do(run) for seed in (0, 1))
    assert first["known"] == {"b": (2, 1, 1)} and first["sensitivity"]["a"][2:] == (8, 8)
    assert second == {"sensitivity": {}, "known": {}}
