"""What steps of frozen attention, of advection and of a whole model keep: mass, weighted means, spread, size."""

import torch
from torch import Tensor

from pdelens.lattice import Lattice, laplacian
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import Advection, Diffusion

from .bounds import FrozenAttention, residual_bound, stationary, step_matrix

# What rounding may add to a step that lies on a bound.
ROUNDING = 1e-12


def relaxed(attention: Tensor, u: Tensor, steps: int = 1) -> Tensor:
    """Return the states (steps + 1, tokens, 1) of unit Euler steps of `(A - I) u`, one map A, from u (tokens, 1)."""
    pde = PDE({"attention": FrozenAttention(attention)}, None, float(steps))
    return torch.stack(integrate(pde, u[None], list(range(steps + 1)), "euler").states)[:, 0]


def mass_from_nothing(tokens: int) -> float:
    """Return the mass after one step in which every token looks at the first one, which alone holds a mass of 1."""
    first = torch.zeros(tokens, tokens, dtype=torch.float64)
    first[:, 0] = 1
    return float(relaxed(first, torch.eye(tokens, dtype=torch.float64)[:, :1])[-1].sum())


def kept(attention: Tensor, u: Tensor, steps: int) -> dict[str, float]:
    """Return what unit steps of `(A - I) u` change.

    `mean`: the largest change of the mean with the weights of A's stationary distribution; `mass`: the mass's relative
    change; `spread`: largest minus smallest token, after over before.
    """
    path = relaxed(attention, u, steps)
    mean = float((stationary(attention) @ (path - u)).abs().max())
    spread = [float(state.max() - state.min()) for state in (path[0], path[-1])]
    return {"mean": mean, "mass": float(path[-1].sum() / u.sum()) - 1, "spread": spread[1] / spread[0]}


def largest_relaxation(attention: Tensor) -> Tensor:
    """Return `1 / (1 - min_i A_ii)` of maps (..., tokens, tokens): the largest step with a maximum principle.

    1 where some token gives itself no attention; infinite for the identity.
    """
    return 1 / (1 - attention.double().diagonal(dim1=-2, dim2=-1).amin(-1))


def carried(velocity: float, tokens: int = 64, until: float = 8.0) -> tuple[float, float]:
    """Return the drift and the diffusivity, by depth-time, of a point source under upwind advection on a ring.

    Both are exact as long as nothing comes round: the source must stay far from the place opposite to it.
    """
    ring, start = Lattice((tokens,), "periodic"), tokens // 2
    pde = PDE({"advection": Advection(ring, 1, velocity)}, ring, until).double()
    source = torch.eye(tokens, dtype=torch.float64)[None, :, start, None]
    with torch.no_grad():
        share = integrate(pde, source, [0, until], "rk4", substeps=200).states[-1][0, :, 0]
    moved = torch.arange(tokens, dtype=torch.float64) - start
    mean = (share * moved).sum()
    variance = (share * (moved - mean) ** 2).sum()
    return float(mean / until), float(variance / (2 * until))


def growth(pde: PDE, start: Tensor, layers: int, substeps: int) -> tuple[float, float, float]:
    """Return the largest entry at the start, by how much it grows at most at whole depths, and the growth allowed.

    Allowed is the integral of `bounds.residual_bound` over the layers, in each of which coefficients are constant.
    Start: (examples, tokens, width).
    """
    with torch.no_grad():
        flow = integrate(pde, start, list(range(layers + 1)), "rk4", substeps=substeps)
    sizes = [float(state.abs().max()) for state in flow.states]
    allowed = sum(residual_bound(pde, float(layer), start.shape[-1]) for layer in range(layers))
    return sizes[0], max(sizes) - sizes[0], allowed


def proved_region(diffusion_steps: Tensor, attention_steps: Tensor, split: bool) -> Tensor:
    """Return where a step of diffusion and attention on a grid is proved to keep the maximum principle, as booleans.

    (attention steps, diffusion steps). Of the sum: `4 r + s <= 1`; term by term: `4 r <= 1` and `s <= 1`.
    """
    r, s = diffusion_steps[None, :], attention_steps[:, None]
    if split:
        return (4 * r <= 1 + ROUNDING) & (s <= 1 + ROUNDING)
    return 4 * r + s <= 1 + ROUNDING


def against_the_map(found: Tensor, proved: Tensor) -> tuple[int, float]:
    """Return at how many points of a `bounds.stability_map` a proof fails, and where more is kept than it says.

    The second is a share of all points.
    """
    holds = found == 0
    return int((proved & ~holds).sum()), float((holds & ~proved).double().mean())


def step_gap(lattice: Lattice, attention: Tensor, dt: float = 0.5) -> float:
    """Return the largest difference of an entry between the library's step and the matrix that theorems speak of.

    Diffusion of about 0.2 and frozen attention (tokens, tokens), stepped as a sum by Euler and term by term by Lie.
    """
    terms = {"diffusion": Diffusion(lattice, 1, 0.2), "attention": FrozenAttention(attention)}
    pde = PDE(terms, lattice, 1.0).double()
    diffusivity = float(pde.terms["diffusion"].diffusivity(0.0).detach())  # type: ignore[operator]
    unit = torch.eye(lattice.places, dtype=torch.float64)
    diffuse, relax = dt * diffusivity * laplacian(unit, lattice), dt * (attention - unit)
    wanted = {"euler": unit + diffuse + relax, "lie": (unit + relax) @ (unit + diffuse)}
    return max(float((step_matrix(pde, dt, method) - matrix).abs().max()) for method, matrix in wanted.items())
