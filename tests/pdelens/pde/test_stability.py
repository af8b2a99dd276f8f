"""Which steps are refused or noted, and on what estimate."""

import re

import pytest
import torch

from pdelens.lattice import Chain, Grid
from pdelens.pde.equation import PDE, PostNorm
from pdelens.pde.integrate import integrate
from pdelens.pde.modes import Modes
from pdelens.pde.stability import StepError, reaction_notes, refuse_unstable, segments, step_bound
from pdelens.pde.terms import Advection, Diffusion, NonLocal, Reaction


def reaction(seed=0, bias=5.0, **temporal):
    """A reaction with random matrices in every mode, and biases far larger than these."""
    term = Reaction(4, 9, lambda u: u, "tanh", **temporal)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for modes in (term.first, term.second):
            modes.coefficients.copy_(torch.randn(modes.coefficients.shape, generator=generator))
            modes.coefficients[..., -1] = bias
    return term


def plain_estimate(term, t):
    norms = [torch.linalg.matrix_norm(modes(t).detach().double()[:, :-1], 2) for modes in (term.first, term.second)]
    return float(norms[0] * norms[1])


@pytest.mark.parametrize("seed", range(3))
def test_the_lipschitz_estimate_is_the_product_of_the_matrices_norms_without_biases(seed):
    for bias in (0.0, 50.0):
        term = reaction(seed, bias)
        assert term.lipschitz(0.0) == pytest.approx(plain_estimate(term, 0.0), rel=0.02)


def estimates(notes):
    return [float(number) for note in notes for number in re.findall(r"estimate ([\d.e+]+) is", note)]


@pytest.mark.parametrize("steep", [-0.6, 0.6])
def test_the_estimate_of_a_changing_reaction_is_the_largest_where_steps_begin(steep):
    term = reaction(depth=3.0, modes=2)
    with torch.no_grad():
        for modes in (term.first, term.second):
            modes.coefficients[1] = steep * modes.coefficients[0]
    times = [0.0, 1.0, 2.0, 3.0]
    wanted = [plain_estimate(term, t) for t in times]
    assert wanted == sorted(wanted, reverse=steep < 0)
    found = estimates(reaction_notes(PDE({"r": term}, None, 3.0), times, 1))
    assert found == [pytest.approx(wanted[2] if steep > 0 else wanted[0], rel=0.03)]
    piecewise = reaction(depth=3.0, modes=3, basis="piecewise")
    wanted = max(plain_estimate(piecewise, t) for t in (0.0, 1.0, 2.0))
    assert estimates(reaction_notes(PDE({"r": piecewise}, None, 3.0), times, 1)) == [pytest.approx(wanted, rel=0.03)]


def test_a_clock_speeds_the_estimate_up():
    term = reaction()
    clock = Modes(torch.zeros(()), 3.0, 3, "piecewise")
    with torch.no_grad():
        clock.coefficients.copy_(torch.tensor([2.0, 5.0, 0.5]).log())
    pde = PDE({"r": term}, None, 3.0, clock=clock)
    found = estimates(reaction_notes(pde, [0.0, 1.0, 2.0, 3.0], 1))
    assert found == [pytest.approx(5 * plain_estimate(term, 0.0), rel=0.03)]
    assert step_bound(
        PDE({"d": Diffusion(Chain(5), 1, 0.1)}, Chain(5), 3.0, clock=clock), 1.5
    ).largest == pytest.approx(1.0)


def test_the_longest_step_is_noted_and_finer_ones_are_not():
    term = reaction()
    pde, size = PDE({"r": term, "post": PostNorm(term, 4)}, None, 9.0), plain_estimate(term, 0.0)
    times = [0.0, 0.5, 3.5, 4.0]
    for substeps in (1, 2):
        notes = reaction_notes(pde, times, substeps)
        assert [note.split(":")[0] for note in notes] == ["r", "post"]
        assert all(f"step {3 / substeps:.3g} times" in note for note in notes)
    assert reaction_notes(pde, [0.0, 0.97 / size], 1) == () != reaction_notes(pde, [0.0, 1.03 / size], 1)
    assert reaction_notes(pde, times, int(3.1 * size) + 1) == ()
    with pde.without("r"):
        assert len(reaction_notes(pde, times, 1)) == 1


@pytest.mark.parametrize("temporal", [{}, {"modes": 3}, {"modes": 3, "basis": "piecewise"}], ids=str)
def test_bounds_are_looked_at_as_often_as_coefficients_change(temporal, monkeypatch):
    asked = []
    plain = Diffusion.step_bound
    monkeypatch.setattr(Diffusion, "step_bound", lambda self, t: (asked.append(t), plain(self, t))[1])
    pde = PDE({"d": Diffusion(Chain(5), 1, 0.01, depth=3.0, **temporal)}, Chain(5), 3.0)
    refuse_unstable(pde, [0.0, 1.5, 3.0], "euler", 4, "explicit")
    wanted = {
        1: [0.0, 1.5],
        3: [0.0, 0.375, 0.75, 1.125, 1.5, 1.5, 1.875, 2.25, 2.625, 3.0]
        if "basis" not in temporal
        else [0.0, 1.0, 1.5, 2.0],
    }[temporal.get("modes", 1)]
    assert asked == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("at", [0.0, 1.0, 2.0])
def test_a_step_too_long_anywhere_is_refused(at):
    """The diffusivity has its largest value at the beginning, in the middle, or at the end of a layer."""
    term = Diffusion(Chain(6), 1, 1.0, depth=2.0, modes=3)
    with torch.no_grad():
        # A parabola about the place: D = softplus(raw), raw = 3 - 4 (t - at)^2 at its largest 3.
        nodes = torch.linspace(0, 2, 3)
        matrix = torch.stack([term.raw.weights(float(t)) for t in nodes])
        term.raw.coefficients.copy_(torch.linalg.solve(matrix, (3 - 4 * (nodes - at) ** 2)[:, None]))
    largest = float(torch.nn.functional.softplus(torch.tensor(3.0)))
    needed = int(2 * 2 * largest) + 1
    needed += needed % 2
    pde, u = PDE({"d": term}, Chain(6), 2.0), torch.randn(1, 6, 1)
    integrate(pde, u, [0, 2], "euler", needed)
    with pytest.raises(StepError, match=f"a step of .* at t = {at:g}"):
        integrate(pde, u, [0, 2], "euler", needed - 2)


def test_steps_just_within_the_bound_are_taken_and_the_cure_is_enough():
    lattice = Grid(4, 5)
    pde, u = PDE({"d": Diffusion(lattice, 1, 0.9)}, lattice, 2.0), torch.randn(1, 20, 1)
    bound = step_bound(pde, 0.0, "euler").largest
    assert bound == pytest.approx(1 / (4 * 0.9), rel=1e-5)
    integrate(pde, u, [0, 2 * bound * (1 - 1e-9)], "euler", 2)
    with pytest.raises(StepError, match="use at least 3 substeps"):
        integrate(pde, u, [0, 2 * bound * (1 + 1e-6)], "euler", 2)
    with pytest.raises(StepError, match=r"use at least (\d+) substeps") as caught:
        integrate(pde, u, [0, 1], "lie", 1)
    assert "or diffusion_step='spectral'" in str(caught.value)
    count = int(re.findall(r"at least (\d+)", str(caught.value))[0])
    integrate(pde, u, [0, 1], "lie", count)
    integrate(pde, u, [0, 1], "lie", 1, diffusion_step="spectral")
    with pytest.raises(StepError, match=f"use at least {count} substeps"):
        integrate(pde, u, [0, 1], "lie", count - 1)


def test_bounds_of_sums_and_of_half_steps():
    lattice = Chain(8)
    terms = {"d": Diffusion(lattice, 1, 0.2), "v": Advection(lattice, 1, -0.5), "a": NonLocal()}
    pde = PDE(terms, lattice, 1.0)
    for method in ("euler", "heun"):
        assert step_bound(pde, 0.0, method).largest == pytest.approx(1 / (2 * 0.2 + 0.5 + 1), rel=1e-5)
    assert step_bound(pde, 0.0, "lie").largest == pytest.approx(1.0)
    assert step_bound(pde, 0.0, "strang").largest == pytest.approx(1.0), "the last term takes whole steps"
    with pde.without("a"):
        assert step_bound(pde, 0.0, "euler").largest == pytest.approx(1 / 0.9, rel=1e-5)
        assert step_bound(pde, 0.0, "lie").largest == pytest.approx(2.0), "advection alone"
        assert step_bound(pde, 0.0, "strang").largest == pytest.approx(2.0)
    with pde.without("v", "a"):
        assert step_bound(pde, 0.0, "euler").largest == pytest.approx(2.5, rel=1e-5)
    with pde.without("d", "v", "a"):
        assert step_bound(pde, 0.0, "euler").largest == float("inf")
    fast = PDE({"v": Advection(lattice, 1, 2.0), "a": NonLocal()}, lattice, 1.0)
    assert step_bound(fast, 0.0, "strang").largest == pytest.approx(1.0), "half steps of what comes first"
    assert step_bound(fast, 0.0, "lie").largest == pytest.approx(0.5)


def test_central_advection_is_helped_by_the_least_diffusivity_of_all():
    chain = Chain(8)
    diffusion, advection = Diffusion(chain, 2, 0.1), Advection(chain, 2, 0.5, "central")
    with torch.no_grad():
        # One channel diffuses by .4, the other by .1, and only that says what its advection allows.
        diffusion.raw.coefficients[..., 0] = float(torch.tensor(0.4).expm1().log())
    pde = PDE({"v": advection, "d": diffusion}, chain, 1.0)
    assert diffusion.diffusivity(0.0).detach().flatten().tolist() == pytest.approx([0.4, 0.1], rel=1e-5)
    assert step_bound(pde, 0.0, "euler").largest == pytest.approx(2 * 0.1 / 0.5**2, rel=1e-5)


def test_intervals_are_cut_at_the_jumps_inside():
    pde = PDE({"d": Diffusion(Chain(5), 1, depth=4.0, modes=4, basis="piecewise")}, Chain(5), 4.0)
    assert segments(pde, 0.0, 1.0) == [(0.0, 1.0)]
    assert segments(pde, 0.5, 2.5) == [(0.5, 1.0), (1.0, 2.0), (2.0, 2.5)]
    assert segments(pde, 1.0, 3.0) == [(1.0, 2.0), (2.0, 3.0)]
    assert segments(pde, 1 - 1e-12, 2 + 1e-12) == [(1 - 1e-12, 2 + 1e-12)]
