import math

import pytest
import torch
from numpy.polynomial import chebyshev
from torch import nn

from companion.theory.bounds import FrozenAttention, row_norm, stationary, step_matrix, threshold
from pdelens.lattice import Chain, Grid, laplacian
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.modes import LowRankModes, Modes, ScaledModes
from pdelens.pde.normalisers import dynamic_tanh, layer_normalise, rms_normalise
from pdelens.pde.terms import ACTIVATIONS, Advection, Diffusion, NonLocal, Reaction, SelfAttention


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alone(term, lattice, depth=1.0):
    return PDE({"term": term}, lattice, depth).double()


def frozen_map(tokens=9, seed=0):
    return torch.softmax(1.5 * random(tokens, tokens, seed=seed), -1)


def previous_token(tokens=9):
    return torch.eye(tokens, dtype=torch.float64).roll(-1, 1)


def point_source(lattice):
    u = torch.zeros(1, *lattice.shape, 1, dtype=torch.float64)
    u[(0, *(side // 2 for side in lattice.shape))] = 1
    return u.flatten(1, -2)


# Exact solutions


@pytest.mark.parametrize("how", ["crank-nicolson", "spectral"])
@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
def test_exact_steps_of_diffusion(boundary, how):
    lattice = Grid(5, 4, boundary, special=(1, 1))
    term = Diffusion(lattice, 2, 0.3).double()
    with torch.no_grad():
        term.raw.coefficients[0, 1] += 0.7
    u, dt = random(2, lattice.tokens, 2), 3.0
    found = term.exact_step(0.0, dt, u, None, how)
    places = Grid(5, 4, boundary)
    matrix = laplacian(torch.eye(20, dtype=torch.float64), places)
    for channel, diffusivity in enumerate(term.diffusivity(0.0).tolist()):
        half = diffusivity * dt * matrix
        unit = torch.eye(20, dtype=torch.float64)
        step = (
            torch.linalg.matrix_exp(half) if how == "spectral" else torch.linalg.solve(unit - half / 2, unit + half / 2)
        )
        expected = torch.einsum("ij,bj->bi", step, u[:, 1:-1, channel])
        torch.testing.assert_close(found[:, 1:-1, channel], expected, atol=1e-11, rtol=0)
    assert torch.equal(found[:, [0, -1]], u[:, [0, -1]])


def test_attention_of_the_residual_stream_against_torch():
    width, heads, tokens = 8, 2, 7
    term = SelfAttention(width, heads, layer_normalise).double()
    theirs = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        stacked, output = term.inputs(0.0), term.output(0.0)
        theirs.in_proj_weight.copy_(stacked[:, :-1])
        theirs.in_proj_bias.copy_(stacked[:, -1])
        theirs.out_proj.weight.copy_(output[:, :-1])
        theirs.out_proj.bias.copy_(output[:, -1])
    u, mask = 2 * random(3, tokens, width), torch.ones(3, tokens, dtype=torch.bool)
    mask[1, 4:] = False
    normalised = layer_normalise(u)
    expected, weights = theirs(
        normalised, normalised, normalised, key_padding_mask=~mask, need_weights=True, average_attn_weights=False
    )
    torch.testing.assert_close(term(0.0, u, mask), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(term.weights(0.0, u, mask), weights, atol=1e-12, rtol=0)
    assert bool((term.weights(0.0, u, mask)[1, :, :, 4:] == 0).all())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_reaction_is_a_token_wise_network(activation):
    term = Reaction(6, 11, layer_normalise, activation).double()
    u = random(2, 5, 6)
    first, second = term.first(0.0), term.second(0.0)
    inner = {"gelu": nn.GELU(), "relu": nn.ReLU(), "tanh": nn.Tanh(), "linear": nn.Identity()}[activation](
        nn.functional.layer_norm(u, (6,)) @ first[:, :-1].T + first[:, -1]
    )
    torch.testing.assert_close(term(0.0, u), inner @ second[:, :-1].T + second[:, -1], atol=1e-12, rtol=0)


def test_linear_reaction_attains_its_lipschitz_estimate_at_most():
    term = Reaction(6, 11, lambda u: u, "relu").double()
    u = random(50, 1, 6)
    ratios = (term(0.0, u) - term(0.0, u.roll(1, 0))).norm(dim=-1) / (u - u.roll(1, 0)).norm(dim=-1)
    assert 0.05 * term.lipschitz(0.0) < float(ratios.detach().max()) <= term.lipschitz(0.0)


def test_normalisers_against_torch():
    u = 3 * random(2, 5, 8) + 1
    torch.testing.assert_close(layer_normalise(u), nn.LayerNorm(8).double()(u), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        rms_normalise(u), nn.RMSNorm(8, eps=1e-6, dtype=torch.float64)(u).detach(), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(dynamic_tanh(u, 0.3), torch.tanh(0.3 * u), atol=0, rtol=0)


# Coefficients in depth-time


@pytest.mark.parametrize("t", [0.0, 0.4, 1.9, 3.0])
def test_chebyshev_modes_against_numpy(t):
    modes = Modes(torch.zeros(2), depth=3.0, modes=4).double()
    with torch.no_grad():
        modes.coefficients.copy_(random(4, 2))
    expected = chebyshev.chebval(2 * t / 3 - 1, modes.coefficients.detach().numpy())
    torch.testing.assert_close(modes(t).detach(), torch.from_numpy(expected), atol=1e-13, rtol=0)


def test_piecewise_modes_jump_at_their_breakpoints():
    modes = Modes(torch.zeros(1), depth=6.0, modes=3, basis="piecewise")
    with torch.no_grad():
        modes.coefficients.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    assert modes.breakpoints() == [2.0, 4.0]
    assert [float(modes(t).detach()) for t in (0.0, 1.99, 2.0, 3.99, 4.0, 6.0)] == [1, 1, 2, 2, 3, 3]


def test_low_rank_pieces_are_one_matrix_and_a_correction():
    first = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    modes = LowRankModes(first, depth=6.0, layers=3, rank=2)
    assert modes.modes == 3 and modes.breakpoints() == [2.0, 4.0]
    torch.testing.assert_close(modes(3.0), first)
    with torch.no_grad():
        modes.left.normal_()
    for t, piece in ((0.0, 0), (1.99, 0), (2.0, 1), (6.0, 2)):
        added = modes(t) - first
        assert torch.linalg.matrix_rank(added) == 2
        torch.testing.assert_close(added, modes.left[piece] @ modes.right[piece])
    with pytest.raises(ValueError, match=r"rank 6 to \(5, 7\)"):
        LowRankModes(first, 6.0, 3, 6)


@pytest.mark.parametrize("basis", ["chebyshev", "piecewise"])
def test_scaled_pieces_share_a_matrix_but_for_their_rows(basis):
    first = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    modes, plain = ScaledModes(first, 6.0, 6, 2, basis), Modes(first, 6.0, 2, basis)
    with torch.no_grad():
        plain.coefficients.normal_()
        modes.coefficients.copy_(plain.coefficients)
        modes.scales.uniform_(0.5, 2)
    for t, piece in ((0.0, 0), (2.5, 2), (3.0, 3), (5.9, 5), (6.0, 5)):
        torch.testing.assert_close(modes(t), torch.diag(modes.scales[piece]) @ plain(t))
    assert modes.breakpoints() == [1.0, 2.0, 3.0, 4.0, 5.0] and modes.modes == 6


def test_more_modes_begin_as_the_constant():
    term = Diffusion(Chain(8), 3, 0.2, depth=4.0, modes=3)
    for t in (0.0, 1.3, 4.0):
        torch.testing.assert_close(term.diffusivity(t), torch.full((3,), 0.2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wanted", [1e-9, 0.01, 0.5, 30.0, 500.0])
def test_diffusivity_is_what_was_asked_for_and_never_negative(wanted):
    term = Diffusion(Chain(8), 1, wanted)
    torch.testing.assert_close(term.diffusivity(0.0), torch.tensor([wanted]), atol=1e-12, rtol=1e-4)
    with torch.no_grad():
        term.raw.coefficients -= 1000
    assert float(term.diffusivity(0.0).detach()) >= 0


# Maximum principle, energy and conservation of explicit diffusion


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("shape", [(4, 4), (7, 6), (9,)])
def test_maximum_principle_holds_just_below_its_bound_and_fails_just_above(shape, boundary):
    lattice = Chain(*shape, boundary) if len(shape) == 1 else Grid(*shape, boundary)
    u, bound = point_source(lattice), 1 / (2 * lattice.dims)
    pde = alone(Diffusion(lattice, 1, 1.0), lattice)
    diffusivity = float(pde.terms["term"].diffusivity(0.0).detach())

    def extremes(step):
        times = step / diffusivity * torch.arange(6)
        flow = integrate(pde, u, times.tolist(), "euler", check_steps=False)
        return min(float(s.detach().min()) for s in flow.states), max(float(s.detach().max()) for s in flow.states)

    low, high = extremes(bound * 0.999)
    assert low >= 0 and high <= 1
    low, _ = extremes(bound * 1.001)
    assert low < -5e-4


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "lie", "strang", "dopri5"])
def test_mass_is_conserved(boundary, method):
    lattice = Grid(5, 4, boundary)
    pde = alone(Diffusion(lattice, 3, 0.2), lattice, depth=5)
    u = random(2, 20, 3)
    states = integrate(pde, u, method=method).states
    assert float((states[-1] - u).detach().abs().max()) > 0.3
    for state in states[1:]:
        torch.testing.assert_close(state.sum(1), u.sum(1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("lattice", [Chain(9), Chain(8, "periodic"), Grid(5, 4), Grid(4, 4, "periodic")], ids=str)
def test_energy_falls_up_to_the_lattices_own_bound_and_rises_above(lattice):
    matrix = laplacian(torch.eye(lattice.places, dtype=torch.float64), lattice)
    values, vectors = torch.linalg.eigh(matrix)
    u = (vectors @ random(lattice.places, 1))[None] + vectors[None, :, :1]
    pde = alone(Diffusion(lattice, 1, 1.0), lattice)
    diffusivity = float(pde.terms["term"].diffusivity(0.0).detach())
    largest = 2 / float(values[0].abs())

    def energies(step, count, start):
        times = (step / diffusivity * torch.arange(count + 1, dtype=torch.float64)).tolist()
        flow = integrate(pde, start, times, "euler", check_steps=False)
        return torch.stack([-(u * laplacian(u, lattice)).sum((-2, -1)) / 2 for u in flow.states]).flatten()

    below = energies(0.999 * largest, 50, u)
    assert bool((below.diff() < 0).all())
    above = energies(1.001 * largest, 5, vectors[None, :, :1])
    assert bool((above.diff() > 0).all())


def test_fourth_order_diffusion_has_no_maximum_principle_but_its_bound_in_the_2_norm():
    for lattice in (Chain(16, "periodic"), Grid(8, 8, "periodic")):
        pde = alone(Diffusion(lattice, 1, 1.0, order=4), lattice)
        assert float(step_matrix(pde, 0.01).min()) < 0 and float(row_norm(step_matrix(pde, 0.01))) > 1
        found = threshold(
            lambda dt, pde=pde: float(torch.linalg.matrix_norm(step_matrix(pde, dt), 2)) <= 1 + 1e-12, 0.01, 1.0
        )
        assert abs(found - 0.375 / lattice.dims) < 1e-6
        assert abs(pde.terms["term"].step_bound(0.0).largest - found) < 1e-6


def test_upwind_advection_has_a_maximum_principle_up_to_its_bound():
    lattice = Grid(5, 5)
    term = Advection(lattice, 1, 0.0).double()
    with torch.no_grad():
        term.velocity.coefficients[0] = torch.tensor([[0.5], [-0.75]], dtype=torch.float64)
    pde = alone(term, lattice)
    found = threshold(lambda dt: float(row_norm(step_matrix(pde, dt))) <= 1 + 1e-12, 0.1, 2.0)
    assert abs(found - 0.8) < 1e-6 and abs(term.step_bound(0.0).largest - 0.8) < 1e-7


# Attention as a non-local operator


def test_frozen_attention_solves_the_matrix_exponential():
    attention, u = frozen_map(), random(3, 9, 4)
    pde = PDE({"attention": FrozenAttention(attention)}, None, 2.0)
    exact = torch.linalg.matrix_exp(2 * (attention - torch.eye(9, dtype=torch.float64))) @ u
    found = integrate(pde, u, [0, 2], "dopri5", rtol=1e-11, atol=1e-12).states[-1]
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)


def test_frozen_attention_has_a_maximum_principle_up_to_step_one():
    for attention in (frozen_map(), previous_token()):
        pde, u = PDE({"attention": FrozenAttention(attention)}, Chain(9), 1.0), random(2, 9, 3)
        assert float(row_norm(step_matrix(pde, 1.0))) <= 1 + 1e-12
        flow = integrate(pde, u, [0, 1, 2, 3], "euler")
        for state in flow.states:
            assert bool((state.amax(1) <= u.amax(1) + 1e-12).all() and (state.amin(1) >= u.amin(1) - 1e-12).all())
    shift = PDE({"attention": FrozenAttention(previous_token())}, Chain(9), 1.0)
    assert float(row_norm(step_matrix(shift, 1.001))) > 1.0019


def test_attention_of_the_state_keeps_the_hull_at_step_one_and_leaves_it_above():
    pde, u = PDE({"attention": NonLocal(1.0)}, None, 1.0), random(2, 9, 3)
    after = integrate(pde, u, [0, 1], "euler").states[-1]
    assert bool((after.amax(1) <= u.amax(1)).all() and (after.amin(1) >= u.amin(1)).all())
    wild = integrate(pde, u, [0, 3], "euler", check_steps=False).states[-1]
    assert bool((wild.amax(1) > u.amax(1)).any())


def test_the_stationary_average_is_conserved_and_the_mass_is_not():
    attention, u = frozen_map(), random(3, 9, 4)
    pi = stationary(attention)
    assert float(pi.min()) > 0 and abs(float(pi.sum()) - 1) < 1e-12
    torch.testing.assert_close(pi @ attention, pi, atol=1e-12, rtol=0)
    pde = PDE({"attention": FrozenAttention(attention)}, None, 4.0)
    for method in ("euler", "rk4", "strang", "dopri5"):
        for state in integrate(pde, u, method=method).states:
            torch.testing.assert_close(pi @ state, pi @ u, atol=1e-12, rtol=0)
    # The counter-example of the page: everybody looks at the first token, so its unit of mass becomes nine.
    first = torch.zeros(9, 9, dtype=torch.float64)
    first[:, 0] = 1
    start = torch.eye(9, dtype=torch.float64)[None, :, :1]
    after = integrate(PDE({"attention": FrozenAttention(first)}, None, 1.0), start, [0, 1], "euler").states[-1]
    assert float(start.sum()) == 1 and float(after.sum()) == 9


def test_doubly_stochastic_attention_conserves_mass():
    pde, u = PDE({"attention": FrozenAttention(previous_token())}, None, 2.0), random(3, 9, 4)
    state = integrate(pde, u, substeps=4, method="rk4").states[-1]
    torch.testing.assert_close(state.sum(1), u.sum(1), atol=1e-12, rtol=0)
    assert float((state - u).abs().max()) > 0.3


def test_causal_attention_sees_no_future():
    term = SelfAttention(8, 2, layer_normalise, causal=True).double()
    u = random(2, 7, 8)
    other = u.clone()
    other[:, 4] += random(8, seed=1)
    difference = (term(0.0, u) - term(0.0, other)).abs().sum((0, 2))
    assert bool((difference[:4] == 0).all()) and bool((difference[4:] > 1e-4).all())
    assert float(term.weights(0.0, u).detach().triu(1).abs().max()) == 0


def test_padded_keys_are_hidden_from_attention():
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False
    u = random(2, 7, 8)
    other = u.clone()
    other[0, 5:] = 5.0
    for term in (SelfAttention(8, 2, layer_normalise).double(), NonLocal(0.5)):
        assert torch.equal(term(0.0, u, mask)[0, :5], term(0.0, other, mask)[0, :5])
        assert float(term.weights(0.0, u, mask)[0, :, :, 5:].detach().abs().max()) == 0
        assert float((term(0.0, u) - term(0.0, other))[0, :5].detach().abs().max()) > 1e-3


def test_diffusion_and_advection_know_padding():
    mask = torch.ones(1, 8, dtype=torch.bool)
    mask[0, 5:] = False
    u = random(1, 8, 2)
    for term in (Diffusion(Chain(8), 2, 0.3), Advection(Chain(8), 2, 0.4), Advection(Chain(8), 2, 0.4, "central")):
        term = term.double()
        other = u.clone()
        other[0, 5:] = 5.0
        assert torch.equal(term(0.0, u, mask)[0, :5], term(0.0, other, mask)[0, :5])
        assert float(term(0.0, u, mask)[0, 5:].detach().abs().max()) == 0
        assert float((term(0.0, u) - term(0.0, other))[0, 4].detach().abs().max()) > 1e-2


def test_stationary_distribution_of_a_known_chain():
    attention = torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(
        stationary(attention), torch.tensor([0.75, 0.25], dtype=torch.float64), atol=1e-12, rtol=0
    )


def test_bounds_of_terms_alone():
    assert Diffusion(Grid(5, 5), 1, 0.5).step_bound(0.0).largest == pytest.approx(0.5, rel=1e-6)
    assert Diffusion(Grid(5, 5), 1, 0.5, order=4).step_bound(0.0).largest == pytest.approx(0.375, rel=1e-6)
    assert Advection(Grid(5, 5), 1, -0.25).step_bound(0.0).largest == pytest.approx(2.0)
    assert Advection(Chain(5), 1, 0.0).step_bound(0.0).largest == math.inf
    assert Advection(Chain(5), 1, 0.3, "central").step_bound(0.0).largest == 0
    assert NonLocal().step_bound(0.0).largest == 1
    assert Reaction(4, 8, layer_normalise).step_bound(0.0).largest == math.inf


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda: Diffusion(Chain(8), 4, -0.1), "a diffusivity of -0.1 was given: it must not be negative"),
        (lambda: SelfAttention(8, 3, layer_normalise), "width 8 is no multiple of heads 3"),
        (lambda: Reaction(8, 16, layer_normalise, "swish"), "activation 'swish' was given: choose from gelu"),
        (lambda: Modes(torch.zeros(1), 1.0, 2, "fourier"), "basis 'fourier' was given: choose from chebyshev"),
        (lambda: Modes(torch.zeros(1), 1.0, 0), r"0 modes on \[0, 1.0\] were asked for"),
        (lambda: Modes(torch.zeros(1), 0.0), "both must be positive"),
        (
            lambda: Diffusion(Chain(8, causal=True), 1)(0.0, torch.zeros(1, 8, 1)),
            "a Laplacian on a causal chain was asked for",
        ),
        (
            lambda: Diffusion(Chain(8, causal=True), 1).exact_step(0.0, 1.0, torch.zeros(1, 8, 1), None, "spectral"),
            "a Laplacian on a causal chain was asked for",
        ),
        (
            lambda: Diffusion(Chain(8), 1).exact_step(
                0.0, 1.0, torch.zeros(1, 8, 1), torch.tensor([[True] * 5 + [False] * 3]), "spectral"
            ),
            "a spectral diffusion step with padding was asked for",
        ),
        (lambda: FrozenAttention(torch.full((3, 3), 0.5)), "a square row-stochastic one is wanted"),
    ],
)
def test_bad_input_is_named(do, says):
    with pytest.raises(ValueError, match=says):
        do()
