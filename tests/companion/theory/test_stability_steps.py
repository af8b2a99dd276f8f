"""What steps keep and carry, against plain loops, closed forms and other methods."""

import math

import numpy as np
import pytest
import torch

from companion.theory import bounds
from companion.theory import stability_steps as steps
from pdelens.lattice import Chain, Grid, Lattice, laplacian
from pdelens.pde.equation import TransformerPDE


def a_map(tokens=5, seed=0):
    return torch.softmax(torch.randn(tokens, tokens, generator=torch.Generator().manual_seed(seed)).double(), -1)


def a_state(tokens=5, seed=1):
    return torch.rand(tokens, 1, generator=torch.Generator().manual_seed(seed)).double()


def test_a_unit_step_of_relaxation_is_the_map_itself():
    attention, u = a_map().numpy(), a_state().numpy()
    path = steps.relaxed(a_map(), a_state(), 3)
    assert path.shape == (4, 5, 1)
    for k, state in enumerate(path):
        np.testing.assert_allclose(state.numpy(), np.linalg.matrix_power(attention, k) @ u, rtol=1e-12)


def test_mass_grows_from_one_to_the_number_of_tokens():
    assert steps.mass_from_nothing(7) == pytest.approx(7, abs=1e-12)


def test_what_a_known_map_keeps():
    """Two tokens in closed form: pi = (3/4, 1/4), and the other eigenvalue is 1/5."""
    attention = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    u = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    kept = steps.kept(attention, u, 3)
    mean, difference = 2.0, 4 * 0.2**3
    after = (mean - difference / 4) + (mean + 3 * difference / 4)
    assert kept["mean"] < 1e-12
    assert kept["spread"] == pytest.approx(0.2**3, rel=1e-9)
    assert kept["mass"] == pytest.approx(after / 6 - 1, rel=1e-9)


def test_a_mean_with_other_weights_would_be_seen_to_move(monkeypatch):
    monkeypatch.setattr(steps, "stationary", lambda attention: torch.tensor([0.0, 1.0]).double())
    attention = torch.tensor([[0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    u = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    # The second token goes from 5 to 2.6, 2.12, 2.024.
    assert steps.kept(attention, u, 3)["mean"] == pytest.approx(5 - 2.024)


def test_the_largest_relaxation_is_where_bisection_ends():
    maps = torch.stack([a_map(6, seed) for seed in range(3)])
    found = steps.largest_relaxation(maps)
    assert found.shape == (3,)
    unit = torch.eye(6, dtype=torch.float64)
    for attention, largest in zip(maps, found.tolist(), strict=True):

        def holds(tau, attention=attention):
            return float((unit + tau * (attention - unit)).min()) >= 0

        assert bounds.threshold(holds, 0.1, 20.0) == pytest.approx(largest, rel=1e-6)
    assert math.isinf(float(steps.largest_relaxation(unit)))


@pytest.mark.parametrize("velocity", [-1.0, 0.5])
def test_upwind_advection_carries_a_poisson_variable(velocity):
    """A source jumps by one place at the rate |v|, so mean and variance are |v| t."""
    drift, diffusivity = steps.carried(velocity, until=4.0)
    assert drift == pytest.approx(-velocity, abs=1e-7)
    assert diffusivity == pytest.approx(abs(velocity) / 2, abs=1e-7)


def test_growth_is_measured_at_whole_depths_and_its_bound_is_integrated():
    lattice = Chain(5)
    pde = TransformerPDE(8, 2, lattice, depth=3.0, temporal_modes=3, basis="piecewise").double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in pde.parameters():
            value += 0.2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    start = torch.randn(2, 5, 8, generator=generator, dtype=torch.float64)
    first, grown, allowed = steps.growth(pde, start, 3, 4)
    u, sizes = start, [float(start.abs().max())]
    with torch.no_grad():
        for k in range(12):
            t, h = k / 4, 0.25
            late = t + h - 1e-6  # coefficients jump at whole depths
            a = pde.rhs(t, u)
            b = pde.rhs(t + h / 2, u + h / 2 * a)
            c = pde.rhs(t + h / 2, u + h / 2 * b)
            u = u + h / 6 * (a + 2 * b + 2 * c + pde.rhs(late, u + h * c))
            if k % 4 == 3:
                sizes.append(float(u.abs().max()))
    assert first == sizes[0]
    assert grown == pytest.approx(max(sizes) - sizes[0], rel=1e-6) and grown > 0.1
    each = [bounds.residual_bound(pde, t, 8) for t in (0.5, 1.5, 2.5)]
    assert len({round(value, 6) for value in each}) == 3
    assert allowed == pytest.approx(sum(each), rel=1e-9) and grown < allowed


def test_the_proved_region_is_where_no_entry_is_negative():
    """On a grid with a map in which no token looks at itself, by the smallest entry of every step's matrix."""
    grid, unit = Grid(4, 4), torch.eye(16, dtype=torch.float64)
    attention, delta = unit.roll(1, 1), laplacian(unit, grid)
    r, s = torch.linspace(0, 0.5, 9, dtype=torch.float64), torch.linspace(0, 2, 9, dtype=torch.float64)
    for split in (False, True):
        proved = steps.proved_region(r, s, split)
        assert proved.shape == (9, 9) and 0 < proved.sum() < 81
        for row, y in enumerate(s):
            for column, x in enumerate(r):
                parts = unit + y * (attention - unit), unit + x * delta
                # The splitting's matrix may have no negative entry although one of its parts has.
                entries = torch.cat(parts) if split else parts[0] + parts[1] - unit
                assert bool(entries.min() >= -1e-12) == bool(proved[row, column])


def test_the_map_is_compared_point_by_point():
    found = torch.tensor([[0, 0, 1], [0, 2, 2]])
    proved = torch.tensor([[True, False, True], [False, False, True]])
    assert steps.against_the_map(found, proved) == (2, pytest.approx(2 / 6))


def test_the_librarys_step_is_the_theorems_matrix(monkeypatch):
    assert steps.step_gap(Grid(3, 4), a_map(12)) < 1e-14
    made = steps.step_matrix
    for wrong, gap in (("euler", 1e-3), ("lie", 2e-3)):

        def disturbed(pde, dt, method, wrong=wrong, gap=gap):
            return made(pde, dt, method) + gap * (method == wrong)

        monkeypatch.setattr(steps, "step_matrix", disturbed)
        assert steps.step_gap(Grid(3, 4), a_map(12)) == pytest.approx(gap)


# What the page states of the energy and of causal averages


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
def test_the_energy_is_a_quadratic_form_of_the_laplacian_but_on_dirichlet_lattices(boundary):
    chain = Lattice((3,), boundary)
    u = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    pairs = [(0, 1), (1, 2)] + [(2, 0)] * (boundary == "periodic")
    energy = sum((float(u[i]) - float(u[j])) ** 2 for i, j in pairs) / 2
    form = -0.5 * float((u * laplacian(u, chain)).sum())
    assert (energy, form) == {"periodic": (1.0, 1.0), "neumann": (0.5, 0.5), "dirichlet": (0.5, 0.0)}[boundary]


def test_a_causal_row_diffuses_at_most_so_much_for_its_drift():
    random, back = np.random.default_rng(0), np.arange(6)
    for row in random.dirichlet(np.full(6, 0.3), 200):
        drift = row @ back
        assert row @ back**2 - drift**2 <= drift * (5 - drift) + 1e-12
    ends = np.array([0.3, 0, 0, 0, 0, 0.7])
    assert ends @ back**2 - (ends @ back) ** 2 == pytest.approx(3.5 * 1.5)
