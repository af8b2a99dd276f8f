"""Puts given attention maps into a model while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from .call import AttentionCall, CaptureError
from .hooks import hooked


@contextmanager
def substitute_attention(
    model: nn.Module, attention: Sequence[Tensor], *, layers: Sequence[int] | None = None
) -> Iterator[None]:
    """Run the model with given attention: layer l mixes its values by `attention[l]`.

    `attention[l]` has shape (batch, heads, queries, keys), or broadcasts to it; rows should sum to 1. With `layers`
    only those are given it: the others compute their own from the states that the change has reached, and their entry
    in `attention` is not looked at. Everything else (values, residuals, feed-forward parts) stays the model's own: the
    causal test of whether an agreement of attention matters. Raises `CaptureError` where the model's attention can't be
    replaced, `ValueError` where shapes disagree or a layer has no map. `nn.MultiheadAttention` is not supported. Cost:
    the full map of every given layer, one product each.

    >>> import torch
    >>> from pdelens.models import Configuration, Transformer
    >>> model, pictures = Transformer(Configuration(layers=2)), torch.zeros(3, 28, 28, dtype=torch.uint8)
    >>> with substitute_attention(model, [torch.full((49, 49), 1 / 49)] * 2, layers=[1]):
    ...     model(pictures).shape
    torch.Size([3, 10])
    """
    chosen = None if layers is None else set(layers)

    def rewrite(layer: int, call: AttentionCall) -> Tensor:
        if chosen is not None and layer not in chosen:
            return call.weights() @ call.values()
        if layer >= len(attention):
            raise ValueError(f"{len(attention)} attentions were given, but the model has a layer {layer}.")
        given = attention[layer].to(device=call.value.device, dtype=call.value.dtype)
        batch, heads, queries, _ = call.query.shape
        wanted = (batch, heads, queries, call.key.shape[-2])
        try:
            given = given.expand(wanted)
        except RuntimeError:
            raise ValueError(f"attention[{layer}] has shape {tuple(given.shape)}, but {wanted} is wanted.") from None
        return given @ call.values()

    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        raise CaptureError(
            "torch.nn.MultiheadAttention keeps its values to itself, so its attention can't be substituted: "
            "use a model with the attention interface or an `attend` attribute."
        )
    with hooked(model, lambda *_: (None, None), rewrite=rewrite, states=False) as hooks:
        yield
    if hooks.forwards and not hooks.calls_seen:
        raise CaptureError(hooks.reason())
