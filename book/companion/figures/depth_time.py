"""Figures of layers as steps: tied networks, the error of one step, and a model refined against itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

# How the refined models are drawn, by kind.
LOOKS: dict[str, dict[str, Any]] = {
    "trained": {"label": "trained ViTs", "color": "C0", "marker": "o"},
    "text": {"label": "MiniLM", "color": "C1", "marker": "s"},
    "untrained": {"label": "untrained ViTs", "color": "C2", "marker": "^"},
}


def tied(axes: Axes, layers: Sequence[int], errors: Mapping[str, Sequence[float]]) -> None:
    """Draw the errors of tied networks over their layers, a line a scheme, with dashed slopes -1 and -2 below."""
    counts = np.array(layers)
    for (name, values), marker in zip(errors.items(), "os^", strict=True):
        axes.plot(layers, values, marker=marker, linewidth=1.2, label=name)
    for name, order in (("Lie", 1), ("Strang", 2)):
        line = 0.6 * errors[name][-1] * (counts[-1] / counts) ** order
        axes.plot(counts, line, color="0.5", linestyle="--", linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="layers, $L$", ylabel="error / change")
    axes.set_title("a tied network and its equation")
    axes.set_xticks(layers, [str(count) for count in layers])
    axes.minorticks_off()


def step_error(axes: Axes, steps: Sequence[float], shares: Mapping[str, Sequence[float]]) -> None:
    """Draw what is unexplained of one step's error over its size (logarithmic), a line a theory; 1 is no theory."""
    for (name, values), marker in zip(shares.items(), "oD", strict=True):
        axes.plot(steps, values, marker=marker, linewidth=1.2, label=name)
    axes.axhline(1, color="0.4", linestyle=":", linewidth=1.2, label="no theory")
    axes.set(xscale="log", xlabel="step, $h$", ylabel="unexplained share", ylim=(0, 1.08), title="error of one step")
    axes.set_xticks([1, 0.25, 0.0625], ["1", "1/4", "1/16"])
    axes.minorticks_off()


def refined(axes: Axes, kind: str, values: np.ndarray, ways: Sequence[int | str]) -> None:
    """Draw one measure of models (models, ways) over the sub-steps, "converged" at infinity: mean and range."""
    place, look = np.arange(len(ways)), LOOKS[kind]
    axes.plot(place, values.mean(0), markersize=4.5, linewidth=1.4, **look)
    if len(values) > 1:
        axes.fill_between(place, values.min(0), values.max(0), color=look["color"], alpha=0.18, linewidth=0)
    axes.set_xticks(place, ["∞" if way == "converged" else str(way) for way in ways])
    axes.set(xlabel="sub-steps a layer")


def null(axes: Axes, kind: str, value: float) -> None:
    """Draw a null's score as a dashed line in the colour of the models that it stands beside."""
    axes.axhline(value, color=LOOKS[kind]["color"], linestyle="--", linewidth=1.1, zorder=1)
