"""Traces of branches on a small teacher, against Jacobians by automatic differentiation."""

import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import branch_traces
from companion.dynamics.gradients import TEACHER
from companion.jobs import Run
from companion.surrogates.candidates import ONE_STEP


class WithBlocks(Tiny):
    names = (*Tiny.names, branch_traces.FAMILY)


def mean_trace(function, states):
    found = [torch.func.jacrev(lambda v: function(v.view(1, 4, 4)).flatten())(u.flatten()) for u in states]
    return float(torch.stack([one.diagonal().mean() - 1 for one in found]).mean())


def test_traces_are_those_of_the_jacobians_on_each_models_own_states():
    tiny = WithBlocks(teacher(0), 2)
    found = branch_traces.measure(tiny, 600)
    assert set(found) == {TEACHER, branch_traces.BLOCKS, ONE_STEP}
    own = [
        mean_trace(lambda v, block=block: block(v, None), tiny.reference.states[depth])
        for depth, block in enumerate(tiny.teacher.model.blocks)
    ]
    assert found[TEACHER] == pytest.approx(own, abs=0.02)
    field, u = tiny.equations[ONE_STEP], tiny.reference.states[0]

    def step(u, layer):
        for term in field.terms.values():
            u = u + term(float(layer), u)
        return u

    for layer in range(6):
        wanted = mean_trace(lambda v, layer=layer: step(v, layer), u)
        assert found[ONE_STEP][layer] == pytest.approx(wanted, abs=0.02)
        u = step(u, layer).detach()


def test_a_job_is_of_the_blocks_weights_too(tmp_path):
    job, run = branch_traces.BranchTraces("image-patch4-seed2"), Run("smoke", tmp_path)
    before = job.identity(run)
    (tmp_path / f"rung-image-patch4-{branch_traces.FAMILY}-seed2.safetensors").write_bytes(b"other")
    assert job.identity(run) != before and job.name == "gradients-traces-image-patch4-seed2"
    assert job.line({"traces": {"a": [0.25, 0.5]}}) == "a 0.750"
