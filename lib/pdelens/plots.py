"""Pictures of a model's heads: posters, drift against spread, dots by layer. Needs the extra `figures`."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .attention.heads import CLASSES, Heads

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

    `tiles` (layers, heads, side, side): a mean map, or mean attention by displacement; each is shown by the square
    root of its values over its own 99.5th percentile. `classes` (layers, heads) of `heads.CLASSES`. Layers run down,
    heads across; `blocks` puts that many runs of layers side by side. One picture is composed from all (hundreds of
    axes would take minutes), pixel by pixel as it is shown.

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
    _titles(figure, title, subtitle, left / width, above, width, total)
    _class_line(figure, classes, left / width, 0.14 / total)
    return figure


def _titles(figure: Figure, title: str, subtitle: str, edge: float, above: float, width: float, total: float) -> None:
    """Write a poster's head, and which way layers and heads run."""
    write = {"ha": "left", "va": "baseline", "transform": figure.transFigure}
    figure.text(edge, 1 - 0.36 / total, title, color=_INK, fontsize=17, fontweight="bold", **write)
    figure.text(edge, 1 - 0.60 / total, subtitle, color=_FAINT, fontsize=9, **write)
    corner = {"color": _FAINT, "fontsize": 7, "transform": figure.transFigure}
    figure.text(edge - 0.02 / width, 1 - 0.93 / total, "head \u2192", ha="right", va="baseline", **corner)
    figure.text(0.02 / width, 1 - (above + 0.05) / total, "layer \u2193", rotation=90, ha="left", va="top", **corner)


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
