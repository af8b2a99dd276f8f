"""Reads a Transformer's Flow, whoever wrote the Transformer, and leaves the model as it was.

Three kinds of attention are read: Hugging Face models through their registered attention interface,
`torch.nn.MultiheadAttention`, and any module that mixes its values through an attribute `attend`
(the small teachers). No module is found by its name. Where attention can't be had, it raises.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from .flow import Flow

# What an attention function may be given that changes the weights in a way not computed here.
_UNREAD = ("softcap", "s_aux", "sinks")
Rewrite = Callable[[int, Tensor, Tensor], Tensor]


class CaptureError(RuntimeError):
    """Attention or states could not be recorded; the message says why and what to do."""


@dataclass
class _Call:
    """One call of an attention function: where in the layer stack it happened, and its weights."""

    place: tuple["_Stack", int] | None
    weights: Tensor | None


class _Stack:
    """A container whose children run one after another, with what entered each and left the last."""

    def __init__(self, container: nn.Module):
        self.layers = list(container.children())
        self.entered: dict[int, Tensor] = {}
        self.left: Tensor | None = None

    def depth(self) -> int:
        return len(self.layers)


class Recording:
    """What `capture` has seen: one entry for each forward pass of the model."""

    def __init__(self, attention: str | None):
        self.kind = attention
        self._passes: list[Flow] = []

    def flow(self) -> Flow:
        """Return the Flow over all examples seen; raises `CaptureError` where there is none."""
        return self.joined(self._passes)

    @staticmethod
    def joined(passes: Sequence[Flow]) -> Flow:
        """Return one Flow over the examples of several."""
        if not passes:
            raise CaptureError("nothing was recorded: call the model inside `with capture(model) as recording`.")
        if len({(len(flow.states), flow.tokens, flow.heads) for flow in passes}) > 1:
            raise CaptureError(
                f"the forward passes had {sorted({flow.tokens for flow in passes})} tokens, so they make no one Flow: "
                "pad every batch to the same length, or capture one batch at a time."
            )
        return (
            passes[0]
            if len(passes) == 1
            else Flow(
                states=_join(flow.states for flow in passes),
                attention=_join(flow.attention for flow in passes),
                mask=torch.cat([flow.mask for flow in passes if flow.mask is not None]),
                causal=all(flow.causal for flow in passes),
                depths=passes[0].depths,
            )
        )


def _join(series) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*series, strict=True))


@contextmanager
def capture(model: nn.Module, attention: str | None = "weights") -> Iterator[Recording]:
    """Record states and attention of every forward pass made inside the `with` block.

    `attention` is "weights" (the full maps) or None (states only). `recording.flow()` afterwards
    is a `Flow`, detached, on the model's device; batches accumulate. `states[L]` is what leaves the
    last layer, before any final norm. The model's outputs stay what they were, and the model is
    left as it was, also after an exception. Raises `CaptureError` where no attention can be read
    (never an empty tuple). Memory: `L * batch * heads * tokens^2` values for the maps.

    >>> from pdelens.models import Configuration, Transformer
    >>> model = Transformer(Configuration(layers=2))
    >>> with capture(model) as recording:
    ...     _ = model(torch.zeros(3, 28, 28, dtype=torch.uint8))
    >>> recording.flow()
    Flow(2 layers, 3 examples, 49 tokens, 4 heads, width 64)
    """
    if attention not in ("weights", None):
        raise ValueError(f"attention={attention!r} was asked for: choose 'weights' or None.")
    recording = Recording(attention)
    with _attached(model, keep_weights=attention == "weights") as probe:
        probe.finished = recording._passes.append
        yield recording
    if attention and not recording._passes and probe.forwards:
        raise CaptureError(probe.reason())


def flow_of(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    attention: str | None = "weights",
) -> Flow:
    """Run a model on inputs, batch by batch and without gradients, and return its Flow on the CPU.

    `inputs` is one tensor, or tensors by argument name, whose first axis counts examples. The model
    is moved to `device` where one is given, and stays there.

    >>> from pdelens.models import Configuration, Transformer
    >>> flow_of(Transformer(Configuration(layers=2)), torch.zeros(5, 28, 28, dtype=torch.uint8), batch=2)
    Flow(2 layers, 5 examples, 49 tokens, 4 heads, width 64)
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    examples = {len(value) for value in named.values()}
    if len(examples) != 1 or 0 in examples:
        raise ValueError(f"inputs of {sorted(examples)} examples were given: all need the same number, at least one.")
    model = model if device is None else model.to(device)
    place = next(model.parameters()).device
    parts: list[Flow] = []
    for start in range(0, examples.pop(), batch):
        given = {name: value[start : start + batch].to(place) for name, value in named.items()}
        with torch.no_grad(), capture(model, attention) as recording:
            model(given[""]) if "" in given else model(**given)
        parts.append(recording.flow().to("cpu"))
    return Recording.joined(parts)


@contextmanager
def substitute_attention(model: nn.Module, attention: Sequence[Tensor]) -> Iterator[None]:
    """Run the model with given attention: layer l mixes its values by `attention[l]`.

    `attention[l]` has shape (batch, heads, queries, keys), or broadcasts to it. Everything else
    (values, residuals, feed-forward parts) stays the model's own: the causal test of whether an
    agreement of attention matters. Raises `CaptureError` where the model's attention can't be
    replaced, `ValueError` where shapes disagree. `nn.MultiheadAttention` is not supported.
    """

    def rewrite(layer: int, weights: Tensor, value: Tensor) -> Tensor:
        if layer >= len(attention):
            raise ValueError(f"{len(attention)} attentions were given, but the model has a layer {layer}.")
        given = attention[layer].to(device=value.device, dtype=value.dtype)
        try:
            given = given.expand(weights.shape)
        except RuntimeError:
            raise ValueError(
                f"attention[{layer}] has shape {tuple(given.shape)}, but {tuple(weights.shape)} is wanted."
            ) from None
        return given @ value

    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        raise CaptureError(
            "torch.nn.MultiheadAttention keeps its values to itself, so its attention can't be substituted: "
            "use a model with the attention interface or an `attend` attribute."
        )
    with _attached(model, keep_weights=True, rewrite=rewrite) as probe:
        yield
    if probe.forwards and not probe.calls_seen:
        raise CaptureError(probe.reason())


class _Probe:
    """Follows one model's forward passes: which layer is running, and what its attention was."""

    def __init__(self, model: nn.Module, keep_weights: bool, rewrite: Rewrite | None):
        self.model = model
        self.keep_weights = keep_weights
        self.rewrite = rewrite
        self.finished: Callable[[Flow], None] = lambda flow: None
        self.forwards = 0
        self.calls_seen = 0
        self.running: list[tuple[_Stack, int]] = []
        self.calls: list[_Call] = []
        self.mask: Tensor | None = None
        self.stacks: list[_Stack] = []
        self.sequence_first = False

    def begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.forwards += 1
        self.running, self.calls, self.mask = [], [], None
        for stack in self.stacks:
            stack.entered.clear()
            stack.left = None
        try:
            given = signature(module.forward).bind(*args, **kwargs).arguments
        except TypeError:
            return
        for name in ("attention_mask", "mask"):
            mask = given.get(name)
            if isinstance(mask, Tensor) and mask.ndim == 2:
                self.mask = mask.bool()
        padding = given.get("src_key_padding_mask")
        if isinstance(padding, Tensor):
            self.mask = ~padding.bool() if padding.dtype == torch.bool else padding == 0

    def end(self, module: nn.Module, args: tuple, output: Any) -> None:
        stack = self._chosen()
        if stack is None or self.rewrite is not None:
            self._forget()
            return
        calls: dict[int, list[_Call]] = {}
        for call in self.calls:
            if call.place is not None and call.place[0] is stack:
                calls.setdefault(call.place[1], []).append(call)
        layers = sorted(calls)
        states = [stack.entered[layer] for layer in layers]
        assert stack.left is not None
        states.append(stack.left)
        if self.sequence_first:
            states = [state.transpose(0, 1) for state in states]
        weights: list[Tensor] = []
        if self.keep_weights:
            for layer in layers:
                if len(calls[layer]) != 1:
                    raise CaptureError(
                        f"layer {layer} called attention {len(calls[layer])} times (cross-attention?), so its one map "
                        "is not defined: capture the encoder alone, or use attention=None."
                    )
                found = calls[layer][0].weights
                assert found is not None
                weights.append(found)
        causal = bool(weights) and weights[0].shape[-1] > 1 and all(not w.triu(1).any() for w in weights)
        flow = Flow(states=tuple(states), attention=tuple(weights), mask=self.mask, causal=causal)
        self._forget()
        self.finished(flow)

    def _forget(self) -> None:
        """Let go of this pass's tensors."""
        self.running, self.calls = [], []
        for stack in self.stacks:
            stack.entered.clear()
            stack.left = None

    def _chosen(self) -> _Stack | None:
        """Return the longest stack whose layers called attention."""
        used = {id(call.place[0]): call.place[0] for call in self.calls if call.place is not None}
        return max(
            used.values(),
            key=lambda stack: (stack.depth(), -self.stacks.index(stack)),
            default=None,
        )

    def reason(self) -> str:
        """Say why nothing was recorded."""
        name = type(self.model).__name__
        if self.calls_seen:
            return (
                f"{name} calls attention, but outside any ModuleList or Sequential of layers, so its depth is unknown: "
                "put the layers into one nn.ModuleList."
            )
        return (
            f"{name} ran, but no attention could be read: it neither uses transformers' attention interface, nor "
            "torch.nn.MultiheadAttention, nor modules with an `attend` attribute. Rewrite its attention in one of "
            "these ways, or use attention=None for the states alone."
        )

    def enter(self, stack: _Stack, layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            state = _first_state(args, kwargs)
            if state is not None:
                stack.entered[layer] = state.detach()
            self.running.append((stack, layer))

        return hook

    def leave(self, stack: _Stack, layer: int) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            self.running.pop()
            if layer == stack.depth() - 1:
                state = output if isinstance(output, Tensor) else _first_state(tuple(output), {})
                stack.left = None if state is None else state.detach()

        return hook

    def seen(self, weights: Tensor | None) -> int:
        """Note a call of attention; return its layer."""
        place = self.running[-1] if self.running else None
        self.calls.append(_Call(place, None if weights is None else weights.detach()))
        self.calls_seen += 1
        return place[1] if place is not None else self.calls_seen - 1

    def attend(self, original: Callable) -> Callable:
        """Return what replaces a module's `attend`."""

        def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            weights = None
            if self.keep_weights:
                weights = attention_weights(query, key, mask)
            layer = self.seen(weights)
            if self.rewrite is not None:
                assert weights is not None
                return self.rewrite(layer, weights, value)
            return original(query, key, value, mask)

        return attend

    def interface(self, base: Callable) -> Callable:
        """Return what stands in transformers' attention interface while recording."""

        def attend(module, query, key, value, attention_mask, scaling=None, is_causal=None, **kwargs):
            unread = [name for name in _UNREAD if kwargs.get(name) is not None]
            if unread and self.keep_weights:
                raise CaptureError(
                    f"{type(module).__name__} changes its attention weights by {', '.join(unread)}, which is not read "
                    "here: load the model with attn_implementation='eager' and output_attentions=True instead."
                )
            weights = None
            if self.keep_weights:
                causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
                mask = attention_mask
                if mask is None and causal and query.shape[-2] > 1:
                    mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
                keys = _repeat(key, query.shape[1])
                weights = attention_weights(query, keys, mask, scaling, kwargs.get("position_bias"))
            layer = self.seen(weights)
            if self.rewrite is not None:
                assert weights is not None
                values = _repeat(value, query.shape[1])
                return self.rewrite(layer, weights, values).transpose(1, 2).contiguous(), None
            return base(
                module,
                query,
                key,
                value,
                attention_mask,
                scaling=scaling,
                is_causal=is_causal,
                **kwargs,
            )

        return attend

    def multihead(self, module: nn.MultiheadAttention) -> tuple[Callable, Callable]:
        """Return the hooks that make a MultiheadAttention give its maps, and take them from it."""
        asked: list[bool] = []

        def before(module: nn.Module, args: tuple, kwargs: dict):
            self.sequence_first = not getattr(module, "batch_first", True)
            asked.append(kwargs.get("need_weights", True))
            if len(args) > 4:
                asked[-1], args = args[4], args[:4]
            return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

        def after(module: nn.Module, args: tuple, kwargs: dict, output: Any):
            mixed, weights = output
            self.seen(weights)
            # Who had asked for weights gets those of the default: averaged over heads.
            return mixed, weights.mean(1) if asked.pop() else None

        return before, after


def attention_weights(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return softmax attention's weights, (batch, heads, queries, keys).

    `mask` is True where a query may see a key, or is added to the logits where it is of a floating
    type; `scale` defaults to 1/sqrt(head width). A row that may see no key is all zeros.
    """
    logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias
    if mask is not None and mask.dtype == torch.bool:
        logits = logits.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        logits = logits + mask
    exact = torch.promote_types(logits.dtype, torch.float32)  # half precision is too coarse to normalise in
    return torch.softmax(logits.to(exact), dim=-1).nan_to_num(0.0).to(query.dtype)


def _repeat(heads: Tensor, wanted: int) -> Tensor:
    """Repeat key or value heads so that each query head has its own (grouped-query attention)."""
    return heads if heads.shape[1] == wanted else heads.repeat_interleave(wanted // heads.shape[1], dim=1)


def _first_state(args: tuple, kwargs: dict) -> Tensor | None:
    """Return the first (batch, tokens, width) tensor among a layer's arguments."""
    named = kwargs.get("hidden_states")
    for value in ([named] if isinstance(named, Tensor) else []) + list(args) + list(kwargs.values()):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return value
    return None


@contextmanager
def _attached(model: nn.Module, keep_weights: bool, rewrite: Rewrite | None = None) -> Iterator[_Probe]:
    """Attach a probe to a model; detach it whatever happens."""
    probe = _Probe(model, keep_weights, rewrite)
    with ExitStack() as undo:

        def hook(handle) -> None:
            undo.callback(handle.remove)

        hook(model.register_forward_pre_hook(probe.begin, with_kwargs=True))
        for container in model.modules():
            if isinstance(container, nn.ModuleList) or _is_layer_sequence(container):
                stack = _Stack(container)
                probe.stacks.append(stack)
                for number, layer in enumerate(stack.layers):
                    hook(layer.register_forward_pre_hook(probe.enter(stack, number), with_kwargs=True))
                    hook(layer.register_forward_hook(probe.leave(stack, number)))
        # The fused inference path of nn.TransformerEncoder never calls its attention module.
        undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                before, after = probe.multihead(module)
                hook(module.register_forward_pre_hook(before, with_kwargs=True))
                hook(module.register_forward_hook(after, with_kwargs=True))
            elif callable(vars(module).get("attend")):
                original: Any = module.attend
                vars(module)["attend"] = probe.attend(original)
                undo.callback(vars(module).__setitem__, "attend", original)
        if hasattr(model, "set_attn_implementation"):
            undo.enter_context(_interface(model, probe))
        hook(model.register_forward_hook(probe.end))
        yield probe


def _is_layer_sequence(module: nn.Module) -> bool:
    """Say whether a Sequential holds layers: children of one type, each with attention inside."""
    if not isinstance(module, nn.Sequential) or len({type(child) for child in module}) != 1:
        return False
    return all(
        any(isinstance(part, nn.MultiheadAttention) or "attend" in vars(part) for part in child.modules())
        for child in module
    )


@contextmanager
def _interface(model: Any, probe: _Probe) -> Iterator[None]:
    """Send a Hugging Face model's attention through the probe; restore every configuration."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    configurations = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {key: config._attn_implementation for key, config in configurations.items()}
    name = f"pdelens_{id(probe)}"  # its own name, so that recordings may overlap
    AttentionInterface.register(name, probe.interface(sdpa_attention_forward))
    AttentionMaskInterface.register(name, sdpa_mask)
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        for key, config in configurations.items():
            config._attn_implementation_internal = before[key]
        AttentionInterface._global_mapping.pop(name, None)
        AttentionMaskInterface._global_mapping.pop(name, None)
