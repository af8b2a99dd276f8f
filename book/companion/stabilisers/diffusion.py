"""Heat that is let flow between a network's tokens: at one depth, or in every layer, before or after its attention."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pdelens.lattice import Chain, Grid, Lattice, laplacian
from pdelens.models import Configuration
from pdelens.pde.checkpoints import generator_for

from ..theory.token_influence import HeatKernels

BEFORE, AFTER = "before", "after"


def lattice_of(shape: Configuration) -> Lattice:
    """Return where a network's tokens stand: a chain of words, or a grid of patches."""
    if shape.vocabulary:
        return Chain(shape.length)
    side = shape.side // shape.patch
    return Grid(side, side)


@dataclass(frozen=True)
class Diffusion:
    """Diffusion of `amount` in all, diffusivity times depth-time (spacing 1): `u <- exp(amount Laplacian) u`.

    `place` is a depth ("0": what the embedding gives, "L": what the last layer gives), or `BEFORE` or `AFTER`: an equal
    part of it in every layer, before the layer or between its attention and its feed-forward part. A `disorder`, by its
    number from 1 on, puts the tokens of the lattice in an order of its own: a null that mixes as much and knows no
    neighbours.
    """

    place: str
    amount: float
    disorder: int = 0

    def kernels(self, shape: Configuration) -> Tensor:
        """Return the propagators by the number of real tokens, (tokens + 1, tokens, tokens); of pictures one alone.

        No heat passes to or from padding.
        """
        known = [BEFORE, AFTER, *(str(depth) for depth in range(shape.layers + 1))]
        if self.place not in known:
            raise ValueError(f"place {self.place!r} is unknown: choose from {', '.join(known)}.")
        lattice, part = lattice_of(shape), 1 / shape.layers if self.place in (BEFORE, AFTER) else 1.0
        counts = range(shape.length + 1) if shape.vocabulary else (lattice.tokens,)
        mask = torch.stack([torch.arange(lattice.tokens) < count for count in counts])
        found = HeatKernels(lattice, mask)(part * self.amount)
        if self.disorder:
            for kernel, count in zip(found, counts, strict=True):
                kernel[:count, :count] = in_disorder(kernel[:count, :count], self.disorder)
        return found.float()


def in_disorder(kernel: Tensor, disorder: int) -> Tensor:
    """Return a kernel (tokens, tokens) of tokens that stand in another order, by the disorder's number."""
    order = torch.randperm(len(kernel), generator=generator_for(disorder, len(kernel)))
    return kernel[order][:, order]


def commutator(attention: Tensor, kernel: Tensor) -> Tensor:
    """Return how far attention and diffusion are from commuting, `|A K - K A| / (|A K| + |K A|)`, (batch, heads).

    Frobenius norms; `attention` (batch, heads, tokens, tokens), `kernel` (tokens, tokens) or one for each example. 0
    where the order does not matter, at most 1.
    """
    kernel = kernel if kernel.ndim == 2 else kernel[:, None]
    one, other = attention @ kernel, kernel @ attention
    return (one - other).flatten(-2).norm(dim=-1) / (one.flatten(-2).norm(dim=-1) + other.flatten(-2).norm(dim=-1))


def roughness(u: Tensor, lattice: Lattice, mask: Tensor | None = None) -> Tensor:
    """Return the Dirichlet energy of states (batch, tokens, width) over their size, `-<u, Laplacian u> / |u|^2`.

    Between 0, all neighbours alike, and the largest eigenvalue of the Laplacian; real tokens alone count.
    """
    real = torch.ones(u.shape[:2], dtype=torch.bool) if mask is None else mask
    u = u.masked_fill(~real.unsqueeze(-1), 0.0)
    energy = -(u * laplacian(u, lattice, mask=mask)).flatten(1).sum(1)
    return energy / u.flatten(1).square().sum(1)
