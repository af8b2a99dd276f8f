"""The jobs on Jacobians between depths: a small teacher's against Jacobians by automatic differentiation."""

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import spectra
from companion.dynamics.gradients import TEACHER, UNTRAINED
from companion.jobs import Run
from companion.surrogates.candidates import ONE_STEP, OTHER
from companion.theory import token_influence as maps
from pdelens.pde.integrate import integrate

SOLVER = {"method": "rk4", "substeps": 2}


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "CONVERGED", SOLVER)
        for module in (spectra, maps):
            patch.setattr(module, "STEPS", tuple(map(float, range(7))))
        yield Tiny(teacher(0), 3, other=teacher(1))


def layer_jacobians(model, example):
    """Return the Jacobian (entries, entries) of every layer at one example's own states."""
    inputs, found = example, []
    u = model.embedding(inputs[None]).detach()
    for block in model.blocks:
        found.append(torch.func.jacrev(lambda v, b=block, u=u: b(v.view_as(u), None).flatten())(u.flatten()))
        u = block(u, None).detach()
    return found


def whole(model, example):
    product = torch.eye(16)
    for one in layer_jacobians(model, example):
        product = one @ product
    return product


def test_singular_values_are_those_of_the_product_of_layers(tiny):
    found = spectra.spectra(tiny, 2, 3, 0)
    models, exact = found["models"], [whole(tiny.teacher.model, tiny.inputs[e]) for e in (0, 1)]
    values = [torch.linalg.svdvals(one)[:3].log() for one in exact]
    np.testing.assert_allclose(models[TEACHER]["log"], torch.stack(values), atol=1e-3)
    assert models[TEACHER]["gap"] == 0 and models[TEACHER]["enter"] == pytest.approx(1)
    assert found["chance"] == pytest.approx(3 / 16)
    theirs = torch.stack([torch.linalg.svdvals(whole(tiny.other.model, tiny.inputs[e]))[:3].log() for e in (0, 1)])
    np.testing.assert_allclose(models[OTHER]["log"], theirs, atol=1e-3)
    gap = (theirs - torch.stack(values)).square().mean(1).sqrt().mean()
    assert models[OTHER]["gap"] == pytest.approx(float(gap), abs=1e-3)
    assert "enter" not in models[OTHER] and "enter" not in models[UNTRAINED]
    assert {"three laws", "one law", ONE_STEP} <= models.keys()


def test_directions_that_meet_are_those_of_the_solutions_jacobian(tiny):
    pde, u = tiny.equations["three laws"], tiny.reference.states[0][:1]

    def solution(v):
        steps = [float(t) for t in range(7)]
        return integrate(pde, v.view_as(u), steps, "rk4", check_steps=False).states[-1].flatten()

    ours = torch.linalg.svd(torch.func.jacrev(solution)(u.flatten()))
    theirs = torch.linalg.svd(whole(tiny.teacher.model, tiny.inputs[0]))
    found = spectra.spectra(tiny, 1, 2, 0)["models"]["three laws"]
    assert found["enter"] == pytest.approx(float((theirs.Vh[:2] @ ours.Vh[:2].T).square().sum() / 2), abs=1e-3)
    assert found["leave"] == pytest.approx(float((theirs.U[:, :2].T @ ours.U[:, :2]).square().sum() / 2), abs=1e-3)


def test_volumes_are_determinants_of_layers(tiny):
    found = spectra.volumes(tiny, 30, True)
    jacobians = layer_jacobians(tiny.teacher.model, tiny.inputs[0])
    exact = [float(torch.linalg.slogdet(one).logabsdet) / 16 for one in jacobians]
    np.testing.assert_allclose(found["layers"][TEACHER]["log"], exact, atol=1e-5)
    traces = [float(one.diagonal().mean()) - 1 for one in jacobians]
    np.testing.assert_allclose(found["layers"][TEACHER]["trace"], traces, atol=1e-5)
    assert set(found["layers"]) == {TEACHER, UNTRAINED, ONE_STEP}
    assert found["check"]["liouville"] == pytest.approx(found["check"]["exact"], abs=5 * found["check"]["error"] + 1e-3)
    few = spectra.volumes(tiny, 2, False)
    assert set(few) == {"layers"} and set(few["layers"]) == {TEACHER}, "what is measured of every seed"


def test_normality_is_that_of_each_layers_branch(tiny):
    found = spectra.normality(tiny, 2, 4)
    branches = [[one - torch.eye(16) for one in layer_jacobians(tiny.teacher.model, tiny.inputs[e])] for e in (0, 1)]
    skew = np.mean([[float((a - a.T).square().sum() / (4 * a.square().sum())) for a in one] for one in branches], 0)
    np.testing.assert_allclose(found[TEACHER]["asymmetry"], skew, rtol=1e-4)
    assert set(found) == {TEACHER, UNTRAINED, "three laws"} and len(found["three laws"]["departure"]) == 6


def test_a_job_is_of_its_weights_and_its_sizes(tmp_path):
    run, job = Run("smoke", tmp_path), spectra.Spectra("image-patch4-seed2")
    assert job.name == "gradients-spectra-image-patch4-seed2" and job.other == "image-patch4-seed0"
    assert "image-patch4-seed0" in job.identity(run)["weights"]
    assert job.identity(Run("book", tmp_path)) != job.identity(run)
    assert job.cost(Run("book", tmp_path)) > job.cost(run) > 0
    found = {"0": {"models": {"three laws": {"enter": 0.25}}}}
    said = job.line({"volume": {"layers": {TEACHER: {"log": [0.1, 0.2]}}}, "spectra": found})
    assert "0.300" in said and "0.250" in said
