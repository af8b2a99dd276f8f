import numpy as np
import pytest
import torch

from companion.surrogates import solution_stiffness
from companion.surrogates.solution_fields import Subject
from pdelens.flow import Flow
from pdelens.lattice import Chain, Grid
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.parity import equation_of
from pdelens.pde.terms import Diffusion

TOKENS, LAYERS, D = 4, 3, 0.3
LAPLACIAN = torch.tensor([[-1, 1, 0, 0], [1, -2, 1, 0], [0, 1, -2, 1], [0, 0, 1, -1]], dtype=torch.float64)
STIFFEST = D * (2 + 2**0.5)  # the chain's largest eigenvalue is 4 sin^2(3 pi / 8)


@pytest.fixture
def heat():
    return PDE({"d": Diffusion(Chain(TOKENS), 2, D, depth=LAYERS)}, Chain(TOKENS), LAYERS).requires_grad_(False)


@pytest.fixture
def euler():
    """Give the Flow of one Euler step a layer of the heat equation."""
    states = [torch.randn(40, TOKENS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)]
    for _ in range(LAYERS):
        states.append(states[-1] + D * LAPLACIAN @ states[-1])
    return Flow(states=states)


def solved(u):
    return torch.linalg.matrix_exp(D * LAPLACIAN) @ u


def test_the_heat_equation_is_linearised_as_it_is(heat, euler):
    found = solution_stiffness.linearised(heat, euler, everywhere=True)
    assert found.lipschitz.shape == (LAYERS + 1, 40) and len(found.norms) == LAYERS
    torch.testing.assert_close(found.lipschitz, torch.full_like(found.lipschitz, STIFFEST), rtol=2e-3, atol=0)
    assert found.norms.abs().max() < 1e-3, "a constant neither grows nor decays"
    assert found.mode.real == pytest.approx(-STIFFEST, rel=2e-3) and abs(found.mode.imag) < 1e-4
    assert len(solution_stiffness.linearised(heat, euler, everywhere=False).norms) == 1


def test_defects_are_what_solutions_of_one_layer_miss(heat, euler):
    subject = Subject(None, euler, euler, {"heat": heat})  # type: ignore[arg-type]
    ends, errors = solution_stiffness.one_layer(subject, euler)
    found = solution_stiffness.defects(ends["heat"], euler)
    for layer, (u, after) in enumerate(zip(euler.states[:-1], euler.states[1:], strict=True)):
        wanted = float((solved(u) - after).norm() / (after - u).norm())
        assert found[layer] == pytest.approx(wanted, rel=1e-3)
        each = (solved(u) - after).flatten(1).norm(dim=1) / (solved(u) - u).flatten(1).norm(dim=1)
        torch.testing.assert_close(errors["heat"][layer], each, rtol=1e-3, atol=1e-5)
    # The best affine map is over channels: it moves no token towards its neighbours.
    u, after = euler.states[:2]
    rows = torch.cat([u.flatten(0, 1), torch.ones(40 * TOKENS, 1)], 1)
    fitted = rows @ torch.linalg.lstsq(rows, after.flatten(0, 1)).solution
    missed = float((fitted - after.flatten(0, 1)).norm() / (after - u).norm())
    assert solution_stiffness.defects(ends["affine"], euler)[0] == pytest.approx(missed, rel=1e-6)


def test_a_field_draws_in_what_is_set_down_beside_its_path_by_its_own_factor(heat):
    """Beside the path lies the chain's slowest mode, which decays by exp(-D (2 - sqrt 2)) a layer."""
    slowest = torch.linalg.eigh(-LAPLACIAN)[1][:, 1][:, None]
    path = [torch.randn(5, TOKENS, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)]
    for _ in range(LAYERS):
        path.append(solved(path[-1]))
    flow = Flow(states=[path[0], *(state + (number + 1) * slowest for number, state in enumerate(path[1:]))])
    ends = [solved(state) for state in flow.states[:-1]]
    found = solution_stiffness.factor_towards(ends, flow, path)
    assert found == pytest.approx(np.exp(-D * (2 - 2**0.5)))


def test_a_doubled_state_is_half_as_stiff_under_layer_norm_and_as_stiff_without(heat, euler):
    assert solution_stiffness.doubling(heat, euler, depth=2) == pytest.approx(1, rel=1e-3)
    model = Transformer(Configuration(width=16, layers=2, heads=2, side=8, patch=2), seed=0)
    field = equation_of(model, Grid(4, 4)).requires_grad_(False)
    states = [torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(number)) for number in range(3)]
    assert solution_stiffness.doubling(field, Flow(states=states), depth=1) == pytest.approx(0.5, rel=1e-3)


def test_steps_wanted_of_one_stiffness_are_equal_steps(heat, euler):
    found = solution_stiffness.steps_wanted(heat, euler)
    wanted = {"equal": LAYERS * STIFFEST, "graded": LAYERS * STIFFEST, "graded.first": STIFFEST}
    assert found == pytest.approx(wanted, rel=2e-3)


def test_the_bound_is_the_theorems_sum():
    states = [torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[3.0, 6.0]]])]
    bound, spread = solution_stiffness.bound([0.1, 0.5], [7.0, 0.2], Flow(states=states))
    assert spread == pytest.approx(np.exp(0.2))
    assert bound == pytest.approx(5 * 0.1 * np.exp(0.2) + 2 * 0.5)


def test_sizes_are_medians_over_real_tokens():
    state = torch.tensor([[[0.0, 2.0], [0.0, 4.0], [0.0, 6.0], [0.0, 900.0]]])
    mask = torch.tensor([[True, True, True, False]])
    assert solution_stiffness.sizes(Flow(states=[state, 2 * state], mask=mask)) == pytest.approx([2, 4])
