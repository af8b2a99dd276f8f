"""The terms of the master equation, each usable alone: what moves a token, and what it costs a step.

A term is a module with `forward(t, u, mask) -> du/dt`, for states (..., tokens, width); it knows its symbol and the
largest step at which explicit Euler is known to be stable for it (`step_bound`, infinite where nothing is known or
needed).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..flow import padding_of
from ..lattice import Lattice, advection, eigensystem, laplacian
from ._matrices import affine, beside, matrix_and_bias, spectral_norm, stacked
from .modes import Modes, matrix_modes

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "linear": lambda x: x,
}


@dataclass(frozen=True)
class Bound:
    """A bound on the step of explicit Euler: the largest step, and which statement says so."""

    largest: float
    name: str


UNBOUNDED = Bound(math.inf, "no bound")
# Tokens up to which the Laplacian is applied as one matrix: a stencil on so few costs more calls than work.
_DENSE = 128


class Term(nn.Module):
    """One summand of the right-hand side: a subclass writes `frozen`, or `forward` alone."""

    symbol = "f(u)"
    # The same where a post-norm layer shows it `g z + b`.
    post_symbol = "f(gz+b)"
    # What `stability` asks of a term: up to its bound explicit Euler keeps values between the largest and smallest.
    monotone = False
    # Its spectrum is real, or imaginary.
    symmetric = skew = False
    # It offers a formula of its own for a step (`exact_step`).
    exact = False

    @property
    def autonomous(self) -> bool:
        """Whether the term is the same at all depth-times: one of your own is asked anew at each, unless it says so."""
        return False

    def forward(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return this term's du/dt at depth-time t."""
        return self.frozen(t, mask)(u)

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return this term at depth-time t as a function of the state; coefficients and mask are looked up once."""
        if type(self).forward is Term.forward:
            raise NotImplementedError(f"{type(self).__name__} has neither `frozen` nor `forward`: write one of them.")
        return lambda u: self.forward(t, u, mask)

    def step_bound(self, t: float) -> Bound:
        """Return the largest step at which explicit Euler is known to be stable for this term."""
        return UNBOUNDED

    def exact_step(self, t: float, dt: float, u: Tensor, mask: Tensor | None, how: str) -> Tensor | None:
        """Return the state after dt of this term alone by an implicit or exact formula, or None."""
        return None


class ModalTerm(Term):
    """A term whose coefficients alone know depth-time (`Modes`)."""

    @property
    def autonomous(self) -> bool:
        """Whether no coefficient depends on depth-time."""
        return all(module.modes == 1 for module in self.modules() if isinstance(module, Modes))


class Looking:
    """A frozen term that sees the state through a normalisation, which terms beside it may have computed already."""

    def __init__(self, normalise: Callable[[Tensor], Tensor], added: Callable[[Tensor], Tensor]):
        self.normalise, self.added = normalise, added

    def __call__(self, u: Tensor) -> Tensor:
        """Return the term at a state."""
        return self.added(self.normalise(u))


class Diffusion(ModalTerm):
    """`D Laplacian(u)` with a diffusivity per channel, non-negative by construction.

    `softplus` keeps D positive; `initial` is its value at the start, in squared lattice units per unit of depth-time.
    Explicit Euler is stable for `D dt <= 1 / (2 dims)` (order 2: with a maximum principle) and `3 / (8 dims)` (order
    4: in the 2-norm, without one).
    """

    symbol = "D Δu"
    symmetric = exact = True

    def __init__(
        self, lattice: Lattice, width: int, initial: float = 0.05, order: int = 2, depth: float = 1.0, **temporal
    ):
        super().__init__()
        if initial < 0:
            raise ValueError(f"a diffusivity of {initial} was given: it must not be negative.")
        self.lattice, self.order, self.monotone = lattice, order, order == 2
        self.raw = Modes(_inverse_softplus(torch.full((width,), float(initial))), depth, **temporal)

    def diffusivity(self, t: float) -> Tensor:
        """Return D(t) per channel, (width,)."""
        return F.softplus(self.raw(t))

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return `u -> D(t) Laplacian(u)`."""
        diffusivity, padding, tokens = self.diffusivity(t), padding_of(mask), self.lattice.tokens
        if tokens > _DENSE:
            return lambda u: diffusivity.to(u.dtype) * laplacian(u, self.lattice, self.order, padding)
        identity = torch.eye(tokens, dtype=torch.float64, device=diffusivity.device)
        identity = identity if padding is None else identity.expand(len(padding), tokens, tokens)
        operator = laplacian(identity, self.lattice, self.order, padding)  # (..., tokens, tokens)
        return lambda u: diffusivity.to(u.dtype) * (operator.to(u.dtype) @ u)

    def step_bound(self, t: float) -> Bound:
        """Return `1 / (2 dims D)`, or `3 / (8 dims D)` at order 4."""
        largest = float(self.diffusivity(t).detach().max())
        factor = 0.5 if self.order == 2 else 0.375
        name = f"explicit diffusion, order {self.order}: D dt <= {factor:g} / dims"
        return Bound(factor / self.lattice.dims / max(largest, 1e-300), name)

    def exact_step(self, t: float, dt: float, u: Tensor, mask: Tensor | None, how: str) -> Tensor | None:
        """Diffuse for dt in the Laplacian's eigenbasis: exactly, or by the Crank-Nicolson formula."""
        if how == "explicit":
            return None
        if padding_of(mask) is not None:
            raise ValueError(
                f"a {how} diffusion step with padding was asked for: it needs the whole lattice; use 'explicit'."
            )
        values, vectors, inverse = (part.to(u) for part in eigensystem(self.lattice, self.order))
        rate = values[:, None] * self.diffusivity(t).to(u.dtype) * dt  # (places, width)
        factor = rate.exp() if how == "spectral" else (1 + rate / 2) / (1 - rate / 2)
        before = self.lattice.special[0]
        inner = u[..., before : before + self.lattice.places, :]
        moved = vectors @ (factor * (inverse @ inner)) - inner
        return u + F.pad(moved, (0, 0, *self.lattice.special))


class Advection(ModalTerm):
    """`v . grad(u)` with a velocity per dimension and channel; upwind, or central."""

    symbol = "v·∇u"

    def __init__(
        self, lattice: Lattice, width: int, initial: float = 0.0, scheme: str = "upwind", depth: float = 1.0, **temporal
    ):
        super().__init__()
        self.lattice, self.scheme = lattice, scheme
        self.monotone, self.skew = scheme == "upwind", scheme == "central"
        self.velocity = Modes(torch.full((lattice.dims, width), float(initial)), depth, **temporal)

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return `u -> v(t) . grad(u)`."""
        velocity, padding = self.velocity(t), padding_of(mask)
        return lambda u: advection(u, velocity.to(u.dtype), self.lattice, self.scheme, padding)

    def step_bound(self, t: float) -> Bound:
        """Return `1 / sum |v|` for upwind; central differences alone have no stable step."""
        speed = float(self.velocity(t).detach().abs().sum(0).max())
        if speed == 0:
            return UNBOUNDED
        if self.scheme == "central":
            return Bound(0.0, "central advection without diffusion: v^2 dt <= 2 D")
        return Bound(1 / speed, "upwind advection: |v| dt <= 1")


class NonLocal(ModalTerm):
    """`(A(u) - I) u`, attention as a non-local operator (V = I), with one head over unit-norm logits.

    `A = softmax(beta <u_i, u_j>)`, self included. Row-stochastic, so explicit Euler obeys a maximum principle for `dt
    <= 1`.
    """

    symbol = "(A(u) − I) u"
    monotone = True

    def __init__(self, beta: float = 1.0):
        super().__init__()
        self.beta = beta

    def weights(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return A(u), (..., 1, tokens, tokens)."""
        allowed = None if mask is None else mask[..., None, :]
        return _softmax(self.beta * u @ u.transpose(-2, -1), allowed).unsqueeze(-3)

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return `u -> A(u) u - u`."""
        return lambda u: self.weights(t, u, mask).squeeze(-3) @ u - u

    def step_bound(self, t: float) -> Bound:
        """Return 1."""
        return Bound(1.0, "row-stochastic relaxation (A - I): dt <= 1")


class SelfAttention(ModalTerm):
    """The residual-stream form: `W_o concat_h(A_h(n(u)) V_h n(u)) + b`, with queries, keys, values by one matrix.

    `normalise` is n, what the term looks through. General values may grow in the exact flow: that is the equation's
    own growth, so no step is refused for it.
    """

    symbol = "W A(u) V n(u)"
    post_symbol = "W A(gz+b) V (gz+b)"

    def __init__(
        self,
        width: int,
        heads: int,
        normalise: Callable[[Tensor], Tensor],
        causal: bool = False,
        depth: float = 1.0,
        scaled: bool = False,
        **temporal,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of heads {heads}: choose one that is.")
        self.heads, self.normalise, self.causal = heads, normalise, causal
        inputs, output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        seen = stacked(inputs.weight, inputs.bias, beside(normalise, width))
        self.inputs = matrix_modes(seen, depth, parts=3, **temporal)  # (3 width, width + 1)
        self.output = matrix_modes(stacked(output.weight, output.bias), depth, scaled=scaled, **temporal)

    def weights(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return A_h(u), (..., heads, tokens, tokens)."""
        # The stacked rows are queries, keys, values: the last third is not needed here.
        query, key = self._heads(self.normalise(u), *matrix_and_bias(self.inputs(t)[: 2 * u.shape[-1]]))
        allowed = self._allowed(u, padding_of(mask))
        return _softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, allowed)

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return what attention adds to the residual stream, as a function of u."""
        inputs, output = matrix_and_bias(self.inputs(t)), matrix_and_bias(self.output(t))
        padding = padding_of(mask)

        def added(seen: Tensor) -> Tensor:
            query, key, value = self._heads(seen, *inputs)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self._allowed(seen, padding))
            return affine(mixed.transpose(-3, -2).flatten(-2), *output)

        return Looking(self.normalise, added)

    def _heads(self, seen: Tensor, matrix: Tensor, bias: Tensor) -> list[Tensor]:
        width = self.output.coefficients.shape[-2]
        parts = affine(seen, matrix, bias).split(width, -1)  # (..., tokens, width) each
        return [part.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in parts]  # (..., heads, tokens, dim)

    def _allowed(self, u: Tensor, padding: Tensor | None) -> Tensor | None:
        allowed = None if padding is None else padding[..., None, None, :]
        if self.causal:
            past = torch.ones(u.shape[-2], u.shape[-2], dtype=torch.bool, device=u.device).tril()
            allowed = past if allowed is None else allowed & past
        return allowed


class Reaction(ModalTerm):
    """The token-wise residual: `W_2 activation(W_1 n(u) + b_1) + b_2`."""

    symbol = "R(n(u))"
    post_symbol = "R(gz+b)"

    def __init__(
        self,
        width: int,
        hidden: int,
        normalise: Callable[[Tensor], Tensor],
        activation: str = "gelu",
        depth: float = 1.0,
        scaled: bool = False,
        **temporal,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation!r} was given: choose from {', '.join(ACTIVATIONS)}.")
        self.normalise, self.activation = normalise, activation
        first, second = nn.Linear(width, hidden), nn.Linear(hidden, width)
        looked_at = stacked(first.weight, first.bias, beside(normalise, width))
        self.first = matrix_modes(looked_at, depth, **temporal)
        self.second = matrix_modes(stacked(second.weight, second.bias), depth, scaled=scaled, **temporal)

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return the reaction of each token to itself, as a function of u."""
        first, second = matrix_and_bias(self.first(t)), matrix_and_bias(self.second(t))
        activation = ACTIVATIONS[self.activation]
        return Looking(self.normalise, lambda seen: affine(activation(affine(seen, *first)), *second))

    def lipschitz(self, t: float) -> float:
        """Return `|W_2| |W_1|` in the spectral norm: an estimate of the Lipschitz constant in n(u)."""
        return spectral_norm(self.first(t).detach()[:, :-1]) * spectral_norm(self.second(t).detach()[:, :-1])


def _softmax(logits: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    return torch.softmax(logits, -1)


def _inverse_softplus(value: Tensor) -> Tensor:
    """Return what softplus maps to value (values below 1e-12 count as that)."""
    value = value.clamp_min(1e-12).double()
    return (value + torch.log(-torch.expm1(-value))).float()
