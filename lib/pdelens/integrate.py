"""Integrators in depth-time: what gives a Flow from a PDE.

A method is its order and how it composes steps. `euler`, `heun` and `rk4` step the whole right-hand
side; `lie` and `strang` step term by term (Lie-Trotter and Strang splitting), which is what a
Transformer's layers do; `dopri5` chooses its own steps (torchdiffeq).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .flow import Flow
from .pde import PDE
from .stability import SPLITTINGS, StepError, reaction_notes, refuse_unstable, segments, step_bound
from .terms import Term

ORDERS = {"euler": 1, "heun": 2, "rk4": 4, "lie": 1, "strang": 2}
__all__ = ["DIFFUSION_STEPS", "ORDERS", "DivergenceError", "StepError", "Steps", "integrate", "solve", "step_bound"]

DIFFUSION_STEPS = ("explicit", "crank-nicolson", "spectral")


class DivergenceError(RuntimeError):
    """A state is no longer finite; the message names depth-time and term."""


def integrate(
    pde: PDE,
    u0: Tensor,
    depths: Tensor | Sequence[float] | None = None,
    method: str = "lie",
    substeps: int = 1,
    *,
    mask: Tensor | None = None,
    diffusion_step: str = "explicit",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    check_steps: bool = True,
) -> Flow:
    """Solve a PDE from a hidden state u0 (batch, tokens, width) and return its Flow at `depths`.

    `depths` are increasing depth-times (0, 1, ..., depth if not given); between two of them, and
    between the coefficients' jumps, `substeps` equal steps are made. `diffusion_step` replaces
    explicit diffusion inside a splitting by the Crank-Nicolson or the exact (`spectral`) formula,
    which no bound limits. A step beyond a *proved* bound (diffusion, advection, `A - I`) raises
    `StepError`; the reaction's Lipschitz estimate is only noted in `flow.notes`. Non-finite states
    raise `DivergenceError`. Differentiable. Cost: per step one right-hand side (euler, lie), two
    (heun), four (rk4), about three (strang).

    >>> from pdelens.lattice import Chain
    >>> from pdelens.terms import Diffusion
    >>> pde = PDE({"diffusion": Diffusion(Chain(8), 4, 0.25)}, Chain(8), depth=2)
    >>> integrate(pde, torch.randn(3, 8, 4), method="rk4", substeps=2)
    Flow(2 layers, 3 examples, 8 tokens, width 4)
    """
    times = _checked(pde, u0, depths, method, substeps, diffusion_step)
    if mask is not None:
        if mask.shape != u0.shape[:-1]:
            raise ValueError(f"the mask has shape {tuple(mask.shape)}, but {tuple(u0.shape[:-1])} is wanted.")
        mask = mask.bool()
    notes = reaction_notes(pde, times, substeps) if method != "dopri5" else ()
    if check_steps and method != "dopri5":
        refuse_unstable(pde, times, method, substeps, diffusion_step)
    how = Steps(method, substeps, diffusion_step, rtol, atol)
    states, maps = solve(pde, u0, times, how, mask)
    causal = pde.lattice is not None and pde.lattice.causal
    return Flow(
        states=tuple(states),
        attention=tuple(maps),
        mask=mask,
        causal=causal,
        depths=torch.tensor(times),
        lattice=pde.lattice,
        notes=notes,
    )


@dataclass(frozen=True)
class Steps:
    """How an interval of depth-time is stepped."""

    method: str = "lie"
    substeps: int = 1
    diffusion_step: str = "explicit"
    rtol: float = 1e-6
    atol: float = 1e-8


def solve(
    pde: PDE, u0: Tensor, times: Sequence[float], how: Steps, mask: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the hidden states at `times` and the attention at all but the last: `integrate` without its checks.

    For loops that have checked their input once (calibration). Raises `DivergenceError`.
    """
    state = pde.encode(u0)
    states, maps = [pde.decode(times[0], state)], [pde.attention(times[0], state, mask)]
    for start, end in pairwise(times):
        before = state
        for a, b in segments(pde, start, end):
            if how.method == "dopri5":
                state = _adaptive(pde, state, a, b, mask, how.rtol, how.atol)
            else:
                state = _fixed(pde, state, a, b, how, mask)
        if not bool(torch.isfinite(state.detach()).all()):
            raise DivergenceError(_blame(pde, before, start, end, how, mask))
        states.append(pde.decode(end, state))
        if end != times[-1]:
            maps.append(pde.attention(end, state, mask))
    return states, [m for m in maps if m is not None]


def _checked(pde, u0, depths, method, substeps, diffusion_step) -> list[float]:
    if method not in ORDERS and method != "dopri5":
        raise ValueError(f"method {method!r} was given: choose from {', '.join([*ORDERS, 'dopri5'])}.")
    if not isinstance(substeps, int) or substeps < 1:
        raise ValueError(f"{substeps} substeps were asked for: a whole number, at least 1, is wanted.")
    if diffusion_step not in DIFFUSION_STEPS:
        raise ValueError(f"diffusion step {diffusion_step!r} was given: choose from {', '.join(DIFFUSION_STEPS)}.")
    if diffusion_step != "explicit" and method not in SPLITTINGS:
        raise ValueError(f"a {diffusion_step} diffusion step with {method!r} was asked for: use 'lie' or 'strang'.")
    if not u0.is_floating_point():
        raise TypeError(f"a state of type {u0.dtype} was given, but floating point is wanted: use u0.float().")
    if u0.ndim != 3:
        raise ValueError(f"a state of shape {tuple(u0.shape)} was given, but (batch, tokens, width) is wanted.")
    if pde.lattice is not None:
        pde.lattice.check(u0)
    if not bool(torch.isfinite(u0.detach()).all()):
        raise ValueError("the initial state holds NaN or infinity: look at what made it.")
    times = list(range(int(pde.depth) + 1)) if depths is None else [float(t) for t in depths]
    if len(times) < 2 or any(b <= a for a, b in pairwise(times)):
        raise ValueError(f"depths {times} were given: at least two, increasing, are wanted.")
    return [float(t) for t in times]


def _clip(pde: PDE, a: float, b: float) -> Callable[[float], float]:
    """Keep evaluation times inside [a, b) where coefficients jump at b: no step's end reads the next piece's."""
    last = b - 1e-7 * (b - a) if any(abs(b - t) < 1e-9 for t in pde.breakpoints()) else b
    return lambda t: min(t, last)


def _fixed(pde: PDE, state: Tensor, a: float, b: float, how: Steps, mask, watch=None) -> Tensor:
    at, dt = _clip(pde, a, b), (b - a) / how.substeps
    for number in range(how.substeps):
        t = a + number * dt
        if how.method in SPLITTINGS:
            state = _split_step(pde, at, t, dt, state, how, mask, watch)
        else:
            state = _whole_step(pde, at, t, dt, state, how.method, mask)
            if watch is not None:
                watch(t + dt, "", state)
    return state


def _whole_step(pde: PDE, at, t: float, dt: float, u: Tensor, method: str, mask) -> Tensor:
    def f(time, state):
        return pde.rhs(at(time), state, mask)

    if method == "euler":
        change = f(t, u)
    elif method == "heun":
        first = f(t, u)
        change = (first + f(t + dt, u + dt * first)) / 2
    else:
        k1 = f(t, u)
        k2 = f(t + dt / 2, u + dt / 2 * k1)
        k3 = f(t + dt / 2, u + dt / 2 * k2)
        k4 = f(t + dt, u + dt * k3)
        change = (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return _retracted(pde, u + dt * change)


def _split_step(pde: PDE, at, t, dt, u, how: Steps, mask, watch) -> Tensor:
    terms = list(pde.active().items())
    if how.method == "lie":
        plan = [(name, term, t, dt) for name, term in terms]
    else:
        first = [(name, term, t, dt / 2) for name, term in terms[:-1]]
        second = [(name, term, t + dt / 2, dt / 2) for name, term in reversed(terms[:-1])]
        plan = [*first, (*terms[-1], t, dt), *second]
    for name, term, begin, length in plan:
        u = _term_step(pde, term, at, begin, length, u, how, mask)
        if watch is not None:
            watch(begin + length, name, u)
    return u


def _term_step(pde: PDE, term: Term, at, t, dt, u, how: Steps, mask) -> Tensor:
    """Step one term alone: Euler inside Lie, Heun inside Strang (which needs second order), or exactly."""
    middle = at(t + dt / 2) if how.method == "strang" else at(t)
    exact = term.exact_step(middle, dt, u, mask, how.diffusion_step)
    if exact is not None:
        return exact
    first = term(at(t), u, mask)
    if how.method == "lie":
        return _retracted(pde, u + dt * first)
    if pde.constraint is None:
        return u + dt / 2 * (first + term(at(t + dt), u + dt * first, mask))
    first = pde.constraint.project(u, first)
    ahead = pde.constraint.retract(u + dt * first)
    second = pde.constraint.project(ahead, term(at(t + dt), ahead, mask))
    return _retracted(pde, u + dt / 2 * (first + second))


def _retracted(pde: PDE, u: Tensor) -> Tensor:
    return u if pde.constraint is None else pde.constraint.retract(u)


def _adaptive(pde: PDE, state: Tensor, a: float, b: float, mask, rtol: float, atol: float) -> Tensor:
    from torchdiffeq import odeint

    at = _clip(pde, a, b)
    times = torch.tensor([a, b], dtype=torch.float64, device=state.device)
    try:
        found = odeint(
            lambda t, u: pde.rhs(at(float(t.detach())), u, mask), state, times, rtol=rtol, atol=atol, method="dopri5"
        )
    except AssertionError as error:
        raise DivergenceError(
            f"dopri5 found no step between t = {a:g} and {b:g} ({error}): the equation is too stiff for rtol {rtol:g}."
        ) from error
    return _retracted(pde, found[-1])  # type: ignore[index]


def _blame(pde: PDE, before: Tensor, start: float, end: float, how: Steps, mask) -> str:
    """Replay an interval and name the first depth-time and term whose state is not finite."""
    if how.method == "dopri5":
        return f"the state is not finite between t = {start:g} and {end:g} (dopri5)."
    culprit: list[tuple[float, str]] = []

    def watch(t: float, name: str, state: Tensor) -> None:
        if not culprit and not bool(torch.isfinite(state).all()):
            culprit.append((t, name))

    with torch.no_grad():
        state = before.detach()
        for a, b in segments(pde, start, end):
            last = state
            state = _fixed(pde, state, a, b, how, mask, watch)
            if culprit:
                break
        t, name = culprit[0] if culprit else (end, "")
        if not name:
            sizes = {n: float(term(start, last, mask).abs().max()) for n, term in pde.active().items()}
            name = max(sizes, key=lambda n: sizes[n] if math.isfinite(sizes[n]) else math.inf)
    return (
        f"the state is not finite at t = {t:g}, in the term {name!r} (method {how.method}, {how.substeps} substeps): "
        "refine the steps, or look at that term's coefficients."
    )
