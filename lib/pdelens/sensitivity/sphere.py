"""Directions in which a norm is blind: along a token's mean and its length, and what is left of a change without."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _doors

# Which directions a norm does not see: the mean over channels, and the state itself.
BLIND = {"layer": (True, True), "rms": (False, True), "mean": (True, False)}


class Split(NamedTuple):
    """The parts of a direction tangent and normal to a norm's sphere, (..., tokens, width) each; they add up to it."""

    tangent: Tensor
    normal: Tensor


def split_at_norm(u: Tensor, direction: Tensor, norm: str = "layer") -> Split:
    """Return the part of a direction that a norm sees at a state, and the part to which it is blind, token by token.

    With the centred state `x = u - mean(u)`, layer normalisation `x / sd(x)` has a Jacobian that is zero on the vector
    of ones and on x, whatever u is, and one-to-one on what is orthogonal to both: `tangent` is the projection there,
    `normal` the rest. `norm` is "layer", "rms" (blind to u alone) or "mean" (centring, blind to ones alone). Exact for
    a norm without an epsilon; with one, x is scaled by `epsilon / (variance + epsilon)` instead of by 0. Raises
    `ValueError` for shapes that differ. Cost: two inner products a token. Source: Ba, Kiros and Hinton 2016.

    >>> found = split_at_norm(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    >>> [[round(float(one), 3) for one in part[0, 0]] for part in found]
    [[0.167, -0.333, 0.167], [0.833, 0.333, -0.167]]
    """
    u, direction = _doors.state("u", u), _doors.state("direction", direction)
    _doors.option("norm", norm, BLIND)
    if u.shape != direction.shape:
        raise ValueError(f"a direction of shape {tuple(direction.shape)} was given for {tuple(u.shape)}.")
    centred, radial = BLIND[norm]
    direction = direction.to(u)
    x = u - u.mean(-1, keepdim=True) if centred else u
    tangent = direction - direction.mean(-1, keepdim=True) if centred else direction
    if radial:
        unit = x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        tangent = tangent - unit * (unit * tangent).sum(-1, keepdim=True)
    return Split(tangent, direction - tangent)
