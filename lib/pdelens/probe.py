"""Follows a model's forward passes: which layer is running, and what its attention was given.

Three kinds of attention are met: Hugging Face models through their registered attention interface,
`torch.nn.MultiheadAttention`, and any module that mixes its values through an attribute `attend`
(the small teachers). No module is found by its name. What is done with each call of attention is
the reader's matter (see `capture`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from .attention_call import AttentionCall, CaptureError, multihead_call


@dataclass
class Stack:
    """A container whose children run one after another: what entered each and left the last, which tokens are real."""

    name: str
    depth: int
    chosen: tuple[int, ...]
    entered: dict[int, Tensor] = field(default_factory=dict)
    left: Tensor | None = None
    mask: Tensor | None = None
    key_mask: Tensor | None = None

    def clear(self) -> None:
        """Let go of a pass's tensors."""
        self.entered = {}
        self.left = self.mask = self.key_mask = None


@dataclass(frozen=True)
class Seen:
    """One call of attention: the layers running around it, outermost first, and what the reader kept."""

    path: tuple[tuple[Stack, int], ...]
    kept: Any
    causal: bool


# What is kept of a call, and the mixed values if they came with it: of (path, call, the module's own weights where it
# gives no call, whether mixed values are of use).
Reader = Callable[[tuple[tuple[Stack, int], ...], AttentionCall | None, Tensor | None, bool], tuple[Any, Tensor | None]]
# What replaces the mixing of values: (layer, call) -> mixed values, (batch, heads, queries, head width).
Rewrite = Callable[[int, AttentionCall], Tensor]


class Probe:
    """Follows one model; after each forward pass `finished` gets the stacks that attended, with each layer's calls."""

    def __init__(self, model: nn.Module, read: Reader, rewrite: Rewrite | None, states: bool, maps: bool):
        self.model, self.read, self.rewrite, self.states, self.needs_maps = model, read, rewrite, states, maps
        self.finished: Callable[[list[tuple[Stack, dict[int, list[Seen]]]]], None] = lambda stacks: None
        self.forwards = self.calls_seen = 0
        self.running: list[tuple[Stack, int]] = []
        self.calls: list[Seen] = []
        self.stacks: list[Stack] = []
        self.sequence_first = False

    def begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Start a forward pass."""
        self.forwards += 1
        self.running, self.calls = [], []
        for stack in self.stacks:
            stack.clear()

    def end(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Hand over what the pass left, and let go of it."""
        found, self.calls = _by_stack(self.calls), []
        if not found:
            # No attention could be read: there are still states, of the longest row of layers.
            ran = [stack for stack in self.stacks if stack.entered and stack.left is not None]
            found = [
                (stack, {layer: [] for layer in stack.chosen}) for stack in sorted(ran, key=lambda s: -s.depth)[:1]
            ]
        self.finished(found)
        for stack in self.stacks:
            stack.clear()

    def masks(self, stacks: list[Stack]) -> Callable:
        """Return the hook of a module around some stacks: it reads which tokens are real.

        The innermost module that is told decides, so a decoder's mask is its own and not the encoder's.
        """

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            try:
                given = signature(module.forward).bind(*args, **kwargs).arguments
            except TypeError:
                return
            for stack in stacks:
                stack.mask = _token_mask(given, _SELF_MASKS, stack.mask)
                stack.key_mask = _token_mask(given, _CROSS_MASKS, stack.key_mask)

        return hook

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

    def enter(self, stack: Stack, layer: int) -> Callable:
        """Return the hook before a layer."""

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            state = _first_state(args, kwargs) if self.states and layer in stack.chosen else None
            if state is not None:
                stack.entered[layer] = state.detach()
            self.running.append((stack, layer))

        return hook

    def leave(self, stack: Stack, layer: int) -> Callable:
        """Return the hook after a layer."""

        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            self.running.pop()
            if self.states and layer == max(stack.chosen, default=-1):
                state = output if isinstance(output, Tensor) else _first_state(tuple(output), {})
                stack.left = None if state is None else state.detach()

        return hook

    def seen(
        self, call: AttentionCall | None, weights: Tensor | None = None, mix: bool = False
    ) -> tuple[int, Tensor | None]:
        """Note a call of attention; return its layer, and the mixed values if the reader made them on its way."""
        path = tuple(self.running)
        layer = path[0][1] if path else self.calls_seen
        self.calls_seen += 1
        mixed = None
        if any(number in stack.chosen for stack, number in path):
            kept, mixed = self.read(path, call, weights, mix)
            self.calls.append(Seen(path, kept, call is not None and call.causal))
        return layer, mixed

    def attend(self, original: Callable) -> Callable:
        """Return what replaces a module's `attend`."""

        def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            call = AttentionCall(query, key, value, mask)
            layer, _ = self.seen(call)
            return original(query, key, value, mask) if self.rewrite is None else self.rewrite(layer, call)

        return attend

    def interface(self, base: Callable) -> Callable:
        """Return what stands in transformers' attention interface while recording."""

        def attend(module, query, key, value, attention_mask, scaling=None, is_causal=None, **kwargs):
            unread = [name for name in _UNREAD if kwargs.get(name) is not None]
            if unread and self.needs_maps:
                raise CaptureError(
                    f"{type(module).__name__} changes its attention weights by {', '.join(unread)}, which is not read "
                    "here: load the model with attn_implementation='eager' and output_attentions=True instead."
                )
            causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
            call = AttentionCall(
                query,
                key,
                value,
                attention_mask,
                causal=attention_mask is None and bool(causal) and query.shape[-2] > 1,
                scale=scaling,
                bias=kwargs.get("position_bias"),
                softcap=kwargs.get("softcap"),
            )
            # Dropout and gradients go through the kernel that was meant for them.
            tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
            layer, mixed = self.seen(call, mix=call.plain and not kwargs.get("dropout") and not tracked)
            if self.rewrite is not None:
                mixed = self.rewrite(layer, call)
            if mixed is not None:
                return mixed.transpose(1, 2).contiguous(), None
            if call.softcap is not None:
                # The fused kernel has no soft cap; its own explicit form does.
                mixed = call.weights() @ call.values()
                return mixed.transpose(1, 2).contiguous(), None
            return base(module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **kwargs)

        return attend

    def multihead(self, module: nn.MultiheadAttention) -> tuple[Callable, Callable]:
        """Return the hooks that make a MultiheadAttention give its maps, and take them from it."""
        asked: list[bool] = []

        def before(module: Any, args: tuple, kwargs: dict):
            self.sequence_first = not getattr(module, "batch_first", True)
            names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            asked.append(given.get("need_weights", True))
            if not self.needs_maps:
                self.seen(multihead_call(module, given))
                return None
            return (), {**given, "need_weights": True, "average_attn_weights": False}

        def after(module: nn.Module, args: tuple, kwargs: dict, output: Any):
            wanted = asked.pop()
            if not self.needs_maps:
                return None
            mixed, weights = output
            self.seen(None, weights)
            # Who had asked for weights gets those of the default: averaged over heads.
            return mixed, weights.mean(1) if wanted else None

        return before, after


def _by_stack(calls: list[Seen], level: int = 0) -> list[tuple[Stack, dict[int, list[Seen]]]]:
    """Group calls by the outermost stack whose layers all attend alike: once, or twice with cross-attention.

    What lies inside such a layer (T5 keeps its sublayers in a list of their own) is not taken apart.
    """
    groups: dict[int, list[Seen]] = {}
    for call in calls:
        if len(call.path) > level:
            groups.setdefault(id(call.path[level][0]), []).append(call)
    found = []
    for group in groups.values():
        stack = group[0].path[level][0]
        layers: dict[int, list[Seen]] = {layer: [] for layer in stack.chosen}
        for call in group:
            layers.setdefault(call.path[level][1], []).append(call)
        counts = {len(layers[layer]) for layer in stack.chosen}
        deeper = _by_stack(group, level + 1)
        if (len(counts) == 1 and counts <= {1, 2}) or not deeper:
            found.append((stack, layers))
        else:
            found.extend(deeper)
    return found


# Arguments that say which tokens are real; where a module has the first kind, "mask" means something else.
_SELF_MASKS = ("src_key_padding_mask", "tgt_key_padding_mask", "attention_mask", "mask")
_CROSS_MASKS = ("memory_key_padding_mask", "encoder_attention_mask")
# What an attention function may be given that changes the weights in a way not computed here.
_UNREAD = ("s_aux", "sinks")


def _token_mask(given: dict[str, Any], names: tuple[str, ...], before: Tensor | None) -> Tensor | None:
    """Return the (batch, tokens) mask among a module's arguments, or the one seen before."""
    for name in names:
        if name in given:
            mask = given[name]
            if mask is None:
                return None
            if not isinstance(mask, Tensor) or mask.ndim != 2:
                return before  # already widened to queries and keys: the module around it had the plain one
            if name.endswith("padding_mask"):
                return ~mask if mask.dtype == torch.bool else mask == 0
            return mask.bool()
    return before


def _first_state(args: tuple, kwargs: dict) -> Tensor | None:
    """Return the first (batch, tokens, width) tensor among a layer's arguments."""
    named = kwargs.get("hidden_states")
    for value in ([named] if isinstance(named, Tensor) else []) + list(args) + list(kwargs.values()):
        if isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point():
            return value
    return None


@contextmanager
def attached(
    model: nn.Module,
    read: Reader,
    *,
    rewrite: Rewrite | None = None,
    layers: Sequence[int] | None = None,
    states: bool = True,
    maps: bool = True,
) -> Iterator[Probe]:
    """Attach a probe to a model; detach it whatever happens. `maps`: the reader looks at full weights."""
    probe = Probe(model, read, rewrite, states, maps)
    with ExitStack() as undo:

        def hook(handle) -> None:
            undo.callback(handle.remove)

        hook(model.register_forward_pre_hook(probe.begin, with_kwargs=True))
        inside: dict[str, list[Stack]] = {}
        for name, container in model.named_modules():
            if (isinstance(container, nn.ModuleList) and len(container)) or _is_layer_sequence(container):
                children = list(container.children())
                depth = len(children)
                chosen = range(depth) if layers is None else sorted({n % depth for n in layers if -depth <= n < depth})
                stack = Stack(name, depth, tuple(chosen))
                probe.stacks.append(stack)
                for number, layer in enumerate(children):
                    hook(layer.register_forward_pre_hook(probe.enter(stack, number), with_kwargs=True))
                    hook(layer.register_forward_hook(probe.leave(stack, number)))
                parts = name.split(".")[:-1]
                for end in range(len(parts) + 1):
                    inside.setdefault(".".join(parts[:end]), []).append(stack)
        for name, stacks in inside.items():
            hook(model.get_submodule(name).register_forward_pre_hook(probe.masks(stacks), with_kwargs=True))
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
def _interface(model: Any, probe: Probe) -> Iterator[None]:
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
