"""Figures of gradients: curves over depth, gradients by pixels and by pieces, singular values, volume, normality."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

# How each is drawn, by name. What shares the teacher's weights or states is coloured, nulls are grey.
LOOKS: dict[str, dict[str, Any]] = {
    "teacher": {"color": "black", "linewidth": 2.6, "label": "Transformer"},
    "three laws": {"color": "#0173b2", "linewidth": 1.8, "marker": "o", "label": "equation (three laws)"},
    "one law": {"color": "#56b4e9", "linewidth": 1.4, "marker": "s", "label": "equation (one law)"},
    "given the last gradient": {
        "color": "#0173b2",
        "linewidth": 1.1,
        "linestyle": ":",
        "label": "three laws, given the last gradient",
    },
    "one-step field": {"color": "#b40426", "linewidth": 1.3, "linestyle": "--", "label": "one-step field (network)"},
    "one-step field, solved": {
        "color": "#b40426",
        "linewidth": 1.1,
        "linestyle": ":",
        "label": "one-step field, solved",
    },
    "other seeds": {"color": "#029e73", "linewidth": 1.4, "label": "other seeds' Transformers"},
    "another seed's teacher": {"color": "#029e73", "linewidth": 1.4, "label": "another seed's Transformer"},
    "identity": {"color": "0.55", "linewidth": 1.4, "linestyle": "--", "label": "identity"},
    "affine maps": {"color": "0.55", "linewidth": 1.2, "linestyle": "-.", "label": "affine maps"},
    "untrained": {"color": "#de8f05", "linewidth": 1.4, "linestyle": "-.", "label": "untrained Transformer"},
}
# Of a layer's normalisation.
NORMS: dict[str, dict[str, Any]] = {
    "LayerNorm before": {"color": "black", "linewidth": 1.8, "marker": "o"},
    "LayerNorm after": {"color": "#0173b2", "linewidth": 1.5, "marker": "s"},
    "dynamic tanh": {"color": "#de8f05", "linewidth": 1.5, "marker": "^"},
    "no norm": {"color": "#b40426", "linewidth": 1.5, "marker": "D"},
}
# Short names above gradients.
SHORT = {
    "teacher": "Transformer",
    "three laws": "equation",
    "one-step field": "one step",
    "one-step field, solved": "one step,\nsolved",
    "seed 1": "another\nseed",
    "mean of its class": "mean of\nits class",
}


def curves(axes: Axes, found: Mapping[str, np.ndarray], start: int = 0) -> None:
    """Draw a measure over depth, a line a name (as in `LOOKS`): the mean over seeds, their range as a band.

    Each is (seeds, depths), the first at depth `start`. The Transformer's line is broad and lies below the others.
    """
    for name, look in LOOKS.items():
        each = found.get(name, np.empty(0))
        if not each.size:
            continue
        places = np.arange(each.shape[1]) + start
        axes.plot(places, each.mean(0), markersize=3.5, zorder=1 if name == "teacher" else 3, **look)
        if len(each) > 1:
            axes.fill_between(places, each.min(0), each.max(0), color=look["color"], alpha=0.15, linewidth=0)
    axes.tick_params(labelsize=8.5)


def picture_row(axes: Sequence[Axes], pixels: np.ndarray, found: Mapping[str, np.ndarray], cosines, title: str) -> None:
    """Draw a picture, and beside it its gradients (side, side), blue below zero, red above, each to its own largest.

    `cosines` by name are with the first of them, the Transformer's.
    """
    axes[0].imshow(pixels, cmap="gray_r")
    axes[0].set_title(title, fontsize=8.5)
    for panel, (name, gradient) in zip(axes[1:], found.items(), strict=True):
        top = float(np.quantile(abs(gradient), 0.995))
        panel.imshow(gradient, cmap="RdBu_r", vmin=-top, vmax=top, interpolation="nearest")
        panel.set_title(SHORT[name] + ("" if name == "teacher" else f": {cosines[name]:.2f}"), fontsize=8.5)
    for panel in axes:
        panel.set(xticks=[], yticks=[])
        panel.grid(visible=False)


def saliency_columns(
    axes: Axes, words: Sequence[str], found: Mapping[str, np.ndarray], ranks: Mapping[str, float]
) -> None:
    """Draw the share of each piece of a text (down) in the saliency, a column a name, dark where it is large.

    `ranks` by name are the rank correlations with the first column, the Transformer's.
    """
    shares = 100 * np.array([found[name] for name in found]).T
    drawn = axes.imshow(shares, cmap="magma_r", vmin=0, vmax=np.quantile(shares, 0.99), aspect="auto")
    axes.grid(visible=False)
    axes.set_yticks(range(len(words)), words, fontsize=6.5)
    labels = [SHORT[name] + ("" if name == "teacher" else f"\n{ranks[name]:.2f}") for name in found]
    axes.set_xticks(range(len(found)), labels, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of saliency, per cent", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)


def units(axes: Axes, found: Mapping[str, np.ndarray]) -> None:
    """Draw a number for each layer, or unit of depth-time, (seeds, layers) by name: mean and range over seeds."""
    curves(axes, found, start=1)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.set_xticks(range(1, 7))


def placements(axes: Axes, trained: Mapping[str, np.ndarray], begun: Mapping[str, np.ndarray], start: int) -> None:
    """Draw a measure over depth by normalisation, each (seeds, depths), the first at `start`.

    Trained networks as full lines, as they began as broken ones of the same colour; the range over seeds as a band.
    """
    for name, look in NORMS.items():
        for found, style, label in ((trained[name], "-", name), (begun[name], "--", f"{name}, untrained")):
            places = np.arange(found.shape[1]) + start
            axes.plot(places, found.mean(0), linestyle=style, markersize=3.5, label=label, **look)
            if len(found) > 1:
                axes.fill_between(places, found.min(0), found.max(0), color=look["color"], alpha=0.15, linewidth=0)
    axes.axhline(0, color="0.3", linewidth=0.8)
    axes.tick_params(labelsize=8.5)


def span(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some numbers as a table shows them, or the one that there is.

    >>> span([0.8323, 0.25]), span([14.55]), span([float("inf"), 2.0])
    ('0.25 to 0.83', '15', '2 to no path')
    """
    low, high = (f"{one:.2g}" if np.isfinite(one) else "no path" for one in (min(values), max(values)))
    return low if len(values) == 1 else f"{low} to {high}"
