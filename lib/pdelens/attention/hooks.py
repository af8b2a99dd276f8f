"""Follows a model's forward passes: which layer is running, and what its attention was given.

Three kinds of attention are met: Hugging Face models through their registered attention interface,
`torch.nn.MultiheadAttention`, and any module that mixes its values through an attribute `attend` (the small
teachers). No module is found by its name. What is done with each call of attention is the reader's matter (see
`capture`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ._adapters import attribute, huggingface, multihead
from .call import AttentionCall


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


class Hooks:
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
def hooked(
    model: nn.Module,
    read: Reader,
    *,
    rewrite: Rewrite | None = None,
    layers: Sequence[int] | None = None,
    states: bool = True,
    maps: bool = True,
) -> Iterator[Hooks]:
    """Attach hooks to a model; detach them whatever happens. `maps`: the reader looks at full weights."""
    hooks = Hooks(model, read, rewrite, states, maps)
    with ExitStack() as undo:

        def hook(handle) -> None:
            undo.callback(handle.remove)

        hook(model.register_forward_pre_hook(hooks.begin, with_kwargs=True))
        inside: dict[str, list[Stack]] = {}
        for name, container in model.named_modules():
            if (isinstance(container, nn.ModuleList) and len(container)) or _is_layer_sequence(container):
                stack = _follow_layers(hooks, name, container, layers, hook)
                parts = name.split(".")[:-1]
                for end in range(len(parts) + 1):
                    inside.setdefault(".".join(parts[:end]), []).append(stack)
        for name, stacks in inside.items():
            hook(model.get_submodule(name).register_forward_pre_hook(hooks.masks(stacks), with_kwargs=True))
        # The fused inference path of nn.TransformerEncoder never calls its attention module.
        undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                before, after = multihead(hooks, module)
                hook(module.register_forward_pre_hook(before, with_kwargs=True))
                hook(module.register_forward_hook(after, with_kwargs=True))
            elif callable(vars(module).get("attend")):
                original: Any = module.attend
                vars(module)["attend"] = attribute(hooks, original)
                undo.callback(vars(module).__setitem__, "attend", original)
        for inner in _interface_models(model):
            undo.enter_context(huggingface(hooks, inner))
        hook(model.register_forward_hook(hooks.end))
        yield hooks


def _interface_models(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the models that attend through transformers' interface: this one, or the outermost ones inside it."""
    if hasattr(model, "set_attn_implementation"):
        yield model
    else:
        for child in model.children():
            yield from _interface_models(child)


def _follow_layers(
    hooks: Hooks, name: str, container: nn.Module, layers: Sequence[int] | None, hook: Callable[[Any], None]
) -> Stack:
    """Hook a container's children as layers; return what will be seen of them."""
    children = list(container.children())
    depth = len(children)
    chosen = range(depth) if layers is None else sorted({n % depth for n in layers if -depth <= n < depth})
    stack = Stack(name, depth, tuple(chosen))
    hooks.stacks.append(stack)
    for number, layer in enumerate(children):
        hook(layer.register_forward_pre_hook(hooks.enter(stack, number), with_kwargs=True))
        hook(layer.register_forward_hook(hooks.leave(stack, number)))
    return stack


def _is_layer_sequence(module: nn.Module) -> bool:
    """Say whether a Sequential holds layers: children of one type, each with attention inside."""
    if not isinstance(module, nn.Sequential) or len({type(child) for child in module}) != 1:
        return False
    return all(
        any(isinstance(part, nn.MultiheadAttention) or "attend" in vars(part) for part in child.modules())
        for child in module
    )
