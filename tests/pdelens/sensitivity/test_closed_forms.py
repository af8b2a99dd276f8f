"""Spectra, exponents and growth of systems whose flow map is known, and torch's own Jacobians."""

import math
from itertools import pairwise

import pytest
import torch
from linear import linear, random
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion.theory.problems import full_equation
from pdelens.lattice import Chain, Grid, eigensystem
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import Diffusion, Term
from pdelens.sensitivity import singular, subspace
from pdelens.sensitivity.flow_map import FlowMap, flow_map
from pdelens.sensitivity.growth import lyapunov_exponents, perturbation_growth
from pdelens.sensitivity.singular import jacobian_spectrum


class Logistic(Term):
    """`du/dt = u (1 - u)`, whose solution is known."""

    def forward(self, t, u, mask=None):
        return u * (1 - u)


def in_steps(pde, u, *depths, substeps=16):
    """Return the maps between depths, each from where the one before ends."""
    maps = []
    for start, end in pairwise(depths):
        maps.append(flow_map(pde, u, start, end, substeps=substeps))
        u = maps[-1].value
    return maps


def test_linear_equation():
    """`log s_k(exp(T L)) / T`, which are not the eigenvalues of L."""
    generator = random(4, 4, seed=3)
    exact = torch.linalg.svdvals(torch.linalg.matrix_exp(2 * generator)).log() / 2
    maps = in_steps(linear(generator, 2.0), random(2, 1, 4), 0.0, 0.7, 2.0)
    torch.testing.assert_close(lyapunov_exponents(maps, 4), exact.expand(2, -1), atol=1e-4, rtol=0.01)
    whole = jacobian_spectrum(flow_map(linear(generator, 2.0), random(2, 1, 4), substeps=64), 4).values
    torch.testing.assert_close(whole.log() / 2, exact.expand(2, -1), atol=1e-5, rtol=1e-5)
    assert (exact - torch.linalg.eigvals(generator).real.sort(descending=True).values).abs().max() > 0.05


@pytest.mark.parametrize("lattice", [Chain(5), Grid(3, 3)], ids=str)
def test_heat_equation(lattice):
    """`exp(-D lambda T)` for each of the Laplacian's eigenvalues, in every channel."""
    pde = PDE({"diffusion": Diffusion(lattice, 2, 0.3)}, lattice, depth=1.5).double()
    rates = 0.3 * torch.as_tensor(eigensystem(lattice)[0]).double().sort(descending=True).values.repeat_interleave(2)
    u = random(1, lattice.tokens, 2)
    found = jacobian_spectrum(flow_map(pde, u, substeps=16), len(rates)).values[0]
    torch.testing.assert_close(found.log(), 1.5 * rates, atol=1e-5, rtol=1e-4)
    exponents = lyapunov_exponents(in_steps(pde, u, 0.0, 1.0, 1.5, substeps=8), 6, rounds=5)[0]
    torch.testing.assert_close(exponents, rates[:6], atol=1e-3, rtol=0.01)


def test_two_layer_linear_network():
    first, second = random(3, 3, seed=6), random(3, 3, seed=7)
    model = torch.nn.ModuleList(torch.nn.Linear(3, 3, bias=False).double() for _ in range(2))
    for layer, matrix in zip(model, (first, second), strict=True):
        layer.weight.data = matrix.clone()
    network = torch.nn.Module()
    network.layers = model
    network.forward = lambda u: model[1](model[0](u))
    found = jacobian_spectrum(flow_map(network, random(2, 4, 3)), 12)
    exact = torch.linalg.svdvals(second @ first).repeat_interleave(4)  # once for each token
    torch.testing.assert_close(found.values, exact.expand(2, -1))
    parts = [flow_map(network, random(2, 4, 3), depth, depth + 1) for depth in range(2)]
    torch.testing.assert_close(lyapunov_exponents(parts, 12), exact.log().expand(2, -1) / 2, atol=1e-6, rtol=1e-6)


def test_logistic_reaction():
    """`dF/du = e^T / (1 + u (e^T - 1))^2`, entry by entry."""
    pde, u = PDE({"reaction": Logistic()}, None, depth=2.0).double(), torch.tensor([[[0.1], [0.5], [0.9]]]).double()
    exact = math.exp(2) / (1 + u * (math.exp(2) - 1)) ** 2
    found = jacobian_spectrum(flow_map(pde, u, substeps=64), 3).values[0]
    torch.testing.assert_close(found, exact.flatten().sort(descending=True).values, atol=1e-6, rtol=1e-6)
    exponents = lyapunov_exponents(in_steps(pde, u, 0.0, 1.0, 2.0), 3)[0]
    torch.testing.assert_close(exponents, found.log() / 2, atol=1e-4, rtol=0.01)


def test_rotation_has_no_growth_and_a_shear_has_some_that_its_eigenvalues_do_not_show():
    turn = torch.tensor([[0.0, 3.0], [-3.0, 0.0]], dtype=torch.float64)
    maps = in_steps(linear(turn, 3.0), random(1, 2, 2), 0.0, 1.0, 2.0, 3.0)
    assert lyapunov_exponents(maps, 4).abs().max() < 1e-3
    for size in (0.01, 1.0):
        growth = perturbation_growth(maps[0], (size,))
        assert float(growth.factor) == pytest.approx(1, abs=1e-4) and float(growth.linear) == pytest.approx(1, abs=1e-4)
    shear = torch.tensor([[-0.1, 4.0], [0.0, -0.2]], dtype=torch.float64)
    maps = in_steps(linear(shear, 60.0), random(1, 1, 2), 0.0, 1.0, 20.0, 60.0, substeps=16)
    early, late = lyapunov_exponents(maps[:1], 1), lyapunov_exponents(maps, 1)
    exact = [float(torch.linalg.matrix_norm(torch.linalg.matrix_exp(t * shear), 2).log()) / t for t in (1.0, 60.0)]
    assert [float(early), float(late)] == pytest.approx(exact, rel=0.01)
    assert exact[0] > 1 and exact[1] < 0, "it grows at first, and decays in the end"


def jacrev(function, u):
    with sdpa_kernel(SDPBackend.MATH):
        one = torch.stack([torch.func.jacrev(lambda v: function(v[None])[0])(row) for row in u])
    return one.reshape(len(u), u[0].numel(), u[0].numel())


def small_transformer(**settings):
    model = Transformer(Configuration(side=8, patch=2, width=8, heads=2, layers=2, **settings), seed=1).double()
    return model, torch.randint(0, 256, (2, 8, 8), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("randomised", [False, True])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_transformers_spectrum_is_that_of_torchs_own_jacobian(placement, randomised, monkeypatch):
    model, pictures = small_transformer(placement=placement)

    def run(u):
        for block in model.blocks:
            u = block(u, None)
        return u

    exact = torch.linalg.svdvals(jacrev(run, model.embedding(pictures).detach()))
    if randomised:
        monkeypatch.setattr(singular, "DENSE", 1)
    found = jacobian_spectrum(flow_map(model, pictures), 8)
    assert found.exact != randomised
    torch.testing.assert_close(found.values, exact[:, :8], atol=0, rtol=1e-5)


@pytest.mark.parametrize("randomised", [False, True])
def test_an_equations_spectrum_is_that_of_torchs_own_jacobian(randomised, monkeypatch):
    pde, u = full_equation(Chain(6), 8), random(2, 6, 8)
    exact = torch.linalg.svdvals(jacrev(lambda v: integrate(pde, v, [0.2, 1.0], "rk4", 3).states[-1], u))
    if randomised:
        monkeypatch.setattr(singular, "DENSE", 1)
    found = jacobian_spectrum(flow_map(pde, u, 0.2, 1.0, substeps=3), 8)
    torch.testing.assert_close(found.values, exact[:, :8], atol=0, rtol=1e-5)


def test_a_krylov_space_finds_more_than_its_last_block(monkeypatch):
    """Values that lie close: the products of a power iteration leave them 1e-3 away, the span of all has them."""
    values = torch.linspace(1.0, 0.9, 60, dtype=torch.float64)
    left, right = (torch.linalg.qr(random(60, 60, seed=seed))[0] for seed in (1, 2))
    matrix = left @ torch.diag(values) @ right.T
    monkeypatch.setattr(singular, "DENSE", 1)
    found = jacobian_spectrum(FlowMap(lambda u: u @ matrix.T, random(1, 1, 60)), 3, rounds=12, oversampling=1)
    torch.testing.assert_close(found.values[0], values[:3], atol=1e-5, rtol=0)
    assert bool((found.error[0] < 5e-3).all())
    block = torch.linalg.qr(random(60, 4, seed=0))[0]
    for _ in range(12):
        block = torch.linalg.qr(matrix.T @ (matrix @ block))[0]
    assert abs(float(torch.linalg.svdvals(matrix @ block)[0]) - 1) > 1e-3


def test_a_krylov_space_ends_where_the_state_has_no_more_entries(monkeypatch):
    monkeypatch.setattr(singular, "DENSE", 1)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    matrix = random(4, 4, seed=5)
    one = FlowMap(lambda u: u @ matrix.T, random(2, 3, 4), mask)
    exact = torch.linalg.svdvals(matrix).repeat_interleave(3)
    found = jacobian_spectrum(one, 8, rounds=6, oversampling=0)
    torch.testing.assert_close(found.values[0], torch.linalg.svdvals(matrix).repeat_interleave(2))
    torch.testing.assert_close(found.values[1], exact[:8])
    assert found.values.shape == (2, 8) and not found.right[:, 0, 2].any()


def test_a_rank_of_one_leaves_zeros(monkeypatch):
    monkeypatch.setattr(singular, "DENSE", 1)
    ramp = torch.arange(1.0, 9.0).double()
    found = jacobian_spectrum(FlowMap(lambda u: (u @ ramp)[..., None] * ramp, random(1, 1, 8)), 4, rounds=3)
    assert float(found.values[0, 0]) == pytest.approx(float(ramp @ ramp)) and found.values[0, 1:].abs().max() < 1e-9


def test_numpy_states_are_welcome():
    one = flow_map(linear(torch.eye(2).double()), random(1, 2, 2).numpy())
    growth = perturbation_growth(one, random(3).abs().numpy(), random(1, 2, 2).numpy())
    assert growth.factor.shape == (3, 1)


def test_what_only_rounding_makes_new_is_left_out():
    """In the span of a basis that is orthonormal to 1e-11 only: what a first pass leaves of it is no new direction."""
    basis = subspace.orthonormal(random(4, 2, 3, 5)) * (1 + 1e-11)
    inside = subspace.rows(subspace.columns(basis)[..., :2] * 3, basis.shape)
    assert not subspace._beyond(basis, inside).any()
    partly = torch.cat([inside[:1], random(1, 2, 3, 5, seed=4)])
    found = subspace.columns(subspace._beyond(basis, partly))
    assert (found.norm(dim=1) > 0.5).sum(1).tolist() == [1, 1], "one is new"
    assert float((subspace.columns(basis).mT @ found).abs().max()) < 1e-9
