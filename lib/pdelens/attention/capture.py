"""Reads a Transformer's Flow, whoever wrote the Transformer, and leaves the model as it was."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..flow import Flow, finite
from ..lattice import Lattice
from .call import AttentionCall, CaptureError
from .hooks import Hooks, Seen, Stack, hooked
from .recording import Pass, Recording
from .statistics import AttentionStatistics, attend_with_statistics, attention_statistics, statistics_of

Path = tuple[tuple[Stack, int], ...]
KINDS = ("weights", "statistics", None)


class _Capture(AbstractContextManager):
    """The context that `capture` returns."""

    def __init__(self, model: nn.Module, attention: str | None, layers, states, device, dtype, max_bytes, options):
        self.recording = Recording(attention)
        self.model, self.layers, self.states = model, layers, states
        self.where, self.limit, self.options = (device, dtype), max_bytes, options
        self.context: Any = None
        self.used, self.kept_bytes = False, 0

    def __enter__(self) -> Recording:
        if self.used:
            raise CaptureError("this capture was opened before: make a new one with capture(model).")
        self.used = True
        maps = self.recording.kind == "weights"
        self.context = hooked(self.model, self._read, layers=self.layers, states=self.states, maps=maps)
        self.hooks: Hooks = self.context.__enter__()
        self.hooks.finished = self._finish
        return self.recording

    def __exit__(self, kind, error, trace) -> None:
        self.context.__exit__(kind, error, trace)
        if kind is None and self.recording.kind and not self.recording.passes and self.hooks.forwards:
            raise CaptureError(self.hooks.reason())

    @torch.no_grad()
    def _read(
        self, path: Path, call: AttentionCall | None, weights: Tensor | None, mix: bool
    ) -> tuple[Any, Tensor | None]:
        """Return what is kept of one call of attention, and the mixed values where they came with it."""
        if self.recording.kind is None:
            return None, None
        if self.recording.kind == "statistics":
            found, mixed = self._statistics(path, call, weights, mix)
            return self._moved(found), mixed
        if weights is None:
            assert call is not None
            self._refuse_too_much(path[0][0], call)
            weights = call.weights()
        if not finite(weights):
            raise CaptureError(_not_finite(path))
        kept = self._placed(weights.detach())
        self.kept_bytes += kept.numel() * kept.element_size()
        return kept, None

    def _statistics(
        self, path: Path, call: AttentionCall | None, weights: Tensor | None, mix: bool
    ) -> tuple[AttentionStatistics, Tensor | None]:
        if call is None or not call.plain:
            weights = call.weights() if call is not None else weights
            assert weights is not None
            return statistics_of(weights, **self.options), None
        if not finite(call.query) or not finite(call.key):
            raise CaptureError(_not_finite(path))
        given = {"mask": call.mask, "causal": call.causal, "scale": call.scale, **self.options}
        if mix:
            mixed, found = attend_with_statistics(call.query, call.key, call.value, **given)
            return found, mixed
        return attention_statistics(call.query, call.key, **given), None

    def _refuse_too_much(self, stack: Stack, call: AttentionCall) -> None:
        batch, heads, queries, _ = call.query.shape
        shape = (batch, heads, queries, call.key.shape[-2])
        size = torch.empty((), dtype=self.where[1] or call.query.dtype).element_size()
        left = max(1, len(stack.chosen) - len(self.hooks.calls))
        need = self.kept_bytes + left * size * torch.Size(shape).numel()
        if need > self.limit:
            raise CaptureError(
                f"full attention of {len(stack.chosen)} layers, {' x '.join(map(str, shape))} each, will need "
                f"{need:,} bytes with what is kept already, past the limit of {self.limit:,}: use "
                "attention='statistics', fewer layers, dtype=torch.float16, smaller batches or a larger max_bytes."
            )

    def _finish(self, stacks: list[tuple[Stack, dict[int, list[Seen]]]]) -> None:
        for stack, layers in stacks:
            self._check_layers(stack)
            calls = [layers[layer] for layer in stack.chosen]
            counts = {len(seen) for seen in calls}
            if self.recording.kind and (len(counts) > 1 or max(counts) > 2):
                raise CaptureError(
                    f"the layers of {stack.name!r} called attention {sorted(counts)} times each, so a layer's one map "
                    "is not defined: capture a part of the model with one kind of layer, or use attention=None."
                )
            # States alone are recorded whether or not their layers attend.
            least = 0 if self.recording.kind else 1
            for place in range(max(least, *counts)):
                name = stack.name if place == 0 else f"{stack.name} cross"
                found = [seen[place] for seen in calls if place < len(seen)]
                self.recording.passes.setdefault(name, []).append(self._pass(stack, found, cross=place > 0))

    def _check_layers(self, stack: Stack) -> None:
        wrong = [layer for layer in self.layers or () if not -stack.depth <= layer < stack.depth]
        if wrong:
            raise CaptureError(f"layer {wrong[0]} was asked for, but {stack.name!r} has {stack.depth} layers.")

    def _pass(self, stack: Stack, seen: list[Seen], cross: bool) -> Pass:
        states = [stack.entered[layer] for layer in stack.chosen if layer in stack.entered]
        states += [] if stack.left is None else [stack.left]
        if self.hooks.sequence_first:
            states = [state.transpose(0, 1) for state in states]
        maps: list[Tensor] = [call.kept for call in seen] if self.recording.kind == "weights" else []
        statistics = tuple(call.kept for call in seen) if self.recording.kind == "statistics" else ()
        if not states and not maps:
            return Pass(None, statistics)
        examples, tokens = (states[0].shape if states else maps[0].select(1, 0).shape)[:2]
        keys = maps[0].shape[-1] if maps else 0
        states = [self._placed(state) for state in states]
        device = (states or maps)[0].device
        mask = _fitting(stack.mask, (examples, tokens), device)
        flow = Flow(
            states=tuple(states),
            attention=tuple(maps),
            mask=torch.ones(examples, tokens, dtype=torch.bool, device=device) if mask is None else mask,
            causal=not cross and (_sees_no_future(maps) if maps else bool(seen) and all(call.causal for call in seen)),
            depths=torch.tensor([*stack.chosen, stack.chosen[-1] + 1], dtype=torch.float32),
            key_mask=_fitting(stack.key_mask, (examples, keys), device) if cross else None,
        )
        return Pass(flow, statistics)

    def _placed(self, value: Tensor) -> Tensor:
        device, dtype = self.where
        return value.to(device=device or value.device, dtype=dtype or value.dtype)

    def _moved(self, statistics: AttentionStatistics) -> AttentionStatistics:
        device = self.where[0]
        if device is None:
            return statistics
        values = {f.name: getattr(statistics, f.name) for f in fields(statistics)}
        return AttentionStatistics(**{n: v.to(device) if isinstance(v, Tensor) else v for n, v in values.items()})


def _not_finite(path: Path) -> str:
    stack, layer = path[0]
    return (
        f"the attention of layer {layer} in {stack.name!r} is not finite: look at the states that enter it, or run in "
        "float32."
    )


def _sees_no_future(maps: Sequence[Tensor]) -> bool:
    return maps[0].shape[-1] > 1 and all(not bool(weights.triu(1).any()) for weights in maps)


def _fitting(mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> Tensor | None:
    """Return a mask where it is one of these tokens (a model may be told of others too)."""
    return mask.to(device) if mask is not None and tuple(mask.shape) == shape else None


def capture(
    model: nn.Module,
    attention: str | None = "weights",
    *,
    layers: Sequence[int] | None = None,
    states: bool = True,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    max_bytes: int = 4 * 2**30,
    positions: Lattice | Tensor | None = None,
    **options: Any,
) -> AbstractContextManager[Recording]:
    """Record states and attention of every forward pass made inside the `with` block.

    `attention` is "weights" (full maps, `recording.flow()`), "statistics" (exact entropies, drift and diffusivity in
    O(tokens) memory, `recording.statistics()`; `positions` and further options as in `attention_statistics`) or None
    (states only). `layers` chooses layers (all, if not given): states are then those that enter each and the one that
    leaves the last. `device` and `dtype` say where and as what states and weights are kept (as they are, if not
    given). Batches accumulate.

    Hugging Face models are read through their attention interface, `torch.nn.MultiheadAttention` by hooks, other
    modules through an attribute `attend`; no module is found by its name. `states[L]` is what leaves the last layer,
    before any final norm. The model's outputs stay what they were, and the model is left as it was, also after an
    exception. Raises `CaptureError` where no attention can be read (never an empty tuple), where it is not finite, or
    where full maps would need more than `max_bytes`: `layers * batch * heads * tokens^2` values. Cost: statistics add
    about a second pass of attention.

    >>> from pdelens.models import Configuration, Transformer
    >>> model = Transformer(Configuration(layers=2))
    >>> with capture(model) as recording:
    ...     _ = model(torch.zeros(3, 28, 28, dtype=torch.uint8))
    >>> recording.flow()
    Flow(2 layers, 3 examples, 49 tokens, 4 heads, width 64)
    """
    if attention not in KINDS:
        raise ValueError(f"attention={attention!r} was asked for: choose 'weights', 'statistics' or None.")
    if attention != "statistics" and (options or positions is not None):
        raise ValueError("positions or options of statistics were given: they go with attention='statistics'.")
    options = {**options, "positions": positions} if attention == "statistics" else {}
    if layers is not None and not len(layers):
        raise ValueError("no layers were asked for: name at least one, or leave `layers` out for all.")
    return _Capture(model, attention, layers, states, device, dtype, max_bytes, options)


def flow_of(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    batch: int = 256,
    device: str | torch.device | None = None,
    keep: str | torch.device = "cpu",
    attention: str | None = "weights",
) -> Flow:
    """Run a model on inputs, batch by batch and without gradients, and return its Flow on the device `keep`.

    `inputs` is one tensor, or tensors by argument name, whose first axis counts examples; `batch` of them run at once.
    The model is moved to `device` where one is given, and stays there. `attention` as in `capture`. Raises `ValueError`
    where inputs differ in their number of examples or there are none, `CaptureError` as `capture` does. Cost: the
    model's own passes, and memory for every state and map.

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
    with torch.no_grad(), capture(model, attention, device=keep) as recording:
        for start in range(0, examples.pop(), batch):
            given = {name: value[start : start + batch].to(place) for name, value in named.items()}
            model(given[""]) if "" in given else model(**given)
    return recording.flow().to(keep)
