"""Integrators in depth-time: what gives a Flow from a PDE.

A method is a row of `schemes.SCHEMES`; `dopri5` chooses its own steps (torchdiffeq).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import _doors
from ..flow import Flow, finite
from .equation import PDE
from .schemes import SCHEMES, Clip, Frozen, Steps, Watch
from .stability import reaction_notes, refuse_unstable, segments

DIFFUSION_STEPS = ("explicit", "crank-nicolson", "spectral")
# Steps of dopri5 between two depths: a calibrated equation takes some hundred, and without a limit a stiff one asked
# for more digits than its number format has would never end.
MOST_STEPS = 20_000


class DivergenceError(RuntimeError):
    """A state is no longer finite; the message names depth-time and term.

    >>> from pdelens.pde.terms import Term
    >>> class Cube(Term):
    ...     def forward(self, t, u, mask=None):
    ...         return u**3
    >>> integrate(PDE({"cube": Cube()}, None, 1.0), torch.full((1, 2, 1), 1e20))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pdelens.pde.integrate.DivergenceError: the state is not finite at t = 1, in the term 'cube' ...
    """


def integrate(
    pde: PDE,
    u0: Float[Tensor, "batch tokens width"],
    depths: Tensor | Sequence[float] | None = None,
    method: str = "lie",
    substeps: int = 1,
    *,
    mask: Bool[Tensor, "batch tokens"] | Int[Tensor, "batch tokens"] | None = None,
    diffusion_step: str = "explicit",
    rtol: float = 1e-6,
    atol: float = 1e-8,
    check_steps: bool = True,
) -> Flow:
    """Solve a PDE from a hidden state u0 (batch, tokens, width) and return its Flow at `depths`.

    `depths` are increasing depth-times (0, 1, ..., depth if not given); between two of them, and between the
    coefficients' jumps, `substeps` equal steps are made by `method` (`schemes.SCHEMES`). `diffusion_step` replaces
    explicit diffusion inside a splitting by the Crank-Nicolson or the exact (`spectral`) formula, which no bound
    limits. The reaction's Lipschitz estimate is only noted in `flow.notes`. Differentiable. Raises `StepError` for a
    step beyond a *known* bound (diffusion, advection, `A - I`), `DivergenceError` for a state that is no longer finite
    or a `dopri5` that would take more than `MOST_STEPS` steps, `ValueError` for what does not fit. Cost: per step one
    right-hand side (euler, lie), two (heun), four (rk4), about three (strang). Source: Hairer, Norsett and Wanner,
    *Solving Ordinary Differential Equations*; where the bounds come from: `pdelens.pde.stability`.

    >>> from pdelens.lattice import Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> pde = PDE({"diffusion": Diffusion(Chain(8), 4, 0.25)}, Chain(8), depth=2)
    >>> integrate(pde, torch.randn(3, 8, 4), method="rk4", substeps=2)
    Flow(2 layers, 3 examples, 8 tokens, width 4)
    """
    _doors.is_a("pde", pde, PDE, "an equation")
    u0 = pde.checked(_doors.state("u0", u0))
    times = _checked(pde, depths, method, substeps, diffusion_step)
    mask = _doors.mask("mask", mask, u0.shape[:-1])
    _doors.real("rtol", rtol, above=0)
    _doors.real("atol", atol, 0)
    _doors.flag("check_steps", check_steps)
    fixed = SCHEMES[method].step is not None
    notes = reaction_notes(pde, times, substeps) if fixed else ()
    if check_steps and fixed:
        refuse_unstable(pde, times, method, substeps, diffusion_step)
    how = Steps(method, substeps, diffusion_step, rtol, atol)
    states, maps = solve(pde, u0, times, how, mask)
    causal = pde.lattice is not None and pde.lattice.causal
    return Flow(
        states=tuple(states),
        attention=tuple(maps),
        mask=torch.ones(u0.shape[:-1], dtype=torch.bool, device=u0.device) if mask is None else mask,
        causal=causal,
        depths=torch.tensor(times),
        lattice=pde.lattice,
        notes=notes,
    )


def solve(
    pde: PDE,
    u0: Tensor,
    times: Sequence[float],
    how: Steps,
    mask: Tensor | None = None,
    strains: list[Tensor] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """`integrate` for loops that have checked their input once: states at `times`, attention before each.

    Into `strains`, where given, goes the mean squared difference of Heun's step from Euler's, a number for each step.
    """
    state, frozen = pde.encode(u0, times[0]), Frozen(pde, mask, strains)
    states, maps = [pde.decode(times[0], state)], [pde.attention(times[0], state, mask)]
    path = (_adaptive if SCHEMES[how.method].step is None else _stepped)(frozen, state, times, how)
    for number, ((start, end), after) in enumerate(zip(pairwise(times), path, strict=True)):
        if not finite(after):
            raise DivergenceError(_blame(frozen, state, start, end, how.at(number)))
        state = after
        states.append(pde.decode(end, state))
        if end != times[-1]:
            maps.append(pde.attention(end, state, mask))
    return states, [m for m in maps if m is not None]


def _checked(pde, depths, method, substeps, diffusion_step) -> list[float]:
    _doors.option("method", method, SCHEMES)
    _doors.whole("substeps", substeps)
    _doors.option("diffusion step", diffusion_step, DIFFUSION_STEPS)
    if diffusion_step != "explicit" and not SCHEMES[method].splitting:
        raise ValueError(f"a {diffusion_step} diffusion step with {method!r} was asked for: use 'lie' or 'strang'.")
    if depths is None:
        return [float(t) for t in range(int(pde.depth) + 1)]
    given = _doors.tensor("depths", depths, "a row of depth-times", exact=True).flatten().double()
    times = [float(t) for t in given]
    if len(times) < 2 or not all(a < b for a, b in pairwise(times)):
        raise ValueError(f"depths {times} were given: at least two, increasing, are wanted.")
    inside = times[0] >= -1e-6 and times[-1] <= pde.depth + 1e-6
    if not inside and not (pde.autonomous and pde.clock is None):
        raise ValueError(
            f"depths {times} were given, but this equation changes with depth-time and lives on [0, {pde.depth:g}]."
        )
    return times


def _clip(pde: PDE, a: float, b: float) -> Clip:
    """Keep evaluation times inside [a, b) where coefficients jump at b: no step's end reads the next piece's."""
    last = b - 1e-7 * (b - a) if any(abs(b - t) < 1e-9 for t in pde.breakpoints()) else b
    return lambda t: min(t, last)


def _stepped(frozen: Frozen, state: Tensor, times: Sequence[float], how: Steps) -> Iterator[Tensor]:
    """Yield the state at each of the times but the first, by equal steps between them and the coefficients' jumps."""
    for number, (start, end) in enumerate(pairwise(times)):
        for a, b in segments(frozen.pde, start, end):
            state = _fixed(frozen, state, a, b, how.at(number))
        yield state


def _fixed(frozen: Frozen, state: Tensor, a: float, b: float, how: Steps, watch: Watch | None = None) -> Tensor:
    scheme = SCHEMES[how.method]
    assert isinstance(how.substeps, int) and scheme.step is not None
    at, dt = _clip(frozen.pde, a, b), (b - a) / how.substeps
    for number in range(how.substeps):
        t = a + number * dt
        state = scheme.step(frozen, at, t, dt, state, how, watch)
        if watch is not None and not scheme.splitting:
            watch(t + dt, "", state)
    return state


def _adaptive(frozen: Frozen, state: Tensor, times: Sequence[float], how: Steps) -> Iterator[Tensor]:
    """Yield the solution at each of the times but the first, solved in one go between the coefficients' jumps.

    A fresh start at each of the times would cost a quarter more: it has to feel its way to the step again. Where
    there is a constraint each is one, so that the state is back on it.
    """
    from torchdiffeq import odeint

    options = {"max_num_steps": MOST_STEPS} | ({} if frozen.mask is None else {"norm": _norm_of_real(frozen.mask)})
    for piece in _pieces(frozen.pde, times):
        at, reached = _clip(frozen.pde, piece[0], piece[-1]), piece[0]

        def rhs(t: Tensor, u: Tensor, at=at) -> Tensor:
            nonlocal reached
            reached = at(float(t.detach()))
            return frozen.rhs(reached, u)

        places = torch.tensor(piece, dtype=torch.float64, device=state.device)
        try:
            found = odeint(rhs, state, places, rtol=how.rtol, atol=how.atol, method="dopri5", options=dict(options))
        except AssertionError as error:
            raise DivergenceError(
                f"dopri5 found no step beyond t = {reached:g}, on the way to {piece[-1]:g} ({error}): "
                f"the equation is too stiff for rtol {how.rtol:g} in {str(state.dtype).removeprefix('torch.')}."
            ) from error
        for t, state in zip(piece[1:], found[1:], strict=True):  # type: ignore[index]
            state = frozen.retracted(state)
            if t in times:
                yield state


def _norm_of_real(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the root mean square over real tokens: what stands in the padding must not size the steps."""
    return lambda error: error[mask].square().mean().sqrt()


def _pieces(pde: PDE, times: Sequence[float]) -> Iterator[list[float]]:
    """Cut a path at the coefficients' jumps, and for an equation with a constraint at each of the times."""
    spans = [(times[0], times[-1])] if pde.constraint is None else pairwise(times)
    for start, end in spans:
        for a, b in segments(pde, start, end):
            yield [a, *(t for t in times if a < t < b), b]


def _blame(frozen: Frozen, before: Tensor, start: float, end: float, how: Steps) -> str:
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
