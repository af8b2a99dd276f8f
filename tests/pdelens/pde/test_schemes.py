"""Every scheme is what its row says: order by the slope of its error, stability by its reach, cost by counting."""

import math
from itertools import pairwise

import pytest
import torch

from pdelens.lattice import Chain
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.schemes import SCHEMES
from pdelens.pde.terms import Diffusion, Term

FIXED = [scheme for scheme in SCHEMES.values() if scheme.step is not None]
named = pytest.mark.parametrize("scheme", FIXED, ids=lambda scheme: scheme.name)


class Wave(Term):
    """A term that depends on the state, not linearly, and on depth-time."""

    def forward(self, t, u, mask=None):
        return torch.sin(2 * u + 3 * t)


class Linear(Term):
    """`lambda u` for states of two channels, real and imaginary part."""

    def __init__(self, value):
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, t, u, mask=None):
        self.calls += 1
        product = self.value * torch.complex(u[..., 0], u[..., 1])
        return torch.stack([product.real, product.imag], -1)


def equation():
    return PDE({"diffusion": Diffusion(Chain(6), 2, 0.3), "wave": Wave()}, Chain(6), depth=1).double()


@named
@torch.no_grad()
def test_error_falls_with_the_step_to_the_order(scheme):
    pde, u = equation(), torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = integrate(pde, u, method="rk4", substeps=1500).states[-1]
    counts = (20, 40, 80)
    errors = [float((integrate(pde, u, method=scheme.name, substeps=n).states[-1] - exact).abs().max()) for n in counts]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(scheme.order, abs=0.15), slopes


def test_the_adaptive_one_keeps_its_tolerance():
    assert [scheme.name for scheme in SCHEMES.values() if scheme.step is None] == ["dopri5"]
    pde, u = equation(), torch.randn(1, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = integrate(pde, u, method="rk4", substeps=1500).states[-1]
    found = integrate(pde, u, method="dopri5", rtol=1e-9, atol=1e-11).states[-1]
    torch.testing.assert_close(found, exact, atol=1e-8, rtol=0)


def growth(scheme, value, steps=400):
    """Return by how much a unit state has grown after many unit steps of `u' = value u`."""
    pde = PDE({"linear": Linear(value)}, None, float(steps))
    u = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    found = integrate(pde, u, [0.0, float(steps)], scheme.name, steps, check_steps=False)
    return float(found.states[-1].norm())


@named
@torch.no_grad()
def test_stability_reaches_as_far_as_the_row_says(scheme):
    assert growth(scheme, -0.98 * scheme.real) < 1 < growth(scheme, -1.02 * scheme.real)
    if scheme.imaginary:
        assert growth(scheme, 0.98j * scheme.imaginary) < 1 < growth(scheme, 1.02j * scheme.imaginary)
    else:
        assert growth(scheme, 0.2j) > 1, "it has no part of the imaginary axis"


@pytest.mark.parametrize("scheme", [scheme for scheme in FIXED if not scheme.splitting], ids=lambda scheme: scheme.name)
@torch.no_grad()
def test_a_step_costs_its_stages(scheme):
    term = Linear(-0.1)
    integrate(PDE({"linear": term}, None, 1.0), torch.ones(1, 1, 2), [0.0, 1.0], scheme.name, 10)
    assert term.calls == 10 * scheme.stages
