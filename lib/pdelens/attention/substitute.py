"""Puts given attention maps into a model while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from .. import _doors
from .call import AttentionCall, CaptureError
from .hooks import hooked
from .recording import fits
from .runs import Run, Seen


class _Rewrite:
    """Mixes values by given maps: the n-th self-attention of a pass by the n-th map."""

    def __init__(self, attention: Sequence[Tensor], layers: Sequence[int] | None, which: str | None):
        self.attention, self.which = attention, which
        self.chosen = None if layers is None else set(layers)
        self.name: str | None = None
        self.pass_: Run | None = None
        self.met = 0
        self.asked: set[int] = set()
        self.exact = False  # whether `which` is a stack's whole name

    def __call__(self, seen: Seen, call: AttentionCall) -> Tensor | None:
        run = seen.path[0].run.head if seen.path else None
        name = (run.stack.name if run else "") + " cross" * seen.cross
        if not (name == self.which if self.exact else fits(name, self.which)):
            return None
        if self.name not in (None, name):
            raise CaptureError(
                f"maps were given, but the model attends in {self.name!r} and in {name!r}: say which with "
                f"which={name!r}."
            )
        if self.name is None or run is None or run is not self.pass_:
            self.name, self.pass_, self.met = name, run, 0 if run else self.met
        layer, self.met = self.met, self.met + 1
        self.asked.add(layer)
        if self.chosen is not None and layer not in self.chosen:
            return None
        if layer >= len(self.attention):
            raise ValueError(f"{len(self.attention)} attentions were given, but the model has a layer {layer}.")
        given = self.attention[layer].to(device=call.value.device, dtype=call.value.dtype)
        batch, heads, queries, _ = call.query.shape
        wanted = (batch, heads, queries, call.key.shape[-2])
        try:
            given = given.expand(wanted)
        except RuntimeError:
            raise ValueError(f"attention[{layer}] has shape {tuple(given.shape)}, but {wanted} is wanted.") from None
        return given @ call.values()


def _map(layer: int, given: Tensor) -> Tensor:
    """Return a map whose rows are distributions; a row of zeros is padding's."""
    given = _doors.tensor(f"attention[{layer}]", given, "a map")
    if not bool((given >= 0).all()):
        raise ValueError(f"attention[{layer}] has weights that are negative or NaN: each row is a distribution.")
    rows = given.sum(-1)
    if not bool(((rows - 1).abs() < 1e-2).logical_or(rows == 0).all()):
        raise ValueError(f"attention[{layer}] has rows that do not sum to 1: each row is a distribution.")
    return given


@contextmanager
def substitute_attention(
    model: nn.Module, attention: Sequence[Tensor], *, layers: Sequence[int] | None = None, which: str | None = None
) -> Iterator[None]:
    """Run the model with given attention: layer l mixes its values by `attention[l]`.

    `attention[l]` has shape (batch, heads, queries, keys), or broadcasts to it; each row is a distribution. With
    `layers` only those are given it: the others compute their own from the states that the change has reached, and
    their entry in `attention` is not looked at. Self-attention alone is replaced; `which` as in `Recording.flow` names
    the stack where the model has several ("decoder"), or its cross-attention ("cross"). Everything else (values,
    residuals, feed-forward parts) stays the model's own: the causal test of whether an agreement of attention matters.
    Raises `CaptureError` where the model's attention can't be replaced or several stacks attend, `ValueError` where
    shapes disagree or a layer has no map. `nn.MultiheadAttention` is not supported. Cost: the full map of every given
    layer, one product each.

    >>> import torch
    >>> from pdelens.models import Configuration, Transformer
    >>> model, pictures = Transformer(Configuration(layers=2)), torch.zeros(3, 28, 28, dtype=torch.uint8)
    >>> with substitute_attention(model, [torch.full((49, 49), 1 / 49)] * 2, layers=[1]):
    ...     model(pictures).shape
    torch.Size([3, 10])
    """
    _doors.is_a("model", model, nn.Module, "a torch module")
    _doors.layers(layers)
    _doors.is_a("which", which, (str, type(None)), "a stack's name")
    _doors.is_a("attention", attention, (tuple, list), "one map a layer")
    unread = set() if layers is None else {layer for layer in range(len(attention)) if layer not in layers}
    attention = [each if layer in unread else _map(layer, each) for layer, each in enumerate(attention)]
    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        raise CaptureError(
            "torch.nn.MultiheadAttention keeps its values to itself, so its attention can't be substituted: "
            "use a model with the attention interface or an `attend` attribute."
        )
    rewrite = _Rewrite(attention, layers, which)
    with hooked(model, lambda *_: (None, None), rewrite=rewrite, states=False) as hooks:
        rewrite.exact = any(which in (stack.name, f"{stack.name} cross") for stack in hooks.stacks)
        yield
    beyond = sorted((rewrite.chosen or set()) - rewrite.asked)
    surplus = layers is None and len(rewrite.attention) > len(rewrite.asked)
    if rewrite.asked and (beyond or surplus):
        raise ValueError(
            f"maps for {f'layer {beyond[0]}' if beyond else f'{len(rewrite.attention)} layers'} were given, but "
            f"{rewrite.name!r} has {len(rewrite.asked)} layers."
        )
    if hooks.forwards and (not hooks.calls_seen or rewrite.name is None):
        if hooks.calls_seen:
            raise CaptureError(f"no attention was replaced: which={which!r} fits no stack that attends.")
        raise CaptureError(hooks.reason(type(model).__name__))
