"""The stack of cells: each as if it were trained alone, by Adam at its own rate; what diverges rests."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from companion.data.splits import Examples
from companion.stabilisers import batch
from companion.stabilisers.batch import Batch, Plan, RatedAdam, alone, drawn, train
from companion.stabilisers.switches import Switched, Switches
from pdelens.models import Configuration

SHAPE = Configuration(width=8, heads=2, layers=2, patch=14)
RANDOM = torch.Generator().manual_seed(3)
DATA = Examples(
    torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8, generator=RANDOM),
    torch.randint(0, 10, (40,), generator=RANDOM),
)


def plan(residual="plain", normalisation="pre", **more):
    return Plan(
        Switches(residual, normalisation, SHAPE),
        **{"seeds": (0, 3), "rates": (1e-3, 1e-2), "steps": 12, "batch": 4} | more,
    )


def by_torch(one, seed, rate):
    """A cell's losses and parameters, trained by itself with torch's own Adam and schedule."""
    model = Switched(one.switches, seed).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98))
    rise, losses = max(1, one.steps // 10), []
    for step in range(one.steps):
        share = (step + 1) / rise if step < rise else None
        if share is None:
            share = 0.5 * float(1 + torch.cos(torch.tensor(torch.pi * (step - rise) / (one.steps - rise)).double()))
        elif not one.warm:
            share = 1.0
        optimizer.param_groups[0]["lr"] = rate * share
        chosen = drawn(seed, step, one.batch, len(DATA.labels))
        loss = F.cross_entropy(model(DATA.inputs[chosen]), DATA.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        if one.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), one.clip)
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, losses


@pytest.mark.parametrize("more", [{}, {"clip": 0.5}, {"warm": False, "steps": 30}], ids=str)
def test_a_cell_is_what_torch_makes_of_it_alone(more):
    one = plan("scaled", "derf", **more)
    stack, found = train(one, DATA, dtype=torch.float64)
    for cell, (seed, rate) in enumerate(one.cells):
        wanted, losses = by_torch(one, seed, rate)
        for name, value in stack.model(cell).state_dict().items():
            assert torch.allclose(value, wanted.state_dict()[name], rtol=1e-6, atol=1e-9), name
        assert found["curve"][-1][cell] == pytest.approx(sum(losses[-50:]) / len(losses[-50:]), rel=1e-9)
    assert found["diverged"] == [None] * 4


@pytest.mark.parametrize(("residual", "normalisation"), [("plain", "none"), ("none", "post"), ("skipless", "dyt")])
def test_a_cell_by_itself_is_the_cell_of_the_stack(residual, normalisation):
    one = plan(residual, normalisation)
    together, _ = train(one, DATA)
    single, _ = train(alone(one, 3, 1e-2), DATA)
    inputs = DATA.inputs[:8]
    with torch.no_grad():
        assert torch.allclose(single.model(0)(inputs), together.model(3)(inputs), rtol=1e-5, atol=1e-5)


def test_killed_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "EVERY", 5)
    one = plan("scaled", "derf", rates=(1e-3, 1e4))
    whole, wanted = train(one, DATA)
    path = tmp_path / "cells.safetensors"
    assert train(one, DATA, path, stop=lambda: True) is None
    again, found = train(one, DATA, path)
    assert found["curve"] == wanted["curve"] and found["diverged"] == wanted["diverged"]
    assert found["diverged"][0] is None and found["diverged"][1] is not None
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name])


def test_what_diverges_is_dated_and_rests_and_disturbs_nobody():
    one = plan("plain", "none", rates=(1e-3, 1e5), warm=False, steps=30)
    stack, found = train(one, DATA, dtype=torch.float64)
    kept = train(replace(one, rates=(1e-3,)), DATA, dtype=torch.float64)[0]
    for cell, of in ((0, 0), (2, 1)):
        assert found["diverged"][cell] is None and found["curve"][-1][cell] is not None
        for name, value in kept.model(of).state_dict().items():
            assert torch.allclose(value, stack.model(cell).state_dict()[name], rtol=1e-9, atol=1e-12)
    for cell, seed in ((1, 0), (3, 3)):
        losses = by_torch(one, seed, 1e5)[1]
        means = [sum(losses[max(0, n - 9) : n + 1]) / min(n + 1, 10) for n in range(len(losses))]
        first = next(n + 1 for n, mean in enumerate(means) if not mean <= 2 * losses[0])
        assert found["diverged"][cell] == first and found["curve"][-1][cell] is None
        assert all(bool((value == 0).all()) for value in stack.model(cell).state_dict().values())


def test_what_rests_is_not_computed(monkeypatch):
    one, seen = plan("plain", "none", rates=(1e-3, 1e5), warm=False, steps=30), []
    forward = Switched.forward
    monkeypatch.setattr(Switched, "forward", lambda self, *given: seen.append(0) or forward(self, *given))
    vmap = torch.vmap

    def counted(function, **how):
        def mapped(parameters, inputs, *rest):
            seen.append(len(inputs))
            return vmap(function, **how)(parameters, inputs, *rest)

        return mapped

    monkeypatch.setattr(torch, "vmap", counted)
    _, found = train(one, DATA)
    assert {count for count in seen if count} == {4, 2}
    assert [at is None for at in found["diverged"]] == [True, False] * 2
    seen.clear()
    _, found = train(replace(one, rates=(1e5, 1e6)), DATA)
    assert None not in found["diverged"] and found["curve"][-1] == [None] * 4
    assert 0 < sum(count > 0 for count in seen) < 30, "once nothing moves, nothing is computed"


def test_adam_at_several_rates_is_several_adams_and_rest_is_rest():
    stacked = torch.nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    start, rates = stacked.detach().clone(), torch.tensor([1e-2, 0.0, 3e-1])
    own = RatedAdam([stacked], rates)
    others = [torch.nn.Parameter(start[row].clone()) for row in (0, 2)]
    theirs = [
        torch.optim.Adam([one], lr=rate, betas=(0.9, 0.98)) for one, rate in zip(others, (1e-2, 3e-1), strict=True)
    ]
    for step in range(20):
        gradient = torch.randn(3, 5, generator=torch.Generator().manual_seed(step))
        stacked.grad = gradient.clone()
        stacked.grad[1] = float("nan")
        own.step()
        for row, one, optimizer in zip((0, 2), others, theirs, strict=True):
            one.grad = gradient[row].clone()
            optimizer.step()
    assert torch.allclose(stacked[[0, 2]], torch.stack(others), rtol=1e-5, atol=1e-6)
    assert torch.equal(stacked[1], start[1])


def test_seeds_see_their_own_examples_at_every_step():
    assert torch.equal(drawn(0, 5, 32, 1000), drawn(0, 5, 32, 1000))
    assert not torch.equal(drawn(0, 5, 32, 1000), drawn(1, 5, 32, 1000))
    assert not torch.equal(drawn(0, 5, 32, 1000), drawn(0, 6, 32, 1000))
    counts = torch.bincount(torch.cat([drawn(0, step, 32, 10) for step in range(300)]), minlength=10)
    assert int(counts.min()) > 860 and int(counts.max()) < 1060  # 960 expected, standard deviation 29


def test_cells_are_seed_by_seed():
    one = plan()
    assert one.cells == [(0, 1e-3), (0, 1e-2), (3, 1e-3), (3, 1e-2)]
    stack = Batch(one)
    assert torch.equal(stack.model(2).head.weight, Switched(one.switches, 3).head.weight)
    assert stack.optimizer.rates.tolist() == pytest.approx([1e-3, 1e-2] * 2)
