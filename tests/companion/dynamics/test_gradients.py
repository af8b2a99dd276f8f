"""The jobs on gradients: a small teacher's, its equations' and the nulls' against plain definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_teacher import Tiny, teacher

from companion.dynamics import gradient_jobs, gradients
from companion.dynamics.gradients import CLASS, GIVEN, NEAREST, TEACHER, THROUGH, UNTRAINED
from companion.dynamics.input_gradients import InputGradient, input_matrix
from companion.jobs import Run
from companion.surrogates import candidates
from companion.surrogates.candidates import AFFINE, IDENTITY, ONE_STEP, SOLVED, affinely
from pdelens.pde.integrate import integrate

TIMES = [float(time) for time in range(7)]


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "STEPS", tuple(TIMES))
        patch.setattr(gradients, "SUBSTEPS", 1)
        patch.setattr(gradients, "AT_ONCE", 2)
        patch.setattr(gradients, "cached_teacher", lambda name, *run: teacher(int(name[-1])))
        tiny = Tiny(teacher(0), 5, other=teacher(1))
        yield tiny, gradients.measure(tiny, 12, ["image-tiny-seed1", "image-tiny-seed2"])


def own_loss(tiny, state, model=None):
    labels = tiny.teacher.inputs("heldout", 5)[1]
    return F.cross_entropy((model or tiny.teacher.model).readout(state), labels, reduction="sum")


def own_gradients(tiny, model=None):
    model, states = model or tiny.teacher.model, []
    u = model.embedding(tiny.inputs).detach().requires_grad_()
    states.append(u)
    for block in model.blocks:
        states.append(block(states[-1], None))
    return torch.autograd.grad(own_loss(tiny, states[-1], model), states)


def cosines(ours, theirs):
    return torch.cosine_similarity(ours.flatten(1).double(), theirs.flatten(1).double()).mean()


def entries(gradient, model):
    found = InputGradient(gradient, input_matrix(model))
    return torch.stack([found.entries(example) for example in range(len(gradient))])


def test_an_equations_gradient_is_that_of_its_steps(measured):
    tiny, record = measured
    pde, u = tiny.equations["three laws"], tiny.reference.states[0].clone().requires_grad_()
    last = integrate(pde, u, TIMES, "rk4", check_steps=False).states[-1]
    (exact,) = torch.autograd.grad(own_loss(tiny, last), u)
    wanted = own_gradients(tiny)
    assert record["depths"]["three laws"][0] == pytest.approx(float(cosines(exact, wanted[0])), abs=1e-4)
    model = tiny.teacher.model
    by_input = cosines(entries(exact, model), entries(wanted[0], model))
    assert record["input"]["three laws"]["cosine"] == pytest.approx(float(by_input), abs=1e-4)
    sizes = [gradient.flatten(1).norm(dim=1) for gradient in wanted]
    ratio = (sizes[2] / sizes[-1]).log10().mean()
    assert record["norms"][TEACHER][2] == pytest.approx(float(ratio), abs=1e-5)
    ours = torch.autograd.grad(own_loss(tiny, again := last.detach().requires_grad_()), again)[0].flatten(1).norm(dim=1)
    assert record["norms"]["three laws"][0] == pytest.approx(
        float((exact.flatten(1).norm(dim=1) / ours).log10().mean()), abs=1e-4
    )


def test_the_one_step_field_goes_back_through_its_own_steps(measured):
    tiny, record = measured
    field, u = tiny.equations[ONE_STEP], tiny.reference.states[0].clone().requires_grad_()
    state = u
    for layer in range(6):
        for term in field.terms.values():
            state = state + term(float(layer), state)
    (exact,) = torch.autograd.grad(own_loss(tiny, state), u)
    assert record["depths"][ONE_STEP][0] == pytest.approx(float(cosines(exact, own_gradients(tiny)[0])), abs=1e-4)
    assert SOLVED in record["depths"] and record["depths"][SOLVED] != record["depths"][ONE_STEP]


def test_the_linear_nulls_are_given_the_last_gradient(measured):
    tiny, record = measured
    wanted = own_gradients(tiny)
    for depth in range(7):
        kept = float(cosines(wanted[-1], wanted[depth]))
        assert record["depths"][IDENTITY][depth] == pytest.approx(kept, abs=1e-5)
    states, mask = tiny.calibration.states, tiny.calibration.mask
    u = torch.randn(5, 4, 4).requires_grad_()
    moved = affinely(states[4], states[5], mask, u)
    moved = affinely(states[5], states[6], mask, moved)
    (exact,) = torch.autograd.grad((moved * wanted[-1]).sum(), u)
    assert record["depths"][AFFINE][4] == pytest.approx(float(cosines(exact, wanted[4])), abs=1e-3)
    assert record["depths"][GIVEN][6] == pytest.approx(1)
    pde, u = tiny.equations["three laws"], tiny.reference.states[0].clone().requires_grad_()
    last = integrate(pde, u, TIMES, "rk4", check_steps=False).states[-1]
    (exact,) = torch.autograd.grad((last * wanted[-1]).sum(), u)
    assert record["depths"][GIVEN][0] == pytest.approx(float(cosines(exact, wanted[0])), abs=1e-4)


def test_the_last_way_through_the_transformers_first_layer(measured):
    tiny, record = measured
    u = tiny.teacher.model.embedding(tiny.inputs).detach().requires_grad_()
    first = integrate(tiny.equations["three laws"], u.detach(), TIMES[:2], "rk4", check_steps=False).states[-1]
    first = first.detach().requires_grad_()
    last = integrate(tiny.equations["three laws"], first, TIMES[1:], "rk4", check_steps=False).states[-1]
    (ours,) = torch.autograd.grad(own_loss(tiny, last), first)
    (exact,) = torch.autograd.grad((tiny.teacher.model.blocks[0](u, None) * ours).sum(), u)
    model = tiny.teacher.model
    wanted = cosines(entries(exact, model), entries(own_gradients(tiny)[0], model))
    assert record["input"][THROUGH]["cosine"] == pytest.approx(float(wanted), abs=1e-4)


def test_strangers_are_compared_by_the_input_alone(measured):
    tiny, record = measured
    other = teacher(1).model
    theirs = entries(own_gradients(tiny, other)[0], other)
    own = entries(own_gradients(tiny)[0], tiny.teacher.model)
    assert record["input"]["seed 1"]["cosine"] == pytest.approx(float(cosines(theirs, own)), abs=1e-5)
    assert {"seed 2", UNTRAINED, NEAREST, CLASS} <= record["input"].keys()
    assert "seed 1" not in record["depths"] and "seed 1" in record["norms"]
    # Weights that never were trained are drawn as the tiny teacher's are.
    assert record["input"][UNTRAINED]["cosine"] == pytest.approx(1)
    assert record["solver"] > 0 and record["examples"] == 5 and record["known"] == 12


def test_a_class_says_what_its_calibration_examples_do(measured):
    tiny, record = measured
    pictures, labels = tiny.teacher.inputs("calibration", 12)
    u = tiny.teacher.model.embedding(pictures).detach().requires_grad_()
    state = u
    for block in tiny.teacher.model.blocks:
        state = block(state, None)
    loss = F.cross_entropy(tiny.teacher.model.readout(state), labels, reduction="sum")
    known = entries(torch.autograd.grad(loss, u)[0], tiny.teacher.model)
    own = entries(own_gradients(tiny)[0], tiny.teacher.model)
    mean = (known / known.flatten(1).norm(dim=1)[:, None, None]).mean(0)
    assert record["input"][CLASS]["cosine"] == pytest.approx(float(cosines(mean.expand_as(own), own)), abs=1e-5)
    near = [int((pictures.float() - one.float()).flatten(1).norm(dim=1).argmin()) for one in tiny.inputs]
    assert record["input"][NEAREST]["cosine"] == pytest.approx(float(cosines(known[near], own)), abs=1e-5)


def test_a_loss_keeps_what_float32_has_no_room_for():
    loss = gradients.Loss(teacher(0), torch.tensor([0]), torch.ones(1, 4).bool())
    logits = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
    (found,) = torch.autograd.grad(loss.of(logits), logits)
    assert float(found[0, 0]) == pytest.approx(-2 * np.exp(-20.0), rel=1e-4, abs=0)


def test_a_job_is_of_all_weights_that_it_reads(tmp_path, monkeypatch):
    run, job = Run("smoke", tmp_path), gradients.Gradients("text-classifier-seed1")
    assert job.name == "gradients-flow-text-classifier-seed1"
    assert gradients.other_seeds("text-classifier-seed1", run) == ["text-classifier-seed0", "text-classifier-seed2"]
    before = job.identity(run)
    assert set(before["weights"]) >= {"text-classifier-seed0", "rung-text-classifier-laws-k3-b2-seed1"}
    (tmp_path / "rung-text-classifier-laws-k1-b2-seed1.safetensors").write_bytes(b"other")
    assert job.identity(run)["weights"] != before["weights"] and job.identity(Run("book", tmp_path)) != before
    there = ("text-classifier-seed1", "rung-text-classifier-laws-k3-b2-seed1")
    monkeypatch.setattr(candidates, "weights_there", lambda name, run: tmp_path if name in there else None)
    kinds = ["flow", "spectra", "adjoints", "traces"]
    wanted = [f"gradients-{kind}-text-classifier-seed1" for kind in kinds]
    assert [job.name for job in gradient_jobs.gradient_jobs(run)] == wanted
    assert gradient_jobs.gradient_jobs(run, "gradients-flow-image-*") == []
    names = gradient_jobs.gradient_names()
    assert len(names) == len(set(names)) == 32 and set(wanted) <= set(names)
    assert "0.700" in job.line({"input": {"three laws": {"cosine": 0.7}}}) and job.cost(run) > 0
