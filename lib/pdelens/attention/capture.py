"""Reads a Transformer's Flow, whoever wrote the Transformer, and leaves the model as it was."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..flow import Flow, finite
from ..lattice import Lattice
from .call import AttentionCall, CaptureError
from .hooks import Hooks, hooked
from .masks import Sight, sight_of
from .recording import Pass, Recording
from .runs import Depth, Run, Stack, Step, continues_a_cache, depths_of, oriented, unread_depths
from .statistics import AttentionStatistics, attend_with_statistics, attention_statistics, statistics_of

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
            raise CaptureError(self.hooks.reason(type(self.model).__name__))

    @torch.no_grad()
    def _read(
        self, path: tuple[Step, ...], call: AttentionCall | None, weights: Tensor | None, mix: bool
    ) -> tuple[Any, Tensor | None]:
        """Return what is kept of one call of attention, and the mixed values where they came with it."""
        if self.recording.kind is None:
            return None, None
        if self.recording.kind == "statistics":
            found, mixed = self._statistics(path, call, weights, mix)
            return self._moved(found), mixed
        if weights is None:
            assert call is not None
            self._refuse_too_much(path[0].run.stack, call)
            weights = call.weights()
        if not finite(weights):
            raise CaptureError(_not_finite(path))
        kept = self._placed(weights.detach())
        self.kept_bytes += kept.numel() * kept.element_size()
        return kept, None

    def _statistics(
        self, path: tuple[Step, ...], call: AttentionCall | None, weights: Tensor | None, mix: bool
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
        layers = stack.depth if self.layers is None else len({layer % stack.depth for layer in self.layers})
        met = sum(len(run.calls) for run in self.hooks.runs.all if run.parent is None)
        left = max(1, layers - met)
        need = self.kept_bytes + left * size * torch.Size(shape).numel()
        if need > self.limit:
            raise CaptureError(
                f"full attention of {layers} layers, {' x '.join(map(str, shape))} each, will need "
                f"{need:,} bytes with what is kept already, past the limit of {self.limit:,}: use "
                "attention='statistics', fewer layers, dtype=torch.float16, smaller batches or a larger max_bytes."
            )

    def _finish(self, runs: list[Run]) -> None:
        for sides in self._depths(runs):
            mask = sides[0].run.mask
            for depth in sides:
                if any(not self.hooks.wants(step) for step in depth.steps):
                    raise CaptureError(
                        f"{depth.name!r} ran another number of layers than it holds: count layers from the first, 0."
                    )
                made = self._pass(depth, mask)
                mask = mask if made.flow is None else made.flow.mask  # cross-attention's queries are the same tokens
                self.recording.passes.setdefault(depth.name, []).append(made)

    def _depths(self, runs: list[Run]) -> list[list[Depth]]:
        if self.recording.kind:
            return depths_of(runs, self.layers)
        # States alone are recorded however their layers attend.
        try:
            found = depths_of(runs, self.layers)
        except CaptureError:
            found = []
        return found or unread_depths(runs, self.layers)

    def _pass(self, depth: Depth, told: Tensor | None) -> Pass:
        calls, kind = depth.calls, self.recording.kind
        states = [step.entered for step in depth.steps if step.entered is not None]
        states += [] if not self.states or depth.steps[-1].left is None else [depth.steps[-1].left]
        if calls:
            states = oriented(states, depth)
        maps: list[Tensor] = [call.kept for call in calls] if kind == "weights" else []
        statistics = tuple(call.kept for call in calls) if kind == "statistics" else ()
        every = (call for step in depth.steps for call in step.calls)
        cached = next((f"of {c.shape[2]} queries and {c.shape[3]} keys" for c in every if continues_a_cache(c)), "")
        if (not states and not maps) or cached:
            return Pass(None, statistics, cached)
        examples, tokens = (states[0].shape if states else maps[0].select(1, 0).shape)[:2]
        sight = sight_of(calls, told, depth.run.key_mask, maps) if calls else Sight(told)
        states = [self._placed(state) for state in states]
        device = (states or maps)[0].device
        whole = torch.ones(examples, tokens, dtype=torch.bool, device=device)
        mask = None if sight.mask is None or sight.mask.shape != whole.shape else sight.mask.to(device)
        flow = Flow(
            states=tuple(states),
            attention=tuple(maps),
            mask=whole if mask is None else mask,
            causal=sight.causal,
            depths=torch.tensor([*(s.place for s in depth.steps), depth.steps[-1].place + 1], dtype=torch.float32),
            notes=depth.notes,
            key_mask=None if sight.key_mask is None else sight.key_mask.to(device),
            visible=tuple(each.to(device) for each in sight.visible),
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


def _not_finite(path: tuple[Step, ...]) -> str:
    step = path[0]
    return (
        f"the attention of layer {step.place} in {step.run.stack.name!r} is not finite: look at the states that enter "
        "it, or run in float32."
    )


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
    modules through `attend(query, key, value, mask)`; no module is found by its name. A layer that runs again on what
    it put out is one layer more; a stack that runs on two inputs makes two passes, one example after the other. What is
    padding and who may see whom is what the calls of attention were told (`Flow.mask`, `causal`, `visible`).
    `states[L]` is what leaves the last layer, before any final norm. The model's outputs stay what they were, and the
    model is left as it was, also after an exception. Raises `CaptureError` where no attention can be read (never an
    empty tuple), where it is not finite, where layers don't attend alike or run in steps with a cache, or where full
    maps would need more than `max_bytes`: `layers * batch * heads * tokens^2` values. Cost: statistics add about a
    second pass of attention.

    >>> from pdelens.models import Configuration, Transformer
    >>> model = Transformer(Configuration(layers=2))
    >>> with capture(model) as recording:
    ...     _ = model(torch.zeros(3, 28, 28, dtype=torch.uint8))
    >>> recording.flow()
    Flow(2 layers, 3 examples, 49 tokens, 4 heads, width 64)
    """
    _doors.is_a("model", model, nn.Module, "a torch module")
    if attention not in KINDS:
        raise ValueError(f"attention={attention!r} was asked for: choose 'weights', 'statistics' or None.")
    _doors.flag("states", states)
    _doors.device("device", device)
    _doors.is_a("dtype", dtype, (torch.dtype, type(None)), "a floating type such as torch.float16")
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype={dtype} was given: a floating type such as torch.float16 is wanted.")
    _doors.whole("max_bytes", max_bytes)
    if attention != "statistics" and (options or positions is not None):
        raise ValueError("positions or options of statistics were given: they go with attention='statistics'.")
    options = {**options, "positions": positions} if attention == "statistics" else {}
    _doors.layers(layers)
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
    _doors.is_a("model", model, nn.Module, "a torch module")
    _doors.whole("batch", batch)
    _doors.device("device", device)
    _doors.device("keep", keep)
    given = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    named = {name: _doors.tensor(name or "inputs", value, "one example a row") for name, value in given.items()}
    examples = {len(value) if value.ndim else 0 for value in named.values()}
    if len(examples) != 1 or 0 in examples:
        raise ValueError(f"inputs of {sorted(examples)} examples were given: all need the same number, at least one.")
    model = model if device is None else model.to(device)
    place = next(model.parameters()).device
    with torch.no_grad(), capture(model, attention, device=keep) as recording:
        for start in range(0, examples.pop(), batch):
            given = {name: value[start : start + batch].to(place) for name, value in named.items()}
            model(given[""]) if "" in given else model(**given)
    return recording.flow().to(keep)
