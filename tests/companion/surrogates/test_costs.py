import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from companion.surrogates import costs
from companion.surrogates.narrow import NarrowPDE
from pdelens import Chain, Grid, TransformerPDE, integrate, models
from pdelens.pde.parity import equation_of


@pytest.mark.parametrize("hidden", [16, 96])
def test_matrix_products_are_those_that_torch_counts(hidden):
    pde = TransformerPDE(32, 4, None, hidden=hidden, diffusion=None, depth=3)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        pde.rhs(0.0, torch.randn(1, 10, 32))
    assert costs.flops(pde, 10) == counter.get_total_flops()


def test_stencils_by_hand():
    settings = {"attention": False, "reaction": False, "advection": 0.5}
    # Chain: 3 and 2 places of 2 operations; grid: 5 and 3.
    assert costs.flops(TransformerPDE(8, 2, Chain(12), **settings), 12) == 2 * 12 * 8 * (3 + 2)
    assert costs.flops(TransformerPDE(8, 2, Grid(3, 4), **settings), 12) == 2 * 12 * 8 * (5 + 3)


def test_the_blocks_of_a_transformer_read_as_an_equation_cost_what_its_configuration_says():
    made = models.Configuration(layers=2)
    pde = equation_of(models.Transformer(made, 0))
    ends = 2 * (made.tokens * made.patch**2 * made.width + made.outputs * made.width)
    assert costs.solve_flops(pde, made.tokens, made.layers) == made.flops - ends


def test_a_narrow_network_pays_for_its_ends_and_unknown_terms_are_named():
    pde = NarrowPDE(32, 8, 4, None, depth=2)
    assert costs.solve_flops(pde, 5, 0) == 2 * 5 * 32 * 8 * 2
    pde.terms["other"] = torch.nn.Identity()
    with pytest.raises(TypeError, match="Identity"):
        costs.flops(pde, 5)


def test_right_hand_sides_are_counted_and_the_equation_is_left_as_it_was():
    torch.manual_seed(0)
    pde, u0 = TransformerPDE(16, 2, Chain(6), depth=2), torch.randn(3, 6, 16)
    (coarse, few), (fine, many) = (costs.adaptive(pde, u0, tolerance=tolerance) for tolerance in (1e-3, 1e-6))
    # Two intervals, each a first step to choose a size and at least one of six stages.
    assert 2 * 8 <= few < many
    assert "total" not in vars(pde)
    plain = integrate(pde, u0, method="dopri5", rtol=1e-6, atol=1e-6)
    assert torch.equal(fine.states[-1], plain.states[-1]) and not torch.equal(coarse.states[-1], plain.states[-1])
