"""The map of training, edges of stability and gradients by depth, and what heat costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from .base import sequence

RESIDUAL_LABELS = {"plain": "plain", "scaled": "scaled", "none": "none", "skipless": "none,\nconditioned"}
NORM_LABELS = {
    "pre": "LayerNorm before",
    "post": "LayerNorm after",
    "rms": "RMSNorm before",
    "dyt": "dynamic tanh",
    "derf": "dynamic erf",
    "none": "no norm",
}
SWITCH_LABELS = {
    "clipped": "gradients clipped to length 1",
    "cold": "no warm-up",
    "small": "branches begin ten times smaller",
}
COLOURS = "viridis"
_LINE: dict[str, Any] = {"markersize": 4, "capsize": 2, "linewidth": 1.3}
NORM_LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": colour, "marker": marker, "label": NORM_LABELS[name], **_LINE}
    for name, colour, marker in (
        ("pre", "#0173b2", "o"),
        ("post", "#56b4e9", "s"),
        ("rms", "#029e73", "^"),
        ("dyt", "#de8f05", "v"),
        ("derf", "#cc78bc", "D"),
        ("none", "#b40426", "X"),
    )
}


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
        axes.plot(column, row, "x", color="#b40426", markersize=size, markeredgewidth=1.3)
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
    axes.set_yticks(range(len(normalisations)), [NORM_LABELS[one] for one in normalisations], fontsize=7.5)


def network_label(name: str) -> str:
    """Return a network of the map in words, by its record's name.

    >>> network_label("stabilisers-image-skipless-none-12")
    'conditioned, no norm'
    """
    _, _, residual, norm, _ = name.split("-")
    words = {"plain": "plain", "scaled": "scaled", "none": "no connection", "skipless": "conditioned"}
    return f"{words[residual]}, {NORM_LABELS[norm]}"


def edges(
    axes: Axes, found: Mapping[str, Mapping[int, tuple[float, float, float]]], depths: Sequence[int], top: float
) -> None:
    """Draw a rate against the depths, a line for each normalisation (as in `NORM_LOOKS`), (mean, low, high) by depth.

    Lines are set side by side, since many lie on one another; what is missing has no such rate. `top` is the largest
    rate of the grid.
    """
    for place, (name, by_depth) in enumerate(found.items()):
        own = sorted(by_depth)
        mean, low, high = np.array([by_depth[depth] for depth in own]).T
        shifted = np.array(own) * 1.025 ** (place - (len(found) - 1) / 2)
        axes.errorbar(shifted, mean, np.maximum((mean - low, high - mean), 0), **NORM_LOOKS[name])
    axes.axhline(top, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(depths[0] / 1.3, depths[-1] * 1.3))
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def by_depth(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Draw a number at every depth, a line for each normalisation: geometric mean over seeds, and their range."""
    for name, values in curves.items():
        logs = np.log(values)
        look: dict[str, Any] = {part: NORM_LOOKS[name][part] for part in ("color", "label", "linewidth")}
        axes.plot(range(values.shape[1]), np.exp(logs.mean(0)), **look)
        _range(axes, range(values.shape[1]), values, look["color"])
    axes.set(yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def heat_costs(axes: Axes, curves: Mapping[float, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw what heat costs at every depth: a colour an amount, on the lattice (lines) and among strangers (dashes).

    `curves` by amount: (seeds, depths) each; means over seeds, with their range.
    """
    colours = sequence(len(curves))
    for colour, (amount, both) in zip(colours, curves.items(), strict=True):
        for values, style in zip(both, ("-", "--"), strict=True):
            label = f"{amount:g}" if style == "-" else None
            axes.plot(range(values.shape[1]), values.mean(0), style, color=colour, linewidth=1.5, label=label)
            _range(axes, range(values.shape[1]), values, colour)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def both(axes: Axes, one: np.ndarray, other: np.ndarray, labels: tuple[str, str], first: int = 1) -> None:
    """Draw two sets of curves over depth (seeds, depths), the first depth being `first`; the second is dashed."""
    for values, style, colour, label in zip((one, other), ("-", "--"), ("#0173b2", "0.45"), labels, strict=True):
        x = range(first, first + values.shape[1])
        axes.plot(x, values.mean(0), style, color=colour, linewidth=1.6, label=label)
        _range(axes, x, values, colour)
    axes.set_ylim(bottom=0)


def _range(axes: Axes, x: Sequence[int], values: np.ndarray, colour: Any) -> None:
    """Shade the range over seeds of values (seeds, depths)."""
    axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)


def _short(rate: float) -> str:
    return f"{rate:.1g}" if rate < 0.01 else f"{rate:.2g}"
