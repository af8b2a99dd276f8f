import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from companion.theory.bounds import FrozenAttention, Penalty, row_norm, step_matrix, threshold
from companion.theory.problems import converged, fitted_order, full_equation, space_errors, time_errors
from pdelens.lattice import Chain, Grid, Lattice
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import DivergenceError, integrate
from pdelens.pde.modes import Modes
from pdelens.pde.normalisers import layer_normalise
from pdelens.pde.stability import StepError, step_bound
from pdelens.pde.terms import Advection, Diffusion, NonLocal, Reaction, Term

BOUNDARIES = ("periodic", "neumann", "dirichlet")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def diffusing(lattice, diffusivity=0.2, depth=1.0, order=2, width=1, **temporal):
    return PDE(
        {"diffusion": Diffusion(lattice, width, diffusivity, order, depth=depth, **temporal)}, lattice, depth
    ).double()


class Growth(Term):
    """`r u^2`: leaves every bound in finite time."""

    symbol = "r u^2"

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, t, u, mask=None):
        return self.rate * u**2


# Exact solutions


@pytest.mark.parametrize("method", ["dopri5", "spectral"])
@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("shape", "numbers"), [((12,), (3,)), ((7, 6), (2, 1))])
def test_heat_modes_decay_exactly(heat_mode, shape, numbers, boundary, order, method):
    lattice = Lattice(shape, boundary)
    mode, value = heat_mode(lattice, numbers, order)
    pde = diffusing(lattice, 0.3, order=order)
    rate = float(pde.terms["diffusion"].diffusivity(0.0).detach()) * value
    how = {"method": "dopri5", "rtol": 1e-11, "atol": 1e-12}
    if method == "spectral":
        how = {"method": "lie", "diffusion_step": "spectral"}
    flow = integrate(pde, mode[None], [0, 0.5, 2.0], **how)
    for t, state in zip((0.5, 2.0), flow.states[1:], strict=True):
        torch.testing.assert_close(state[0], math.exp(rate * t) * mode, atol=1e-9, rtol=0)
    assert math.exp(rate * 2) < 0.9


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_euler_multiplies_a_mode_by_its_own_factor(heat_mode, boundary):
    lattice = Grid(6, 5, boundary)
    mode, value = heat_mode(lattice, (2, 1))
    pde = diffusing(lattice, 0.3)
    factor = 1 + 0.5 * float(pde.terms["diffusion"].diffusivity(0.0).detach()) * value
    state = integrate(pde, mode[None], [0, 2], "euler", substeps=4).states[-1]
    torch.testing.assert_close(state[0], factor**4 * mode, atol=1e-13, rtol=0)


def test_growing_diffusivity_is_integrated_over_depth(heat_mode):
    lattice = Chain(8, "periodic")
    mode, value = heat_mode(lattice, (2,))
    pde = diffusing(lattice, 0.2, depth=2.0, modes=3)
    with torch.no_grad():
        pde.terms["diffusion"].raw.coefficients[1:] = torch.tensor([[0.7], [0.2]])
    times = np.linspace(0, 2, 4001)
    rates = [float(pde.terms["diffusion"].diffusivity(t).detach()) for t in times]
    exact = math.exp(value * np.trapezoid(rates, times)) * mode
    found = integrate(pde, mode[None], [0, 2], "rk4", substeps=64).states[-1][0]
    torch.testing.assert_close(found, exact, atol=1e-7, rtol=0)


def test_linear_equation_against_the_matrix_exponential():
    lattice = Grid(4, 3)
    attention = torch.softmax(random(12, 12), -1)
    terms = {
        "diffusion": Diffusion(lattice, 1, 0.1),
        "advection": Advection(lattice, 1, 0.2),
        "attention": FrozenAttention(attention),
    }
    pde = PDE(terms, lattice, 3.0).double()
    unit = torch.eye(12, dtype=torch.float64)[..., None]
    generator = pde.rhs(0.0, unit).detach()[..., 0].T
    u = random(2, 12, 3)
    found = integrate(pde, u, [0, 3], "dopri5", rtol=1e-11, atol=1e-12).states[-1]
    torch.testing.assert_close(found, torch.linalg.matrix_exp(3 * generator) @ u, atol=1e-9, rtol=0)


def test_dirichlet_values_are_exact_at_every_step_and_a_penaltys_are_not():
    side, ends = 5, (2.0, -1.0)
    u = random(1, side, 1)
    u[0, 0], u[0, -1] = ends
    times = torch.linspace(0, 40, 81).tolist()
    hard = diffusing(Chain(side, "dirichlet"), 0.3, depth=40)
    for method in ("euler", "rk4", "strang", "dopri5"):
        for state in integrate(hard, u, times, method).states:
            assert torch.equal(state[0, [0, -1]], u[0, [0, -1]])
    exact = torch.linspace(*ends, side, dtype=torch.float64)
    found = integrate(hard, u, [0, 200], "rk4", 200).states[-1][0, :, 0]
    torch.testing.assert_close(found, exact, atol=1e-10, rtol=0)
    for epsilon in (0.5, 0.1):
        soft = diffusing(Chain(side), 0.3, depth=200)
        diffusivity = float(soft.terms["diffusion"].diffusivity(0.0).detach())
        soft.terms["penalty"] = Penalty(Chain(side), ends, epsilon)
        state = integrate(soft, u, [0, 200], "rk4", 1000).states[-1][0, :, 0]
        slope = (ends[1] - ends[0]) / (side - 1 + 2 * epsilon * diffusivity)
        error = float(state[0].detach()) - ends[0]
        assert abs(error - epsilon * diffusivity * slope) < 1e-8 and abs(error) > 1e-3


# Independent implementations


@pytest.mark.parametrize("lattice", [Chain(6, "periodic"), Grid(3, 3, "dirichlet", special=1)], ids=str)
def test_converged_solution_against_scipy(lattice):
    pde, u = full_equation(lattice, 4), random(1, lattice.tokens, 4)

    def rhs(t, flat):
        with torch.no_grad():
            return pde.rhs(t, torch.from_numpy(flat).reshape(u.shape)).numpy().ravel()

    theirs = solve_ivp(rhs, (0, 1), u.numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    with torch.no_grad():
        ours = integrate(pde, u, [0, 1], "dopri5", rtol=1e-10, atol=1e-11).states[-1]
    assert float((ours - u).abs().max()) > 0.5
    torch.testing.assert_close(ours, torch.from_numpy(theirs).reshape(u.shape), atol=1e-8, rtol=0)


@pytest.mark.parametrize("boundary", ["periodic", "neumann"])
def test_diffusion_against_py_pde(boundary):
    import pde as py_pde

    u = random(1, 20, 1)
    lattice = Grid(5, 4, boundary)
    equation = diffusing(lattice, 0.3)
    diffusivity = float(equation.terms["diffusion"].diffusivity(0.0).detach())
    grid = py_pde.CartesianGrid([[0, 5], [0, 4]], [5, 4], periodic=boundary == "periodic")
    start = py_pde.ScalarField(grid, u.reshape(5, 4).numpy())
    theirs = py_pde.DiffusionPDE(diffusivity, bc="auto_periodic_neumann").solve(
        start, t_range=1.5, solver="scipy", backend="numpy", tracker=None, method="DOP853", rtol=1e-10, atol=1e-12
    )
    ours = integrate(equation, u, [0, 1.5], "dopri5", rtol=1e-10, atol=1e-12).states[-1]
    assert float((ours - u).detach().abs().max()) > 0.5
    torch.testing.assert_close(ours, torch.from_numpy(theirs.data).reshape(1, 20, 1), atol=1e-6, rtol=0)


# Orders of convergence, on problems whose parts don't commute and whose coefficients change


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_order_in_space(boundary, order):
    spacings, errors = space_errors(boundary, order, (16, 32, 64), until=0.3)
    assert abs(fitted_order(spacings, errors) - order) < 0.1, errors


@pytest.fixture(scope="module", params=[Chain(8, "periodic"), Grid(4, 4)], ids=str)
def problem(request):
    pde, u = full_equation(request.param, 8), random(2, request.param.tokens, 8, seed=1)
    return pde, u, converged(pde, u, 1.0)


def test_terms_of_the_problem_do_not_commute(problem):
    pde, u, _ = problem
    with torch.no_grad():
        both = [pde.terms[name] for name in ("diffusion", "attention")]
        one, other = (b(0.3, u + a(0.3, u)) + a(0.3, u) for a, b in (both, both[::-1]))
        assert float((one - other).abs().max()) > 0.01
        assert float((pde.rhs(0.1, u) - pde.rhs(0.9, u)).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("method", "nominal", "counts"),
    [
        ("euler", 1, (16, 32, 64, 128)),
        ("heun", 2, (8, 16, 32, 64)),
        ("rk4", 4, (32, 64, 128)),
        ("lie", 1, (16, 32, 64, 128)),
        ("strang", 2, (8, 16, 32, 64)),
    ],
)
def test_order_in_time(problem, method, nominal, counts):
    pde, u, exact = problem
    steps, errors = time_errors(pde, u, exact, method, counts, 1.0)
    assert abs(fitted_order(steps, errors) - nominal) < 0.1, errors


@pytest.mark.parametrize("diffusion_step", ["crank-nicolson", "spectral"])
@pytest.mark.parametrize(("method", "nominal"), [("lie", 1), ("strang", 2)])
def test_order_with_implicit_diffusion(problem, method, nominal, diffusion_step):
    pde, u, exact = problem
    steps, errors = time_errors(pde, u, exact, method, (16, 32, 64), 1.0, diffusion_step=diffusion_step)
    assert abs(fitted_order(steps, errors) - nominal) < 0.1, errors


@pytest.mark.parametrize(("method", "nominal", "counts"), [("heun", 2, (8, 16, 32)), ("rk4", 4, (4, 8, 16))])
def test_jumps_of_coefficients_cost_no_order(method, nominal, counts):
    pde, u = full_equation(Chain(6), 8, basis="piecewise"), random(1, 6, 8)
    assert pde.breakpoints() == pytest.approx([1 / 3, 2 / 3])
    steps, errors = time_errors(pde, u, converged(pde, u, 1.0), method, counts, 1.0)
    assert abs(fitted_order(steps, errors) - nominal) < 0.1, errors


@pytest.mark.parametrize(("method", "slope"), [("lie", -1), ("strang", -2)])
def test_depth_refinement_of_a_tied_network(method, slope):
    # L layers of one tied network, each a step of 2 / L, approach its ODE over depth-time 2.
    pde, u = full_equation(None, 8, depth=2.0, temporal_modes=1, diffusion=None, advection=None), random(2, 9, 8)
    layers = (6, 12, 24, 48, 96)
    _, errors = time_errors(pde, u, converged(pde, u, 2.0), method, layers, 2.0)
    assert abs(fitted_order(layers, errors) - slope) < 0.1, errors


# What a solve gives, and how it can be differentiated


def test_flow_has_states_attention_depths_and_lattice():
    pde, u = full_equation(Chain(6), 8, depth=3.0), random(2, 6, 8)
    with torch.no_grad():
        flow = integrate(pde, u, substeps=4)
    assert len(flow.states) == 4 and len(flow.attention) == 3 and flow.lattice == Chain(6)
    assert flow.depths.tolist() == [0, 1, 2, 3] and torch.equal(flow.states[0], u)
    for t, (state, attention) in enumerate(zip(flow.states, flow.attention, strict=False)):
        assert torch.equal(attention, pde.attention(float(t), state).detach())


def test_intermediate_depths_do_not_change_the_end():
    pde, u = full_equation(Chain(6), 8), random(2, 6, 8)
    with torch.no_grad():
        direct = integrate(pde, u, [0, 1], "rk4", substeps=8).states[-1]
        stopped = integrate(pde, u, [0, 0.25, 0.5, 1], "rk4", substeps=8).states[-1]
        exact = converged(pde, u, 1.0)
    assert float((stopped - exact).abs().max()) < float((direct - exact).abs().max()) < 1e-2


def test_solve_is_differentiable():
    lattice = Chain(5)
    pde = PDE({"diffusion": Diffusion(lattice, 1, 0.2), "mean": NonLocal(0.7)}, lattice, 1.0).double()
    u = random(1, 5, 2).requires_grad_()
    for method in ("strang", "rk4"):
        assert torch.autograd.gradcheck(
            lambda u, method=method: integrate(pde, u, [0, 1], method, substeps=2).states[-1], u
        )


def test_float32_stays_float32():
    pde = TransformerPDE(8, 2, Chain(6), depth=1)
    for method in ("rk4", "strang", "dopri5"):
        assert integrate(pde, random(1, 6, 8, dtype=torch.float32), [0, 1], method).states[-1].dtype == torch.float32


# Refused steps: only beyond proved bounds, with the bound and the largest step named


@pytest.mark.parametrize(
    ("terms", "method", "bound", "name"),
    [
        ({"d": Diffusion(Chain(8), 1, 0.4)}, "euler", 1.25, "explicit diffusion, order 2"),
        ({"d": Diffusion(Grid(8, 8), 1, 0.4)}, "lie", 0.625, "explicit diffusion, order 2"),
        ({"d": Diffusion(Chain(8), 1, 0.4, order=4)}, "euler", 0.9375, "explicit diffusion, order 4"),
        ({"d": Diffusion(Grid(8, 8), 1, 0.4, order=4)}, "heun", 0.46875, "explicit diffusion, order 4"),
        ({"d": Diffusion(Chain(8), 1, 0.4)}, "rk4", 1.740625, "explicit diffusion, order 2"),
        ({"v": Advection(Chain(8), 1, 0.5)}, "euler", 2.0, "upwind advection"),
        ({"v": Advection(Chain(8), 1, 0.5, "central"), "d": Diffusion(Chain(8), 1, 0.1)}, "euler", 0.8, "v^2 dt <= 2"),
        ({"v": Advection(Chain(8), 1, 0.5, "central"), "d": Diffusion(Chain(8), 1, 0.1)}, "heun", 0.8, "v^2 dt <= 2"),
        ({"a": NonLocal()}, "euler", 1.0, "row-stochastic relaxation"),
        ({"a": NonLocal(), "d": Diffusion(Chain(8), 1, 0.5)}, "euler", 0.5, "maximum principle of the sum"),
        ({"a": NonLocal(), "d": Diffusion(Grid(8, 8), 1, 0.5)}, "euler", 1 / 3, "maximum principle of the sum"),
        ({"a": NonLocal(), "d": Diffusion(Chain(8), 1, 0.5)}, "lie", 1.0, "<= "),
        ({"d": Diffusion(Chain(8), 1, 0.5), "a": NonLocal()}, "strang", 1.0, "row-stochastic relaxation"),
    ],
)
def test_step_bounds(terms, method, bound, name):
    lattice = next((t.lattice for t in terms.values() if hasattr(t, "lattice")), Chain(8))
    pde, u = PDE(terms, lattice, 10.0).double(), random(1, lattice.tokens, 1)
    found = step_bound(pde, 0.0, method)
    assert found.largest == pytest.approx(bound, rel=1e-6) and name in found.name
    integrate(pde, u, [0, 0.999 * bound], method)
    with pytest.raises(StepError, match=r"a step of .* at t = 0 was asked for, but .* allows at most") as error:
        integrate(pde, u, [0, 1.001 * bound], method)
    assert found.name in str(error.value) and f"{found.largest:.4g}" in str(error.value)
    assert "use at least 2 substeps" in str(error.value)
    integrate(pde, u, [0, 1.001 * bound], method, substeps=2)


@pytest.mark.parametrize(
    ("method", "how"),
    [("lie", "spectral"), ("lie", "crank-nicolson"), ("strang", "spectral"), ("strang", "crank-nicolson")],
)
def test_implicit_diffusion_has_no_bound(method, how):
    lattice = Grid(6, 6)
    pde, u = diffusing(lattice, 5.0), random(1, 36, 1)
    with pytest.raises(StepError, match="or diffusion_step='spectral'"):
        integrate(pde, u, [0, 1], method)
    state = integrate(pde, u, [0, 1], method, diffusion_step=how).states[-1]
    assert float(state.detach().norm()) < float(u.detach().norm())
    assert step_bound(pde, 0.0, method, how).largest == math.inf


def test_a_transformers_layers_and_dopri5_are_exempt():
    pde = TransformerPDE(8, 2, None, depth=2, diffusion=None).double()
    assert step_bound(pde, 0.0).largest == math.inf
    integrate(pde, random(1, 5, 8))
    integrate(diffusing(Chain(8), 3.0), random(1, 8, 1), [0, 1], "dopri5")


def test_bound_is_checked_where_the_coefficient_is_largest():
    pde = diffusing(Chain(8), 0.1, modes=2)
    with torch.no_grad():
        pde.terms["diffusion"].raw.coefficients[1] = 3.0
    assert step_bound(pde, 0.0, "euler").largest > 1 > step_bound(pde, 1.0, "euler").largest
    with pytest.raises(StepError, match="a step of 1 at t = 1 was asked for"):
        integrate(pde, random(1, 8, 1), [0, 1], "euler", substeps=1)


def test_central_advection_alone_is_refused_with_a_cure():
    pde = PDE({"v": Advection(Chain(8), 1, 0.5, "central")}, Chain(8), 1.0)
    with pytest.raises(StepError, match="use scheme='upwind', or add diffusion"):
        integrate(pde, random(1, 8, 1), [0, 0.01], "euler")
    integrate(pde.double(), random(1, 8, 1), [0, 1], "rk4")


def test_proved_bounds_are_the_measured_ones():
    attention = torch.eye(8, dtype=torch.float64).roll(-1, 1)
    lattice = Grid(4, 4)
    moved = torch.eye(16, dtype=torch.float64).roll(-1, 1)
    cases = {
        0.5: PDE({"d": Diffusion(Chain(8), 1, 1.0)}, Chain(8), 1.0),
        0.25: PDE({"d": Diffusion(lattice, 1, 1.0)}, lattice, 1.0),
        1.0: PDE({"a": FrozenAttention(attention)}, Chain(8), 1.0),
        1 / 3: PDE({"d": Diffusion(lattice, 1, 0.5), "a": FrozenAttention(moved)}, lattice, 1.0),
    }
    for bound, pde in cases.items():
        pde = pde.double()
        found = threshold(lambda dt, pde=pde: float(row_norm(step_matrix(pde, dt))) <= 1 + 1e-12, 0.01, 2.0)
        assert found == pytest.approx(bound, abs=1e-6)
        assert step_bound(pde, 0.0, "euler").largest == pytest.approx(found, rel=1e-5)


def test_stiff_reaction_is_noted_not_refused():
    term = Reaction(4, 8, layer_normalise)
    pde, u = PDE({"reaction": term}, None, 1.0).double(), random(1, 5, 4)
    assert integrate(pde, u, [0, 0.01]).notes == ()
    with torch.no_grad():
        term.first.coefficients *= 30
    notes = integrate(pde, u, [0, 1]).notes
    assert len(notes) == 1 and "reaction: step 1 times the Lipschitz estimate" in notes[0]


# Divergence: depth and term are named


@pytest.mark.parametrize("method", ["lie", "strang", "euler", "rk4"])
def test_divergence_names_depth_and_term(method):
    lattice = Chain(8)
    pde = PDE({"diffusion": Diffusion(lattice, 1, 0.1), "growth": Growth(50.0)}, lattice, 6.0).double()
    with pytest.raises(
        DivergenceError, match=rf"not finite at t = \d.*in the term 'growth' \(method {method}"
    ) as error:
        integrate(pde, torch.ones(1, 8, 1, dtype=torch.float64), method=method, substeps=4)
    depth = float(str(error.value).split("t = ")[1].split(",")[0])
    assert 0 < depth <= 6
    with torch.no_grad():
        states = integrate(pde, torch.ones(1, 8, 1, dtype=torch.float64), [0, 0.25], method, check_steps=False).states
    assert bool(torch.isfinite(states[-1]).all())


def test_adaptive_divergence_says_where():
    pde = PDE({"growth": Growth(1.0)}, None, 2.0)
    # du/dt = u^2 from 1 leaves every bound at t = 1.
    with pytest.raises(DivergenceError, match=r"no step beyond t = 1, on the way to 2 .* too stiff for rtol 1e-06"):
        integrate(pde, torch.ones(1, 3, 1, dtype=torch.float64), [0, 0.5, 2], "dopri5")


@torch.no_grad()
@pytest.mark.parametrize("form", ["pre", "post"])
@pytest.mark.parametrize("basis", ["chebyshev", "piecewise"])
def test_adaptive_solutions_need_no_fresh_start_at_their_times(form, basis, monkeypatch):
    pde = TransformerPDE(8, 2, Chain(6), depth=3, temporal_modes=2, basis=basis, form=form).double()
    for parameter in pde.parameters():
        parameter += 0.2 * random(*parameter.shape)
    asked = []
    total = PDE.total
    monkeypatch.setattr(PDE, "total", lambda self, frozen, u: asked.append(1) or total(self, frozen, u))
    u, how = random(2, 6, 8), {"method": "dopri5", "rtol": 1e-10, "atol": 1e-11}
    path = integrate(pde, u, [0, 1, 1.75, 3], **how)
    at_once, state = len(asked), u
    asked.clear()
    for start, end, found in zip((0, 1, 1.75), (1, 1.75, 3), path.states[1:], strict=True):
        # Jumps lie at 1.5; an equation with a constraint starts afresh to be on it again.
        state = integrate(pde, state, [start, end], **how).states[-1]
        torch.testing.assert_close(found, state, atol=1e-7, rtol=0)
    assert form == "post" or at_once < len(asked)


# Bad input at the door


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"u0": torch.zeros(1, 7, 1)}, ValueError, r"shape \(1, 7, 1\) was given, but \(..., 8, width\) is wanted"),
        ({"u0": torch.zeros(8, 1)}, ValueError, r"shape \(8, 1\) was given, but \(batch, tokens, width\) is wanted"),
        ({"u0": torch.full((1, 8, 1), float("nan"))}, ValueError, "u0 holds NaN or infinity"),
        ({"u0": torch.full((1, 8, 1), float("inf"))}, ValueError, "NaN or infinity"),
        ({"u0": torch.zeros(1, 8, 1, dtype=torch.long)}, TypeError, "type torch.int64 was given, but floating point"),
        ({"method": "leapfrog"}, ValueError, "method 'leapfrog' was given: choose from euler, heun, rk4, lie, strang"),
        ({"substeps": 0}, ValueError, "substeps=0 was given: a whole number, at least 1"),
        ({"substeps": 1.5}, ValueError, r"substeps=1\.5 was given"),
        ({"depths": [0.0]}, ValueError, r"depths \[0.0\] were given: at least two, increasing"),
        ({"depths": [0.0, 1.0, 1.0]}, ValueError, "at least two, increasing"),
        ({"depths": torch.tensor([1.0, 0.0])}, ValueError, r"depths \[1.0, 0.0\]"),
        ({"diffusion_step": "implicit"}, ValueError, "diffusion step 'implicit' was given: choose from explicit"),
        ({"diffusion_step": "spectral", "method": "rk4"}, ValueError, "a spectral diffusion step with 'rk4'"),
        ({"depths": [0.0, 9.0]}, StepError, "a step of 9 at t = 0 .* allows at most 2.5: use at least 4 substeps"),
        (
            {"diffusion_step": "spectral", "mask": torch.tensor([[True] * 5 + [False] * 3])},
            ValueError,
            "a spectral diffusion step with padding",
        ),
        ({"mask": torch.ones(1, 5, dtype=torch.bool)}, ValueError, r"mask .*shape \(1, 5\)"),
    ],
)
def test_bad_input_is_named(change, error, says):
    given = {"u0": torch.zeros(1, 8, 1), "depths": [0, 1]} | change
    with pytest.raises(error, match=says):
        integrate(diffusing(Chain(8)).float(), **given)


def test_depth_times_may_leave_the_equation_by_rounding_alone():
    pde = TransformerPDE(4, 2, Chain(5), depth=1, temporal_modes=2)
    u = random(1, 5, 4).float()
    for start, end in ((0.0, 1 + 1e-6), (-1e-6, 1.0)):
        assert integrate(pde, u, [start, end]).depths.tolist() == pytest.approx([start, end])
    for start, end in ((0.0, 1 + 2e-6), (-2e-6, 1.0)):
        with pytest.raises(ValueError, match=r"lives on \[0, 1\]"):
            integrate(pde, u, [start, end])


def test_integer_masks_of_tokenizers_count_as_masks():
    pde, u = full_equation(Chain(8), 8), random(1, 8, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    with torch.no_grad():
        ours, theirs = (integrate(pde, u, [0, 1], "lie", 8, mask=m).states[-1] for m in (mask, mask.bool()))
    assert torch.equal(ours, theirs)


def test_a_reference_needs_modes_that_change():
    # Guards the problems above: coefficients really depend on depth-time there.
    pde = full_equation(Chain(8), 8)
    for module in pde.modules():
        if isinstance(module, Modes):
            assert float((module(0.0) - module(1.0)).detach().abs().max()) > 1e-3


class Decay(Term):
    """`-t u`, a term of a user's own that looks at depth-time: exp(-t^2 / 2)."""

    def forward(self, t, u, mask=None):
        return -t * u


@pytest.mark.parametrize("method", ["rk4", "heun", "strang", "lie", "euler", "dopri5"])
def test_a_term_of_ones_own_is_asked_at_every_depth_time(method):
    pde = PDE({"decay": Decay(), "diffusion": Diffusion(Chain(3), 1, 0.1)}, Chain(3), depth=2)
    assert not pde.autonomous
    with pde.without("decay"):
        assert pde.autonomous
    u = torch.ones(1, 3, 1, dtype=torch.float64)
    steps = 2000 if method in ("euler", "lie") else 100  # of first order; the others have no need of so many
    found = integrate(pde, u, [0, 2], method=method, substeps=steps, check_steps=False).states[-1]
    assert float(found[0, 0, 0]) == pytest.approx(math.exp(-2), rel=2e-3)


def test_an_adaptive_solve_that_would_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr("pdelens.pde.integrate.MOST_STEPS", 40)
    pde, u = full_equation(Chain(8, "periodic"), 8), random(2, 8, 8, seed=1)
    assert integrate(pde, u, [0, 0.1], "dopri5", rtol=1e-3).states[-1].isfinite().all()
    with pytest.raises(DivergenceError, match=r"no step beyond t = \S+, .*40.*too stiff for rtol 1e-14 in float32"):
        integrate(pde.float(), u.float(), [0, 1.0], "dopri5", rtol=1e-14, atol=1e-16)


def test_divergence_is_dated_by_the_first_step_that_is_not_finite():
    """du/dt = u^2 by Euler's steps of a fifth, in a plain loop: the state overflows long before the interval ends."""
    u, steps = 1.0, 0
    while math.isfinite(u):
        u, steps = u + 0.2 * u * u, steps + 1
    with pytest.raises(DivergenceError, match=rf"not finite at t = {0.2 * steps:g}, in the term 'growth'"):
        integrate(PDE({"growth": Growth(1.0)}, None, 30.0), torch.ones(1, 3, 1).double(), [0, 30], "euler", 150)
