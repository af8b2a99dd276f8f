"""Edges of attention: what one carries, what the next state is without it, what the logits then are.

The edge from token j to token i in a layer is the attention of i on j, in all heads. Layers are pre-norm blocks; no
token is padding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pdelens.models import Block, Transformer

# An edge that has all of a head's attention leaves nothing to renormalise: its share is taken as this much less.
_REST = 1e-6


class Parts(NamedTuple):
    """Attention (examples, heads, tokens, tokens), and what a token's values add where attention is 1."""

    attention: Tensor
    carried: Tensor  # (examples, heads, tokens, width), through the output matrix


@torch.no_grad()
def parts(block: Block, u: Tensor) -> Parts:
    """Return a layer's attention at states u (examples, tokens, width) and what each token's values carry."""
    if block.post:
        raise ValueError("A post-norm layer was given: edges of pre-norm layers can be cut here.")
    own, x = block.attention, block.norm_attention(u)
    values = own.queries_keys_values(x).chunk(3, -1)[2].unflatten(-1, (own.heads, -1))  # (examples, tokens, heads, dim)
    carried = torch.einsum("bjhd,whd->bhjw", values, own.project.weight.unflatten(1, (own.heads, -1)))
    return Parts(own.weights(x, None), carried)


def value_norms(given: Parts) -> Tensor:
    """Return the size of what each edge adds, `|sum_h A_hij W_h v_hj|`, (examples, tokens, tokens).

    Source: Kobayashi et al. 2020, arXiv 2004.10102.
    """
    return torch.einsum("bhij,bhjw->bijw", given.attention, given.carried).norm(dim=-1)


@torch.no_grad()
def cut_states(block: Block, u: Tensor, given: Parts) -> Tensor:
    """Return token i's next state without its edge from j, (examples, i, j, width): patching of one edge.

    In every head A_ij is set to 0 and the row divided by what is left; all else in the layer is computed anew. Cost:
    the feed-forward part of tokens^2 states an example.
    """
    left = (1 - given.attention).clamp_min(_REST)
    whole = given.attention @ given.carried  # (examples, heads, tokens, width)
    mixed = torch.einsum("bhiw,bhij->bijw", whole, 1 / left)
    mixed -= torch.einsum("bhij,bhjw->bijw", given.attention / left, given.carried)
    after = u[:, :, None] + mixed + block.attention.project.bias
    return after + block.mlp(block.norm_mlp(after))


@torch.no_grad()
def logit_effects(model: Transformer, layer: int, after: Tensor, cut: Tensor, targets: Tensor) -> Tensor:
    """Return how far the logits move when edges of a layer into chosen tokens are cut, (examples, targets, tokens).

    `after` (examples, tokens, width) are the states behind the layer, `cut` those of `cut_states` for the targets,
    (examples, targets, tokens, width), `targets` (examples, targets) their places. Each edge is cut alone and all
    later layers run anew; Euclidean norm of the change.
    """
    examples, many, tokens, _ = cut.shape
    blocks = list(model.blocks)[layer + 1 :]
    found = torch.empty(examples, many, tokens)
    for example in range(examples):
        before = model.readout(_through(blocks, after[example : example + 1]))
        for row, place in enumerate(targets[example].tolist()):
            states = after[example].repeat(tokens, 1, 1)
            states[:, place] = cut[example, row]
            found[example, row] = (model.readout(_through(blocks, states)) - before).norm(dim=-1)
    return found


def _through(blocks: Sequence[torch.nn.Module], u: Tensor) -> Tensor:
    for block in blocks:
        u = block(u, None)
    return u
