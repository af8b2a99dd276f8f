"""Who may see whom, as the calls of attention themselves were told: padding, causality, and what goes beyond both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .runs import Seen

# Arguments that say which tokens are real; a module with one of the first kind means something else by "mask".
SELF_MASKS = ("src_key_padding_mask", "tgt_key_padding_mask", "attention_mask", "mask")
CROSS_MASKS = ("memory_key_padding_mask", "encoder_attention_mask")
# So low that, added to a logit, it leaves no weight: models hide keys by -1e4, -1e9, their type's lowest or -inf.
HIDDEN = -9999.0


def token_mask(
    given: Mapping[str, Any], known: Mapping[str, Parameter], names: Sequence[str], before: Tensor | None
) -> Tensor | None:
    """Return the (batch, tokens) mask among a module's arguments, or the one seen before."""
    for name in (name for name in names if name in known):
        if name not in given:
            return before
        mask = given[name]
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return before  # already widened to queries and keys: the module around it had the plain one
        if name.endswith("padding_mask"):
            return ~mask if mask.dtype == torch.bool else mask == 0
        additive = mask.is_floating_point() and bool((mask < 0).any())
        return mask > HIDDEN if additive else mask.bool()
    return before


@dataclass(frozen=True, eq=False)
class Sight:
    """Which tokens are real (rows and keys), whether no one sees the future, and each layer's rest, if there is any."""

    mask: Tensor | None
    key_mask: Tensor | None = None
    causal: bool = False
    visible: tuple[Tensor, ...] = ()


def sight_of(
    calls: Sequence[Seen], told: Tensor | None, told_keys: Tensor | None, maps: Sequence[Tensor] = ()
) -> Sight:
    """Return who may see whom in one row of layers.

    `told` and `told_keys` are what modules around the layers were told of real tokens: it counts where no real query
    looks at a padded key, since a model may be told of other tokens too, or not heed it. Otherwise the calls' own masks
    decide.
    """
    first = calls[0]
    batch, _, queries, keys = first.shape
    seen = {_key(call): _visible(call) for call in calls}
    rows = _fitting(told, (batch, queries), first.device)
    if first.cross:
        columns = first.real if first.real is not None else _fitting(told_keys, (batch, keys), first.device)
    else:
        columns = first.real if first.real is not None else rows
    if columns is None or not all(
        _heeded(one, causal, rows if first.cross else columns, columns, keys) for (_, causal), one in seen.items()
    ):
        columns = _columns(list(seen.values()), batch, first.cross)
    if not first.cross:
        rows = columns
    causal = not first.cross and keys > 1 and _blind_to_the_future(calls, seen, rows, maps)
    sight = Sight(rows, columns if first.cross else None, causal)
    if not maps:
        return sight
    usual = _usual(columns, causal, first)
    past = torch.ones(queries, keys, dtype=torch.bool, device=first.device).tril()
    whole = {key: past if one is None and key[1] else one for key, one in seen.items()}
    found = {key: usual if one is None else one & usual for key, one in whole.items()}
    beyond = keys > queries and not first.cross
    for one in found.values():
        off = one != usual
        beyond = beyond or bool((off if rows is None else off & rows[:, None, :, None]).any())
    visible = tuple(found[_key(call)].expand(batch, -1, queries, keys) for call in calls) if beyond else ()
    return Sight(sight.mask, sight.key_mask, causal, visible)


def _key(call: Seen) -> tuple[int, bool]:
    return id(call.mask), call.causal


def _visible(call: Seen) -> Tensor | None:
    """Return which query may see which key (broadcastable to batch, heads, queries, keys).

    None where no mask was given: each sees all, or in a causal call the past; a triangle for that would take memory
    that grows with the square of the length, which statistics do without.
    """
    visible = call.mask
    if visible is None:
        return None
    visible = visible if visible.dtype == torch.bool else visible > HIDDEN
    visible = visible.reshape((1,) * (4 - visible.ndim) + tuple(visible.shape)).expand(-1, -1, call.shape[2], -1)
    return visible.tril() if call.causal else visible


def _fitting(mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    """Return a mask where it is one of these tokens."""
    return mask.to(device) if mask is not None and tuple(mask.shape) == shape else None


def _heeded(visible: Tensor | None, causal: bool, rows: Tensor | None, columns: Tensor, keys: int) -> bool:
    """Say whether no real query looks at a padded key."""
    columns = pad(columns, (0, keys - columns.shape[1]), value=True)  # keys that a module added are always seen
    if bool(columns.all()):
        return True
    if visible is None and causal:  # a padded key is seen by every later query
        earlier = (~columns).cumsum(1)[:, : None if rows is None else rows.shape[1]] > 0
        return not bool((earlier if rows is None else earlier & rows).any())
    looked = ~columns[:, None, None, :] if visible is None else visible & ~columns[:, None, None, :]
    return not bool((looked if rows is None else looked & rows[:, None, :, None]).any())


def _columns(seen: Sequence[Tensor | None], batch: int, cross: bool) -> Tensor | None:
    """Return which keys any query sees; None where all are, or might be: a causal row's last key has no other."""
    masks = [one for one in seen if one is not None]
    if len(masks) < len(seen) or not (cross or any(bool(one.triu(1).any()) for one in masks)):
        return None
    looked = torch.stack([one.any(1).any(1).expand(batch, -1) for one in masks]).any(0)
    return None if bool(looked.all()) else looked


def _blind_to_the_future(
    calls: Sequence[Seen], seen: dict[tuple[int, bool], Tensor | None], rows: Tensor | None, maps: Sequence[Tensor]
) -> bool:
    """Say whether no real query of any layer may see a later key."""
    _, _, queries, keys = calls[0].shape
    if not all(call.known for call in calls):
        return bool(maps) and all(not bool(weights.triu(1).any()) for weights in maps)
    if queries != keys:
        return False
    for (_, causal), one in seen.items():
        if causal:
            continue
        if one is None:
            return False
        ahead = one.triu(1)
        if bool((ahead if rows is None else ahead & rows[:, None, :, None]).any()):
            return False
    return True


def _usual(columns: Tensor | None, causal: bool, call: Seen) -> Tensor:
    """Return who sees whom by padding and causality alone."""
    batch, _, queries, keys = call.shape
    if columns is None:
        columns = torch.ones(batch, keys, dtype=torch.bool, device=call.device)
    columns = pad(columns, (0, keys - columns.shape[1]), value=True)  # keys that a module added are always seen
    usual = columns[:, None, None, :].expand(batch, 1, queries, keys)
    return usual.tril() if causal else usual
