"""Pictures of many heads at once: a model's poster, its heads by drift and spread, maps of single heads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from .atlas import CLASSES, Heads
from .figures import bar
from .standings import Standing

COLOURS = {"sink": "#e69f00", "long-range": "#56b4e9", "advective": "#f0569a", "diffusive": "#2fb47c"}
_PAPER, _INK, _FAINT = "#10141f", "#f3f0e8", "#9aa3b5"
_COLOURMAP = "rocket"
_FRAME, _GAP = 3, 4


def poster(
    tiles: np.ndarray,
    classes: np.ndarray,
    title: str,
    subtitle: str,
    blocks: int = 1,
    width: float = 8.2,
    pixels: int = 96,
) -> Figure:
    """Draw every head of a model as a small picture in a frame coloured by its class.

    `tiles` (layers, heads, side, side): a mean map, or mean attention by displacement; each is shown by
    the square root of its values over its own 99.5th percentile. `classes` (layers, heads) of
    `atlas.CLASSES`. Layers run down, heads across; `blocks` puts that many runs of layers side by side.
    One picture is composed from all (hundreds of axes would take minutes), pixel by pixel as it is shown.

    >>> figure = poster(np.random.rand(4, 2, 8, 8), np.full((4, 2), "sink"), "A model", "four layers", blocks=2)
    >>> plt.close(figure)
    """
    layers, heads = classes.shape
    if tiles.shape[:2] != classes.shape or tiles.ndim != 4 or layers % blocks:
        raise ValueError(
            f"tiles of shape {tiles.shape}, classes of shape {classes.shape} and {blocks} blocks were given: "
            "(layers, heads, side, side), (layers, heads) and a divisor of the layers are wanted."
        )
    image, cell, apart = _composed(tiles, classes, blocks, pixels)
    rows = layers // blocks
    height, breadth = image.shape[:2]
    dpi = breadth / (width - 0.5)  # a pixel of the picture is a pixel of the file
    above, below, left = 0.98, 0.5, 0.42
    total = height / dpi + above + below
    figure = plt.figure(figsize=(width, total), dpi=dpi, layout="none", facecolor=_PAPER)
    axes = figure.add_axes((left / width, below / total, breadth / dpi / width, height / dpi / total))
    axes.imshow(image, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for block in range(blocks):
        start = block * (heads * cell + apart)
        for row in range(rows):
            place = (start - 0.05 * dpi, (row + 0.5) * cell)
            axes.text(*place, str(block * rows + row), color=_FAINT, fontsize=8, ha="right", va="center")
        for head in range(heads):
            place = (start + (head + 0.5) * cell, -0.05 * dpi)
            axes.text(*place, str(head), color=_FAINT, fontsize=8, ha="center", va="bottom")
    edge = left / width
    write = {"ha": "left", "va": "baseline", "transform": figure.transFigure}
    figure.text(edge, 1 - 0.36 / total, title, color=_INK, fontsize=17, fontweight="bold", **write)
    figure.text(edge, 1 - 0.60 / total, subtitle, color=_FAINT, fontsize=9, **write)
    corner = {"color": _FAINT, "fontsize": 7, "transform": figure.transFigure}
    figure.text(edge - 0.02 / width, 1 - 0.93 / total, "head \u2192", ha="right", va="baseline", **corner)
    figure.text(0.02 / width, 1 - (above + 0.05) / total, "layer \u2193", rotation=90, ha="left", va="top", **corner)
    _class_line(figure, classes, edge, 0.14 / total)
    return figure


def _composed(tiles: np.ndarray, classes: np.ndarray, blocks: int, pixels: int) -> tuple[np.ndarray, int, int]:
    """Return the picture (height, width, 3), a cell's side and the space between blocks, all in pixels."""
    layers, heads, side = tiles.shape[:3]
    factor = max(1, round(pixels / side))
    cell = side * factor + 2 * _FRAME + _GAP
    apart = cell // 2 if blocks > 1 else 0
    rows = layers // blocks
    image = np.tile(to_rgb(_PAPER), (rows * cell, blocks * heads * cell + (blocks - 1) * apart, 1))
    # Few levels keep the file small; the eye sees no more.
    levels = np.array(sns.color_palette(_COLOURMAP, 24))
    for layer, head in np.ndindex(layers, heads):
        tile = np.sqrt(np.maximum(tiles[layer, head], 0))
        tile = np.minimum(tile / max(np.quantile(tile, 0.995), 1e-12), 1)
        shown = levels[np.round(tile * (len(levels) - 1)).astype(int)].repeat(factor, 0).repeat(factor, 1)
        block, row = divmod(layer, rows)
        top, left = row * cell, block * (heads * cell + apart) + head * cell
        framed = image[top : top + cell - _GAP, left : left + cell - _GAP]
        framed[:] = to_rgb(COLOURS[str(classes[layer, head])])
        framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = shown
    return image, cell, apart


def _class_line(figure: Figure, classes: np.ndarray, left: float, bottom: float) -> None:
    """Write what the frames' colours mean, with counts, along the foot of a poster."""
    marks = [Line2D([], [], marker="s", linestyle="", markersize=8, color=COLOURS[name]) for name in CLASSES]
    names = [f"{name}: {int((classes == name).sum())}" for name in CLASSES]
    figure.legend(
        marks,
        names,
        loc="lower left",
        bbox_to_anchor=(left - 0.015, bottom - 0.01),
        ncols=len(CLASSES),
        frameon=False,
        fontsize=9.5,
        labelcolor=_INK,
        handletextpad=0.2,
        columnspacing=1.6,
    )


def drift_against_spread(axes: Axes, heads: Heads, twin: Heads, title: str) -> None:
    """Draw each head by the length of its mean drift and its spread, in its class's colour; the twin's in grey.

    The line is |v| = tr D, the Peclet number 1 at unit length.
    """
    place = {name: (_spread(given), given.mean("speed")) for name, given in (("heads", heads), ("twin", twin))}
    axes.plot(*(value.ravel() for value in place["twin"]), "o", color="0.72", markersize=3, label="untrained twin")
    classes = heads.classes()
    for name in CLASSES:
        chosen = classes == name
        if chosen.any():
            x, y = (value[chosen] for value in place["heads"])
            axes.plot(x, y, "o", color=COLOURS[name], markersize=4, alpha=0.85, markeredgewidth=0, label=name)
    wide = np.linspace(0.5, 20, 100)
    axes.plot(wide, wide**2 / 2, color="0.35", linewidth=1, linestyle="--")
    axes.set(title=title, xlabel="spread (lattice units)", xscale="log", yscale="log", xlim=(1, 16), ylim=(0.03, 40))
    axes.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.minorticks_off()


def _spread(heads: Heads) -> np.ndarray:
    return np.sqrt(2 * heads.mean("diffusivity"))


def dots_by_layer(axes: Axes, values: np.ndarray, colour: str, label: str, shift: float = 0.0, **line) -> None:
    """Draw a value of each head (layers, heads) as a dot, and the median of each layer as a line."""
    layers = np.arange(len(values)) + shift
    axes.plot(np.repeat(layers, values.shape[1]), values.ravel(), "o", color=colour, markersize=2, alpha=0.5)
    axes.plot(layers, np.median(values, 1), color=colour, label=label, **line)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def head_picture(axes: Axes, weights, title: str, edge: str | None = None) -> None:
    """Draw one head's map or attention of one query, square-root scale, dark where attention is."""
    shown = np.sqrt(np.asarray(weights))
    axes.imshow(shown, cmap="rocket_r", vmin=0, vmax=max(np.quantile(shown, 0.998), 1e-6), interpolation="nearest")
    axes.set_title(title, fontsize=8, linespacing=1.1)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, edgecolor=edge or "0.5", linewidth=2 if edge else 0.8)


def photograph(axes: Axes, image: np.ndarray, square: tuple[float, float, float], title: str) -> None:
    """Draw a photograph with one square (left, top, side, in pixels) marked."""
    axes.imshow(image)
    left, top, side = square
    corners: Sequence[float] = (left, left + side, left + side, left, left)
    axes.plot(corners, (top, top, top + side, top + side, top), color="white", linewidth=2.4)
    axes.plot(corners, (top, top, top + side, top + side, top), color=COLOURS["advective"], linewidth=1.2)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


class Mark(NamedTuple):
    """One hypothesis in `fidelity`: its share of the teacher's parameters, how it stands, and its kind of `MARKS`."""

    share: float
    standing: Standing
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
    shown = [mark for mark in marks if np.isfinite(mark.standing.mean)]
    levels = {name: value for name, value in lines.items() if np.isfinite(value)}
    if ceiling is not None and np.isfinite(ceiling):
        levels["another seed's teacher"] = ceiling
    values = [*levels.values(), *(mark.standing.mean for mark in shown)]
    low = max(0.0, min(values, default=0.0) - 0.06)
    gap, top = 0.036 * (1.05 - low), 1.05 - 0.01 * (1.05 - low)
    for (name, value), place in zip(levels.items(), spread(list(levels.values()), gap, top), strict=True):
        known = name in lines
        look: dict[str, Any] = {"color": "0.5", "linestyle": ":"} if known else {"color": "#016b4e", "linestyle": "-."}
        axes.axhline(value, linewidth=1.1, zorder=1, **look)
        axes.text(
            1.01,
            place,
            name,
            transform=axes.get_yaxis_transform(),
            color="0.3" if known else "#016b4e",
            fontsize=8.5,
            va="center",
        )
    bar(axes, where=0.004)
    for mark in shown:
        ends = mark.standing.interval
        error = None if ends is None else [[mark.standing.mean - ends[0]], [ends[1] - mark.standing.mean]]
        look = {"color": "#0173b2", "markersize": 7, "markeredgewidth": 1.4, "capsize": 3} | MARKS[mark.kind]
        axes.errorbar(max(mark.share, _NOTHING), mark.standing.mean, error, linestyle="", zorder=7, **look)
    # Names of the few small ones may reach under those of the crowd: both find their heights together.
    for first, last in ((0.0, 0.2), (0.2, np.inf)):
        crowd = [mark for mark in shown if first <= mark.share < last]
        for mark, place in zip(crowd, spread([mark.standing.mean for mark in crowd], gap, top), strict=True):
            at = max(mark.share, _NOTHING)
            column, side = (at * 1.3, "left") if at < 0.01 else (0.036, "right") if at < 0.2 else (1.35, "left")
            _name(axes, (at, mark.standing.mean), (column, place), mark, ha=side)
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


def ladder_dots(
    axes: Axes,
    names: Sequence[str],
    columns: Mapping[str, Sequence[Standing]],
    nulls: Mapping[str, float],
    low: float = 0.0,
) -> None:
    """Draw measures of hypotheses, one a line, as dots with their intervals; nulls as lines in the same colours.

    What lies below `low` is drawn at the left edge as an arrow; what has no number is left out.
    """
    for number, (measure, standings) in enumerate(columns.items()):
        colour, shift = f"C{number}", 0.14 * (2 * number - len(columns) + 1)
        for line, standing in enumerate(standings):
            if not np.isfinite(standing.mean):
                continue
            if standing.mean < low:
                axes.plot(low, line + shift, "<", color=colour, markersize=5, clip_on=False)
                continue
            axes.plot(standing.mean, line + shift, "os^D"[number], color=colour, markersize=5)
            if standing.interval is not None:
                axes.plot(standing.interval, [line + shift] * 2, color=colour, linewidth=1.6)
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
