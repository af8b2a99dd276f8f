"""Gradients at half the budget and of the architecture learnt anew, on a small teacher, against their own steps."""

import pytest
import torch
import torch.nn.functional as F
from tiny_teacher import Tiny, teacher

from companion.dynamics import gradient_budgets, gradients
from companion.dynamics.gradient_budgets import FAMILIES, HALVES
from companion.dynamics.input_gradients import InputGradient, input_matrix
from companion.jobs import Run
from companion.surrogates.candidates import RELEARNT
from pdelens.pde.integrate import integrate

TIMES = [float(time) for time in range(7)]


class Bound(Tiny):
    """Its equations are those that say how far a budget binds."""

    names = tuple(FAMILIES.values())


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "STEPS", tuple(TIMES))
        patch.setattr(gradients, "SUBSTEPS", 1)
        tiny = Bound(teacher(0), 5)
        yield tiny, gradient_budgets.measure(tiny)


def cosine(tiny, last, u):
    model, labels = tiny.teacher.model, tiny.teacher.inputs("heldout", 5)[1]
    (ours,) = torch.autograd.grad(F.cross_entropy(model.readout(last(u)), labels, reduction="sum"), u)
    (own,) = torch.autograd.grad(F.cross_entropy(model.readout(blocks(model, u)), labels, reduction="sum"), u)
    rows = [InputGradient(each, input_matrix(model)) for each in (ours, own)]
    entries = [torch.stack([row.entries(example) for example in range(5)]).flatten(1).double() for row in rows]
    return float(torch.cosine_similarity(*entries).mean())


def blocks(model, u):
    for block in model.blocks:
        u = block(u, None)
    return u


def test_laws_are_solved_and_the_architecture_is_stepped(measured):
    tiny, record = measured
    u = tiny.reference.states[0].clone().requires_grad_()
    for law in ("three laws", "one law"):
        pde = tiny.equation(FAMILIES[HALVES[law]])
        wanted = cosine(tiny, lambda u, pde=pde: integrate(pde, u, TIMES, "rk4", check_steps=False).states[-1], u)
        assert record["input"][HALVES[law]]["cosine"] == pytest.approx(wanted, abs=1e-4)
    field = tiny.equation(FAMILIES[RELEARNT])

    def stepped(state):
        for layer in range(6):
            for term in field.terms.values():
                state = state + term(float(layer), state)
        return state

    assert record["input"][RELEARNT]["cosine"] == pytest.approx(cosine(tiny, stepped, u), abs=1e-5)


def test_a_job_knows_its_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(
        gradient_budgets, "weight_digests", lambda teachers, names, run: {n: "x" for n in (*teachers, *names)}
    )
    job = gradient_budgets.GradientBudget("image-patch4-seed0")
    found = job.identity(Run("book", tmp_path))
    assert job.name == "gradients-budget-image-patch4-seed0" and found["examples"] == 64
    assert set(found["weights"]) == {
        "image-patch4-seed0",
        "rung-image-patch4-laws-k1-b1-seed0",
        "rung-image-patch4-laws-k3-b1-seed0",
        "rung-image-patch4-laws-blocks-b2-seed0",
    }
