"""What one layer of a splitting leaves out: the leading error of a step, and networks with tied layers."""

from typing import NamedTuple

import torch
from torch import Tensor

from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate


class Defect(NamedTuple):
    """The two parts of what a Lie step leaves out, per `dt^2`, each shaped as the state."""

    commutator: Tensor
    curvature: Tensor


def step_defect(pde: PDE, t: float, u: Tensor, increment: float = 1e-4) -> Defect:
    """Return what one Lie step with Euler sub-steps leaves out at order `dt^2`.

    For the first two terms A (stepped first) and R, exact minus stepped is `dt^2` times `(A'R - R'A) / 2` (splitting)
    plus `(A'A + R'R) / 2` (Euler inside each term), see {prf:ref}`prop-step-defect`. Derivatives along a direction
    are central differences: give float64. Cost: eight evaluations of each term.

    >>> from pdelens.lattice import Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> twice = {"first": Diffusion(Chain(8), 2, 0.1), "second": Diffusion(Chain(8), 2, 0.2)}
    >>> defect = step_defect(PDE(twice, Chain(8), 1), 0.0, torch.randn(1, 8, 2, dtype=torch.float64))
    >>> bool(defect.commutator.abs().max() < 1e-9)
    True
    """
    first, second = list(pde.active().values())[:2]

    def along(term, direction: Tensor) -> Tensor:
        h = increment * u.norm() / direction.norm().clamp_min(1e-300)
        return (term(t, u + h * direction) - term(t, u - h * direction)) / (2 * h)

    with torch.no_grad():
        a, r = first(t, u), second(t, u)
        return Defect((along(first, r) - along(second, a)) / 2, (along(first, a) + along(second, r)) / 2)


def tied(pde: TransformerPDE, layer: int, depth: float) -> TransformerPDE:
    """Return one layer's equation, its coefficients held constant on depth-time [0, depth], in float64.

    `pde` is the exact equation of a pre-norm teacher (`pdelens.equation_of`).
    """
    if not 0 <= layer < pde.depth or pde.form != "pre":
        raise ValueError(f"layer {layer} of a {pde.form}-norm equation of depth {pde.depth:g} was asked for.")
    attention, reaction = pde.terms["attention"], pde.terms["reaction"]
    held = TransformerPDE(
        attention.output.coefficients.shape[1],  # type: ignore[union-attr]
        attention.heads,  # type: ignore[arg-type]
        pde.lattice,
        depth=depth,
        hidden=reaction.first.coefficients.shape[1],  # type: ignore[union-attr]
        activation=reaction.activation,  # type: ignore[arg-type]
        diffusion=None,
    ).double()
    weights = dict(pde.named_parameters())
    with torch.no_grad():
        for name, value in held.named_parameters():
            value.copy_(weights[name][layer : layer + 1])
    return held


def order_errors(pde: PDE, u0: Tensor, method: str, layers: tuple[int, ...], converged: Tensor) -> list[float]:
    """Return `|u_L - u| / |u - u_0|` at the end, u_L by so many equal layers of a splitting, u converged."""
    size = (converged - u0).norm()
    with torch.no_grad():
        ends = [integrate(pde, u0, [0.0, pde.depth], method, count).states[-1] for count in layers]
    return [float((end - converged).norm() / size) for end in ends]


def strang_with_euler(pde: PDE, u0: Tensor, steps: int) -> Tensor:
    """Return the state at the end by Strang's order of terms with Euler sub-steps: first order only.

    The control beside `integrate(method="strang")`, whose sub-steps are of second order: symmetry alone buys nothing
    while the sub-steps are of first order. For equations without a constraint.
    """
    if pde.constraint is not None:
        raise ValueError("an equation with a constraint was given: this control is for those without.")
    terms = list(pde.active().values())
    dt = pde.depth / steps
    plan = [(term, dt / 2) for term in terms[:-1]]
    plan = [*plan, (terms[-1], dt), *reversed(plan)]
    u = u0
    for number in range(steps):
        for term, length in plan:
            u = u + length * term(number * dt, u)
    return u
