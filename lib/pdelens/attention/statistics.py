"""What attention does, from queries and keys alone: entropy, collision and moments in O(tokens) memory.

Every number is exact up to rounding: the whole map is visited, a tile at a time, and never stored. So the heads of a
real language model can be described at lengths where their maps would not fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .. import _doors
from ..lattice import Lattice
from .displacement import Displacements, Places
from .moments import Moments
from .tiles import TiledAttention, TiledMaps, attention_inputs, refuse_overflow

# From so many keys on, logits rounded to float32 no longer give the drift of wide rows to 1e-4.
LONG = 1024


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """Statistics of each row of attention (..., heads, queries), float32 (float64 for float64 input).

    `entropy` (nats); `collision`, the sum of squared weights; `logsumexp` of the scaled logits (nats);
    `special_mass`, the share of the row that lands on special tokens; `allowed`, how many keys the query may see;
    `drift` (..., heads, queries, dims) and `diffusivity` (..., heads, queries, dims, dims) in lattice units per
    layer, None where positions were not given or moments not asked for; `mass_within` (..., heads, queries, radii),
    the share that lands within each radius. Undefined entries are NaN: all of a row that may see no key (its
    `logsumexp` is -inf), and what is about displacement where the query is special or, for drift and diffusivity,
    nothing lands on the lattice.

    >>> even = statistics_of(torch.full((1, 2, 4), 0.25))
    >>> even.collision.tolist(), even.allowed.tolist()
    ([[0.25, 0.25]], [[4, 4]])
    """

    entropy: Tensor
    collision: Tensor
    logsumexp: Tensor
    special_mass: Tensor
    allowed: Tensor
    drift: Tensor | None = None
    diffusivity: Tensor | None = None
    mass_within: Tensor | None = None

    def moments(self, lattice: Lattice) -> Moments:
        """Return drift, diffusivity and special mass of the lattice's own tokens, as `attention_moments` does."""
        if self.drift is None or self.diffusivity is None:
            raise ValueError("these statistics hold no moments: ask for them with positions=lattice, moments=True.")
        own = slice(lattice.special[0], lattice.special[0] + lattice.places)
        return Moments(self.drift[..., own, :], self.diffusivity[..., own, :, :], self.special_mass[..., own])


def attention_statistics(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*_ kv_heads keys dim"],
    positions: Lattice | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    *,
    window: int | None = None,
    moments: bool = True,
    special: Tensor | None = None,
    within: Sequence[float] = (),
) -> AttentionStatistics:
    """Return entropy, collision probability, drift and diffusivity of attention without its map.

    With weights `a_ij` of row i: entropy `-sum_j a_ij log a_ij`, collision `sum_j a_ij^2`, drift `v_i = E[Delta]` and
    diffusivity `D_i = Cov[Delta] / 2`, where Delta is the displacement from query to key on the lattice, conditional
    on keys that lie on it ({eq}`eq-moments`).

    `query` (..., heads, queries, head_dim); `key` (..., kv_heads, keys, head_dim), heads a multiple of kv_heads (each
    key head serves a run of query heads); leading axes broadcast. `positions`: a `Lattice`, or a tensor (tokens,
    dims) or (..., tokens, dims) with NaN for special tokens; displacements on a periodic lattice don't wrap.
    `special` (tokens,) or (..., tokens), True at (more) special tokens. `mask`: with two axes less than the query it
    is padding (..., keys), True at real tokens; with as many axes as the query it broadcasts to (..., heads, queries,
    keys), True where a key may be seen, or is added to the logits where it is of a floating type (-inf or the type's
    lowest number hides a key). `causal`: no key after the query; `window`: only keys less than so many tokens away.
    `scale` defaults to 1/sqrt(head_dim). `within`: radii (Euclidean, lattice units) for `mass_within`, a share of the
    whole row, as `special_mass` is.

    Errors against exact arithmetic are about `eps * max|logit|`, for drift that times the row's spread; past 1024
    keys logits are made in float64 where moments are wanted, and float64 input is float64 throughout. No gradient
    passes. Raises `ValueError` or `TypeError` where inputs don't fit or are not finite. Time O(queries * keys *
    head_dim), a little more than attention itself; memory O(tokens). On CUDA, matrix products must not be rounded to
    TF32 (torch's default).

    >>> query = torch.zeros(1, 1, 4, 8)
    >>> found = attention_statistics(query, query, Lattice((4,)), causal=True)
    >>> found.entropy.exp().round(decimals=4).tolist(), found.drift[0, 0, :, 0].tolist()
    ([[[1.0, 2.0, 3.0, 4.0]]], [0.0, -0.5, -1.0, -1.5])
    """
    query, key = attention_inputs(query=query, key=key)
    fine = moments and positions is not None and key.ndim > 1 and key.shape[-2] > LONG
    attention = TiledAttention(query, key, mask, causal, window, scale, fine)
    places = Places(attention, positions, special)
    return _read(attention, None, places, moments, tuple(within))[1]


def attend_with_statistics(
    query: Float[Tensor, "*batch heads queries dim"],
    key: Float[Tensor, "*_ kv_heads keys dim"],
    value: Float[Tensor, "*_ kv_heads keys value_dim"],
    positions: Lattice | Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    *,
    window: int | None = None,
    moments: bool = True,
    special: Tensor | None = None,
    within: Sequence[float] = (),
) -> tuple[Float[Tensor, "*batch heads queries value_dim"], AttentionStatistics]:
    """Return attention applied to values, and its statistics, in one pass.

    `value` (..., kv_heads, keys, value_dim); the output (..., heads, queries, value_dim), of the value's type, is
    `scaled_dot_product_attention`'s up to rounding, zero in rows that may see no key. All else as in
    `attention_statistics`. Raises `ValueError` where a gradient would be lost. Cost: one pass of attention and about
    a third of one.

    >>> query, value = torch.zeros(1, 1, 3, 8), torch.tensor([[[[0.0], [3.0], [6.0]]]])
    >>> output, statistics = attend_with_statistics(query, query, value, causal=True)
    >>> output.flatten().tolist(), statistics.collision[0, 0, 1].item()
    ([0.0, 1.5, 3.0], 0.5)
    """
    query, key = attention_inputs(query=query, key=key)
    fine = moments and positions is not None and key.ndim > 1 and key.shape[-2] > LONG
    attention = TiledAttention(query, key, mask, causal, window, scale, fine)
    (value,) = attention_inputs(value=value)
    if not value.is_floating_point() or value.ndim < 3 or value.shape[-3:-1] != key.shape[-3:-1]:
        raise ValueError(
            f"a value of shape {tuple(value.shape)} and type {value.dtype} was given, but floating point of shape "
            f"{(*key.shape[:-1], 'value_dim')} is wanted, like the key."
        )
    try:
        value.expand(*attention.batch, *value.shape[-3:])
    except RuntimeError:
        raise ValueError(f"a value of shape {tuple(value.shape)} does not fit examples {attention.batch}.") from None
    if value.device != query.device:
        raise ValueError(f"a value on {value.device} and a query on {query.device} were given: move one to the other.")
    if torch.is_grad_enabled() and any(given.requires_grad for given in (query, key, value)):
        raise ValueError(
            "inputs that need gradients were given, but the output carries none: use torch.no_grad(), or "
            "attention_statistics beside scaled_dot_product_attention."
        )
    places = Places(attention, positions, special)
    output, statistics = _read(attention, attention.flat(value), places, moments, tuple(within))
    assert output is not None
    return output.to(value.dtype), statistics


def statistics_of(
    weights: Float[Tensor, "*batch heads queries keys"],
    positions: Lattice | Tensor | None = None,
    *,
    moments: bool = True,
    special: Tensor | None = None,
    within: Sequence[float] = (),
) -> AttentionStatistics:
    """Return the statistics of explicit maps (..., heads, queries, keys), as of those that aren't stored.

    Rows are normalised; one of zeros is a row that may see no key. `allowed` counts the weights that are not zero,
    and `logsumexp` is NaN: weights don't tell it. All else as in `attention_statistics`. Raises `ValueError` for
    weights that are negative or not finite. Cost O(queries keys): one pass over the maps.

    >>> statistics_of(torch.full((1, 2, 4), 0.25)).entropy.exp().tolist()
    [[4.0, 4.0]]
    """
    maps = TiledMaps(_doors.tensor("attention", weights, "weights (..., heads, queries, keys)"))
    statistics = _read(maps, None, Places(maps, positions, special), moments, tuple(within))[1]
    return replace(statistics, logsumexp=torch.full_like(statistics.entropy, math.nan))


def _read(
    attention: TiledAttention, value: Tensor | None, places: Places, moments: bool, within: tuple[float, ...]
) -> tuple[Tensor | None, AttentionStatistics]:
    """Go once through the tiles: sum in each, divide and combine at the end, where it costs one operation."""
    _doors.flag("moments", moments)
    landing = Displacements(attention, places, moments, within)
    found: list[list[Tensor]] = []
    with attention.full_precision():
        for tile in attention.tiles(landing.spare()):
            output = tile.total if value is None else torch.bmm(tile.weights, value[tile.heads, tile.keys])
            product = tile.spare[0]
            surprise = torch.mul(tile.weights, tile.logits, out=product).sum(-1)
            squares = torch.mul(tile.weights, tile.weights, out=product).sum(-1)
            found.append([output, tile.peak, tile.total, tile.allowed, surprise, squares, *landing.read(tile)])
    output, peak, total, allowed, surprise, squares, *sums = map(attention.joined, zip(*found, strict=True))
    empty = allowed == 0
    refuse_overflow(surprise, empty)
    special_mass, drift, diffusivity, near = landing.finish(total, sums)

    def rows_of(values: Tensor, blank: float = math.nan) -> Tensor:
        values = values.masked_fill(empty.view(*empty.shape, *(1,) * (values.ndim - 2)), blank)
        return values.reshape(*attention.rows, *values.shape[2:])

    statistics = AttentionStatistics(
        entropy=rows_of((total.log() - surprise / total * math.log(2)).clamp_min(0)),
        collision=rows_of(squares / total.square()),
        logsumexp=rows_of(peak * math.log(2) + total.log(), -math.inf),
        special_mass=rows_of(special_mass),
        allowed=allowed.reshape(attention.rows),
        drift=None if drift is None else rows_of(drift),
        diffusivity=None if diffusivity is None else rows_of(diffusivity),
        mass_within=None if near is None else rows_of(near),
    )
    return None if value is None else rows_of(output / total.unsqueeze(-1), 0.0), statistics
