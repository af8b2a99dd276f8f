"""What solving costs, as ratios in one run (`make bench`); nothing here passes or fails by the clock."""

import torch
from timing import compare_times

from pdelens import Chain, Grid, TransformerPDE, integrate, laplacian
from pdelens.pde.equation import PDE
from pdelens.pde.terms import Diffusion


@torch.no_grad()
def test_fixed_steps_against_a_hand_written_loop():
    lattice = Grid(4, 4)
    pde = TransformerPDE(64, 4, lattice, depth=6)
    u0 = torch.randn(1, 16, 64)

    def by_hand():
        u, terms = u0, pde.frozen(0.0).values()
        for _ in range(96):
            for term in terms:
                u = torch.add(u, term(u), alpha=1 / 16)
        return u

    def ours():
        return integrate(pde, u0, [0.0, 6.0], substeps=96)

    compare_times("96 Lie steps at state (16, 64)", ours, by_hand, "a hand-written loop", 1.1)


@torch.no_grad()
def test_heat_equation_against_torchdiffeq():
    from torchdiffeq import odeint

    lattice = Chain(64)
    pde = PDE({"diffusion": Diffusion(lattice, 64, 0.2)}, lattice, 6)
    u0 = torch.randn(8, 64, 64)
    grid = torch.linspace(0, 6, 97)
    for method, theirs in (("euler", "euler"), ("heun", "midpoint"), ("rk4", "rk4")):

        def peer(theirs=theirs):
            return odeint(lambda t, u: pde.rhs(float(t), u), u0, grid, method=theirs)

        def ours(method=method):
            return integrate(pde, u0, [0.0, 6.0], method, 96)

        compare_times(f"heat equation, 96 steps of {method}", ours, peer, f"torchdiffeq's {theirs}", 0.6)


@torch.no_grad()
def test_a_hundred_runs_in_one_tensor():
    lattice = Grid(4, 4)
    one, many = torch.randn(1, 16, 64), torch.randn(100, 16, 64)
    heat = PDE({"diffusion": Diffusion(lattice, 64, 0.2)}, lattice, 6)
    for name, pde in (("the master equation", TransformerPDE(64, 4, lattice, depth=6)), ("the heat equation", heat)):

        def batched(pde=pde):
            return integrate(pde, many)

        def alone(pde=pde):
            return integrate(pde, one)

        compare_times(f"100 runs batched, {name}", batched, alone, "one run", 3)


@torch.no_grad()
def test_laplacian_against_a_memory_copy():
    u = torch.randn(32, 1024, 768)
    for boundary in ("neumann", "periodic", "dirichlet"):
        lattice = Chain(1024, boundary)

        def ours(lattice=lattice):
            return laplacian(u, lattice)

        compare_times(f"Laplacian on (32, 1024, 768), {boundary}", ours, u.clone, "a memory copy (clone)", 2)
