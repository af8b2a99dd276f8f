"""Figures of heads as drift and diffusion: a head wave by wave, where heads look, and what approximations leave."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from .attention import drift_field
from .base import strips

# The approximations of a head as tables name them, in a strip plot's order; the last two are nulls.
APPROXIMATIONS = {
    "taylor": "one step",
    "generator": "generator",
    "matched": "matched row",
    "stencil": "stencil",
    "mean map": "mean map",
    "matched elsewhere": "null: shuffled",
    "uniform": "null: uniform",
}


def decay(axes: Axes, wave: np.ndarray, eigenvalues: np.ndarray, diffusivity: float, name: str) -> None:
    """Draw a head's log eigenvalues (points) with `-D k^2` (line) and the generator's `log(1 - D k^2)` (dashed)."""
    shown = eigenvalues > 1e-6  # below, rounding
    drawn = axes.plot(wave[shown], np.log(eigenvalues[shown]), "o", markersize=3.5, label=name)
    colour = drawn[0].get_color()
    axes.plot(wave, -diffusivity * wave**2, color=colour, linewidth=1)
    linear = 1 - diffusivity * wave**2
    kept = linear > 1e-3
    axes.plot(wave[kept], np.log(linear[kept]), "--", color=colour, linewidth=1)
    axes.set(xlabel="wave number $k$", ylabel="log eigenvalue", ylim=(-8, 0.3), xlim=(0, 3.2))


def drift_fields(axes: np.ndarray, drift: np.ndarray, spread: np.ndarray, shape: tuple[int, int]):
    """Draw every head's field in a panel of its own; return the last image, for a colour bar.

    `axes` (layers, heads), `drift` (layers, heads, places, 2) and `spread` (layers, heads, places), in patches.
    """
    image = None
    for (layer, head), axis in np.ndenumerate(axes):
        look = spread[layer, head].reshape(shape)
        image = drift_field(axis, drift[layer, head], look, f"{layer}.{head}")
    return image


def left_over(axes: np.ndarray, found: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Draw remainders, a panel a model: `found[model][name]` (layers, heads), logarithmic, 1 as a black line."""
    for axis, (model, values) in zip(axes, found.items(), strict=True):
        strips(axis, {name: values[key].ravel() for key, name in APPROXIMATIONS.items()})
        for tick in axis.get_xticklabels():
            tick.set(rotation=40, ha="right", rotation_mode="anchor")
        axis.axhline(1, color="black", linewidth=1)
        axis.set(yscale="log", title=model)
    axes[0].set_ylabel("remainder")
