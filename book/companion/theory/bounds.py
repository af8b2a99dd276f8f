"""Bounds on steps and growth, measured on frozen attention."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pdelens.lattice import Lattice, laplacian
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import Advection, Diffusion, NonLocal, Reaction, SelfAttention, Term


class FrozenAttention(NonLocal):
    """`(A - I) u` with one fixed row-stochastic map A: linear attention with V = I."""

    symbol = "(A − I) u"

    def __init__(self, attention: Tensor):
        super().__init__()
        rows = attention.sum(-1)
        if attention.ndim != 2 or float((rows - 1).abs().max()) > 1e-6 or float(attention.min()) < 0:
            raise ValueError(f"a map {tuple(attention.shape)} was given, but a square row-stochastic one is wanted.")
        self.attention = attention

    def weights(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return A, (..., 1, tokens, tokens), whatever the state."""
        return self.attention.to(u.dtype).expand(*u.shape[:-2], 1, -1, -1)


def stationary(attention: Tensor) -> Tensor:
    """Return the stationary distribution pi of a map with positive entries: `pi A = pi`, sum 1."""
    places = len(attention)
    system = torch.cat([attention.T - torch.eye(places).to(attention), torch.ones(1, places).to(attention)])
    wanted = torch.zeros(places + 1).to(attention)
    wanted[-1] = 1
    return torch.linalg.lstsq(system, wanted[:, None]).solution[:, 0]


def step_matrix(pde: PDE, dt: float, method: str = "euler", **others) -> Tensor:
    """Return the matrix (tokens, tokens) of one step of a linear equation, by stepping the unit vectors."""
    assert pde.lattice is not None
    unit = torch.eye(pde.lattice.tokens, dtype=torch.float64)[..., None]
    with torch.no_grad():
        return integrate(pde, unit, [0, dt], method, check_steps=False, **others).states[-1][..., 0].T


def row_norm(matrix: Tensor) -> Tensor:
    """Return the norm that goes with the largest absolute value: 1 means a maximum principle."""
    return matrix.abs().sum(-1).amax(-1)


def threshold(holds: Callable[[float], bool], low: float, high: float, tolerance: float = 1e-7) -> float:
    """Return the largest value at which something still holds, by bisection between a yes and a no.

    >>> round(threshold(lambda x: x * x <= 2, 0, 2), 5)
    1.41421
    """
    if not holds(low) or holds(high):
        raise ValueError(f"bisection between {low:g} and {high:g} was asked for, but it must hold at the first only.")
    while high - low > tolerance * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


class Penalty(Term):
    """`(g - u) / epsilon` at both ends of a chain: boundary values asked for by a penalty, not imposed."""

    symbol = "(g − u)/ε at the ends"

    def __init__(self, lattice: Lattice, values: tuple[float, float], epsilon: float):
        super().__init__()
        side = lattice.shape[0]
        self.places = torch.zeros(side, 1, dtype=torch.float64)
        self.places[[0, -1]] = 1 / epsilon
        self.values = torch.zeros(side, 1, dtype=torch.float64)
        self.values[0], self.values[-1] = values

    def forward(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the pull towards the wanted values."""
        return self.places * (self.values - u)


def one_sided_growth(diffusivity: float, tokens: int = 256) -> float:
    """Return the fastest growth rate of `D (u_i - 2 u_{i-1} + u_{i-2})`, by a discrete Fourier transform."""
    kernel = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    return float(diffusivity * torch.fft.fft(kernel, tokens).real.max())


def residual_bound(pde: PDE, t: float, width: int) -> float:
    """Return C with `|attention(u) + reaction(u)| <= C` at each token, for a state seen through layer or RMS norm.

    The proof is the page's: rows of attention sum to 1, `|n(u)| <= sqrt(width)`, and no activation here enlarges a
    number.
    """
    total, radius = 0.0, math.sqrt(width)
    for term in pde.active().values():
        if isinstance(term, SelfAttention):
            value, output = term.inputs(t).detach()[2 * width :], term.output(t).detach()
            heads = value[:, :-1].unflatten(0, (term.heads, -1))
            mixed = radius * torch.linalg.matrix_norm(heads, 2).square().sum().sqrt() + value[:, -1].norm()
            total += float(torch.linalg.matrix_norm(output[:, :-1], 2) * mixed + output[:, -1].norm())
        if isinstance(term, Reaction):
            first, second = term.first(t).detach(), term.second(t).detach()
            inner = torch.linalg.matrix_norm(first[:, :-1], 2) * radius + first[:, -1].norm()
            total += float(torch.linalg.matrix_norm(second[:, :-1], 2) * inner + second[:, -1].norm())
    return total


# A statement, the largest step by theory, and where it is attained: terms, lattice, and what must hold of a step.
Statement = tuple[str, float, dict[str, Term], Lattice, Callable]


def measured_bounds(tokens: int = 64) -> dict[str, tuple[str, float, float]]:
    """Return the proved step bounds: statement, largest step by theory, and by bisection on the step's matrix.

    Each is a bound for the whole class, so each is measured on a lattice and map where it is attained (attention:
    every token looks at the next place, none at itself). D = 0.2, v = 0.8.
    """
    found = {}
    for key, (statement, theory, terms, lattice, holds) in _statements(tokens).items():
        pde = PDE(terms, lattice, 100.0).double()
        largest = threshold(lambda dt, pde=pde, holds=holds: holds(step_matrix(pde, dt), pde.lattice), 1e-3, 20.0)
        found[key] = (statement, theory, largest)
    return found


def _statements(tokens: int) -> dict[str, Statement]:
    chain, grid = Lattice((16,)), Lattice((6, 6))
    ring, torus, long = Lattice((16,), "periodic"), Lattice((8, 8), "periodic"), Lattice((tokens,), "periodic")
    speed, diffusivity, s = 0.8, 0.2, math.sin(math.pi / tokens) ** 2

    def diffusion(lattice: Lattice, order: int = 2) -> dict[str, Term]:
        return {"diffusion": Diffusion(lattice, 1, diffusivity, order)}

    def look_ahead(lattice: Lattice) -> dict[str, Term]:
        return {"attention": FrozenAttention(torch.eye(lattice.places, dtype=torch.float64).roll(1, 1))}

    central = {"advection": Advection(long, 1, speed, "central"), **diffusion(long)}
    upwind = {"advection": Advection(ring, 1, speed)}
    pull = {"penalty": Penalty(chain, (0.0, 0.0), 0.1), **diffusion(chain)}
    both, sums = look_ahead(grid) | diffusion(grid), "attention and diffusion, grid: maximum principle"
    energy = 1 / (2 * diffusivity * math.cos(math.pi / 32) ** 2)
    mixed = 2 * diffusivity / (speed**2 * (1 - s) + 4 * diffusivity**2 * s)
    named = f"central advection and diffusion, {tokens} tokens: 2-norm"
    return {
        "chain": ("diffusion, chain: maximum principle", 1 / (2 * diffusivity), diffusion(chain), chain, _monotone),
        "grid": ("diffusion, grid: maximum principle", 1 / (4 * diffusivity), diffusion(grid), grid, _monotone),
        "energy": ("diffusion, chain of 16: energy", energy, diffusion(chain), chain, _dissipative),
        "chain4": ("order 4, chain: 2-norm", 3 / (8 * diffusivity), diffusion(ring, 4), ring, _contracting),
        "grid4": ("order 4, grid: 2-norm", 3 / (16 * diffusivity), diffusion(torus, 4), torus, _contracting),
        "central": (named, mixed, central, long, _contracting),
        "upwind": ("upwind advection: maximum principle", 1 / speed, upwind, ring, _monotone),
        "attention": ("attention: maximum principle", 1.0, look_ahead(chain), chain, _monotone),
        "sum": (sums, 1 / (4 * diffusivity + 1), both, grid, _monotone),
        "penalty": ("penalty 0.1 at the ends: maximum norm", 2 / (2 * diffusivity + 10), pull, chain, _monotone),
    }


def _monotone(matrix: Tensor, lattice: Lattice) -> bool:
    return float(row_norm(matrix)) <= 1 + 1e-12


def _contracting(matrix: Tensor, lattice: Lattice) -> bool:
    return float(torch.linalg.matrix_norm(matrix, 2)) <= 1 + 1e-12


def _dissipative(matrix: Tensor, lattice: Lattice) -> bool:
    energy = -laplacian(torch.eye(lattice.places, dtype=torch.float64), lattice)
    return float(torch.linalg.eigvalsh(matrix.T @ energy @ matrix - energy).max()) <= 1e-10


def stability_map(
    lattice: Lattice, attention: Tensor, diffusion_steps: Tensor, attention_steps: Tensor, split: bool = False
) -> Tensor:
    """Return what one step does, (attention steps, diffusion steps): 0 maximum principle, 1 bounded, 2 grows.

    The step's matrix is `I + r L + s (A - I)`, or with `split` the product `(I + s (A - I)) (I + r L)`. It grows
    where the norm of its powers still does between the 512th and the 1024th.
    """
    unit = torch.eye(lattice.places, dtype=torch.float64)
    diffuse = diffusion_steps[None, :, None, None] * laplacian(unit, lattice)
    relax = attention_steps[:, None, None, None] * (attention.double() - unit)
    steps = (unit + relax) @ (unit + diffuse) if split else unit + relax + diffuse
    monotone, power = row_norm(steps) <= 1 + 1e-12, steps
    for _ in range(9):
        power = power @ power
    early, late = row_norm(power), row_norm(power @ power)
    grows = ~(torch.isfinite(late) & (late <= 1.01 * early))  # overflow is growth
    return torch.where(monotone, 0, torch.where(grows, 2, 1))


def boundary_errors(epsilons: Sequence[float], side: int = 5, until: float = 120.0) -> list[tuple[float, float, float]]:
    """Return for each penalty its measured and proved error at the boundary, and its proved largest Euler step.

    Heat on a chain of D = 0.3 between the values 2 and -1. The last entry is the hard boundary's.
    """
    ends, found = (2.0, -1.0), []
    u = torch.linspace(*ends, side, dtype=torch.float64)[None, :, None].clone()
    u[:, 1:-1] += 1
    for epsilon in [*epsilons, None]:
        lattice = Lattice((side,), "neumann" if epsilon else "dirichlet")
        pde = PDE({"diffusion": Diffusion(lattice, 1, 0.3)}, lattice, until).double()
        diffusivity = float(pde.terms["diffusion"].diffusivity(0.0).detach())  # type: ignore[operator]
        slope, largest = 0.0, 1 / (2 * diffusivity)
        if epsilon:
            pde.terms["penalty"] = Penalty(lattice, ends, epsilon)
            slope = (ends[1] - ends[0]) / (side - 1 + 2 * epsilon * diffusivity)
            largest = min(largest, 2 / (2 * diffusivity + 1 / epsilon))
        with torch.no_grad():
            state = integrate(pde, u, [0, until], "dopri5", rtol=1e-7, atol=1e-9).states[-1][0, :, 0]
        measured = float((state[[0, -1]] - u[0, [0, -1], 0]).abs().max())
        found.append((measured, abs((epsilon or 0) * diffusivity * slope), largest))
    return found
