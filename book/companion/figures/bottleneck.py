"""Figures of the information bottleneck: noise swept, measures over depth and training, planes, other estimates."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .base import sequence

# How subjects are drawn, by name.
LOOKS: dict[str, dict[str, Any]] = {
    "trained": {"color": "#0173b2", "marker": "o", "linewidth": 1.9, "label": "trained"},
    "random-labels": {"color": "#b40426", "marker": "s", "linewidth": 1.4, "label": "random-label twin"},
    "memorised": {
        "color": "#de8f05",
        "marker": "D",
        "linewidth": 1.4,
        "linestyle": "--",
        "label": "the twin, on what it learnt by heart",
    },
    "untrained": {"color": "0.5", "marker": "^", "linewidth": 1.2, "linestyle": ":", "label": "untrained"},
    "tanh": {"color": "#029e73", "marker": "v", "linewidth": 1.2, "linestyle": "-.", "label": "trained, tanh"},
    "teacher": {"color": "black", "marker": "o", "linewidth": 2.4, "label": "Transformer"},
    "three laws": {"color": "#0173b2", "marker": "s", "linewidth": 1.4, "label": "equation (three laws), solved"},
}
# By the target that a pretrained model's state is asked about.
TOLD: dict[str, dict[str, Any]] = {
    "itself": {"color": "black", "marker": "o"},
    "distance 1": {"color": "#0173b2", "marker": "s"},
    "distance 2": {"color": "#029e73", "marker": "^"},
    "distance 4": {"color": "#de8f05", "marker": "v"},
    "next": {"color": "#b40426", "marker": "D"},
}
MODELS = ("teacher", "three laws", "untrained")
MEASURES = {
    "noise": "ln half-noise",
    "entropy": "matrix entropy",
    "scatter": "ln scatter within / 2",
    "usable": "usable I(T;Y), nats",
}
_GRID = "0.35"


def swept(
    axes: Axes, levels: Sequence[float], trained: np.ndarray, untrained: np.ndarray, ceiling: float, width: int
) -> None:
    """Draw information against relative noise, (depths, levels): a line a depth, dark the last; grey dots: untrained.

    Dashed are the ceiling ln N and its half, dash-dotted the bound `width / (2 r^2)`.
    """
    for depth, (row, colour) in enumerate(zip(trained, sequence(len(trained)), strict=True)):
        axes.semilogx(levels, row, color=colour, linewidth=1.5, label=f"depth {depth}")
    for row, name in ((untrained[1], "untrained, 1"), (untrained[-1], f"untrained, {len(untrained) - 1}")):
        style = ":" if row is untrained[1] else (0, (1, 3))
        axes.semilogx(levels, row, color="0.4", linestyle=style, linewidth=1.6, label=name)
    axes.axhline(ceiling, color=_GRID, linestyle="--", linewidth=1)
    axes.axhline(ceiling / 2, color=_GRID, linestyle="--", linewidth=0.8)
    fine = np.geomspace(levels[0], levels[-1], 80)
    axes.semilogx(fine, width / (2 * fine**2), color="black", linestyle="-.", linewidth=0.9, label="bound")
    axes.set(ylim=(-0.2, 1.08 * ceiling), xlim=(levels[0], levels[-1]))
    axes.tick_params(labelsize=8)


def over_depth(axes: Axes, curves: Mapping[str, np.ndarray], top: float | None = None) -> None:
    """Draw a measure over depth, (seeds, depths) for each name of `LOOKS`: means, with the range over seeds as a band.

    `top`, where given, is a dashed ceiling, and the axis then begins at 0.
    """
    for name, values in curves.items():
        if len(values):
            _banded(axes, np.arange(values.shape[1]), values, LOOKS[name])
    if top is not None:
        axes.axhline(top, color=_GRID, linestyle="--", linewidth=1)
        axes.set_ylim(0, 1.1 * top)
    axes.tick_params(labelsize=8)


def over_training(axes: Axes, curves: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
    """Draw a measure over steps of training, for each name steps and (seeds, moments); the first step is drawn at 3."""
    for name, (steps, values) in curves.items():
        if len(values):
            _banded(axes, np.maximum(steps, 3), values, LOOKS[name])
    axes.set_xscale("log")
    axes.set_xticks([3, 10, 100, 1000], ["0", "10", "100", "1000"])
    axes.minorticks_off()
    axes.tick_params(labelsize=8)


def plane(axes: Axes, paths: Mapping[str, tuple[np.ndarray, np.ndarray]], ceiling: float, ends: Sequence[str]) -> None:
    """Draw paths through the plane: ln of half-noise (across) against usable information (up), (seeds, points) each.

    A path joins the means over seeds; thin bars are the ranges. `ends` are written at its first and last point.
    """
    for name, (across, up) in paths.items():
        if not len(across):
            continue
        x, y, look = np.exp(across.mean(0)), up.mean(0), LOOKS[name]
        axes.plot(x, y, markersize=3.5, **look)
        low, high = np.exp(across.min(0)), np.exp(across.max(0))
        bars: dict[str, Any] = {"color": look["color"], "linewidth": 0.7, "alpha": 0.6}
        axes.hlines(y, low, high, **bars)
        axes.vlines(x, up.min(0), up.max(0), **bars)
        for at, words in zip((0, -1), ends, strict=True):
            axes.annotate(words, (x[at], y[at]), (4, 3), textcoords="offset points", fontsize=7, color=look["color"])
    axes.axhline(ceiling, color=_GRID, linestyle="--", linewidth=1)
    axes.set_ylim(-0.06 * ceiling, 1.08 * ceiling)
    axes.tick_params(labelsize=8)


def plane_legend(figure: Figure, axes: np.ndarray) -> None:
    """Add one legend below the panels (rows, columns) of planes, and name their horizontal axes."""
    for panel in axes[-1]:
        panel.set_xlabel("half-noise", fontsize=9)
    known = {
        name: handle for panel in axes.flat for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3, fontsize=8)


def tokens_told(axes: Axes, trained: Mapping[str, Any], twin: Mapping[str, Any]) -> None:
    """Draw what a pretrained model's states tell of codes by depth, a line a target; broken: the twin's.

    Both as `pretrained_content.measure` has them. Bars are intervals over examples; dashed is the ceiling.
    """
    for number, (target, look) in enumerate(TOLD.items()):
        if target not in trained["curves"]:
            continue
        at, ends = np.array(trained["depths"]), np.array(trained["interval"][target])
        axes.plot(at, trained["curves"][target], label=target, markersize=3.5, linewidth=1.6, **look)
        axes.vlines(at + 0.06 * (number - 2), ends[:, 0], ends[:, 1], color=look["color"], linewidth=0.8)
        axes.plot(
            at, twin["curves"][target], linestyle="--", linewidth=1.1, label=f"{target}, twin", color=look["color"]
        )
    axes.axhline(trained["ceiling"], color=_GRID, linestyle="--", linewidth=1)
    axes.axhline(0, color=_GRID, linewidth=0.8)
    axes.set_ylim(-0.12, 1.08 * trained["ceiling"])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(labelsize=8)


def by_inputs(axes: Axes, curves: Mapping[str, tuple[Sequence[int], np.ndarray]]) -> None:
    """Draw compression by noise against the number of inputs, for each name numbers and (seeds, numbers)."""
    for name, (counts, values) in curves.items():
        if len(values):
            _banded(axes, np.array(counts), values, LOOKS[name])
            axes.set_xscale("log", base=2)
            axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.axhline(0, color=_GRID, linewidth=0.8)
    axes.set_xlabel("inputs, N", fontsize=9)
    axes.tick_params(labelsize=8)


def _banded(axes: Axes, x: np.ndarray, values: np.ndarray, look: Mapping[str, Any]) -> None:
    axes.plot(x, values.mean(0), markersize=3.5, **look)
    if len(values) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=look["color"], alpha=0.15, linewidth=0)
