"""Figures of which steps are stable, and of how fast errors fall with the step."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from .base import THRESHOLD_COLOUR

# From what keeps the maximum principle to what grows.
KEPT = ListedColormap(["#30668c", "#9cc5c9", "#f2efe6"])
# Lines of the proved regions, in diffusion steps and attention steps on a grid: of the sum, and term by term.
TRIANGLE, RECTANGLE = ([0, 0.25], [1, 0]), ([0, 0.25, 0.25], [1, 1, 0])


def step_map(axes: Axes, diffusion_steps, attention_steps, found, split: bool, title: str) -> None:
    """Draw what steps do, (attention steps, diffusion steps): 0 dark, 1 middle, 2 light; in red the proved region."""
    axes.pcolormesh(diffusion_steps, attention_steps, found, cmap=KEPT, vmin=0, vmax=2)
    axes.plot(*(RECTANGLE if split else TRIANGLE), color=THRESHOLD_COLOUR, linewidth=1.6)
    axes.set(title=title, xlabel=r"diffusion step $D\tau$")
    axes.grid(False)


def orders(axes: Axes, found: Mapping[str, tuple[int, Sequence[float], Sequence[float]]]) -> None:
    """Draw errors over steps, both logarithmic, and through the finest point a line of the nominal order.

    `found` has for each name its order, its steps from coarse to fine, and an error for each.
    """
    for number, (name, (order, steps, errors)) in enumerate(found.items()):
        axes.loglog(steps, errors, linestyle="none", marker="osD^v"[number], color=f"C{number}", label=name)
        line = errors[-1] * (np.array(steps) / steps[-1]) ** order
        axes.loglog(steps, line, color=f"C{number}", linewidth=1)
        axes.set_xticks(steps, [f"1/{1 / step:.0f}" for step in steps])
    axes.minorticks_off()
