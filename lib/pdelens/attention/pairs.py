"""How far two attentions are from each other, from their queries and keys alone, in O(tokens) memory."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .tiles import TiledAttention, attention_inputs, refuse_overflow


def attention_cosine(
    query_a: Float[Tensor, "*batch heads queries dim_a"],
    key_a: Float[Tensor, "*_ kv_heads_a keys dim_a"],
    query_b: Float[Tensor, "*batch heads queries dim_b"],
    key_b: Float[Tensor, "*_ kv_heads_b keys dim_b"],
    over: str = "map",
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    *,
    window: int | None = None,
) -> Float[Tensor, "*shape"]:
    """Return the cosine of two attentions' maps without either map.

    `<A, B> / (|A| |B|)`, over="map": of the flattened map, (..., heads); over="rows": of each row, (..., heads,
    queries), NaN where it may see no key. A boolean padding mask (..., tokens) of self-attention leaves the padded
    tokens' own rows out of the flattened map too. All else, one mask for both, as in `attention_statistics`; head
    widths may differ, and `scale` then defaults to each one's own. Raises `ValueError` or `TypeError` where inputs
    don't fit or are not finite. Cost: two passes of attention; memory O(tokens). Source: sums over the tiles of online
    softmax (Milakov and Gimelshein 2018, arXiv 1805.02867).

    >>> query = torch.zeros(1, 1, 4, 8)
    >>> key = 50 * torch.eye(4, 8)[None, None]
    >>> attention_cosine(query, key, query + 8 ** 0.5 * torch.eye(4, 8), key).item()
    0.5
    """
    if over not in ("map", "rows"):
        raise ValueError(f"over={over!r} was given: choose 'map' or 'rows'.")
    one, other = _pair(query_a, key_a, query_b, key_b, mask, causal, scale, window)
    found = []
    with one.full_precision():
        for a, b in zip(one.tiles(), other.tiles(), strict=True):
            inner, squares_a, squares_b = (
                torch.mul(p.weights, q.weights, out=a.spare[0]).sum(-1) / (p.total * q.total)
                for p, q in ((a, b), (a, a), (b, b))
            )
            found.append((inner, squares_a, squares_b, a.allowed == 0))
    inner, squares_a, squares_b, empty = map(one.joined, zip(*found, strict=True))
    refuse_overflow(inner, empty)
    if over == "rows":
        cosine = inner * (squares_a * squares_b).rsqrt()
        return cosine.masked_fill(empty, math.nan).clamp_max(1).reshape(one.rows)
    left_out = empty.reshape(one.rows)
    if one.padding is not None:
        examples = one.batch if len(one.padding) > 1 else (1,) * len(one.batch)
        left_out = left_out | ~one.padding.view(*examples, 1, one.queries)
    inner, squares_a, squares_b = (
        part.reshape(one.rows).masked_fill(left_out, 0).sum(-1) for part in (inner, squares_a, squares_b)
    )
    return (inner * (squares_a * squares_b).rsqrt()).clamp_max(1)


def attention_divergence(
    query_a: Float[Tensor, "*batch heads queries dim_a"],
    key_a: Float[Tensor, "*_ kv_heads_a keys dim_a"],
    query_b: Float[Tensor, "*batch heads queries dim_b"],
    key_b: Float[Tensor, "*_ kv_heads_b keys dim_b"],
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    *,
    window: int | None = None,
) -> Float[Tensor, "*batch heads queries"]:
    """Return `KL(a_i || b_i) = sum_j a_ij log(a_ij / b_ij)` of each row (nats), (..., heads, queries).

    Finite, since both see the same keys; NaN where a row may see none. Arguments, errors and cost as in
    `attention_cosine`. Logits are made in float64: here they count in full, also where a weight is small. Source:
    Kullback and Leibler 1951.

    >>> query, key = torch.zeros(1, 1, 2, 4), torch.tensor([[[[0.0, 0, 0, 0], [2.0, 0, 0, 0]]]])
    >>> round(attention_divergence(query, key, query + torch.eye(2, 4), key)[0, 0, 0].item(), 4)  # log cosh(1/2)
    0.1201
    """
    one, other = _pair(query_a, key_a, query_b, key_b, mask, causal, scale, window, fine=True)
    found = []
    with one.full_precision():
        for a, b in zip(one.tiles(), other.tiles(), strict=True):
            bits = a.logits.sub_(b.logits).mul_(a.weights).sum(-1) / a.total
            found.append((bits * math.log(2) + b.total.log() - a.total.log(), a.allowed == 0))
    divergence, empty = map(one.joined, zip(*found, strict=True))
    refuse_overflow(divergence, empty)
    return divergence.clamp_min(0).masked_fill(empty, math.nan).reshape(one.rows)


def _pair(
    query_a, key_a, query_b, key_b, mask, causal, scale, window, fine=False
) -> tuple[TiledAttention, TiledAttention]:
    """Return two attentions that are read in the same tiles."""
    query_a, key_a, query_b, key_b = attention_inputs(query_a=query_a, key_a=key_a, query_b=query_b, key_b=key_b)
    one = TiledAttention(query_a, key_a, mask, causal, window, scale, fine)
    other = TiledAttention(query_b, key_b, mask, causal, window, scale, fine)
    if (one.rows, one.keys, one.device) != (other.rows, other.keys, other.device):
        raise ValueError(
            f"attentions of shape {(*one.rows, one.keys)} on {one.device} and {(*other.rows, other.keys)} on "
            f"{other.device} were given: both need the same examples, heads, queries, keys and device."
        )
    return one, other
