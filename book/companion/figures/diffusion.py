"""Figures of what diffusion is worth: fits at fixed diffusivities, and each term's share of the velocity."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes


class Learnt(NamedTuple):
    """A fit whose diffusivity was free: the mean D that it found, what it reached, and the spread over seeds."""

    diffusivity: float
    value: float
    spread: float


def profile(axes: Axes, diffusivities: Sequence[float], values: Sequence[float], learnt: Learnt, colour: str) -> None:
    """Draw the agreement of fits at fixed D on a logarithmic axis, and the fit that chose its own as a point.

    The point's bar is the spread over seeds, drawn in both directions: what differs by less is noise. The panel ends
    where the fits do, so that a long bar leaves it rather than flatten them.
    """
    axes.plot(diffusivities, values, marker="o", color=colour, label="D fixed")
    look = {"marker": "D", "markersize": 6, "capsize": 3, "linestyle": "", "color": "black"}
    axes.errorbar(learnt.diffusivity, learnt.value, learnt.spread, label="D learnt", **look)
    everything = [*values, learnt.value]
    gap = max(0.35 * (max(everything) - min(everything)), 1e-3)
    axes.set(xscale="log", ylim=(min(everything) - gap, max(everything) + gap))
    axes.set_xticks(diffusivities, [f"{value:g}" for value in diffusivities])
    axes.minorticks_off()


def budget(axes: Axes, shares: Mapping[str, np.ndarray]) -> None:
    """Draw each term's share of the velocity's size by depth, as bars on top of one another."""
    base = np.zeros(len(next(iter(shares.values()))))
    for number, (term, values) in enumerate(shares.items()):
        axes.bar(range(len(base)), values, bottom=base, color=f"C{number}", label=term)
        base = base + values
    axes.set(xlabel="depth", ylim=(0, 1))
    axes.grid(axis="x", visible=False)
