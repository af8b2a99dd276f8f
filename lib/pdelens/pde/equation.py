"""The master equation: a sum of named terms, with or without a constraint, in depth-time.

    du/dt = D Laplacian(u) + v . grad(u) + W A(u) V n(u) + R(n(u)),    t in [0, L],

one unit of depth-time a layer. Terms can be switched off one by one; `str(pde)` prints the equation.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from ..lattice import Lattice
from .constraints import Sphere
from .modes import Modes
from .normalisers import NORMALISERS
from .settings import refuse_nonsense, refuse_parts
from .terms import Advection, Diffusion, Looking, Reaction, SelfAttention, Term


class PostNorm(Term):
    """`(g - 1) z + b + f(g z + b)`: a term as a post-norm layer sees it, on the normalised state z.

    Stepped by `z <- normalise(z + dt h(z))`, one unit step is the post-norm sublayer exactly, and it refines (gain
    and bias make layer norm no projection, so the plain residual form would not).
    """

    def __init__(self, inner: Term, width: int, depth: float = 1.0, **temporal):
        super().__init__()
        self.inner = inner
        self.gain = Modes(torch.ones(width), depth, **temporal)
        self.bias = Modes(torch.zeros(width), depth, **temporal)
        self.symbol = f"(g−1)z + b + {inner.post_symbol}"

    @property
    def autonomous(self) -> bool:
        """Whether neither the inner term nor gain and bias depend on depth-time."""
        return self.inner.autonomous and self.gain.modes == self.bias.modes == 1

    def state(self, t: float, z: Tensor) -> Tensor:
        """Return the hidden state `g z + b` that the inner term sees."""
        return self.gain(t).to(z.dtype) * z + self.bias(t).to(z.dtype)

    def weights(self, t: float, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the inner term's attention."""
        assert isinstance(self.inner, SelfAttention)
        return self.inner.weights(t, self.state(t, z), mask)

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return the velocity of z before projection, as a function of z."""
        gain, bias, inner = self.gain(t), self.bias(t), self.inner.frozen(t, mask)

        def velocity(z: Tensor) -> Tensor:
            u = gain.to(z.dtype) * z + bias.to(z.dtype)
            return u - z + inner(u)

        return velocity


class PDE(nn.Module):
    """The equation `du/dt = sum of named terms` for states (batch, tokens, width), over depth-time [0, depth].

    One unit of depth-time is one layer of the Transformer that it stands for. `terms` are modules (`pde.terms.Term`,
    or your own subclass) in the order in which a splitting steps them; `lattice` says where tokens live (None:
    nowhere, then no term may need it); `constraint` keeps states on a surface (`pde.constraints`). A `clock` holds the
    logarithm of a speed for each layer, du/dt = e^c(t) (sum of terms): an autonomous equation is then read at learnt
    times of its own, `layer_times`, instead of 1, ..., depth. Raises `ValueError` without terms. `rhs(t, u)` evaluates
    it, `integrate` solves it, `fit` calibrates it, `without("name")` drops a term.

    >>> from pdelens.lattice import Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> print(PDE({"diffusion": Diffusion(Chain(8), 4)}, Chain(8), depth=2))
    ∂u/∂t = D Δu,  t in [0, 2], chain of 8, neumann
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        lattice: Lattice | None,
        depth: float,
        constraint: Sphere | None = None,
        clock: Modes | None = None,
    ):
        super().__init__()
        if not terms:
            raise ValueError("an equation without terms was asked for: give at least one.")
        refuse_parts(terms, lattice, depth, constraint, clock)
        self.terms = nn.ModuleDict(dict(terms))
        self.lattice, self.depth, self.constraint, self.clock = lattice, float(depth), constraint, clock
        self.off: set[str] = set()
        self.width: Any = None  # of its states, where it is of one width alone

    def checked(self, u: Tensor) -> Tensor:
        """Return a state, or raise `ValueError` where it does not fit the equation's lattice or width."""
        if self.lattice is not None:
            self.lattice.check(u)
        if self.width is not None and u.shape[-1] != self.width:
            raise ValueError(f"a state of width {u.shape[-1]} was given, but the equation's is {self.width}.")
        return u

    def active(self) -> dict[str, Term]:
        """Return the terms that are switched on, in order."""
        return {name: term for name, term in self.terms.items() if name not in self.off}  # type: ignore[misc]

    @contextmanager
    def without(self, *names: str) -> Iterator["PDE"]:
        """Switch terms off inside a `with` block."""
        unknown = [name for name in names if name not in self.terms]
        if unknown:
            raise ValueError(f"no term is named {unknown[0]!r}: there are {', '.join(self.terms)}.")
        before, self.off = self.off, self.off | set(names)
        try:
            yield self
        finally:
            self.off = before

    def rhs(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return du/dt, tangential where there is a constraint."""
        return self.total(self.frozen(t, mask), u)

    def frozen(self, t: float, mask: Tensor | None = None) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the active terms at depth-time t, as functions of the state alone."""
        return self.paced(t, self.frozen_terms(t, mask))

    def frozen_terms(self, t: float, mask: Tensor | None = None) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the active terms at depth-time t before the clock's speed."""
        return {name: term.frozen(t, mask) for name, term in self.active().items()}

    def paced(self, t: float, terms: Mapping[str, Callable[[Tensor], Tensor]]) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return terms at the clock's speed at depth-time t."""
        pace = self.pace(t)
        return dict(terms) if pace is None else {name: partial(_paced, pace, term) for name, term in terms.items()}

    def pace(self, t: float) -> Tensor | None:
        """Return how fast the equation's own time passes at depth-time t, None without a clock."""
        return None if self.clock is None else self.clock(t).exp()

    @property
    def layer_times(self) -> list[float]:
        """The equation's own times tau_1, ..., tau_L at which it is read: 1, ..., L without a clock."""
        steps = [1.0 if pace is None else float(pace.detach()) for pace in map(self.pace, range(int(self.depth)))]
        return list(accumulate(steps))

    def total(self, frozen: Mapping[str, Callable[[Tensor], Tensor]], u: Tensor) -> Tensor:
        """Return the sum of frozen terms at a state, tangential where there is a constraint."""
        seen: dict[Callable[[Tensor], Tensor], Tensor] = {}
        for term in frozen.values():
            if isinstance(term, Looking) and term.normalise not in seen:
                seen[term.normalise] = term.normalise(u)
        parts = [t.added(seen[t.normalise]) if isinstance(t, Looking) else t(u) for t in frozen.values()]
        total = torch.zeros_like(u) if not parts else reduce(torch.add, parts)
        return total if self.constraint is None else self.constraint.project(u, total)

    @property
    def autonomous(self) -> bool:
        """Whether no active term depends on depth-time (a clock only says when the solution is read)."""
        return all(term.autonomous for term in self.active().values())

    def attention(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Return the attention at a state, (batch, heads, tokens, tokens), or None without an attention term."""
        for term in self.active().values():
            if hasattr(getattr(term, "inner", term), "weights"):
                return term.weights(t, u, mask)  # type: ignore[operator]
        return None

    def encode(self, u: Tensor, t: float = 0.0) -> Tensor:
        """Return the equation's own state for a hidden state at depth-time t."""
        return u

    def decode(self, t: float, state: Tensor) -> Tensor:
        """Return the hidden state for the equation's own state at depth-time t."""
        return state

    def breakpoints(self) -> list[float]:
        """Return where coefficients jump inside (0, depth)."""
        found = {place for module in self.modules() if isinstance(module, Modes) for place in module.breakpoints()}
        return sorted(found)

    def __str__(self) -> str:
        right = " + ".join(term.symbol for term in self.active().values()) or "0"
        unknown, wrap = ("u", right) if self.constraint is None else ("z", f"P_z[{right}]")
        where = []
        if self.lattice is not None:
            kind = "chain" if self.lattice.dims == 1 else "grid"
            where = [f"{kind} of {' × '.join(map(str, self.lattice.shape))}, {self.lattice.boundary}"]
        modes = {
            (m.modes, m.basis) for m in self.modules() if isinstance(m, Modes) and m.modes > 1 and m is not self.clock
        }
        where += [f"{count} {basis} modes" for count, basis in sorted(modes)]
        where += ["read at learnt times"] * (self.clock is not None)
        return f"∂{unknown}/∂t = {wrap},  t in [0, {self.depth:g}]" + "".join(f", {part}" for part in where)


class TransformerPDE(PDE):
    """The master equation with a Transformer's terms, for calibration to a teacher.

    `width`, `heads`, `hidden` as the teacher's; `depth` its layers. `temporal_modes` K and `basis` say how
    coefficients depend on depth-time: K = 1 is autonomous, K = depth with `piecewise` is the unshared network.
    `diffusion` and `advection` are initial values, None leaves the term out. `normalisation` is what attention and
    reaction look through (`layer`, `layer+size`, `rms`, `dyt`, `none`); `form="post"` is the post-norm equation on the
    sphere. `clock` adds `depth` learnt times at which the solution is read (`PDE`). `rank` corrects the matrices of one
    law in each layer by so low a rank (`modes.LowRankModes`), `scaled` lets each layer scale what attention and
    reaction add, channel by channel (`modes.ScaledModes`).
    Parameters: share K / depth of the blocks'. Raises `ValueError` for local terms without a lattice and for names
    that it does not know. Source: Lu et al. 2019 (arXiv 1906.02762) for layers as splitting steps; the diffusion term
    is the paper's.

    >>> from pdelens.lattice import Grid
    >>> print(TransformerPDE(64, 4, Grid(7, 7), temporal_modes=2))
    ∂u/∂t = D Δu + W A(u) V n(u) + R(n(u)),  t in [0, 6], grid of 7 × 7, neumann, 2 chebyshev modes
    """

    def __init__(
        self,
        width: int,
        heads: int,
        lattice: Lattice | None,
        *,
        depth: float = 6,
        temporal_modes: int = 1,
        basis: str = "chebyshev",
        hidden: int | None = None,
        activation: str = "gelu",
        normalisation: str = "layer",
        form: str = "pre",
        diffusion: float | None = 0.05,
        advection: float | None = None,
        attention: bool = True,
        reaction: bool = True,
        clock: bool = False,
        rank: int = 0,
        scaled: bool = False,
        order: int = 2,
        epsilon: float = 1e-12,
        seed: int = 0,
    ):
        refuse_nonsense(locals())
        see, temporal = _look(form, normalisation), {"depth": float(depth), "modes": temporal_modes, "basis": basis}
        matrices: dict[str, Any] = {**temporal, "rank": rank, "scaled": scaled}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            terms = _local_terms(lattice, width, diffusion, advection, order, temporal)
            if attention:
                terms["attention"] = SelfAttention(width, heads, see, bool(lattice and lattice.causal), **matrices)
            if reaction:
                terms["reaction"] = Reaction(width, hidden or 4 * width, see, activation, **matrices)
        if form == "post":
            terms |= {n: PostNorm(t, width, **temporal) for n, t in terms.items() if n in ("attention", "reaction")}
        ticks = Modes(torch.zeros(()), float(depth), int(depth), "piecewise") if clock else None
        super().__init__(terms, lattice, depth, Sphere(epsilon) if form == "post" else None, ticks)
        self.form, self.width = form, width
        # A post-norm Transformer's last norm belongs to no later sublayer.
        self.last_norm: tuple[Tensor, Tensor] | None = None

    def encode(self, u: Tensor, t: float = 0.0) -> Tensor:
        """Return u itself, or `(u - b(t)) / g(t)` on the sphere for the post-norm form."""
        if self.form == "pre":
            return u
        assert self.constraint is not None
        term = self._post_norm()
        return self.constraint.retract(u if term is None else (u - term.bias(t)) / term.gain(t))

    def decode(self, t: float, state: Tensor) -> Tensor:
        """Return the state itself, or `g(t) z + b(t)` for the post-norm form."""
        if self.form == "pre":
            return state
        if self.last_norm is not None and t >= self.depth - 1e-6:
            gain, bias = self.last_norm
            return gain.to(state) * state + bias.to(state)
        term = self._post_norm()
        return state if term is None else term.state(t, state)

    def _post_norm(self) -> PostNorm | None:
        """Return the term whose gain and bias the state carries: the first active one, else the first."""
        found = [term for term in [*self.active().values(), *self.terms.values()] if isinstance(term, PostNorm)]
        return found[0] if found else None


def _paced(pace: Tensor, term: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    return pace * term(u)


def _look(form: str, normalisation: str) -> Callable[[Tensor], Tensor]:
    """Return what attention and reaction look at the state through."""
    if form not in ("pre", "post"):
        raise ValueError(f"form {form!r} was given: choose 'pre' or 'post'.")
    if normalisation not in NORMALISERS:
        raise ValueError(f"normalisation {normalisation!r} was given: choose from {', '.join(NORMALISERS)}.")
    return NORMALISERS["none" if form == "post" else normalisation]


def _local_terms(lattice: Lattice | None, width: int, diffusion, advection, order: int, temporal) -> dict[str, Term]:
    """Return the terms that need to know where tokens live."""
    if diffusion is None and advection is None:
        return {}
    if lattice is None:
        raise ValueError(
            "diffusion or advection without a lattice was asked for: say where tokens live, or leave both out "
            "(diffusion=None, advection=None)."
        )
    terms: dict[str, Term] = {}
    if diffusion is not None:
        terms["diffusion"] = Diffusion(lattice, width, diffusion, order, **temporal)
    if advection is not None:
        terms["advection"] = Advection(lattice, width, advection, **temporal)
    return terms
