import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from companion.surrogates import evaluate, files, solution_fields, specs
from companion.teachers.teacher import Teacher
from pdelens.flow import Flow
from pdelens.lattice import Chain, Grid
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of
from pdelens.pde.plan import Plan
from pdelens.pde.terms import Diffusion

LAYERS, TOKENS, D = 6, 5, 0.2
# A chain that nothing leaves.
LAPLACIAN = torch.tensor(
    [[-1, 1, 0, 0, 0], [1, -2, 1, 0, 0], [0, 1, -2, 1, 0], [0, 0, 1, -2, 1], [0, 0, 0, 1, -1]], dtype=torch.float64
)


def heat(layers=LAYERS):
    return PDE({"diffusion": Diffusion(Chain(TOKENS), 2, D, depth=layers)}, Chain(TOKENS), layers).requires_grad_(False)


def stepped(u, lengths):
    for h in lengths:
        u = u + h * D * LAPLACIAN @ u
    return u


def solved(u, t):
    return torch.linalg.matrix_exp(t * D * LAPLACIAN) @ u


@pytest.fixture
def cooling():
    """Give a subject without a teacher, whose one field is the heat equation."""
    u = torch.randn(7, TOKENS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = Flow(states=[solved(u, t) for t in range(LAYERS + 1)])
    return solution_fields.Subject(None, flow, flow, {"heat": heat()})  # type: ignore[arg-type]


def test_gaps_are_those_of_matrix_powers_to_the_matrix_exponential(cooling):
    found, u = solution_fields.gaps(cooling, "heat", few=3), cooling.flow.states[0][:3]
    last = solved(u, LAYERS)
    cuts = [0, 1 / 256, 1 / 64, 1 / 16, 1 / 4, 1, 2, 3, 4, 5, 6]
    ends = {
        "one step": stepped(u, [1] * 6),
        "48 equal": stepped(u, [1 / 8] * 48),
        "50 crowded": stepped(u, [(b - a) / 5 for a, b in pairwise(cuts) for _ in range(5)]),
    }
    for name, end in ends.items():
        assert found[name] == pytest.approx(float((end - last).norm() / (last - u).norm()), rel=1e-3), name
    assert found["RK4"] < 1e-5 and found["this page's"] < 1e-3


def test_a_solution_is_found_once(cooling):
    first = cooling.solution("heat")
    assert cooling.solution("heat") is first
    torch.testing.assert_close(first.states[-1], solved(cooling.flow.states[0], LAYERS), atol=1e-3, rtol=1e-3)


def test_distances_leave_padded_tokens_out():
    first, second = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert solution_fields.distance(first, second, mask) == pytest.approx(12**0.5)


def test_a_plane_holds_a_path_that_lies_in_one():
    random = torch.Generator().manual_seed(1)
    axes, centre = torch.randn(2, 12, generator=random).double(), torch.randn(12, generator=random).double()
    places = torch.randn(7, 2, generator=random).double()
    states = [(centre + place @ axes).view(1, 3, 4) for place in places]
    found = solution_fields.plane(states)
    assert found.share == pytest.approx(1)
    inside = torch.tensor(found.of(states)).T
    apart = torch.cdist(torch.stack(states).flatten(1), torch.stack(states).flatten(1))
    torch.testing.assert_close(torch.cdist(inside, inside), apart)
    # One of three equal directions is left out.
    corners = [corner.view(1, 3, 1) for corner in torch.cat([torch.eye(3), -torch.eye(3)])]
    assert solution_fields.plane(corners).share == pytest.approx(2 / 3)


def test_paths_are_the_solution_and_one_step_a_layer(cooling):
    start = cooling.flow.states[0][:1]
    path, whole, steps = solution_fields.paths(heat(), start)
    assert len(path) > 48 and len(whole) == LAYERS + 1
    for depth, place in enumerate(whole):
        torch.testing.assert_close(path[place], solved(start, depth), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(steps[depth], stepped(start, [1] * depth))


@pytest.mark.parametrize("plan", [specs.ONE_STEP, specs.ENTRY, replace(specs.ONE_STEP, **specs.SCHEDULES["random"])])
def test_plans_come_back_from_records(plan):
    assert solution_fields.plan_of(json.loads(json.dumps({"plan": asdict(plan)}))) == plan


def test_steps_are_made_finer_in_the_first_layer_or_in_the_others(monkeypatch):
    pde = TransformerPDE(8, 2, Chain(TOKENS), depth=3, temporal_modes=2, seed=3)
    with torch.no_grad():
        for value in pde.parameters():
            value.mul_(3)  # so that the steps matter
    u = torch.randn(4, TOKENS, 8, generator=torch.Generator().manual_seed(2))
    flow = integrate(TransformerPDE(8, 2, Chain(TOKENS), depth=3, seed=5), u)
    monkeypatch.setattr(files, "load", lambda name: (pde, {}))
    plan = Plan(supervision="attention+states", method="heun", graded=((1, 3), (1, 2)), entry=(1 / 4,), doubled=0.25)
    subject = solution_fields.Subject(None, flow, flow, {})  # type: ignore[arg-type]
    found = solution_fields.resolved_entry(subject, "any", plan, few=3, finer=2)

    def by_hand(counts):
        """Doubled at the end of the calibration: twice as many in every part."""
        state, maps = u[:3], []
        for (a, b), count in zip(((0, 0.25), (0.25, 1), (1, 2), (2, 3)), counts, strict=True):
            part = integrate(pde, state, [a, b], "heun", 2 * count, check_steps=False)
            state = part.states[-1]
            if a != 0.25:
                maps.append(part.attention[0])
        ours, theirs = torch.stack(maps), torch.stack(flow.attention)[:, :3]
        return torch.cosine_similarity(ours.flatten(3), theirs.flatten(3), dim=-1).mean((1, 2)).tolist()

    ways = {"own": (3, 2, 2, 2), "entry": (12, 8, 2, 2), "rest": (3, 2, 8, 8)}
    for way, counts in ways.items():
        assert found[way] == pytest.approx(by_hand(counts), abs=1e-5), way
    assert abs(np.subtract(found["own"], found["entry"])).max() > 1e-3
    assert abs(np.subtract(found["own"], found["rest"])).max() > 1e-4
    assert len(found["converged"]) == 3


def test_blocks_are_exact_at_one_step_and_lose_when_refined():
    model = Transformer(Configuration(width=16, layers=2, heads=2, side=8, patch=2), seed=0)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.queries_keys_values.weight *= 3  # type: ignore[union-attr]
    pictures = torch.randint(0, 256, (12, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    lattice = Grid(4, 4)
    orders = (torch.tensor([1, 0]), torch.tensor([0, 1]))
    teacher = Teacher("small", model.eval(), lattice, 16, 2, 2, lambda *_: (pictures, torch.zeros(12)), orders=orders)
    subject = solution_fields.Subject(
        teacher, teacher.of("heldout"), teacher.of("calibration"), {"blocks": equation_of(model, lattice)}
    )
    found, (low, high) = solution_fields.refined_blocks(subject)
    assert {len(values) for values in found.values()} == {len(evaluate.RESOLUTIONS)}
    for values in found.values():
        assert values[0] == pytest.approx(1, abs=1e-5)
    assert found["cosine"][-1] < 0.999 and low <= found["cosine"][-1] <= high
    last = subject.solved["blocks"].permute_heads(orders)
    alike = [
        torch.cosine_similarity(ours.flatten(2), theirs.flatten(2), dim=-1).mean()
        for ours, theirs in zip(last.attention, subject.flow.attention, strict=True)
    ]
    assert found["cosine"][-1] == pytest.approx(float(min(alike)), abs=1e-5)
    ours, theirs = (teacher.readout(one.states[-1]).argmax(-1) for one in (last, subject.flow))
    assert found["classes"][-1] == pytest.approx(float((ours == theirs).double().mean()))


def test_pooled_r2_weighs_channels_by_their_variance(cooling):
    cooling.solved["heat"] = cooling.flow
    assert solution_fields.states_kept(cooling, "heat") == pytest.approx(1)
    states = [state.clone() for state in cooling.flow.states]
    states[2][..., 0] += 1.0
    cooling.solved["heat"] = Flow(states=states)
    mean = cooling.flow.states[2].mean(0)
    spread = (cooling.flow.states[2] - mean).square().sum()
    assert solution_fields.states_kept(cooling, "heat") == pytest.approx(float(1 - 7 * TOKENS / spread))
