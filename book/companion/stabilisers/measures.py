"""What is measured of a network of the map: how far states move, whether tokens or examples collapse, gradients."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.splits import Examples
from ..teachers.stack import mask_of
from .switches import Switched


@torch.no_grad()
def states_of(model: Switched, inputs: Tensor) -> dict[str, float]:
    """Return how a network's states move over depth, and what is left of their differences; means over examples.

    - `distance`: |u(L) - u(0)| / |u(0)|, all tokens of an example as one vector; `travel`: the path's length through
      all depths over |u(0)|. *Drift* is one or the other growing; see `cosine`.
    - `cosine`: of u(L) and u(0), token by token.
    - `rank`: |u - mean token| / |u| at depth L, the *rank residual* (Dong et al. 2021, arXiv 2103.03404): 0 where all
      tokens of an example are one. `rank start`: the same at depth 0.
    - `spread`: the same for an example's mean token against the mean example's: 0 where all examples are one.
    - `entropy`: attention's, over all layers, heads and queries, as a share of the largest it can be; `least entropy`
      that of the layer where it is lowest.

    Not finite where the states are not.
    """
    mask = mask_of(model.configuration, inputs)
    real = torch.ones(len(inputs), model.configuration.tokens, dtype=torch.bool) if mask is None else mask
    states = [state.double() for state in model.states(inputs, mask)]
    first, last = states[0], states[-1]
    size = _size(first, real)
    steps = [_size(after - before, real) for before, after in pairwise(states)]
    middle = {name: _middle(state, real) for name, state in {"start": first, "end": last}.items()}
    examples = middle["end"].squeeze(1)
    entropies = _entropies(model, [state.to(model.positions.dtype) for state in states[:-1]], mask, real)
    return {
        "distance": float((_size(last - first, real) / size).mean()),
        "travel": float((torch.stack(steps).sum(0) / size).mean()),
        "cosine": float(F.cosine_similarity(last, first, dim=-1)[real].mean()),
        "rank": float((_size(last - middle["end"], real) / _size(last, real)).mean()),
        "rank start": float((_size(first - middle["start"], real) / size).mean()),
        "spread": float((examples - examples.mean(0)).norm() / examples.norm()),
        "entropy": float(entropies.mean()),
        "least entropy": float(entropies.min()),
    }


def _size(u: Tensor, real: Tensor) -> Tensor:
    """Return the norm of each example's real tokens taken as one vector, (batch,)."""
    return (u * real.unsqueeze(-1)).flatten(1).norm(dim=1)


def _middle(u: Tensor, real: Tensor) -> Tensor:
    """Return each example's mean token, (batch, 1, width)."""
    share = real.to(u.dtype) / real.sum(1, keepdim=True)
    return torch.einsum("bt,btw->bw", share, u).unsqueeze(1)


def _entropies(model: Switched, states: list[Tensor], mask: Tensor | None, real: Tensor) -> Tensor:
    """Return the attention's mean entropy by layer, each row's as a share of the logarithm of what it may see."""
    allowed = None if mask is None else mask[:, None, None, :]
    most = real.sum(1).clamp_min(2).double().log()[:, None]  # (batch, 1)
    found = []
    for block, state in zip(model.layers, states, strict=True):
        rows = torch.special.entr(block.attention_at(state, allowed).double()).sum(-1).mean(1)  # (batch, queries)
        found.append((rows / most)[real].mean())
    return torch.stack(found)


def gradients_of(model: Switched, data: Examples) -> list[float]:
    """Return the norm of the loss's gradient with respect to the state at every depth, over that at depth L."""
    mask = mask_of(model.configuration, data.inputs)
    with torch.enable_grad():
        states = model.states(data.inputs, mask)
        loss = F.cross_entropy(model.readout(states[-1], mask), data.labels)
        found = torch.autograd.grad(loss, states)
    return [float(one.norm() / found[-1].norm()) for one in found]


@torch.no_grad()
def score(model: Switched, data: Examples) -> tuple[float, float]:
    """Return a network's mean cross-entropy (nats) and its accuracy."""
    logits = model(data.inputs, mask_of(model.configuration, data.inputs))
    return float(F.cross_entropy(logits, data.labels)), float((logits.argmax(-1) == data.labels).float().mean())
