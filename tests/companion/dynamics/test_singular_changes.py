"""The change that grows most, of a small teacher and what stands beside it, against Jacobians that are written down."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_teacher import Tiny, teacher

from companion.dynamics import changes, movers
from companion.dynamics import singular_changes as job
from companion.dynamics.perturbation_cast import NEAREST, OTHERS, TEACHER, UNTRAINED, Cast, movers_of
from companion.dynamics.rank_agreement import partial_rank_correlation
from companion.jobs import Run
from companion.surrogates import candidates
from companion.surrogates.candidates import AFFINE, ONE_STEP
from pdelens.models import Configuration, Transformer


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(movers, "STEPS", tuple(map(float, range(7))))
        tiny = Tiny(teacher(0), 6)
        cast = movers_of(tiny.teacher, {n: tiny.equations[n] for n in ("three laws", ONE_STEP)}, [teacher(1)])
        cast[AFFINE] = movers.affine_of(tiny.teacher, tiny.calibration)
        near = (torch.arange(6)[:, None] + torch.arange(5)) % 7
        labels = tiny.teacher.model(tiny.inputs).argmax(-1)
        one = Cast(cast, tiny.inputs, labels, tiny.teacher.inputs("calibration", 7)[0], torch.zeros(7).long(), near)
        yield one, job.measure(one)


def written_down(mover, u):
    """Return the Jacobian of the last state by what inputs make of the first: of an orthonormal basis of that."""

    def last(state):
        return mover.states(state[None], None, 0)[-1][0]

    matrix = torch.func.jacrev(last)(u).flatten(2).flatten(0, 1).double()
    lifting = mover.model.embed.project.weight.detach().flatten(1).double()
    basis = torch.linalg.svd(lifting, full_matrices=False)
    kept = basis.U[:, basis.S > 1e-6 * basis.S[0]]
    return matrix @ torch.kron(torch.eye(len(u), dtype=torch.float64), kept @ kept.T)


def test_gains_are_the_largest_singular_values_of_what_inputs_can_change(measured):
    cast, record = measured
    for name in (TEACHER, "three laws", ONE_STEP, OTHERS[0]):
        mover = cast.movers[name]
        start = mover.embedded(cast.inputs)
        wanted = [float(torch.linalg.matrix_norm(written_down(mover, u), 2)) for u in start]
        np.testing.assert_allclose(record["gain"][name], wanted, rtol=1e-4)
    assert set(record["gain"]) == {TEACHER, "three laws", ONE_STEP, OTHERS[0], UNTRAINED, AFFINE, NEAREST}


def test_inputs_that_make_a_part_of_the_embedding_alone_bound_the_growth():
    shape = Configuration(width=4, layers=2, heads=2, outputs=3, side=4, patch=2)
    model = Transformer(shape, 0).eval().requires_grad_(False)
    # Pixels that all have the same effect: an input moves a token in one direction, and in no other.
    weight = model.embed.project.weight
    weight.copy_(weight[:, :, :1, :1].expand_as(weight))
    small = teacher(0)
    one = type(small)("image-tiny-seed0", model, small.lattice, 4, 2, 2, small.inputs)
    mover = movers.blocks_of(one)
    point = changes.point_of(mover, torch.randint(0, 255, (2, 4, 4)).to(torch.uint8))
    found = job.leading(mover, point)
    for u, gain, direction in zip(point.u, found.gain, found.direction, strict=True):
        matrix = written_down(mover, u)
        assert float(gain) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)
        along = weight.flatten(1)[:, :1] / weight.flatten(1)[:, :1].norm()
        torch.testing.assert_close(direction @ along @ along.T, direction, atol=1e-5, rtol=0)


def test_the_teachers_growth_along_each_direction_is_a_share_of_its_greatest(measured):
    cast, record = measured
    mover, theirs = cast.movers[TEACHER], cast.movers["three laws"]
    shares = []
    for u in mover.embedded(cast.inputs):
        own, other = written_down(mover, u), written_down(theirs, u)
        direction = torch.linalg.svd(other).Vh[0]
        shares.append(float((own @ direction).norm() / torch.linalg.matrix_norm(own, 2)))
    assert record["reached"]["three laws"] == pytest.approx(np.mean(shares), rel=2e-2)
    assert record["reached"][TEACHER] == pytest.approx(1, rel=1e-2)
    assert 0 < record["reached"]["noise"] < record["reached"][TEACHER]


def test_gains_rank_examples_and_the_nearest_inputs_are_a_look_up(measured):
    cast, record = measured
    gains = record["gain"]
    assert record["ranks"][AFFINE] == {"raw": 0, "partial": 0}, "the same for every input"
    wanted = spearmanr(gains["three laws"], gains[TEACHER]).statistic
    assert record["ranks"]["three laws"]["raw"] == pytest.approx(wanted, abs=1e-4)
    mover = cast.movers[TEACHER]
    known = [float(torch.linalg.matrix_norm(written_down(mover, u), 2)) for u in mover.embedded(cast.known)]
    np.testing.assert_allclose(
        gains[NEAREST], [np.mean([known[(n + k) % 7] for k in range(5)]) for n in range(6)], rtol=1e-4
    )
    point = changes.point_of(mover, cast.inputs)
    top = mover.logits(point.states[-1], None).sort(-1).values
    given = [point.u.flatten(1).norm(dim=1).numpy(), (top[:, -1] - top[:, -2]).numpy()]
    wanted = partial_rank_correlation(np.array(gains[OTHERS[0]]), np.array(gains[TEACHER]), given)
    assert record["ranks"][OTHERS[0]]["partial"] == pytest.approx(wanted, abs=1e-4)


def test_accuracy_is_that_of_the_worse_sign(measured):
    cast, record = measured
    mover = cast.movers[TEACHER]
    point = changes.point_of(mover, cast.inputs)
    direction = job.leading(mover, point).direction
    for place, size in enumerate(job.ATTACKS):
        hits = []
        for sign in (1, -1):
            rows = zip(point.u, direction, strict=True)
            moved = torch.stack([u + sign * size * u.norm() * d / d.norm() for u, d in rows])
            answers = mover.logits(mover.states(moved, None, 0)[-1], None).argmax(-1)
            hits.append(float((answers == cast.labels).float().mean()))
        assert record["transfer"][TEACHER][place] == record["accuracy"][TEACHER][place] == pytest.approx(min(hits))


def test_a_direction_has_two_signs_and_the_worse_one_counts():
    point = changes.Point(torch.ones(2, 1, 2), None, (torch.ones(2, 1, 2),) * 2)
    # Right while the sum is above 1.9: it is 2 at first, and falls along one sign, rises along the other.
    same = SimpleNamespace(
        run=lambda u, padding, start: (u, u),
        logits=lambda last, padding: torch.cat([last.sum(2) - 1.9, 1.9 - last.sum(2)], 1),
    )
    for sign in (1.0, -1.0):
        found = job._attacked(same, point, sign * torch.ones(2, 1, 2), torch.zeros(2).long())
        assert found == [1, 0, 0, 0]


def test_a_job_is_of_the_weights_that_it_reads(tmp_path, monkeypatch):
    run, one = Run("smoke", tmp_path), job.SingularChanges("text-classifier-seed1")
    before = one.identity(run)
    assert one.name == "singular-text-classifier-seed1" and one.cost(run) == 4
    assert set(before["weights"]) == {
        "text-classifier-seed1",
        "text-classifier-seed2",
        "rung-text-classifier-laws-k3-b2-seed1",
        "rung-text-classifier-full-k1-one-step-seed1",
    }
    assert "0.250" in one.line({"reached": {"three laws": 0.25}})
    monkeypatch.setattr(job, "cast_of", lambda *about: about)
    monkeypatch.setattr(job, "measure", lambda cast: cast[:4])
    assert one.do(run) == ["text-classifier-seed1", ["text-classifier-seed2"], 4, 6]
    assert candidates.FAMILIES[job.NAMES[2]] == "full-k1-one-step"
