"""The integrators, one row each: order, cost, stability and the step itself.

`euler`, `heun` and `rk4` step the whole right-hand side; `lie` and `strang` step term by term (Lie-Trotter and Strang
splitting), which is what a Transformer's layers do; `dopri5` chooses its own steps (see `integrate`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .equation import PDE
from .terms import Term

# Of (depth-time, term, state): looks at every state that a step passes through.
Watch = Callable[[float, str, Tensor], None]
# Keeps a time at which coefficients are evaluated inside its interval.
Clip = Callable[[float], float]


@dataclass(frozen=True)
class Scheme:
    """One integrator.

    `order`: its error falls with the step to this power. `stages`: right-hand sides a step. `splitting`: it steps
    term by term. `real`, `imaginary`: how far its region of stability reaches along the negative real and along the
    imaginary axis (`dt |lambda|` at most; Hairer, Norsett and Wanner, Solving Ordinary Differential Equations).
    `step` takes one step, None where the scheme chooses its own.
    """

    name: str
    title: str
    order: int
    stages: int
    splitting: bool
    real: float
    imaginary: float
    step: "Callable[[Frozen, Clip, float, float, Tensor, Steps, Watch | None], Tensor] | None"


@dataclass(frozen=True)
class Steps:
    """How depth-time is stepped; `substeps` may be one number for each interval, the last also for the rest."""

    method: str = "lie"
    substeps: int | tuple[int, ...] = 1
    diffusion_step: str = "explicit"
    rtol: float = 1e-6
    atol: float = 1e-8

    def at(self, interval: int) -> "Steps":
        """Return how one interval is stepped: with a number of sub-steps."""
        if isinstance(self.substeps, int):
            return self
        return replace(self, substeps=self.substeps[min(interval, len(self.substeps) - 1)])


class Frozen:
    """A PDE's terms as functions of the state alone, renewed only when depth-time moves a coefficient."""

    def __init__(self, pde: PDE, mask: Tensor | None, strains: list[Tensor] | None = None):
        self.pde, self.mask, self.strains = pde, mask, strains
        self.autonomous = pde.autonomous
        self.time, self.found = math.nan, {}

    def at(self, t: float) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the active terms at depth-time t."""
        return self.pde.paced(t, self._terms(t))

    def _terms(self, t: float) -> dict[str, Callable[[Tensor], Tensor]]:
        if not self.found or (t != self.time and not self.autonomous):
            self.time, self.found = t, self.pde.frozen_terms(t, self.mask)
        return self.found

    def exact(self, name: str, t: float, dt: float, u: Tensor, how: str) -> Tensor | None:
        """Return the state after dt of one term alone where it offers a formula, or None."""
        term: Term = self.pde.terms[name]  # type: ignore[assignment]
        pace = self.pde.pace(t)
        # A learnt speed is a tensor, so that gradients reach it.
        length: Any = dt if pace is None else dt * pace
        return term.exact_step(t, length, u, self.mask, how)

    def rhs(self, t: float, u: Tensor) -> Tensor:
        """Return the whole right-hand side."""
        total, pace = self.pde.total(self._terms(t), u), self.pde.pace(t)
        return total if pace is None else pace * total

    def retracted(self, u: Tensor) -> Tensor:
        """Return the state back on the constraint, where there is one."""
        return u if self.pde.constraint is None else self.pde.constraint.retract(u)


def _euler(frozen: Frozen, at: Clip, t: float, dt: float, u: Tensor, how: Steps, watch: Watch | None) -> Tensor:
    return frozen.retracted(torch.add(u, frozen.rhs(at(t), u), alpha=dt))


def _heun(frozen: Frozen, at: Clip, t: float, dt: float, u: Tensor, how: Steps, watch: Watch | None) -> Tensor:
    first = frozen.rhs(at(t), u)
    second = frozen.rhs(at(t + dt), torch.add(u, first, alpha=dt))
    if frozen.strains is not None:
        error = (dt / 2 * (second - first)).square().mean(-1)  # (batch, tokens)
        frozen.strains.append(error.mean() if frozen.mask is None else error[frozen.mask.bool()].mean())
    return frozen.retracted(torch.add(u, first + second, alpha=dt / 2))


def _rk4(frozen: Frozen, at: Clip, t: float, dt: float, u: Tensor, how: Steps, watch: Watch | None) -> Tensor:
    add, middle = torch.add, at(t + dt / 2)
    first = frozen.rhs(at(t), u)
    second = frozen.rhs(middle, add(u, first, alpha=dt / 2))
    third = frozen.rhs(middle, add(u, second, alpha=dt / 2))
    fourth = frozen.rhs(at(t + dt), add(u, third, alpha=dt))
    return frozen.retracted(add(u, add(first + fourth, second + third, alpha=2), alpha=dt / 6))


def _lie(frozen: Frozen, at: Clip, t: float, dt: float, u: Tensor, how: Steps, watch: Watch | None) -> Tensor:
    """Step term by term, in order, each by Euler's method."""
    now = at(t)
    for name, term in frozen.at(now).items():
        exact = None if how.diffusion_step == "explicit" else frozen.exact(name, now, dt, u, how.diffusion_step)
        u = frozen.retracted(torch.add(u, term(u), alpha=dt)) if exact is None else exact
        if watch is not None:
            watch(t + dt, name, u)
    return u


def _strang(frozen: Frozen, at: Clip, t: float, dt: float, u: Tensor, how: Steps, watch: Watch | None) -> Tensor:
    """Step term by term by halves, in order and back, each by Heun's method: second order needs it of every part."""
    names = list(frozen.at(at(t)))
    first = [(name, t, dt / 2) for name in names[:-1]]
    second = [(name, t + dt / 2, dt / 2) for name in reversed(names[:-1])]
    for name, begin, length in [*first, (names[-1], t, dt), *second]:
        exact = frozen.exact(name, at(begin + length / 2), length, u, how.diffusion_step)
        u = _heun_part(frozen, name, at, begin, length, u) if exact is None else exact
        if watch is not None:
            watch(begin + length, name, u)
    return u


def _heun_part(frozen: Frozen, name: str, at: Clip, t: float, dt: float, u: Tensor) -> Tensor:
    """Step one term alone by Heun's method."""
    constraint = frozen.pde.constraint
    first = frozen.at(at(t))[name](u)
    first = first if constraint is None else constraint.project(u, first)
    ahead = frozen.retracted(torch.add(u, first, alpha=dt))
    second = frozen.at(at(t + dt))[name](ahead)
    second = second if constraint is None else constraint.project(ahead, second)
    return frozen.retracted(torch.add(u, first + second, alpha=dt / 2))


_ROWS = (
    #      name      title     order  stages  splitting  real  imaginary  step
    Scheme("euler", "Euler", 1, 1, False, 2.0, 0.0, _euler),
    Scheme("heun", "Heun", 2, 2, False, 2.0, 0.0, _heun),
    Scheme("rk4", "RK4", 4, 4, False, 2.785, 2.828, _rk4),
    Scheme("lie", "Lie", 1, 1, True, 2.0, 0.0, _lie),
    Scheme("strang", "Strang", 2, 3, True, 2.0, 0.0, _strang),
    Scheme("dopri5", "Dormand-Prince", 5, 6, False, math.inf, math.inf, None),
)
SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in _ROWS}
