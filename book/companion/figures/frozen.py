"""Figures of frozen models that are stepped more finely, and of how alike their tokens are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

# Which layers are changed, and how that is drawn.
KINDS: dict[str, dict[str, Any]] = {
    "all": {"label": "all layers", "color": "#0173b2", "marker": "o"},
    "inner": {"label": "all but two at each end", "color": "#cc78bc", "marker": "D"},
    "middle": {"label": "middle third", "color": "#de8f05", "marker": "s"},
    "block": {"label": "middle third as one block", "color": "#029e73", "marker": "^"},
}
# What tokens are held against (`companion.dynamics.together.KINDS`).
LOOKS: dict[str, dict[str, Any]] = {
    "trained": {"color": "#0173b2"},
    "other company": {"color": "#0173b2", "linestyle": ":"},
    "disordered": {"color": "#de8f05", "linestyle": "--"},
    "random weights": {"color": "0.5", "linestyle": "-."},
}
Interval = tuple[float, tuple[float, float]]


def refinements(axes: Axes, found: Mapping[tuple[str, int], Interval], own: float, steps: Sequence[int]) -> None:
    """Draw what is left of a model against its steps a layer, from its own value, with intervals over examples."""
    place = np.arange(len(steps) + 1)
    for kind, look in KINDS.items():
        values = [found[kind, step] for step in steps]
        means = np.array([own, *(value for value, _ in values)])
        ends = np.array([(own, own), *(ends for _, ends in values)])
        axes.plot(place, means, linewidth=1.4, markersize=5, **look)
        axes.fill_between(place, ends[:, 0], ends[:, 1], color=look["color"], alpha=0.15, linewidth=0)
    axes.set_xticks(place, ["1", *map(str, steps)])
    axes.set(xlabel="steps a layer")


def lines(axes: Axes, found: Mapping[str, float]) -> None:
    """Draw nulls as grey dotted lines with their names at the right end, the lowest's below its line."""
    for name, value in found.items():
        axes.axhline(value, color="0.5", linestyle=":", linewidth=1.2, zorder=1)
        look: dict[str, Any] = {"ha": "right", "va": "top" if value == min(found.values()) else "bottom", "fontsize": 8}
        axes.text(0.99, value, name, transform=axes.get_yaxis_transform(), **look)


def by_layer(axes: Axes, values: Sequence[float], label: str, **look: Any) -> None:
    """Draw one value a layer over relative depth, 0 the first layer and 1 the last."""
    axes.plot(np.linspace(0, 1, len(values)), values, label=label, linewidth=1.3, **look)
    axes.set(xlabel="relative depth")


def sweep(axes: Axes, found: Mapping[tuple[str, int, float], Interval], times: Sequence[float]) -> None:
    """Draw the change of the loss against the depth-time that the middle layers cross, with intervals."""
    ways = (
        (("middle", 1), "one step a layer", "#949494", "D"),
        (("block", 2), "two steps of the block", "#029e73", "^"),
    )
    for shift, ((kind, steps), label, colour, marker) in zip((-0.006, 0.006), ways, strict=True):
        values = [found[kind, steps, time] for time in times]
        means = np.array([value for value, _ in values])
        reach = np.abs(np.array([ends for _, ends in values]).T - means)
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.2, "capsize": 2}
        axes.errorbar(np.array(times) + shift, means, reach, label=label, **look)
    axes.axhline(0, color="black", linewidth=1)
    axes.set(xlabel="depth-time of the middle third", ylabel="change of the loss, nats")


def profiles(axes: Axes, found: Mapping[str, np.ndarray]) -> None:
    """Draw a measure over relative depth, a line a kind: the mean over rows, and their range where there are several.

    `found[kind]` is (rows, depths); rows are seeds.
    """
    for kind, rows in found.items():
        depth = np.linspace(0, 1, rows.shape[1])
        axes.plot(depth, rows.mean(0), label=kind, linewidth=1.5, **LOOKS[kind])
        if len(rows) > 1:
            axes.fill_between(depth, rows.min(0), rows.max(0), color=LOOKS[kind]["color"], alpha=0.2, linewidth=0)
    axes.set(xlabel="relative depth")
