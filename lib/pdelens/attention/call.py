"""One call of attention as it was made: queries, keys, values, and all that shapes its weights."""

from dataclasses import dataclass

import torch
from torch import Tensor


class CaptureError(RuntimeError):
    """Attention or states could not be recorded; the message says why and what to do.

    >>> from pdelens import capture
    >>> with capture(torch.nn.Linear(2, 2)) as recording:
    ...     pass
    >>> recording.flow()
    Traceback (most recent call last):
    pdelens.attention.call.CaptureError: nothing was recorded: call the model inside `with capture(model) as recording`.
    """


@dataclass(frozen=True)
class AttentionCall:
    """What an attention function was given, (batch, heads, tokens, head width) each.

    `mask` is True where a query may see a key, or is added to the logits where it is of a floating type; `bias` is
    added; `softcap` c turns logits s into `c tanh(s / c)`. Keys and values may have fewer heads than queries
    (grouped-query attention).
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None
    bias: Tensor | None = None
    softcap: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the logits are scaled products alone, under a mask of yes and no."""
        boolean = self.mask is None or self.mask.dtype == torch.bool
        return boolean and self.bias is None and self.softcap is None

    def values(self) -> Tensor:
        """Return the values with a head for each of the queries' heads."""
        return _repeated(self.value, self.query.shape[1])

    def weights(self) -> Tensor:
        """Return softmax attention's weights, (batch, heads, queries, keys); a row without a key is zeros."""
        key = _repeated(self.key, self.query.shape[1])
        logits = (
            self.query @ key.transpose(-2, -1) * (self.query.shape[-1] ** -0.5 if self.scale is None else self.scale)
        )
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.bias is not None:
            logits = logits + self.bias
        allowed = self.mask if self.mask is not None and self.mask.dtype == torch.bool else None
        if self.causal:
            past = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
            allowed = past if allowed is None else allowed & past
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        elif self.mask is not None:
            logits = logits + self.mask
        exact = torch.promote_types(logits.dtype, torch.float32)  # half precision is too coarse to normalise in
        weights = torch.softmax(logits.to(exact), dim=-1)
        if allowed is not None:
            weights = weights.masked_fill(~allowed.any(-1, keepdim=True), 0.0)
        return weights.to(self.query.dtype)


def _repeated(heads: Tensor, wanted: int) -> Tensor:
    """Repeat key or value heads so that each query head has its own (grouped-query attention)."""
    return heads if heads.shape[1] == wanted else heads.repeat_interleave(wanted // heads.shape[1], dim=1)
