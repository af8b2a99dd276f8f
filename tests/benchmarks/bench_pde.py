"""What solving costs, as ratios in one run (`make bench`); nothing here passes or fails by the clock."""

import torch
from timing import report, seconds

from pdelens import Chain, Grid, TransformerPDE, integrate, laplacian
from pdelens.pde import PDE
from pdelens.terms import Diffusion


@torch.no_grad()
def test_fixed_steps_against_a_hand_written_loop():
    lattice = Grid(4, 4)
    pde = TransformerPDE(64, 4, lattice, depth=6)
    u0 = torch.randn(1, 16, 64)

    def by_hand():
        u = u0
        for layer in range(6):
            for step in range(16):
                t = layer + step / 16
                for term in pde.terms.values():
                    u = u + term(t, u) / 16
        return u

    ours = seconds(lambda: integrate(pde, u0, [0.0, 6.0], substeps=96), runs=15)
    report("96 Lie steps at state (16, 64)", ours, seconds(by_hand, runs=15), "a hand-written loop", 1.1)


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

        ours = seconds(lambda method=method: integrate(pde, u0, [0.0, 6.0], method, 96))
        report(f"heat equation, 96 steps of {method}", ours, seconds(peer), f"torchdiffeq's {theirs}", 0.6)


@torch.no_grad()
def test_a_hundred_runs_in_one_tensor():
    lattice = Grid(4, 4)
    pde = TransformerPDE(64, 4, lattice, depth=6)
    one, many = torch.randn(1, 16, 64), torch.randn(100, 16, 64)
    ours = seconds(lambda: integrate(pde, many))
    report("100 runs batched", ours, seconds(lambda: integrate(pde, one)), "one run", 3)


@torch.no_grad()
def test_laplacian_against_a_memory_copy():
    u = torch.randn(32, 1024, 768)
    for boundary in ("neumann", "periodic", "dirichlet"):
        lattice = Chain(1024, boundary)
        ours = seconds(lambda lattice=lattice: laplacian(u, lattice))
        report(f"Laplacian on (32, 1024, 768), {boundary}", ours, seconds(u.clone), "a memory copy (clone)", 2)
