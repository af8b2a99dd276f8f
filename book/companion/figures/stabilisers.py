"""The map of training: a panel for each depth, a row for each network, a column for each learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

RESIDUAL_LABELS = {"plain": "plain", "scaled": "scaled", "none": "none", "skipless": "none,\nconditioned"}
NORM_LABELS = {
    "pre": "LayerNorm before",
    "post": "LayerNorm after",
    "rms": "RMSNorm before",
    "dyt": "dynamic tanh",
    "derf": "dynamic erf",
    "none": "no norm",
}
COLOURS = "viridis_r"


def loss_map(
    axes: Axes, losses: np.ndarray, diverged: np.ndarray, rates: Sequence[float], ends: tuple[float, float]
) -> None:
    """Draw held-out losses (networks, rates) as colours between `ends`, dark is low.

    A dot marks the lowest loss of a row, a cross where cells diverged, the larger the more of them: `diverged`
    (networks, rates) is their share. A loss that is not known is left white.
    """
    axes.imshow(np.ma.masked_invalid(losses), cmap=COLOURS, norm=Normalize(*ends), aspect="auto", interpolation="none")
    for row, column in zip(*np.nonzero(diverged > 0), strict=True):
        size = 2 + 4 * float(diverged[row, column])
        axes.plot(column, row, "x", color="#b40426", markersize=size, markeredgewidth=1.1)
    for row, values in enumerate(losses):
        if np.isfinite(values).any():
            axes.plot(int(np.nanargmin(values)), row, "o", color="white", markersize=4, markeredgecolor="black")
    axes.set_xticks(
        range(len(rates)), [_short(rate) for rate in rates], rotation=60, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(losses)), [])
    axes.grid(False)


def loss_scale(figure: Figure, axes: Sequence[Axes], ends: tuple[float, float], label: str) -> None:
    """Draw the maps' colours beside them."""
    mapped = ScalarMappable(Normalize(*ends), COLOURS)
    figure.colorbar(mapped, ax=list(axes), label=label, fraction=0.025, pad=0.01)


def names(axes: Axes, normalisations: Sequence[str]) -> None:
    """Name a panel's rows."""
    axes.set_yticks(range(len(normalisations)), [NORM_LABELS[one] for one in normalisations])


def edges(axes: Axes, found: Mapping[str, Mapping[int, tuple[float, float, float]]], looks: Mapping[str, Any]) -> None:
    """Draw by network the largest stable rate against depth, (mean, low, high) of a line by depth."""
    for name, by_depth in found.items():
        depths = sorted(by_depth)
        mean, low, high = np.array([by_depth[depth] for depth in depths]).T
        axes.plot(depths, mean, label=name, **looks[name])
        axes.fill_between(depths, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="layers", yscale="log")


def _short(rate: float) -> str:
    return f"{rate:.1g}" if rate < 0.01 else f"{rate:.2g}"
