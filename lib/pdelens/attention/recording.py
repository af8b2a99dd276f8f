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
    """What one forward pass left of one stack: a Flow, and the statistics of its layers."""

    flow: Flow | None
    statistics: tuple[AttentionStatistics, ...]


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
        layers = zip(*(found.statistics for found in self._chosen(which)), strict=True)
        return tuple(_joined_statistics(parts) for parts in layers)

    def _chosen(self, which: str | None) -> list[Pass]:
        if not self.passes:
            raise CaptureError("nothing was recorded: call the model inside `with capture(model) as recording`.")
        found = [which] if which in self.passes else [name for name in self.passes if _matches(name, which)]
        if len(found) != 1:
            asked = "the Flow" if which is None else f"{which!r}"
            raise CaptureError(
                f"{asked} was asked for, but {len(found)} of the recorded stacks fit: say which of "
                f"{', '.join(map(repr, self.passes))}."
            )
        return self.passes[found[0]]

    @staticmethod
    def joined(passes: Sequence[Flow]) -> Flow:
        """Return one Flow over the examples of several."""
        if len({(len(flow.states), flow.tokens, flow.heads) for flow in passes}) > 1:
            raise CaptureError(
                f"the forward passes had {sorted({flow.tokens for flow in passes})} tokens, so they make no one Flow: "
                "pad every batch to the same length, or capture one batch at a time."
            )
        if len(passes) == 1:
            return passes[0]
        key_masks = [flow.key_mask for flow in passes if flow.key_mask is not None]
        return Flow(
            states=_join(flow.states for flow in passes),
            attention=_join(flow.attention for flow in passes),
            mask=torch.cat([flow.mask for flow in passes]),
            causal=all(flow.causal for flow in passes),
            depths=passes[0].depths,
            key_mask=torch.cat(key_masks) if key_masks else None,
        )


def _matches(name: str, which: str | None) -> bool:
    if which is None:
        return not name.endswith(" cross")
    return name.endswith(" cross") if which == "cross" else which in name and not name.endswith(" cross")


def _join(series) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*series, strict=True))


def _joined_statistics(parts: Sequence[AttentionStatistics]) -> AttentionStatistics:
    joined = {}
    for name in (f.name for f in fields(AttentionStatistics)):
        values = [getattr(part, name) for part in parts]
        joined[name] = torch.cat(values) if isinstance(values[0], Tensor) else values[0]
    return AttentionStatistics(**joined)
