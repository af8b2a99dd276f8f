"""Where the continuous adjoint is the gradient, and where it is not: the heat equation in disguise, and real equations.

The disguise `u = log w` of the heat equation `dw/dt = A w` is a nonlinear equation with everything known: `du/dt =
e^{-u} A e^u`, solved by `u(T) = log(e^{TA} e^{u(0)})`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pdelens.lattice import Chain, Lattice, laplacian
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import DivergenceError
from pdelens.pde.terms import Term
from pdelens.sensitivity.adjoint import adjoint_gradient
from pdelens.sensitivity.gradients import gradient_flow

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import Beside
from ..theory.token_influence import STEPS
from .gradients import PART, Loss, solved_gradient, weights

ADJOINTS = "adjoints"
# Relative tolerance of the adaptive solver, and how many steps lie between two of `STEPS` in the gradient that is true.
TOLERANCE, TRUE_SUBSTEPS = 1e-5, 8
# Depth-times whose states are kept on the way back: none, every whole depth, or where the steps crowd as well.
KEPT: dict[str, tuple[float, ...]] = {
    "end alone": (),
    "every depth": (1.0, 2.0, 3.0, 4.0, 5.0),
    "every step": STEPS[1:-1],
}


class Disguised(Term):
    """The heat equation in disguise, `du/dt = D e^{-u} Laplacian(e^u)`, on a chain that nothing leaves."""

    symbol = "D e^(−u) Δ e^u"

    def __init__(self, lattice: Lattice, diffusivity: float):
        super().__init__()
        self.lattice, self.diffusivity = lattice, diffusivity

    def forward(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return du/dt at a state."""
        heat = u.exp()
        return self.diffusivity * laplacian(heat, self.lattice) / heat


@dataclass(frozen=True)
class Lesson:
    """A state and a loss of the heat equation in disguise, whose fastest mode decays by `exp(-contraction)`.

    `contraction` is D lambda T, of the largest eigenvalue of the chain's Laplacian and T = 1. The loss is a fixed
    random combination of the last state's entries.
    """

    contraction: float
    tokens: int = 8

    @property
    def laplacian(self) -> Tensor:
        """The chain's Laplacian as a matrix, (tokens, tokens)."""
        unit = torch.eye(self.tokens, dtype=torch.float64)
        return laplacian(unit[None], Chain(self.tokens))[0]

    @property
    def diffusivity(self) -> float:
        """D, in squared lattice units per unit of depth-time."""
        return self.contraction / -float(torch.linalg.eigvalsh(self.laplacian)[0])

    @property
    def pde(self) -> PDE:
        """The equation, of depth 1."""
        lattice = Chain(self.tokens)
        return PDE({"heat": Disguised(lattice, self.diffusivity)}, lattice, depth=1).double()

    @property
    def start(self) -> Tensor:
        """The state at depth-time 0, (1, tokens, 1)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(1, self.tokens, 1, generator=generator, dtype=torch.float64) / 2

    def loss(self, u: Tensor) -> Tensor:
        """Return the loss of a last state."""
        generator = torch.Generator().manual_seed(1)
        return (u * torch.randn(u.shape, generator=generator, dtype=u.dtype)).sum()

    def exact(self) -> Tensor:
        """Return the gradient of the loss by the first state in closed form, (1, tokens, 1)."""
        start = self.start.clone().requires_grad_()
        propagator = torch.linalg.matrix_exp(self.diffusivity * self.laplacian)
        self.loss((propagator @ start.exp()).log()).backward()
        assert start.grad is not None
        return start.grad

    def errors(self, checkpoints: Sequence[float], rtol: float = 1e-9, substeps: int = 256) -> dict[str, float]:
        """Return how far three gradients lie from the exact one, relative: `steps`, `end alone`, `kept`.

        `steps` is backpropagation through Runge-Kutta steps; the others are the continuous adjoint from the last state
        alone, and with the states at the checkpoints kept. Infinite where its solver gives up.
        """
        exact = self.exact()
        found = {"steps": gradient_flow(self.pde, self.start, self.loss, substeps=substeps).gradients[0]}
        errors = {name: _gap(each, exact) for name, each in found.items()}
        for name, kept in {"end alone": (), "kept": tuple(checkpoints)}.items():
            errors[name] = adjoint_error(self.pde, self.start, self.loss, exact, kept, rtol=rtol)[0]
        return errors


def adjoint_error(
    pde: PDE, u: Tensor, loss, wanted: Tensor, kept: Sequence[float], rtol: float, mask: Tensor | None = None
) -> tuple[float, float]:
    """Return how far the adjoint's gradient lies from the wanted one, and its path from the solution, both relative.

    Infinite where no path leads back.
    """
    try:
        found = adjoint_gradient(pde, u, loss, checkpoints=kept, mask=mask, rtol=rtol, atol=rtol / 100)
    except DivergenceError:
        return float("inf"), float("inf")
    return _gap(found.gradients[0], wanted), float(found.reconstruction.max())


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@dataclass(frozen=True)
class Adjoints(Job):
    """The continuous adjoint of three laws against backpropagation through steps, on one example in float64."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{ADJOINTS}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the tolerance, the states that are kept and the weights; the same at every scale."""
        solver = [TOLERANCE, TRUE_SUBSTEPS, KEPT, STEPS]
        return {"solver": solver, "weights": weights(self.teacher, run)}

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the errors of the adjoint, by what is kept."""
        return ", ".join(f"{name} {found['error']:.2g}" for name, found in record["adjoint"].items())

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        return measure(candidates.beside(self.teacher, 1, run))


def measure(one: Beside) -> dict[str, Any]:
    """Return how the adjoint of three laws errs, by what is kept: `error` of the gradient, `path` of the state.

    Against backpropagation through `TRUE_SUBSTEPS` steps between two of `STEPS`; `steps` is how far half as many lie
    from that. Relative, in the norm of the gradient by the embedding.
    """
    pde = copy.deepcopy(one.equations["three laws"]).double()
    teacher = replace(one.teacher, model=copy.deepcopy(one.teacher.model).double())
    labels, mask = one.teacher.inputs("heldout", one.count)[1], one.reference.mask
    loss, u = Loss(teacher, labels, mask), one.reference.states[0].double()
    true, coarse = (solved_gradient(pde, u, mask, loss, n).gradients[0] for n in (TRUE_SUBSTEPS, TRUE_SUBSTEPS // 2))
    rows = {}
    for name, kept in KEPT.items():
        error, path = adjoint_error(pde, u, loss, true, kept, TOLERANCE, mask)
        rows[name] = {"error": error, "path": path}
    return {"adjoint": rows, "steps": _gap(coarse, true)}
