"""Figures of information that flows: strips of tokens over depth, profiles, maps of influence, paths in a plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from .base import keep_look

# How a teacher and what stands beside it are drawn, by name.
LOOKS: dict[str, dict[str, Any]] = {
    "teacher": {"color": "black", "linewidth": 2.6, "label": "Transformer"},
    "three laws": {"color": "#0173b2", "linewidth": 1.8, "marker": "o", "label": "equation (three laws), solved"},
    "one law": {"color": "#56b4e9", "linewidth": 1.2, "marker": "s", "label": "equation (one law), solved"},
    "one-step field": {"color": "#b40426", "linewidth": 1.2, "linestyle": "--", "label": "one-step field"},
    "one-step field, solved": {"color": "#b40426", "linewidth": 1, "linestyle": ":", "label": "one-step field, solved"},
    "another seed's teacher": {"color": "#029e73", "linewidth": 1.2, "label": "another seed's Transformer"},
    "mean state": {"color": "0.6", "linewidth": 1.2, "linestyle": "-.", "label": "mean state"},
    "identity": {"color": "0.6", "linewidth": 1.2, "linestyle": "--", "label": "identity"},
    "heat equation": {"color": "#de8f05", "linewidth": 1, "linestyle": ":", "label": "heat equation"},
}
MEASURES = {
    "norm": "rms of tokens",
    "cosine": "cosine of pairs",
    "rank": "effective rank",
    "clusters": "clusters (cosine > .9)",
}
_STRIP = "RdBu_r"


def strip_figure(rows: int, columns: int, height: float, first: float = 1.0) -> tuple[Figure, np.ndarray]:
    """Return a figure of panels, as wide as the text; the first column is `first` times as wide as the others."""
    ratios = {"width_ratios": [first, *[1.0] * (columns - 1)]}
    figure, axes = plt.subplots(rows, columns, figsize=(8.2, height * rows), squeeze=False, gridspec_kw=ratios)
    keep_look(figure)
    return figure, axes


def picture(axes: Axes, pixels: np.ndarray, patches: int, title: str) -> None:
    """Draw a picture with the grid of its patches, whose rows are the tokens from the first to the last."""
    side = len(pixels)
    axes.imshow(pixels, cmap="gray_r")
    for place in np.arange(0, side + 1, side / patches) - 0.5:
        axes.axhline(place, color="#de8f05", linewidth=0.5)
        axes.axvline(place, color="#de8f05", linewidth=0.5)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8.5)


def strip(axes: Axes, values: np.ndarray, reach: float, title: str, names: Sequence[str] = ()) -> None:
    """Draw one number for each token (down) and depth (across), blue below zero and red above, full at `reach`."""
    axes.imshow(values, cmap=_STRIP, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(0, values.shape[1], 2))
    axes.set_yticks(range(len(names)), list(names), fontsize=5.5)
    axes.tick_params(axis="both", labelsize=7.5 if not names else 5.5, length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(visible=False)
    axes.set_title(title, fontsize=8.5)


def strip_scale(figure: Figure, axes: np.ndarray, reach: float, label: str) -> None:
    """Add the one colour scale of all strips, below them."""
    scale = ScalarMappable(Normalize(-reach, reach), _STRIP)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", fraction=0.03, aspect=60, pad=0.02)
    bar.set_label(label, fontsize=8.5)
    bar.ax.tick_params(labelsize=8)


def profile(axes: Axes, curves: Mapping[str, torch.Tensor], logarithmic: bool = False) -> None:
    """Draw a measure over depth, a line a name (as in `LOOKS`): the mean over seeds, and their range as a band.

    Each of `curves` is (seeds, depths). The Transformer's line is broad and lies below the others.
    """
    for name, look in LOOKS.items():
        if name not in curves:
            continue
        each = curves[name].numpy()
        under = {"zorder": 1} if name == "teacher" else {"zorder": 3}
        axes.plot(each.mean(0), markersize=3, **look, **under)
        if len(each) > 1:
            axes.fill_between(
                range(each.shape[1]), each.min(0), each.max(0), color=look["color"], alpha=0.15, linewidth=0
            )
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xticks(range(0, 7, 2))
    axes.tick_params(labelsize=8)


def influence_map(axes: Axes, shares: np.ndarray, top: float, title: str, note: str = "") -> None:
    """Draw a map of influence, rows the influenced, columns those who did; the diagonal is left out (grey)."""
    shown = np.array(shares, dtype=float)
    np.fill_diagonal(shown, np.nan)
    colours = plt.get_cmap("magma_r").copy()
    colours.set_bad("0.85")
    axes.imshow(shown, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.set_title(title, fontsize=8.5)
    axes.set_xlabel(note, fontsize=8)


def plane_paths(axes: Axes, paths: np.ndarray, title: str) -> None:
    """Draw where tokens go in the plane, (times, tokens, 2): thin lines, hollow where they start, full where they end.

    Colour is a token's place, from the first (dark) to the last (bright).
    """
    colours = token_colours(paths.shape[1])
    for token, colour in enumerate(colours):
        axes.plot(*paths[:, token].T, color=colour, linewidth=0.6, alpha=0.6)
    axes.scatter(*paths[0].T, s=10, facecolors="white", edgecolors=colours, linewidths=0.8, zorder=3)
    axes.scatter(*paths[-1].T, s=14, c=colours, zorder=4)
    axes.set_title(title, fontsize=9.5)
    axes.tick_params(labelsize=8)


def token_colours(count: int) -> list[str]:
    """Return a colour for each place of a token, readable on white and on dark ground."""
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in plt.get_cmap("plasma")(np.linspace(0.15, 0.85, count))]
