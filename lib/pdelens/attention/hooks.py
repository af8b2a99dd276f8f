"""Follows a model's forward passes: which layer is running, and what its attention was given.

Three kinds of attention are met: Hugging Face models through their registered attention interface,
`torch.nn.MultiheadAttention`, and any module that mixes its values through `attend` (the small teachers). No module is
found by its name. What is done with each call of attention is the reader's matter (see `capture`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ._adapters import attends, attribute, huggingface, multihead, watches_other_tokens
from .call import AttentionCall
from .masks import CROSS_MASKS, SELF_MASKS, token_mask
from .runs import Run, Runs, Seen, Stack, Step

# What is kept of a call, and the mixed values if they came with it: of (path, call, the module's own weights where it
# gives no call, whether mixed values are of use).
Reader = Callable[[tuple[Step, ...], AttentionCall | None, Tensor | None, bool], tuple[Any, Tensor | None]]
# What replaces the mixing of values: (where, call) -> mixed values, (batch, heads, queries, head width), or None.
Rewrite = Callable[[Seen, AttentionCall], Tensor | None]


class Hooks:
    """Follows one model; after each pass through layers `finished` gets their runs.

    A pass begins with the outermost module around layers that is called: the model, or one part of it alone.
    """

    def __init__(
        self, read: Reader, rewrite: Rewrite | None, layers: Sequence[int] | None, states: bool, needs_maps: bool
    ):
        self.read, self.rewrite, self.layers = read, rewrite, layers
        self.states, self.needs_maps = states, needs_maps
        self.finished: Callable[[list[Run]], None] = lambda runs: None
        self.forwards = self.calls_seen = self.nested = 0
        self.runs = Runs()
        self.stacks: list[Stack] = []
        self.across: set[int] = set()

    def begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Enter a module around layers; the outermost one starts a pass."""
        self.nested += 1
        if self.nested == 1:
            self.forwards += 1
            self.runs = Runs()
            for stack in self.stacks:
                stack.mask = stack.key_mask = None

    def end(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Leave a module around layers (`output` is None after an exception); the outermost one hands over the pass."""
        self.nested -= 1
        if self.nested == 0:
            runs, self.runs = self.runs, Runs()
            if output is not None:
                self.finished(runs.all)

    def masks(self, stacks: list[Stack]) -> Callable:
        """Return the hook of a module around some stacks: it reads which tokens are real.

        The innermost module that is told decides, so a decoder's mask is its own and not the encoder's.
        """

        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            known = signature(module.forward)
            try:
                given = known.bind(*args, **kwargs).arguments
            except TypeError:
                return
            for stack in stacks:
                stack.mask = token_mask(given, known.parameters, SELF_MASKS, stack.mask)
                stack.key_mask = token_mask(given, known.parameters, CROSS_MASKS, stack.key_mask)

        return hook

    def reason(self, name: str) -> str:
        """Say why nothing was recorded of a model of this name."""
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
            state = _first_state(args, kwargs)
            step = self.runs.enter(stack, layer, module, state)
            if state is not None and self._keeps(step):
                step.entered = state.detach()
            before = step.before
            # What left the layer before has entered this one: it is of use where that was the last one asked for.
            if before is not None and before.run is step.run and (self._keeps(step) or not self._keeps(before)):
                before.left = None

        return hook

    def leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        """Note what leaves a layer; nothing leaves one that raised."""
        if isinstance(output, Tensor):
            output = (output,)
        parts = tuple(output.values() if isinstance(output, Mapping) else output or ())
        state = _first_state(parts, {})
        self.runs.leave(None if state is None else state.detach())

    def seen(
        self, call: AttentionCall | None, weights: Tensor | None = None, *, mix: bool = False, **about: Any
    ) -> tuple[Seen, Tensor | None]:
        """Note a call of attention; return where it was, and the mixed values if the reader made them on its way.

        `about` says more of it, as `Seen` has it; a module that keeps its call to itself gives its weights.
        """
        path = tuple(self.runs.running)
        self.calls_seen += 1
        kept = mixed = None
        if any(self.wants(step) for step in path):
            kept, mixed = self.read(path, call, weights, mix)
        if call is not None:
            about |= {"mask": call.mask, "causal": call.causal, "device": call.query.device}
            batch, heads, queries = call.query.shape[:3]
            keys = call.key.shape[2]
        else:
            assert weights is not None
            about |= {"known": False, "device": weights.device}
            batch, heads, queries, keys = weights.shape
        found = Seen(path, kept, shape=(batch, heads, queries, keys), **about)
        for step in path:
            step.calls.append(found)
            step.run.calls.append(found)
        return found, mixed

    def wants(self, step: Step) -> bool:
        """Say whether a layer is one of those asked for; its depth is known as it runs, so far as its stack is."""
        layers, place = self.layers, step.place
        return layers is None or place in layers or place - step.run.stack.depth in layers

    def _keeps(self, step: Step) -> bool:
        return self.states and self.wants(step)


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
    hooks = Hooks(read, rewrite, layers, states, maps)
    with ExitStack() as undo:

        def before(module: nn.Module, hook: Callable) -> None:
            undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        around = _around_stacks(model, hooks.stacks)
        for name, stacks in around.items():
            module = model.get_submodule(name)
            if not any(name.startswith(f"{stack.name}.") or (not stack.name and name) for stack in hooks.stacks):
                before(module, hooks.begin)
                undo.callback(module.register_forward_hook(hooks.end, always_call=True).remove)
            before(module, hooks.masks(stacks))
        for stack in hooks.stacks:
            for number, layer in enumerate(model.get_submodule(stack.name).children()):
                before(layer, hooks.enter(stack, number))
                undo.callback(layer.register_forward_hook(hooks.leave).remove)
        # The fused inference path of nn.TransformerEncoder never calls its attention module.
        undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for module in model.modules():
            _hook_attention(hooks, module, before, undo)
        for inner in _interface_models(model):
            undo.enter_context(huggingface(hooks, inner))
        yield hooks


def _around_stacks(model: nn.Module, stacks: list[Stack]) -> dict[str, list[Stack]]:
    """Find the stacks of layers, and return those inside each module that holds any, the model first."""
    around: dict[str, list[Stack]] = {"": []}
    for name, container in model.named_modules():
        if (isinstance(container, nn.ModuleList) and len(container)) or _is_layer_sequence(container):
            stacks.append(Stack(name, len(list(container.children()))))
            parts = name.split(".")[:-1]
            for end in range(len(parts) + 1):
                around.setdefault(".".join(parts[:end]), []).append(stacks[-1])
    return around


def _hook_attention(hooks: Hooks, module: nn.Module, before: Callable, undo: ExitStack) -> None:
    """Lead one module's attention, if it has any of its own, past the hooks."""
    if isinstance(module, nn.MultiheadAttention):
        first, last = multihead(hooks, module)
        before(module, first)
        undo.callback(module.register_forward_hook(last, with_kwargs=True).remove)
        return
    before_forward = watches_other_tokens(hooks.across, module)
    if before_forward is not None:
        before(module, before_forward)
    original: Any = getattr(module, "attend", None)
    if attends(original):
        own = vars(module).get("attend")
        vars(module)["attend"] = attribute(hooks, module, original)
        if own is None:
            undo.callback(vars(module).pop, "attend")
        else:
            undo.callback(vars(module).__setitem__, "attend", own)


def _interface_models(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the models that attend through transformers' interface: this one, or the outermost ones inside it."""
    if hasattr(model, "set_attn_implementation"):
        yield model
    else:
        for child in model.children():
            yield from _interface_models(child)


def _is_layer_sequence(module: nn.Module) -> bool:
    """Say whether a Sequential holds layers: children of one type, each with attention inside."""
    if not isinstance(module, nn.Sequential) or len({type(child) for child in module}) != 1:
        return False
    return all(
        any(
            isinstance(part, nn.MultiheadAttention) or attends(getattr(part, "attend", None))
            for part in child.modules()
        )
        for child in module
    )
