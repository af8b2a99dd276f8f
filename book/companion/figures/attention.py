"""Figures of attention maps and heads, and of the photographs that they look at."""

import numpy as np
from matplotlib.axes import Axes

from pdelens.plots import COLOURS

from .base import THRESHOLD_COLOUR, _heat_map


def null_lines(axes: Axes, scores: dict[str, np.ndarray]) -> None:
    """Draw each null's score (layers, heads): a line through the mean over heads, a dot a head."""
    for number, (name, values) in enumerate(scores.items()):
        layers = np.arange(len(values))
        offset = 0.07 * (number - (len(scores) - 1) / 2)
        axes.plot(layers + offset, values.mean(1), marker="_", markersize=9, linewidth=1.4, label=name)
        x = np.repeat(layers + offset, values.shape[1])
        axes.scatter(x, values.ravel(), s=5, alpha=0.5, color=f"C{number}")
    axes.set_xticks(range(len(next(iter(scores.values())))))


def attention_map(axes: Axes, weights, title: str, largest: float | None = None) -> None:
    """Draw one attention map (queries, keys), dark where attention is; `largest` makes maps comparable."""
    low = None if largest is None else 0.0
    axes.imshow(np.asarray(weights), cmap="mako_r", interpolation="nearest", vmin=low, vmax=largest)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[], xlabel="keys", ylabel="queries")
    axes.grid(False)


def drift_field(axes: Axes, drift, spread, title: str, largest: float = 4.0):
    """Draw a head's drift (places, 2), in rows and columns of a grid, over its spread (rows, columns)."""
    rows, columns = np.asarray(spread).shape
    image = axes.imshow(np.asarray(spread), cmap="mako_r", vmin=0, vmax=largest)
    down, right = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    moved = np.asarray(drift).reshape(rows, columns, 2)
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.012, "color": THRESHOLD_COLOUR}
    axes.quiver(right, down, moved[..., 1], moved[..., 0], **arrows)
    axes.set_title(title, fontsize=8.5)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    return image


def layer_head_map(axes: Axes, values: np.ndarray, title: str, colourbar: bool = False, low: float = 0.0) -> None:
    """Draw values (layers, heads) as a heat map, with the numbers in it where there are at most 80."""
    notes = np.array([[f"{value:.2f}" for value in row] for row in values]) if values.size <= 80 else False
    _heat_map(axes, values, notes, 7.5, vmin=low, vmax=1, cmap="mako", cbar=colourbar)
    axes.set(xlabel="head", ylabel="layer", title=title)


def photograph(axes: Axes, image: np.ndarray, square: tuple[float, float, float], title: str) -> None:
    """Draw a photograph with one square (left, top, side, in pixels) marked."""
    axes.imshow(image)
    left, top, side = square
    x, y = (left, left + side, left + side, left, left), (top, top, top + side, top + side, top)
    for colour, width in (("white", 2.4), (COLOURS["advective"], 1.2)):
        axes.plot(x, y, color=colour, linewidth=width)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
