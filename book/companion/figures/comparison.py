"""Figures of an equation's attention beside its teacher's: heads against their nulls, and the maps themselves."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from .attention import attention_map
from .base import THRESHOLD_COLOUR

# Cosines are drawn by the decades of what they lack, or heads near 1 lie on top of each other.
TICKS = (0, 0.5, 0.8, 0.9, 0.98, 0.999)
LEAST = 5e-4


def by_what_is_missing(axes: Axes) -> None:
    """Scale the y axis of cosines by the logarithm of `1 - cosine`: 0.9 lies half-way from 0 to 0.99."""

    def there(value):
        return -np.log10(np.maximum(1 - np.asarray(value, dtype=float), LEAST))

    axes.set_yscale("function", functions=(there, lambda height: 1 - 10.0 ** -np.asarray(height)))
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.set(ylim=(-0.15, 1 - LEAST))
    axes.minorticks_off()


def heads_beside_nulls(
    axes: Axes, ours: Mapping[int, np.ndarray], nulls: Mapping[int, np.ndarray], flat: float
) -> None:
    """Draw every head of every seed beside its best null, layer by layer, with the means over heads and seeds as lines.

    `ours[seed]` and `nulls[seed]` are cosines (layers, heads). Heads whose null is above `flat` are hollow.
    """
    found, null = (np.concatenate([by[seed] for seed in ours], axis=1) for by in (ours, nulls))
    layers = np.arange(1, len(found) + 1)
    inside = np.linspace(-0.13, 0.13, found.shape[1])
    kinds = ((null, -0.2, "0.45", "best null of each head"), (found, 0.2, "C0", "equation"))
    for values, shift, colour, label in kinds:
        x = layers[:, None] + shift + inside
        full, drawn = null <= flat, np.minimum(values, 1 - LEAST)
        axes.scatter(x[full], drawn[full], s=9, color=colour, linewidths=0, clip_on=False)
        axes.scatter(x[~full], drawn[~full], s=9, facecolors="none", edgecolors=colour, linewidths=0.7, clip_on=False)
        axes.plot(layers + shift, values.mean(1), color=colour, linewidth=1.6, label=label)
    axes.axhline(0.98, color=THRESHOLD_COLOUR, linestyle="--", linewidth=1.1)
    by_what_is_missing(axes)
    axes.set_xticks(layers)


def maps(axes: np.ndarray, teacher: np.ndarray, others: Mapping[str, np.ndarray], title: str) -> None:
    """Draw a teacher's map and others in a row of panels by one scale, with its colour bar at the row's right end."""
    # A few weights are far larger than all others; the scale ends where all but one in two hundred lie.
    largest = float(np.quantile(teacher, 0.995))
    for axis, (name, weights) in zip(axes, ({title: teacher} | dict(others)).items(), strict=True):
        attention_map(axis, weights, name, largest)
    image = axes[-1].images[0]
    axes[-1].figure.colorbar(image, ax=list(axes), shrink=0.85, pad=0.01, extend="max", format="%.2g")
