"""What was recorded of a model's forward passes, and the Flow and statistics that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..flow import Flow
from .call import CaptureError
from .statistics import AttentionStatistics


@dataclass
class Pass:
    """What one forward pass left of one stack: a Flow, its layers' statistics, and of which step with a cache it is."""

    flow: Flow | None
    statistics: tuple[AttentionStatistics, ...]
    cached: str = ""


class Recording:
    """What `capture` has seen: one entry for each forward pass, stack of layers and kind of attention."""

    def __init__(self, attention: str | None):
        self.kind = attention
        self.passes: dict[str, list[Pass]] = {}

    @property
    def stacks(self) -> list[str]:
        """Names of what was recorded: each stack of layers by its place in the model, and its cross-attention."""
        return list(self.passes)

    def flow(self, which: str | None = None) -> Flow:
        """Return the Flow over all examples seen.

        `which` is the name of a stack where the model has several, or a part that it shares with no other ("encoder",
        "decoder"), or "cross" for cross-attention. Raises `CaptureError` where there is none, or more than one.
        """
        flows = [found.flow for found in self._chosen(which) if found.flow is not None]
        if not flows:
            raise CaptureError("statistics alone were recorded: use `recording.statistics()`, or states=True.")
        return self.joined(flows)

    def statistics(self, which: str | None = None) -> tuple[AttentionStatistics, ...]:
        """Return the statistics of each recorded layer over all examples seen; `which` as in `flow`."""
        if self.kind != "statistics":
            raise CaptureError(f"attention={self.kind!r} was recorded: use capture(model, 'statistics').")
        passes = self._chosen(which)
        lengths = {found.statistics[0].entropy.shape[-1] for found in passes}
        if len(lengths) > 1:
            raise CaptureError(_of_several_lengths(lengths))
        layers = zip(*(found.statistics for found in passes), strict=True)
        return tuple(_joined_statistics(parts) for parts in layers)

    def _chosen(self, which: str | None) -> list[Pass]:
        if not self.passes:
            raise CaptureError("nothing was recorded: call the model inside `with capture(model) as recording`.")
        found = [which] if which in self.passes else [name for name in self.passes if fits(name, which)]
        if len(found) != 1:
            asked = "the Flow" if which is None else f"{which!r}"
            raise CaptureError(
                f"{asked} was asked for, but {len(found)} of the recorded stacks fit: say which of "
                f"{', '.join(map(repr, self.passes))}."
            )
        passes = self.passes[found[0]]
        cached = [one.cached for one in passes if one.cached]
        if cached:
            raise CaptureError(
                f"{found[0]!r} was run in steps with a cache, {cached[0]}, and a step is no example: run the model "
                "once on the whole text, or generate with use_cache=False."
            )
        return passes

    @staticmethod
    def joined(passes: Sequence[Flow]) -> Flow:
        """Return one Flow over the examples of several."""
        lengths = {(flow.tokens, *(a.shape[-1] for a in flow.attention[:1])) for flow in passes}
        if len(lengths) > 1:
            raise CaptureError(_of_several_lengths({max(each) for each in lengths}))
        sizes = {(flow.layers, flow.heads, *(s.shape[-1] for s in flow.states[:1])) for flow in passes}
        if len(sizes) > 1:
            raise CaptureError(
                f"the forward passes had (layers, heads, width) {sorted(sizes)}, so they make no one Flow: capture "
                "them one by one."
            )
        if len(passes) == 1:
            return passes[0]
        return Flow(
            states=_join(flow.states for flow in passes),
            attention=_join(flow.attention for flow in passes),
            mask=torch.cat([flow.mask for flow in passes]),
            causal=all(flow.causal for flow in passes),
            depths=passes[0].depths,
            key_mask=_joined_key_masks(passes),
            notes=tuple(dict.fromkeys(note for flow in passes for note in flow.notes)),
            visible=_joined_visible(passes),
        )


def fits(name: str, which: str | None) -> bool:
    """Say whether a stack's name is one that was asked for; without a name, any but cross-attention's."""
    if which is None:
        return not name.endswith(" cross")
    return name.endswith(" cross") if which == "cross" else which in name and not name.endswith(" cross")


def _of_several_lengths(lengths: set[int]) -> str:
    return (
        f"the forward passes had {sorted(lengths)} tokens, so they make no one Flow: pad every batch to the same "
        "length, or capture one batch at a time."
    )


def _joined_key_masks(passes: Sequence[Flow]) -> Tensor | None:
    if all(flow.key_mask is None for flow in passes):
        return None
    every = [flow.mask.new_ones(flow.examples, flow.attention[0].shape[-1]) for flow in passes]
    given = [flow.key_mask for flow in passes]
    return torch.cat([ones if mask is None else mask for mask, ones in zip(given, every, strict=True)])


def _joined_visible(passes: Sequence[Flow]) -> tuple[Tensor, ...]:
    """Return who may see whom in each layer, where any pass says more than padding and causality, or another of it."""
    if not any(flow.visible for flow in passes) and len({flow.causal for flow in passes}) == 1:
        return ()
    if not passes[0].attention:
        return ()
    heads = max((each.shape[1] for flow in passes for each in flow.visible), default=1)
    return _join([flow.allowed(layer).expand(-1, heads, -1, -1) for layer in range(flow.layers)] for flow in passes)


def _join(series) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*series, strict=True))


def _joined_statistics(parts: Sequence[AttentionStatistics]) -> AttentionStatistics:
    joined = {}
    for name in (f.name for f in fields(AttentionStatistics)):
        values = [getattr(part, name) for part in parts]
        joined[name] = torch.cat(values) if isinstance(values[0], Tensor) else values[0]
    return AttentionStatistics(**joined)
