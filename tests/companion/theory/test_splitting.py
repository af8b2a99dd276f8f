"""What a splitting leaves out, beside products of matrices, closed forms and steps that get shorter."""

import math

import numpy as np
import pytest
import torch

from companion.theory import splitting
from companion.theory.bounds import FrozenAttention
from companion.theory.problems import Potential, full_equation
from pdelens.lattice import Chain, laplacian
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of
from pdelens.pde.terms import Diffusion, Term


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_linear_terms(depth=1.0):
    """Give diffusion and a frozen map on a chain of five, and their matrices."""
    attention, unit = torch.softmax(2 * random(5, 5), -1), torch.eye(5, dtype=torch.float64)
    terms = {"diffusion": Diffusion(Chain(5), 1, 0.2), "attention": FrozenAttention(attention)}
    first = terms["diffusion"].diffusivity(0.0).detach().double() * laplacian(unit, Chain(5))
    return PDE(terms, Chain(5), depth).double(), first, attention - unit


def test_the_defect_of_linear_terms_is_made_of_products_of_their_matrices():
    pde, a, r = two_linear_terms()
    u = random(3, 5, 1, seed=1)
    found = splitting.step_defect(pde, 0.0, u)
    torch.testing.assert_close(found.commutator, (a @ r - r @ a) @ u / 2, atol=1e-7, rtol=0)
    torch.testing.assert_close(found.curvature, (a @ a + r @ r) @ u / 2, atol=1e-7, rtol=0)
    assert float(found.commutator.abs().max()) > 1e-3
    pde.terms["attention"] = FrozenAttention(torch.eye(5, dtype=torch.float64))
    still = splitting.step_defect(pde, 0.0, u)  # a term that moves nothing has no direction to look along
    torch.testing.assert_close(still.commutator, torch.zeros_like(u), atol=1e-7, rtol=0)
    torch.testing.assert_close(still.curvature, a @ a @ u / 2, atol=1e-7, rtol=0)


@torch.no_grad()
def test_the_defect_is_what_a_short_step_leaves_out():
    pde = full_equation(Chain(6), 4, temporal_modes=1, diffusion=None, advection=None)
    u = random(2, 6, 4)
    defect = sum(splitting.step_defect(pde, 0.0, u))
    gaps = []
    for dt in (0.02, 0.01):
        exact = integrate(pde, u, [0, dt], "dopri5", rtol=1e-12, atol=1e-13).states[-1]
        stepped = integrate(pde, u, [0, dt], "lie", 1).states[-1]
        gaps.append(float(((exact - stepped) / dt**2 - defect).norm() / defect.norm()))
    assert gaps[0] < 0.1 and gaps[1] == pytest.approx(gaps[0] / 2, rel=0.2)


def test_the_increment_of_differences_does_not_matter():
    pde, u = full_equation(Chain(6), 4, temporal_modes=1, diffusion=None, advection=None), random(2, 6, 4)
    one, other = (splitting.step_defect(pde, 0.0, scale * u, h) for scale, h in ((1.0, 1e-4), (1.0, 1e-3)))
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(ours.abs().max()), rtol=0)


def equation():
    model = Transformer(Configuration(width=8, layers=3, heads=2, side=8, patch=2), seed=1).double().eval()
    return model, equation_of(model)


@pytest.mark.parametrize("layer", [0, 1, 2])
@torch.no_grad()
def test_a_tied_layer_is_that_block_at_one_step_whatever_its_depth(layer):
    model, pde = equation()
    u = random(2, 16, 8)
    block = model.blocks[layer](u, None)
    held = splitting.tied(pde, layer, 2.0)
    assert held.depth == 2.0 and held.autonomous and next(held.parameters()).dtype == torch.float64
    flow = integrate(held, u, [0, 1, 2], "lie", 1)
    torch.testing.assert_close(flow.states[1], block, atol=1e-10, rtol=0)
    torch.testing.assert_close(flow.states[2], model.blocks[layer](block, None), atol=1e-10, rtol=0)
    assert held.terms["attention"].heads == 2 and held.lattice == pde.lattice


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_named(layer):
    with pytest.raises(ValueError, match=rf"layer {layer} of a pre-norm equation of depth 3"):
        splitting.tied(equation()[1], layer, 1.0)


def test_post_norm_layers_are_not_tied():
    with pytest.raises(ValueError, match="of a post-norm equation"):
        splitting.tied(TransformerPDE(8, 2, None, depth=2, form="post", diffusion=None), 0, 1.0)


def test_errors_of_equal_layers_on_a_mode_of_heat(heat_mode):
    mode, value = heat_mode(Chain(6), (2,))
    pde = PDE({"diffusion": Diffusion(Chain(6), 1, 0.3)}, Chain(6), 1.5).double()
    rate = float(pde.terms["diffusion"].diffusivity(0.0).detach()) * value
    exact = math.exp(1.5 * rate)
    found = splitting.order_errors(pde, mode[None], "lie", (2, 5), exact * mode[None])
    expected = [abs((1 + 1.5 * rate / n) ** n - exact) / abs(exact - 1) for n in (2, 5)]
    assert found == pytest.approx(expected, rel=1e-9)
    heun = splitting.order_errors(pde, mode[None], "heun", (3,), exact * mode[None])
    h = 1.5 * rate / 3
    assert heun == pytest.approx([abs((1 + h + h * h / 2) ** 3 - exact) / abs(exact - 1)], rel=1e-9)


@pytest.mark.parametrize("steps", [1, 4])
def test_strangs_order_with_euler_is_a_product_of_matrices(steps):
    pde, a, r = two_linear_terms(depth=1.2)
    u, unit, dt = random(2, 5, 1, seed=1), torch.eye(5, dtype=torch.float64), 1.2 / steps
    half = unit + dt / 2 * a
    step = (half @ (unit + dt * r) @ half).numpy()
    with torch.no_grad():
        found = splitting.strang_with_euler(pde, u, steps)
    np.testing.assert_allclose(found[1].numpy(), np.linalg.matrix_power(step, steps) @ u[1].numpy(), atol=1e-12)


def test_of_three_terms_the_last_is_whole_and_each_is_read_at_the_steps_begin():
    def grows(place):
        unit = torch.zeros(3, 1, dtype=torch.float64)
        unit[place] = 1
        return Potential(lambda t: 0 * unit, lambda t: (1 + t) * unit)

    chain = Chain(3)
    terms = {name: grows(place) for place, name in enumerate("abc")}
    found = splitting.strang_with_euler(PDE(terms, chain, 2.0), torch.zeros(1, 3, 1, dtype=torch.float64), 4)
    # 1 + t at 0, 1/2, 1 and 3/2, each for half a unit, whether by two halves or whole.
    assert found.flatten().tolist() == pytest.approx([0.5 * (1 + 1.5 + 2 + 2.5)] * 3)
    matrices = [torch.randn(3, 3, generator=torch.Generator().manual_seed(k)).double() for k in range(3)]

    class Linear(Potential):
        def __init__(self, matrix):
            super().__init__(None, None)
            self.matrix = matrix

        def forward(self, t, u, mask=None):
            return self.matrix @ u

    a, b, c = (torch.eye(3).double() + 0.25 * factor * m for m, factor in zip(matrices, (1, 1, 2), strict=True))
    pde, u = PDE({n: Linear(m) for n, m in zip("abc", matrices, strict=True)}, chain, 0.5), random(1, 3, 1)
    torch.testing.assert_close(splitting.strang_with_euler(pde, u, 1), a @ b @ c @ b @ a @ u)


def test_an_equation_with_a_constraint_is_refused():
    pde = TransformerPDE(8, 2, None, depth=2, form="post", diffusion=None)
    if pde.constraint is None:
        pde.constraint = lambda u: u
    with pytest.raises(ValueError, match="an equation with a constraint was given"):
        splitting.strang_with_euler(pde, random(1, 3, 8), 2)


class Power(Term):
    """`u ** p`, value by value."""

    def __init__(self, power):
        super().__init__()
        self.power = power

    def forward(self, t, u, mask=None):
        return u**self.power


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_defect_of_powers_in_closed_form_whatever_the_states_size(scale):
    """A = u^2 and R = u^3: A'R = 2 u^4, R'A = 3 u^4; a third term plays no part."""
    pde = PDE({"a": Power(2), "r": Power(3), "more": Power(1)}, Chain(4), 1.0)
    u = scale * (1 + random(2, 4, 3).abs())
    found = splitting.step_defect(pde, 0.0, u)
    torch.testing.assert_close(found.commutator, -(u**4) / 2, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.curvature, u**3 + 1.5 * u**5, rtol=1e-6, atol=0)
