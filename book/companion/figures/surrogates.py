"""Figures of the calibrated equations: agreement against size, measures side by side, learning curves."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from ..seeds import SeedMean
from .base import threshold


class Mark(NamedTuple):
    """One hypothesis in `fidelity`: its share of the teacher's parameters, how it stands, and its kind of `MARKS`."""

    share: float
    seed_mean: SeedMean
    name: str
    kind: str


MARKS: dict[str, dict[str, Any]] = {
    "long": {"marker": "o", "markerfacecolor": "#0173b2"},
    "short": {"marker": "o", "markerfacecolor": "white"},
    "read": {"marker": "s", "markerfacecolor": "white", "color": "#949494"},
    "control": {"marker": "D", "markerfacecolor": "white", "color": "#de8f05"},
}
_NOTHING = 4e-5  # where a share of zero is drawn


def fidelity(axes: Axes, marks: Sequence[Mark], lines: Mapping[str, float], ceiling: float | None = None) -> None:
    """Draw agreement against the share of the teacher's parameters, every point and every null with its name.

    `lines` are nulls (grey), `ceiling` another seed's teacher (green); red is the claim's bar. Names of crowded
    points stand in a column to their left or right, joined by a thin line. Marks without a number are left out. The
    axis begins a little below the smallest value.
    """
    shown = [mark for mark in marks if np.isfinite(mark.seed_mean.mean)]
    levels = {name: value for name, value in lines.items() if np.isfinite(value)}
    if ceiling is not None and np.isfinite(ceiling):
        levels["another seed's teacher"] = ceiling
    values = [*levels.values(), *(mark.seed_mean.mean for mark in shown)]
    low = max(0.0, min(values, default=0.0) - 0.06)
    gap, top = 0.036 * (1.05 - low), 1.05 - 0.01 * (1.05 - low)
    for (name, value), place in zip(levels.items(), spread(list(levels.values()), gap, top), strict=True):
        known = name in lines
        look: dict[str, Any] = {"color": "0.5", "linestyle": ":"} if known else {"color": "#016b4e", "linestyle": "-."}
        axes.axhline(value, linewidth=1.1, zorder=1, **look)
        colour, where = "0.3" if known else "#016b4e", axes.get_yaxis_transform()
        axes.text(1.01, place, name, transform=where, color=colour, fontsize=8.5, va="center")
    threshold(axes, where=0.004)
    for mark in shown:
        ends = mark.seed_mean.interval
        error = None if ends is None else [[mark.seed_mean.mean - ends[0]], [ends[1] - mark.seed_mean.mean]]
        look = {"color": "#0173b2", "markersize": 7, "markeredgewidth": 1.4, "capsize": 3} | MARKS[mark.kind]
        axes.errorbar(max(mark.share, _NOTHING), mark.seed_mean.mean, error, linestyle="", zorder=7, **look)
    # Names of the few small ones may reach under those of the crowd: both find their heights together.
    for first, last in ((0.0, 0.2), (0.2, np.inf)):
        crowd = [mark for mark in shown if first <= mark.share < last]
        for mark, place in zip(crowd, spread([mark.seed_mean.mean for mark in crowd], gap, top), strict=True):
            at = max(mark.share, _NOTHING)
            column, side = (at * 1.3, "left") if at < 0.01 else (0.036, "right") if at < 0.2 else (1.35, "left")
            _name(axes, (at, mark.seed_mean.mean), (column, place), mark, ha=side)
    axes.set(xscale="log", xlim=(_NOTHING * 0.7, 9), ylim=(low, 1.05))
    axes.set_xticks([_NOTHING, 1e-4, 1e-3, 1e-2, 0.1, 1], ["0", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    axes.minorticks_off()


def spread(values: Sequence[float], gap: float, top: float = np.inf) -> np.ndarray:
    """Return places as near to the values (least squares) as a gap between neighbours allows, in the same order.

    Where they would lie above `top`, the highest are moved down as far as they must be.

    >>> spread([0.5, 0.5, 0.9], 0.1).round(2).tolist()
    [0.45, 0.55, 0.9]
    """
    order = np.argsort(values, kind="stable")
    blocks: list[list[float]] = []  # sum and number of what stands together
    for rank, value in enumerate(np.asarray(values, dtype=float)[order]):
        blocks.append([value - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + number]
    level = [total / number for total, number in blocks for _ in range(int(number))]
    places = np.empty(len(order))
    ranks = np.arange(len(order))
    places[order] = np.minimum(np.array(level) + gap * ranks, top - gap * ranks[::-1])
    return places


def _name(axes: Axes, point: tuple[float, float], place: tuple[float, float], mark: Mark, ha: str) -> None:
    """Write a hypothesis's name, on white, at a place, joined to its point; the main ones in bold."""
    axes.plot(*zip(point, place, strict=True), color="0.75", linewidth=0.7, zorder=2)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    weight = "bold" if mark.kind == "long" else "normal"
    axes.text(*place, mark.name, color="0.1", fontsize=8.5, fontweight=weight, ha=ha, va="center", zorder=5.5, bbox=box)


def equation_dots(
    axes: Axes,
    names: Sequence[str],
    columns: Mapping[str, Sequence[SeedMean]],
    nulls: Mapping[str, float],
    low: float = 0.0,
) -> None:
    """Draw measures of hypotheses, one a line, as dots with their intervals; nulls as lines in the same colours.

    What lies below `low` is drawn at the left edge as an arrow; what has no number is left out.
    """
    for number, (measure, seed_means) in enumerate(columns.items()):
        colour, shift = f"C{number}", 0.14 * (2 * number - len(columns) + 1)
        for line, seed_mean in enumerate(seed_means):
            if not np.isfinite(seed_mean.mean):
                continue
            if seed_mean.mean < low:
                axes.plot(low, line + shift, "<", color=colour, markersize=5, clip_on=False)
                continue
            axes.plot(seed_mean.mean, line + shift, "os^D"[number], color=colour, markersize=5)
            if seed_mean.interval is not None:
                axes.plot(seed_mean.interval, [line + shift] * 2, color=colour, linewidth=1.6)
        axes.plot([], [], "os^D"[number], color=colour, label=measure)
        if measure in nulls:
            axes.axvline(max(nulls[measure], low), color=colour, linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(names)), list(names))
    axes.set(xlim=(low, 1.02), ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)


def learning_curves(axes: Axes, curves: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Draw validation losses against steps, a colour a calibration and a line a seed; curves are (points, 3)."""
    # The palette's fourth colour is too near its second.
    for (name, seeds), colour in zip(curves.items(), ("C0", "C1", "C2", "C4", "C7", "C8"), strict=False):
        for place, curve in enumerate(seeds):
            label = name if place == 0 else None
            axes.plot(curve[:, 0], curve[:, 2], color=colour, linewidth=1.1, alpha=0.8, label=label)
    axes.set(xlabel="optimiser step", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
