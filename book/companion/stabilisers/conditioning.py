"""Networks without residual connections that begin close to the identity, so that depth alone breaks nothing in them.

Three things are lost in a layer `u <- f(n(u))` as it is usually drawn: attention averages tokens away, a feed-forward
part with random matrices forgets what it read, and sizes shrink or grow layer by layer. Each is given back at the
beginning, by parameters that training may change:

- a token's score for itself is raised by a number of each head's (`SelfBiased`), so that it keeps `1 - 1/(2L)` of
  itself: after L layers a difference of tokens has shrunk to about exp(-1/2), whatever L is. Enlarged equal queries
  and keys, the other way known (Ji et al. 2025, arXiv 2510.00345), left a token .1 to .4 of itself here;
- values and projection are a rotation and its transpose, and the feed-forward part's rows come in pairs of opposite
  sign, whose sum is exactly linear, since `gelu(x) - gelu(-x) = x` ("looks linear", Balduzzi et al. 2017, arXiv
  1702.08591), and its matrices undo each other (after He et al. 2023, arXiv 2302.10322);
- each part's last matrix is scaled so that the state keeps the size that the embedding gave it (LSUV, Mishkin and Matas
  2016, arXiv 1511.06422), on drawn inputs: no data are seen.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pdelens.models import Attention, Configuration
from pdelens.pde.checkpoints import generator_for

# Where the streams of a seed begin that layers are conditioned from; the first ones are its batches'.
_CONDITIONED = 1_000_000
# Sizes are fitted on so many drawn inputs.
_DRAWN = 64


class SelfBiased(Attention):
    """Attention in which each head adds a number of its own, trained, to a token's score for itself.

    >>> attention = SelfBiased(Configuration(width=8, heads=2, patch=14))
    >>> torch.nn.init.zeros_(attention.queries_keys_values.weight).sum().item()
    0.0
    >>> [round(float(kept), 3) for kept in attention.weights(torch.randn(1, 4, 8), None)[0, 0].diagonal()]
    [0.917, 0.917, 0.917, 0.917]
    """

    def __init__(self, shape: Configuration):
        super().__init__(shape.width, shape.heads)
        kept = 1 - 1 / (2 * shape.layers)
        self.itself = nn.Parameter(torch.full((shape.heads,), math.log((shape.tokens - 1) * kept / (1 - kept))))
        self.attend = self._attend

    def weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention that `x` (batch, tokens, width) would give, (batch, heads, queries, keys)."""
        queries, keys, _ = self.queries_keys_values(x).chunk(3, dim=-1)
        parts = [y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (queries, keys)]
        return self._attend(parts[0], parts[1], torch.eye(x.shape[1]).to(x), mask)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # (batch, heads, queries, keys)
        scores = scores + self.itself[:, None, None] * torch.eye(scores.shape[-1]).to(scores)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return torch.softmax(scores, -1) @ value


@torch.no_grad()
def condition(model: Any, seed: int) -> None:
    """Begin a network (`Switched`) without residual connections as the module says, for gelu; it is `SelfBiased`."""
    u = model.embedding(_drawn(model.configuration, seed))
    size = u.square().mean()
    for number, block in enumerate(model.layers):
        _near_identity(block, generator_for(seed, _CONDITIONED + number))
        for part, last in zip(block.parts(None), (block.attention.project, block.linear[1]), strict=True):
            last.weight.mul_((size / block.branch(u, *part).square().mean()).sqrt())
            u = block.half(u, *part)


def _near_identity(block: Any, random: torch.Generator) -> None:
    """Let values and projection, and the feed-forward part's two matrices, undo each other; no biases."""
    attention, (first, last) = block.attention, block.linear
    width = attention.project.in_features
    for layer in (attention.queries_keys_values, attention.project, first, last):
        layer.bias.zero_()
    turned = _rotation(width, random)
    attention.queries_keys_values.weight[2 * width :] = turned
    attention.project.weight.copy_(turned.T)
    # Half as many rows as there are hidden channels, orthonormal columns: its transpose undoes it.
    tall = _rotation(first.out_features // 2, random)[:, :width]
    first.weight.copy_(torch.cat([tall, -tall]))
    last.weight.copy_(torch.cat([tall.T, -tall.T], 1))


def _drawn(shape: Configuration, seed: int) -> Tensor:
    """Return inputs drawn from a seed: texts of any pieces, pictures of black and white pixels."""
    random = generator_for(seed, _CONDITIONED - 1)
    if shape.vocabulary:
        return torch.randint(1, shape.vocabulary, (_DRAWN, shape.length), generator=random)
    bits = torch.randint(0, 2, (_DRAWN, shape.side, shape.side), generator=random)
    return (255 * bits).to(torch.uint8)


def _rotation(size: int, random: torch.Generator) -> Tensor:
    """Return an orthogonal matrix, uniform over all of them."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=random))
    return q * r.diagonal().sign()
