"""Integrators in depth-time: what gives a Flow from a PDE.

A method is its order and how it composes steps. `euler`, `heun` and `rk4` step the whole right-hand
side; `lie` and `strang` step term by term (Lie-Trotter and Strang splitting), which is what a
Transformer's layers do; `dopri5` chooses its own steps (torchdiffeq).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from .flow import Flow, finite
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


def solve(
    pde: PDE, u0: Tensor, times: Sequence[float], how: Steps, mask: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the hidden states at `times` and the attention at all but the last: `integrate` without its checks.

    For loops that have checked their input once (calibration). Raises `DivergenceError`.
    """
    state, frozen = pde.encode(u0, times[0]), _Frozen(pde, mask)
    states, maps = [pde.decode(times[0], state)], [pde.attention(times[0], state, mask)]
    path = (_adaptive if how.method == "dopri5" else _stepped)(frozen, state, times, how)
    for number, ((start, end), after) in enumerate(zip(pairwise(times), path, strict=True)):
        if not finite(after):
            raise DivergenceError(_blame(frozen, state, start, end, how.at(number)))
        state = after
        states.append(pde.decode(end, state))
        if end != times[-1]:
            maps.append(pde.attention(end, state, mask))
    return states, [m for m in maps if m is not None]


class _Frozen:
    """A PDE's terms as functions of the state alone, renewed only when depth-time moves a coefficient."""

    def __init__(self, pde: PDE, mask: Tensor | None):
        self.pde, self.mask = pde, mask
        self.autonomous = pde.autonomous
        self.time, self.found = math.nan, {}

    def at(self, t: float) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the active terms at depth-time t."""
        if not self.found or (t != self.time and not self.autonomous):
            self.time, self.found = t, self.pde.frozen(t, self.mask)
        return self.found

    def exact(self, name: str, t: float, dt: float, u: Tensor, how: str) -> Tensor | None:
        """Return the state after dt of one term alone where it offers a formula, or None."""
        term: Term = self.pde.terms[name]  # type: ignore[assignment]
        return term.exact_step(t, dt, u, self.mask, how)

    def rhs(self, t: float, u: Tensor) -> Tensor:
        """Return the whole right-hand side."""
        return self.pde.total(self.at(t), u)


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
    if not finite(u0):
        raise ValueError("the initial state holds NaN or infinity: look at what made it.")
    times = list(range(int(pde.depth) + 1)) if depths is None else [float(t) for t in depths]
    if len(times) < 2 or any(b <= a for a, b in pairwise(times)):
        raise ValueError(f"depths {times} were given: at least two, increasing, are wanted.")
    return [float(t) for t in times]


def _clip(pde: PDE, a: float, b: float) -> Callable[[float], float]:
    """Keep evaluation times inside [a, b) where coefficients jump at b: no step's end reads the next piece's."""
    last = b - 1e-7 * (b - a) if any(abs(b - t) < 1e-9 for t in pde.breakpoints()) else b
    return lambda t: min(t, last)


def _stepped(frozen: _Frozen, state: Tensor, times: Sequence[float], how: Steps) -> Iterator[Tensor]:
    """Yield the state at each of the times but the first, by equal steps between them and the coefficients' jumps."""
    for number, (start, end) in enumerate(pairwise(times)):
        for a, b in segments(frozen.pde, start, end):
            state = _fixed(frozen, state, a, b, how.at(number))
        yield state


def _fixed(frozen: _Frozen, state: Tensor, a: float, b: float, how: Steps, watch=None) -> Tensor:
    assert isinstance(how.substeps, int)
    at, dt = _clip(frozen.pde, a, b), (b - a) / how.substeps
    for number in range(how.substeps):
        t = a + number * dt
        if how.method in SPLITTINGS:
            state = _split_step(frozen, at, t, dt, state, how, watch)
        else:
            state = _whole_step(frozen, at, t, dt, state, how.method)
            if watch is not None:
                watch(t + dt, "", state)
    return state


def _whole_step(frozen: _Frozen, at, t: float, dt: float, u: Tensor, method: str) -> Tensor:
    add, f = torch.add, frozen.rhs
    first = f(at(t), u)
    if method == "euler":
        moved = add(u, first, alpha=dt)
    elif method == "heun":
        second = f(at(t + dt), add(u, first, alpha=dt))
        moved = add(u, first + second, alpha=dt / 2)
    else:
        middle = at(t + dt / 2)
        second = f(middle, add(u, first, alpha=dt / 2))
        third = f(middle, add(u, second, alpha=dt / 2))
        fourth = f(at(t + dt), add(u, third, alpha=dt))
        moved = add(u, add(first + fourth, second + third, alpha=2), alpha=dt / 6)
    return _retracted(frozen.pde, moved)


def _split_step(frozen: _Frozen, at, t, dt, u, how: Steps, watch) -> Tensor:
    """Step term by term: in order (Lie), or in order and back by halves (Strang)."""
    if how.method == "lie":
        now = at(t)
        for name, term in frozen.at(now).items():
            exact = None if how.diffusion_step == "explicit" else frozen.exact(name, now, dt, u, how.diffusion_step)
            u = _retracted(frozen.pde, torch.add(u, term(u), alpha=dt)) if exact is None else exact
            if watch is not None:
                watch(t + dt, name, u)
        return u
    names = list(frozen.at(at(t)))
    first = [(name, t, dt / 2) for name in names[:-1]]
    second = [(name, t + dt / 2, dt / 2) for name in reversed(names[:-1])]
    for name, begin, length in [*first, (names[-1], t, dt), *second]:
        exact = frozen.exact(name, at(begin + length / 2), length, u, how.diffusion_step)
        u = _heun_step(frozen, name, at, begin, length, u) if exact is None else exact
        if watch is not None:
            watch(begin + length, name, u)
    return u


def _heun_step(frozen: _Frozen, name: str, at, t, dt, u) -> Tensor:
    """Step one term alone by Heun's method: Strang's second order needs it of every sub-step."""
    pde = frozen.pde
    first = frozen.at(at(t))[name](u)
    if pde.constraint is not None:
        first = pde.constraint.project(u, first)
    ahead = _retracted(pde, torch.add(u, first, alpha=dt))
    second = frozen.at(at(t + dt))[name](ahead)
    if pde.constraint is not None:
        second = pde.constraint.project(ahead, second)
    return _retracted(pde, torch.add(u, first + second, alpha=dt / 2))


def _retracted(pde: PDE, u: Tensor) -> Tensor:
    return u if pde.constraint is None else pde.constraint.retract(u)


def _adaptive(frozen: _Frozen, state: Tensor, times: Sequence[float], how: Steps) -> Iterator[Tensor]:
    """Yield the solution at each of the times but the first, solved in one go between the coefficients' jumps.

    A fresh start at each of the times would cost a quarter more: it has to feel its way to the step again. Where
    there is a constraint each is one, so that the state is back on it.
    """
    from torchdiffeq import odeint

    for piece in _pieces(frozen.pde, times):
        at, reached = _clip(frozen.pde, piece[0], piece[-1]), piece[0]

        def rhs(t: Tensor, u: Tensor, at=at) -> Tensor:
            nonlocal reached
            reached = at(float(t.detach()))
            return frozen.rhs(reached, u)

        places = torch.tensor(piece, dtype=torch.float64, device=state.device)
        try:
            found = odeint(rhs, state, places, rtol=how.rtol, atol=how.atol, method="dopri5")
        except AssertionError as error:
            raise DivergenceError(
                f"dopri5 found no step beyond t = {reached:g}, on the way to {piece[-1]:g} ({error}): "
                f"the equation is too stiff for rtol {how.rtol:g}."
            ) from error
        for t, state in zip(piece[1:], found[1:], strict=True):  # type: ignore[index]
            state = _retracted(frozen.pde, state)
            if t in times:
                yield state


def _pieces(pde: PDE, times: Sequence[float]) -> Iterator[list[float]]:
    """Cut a path at the coefficients' jumps, and for an equation with a constraint at each of the times."""
    spans = [(times[0], times[-1])] if pde.constraint is None else pairwise(times)
    for start, end in spans:
        for a, b in segments(pde, start, end):
            yield [a, *(t for t in times if a < t < b), b]


def _blame(frozen: _Frozen, before: Tensor, start: float, end: float, how: Steps) -> str:
    """Replay an interval and name the first depth-time and term whose state is not finite."""
    if how.method == "dopri5":
        return f"the state is not finite between t = {start:g} and {end:g} (dopri5)."
    culprit: list[tuple[float, str]] = []

    def watch(t: float, name: str, state: Tensor) -> None:
        if not culprit and not bool(torch.isfinite(state).all()):
            culprit.append((t, name))

    with torch.no_grad():
        state = before.detach()
        for a, b in segments(frozen.pde, start, end):
            last = state
            state = _fixed(frozen, state, a, b, how, watch)
            if culprit:
                break
        t, name = culprit[0] if culprit else (end, "")
        if not name:
            sizes = {n: float(term(last).abs().max()) for n, term in frozen.at(start).items()}
            name = max(sizes, key=lambda n: sizes[n] if math.isfinite(sizes[n]) else math.inf)
    return (
        f"the state is not finite at t = {t:g}, in the term {name!r} (method {how.method}, {how.substeps} substeps): "
        "refine the steps, or look at that term's coefficients."
    )
