"""Which steps are stable, refused or noted before a solve.

The bounds are proved in the chapter *Well-posedness, stability, conservation*, but for three that are taken from the
literature or measured there: central advection off periodic chains, diffusion of order 4 on Dirichlet lattices, and the
stability intervals of RK4 (2.785 on the real axis, 2.828 on the imaginary one; Hairer and Wanner, *Solving Ordinary
Differential Equations II*, IV.2).
"""

import math
from collections.abc import Mapping
from itertools import pairwise

from .equation import PDE
from .modes import Modes
from .schemes import SCHEMES, Scheme
from .terms import UNBOUNDED, Bound, Diffusion, Reaction, Term


class StepError(ValueError):
    """A step beyond a known bound was asked for; the message names bound and largest step.

    >>> import torch
    >>> from pdelens import Chain, integrate
    >>> heat = PDE({"diffusion": Diffusion(Chain(4), 1, 10.0)}, Chain(4), depth=1)
    >>> integrate(heat, torch.zeros(1, 4, 1))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    pdelens.pde.stability.StepError: a step of 1 at t = 0 was asked for, but explicit diffusion, ... at most 0.05: ...
    """


def step_bound(pde: PDE, t: float, method: str = "lie", diffusion_step: str = "explicit") -> Bound:
    """Return the largest step known to be stable for a method at depth-time t, with the statement's name.

    Splittings step each term alone, so the smallest bound decides. Whole-right-hand-side methods step the sum: terms
    with a maximum principle combine as `dt (2 dims D + |v| + 1) <= 1`; central advection with Euler needs `v^2 dt <=
    2 D`.
    """
    scheme, terms = SCHEMES[method], pde.active()
    bounds: list[Bound] = []
    monotone = 0.0
    for name, term in terms.items():
        bound = term.step_bound(t)
        monotone += 1 / bound.largest if term.monotone else 0.0
        if term.exact and scheme.splitting and diffusion_step != "explicit":
            continue
        if term.skew and not scheme.splitting and math.isfinite(bound.largest):
            bound = _central(term, terms, t, scheme)
        elif scheme.name == "strang" and name != list(terms)[-1]:
            bound = Bound(2 * bound.largest, bound.name + ", half steps")
        elif term.symmetric:
            bound = Bound(bound.largest * scheme.real / 2, bound.name)
        bounds.append(bound)
    if scheme.name in ("euler", "heun") and monotone and len(bounds) > 1:
        bounds.append(Bound(1 / monotone, "maximum principle of the sum: dt (2 dims D + |v| + 1) <= 1"))
    least = min(bounds, key=lambda bound: bound.largest, default=UNBOUNDED)
    return Bound(least.largest / _pace(pde, t), least.name)


def _pace(pde: PDE, t: float) -> float:
    pace = pde.pace(t)
    return 1.0 if pace is None else float(pace.detach())


def _central(term: Term, terms: Mapping[str, Term], t: float, scheme: Scheme) -> Bound:
    """Return the bound of central differences, whose spectrum is imaginary: the scheme's reach, or diffusion's help."""
    speed = float(term.velocity(t).detach().abs().sum(0).max())  # type: ignore[operator]
    if scheme.imaginary:
        return Bound(
            scheme.imaginary / speed, f"central advection with {scheme.title}: |v| dt <= {scheme.imaginary:.2f}"
        )
    found = [float(one.diffusivity(t).detach().min()) for one in terms.values() if isinstance(one, Diffusion)]
    # Heun averages the identity and two Euler steps.
    return Bound(2 * min(found, default=0.0) / speed**2, "central advection with Euler: v^2 dt <= 2 D")


def refuse_unstable(pde: PDE, times, method: str, substeps: int, diffusion_step: str) -> None:
    """Raise `StepError` where any step between `times` is beyond a known bound."""
    varies = any(m.modes > 1 and m.basis == "chebyshev" for m in pde.modules() if isinstance(m, Modes))
    for start, end in pairwise(times):
        for a, b in segments(pde, start, end):
            dt = (b - a) / substeps
            at = [a] if not varies else [min(a + k * dt, b - 1e-7 * (b - a)) for k in range(substeps + 1)]
            bound, t = min(((step_bound(pde, t, method, diffusion_step), t) for t in at), key=lambda x: x[0].largest)
            if dt > bound.largest * (1 + 1e-9):
                cure = (
                    f"use at least {math.ceil((b - a) / bound.largest)} substeps"
                    if bound.largest > 0
                    else "use scheme='upwind', or add diffusion and step the whole right-hand side"
                )
                if "diffusion" in bound.name and SCHEMES[method].splitting:
                    cure += " or diffusion_step='spectral'"
                raise StepError(
                    f"a step of {dt:.4g} at t = {t:.4g} was asked for, but {bound.name} allows at most "
                    f"{bound.largest:.4g}: {cure}."
                )


def reaction_notes(pde: PDE, times, substeps: int) -> tuple[str, ...]:
    """Return a note for each reaction whose Lipschitz estimate a step may not resolve."""
    found = []
    for name, term in pde.active().items():
        reaction = getattr(term, "inner", term)
        if isinstance(reaction, Reaction):
            dt = max(b - a for a, b in pairwise(times)) / substeps
            # A constant coefficient has one estimate, whatever the time.
            constant = pde.autonomous and pde.clock is None
            estimate = max(_pace(pde, t) * reaction.lipschitz(t) for t in (times[:1] if constant else times[:-1]))
            if dt * estimate > 1:
                found.append(
                    f"{name}: step {dt:.3g} times the Lipschitz estimate {estimate:.3g} is {dt * estimate:.3g} > 1, so "
                    "one step may not resolve it (no bound is broken: refine and compare)."
                )
    return tuple(found)


def segments(pde: PDE, start: float, end: float) -> list[tuple[float, float]]:
    """Cut an interval where coefficients jump, so that every step sees smooth ones."""
    inside = [t for t in pde.breakpoints() if start + 1e-9 < t < end - 1e-9]
    places = [start, *inside, end]
    return list(pairwise(places))
