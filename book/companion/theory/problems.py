"""What the solvers are checked with: exact solutions, matrices of one step, fitted orders, thresholds.

Used by the tests and by the chapter on stability, so that a page and a test mean the same by "order" or "bound".
Everything here is small, dense and in float64.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pdelens.lattice import Lattice
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import Diffusion, Term


class Potential(Term):
    """`a(t, x) u + f(t, x)` on a chain: what does not commute with differences, and a source."""

    symbol = "a u + f"

    def __init__(self, potential: Callable[[float], Tensor], source: Callable[[float], Tensor]):
        super().__init__()
        self.potential, self.source = potential, source

    def forward(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `a u + f` at depth-time t."""
        return self.potential(t) * u + self.source(t)


def manufactured(
    lattice: Lattice, order: int, diffusivity: float = 0.02
) -> tuple[PDE, Callable[[float], Tensor], float]:
    """Return a heat equation with potential on [0, 1], its exact solution u(t), and the spacing.

    `u_t = D(t) u_xx + (1 + sin 3t) cos(2x) u + f` with D changing in depth-time and f such that u is known: `exp(sin
    2 pi x cos t)` (periodic), `exp(cos pi x cos t)` (neumann), and `1 + x` with two sines that change (dirichlet).
    Diffusion and potential do not commute.
    """
    side = lattice.shape[0]
    steps = {"periodic": side, "neumann": side, "dirichlet": side - 1}[lattice.boundary]
    shift = 0.5 if lattice.boundary == "neumann" else 0.0
    x = ((torch.arange(side, dtype=torch.float64) + shift) / steps)[:, None]
    term = Diffusion(lattice, 1, diffusivity * steps**2, order, depth=1.0, modes=2).double()
    with torch.no_grad():
        term.raw.coefficients[1] = 0.4 * term.raw.coefficients[0]

    def profile(t: float) -> tuple[Tensor, Tensor, Tensor]:
        c, s = math.cos(t), math.sin(t)
        if lattice.boundary == "dirichlet":
            one, three = torch.sin(math.pi * x), torch.sin(3 * math.pi * x)
            second = -(math.pi**2) * (c * one + 9 * 0.3 * s * three)
            return 1 + x + c * one + 0.3 * s * three, -s * one + 0.3 * c * three, second
        wave = 2 * math.pi if lattice.boundary == "periodic" else math.pi
        inner = torch.sin(wave * x) if lattice.boundary == "periodic" else torch.cos(wave * x)
        slope = torch.cos(wave * x) if lattice.boundary == "periodic" else -torch.sin(wave * x)
        u = torch.exp(inner * c)
        return u, -s * inner * u, wave**2 * u * ((c * slope) ** 2 - c * inner)

    pinned = torch.ones_like(x)
    if lattice.boundary == "dirichlet":
        pinned[[0, -1]] = 0

    def potential(t: float) -> Tensor:
        return pinned * (1 + math.sin(3 * t)) * torch.cos(2 * x)

    def source(t: float) -> Tensor:
        u, rate, second = profile(t)
        return pinned * (rate - term.diffusivity(t).detach() / steps**2 * second - potential(t) * u)

    equation = PDE({"diffusion": term, "potential": Potential(potential, source)}, lattice, 1.0)
    return equation, lambda t: profile(t)[0], 1 / steps


def fitted_order(steps: Sequence[float], errors: Sequence[float], finest: int = 3) -> float:
    """Return the slope of log error over log step, by least squares over the finest few.

    >>> fitted_order([0.4, 0.2, 0.1], [0.16, 0.04, 0.01])
    2.0
    """
    x, y = (torch.tensor(list(part)[-finest:], dtype=torch.float64).log() for part in (steps, errors))
    x, y = x - x.mean(), y - y.mean()
    return round(float((x * y).sum() / (x * x).sum()), 12)


def space_errors(
    boundary: str, order: int, sides: Sequence[int], until: float = 0.5
) -> tuple[list[float], list[float]]:
    """Return spacings and largest errors of the manufactured problem, solved in time to 1e-11."""
    spacings, errors = [], []
    for side in sides:
        lattice = Lattice((side,), boundary)
        pde, exact, spacing = manufactured(lattice, order)
        with torch.no_grad():
            flow = integrate(pde, exact(0.0)[None], [0, until], "dopri5", rtol=1e-11, atol=1e-12)
        spacings.append(spacing)
        errors.append(float((flow.states[-1][0] - exact(until)).abs().max()))
    return spacings, errors


def full_equation(lattice: Lattice, width: int = 4, depth: float = 1.0, seed: int = 0, **others) -> TransformerPDE:
    """Return a master equation in float64 with all terms and coefficients that depend on depth-time."""
    given = {"temporal_modes": 3, "diffusion": 0.15, "advection": -0.3, "depth": depth, "seed": seed} | others
    pde = TransformerPDE(width, 2, lattice, **given).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in pde.named_parameters():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value += 0.1 * noise * (0.5 if "advection" in name else 1.0)
    if "advection" in pde.terms:
        with torch.no_grad():
            pde.terms["advection"].velocity.coefficients[0] = -0.6  # type: ignore[union-attr]
    return pde


def converged(pde: PDE, u0: Tensor, until: float) -> Tensor:
    """Return the hidden state at `until` by dopri5 at rtol 1e-12: the reference of time steps."""
    with torch.no_grad():
        return integrate(pde, u0, [0, until], "dopri5", rtol=1e-12, atol=1e-13).states[-1]


def time_errors(
    pde: PDE, u0: Tensor, exact: Tensor, method: str, substeps: Sequence[int], until: float, **others
) -> tuple[list[float], list[float]]:
    """Return steps and largest errors at `until` of a method."""
    with torch.no_grad():
        found = [
            integrate(pde, u0, [0, until], method, count, check_steps=False, **others).states[-1] for count in substeps
        ]
    return [until / count for count in substeps], [float((state - exact).abs().max()) for state in found]
