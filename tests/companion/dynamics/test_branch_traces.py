"""Traces of branches on a small teacher, against Jacobians by automatic differentiation."""

import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import branch_traces
from companion.dynamics.gradients import TEACHER
from companion.jobs import Run
from companion.surrogates.candidates import ONE_STEP, SOLVED
from pdelens.pde.integrate import integrate


class WithBlocks(Tiny):
    names = (*Tiny.names, branch_traces.FAMILY)


def mean_trace(function, states):
    found = [torch.func.jacrev(lambda v: function(v.view(1, 4, 4)).flatten())(u.flatten()) for u in states]
    return float(torch.stack([one.diagonal().mean() - 1 for one in found]).mean())


def test_traces_are_those_of_the_jacobians_on_each_models_own_states():
    tiny = WithBlocks(teacher(0), 2)
    found = branch_traces.branches(tiny, 150)
    assert set(found) == {TEACHER, branch_traces.BLOCKS, ONE_STEP}
    own = [
        mean_trace(lambda v, block=block: block(v, None), tiny.reference.states[depth])
        for depth, block in enumerate(tiny.teacher.model.blocks)
    ]
    assert found[TEACHER] == pytest.approx(own, abs=0.03)
    field, u = tiny.equations[ONE_STEP], tiny.reference.states[0]

    def step(u, layer):
        for term in field.terms.values():
            u = u + term(float(layer), u)
        return u

    for layer in range(6):
        wanted = mean_trace(lambda v, layer=layer: step(v, layer), u)
        assert found[ONE_STEP][layer] == pytest.approx(wanted, abs=0.03)
        u = step(u, layer).detach()


def test_a_job_is_of_the_blocks_weights_too(tmp_path):
    job, run = branch_traces.BranchTraces("image-patch4-seed2"), Run("smoke", tmp_path)
    before = job.identity(run)
    (tmp_path / f"rung-image-patch4-{branch_traces.FAMILY}-seed2.safetensors").write_bytes(b"other")
    assert job.identity(run) != before and job.name == "gradients-traces-image-patch4-seed2"
    said = job.line({"traces": {"a": [0.25, 0.5]}, "flows": {"b": {"total": -1.0}}})
    assert said == "a 0.750, b -1.000"


@pytest.mark.replay
def test_solutions_volumes_are_sums_of_units_and_of_terms_and_the_jacobians_determinant(monkeypatch):
    times = tuple(map(float, range(7)))
    monkeypatch.setattr(branch_traces, "STEPS", times)
    monkeypatch.setattr(branch_traces, "CONVERGED", {"method": "rk4", "substeps": 1})
    tiny = Tiny(teacher(0), 2)
    found = branch_traces.solutions(tiny, 1, 100)
    assert set(found) == {"three laws", "one law", SOLVED}
    law, pde, u = found["three laws"], tiny.equations["three laws"], tiny.reference.states[0][:1]
    assert sum(law["units"]) == pytest.approx(law["total"]) == pytest.approx(sum(law["terms"].values()))
    assert set(law["terms"]) == {"diffusion", "attention", "reaction"} and len(law["units"]) == 6
    solved = integrate(pde, u, times, "rk4", check_steps=False).states
    last = torch.func.jacrev(
        lambda v: integrate(pde, v.view(1, 4, 4), [5.0, 6.0], "rk4", 4, check_steps=False).states[-1].flatten()
    )(solved[5].flatten())
    exact = float(torch.linalg.slogdet(last).logabsdet) / 16
    assert law["units"][5] == pytest.approx(exact, abs=5 * law["error"] + 1e-3)
