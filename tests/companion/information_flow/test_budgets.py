"""Curves at half the budget and of the architecture learnt anew, on a small teacher whose equations are drawn here."""

import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.information_flow import budgets, content
from companion.information_flow import targets as asked
from companion.jobs import Run
from companion.surrogates.candidates import BINDING, HALF, RELEARNT
from pdelens.pde.integrate import integrate


class Bound(Tiny):
    """Its equations are those that say how far a budget binds."""

    names = tuple(BINDING.values())


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(asked, "DISTANCES", (0, 1))
    monkeypatch.setattr(asked, "TARGETS", ("itself", "distance 1", "class"))
    monkeypatch.setattr(budgets, "STEPS", tuple(map(float, range(7))))
    monkeypatch.setattr(content, "STEPS", tuple(map(float, range(7))))
    monkeypatch.setattr(content, "_BATCH", 16)


def test_each_is_probed_as_it_is_read(short, monkeypatch):
    small, codes, seen = Bound(teacher(0), 40), torch.arange(160).reshape(40, 4) % 3, {}
    which = asked.drawn(codes, torch.ones(40, 4), small.teacher.lattice, 40, 2)
    monkeypatch.setattr(budgets, "chosen_targets", lambda one, examples, each: (which, [], []))

    def curve(states, targets, labels):
        seen[len(seen)] = states
        return {"itself": ([0.0, float(len(seen))], 1.0)}

    monkeypatch.setattr(budgets, "curve", curve)
    found = budgets.measure(small, 40, 2)
    assert found == {"curves": {HALF: {"itself": [0.0, 1.0]}, RELEARNT: {"itself": [0.0, 2.0]}}}
    start = small.reference.states[0]
    law, field = (small.equation(BINDING[name]) for name in (HALF, RELEARNT))
    solution = integrate(law, start, list(range(7)), "rk4", check_steps=False).states[6]
    state = start
    for layer in range(6):
        for term in field.terms.values():
            state = state + term(float(layer), state)
    for row in (0, 33, 79):
        place = which.examples[row], which.readers[1][row]
        torch.testing.assert_close(seen[0][1][6, row], solution[place], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen[1][1][6, row], state[place], atol=1e-5, rtol=1e-5)


def test_a_job_knows_its_weights_and_its_pool(monkeypatch, tmp_path):
    job, asked_for = budgets.TokenBudget("text-classifier-seed0"), {}
    monkeypatch.setattr(budgets, "weight_digests", lambda teachers, names, run: {n: "x" for n in (*teachers, *names)})
    found = job.identity(Run("smoke", tmp_path))
    assert job.name == "information-flow-budget-text-classifier-seed0"
    assert set(found["weights"]) == {
        "text-classifier-seed0",
        "rung-text-classifier-laws-k3-b1-seed0",
        "rung-text-classifier-laws-blocks-b2-seed0",
    }
    monkeypatch.setattr(budgets.candidates, "beside", lambda name, pool, run: asked_for.setdefault(name, pool))
    monkeypatch.setattr(budgets, "measure", lambda one, examples, each: {"curves": [one, examples, each]})
    assert job.do(Run("smoke", tmp_path)) == {"curves": [120, 40, 2]}
    assert budgets.TokenBudget("image-patch4-seed0").do(Run("smoke", tmp_path)) == {"curves": [40, 40, 2]}
