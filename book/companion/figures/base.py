"""One look for all figures, and the drawings that several pages share."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ..records import keep_look

THRESHOLD_COLOUR = "#b40426"
PALETTE = "colorblind"


def style() -> None:
    """Set the book's look: call once at a chapter's start."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, font="DejaVu Sans")
    plt.rcParams.update(
        {
            "figure.dpi": 150,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 11,
            "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9,
            "legend.frameon": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "white",
        }
    )


def panels(columns: int, rows: int = 1, width: float = 8.2, height: float = 3.2, **kwargs) -> tuple[Figure, np.ndarray]:
    """Return a figure of so many panels, as wide as the page's text."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **kwargs)
    keep_look(figure)
    return figure, axes


def threshold(axes: Axes, value: float = 0.98, label: bool = True, where: float = 0.02) -> None:
    """Draw a claim's bar as a red dashed line, named at its left."""
    axes.axhline(value, color=THRESHOLD_COLOUR, linestyle="--", linewidth=1.3, zorder=5)
    if label:
        look: dict[str, Any] = {"color": THRESHOLD_COLOUR, "fontsize": 9, "va": "center", "ha": "left", "zorder": 6}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        axes.text(where, value, f"{value:g}", transform=axes.get_yaxis_transform(), bbox=box, **look)


def sequence(count: int) -> list:
    """Return so many colours in order, pale to dark: for depths, noise levels and other ordered lines."""
    return list(sns.color_palette("flare", count))


def legend(axes: Axes, **kwargs) -> None:
    """Add a legend and return nothing, so that a cell may end with it."""
    axes.legend(**kwargs)


def points_with_range(axes: Axes, x: np.ndarray, samples: Sequence[np.ndarray], label: str) -> str:
    """Draw each sample's mean with the range that holds 95 % of it; return the colour used."""
    means = np.array([np.mean(sample) for sample in samples])
    low, high = np.array([np.quantile(sample, [0.025, 0.975]) for sample in samples]).T
    errors = np.maximum([means - low, high - means], 0)
    drawn = axes.errorbar(x, means, yerr=errors, fmt="o", markersize=3.5, elinewidth=1, label=label)
    return to_hex(drawn.lines[0].get_color())


def grouped_boxes(axes: Axes, samples: dict[tuple[int, float], np.ndarray], group: str, label: str) -> None:
    """Draw a box a sample, keyed by (group, member): groups side by side, members by colour."""
    groups = list(dict.fromkeys(key[0] for key in samples))
    members = list(dict.fromkeys(key[1] for key in samples))
    rows = [(groups.index(g), f"{label}{m:g}", value) for (g, m), values in samples.items() for value in values]
    x, hue, y = (np.array(column) for column in zip(*rows, strict=True))
    order = [f"{label}{m:g}" for m in members]
    sns.boxplot(x=x, y=y, hue=hue, hue_order=order, whis=(0, 100), linewidth=0.9, ax=axes)
    axes.set_xticks(range(len(groups)), [str(g) for g in groups])
    axes.set_xlabel(group)
    if (legend := axes.get_legend()) is not None:  # its handles stay, for `legend` to show where it likes
        legend.remove()


def strips(axes: Axes, samples: dict[str, np.ndarray]) -> None:
    """Draw each sample as a column of dots with its median as a bar."""
    random = np.random.default_rng(0)
    for place, values in enumerate(samples.values()):
        axes.scatter(place + random.uniform(-0.18, 0.18, len(values)), values, s=9, alpha=0.65, color=f"C{place}")
        axes.hlines(np.median(values), place - 0.32, place + 0.32, color=f"C{place}", linewidth=2.2)
    axes.set_xticks(range(len(samples)), list(samples), fontsize=8)
    axes.grid(axis="x", visible=False)


def _heat_map(axes: Axes, values: np.ndarray, notes: np.ndarray | bool, size: float, **settings: Any) -> None:
    """Draw a matrix as a heat map with notes of this font size in its cells; row names stand upright."""
    shown: dict[str, Any] = {"cbar": False} | settings
    sns.heatmap(
        values, ax=axes, annot=notes, fmt="", annot_kws={"fontsize": size}, linewidths=0.4, linecolor="white", **shown
    )
    axes.tick_params(axis="y", rotation=0)
