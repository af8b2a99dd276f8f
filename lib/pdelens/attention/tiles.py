"""Softmax attention read tile by tile: some queries against all keys that they may see, never the whole map.

A tile is small enough for the cache of a CPU, and of fixed size, so whatever is summed over keys needs memory in
proportion to tokens, not to their square. Everything is float32, or float64 for float64 input. Logits are kept in
base 2 (`exp2` is several times faster than `exp` on a CPU) and less their row's largest, so that no weight overflows.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import _doors
from ..flow import finite

# Weights in a tile: on a CPU it stays in its caches, an accelerator wants large pieces.
TILE_ON_CPU, TILE_ELSEWHERE = 2**18, 2**24
# Queries in a tile, at least: fewer make slow matrix products.
SMALLEST_TILE = 64
# The logit of a key that may not be seen: finite, because 0 * -inf would be NaN.
HIDDEN = -1e30


@dataclass
class Tile:
    """Some queries of some heads against the keys they may see, (heads, queries, keys).

    `weights = exp2(logits)` sum to `total` along a row, and `logits` are in bits less their row's `peak`. `spare` are
    buffers of the same shape; they, and the tile's own, are overwritten by the next tile.
    """

    heads: slice
    queries: slice
    keys: slice
    logits: Tensor
    weights: Tensor
    peak: Tensor
    total: Tensor
    allowed: Tensor
    spare: list[Tensor]


class TiledAttention:
    """Queries and keys, checked, with all leading axes and heads in one: `query` (heads, queries, head_dim).

    `batch` is the shape of the leading axes and `heads` the number of heads of one example; `count` that of all;
    `rows` is the shape of what is known of each row. `fine` multiplies queries and keys in float64, since a large
    logit rounded to float32 changes its weight by more than float32 could. `mask` as in `attention_statistics`.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        fine: bool = False,
    ):
        self.batch = _check(query, key)
        self.heads, self.queries, width = query.shape[-3:]
        self.keys = key.shape[-2]
        self.rows = (*self.batch, self.heads, self.queries)
        if (causal or window is not None) and self.queries != self.keys:
            raise ValueError(
                f"{self.queries} queries and {self.keys} keys were given with causal={causal}, window={window}: both "
                "need as many queries as keys; state which keys may be seen as a mask instead."
            )
        _doors.flag("causal", causal)
        if window is not None:
            _doors.whole("window", window)
        if scale is not None:
            _doors.real("scale", scale)
        self.causal, self.window = causal, window
        self.exact = torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32)
        self.device = query.device
        bits = math.log2(math.e) * (width**-0.5 if scale is None else scale)
        self.count = math.prod(self.batch) * self.heads
        self.product = torch.float64 if fine else self.exact
        self.query = self.flat(query.detach().to(self.product) * bits, self.product)
        self.key = self.flat(key.detach(), self.product)
        self.mask, self.padding = self._checked_mask(mask)

    def flat(self, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return (..., kv_heads, tokens, width) as (all heads, tokens, width), each query head with its own."""
        *_, heads, tokens, width = value.shape
        value = value.to(dtype or self.exact).expand(*self.batch, heads, tokens, width).unsqueeze(-3)
        grouped = value.expand(*self.batch, heads, self.heads // heads, tokens, width)
        return grouped.reshape(-1, tokens, width)

    def tiles(self, spare: int = 1) -> Iterator[Tile]:
        """Yield the tiles, all heads of some queries before the queries before them.

        The last queries come first: causal ones see the most keys, so whatever is needed for a tile fits later where
        it was before, and memory doesn't scatter.
        """
        height, group = self._sizes()
        store = [self.empty(group * height * self.keys) for _ in range(2 + spare)]
        if self.product != self.exact:
            store.append(self.query.new_empty(len(store[0])))
        shape, views = (), store
        for start in reversed(range(0, self.queries, height)):
            queries = slice(start, min(start + height, self.queries))
            keys = self._reach(queries)
            known: tuple | None = None
            for first in range(0, self.count, group):
                heads = slice(first, min(first + group, self.count))
                wanted = (heads.stop - first, queries.stop - start, keys.stop - keys.start)
                if wanted != shape:
                    shape, views = wanted, [values[: math.prod(wanted)].view(wanted) for values in store]
                logits, weights, *others = views
                product = others.pop() if self.product != self.exact else logits
                known = self._logits(heads, queries, keys, product, known)
                peak = product.amax(-1, keepdim=True)
                product.sub_(peak)
                torch.exp2(logits if product is logits else logits.copy_(product), out=weights)
                peak, allowed = peak.squeeze(-1).to(self.exact), known[2].expand(shape[:2])
                yield Tile(heads, queries, keys, logits, weights, peak, weights.sum(-1), allowed, others)

    def joined(self, found: Sequence[Tensor]) -> Tensor:
        """Return what was found in each tile, (heads, queries, ...), as one tensor of all rows."""
        _, group = self._sizes()
        groups = -(-self.count // group)
        pieces = list(found)
        if not pieces:
            return self.empty(self.count, self.queries)
        return torch.cat([torch.cat(pieces[i : i + groups]) for i in reversed(range(0, len(pieces), groups))], 1)

    def _sizes(self) -> tuple[int, int]:
        """Return how many queries and how many heads make a tile."""
        budget = TILE_ON_CPU if self.device.type == "cpu" else TILE_ELSEWHERE
        height = max(1, min(self.queries, max(budget // self.keys, SMALLEST_TILE)))
        return height, max(1, min(self.count, budget // (height * self.keys)))

    def full_precision(self) -> AbstractContextManager:
        """Return the context to compute in: no automatic half precision, whatever is set around."""
        return torch.autocast(self.device.type, enabled=False)

    def examples(self, heads: slice) -> Tensor:
        """Return which example each of some heads belongs to."""
        return torch.arange(heads.start, heads.stop, device=self.device) // self.heads

    def empty(self, *shape: int) -> Tensor:
        """Return a tensor of the exact type on the attention's device."""
        return torch.empty(shape, dtype=self.exact, device=self.device)

    def _logits(self, heads: slice, queries: slice, keys: slice, out: Tensor, known: tuple | None) -> tuple:
        """Write the logits in bits; return what of the mask was read, `known` to the same queries' other heads."""
        which = self._which(heads)
        if known is None or which is None or which != known[0]:
            known = (which, *self._bias(heads, queries, keys))
        torch.bmm(self.query[heads, queries], self.key[heads, keys].transpose(1, 2), out=out)
        if known[1] is not None:
            out.add_(known[1])
        return known

    def _reach(self, queries: slice) -> slice:
        """Return the keys that any of some queries may see."""
        reach = self.keys if self.window is None else self.window - 1
        last = queries.stop if self.causal else min(self.keys, queries.stop + reach)
        return slice(max(0, queries.start - reach), last)

    def _inside(self, queries: slice, keys: slice) -> Tensor | None:
        """Return which query may see which key as causality and window have it, (queries, keys)."""
        if not self.causal and self.window is None:
            return None
        query = torch.arange(queries.start, queries.stop, device=self.device)[:, None]
        past = query - torch.arange(keys.start, keys.stop, device=self.device)
        inside = past >= 0 if self.causal else torch.ones_like(past, dtype=torch.bool)
        return inside if self.window is None else inside & (past.abs() < self.window)

    def _which(self, heads: slice) -> tuple | None:
        """Return what of the mask some heads read; None where several examples' are read at once."""
        if self.mask is None or self.mask.shape[:2] == (1, 1):
            return (0, 0)
        if heads.stop - heads.start > 1:
            return None
        example, head = divmod(heads.start, self.heads)
        return (example if self.mask.shape[0] > 1 else 0, head if self.mask.shape[1] > 1 else 0)

    def _bias(self, heads: slice, queries: slice, keys: slice) -> tuple:
        """Return what masks add to the logits, and how many keys each query may see."""
        inside = self._inside(queries, keys)
        if self.mask is None and inside is not None:
            return self._hiding(inside), inside.sum(-1)
        if self.mask is None:
            return None, torch.tensor(keys.stop - keys.start, device=self.device)
        rows = queries if self.mask.shape[2] > 1 else slice(None)
        which = self._which(heads)
        if which is not None:
            mask = self.mask[which][None, rows, keys]
        else:
            example = self.examples(heads) if self.mask.shape[0] > 1 else 0
            head = torch.arange(heads.start, heads.stop, device=self.device) % self.heads
            mask = self.mask[example, head if self.mask.shape[1] > 1 else 0, rows, keys]
        if mask.dtype == torch.bool:
            seen = mask if inside is None else mask & inside
            return self._hiding(seen), seen.sum(-1)
        # What is added may be the lowest number of its type, by custom instead of -inf.
        seen = mask > torch.finfo(mask.dtype).min
        seen = seen if inside is None else seen & inside
        return torch.where(seen, mask.to(self.exact) * math.log2(math.e), HIDDEN), seen.sum(-1)

    def _hiding(self, seen: Tensor) -> Tensor:
        return torch.zeros(seen.shape, dtype=self.exact, device=self.device).masked_fill_(~seen, HIDDEN)

    def _checked_mask(self, mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the mask as (examples | 1, heads | 1, queries | 1, keys), and real queries (examples | 1, queries)."""
        if mask is None:
            return None, None
        mask = _doors.tensor("mask", mask, "booleans, True where a key may be seen,")
        padding, full = (*self.batch, self.keys), (*self.rows, self.keys)
        wanted = padding if mask.ndim == len(padding) else full
        if mask.ndim != len(wanted) or any(
            size not in (1, want) for size, want in zip(mask.shape, wanted, strict=True)
        ):
            raise ValueError(
                f"a mask of shape {tuple(mask.shape)} was given, but {padding} (padding), or {full} or what broadcasts "
                "to it, is wanted: a mask of all examples and heads is mask[None, None]."
            )
        if mask.device != self.device:
            raise ValueError(f"a mask on {mask.device} and a query on {self.device} were given: move one.")
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise TypeError(f"a mask of type {mask.dtype} was given: boolean, True where a key may be seen, is wanted.")
        if mask.is_floating_point() and bool((mask.isnan() | (mask == math.inf)).any()):
            raise ValueError("the mask holds NaN or inf: what is added to the logits must be finite or -inf.")
        mask = mask.detach()
        rest = mask.shape[len(self.batch) : -1] if wanted is full else (1, 1)
        if any(size > 1 for size in mask.shape[: len(self.batch)]):
            mask = mask.expand(*self.batch, *mask.shape[len(self.batch) :])
        mask = mask.reshape(-1, *rest, mask.shape[-1]).expand(-1, -1, -1, self.keys)
        is_tokens = wanted is padding and mask.dtype == torch.bool and self.queries == self.keys
        return mask, mask[:, 0, 0] if is_tokens else None


class TiledMaps(TiledAttention):
    """Explicit maps (..., heads, queries, keys), read as if their logarithms were logits."""

    def __init__(self, weights: Tensor):
        if not weights.is_floating_point() or weights.ndim < 3 or weights.numel() == 0:
            raise ValueError(
                f"attention of shape {tuple(weights.shape)} and type {weights.dtype} was given, but floating point of "
                "shape (..., heads, queries, keys) is wanted."
            )
        if not finite(weights) or bool((weights < 0).any()):
            raise ValueError("attention holds values that are negative or not finite: weights of a softmax are wanted.")
        self.rows, self.keys = tuple(weights.shape[:-1]), weights.shape[-1]
        *self.batch, self.heads, self.queries = self.rows
        self.batch = tuple(self.batch)
        self.count = math.prod(self.batch) * self.heads
        self.causal, self.window, self.mask = False, None, None
        self.exact, self.device = torch.promote_types(weights.dtype, torch.float32), weights.device
        self.product = self.exact
        self.maps = weights.detach().reshape(-1, self.queries, self.keys)

    def _logits(self, heads: slice, queries: slice, keys: slice, out: Tensor, known: tuple | None) -> tuple:
        given = self.maps[heads, queries]
        torch.log2(given.to(self.exact), out=out).clamp_min_(HIDDEN)
        return None, None, (given > 0).sum(-1)


def attention_inputs(**given: Any) -> tuple[Tensor, ...]:
    """Return queries, keys or values by their names as tensors."""
    return tuple(_doors.tensor(name, value, "(..., heads, tokens, head_dim)") for name, value in given.items())


def _check(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """Raise where queries and keys don't fit; return the shape of their leading axes."""
    for name, value in (("query", query), ("key", key)):
        if not value.is_floating_point():
            raise TypeError(f"a {name} of type {value.dtype} was given, but floating point is wanted: use .float().")
        if value.ndim < 3 or value.shape[-1] == 0:
            raise ValueError(
                f"a {name} of shape {tuple(value.shape)} was given: (..., heads, tokens, head_dim) is wanted."
            )
    given = f"a query of shape {tuple(query.shape)} and a key of shape {tuple(key.shape)} were given"
    if 0 in (*query.shape, *key.shape):
        raise ValueError(f"{given}: at least one example, head, query and key is wanted.")
    if query.device != key.device:
        raise ValueError(f"a query on {query.device} and a key on {key.device} were given: move one to the other.")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"{given}: their head widths (last axis) must agree.")
    if query.shape[-3] % key.shape[-3]:
        raise ValueError(
            f"{given}: the query's {query.shape[-3]} heads must be a multiple of the key's {key.shape[-3]} (axis -3)."
        )
    try:
        batch = tuple(torch.broadcast_shapes(query.shape[:-3], key.shape[:-3]))
    except RuntimeError:
        raise ValueError(f"{given}: the axes before their heads must agree or broadcast.") from None
    for name, value in (("query", query), ("key", key)):
        if not finite(value):
            raise ValueError(f"the {name} holds values that are not finite: look at the layer before it.")
    return batch


def refuse_overflow(sums: Tensor, empty: Tensor) -> None:
    """Raise where sums over keys are not finite in rows that are not empty: their logits overflowed."""
    if not bool((sums.isfinite() | empty).all()):
        raise ValueError("logits are not finite: query times key times scale overflows; look at their size.")
