"""Networks as equations: bounds against brute force, and both ends of the path from one step to none."""

import math

import pytest
import scipy.linalg
import torch

from companion.jobs import Run
from companion.stabilisers import equations, training_map
from companion.stabilisers.switches import NORMALISATIONS, Switched, Switches
from pdelens.models import Configuration

SHAPE = Configuration(width=16, heads=2, layers=3, patch=14)
PICTURES = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def network(form="plain", norm="pre", gain=1.0):
    return Switched(Switches(form, norm, SHAPE, gain), 1).eval().double()


@pytest.mark.parametrize("norm", NORMALISATIONS)
@pytest.mark.parametrize("form", equations.FORMS)
def test_one_step_a_layer_is_the_network(form, norm):
    model = network(form, norm)
    with torch.no_grad():
        for own, path in zip(model.states(PICTURES), equations.solved(model, PICTURES, None, 1), strict=True):
            assert torch.allclose(own, path, atol=1e-12)


def test_many_steps_are_the_exponential_of_a_linear_layer():
    model = network("none", "none")
    with torch.no_grad():
        for block in model.layers:  # `u <- u W`: tokens all look at themselves through one matrix
            block.forward = lambda u, mask, own=block: u @ own.linear[1].weight[:, :16].T
        path = equations.solved(model, PICTURES, None, 4000)
        u = path[0].numpy()
        for block in model.layers:
            own = block.linear[1].weight[:, :16].T.numpy()
            u = u @ scipy.linalg.expm(own - torch.eye(16).double().numpy())
    assert abs(path[-1].numpy() - u).max() < 2e-3 * abs(u).max()


@pytest.mark.parametrize("gain", [1.0, 5.0])
@pytest.mark.parametrize("norm", equations.NORMS_KEPT)
@pytest.mark.parametrize("form", equations.FORMS)
def test_nothing_grows_beyond_the_bound(form, norm, gain):
    model = network(form, norm, gain)
    with torch.no_grad():
        states = model.states(PICTURES)
        size = [state.norm(dim=-1).amax(1) for state in (states[0], states[-1])]
        bound = equations.growth_bound(model, size[0])
    assert bool((size[1] <= bound * (1 + 1e-9)).all())


def test_the_bound_is_attained_by_one_token_on_the_leading_direction():
    model = network("plain", "none")
    with torch.no_grad():
        block = model.layers[0]
        for layer in (block.attention.queries_keys_values, block.attention.project, *block.linear):
            layer.weight.zero_(), layer.bias.zero_()
        block.attention.queries_keys_values.weight[32:] = torch.eye(16).double()
        block.attention.project.weight[:8, :8] = 3 * torch.eye(8).double()  # the first head alone
        u = torch.zeros(1, 4, 16).double()
        u[..., 2] = 1.0
        assert float(block(u, None).norm(dim=-1).amax()) == pytest.approx(4.0)
        model.blocks = torch.nn.ModuleList([block])
        assert float(equations.growth_bound(model, torch.ones(1))) == pytest.approx(4.0)


def test_tokens_come_no_nearer_than_the_bound_allows_and_not_beyond():
    model = network("none", "none", 2.0)
    with torch.no_grad():
        for block in model.layers:  # attention that tells tokens apart
            block.attention.queries_keys_values.weight[:32] *= 8
        states = equations.solved(model, PICTURES, None, 1)
        bound = equations.collapse_bound(model, states, None)
        apart = [torch.cdist(state, state).flatten(1).amax(1) for state in (states[0], states[-1])]
    assert bool((apart[1] / apart[0] <= bound).all()) and bool((bound > 1e-8).all())


def test_a_job_measures_every_set_of_switches(monkeypatch, tmp_path):
    monkeypatch.setattr(equations, "load_splits", lambda *_: type("S", (), {"followed": (PICTURES, PICTURES[:, 0, 0])}))
    monkeypatch.setattr(equations, "shuffled", lambda columns: columns)
    monkeypatch.setattr(training_map, "digest_of", lambda *_: "pictures")
    job, run = equations.Equations("image"), Run("smoke", tmp_path)
    record = job.do(run)
    job.keep(run, record)
    assert job.recorded(run) == record and len(record) == 12 and "half as many steps" in job.line(record)
    for form in equations.FORMS:
        grown = [record[equations.key_of(form, norm, 4.0)] for norm in equations.NORMS_KEPT]
        assert all(len(values) == 2 for one in grown for values in one.values())
        for one in grown:
            assert all(value <= bound for value, bound in zip(one["growth"], one["bound"], strict=True))
    # Without a connection everything is one token at once, behind whatever norm; relaxed it is not.
    alone = record[equations.key_of("none", "pre", 1.0)]
    assert max(alone["kept"]) < 0.01 < min(alone["kept converged"])
    assert (
        record[equations.key_of("none", "none", 1.0)]["kept bound"][0] is not None and alone["kept bound"] == [None] * 2
    )
    assert [one.name for one in equations.equation_jobs(run, "stabilisers-equation-t*")] == [
        "stabilisers-equation-text"
    ]
    assert equations.equation_names() == ["stabilisers-equation-image", "stabilisers-equation-text"]
    assert math.isfinite(max(alone["error"]))
