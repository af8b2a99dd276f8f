import math

import pytest
import torch
from linear import linear, random

from pdelens.lattice import Chain
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.terms import Diffusion, Term
from pdelens.sensitivity import singular
from pdelens.sensitivity.flow_map import FlowMap, flow_map
from pdelens.sensitivity.growth import lyapunov_exponents, perturbation_growth
from pdelens.sensitivity.singular import influence, jacobian_spectrum

ROTATION = torch.tensor([[0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
SHEAR = torch.tensor([[0.0, 3.0], [0.0, 0.0]], dtype=torch.float64)


class Logistic(Term):
    """`du/dt = u (1 - u)`, whose solution is known."""

    def forward(self, t, u, mask=None):
        return u * (1 - u)


def small_model(seed=0):
    torch.manual_seed(seed)
    model = Transformer(Configuration(vocabulary=20, length=5, width=8, heads=2, layers=3, outputs=2)).double()
    return model, torch.randint(1, 20, (2, 5), generator=torch.Generator().manual_seed(1))


def test_a_linear_equation_has_the_singular_values_of_its_exponential():
    generator = random(3, 3, seed=4)
    found = jacobian_spectrum(flow_map(linear(generator, 1.5), random(2, 1, 3), substeps=48), 3)
    exact = torch.linalg.svdvals(torch.linalg.matrix_exp(1.5 * generator))
    torch.testing.assert_close(found.values, exact.expand(2, -1), atol=1e-6, rtol=1e-6)
    assert found.exact and not found.error.any()


def test_a_shear_grows_at_first_and_a_rotation_never():
    for generator, largest in ((ROTATION, 1.0), (SHEAR, (3 + math.sqrt(13)) / 2)):
        found = jacobian_spectrum(flow_map(linear(generator), random(1, 1, 2), substeps=48), 2)
        assert float(found.values[0, 0]) == pytest.approx(largest, abs=1e-6)
        assert float(found.values.prod()) == pytest.approx(1.0, abs=1e-6), "both leave areas as they are"


def test_singular_directions_are_carried_onto_each_other():
    model, tokens = small_model()
    found = jacobian_spectrum(one := flow_map(model, tokens, 1), 4)
    for value, right, left in zip(found.values.T, found.right, found.left, strict=True):
        torch.testing.assert_close(one.jvp(right), value.view(-1, 1, 1) * left, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(right.flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))


def test_random_directions_find_what_the_whole_matrix_has_and_say_how_well(monkeypatch):
    model, tokens = small_model()
    one = flow_map(model, tokens)
    exact = torch.linalg.svdvals(one.matrix())
    monkeypatch.setattr(singular, "DENSE", 1)
    for rounds in (1, 20):
        found = jacobian_spectrum(one, 5, rounds=rounds)
        assert not found.exact and found.values.shape == found.error.shape == (2, 5)
        # Within each error lies a true value.
        gap = (found.values[..., None] - exact[:, None, :]).abs().amin(-1)
        assert (gap <= found.error + 1e-9).all()
    torch.testing.assert_close(found.values, exact[:, :5], rtol=1e-6, atol=1e-9)
    assert (found.error < 1e-3 * found.values).all()


def test_padded_tokens_have_no_singular_values():
    pde = PDE({"diffusion": Diffusion(Chain(4), 2, 0.3)}, Chain(4), depth=1).double()
    mask = torch.tensor([[True] * 4, [True, True, True, False]])
    found = jacobian_spectrum(flow_map(pde, random(2, 4, 2), mask=mask, substeps=64), 6)
    short = PDE({"diffusion": Diffusion(Chain(3), 2, 0.3)}, Chain(3), depth=1).double()
    alone = jacobian_spectrum(flow_map(short, random(1, 3, 2), substeps=64), 6)
    torch.testing.assert_close(found.values[1], alone.values[0])
    with pytest.raises(ValueError, match="the smallest state has 6 real entries"):
        jacobian_spectrum(flow_map(pde, random(2, 4, 2), mask=mask), 7)


def test_influence_is_the_norm_of_every_block():
    model, tokens = small_model()
    one = flow_map(model, tokens, 1)
    whole = one.matrix().view(2, 5, 8, 5, 8)
    blocks = whole.square().sum((2, 4)).sqrt()
    exact, none = influence(one, draws=8)
    torch.testing.assert_close(exact, blocks)
    assert not none.any()
    found, error = influence(one, draws=7, seed=3)
    off = ((found - blocks) / error).abs()
    assert error.min() > 0 and 0.6 < float(off.square().mean().sqrt()) < 1.7 and (off < 6).all()


def test_a_causal_model_is_not_influenced_by_what_comes_later():
    torch.manual_seed(0)
    settings = Configuration(vocabulary=20, length=5, width=8, heads=2, layers=2, outputs=20, causal=True)
    model = Transformer(settings).double()
    found, _ = influence(flow_map(model, small_model()[1]))
    assert not found.triu(1).any() and (found.tril() > 0).any()


def test_growth_of_any_size_is_that_of_the_logistic_equation():
    pde = PDE({"reaction": Logistic()}, None, depth=1.0).double()
    u = torch.full((1, 1, 1), 0.2, dtype=torch.float64)

    def exact(value):
        return value * math.e / (1 + value * (math.e - 1))

    found = perturbation_growth(flow_map(pde, u, substeps=64), (1e-4, 0.1, 1.0), torch.ones_like(u))
    for size, factor in zip(found.sizes, found.factor.flatten().tolist(), strict=True):
        moved = exact(0.2 + 0.2 * size) - exact(0.2)
        assert factor == pytest.approx(moved / (0.2 * size), rel=1e-6)
    assert float(found.linear) == pytest.approx(math.e / (1 + 0.2 * (math.e - 1)) ** 2, rel=1e-6)


def test_the_linear_regime_ends_where_a_median_leaves_it():
    pde = PDE({"reaction": Logistic()}, None, depth=1.0).double()
    u = torch.full((3, 1, 1), 0.2, dtype=torch.float64)
    found = perturbation_growth(flow_map(pde, u, substeps=32), (1.0, 1e-3, 1e-2, 1e-1), torch.ones_like(u))
    # exact: factor over linear is (1 + .2 (e - 1)) / (1 + (.2 + d) (e - 1)).
    ratio = {size: 1.34366 / (1.34366 + 0.2 * size * 1.71828) for size in found.sizes}
    assert found.linear_up_to(0.05) == 0.1 and abs(ratio[0.1] - 1) < 0.05 < abs(ratio[1.0] - 1)
    assert found.linear_up_to(0.01) == 0.01 and found.linear_up_to(1e-9) == 0.0


def test_a_size_is_relative_to_the_state_and_a_token_alone_is_changed_alone():
    generator = torch.tensor([[-1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    one = flow_map(linear(generator), 7 * random(2, 3, 2), substeps=64)
    along = torch.zeros(2, 3, 2, dtype=torch.float64)
    along[..., 1] = 1
    for token in (None, 1):
        found = perturbation_growth(one, (0.5,), along, token=token)
        torch.testing.assert_close(found.factor, torch.full((1, 2), math.e**2, dtype=torch.float64))
    # Sizes: the change's entries have the state's root mean square times the size, over what is changed.
    seen = []
    one.function, before = (lambda u: (seen.append(u), before(u))[1]), one.function
    for token, entries in ((None, 6), (1, 2)):
        seen.clear()
        perturbation_growth(one, (0.5,), token=token)
        change = seen[0] - one.point.detach()
        rms = one.point.detach().square().mean((1, 2)).sqrt()
        torch.testing.assert_close(change.flatten(1).norm(dim=1), 0.5 * rms * entries**0.5)
        assert token is None or not change[:, [0, 2]].any()


def test_padded_tokens_are_neither_changed_nor_counted_in_a_size():
    mask = torch.tensor([[True, True, False]])
    u = torch.tensor([[[3.0], [3.0], [100.0]]], dtype=torch.float64)
    one = flow_map(linear(torch.tensor([[0.5]], dtype=torch.float64)), u, mask=mask, substeps=32)
    seen = []
    one.function, before = (lambda u: (seen.append(u), before(u))[1]), one.function
    found = perturbation_growth(one, (0.1,))
    change = seen[0] - one.real(one.point.detach())
    assert not change[:, 2].any() and float(change.norm()) == pytest.approx(0.1 * 3 * 2**0.5)
    assert float(found.factor) == pytest.approx(math.exp(0.5), rel=1e-6)


class Linear(torch.nn.Module):
    """Layers that are matrices: as many maps as one likes, without a solver."""

    def __init__(self, matrices):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(len(m), len(m), bias=False).double() for m in matrices)
        for layer, matrix in zip(self.layers, matrices, strict=True):
            layer.weight.data = matrix.clone()

    def forward(self, u):
        for layer in self.layers:
            u = layer(u)
        return u


def maps_of(*matrices):
    model, u = Linear(matrices), torch.zeros(1, 1, len(matrices[0]), dtype=torch.float64)
    return [flow_map(model, u, depth, depth + 1) for depth in range(len(matrices))]


def test_exponents_of_a_linear_equation_are_the_logarithms_of_its_exponentials_singular_values():
    generator = random(4, 4, seed=5)
    pde, u = linear(generator, 2.0), random(2, 1, 4)
    first = flow_map(pde, u, 0, 1, substeps=24)
    maps = [first, flow_map(pde, first.value, 1, 2, substeps=24)]
    exact = torch.linalg.svdvals(torch.linalg.matrix_exp(2.0 * generator)).log() / 2
    torch.testing.assert_close(lyapunov_exponents(maps, 4, rounds=3), exact.expand(2, -1), atol=1e-5, rtol=1e-5)


def test_exponents_are_of_the_product_and_not_of_its_factors():
    one, other = random(3, 3, seed=8), random(3, 3, seed=9)
    exact = torch.linalg.svdvals(other @ one).log() / 2
    torch.testing.assert_close(lyapunov_exponents(maps_of(one, other), 3)[0], exact)
    torch.testing.assert_close(lyapunov_exponents(maps_of(one, other), 1, rounds=40, oversampling=1)[0], exact[:1])


def test_exponents_keep_small_values_that_the_product_would_lose():
    """exp(-30) beside exp(30): further apart than the digits of a float64."""
    turn = torch.linalg.qr(random(3, 3))[0]
    rates = torch.tensor([10.0, -1.0, -10.0], dtype=torch.float64)
    step = turn @ torch.diag(rates.exp()) @ turn.T
    found = lyapunov_exponents(maps_of(step, step, step), 3)[0]
    torch.testing.assert_close(found, rates, atol=1e-3, rtol=1e-3)
    product = torch.linalg.svdvals(step @ step @ step).clamp_min(1e-300).log() / 3
    assert abs(float(product[-1]) + 10) > 1, "the product itself has lost it"


def test_rotations_neither_grow_nor_shrink():
    turn = torch.linalg.matrix_exp(ROTATION)
    assert lyapunov_exponents(maps_of(turn, turn, turn, turn), 2).abs().max() < 1e-9


def test_exponents_of_a_model_are_those_of_its_whole_jacobian():
    model, tokens = small_model()
    maps = [flow_map(model, tokens, depth, depth + 1) for depth in range(3)]
    exact = torch.linalg.svdvals(flow_map(model, tokens).matrix()).log() / 3
    torch.testing.assert_close(
        lyapunov_exponents(maps, 3, rounds=40, oversampling=8), exact[:, :3], rtol=1e-4, atol=1e-5
    )


ONE = flow_map(linear(ROTATION), random(1, 2, 2))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: jacobian_spectrum(ONE, 0), "count=0 was given"),
        (lambda: jacobian_spectrum(ONE, 5), "the smallest state has 4 real entries"),
        (lambda: jacobian_spectrum(None), "what `flow_map` returns"),
        (lambda: jacobian_spectrum(ONE, 1, rounds=0), "rounds=0 was given"),
        (lambda: influence(ONE, draws=1), "draws=1 was given"),
        (lambda: influence(ROTATION), "what `flow_map` returns"),
        (lambda: perturbation_growth(ONE, (0.1, -1.0)), "sizes=-1.0 was given"),
        (lambda: perturbation_growth(ONE, direction=torch.zeros(1, 2, 2)), "a direction that is zero for an example"),
        (lambda: perturbation_growth(ONE, token=2), "token=2 was given, but there are 2 tokens"),
        (lambda: perturbation_growth(ONE, token=-1), "token=-1 was given"),
        (lambda: perturbation_growth(ONE, ()), "a row of sizes above 0"),
        (lambda: perturbation_growth(ONE, (0.0,)), "sizes=0.0 was given: a number above 0"),
        (lambda: perturbation_growth(ONE, direction=torch.ones(1, 3, 2)), "were given for|was given for"),
        (lambda: perturbation_growth(flow_map(linear(ROTATION), 0 * random(1, 2, 2))), "a state that is zero"),
        (lambda: lyapunov_exponents([ONE, FlowMap(torch.tanh, random(1, 2, 2), depths=(1, 2))]), "at another state"),
        (lambda: lyapunov_exponents([]), "no flow map was given"),
        (lambda: lyapunov_exponents([ONE, ONE]), "they are to meet"),
        (lambda: lyapunov_exponents([ONE], 5), "the smallest state has 4 real entries"),
        (lambda: flow_map(linear(ROTATION), random(1, 600, 2)).matrix(), "at most 1024 x 1024 are written down"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()
