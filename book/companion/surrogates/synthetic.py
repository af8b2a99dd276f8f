"""Teachers whose answer is known: one that is the equation, and one of the same size that is not.

A calibration that fails on the first has no power; one that succeeds on the second proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pdelens.agreement.measures import cosine
from pdelens.agreement.nulls import uniform
from pdelens.flow import Flow
from pdelens.lattice import Lattice, eigensystem
from pdelens.models import Transformer
from pdelens.pde.checkpoints import generator_for
from pdelens.pde.equation import TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import SelfAttention

# States at depth 0, (batch, tokens, width), and where tokens are padded also the mask (batch, tokens).
Inputs = Callable[[torch.Generator, int], Tensor | tuple[Tensor, Tensor]]
PROBE = 64


@dataclass(frozen=True, eq=False)
class SyntheticTeacher:
    """A teacher made of an equation's terms, called as `teacher(generator, batch) -> Flow` by `pdelens.fit`.

    `kind` is "equation" (one field for all depths, solved by `method` with `substeps` a unit until it no longer
    matters) or "layers" (another field each layer, one Lie step a layer: a pre-norm network).
    """

    kind: str
    pde: TransformerPDE
    inputs: Inputs
    method: str
    substeps: int

    def __call__(self, generator: torch.Generator, batch: int) -> Flow:
        """Return the Flow of freshly drawn inputs."""
        drawn = self.inputs(generator, batch)
        states, mask = drawn if isinstance(drawn, tuple) else (drawn, None)
        return self.flow(states, mask)

    @torch.no_grad()
    def flow(self, states: Tensor, mask: Tensor | None = None) -> Flow:
        """Return the Flow that begins with given states, (batch, tokens, width)."""
        return integrate(self.pde, states, method=self.method, substeps=self.substeps, mask=mask)


class Sizes(NamedTuple):
    """What a Flow's layers are like, each (layers,); means over examples (and heads)."""

    entropy: Tensor  # of attention's rows, share of the uniform row's: 1 is uniform
    uniform_cosine: Tensor  # of the flattened map with the uniform one
    displacement: Tensor  # rms of u[l+1] - u[l]
    size: Tensor  # rms of u[l+1]


def equation_teacher(
    lattice: Lattice,
    width: int = 32,
    heads: int = 4,
    *,
    depth: int = 6,
    diffusivity: float | tuple[float, float] = 0.1,
    sharpness: float = 2.5,
    rate: float = 0.5,
    inputs: Inputs | None = None,
    substeps: int = 4,
    seed: int = 0,
) -> SyntheticTeacher:
    """Return a teacher that *is* the autonomous pre-norm equation, with a stated diffusivity.

        du/dt = D Laplacian(u) + W A(u) V n(u) + R(n(u)),    t in [0, depth].

    `diffusivity` is D in squared lattice units per layer, one value or (low, high), equally spaced over channels. The
    other coefficients are independent normal: `sharpness` is the standard deviation of attention's logits between
    independent normalised states (alike tokens see less; 0 is uniform attention; at 2.5 the mean map has a cosine of
    .45 to .75 with the uniform one), and `rate` the rms that the reaction adds in one layer, and attention would add
    were every row one key alone. As both see only n(u), the state's size grows at most linearly. `inputs` draws
    states at depth 0 (`smooth_states` unless given). Solved by RK4 with `substeps` a layer: with 4, within 1e-3 of a
    layer's displacement of dopri5. Four right-hand sides a substep: draw a Flow once where many batches are needed.
    Raises `ValueError` for values out of range.

    >>> from pdelens.lattice import Grid
    >>> teacher = equation_teacher(Grid(5, 5), width=16, heads=2, depth=3, diffusivity=(0.05, 0.2))
    >>> teacher(torch.Generator().manual_seed(0), 8)
    Flow(3 layers, 8 examples, 25 tokens, 2 heads, width 16)
    """
    low, high = diffusivity if isinstance(diffusivity, tuple) else (diffusivity, diffusivity)
    if not 0 < low <= high:
        raise ValueError(f"a diffusivity of {diffusivity} was given: a positive value, or (low, high), is wanted.")
    if sharpness < 0 or rate < 0:
        raise ValueError(f"sharpness {sharpness:g} and rate {rate:g} were given: neither may be negative.")
    pde = TransformerPDE(width, heads, lattice, depth=depth, seed=seed)
    with torch.no_grad():
        wanted = torch.linspace(low, high, width, dtype=torch.float64)
        # softplus's inverse: Diffusion keeps D positive through it.
        pde.terms["diffusion"].raw.coefficients.copy_(wanted + torch.log(-torch.expm1(-wanted)))  # type: ignore[union-attr]
    _redraw(pde, sharpness, rate, generator_for(seed, 0))
    return SyntheticTeacher("equation", pde, inputs or smooth_states(lattice, width, seed=seed), "rk4", substeps)


def layered_teacher(like: SyntheticTeacher, seed: int = 0) -> SyntheticTeacher:
    """Return a teacher that is *not* an equation: independent random layers of the same sizes as another's.

    Each layer has its own attention and reaction, drawn as those of `like` and then scaled, layer by layer on 64
    inputs, to the mean entropy of its attention's rows and to the rms of its displacement (`sizes`). It is a pre-norm
    network exactly (one Lie step a layer, D = 0). The states' own size is not matched: independent displacements add
    up to less than an autonomous equation's, which point alike from layer to layer. Heads of different layers have no
    common order. About 4 s at width 64, 6 layers.
    """
    attention, depth = like.pde.terms["attention"], int(like.pde.depth)
    assert isinstance(attention, SelfAttention)
    width = attention.output.coefficients.shape[1]
    layers = {"depth": depth, "temporal_modes": depth, "basis": "piecewise"}
    pde = TransformerPDE(width, attention.heads, like.pde.lattice, **layers, diffusion=None, seed=seed)
    _redraw(pde, 1.0, 1.0, generator_for(seed, 1))
    teacher = SyntheticTeacher("layers", pde, like.inputs, "lie", 1)
    reference = like(generator_for(seed, 2), PROBE)
    wanted = sizes(reference)
    state, mask = reference.states[0], reference.mask
    for layer in range(depth):
        _match_entropy(pde, layer, state, reference, float(wanted.entropy[layer]))
        state = _match_displacement(pde, layer, state, mask, float(wanted.displacement[layer]))
    return teacher


def smooth_states(
    lattice: Lattice, width: int, smoothness: float = 0.5, position: float = 0.5, seed: int = 0
) -> Inputs:
    """Return a function (generator, batch) -> random smooth states of rms 1, (batch, tokens, width).

    Independent normal values after diffusion for `smoothness` (squared lattice units; 0 leaves them rough), plus a
    field of the same kind that is the same for every example (drawn from `seed`) and has the share `position` of the
    variance: what a position embedding is to a Transformer.
    """
    if smoothness < 0 or not 0 <= position <= 1:
        raise ValueError(f"smoothness {smoothness:g} and position {position:g} were given: >= 0 and a share wanted.")
    values, vectors, inverse = eigensystem(lattice)
    kernel = (vectors @ ((smoothness * values).exp()[:, None] * inverse)).float()

    def drawn(generator: torch.Generator, batch: int) -> Tensor:
        noise = torch.randn(batch, lattice.tokens, width, generator=generator)
        before, inner = lattice.special[0], lattice.places
        smooth = kernel @ noise[:, before : before + inner]
        # Relative to the lattice's tokens' own rms, so that special tokens are of the same size.
        noise[:, before : before + inner] = smooth / kernel.square().sum(1).mean().sqrt()
        return noise

    fixed = drawn(generator_for(seed, 3), 1)
    return lambda generator, batch: position**0.5 * fixed + (1 - position) ** 0.5 * drawn(generator, batch)


def embedded(model: Transformer, inputs: Tensor) -> Inputs:
    """Return a function (generator, batch) -> a small teacher's states at depth 0.

    `inputs` are pictures or token numbers, drawn with replacement; texts' padding is masked.
    """

    @torch.no_grad()
    def drawn(generator: torch.Generator, batch: int) -> Tensor | tuple[Tensor, Tensor]:
        chosen = inputs[torch.randint(0, len(inputs), (batch,), generator=generator)]
        states = model.embedding(chosen)
        return (states, chosen != 0) if model.configuration.vocabulary else states

    return drawn


def sizes(flow: Flow) -> Sizes:
    """Return how far attention is from uniform, and how much the states move, layer by layer.

    >>> same = Flow(states=[torch.ones(2, 5, 8)] * 3, attention=[torch.full((2, 4, 5, 5), 0.2)] * 2)
    >>> [round(float(part[0]), 3) for part in sizes(same)]
    [1.0, 1.0, 0.0, 1.0]
    """
    rows, flat = flow.mask, uniform(flow)
    entropies = [_entropy(a, rows) / _entropy(b, rows) for a, b in zip(flow.attention, flat, strict=True)]
    cosines = [cosine(a, b.expand_as(a), rows).mean() for a, b in zip(flow.attention, flat, strict=True)]
    moves = [_rms((b - a)[rows]) for a, b in zip(flow.states[:-1], flow.states[1:], strict=True)]
    return Sizes(*map(torch.stack, (entropies, cosines, moves, [_rms(s[rows]) for s in flow.states[1:]])))


@torch.no_grad()
def _redraw(pde: TransformerPDE, sharpness: float, rate: float, generator: torch.Generator) -> None:
    """Draw attention and reaction anew in every mode: normal, at scales that make each part's output known."""

    def draw(coefficient: nn.Parameter, scale: Tensor | float) -> None:
        matrix = torch.randn(coefficient[..., :-1].shape, generator=generator) * scale
        coefficient.copy_(torch.cat([matrix, torch.zeros_like(matrix[..., :1])], -1))

    inputs, output, first, second = (
        pde.get_parameter(f"terms.{name}.coefficients")
        for name in ("attention.inputs", "attention.output", "reaction.first", "reaction.second")
    )
    width, hidden = output.shape[1], first.shape[1]
    # Queries and keys of size sqrt(sharpness) give logits of sd sharpness; values have unit size.
    rows = torch.tensor([sharpness**0.5, sharpness**0.5, 1.0]).repeat_interleave(width)[:, None]
    draw(inputs, rows * width**-0.5)
    draw(output, rate * width**-0.5)
    draw(first, width**-0.5)
    # E[gelu(x)^2] = 0.425 for a standard normal x.
    draw(second, rate * (0.425 * hidden) ** -0.5)


@torch.no_grad()
def _match_entropy(pde: TransformerPDE, layer: int, state: Tensor, reference: Flow, wanted: float) -> None:
    """Scale a layer's queries until its attention's rows have the wanted mean entropy (it falls with the scale)."""
    coefficients = pde.get_parameter("terms.attention.inputs.coefficients")[layer]
    queries = coefficients[: state.shape[-1]]
    start, low, high = queries.clone(), 0.0, 100.0
    most = float(_entropy(uniform(reference)[0], reference.mask))
    for _ in range(20):
        scale = (low + high) / 2
        queries.copy_(scale * start)
        maps = pde.attention(float(layer), state, reference.mask)
        assert maps is not None
        low, high = (scale, high) if float(_entropy(maps, reference.mask)) > wanted * most else (low, scale)


@torch.no_grad()
def _match_displacement(pde: TransformerPDE, layer: int, state: Tensor, mask: Tensor | None, wanted: float) -> Tensor:
    """Scale what a layer adds until the states move by the wanted rms; return the states after it."""
    added = [pde.get_parameter(f"terms.{n}.coefficients")[layer] for n in ("attention.output", "reaction.second")]
    keep = torch.ones(state.shape[:2], dtype=torch.bool) if mask is None else mask
    times = [float(layer), float(layer + 1)]
    after = integrate(pde, state, times, "lie", mask=mask).states[-1]
    # Nearly linear in the scale (the reaction sees what attention added), so a few rounds are enough.
    for _ in range(50):
        ratio = wanted / float(_rms((after - state)[keep]))
        for part in added:
            part.mul_(ratio)
        after = integrate(pde, state, times, "lie", mask=mask).states[-1]
        if abs(ratio - 1) < 1e-3:
            break
    return after


def _entropy(maps: Tensor, rows: Tensor) -> Tensor:
    """Return the mean entropy of maps' rows in nats, over heads and real tokens."""
    return torch.special.entr(maps).sum(-1).transpose(1, 2)[rows].mean()


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt()
