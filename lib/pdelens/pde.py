"""The master equation: a sum of named terms, with or without a constraint, in depth-time.

    du/dt = D Laplacian(u) + v . grad(u) + W A(u) V n(u) + R(n(u)),    t in [0, L],

one unit of depth-time a layer. Terms can be switched off one by one; `str(pde)` prints the equation.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce

import torch
from torch import Tensor, nn

from .lattice import Lattice
from .temporal import Modes
from .terms import NORMALISERS, Advection, Diffusion, Reaction, SelfAttention, Term, layer_normalise


class Sphere:
    """The constraint of a normalised state: mean 0 over channels and norm sqrt(width) (Source: layer norm)."""

    def __init__(self, epsilon: float = 1e-12):
        self.epsilon = epsilon

    def retract(self, z: Tensor) -> Tensor:
        """Return the nearest point of the sphere: layer normalisation without gain and bias."""
        return layer_normalise(z, self.epsilon)

    def project(self, z: Tensor, velocity: Tensor) -> Tensor:
        """Return the velocity's tangential part, `P_z velocity`."""
        centred = velocity - velocity.mean(-1, keepdim=True)
        return centred - z * (z * centred).mean(-1, keepdim=True)


class PostNorm(Term):
    """`(g - 1) z + b + f(g z + b)`: a term as a post-norm layer sees it, on the normalised state z.

    Stepped by `z <- normalise(z + dt h(z))`, one unit step is the post-norm sublayer exactly, and it
    refines (gain and bias make layer norm no projection, so the plain residual form would not).
    """

    def __init__(self, inner: Term, width: int, depth: float = 1.0, **temporal):
        super().__init__()
        self.inner = inner
        self.gain = Modes(torch.ones(width), depth, **temporal)
        self.bias = Modes(torch.zeros(width), depth, **temporal)
        seen = inner.symbol.replace("A(u)", "A(gz+b)").replace("R(n(u))", "R(gz+b)").replace("n(u)", "(gz+b)")
        self.symbol = f"(g−1)z + b + {seen}"

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
    """A sum of named terms on a lattice, over depth-time [0, depth].

    >>> from pdelens.lattice import Chain
    >>> from pdelens.terms import Diffusion
    >>> print(PDE({"diffusion": Diffusion(Chain(8), 4)}, Chain(8), depth=2))
    ∂u/∂t = D Δu,  t in [0, 2], chain of 8, neumann
    """

    def __init__(
        self, terms: Mapping[str, Term], lattice: Lattice | None, depth: float, constraint: Sphere | None = None
    ):
        super().__init__()
        if not terms:
            raise ValueError("an equation without terms was asked for: give at least one.")
        self.terms = nn.ModuleDict(dict(terms))
        self.lattice, self.depth, self.constraint = lattice, float(depth), constraint
        self.off: set[str] = set()

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
        return {name: term.frozen(t, mask) for name, term in self.active().items()}

    def total(self, frozen: Mapping[str, Callable[[Tensor], Tensor]], u: Tensor) -> Tensor:
        """Return the sum of frozen terms at a state, tangential where there is a constraint."""
        parts = [term(u) for term in frozen.values()]
        total = torch.zeros_like(u) if not parts else reduce(torch.add, parts)
        return total if self.constraint is None else self.constraint.project(u, total)

    @property
    def autonomous(self) -> bool:
        """Whether no coefficient depends on depth-time."""
        return all(module.modes == 1 for module in self.modules() if isinstance(module, Modes))

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
        modes = sorted({(m.modes, m.basis) for m in self.modules() if isinstance(m, Modes) and m.modes > 1})
        where += [f"{count} {basis} modes" for count, basis in modes]
        return f"∂{unknown}/∂t = {wrap},  t in [0, {self.depth:g}]" + "".join(f", {part}" for part in where)


class TransformerPDE(PDE):
    """The master equation with a Transformer's terms, for calibration to a teacher.

    `width`, `heads`, `hidden` as the teacher's; `depth` its layers. `temporal_modes` K and `basis`
    say how coefficients depend on depth-time: K = 1 is autonomous, K = depth with `piecewise` is the
    unshared network. `diffusion` and `advection` are initial values, None leaves the term out.
    `normalisation` is what attention and reaction look through (`layer`, `rms`, `dyt`, `none`);
    `form="post"` is the post-norm equation on the sphere. Parameters: share K / depth of the blocks'.

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
        order: int = 2,
        epsilon: float = 1e-12,
        seed: int = 0,
    ):
        if form not in ("pre", "post"):
            raise ValueError(f"form {form!r} was given: choose 'pre' or 'post'.")
        if normalisation not in NORMALISERS:
            raise ValueError(f"normalisation {normalisation!r} was given: choose from {', '.join(NORMALISERS)}.")
        if lattice is None and (diffusion is not None or advection is not None):
            raise ValueError("diffusion or advection without a lattice was asked for: say where tokens live.")
        temporal = {"depth": float(depth), "modes": temporal_modes, "basis": basis}
        see = NORMALISERS["none" if form == "post" else normalisation]
        causal = lattice is not None and lattice.causal
        terms: dict[str, Term] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if diffusion is not None:
                assert lattice is not None
                terms["diffusion"] = Diffusion(lattice, width, diffusion, order, **temporal)
            if advection is not None:
                assert lattice is not None
                terms["advection"] = Advection(lattice, width, advection, **temporal)
            if attention:
                terms["attention"] = SelfAttention(width, heads, see, causal, **temporal)
            if reaction:
                terms["reaction"] = Reaction(width, hidden or 4 * width, see, activation, **temporal)
        if form == "post":
            residual = ("attention", "reaction")
            terms = {n: PostNorm(t, width, **temporal) if n in residual else t for n, t in terms.items()}
        super().__init__(terms, lattice, depth, Sphere(epsilon) if form == "post" else None)
        self.form = form
        # A post-norm Transformer's last norm belongs to no later sublayer.
        self.last_norm: tuple[Tensor, Tensor] | None = None

    @classmethod
    def from_transformer(cls, model: nn.Module, lattice: Lattice | None = None) -> "TransformerPDE":
        """Return the equation that is this Transformer exactly: D = 0, one piece a layer, one Lie step a layer.

        For the small teachers (pre-norm) and Hugging Face's `BertModel` (post-norm). Norms' gains and
        biases are folded into the matrices (pre-norm) or kept as fields g(t), b(t) (post-norm).
        """
        from .parity import from_bert, from_small_transformer

        kind = type(model).__name__
        builders = {"Transformer": from_small_transformer, "BertModel": from_bert}
        if kind not in builders:
            raise TypeError(f"a {kind} was given, but its parts are only known for {', '.join(builders)}.")
        return builders[kind](cls, model, lattice)

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
