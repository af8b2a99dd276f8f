"""Figures of a pretrained model's heads: how far they look, how far they move, and what single ones look at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pdelens.plots import COLOURS, dots_by_layer, head_picture

from .attention import photograph
from .base import sequence


def mass_curves(axes: Axes, within: Mapping[float, np.ndarray], even: Mapping[float, float]) -> None:
    """Draw each radius's mass near the query, heads (any shape) from the largest to the smallest.

    `even`, by radius: the even head's, dashed in the same colour.
    """
    axes.plot([], [], color="0.35", linestyle="--", linewidth=1.1, label="even head")
    for (radius, values), colour in zip(within.items(), sequence(len(within)), strict=True):
        ordered = np.sort(values.ravel())[::-1]
        share = (np.arange(len(ordered)) + 0.5) / len(ordered)
        axes.plot(share, ordered, color=colour, label=f"within {radius:g}")
        axes.axhline(even[radius], color=colour, linestyle="--", linewidth=1.1)
    axes.set(xlabel="heads, the most local first", ylim=(-0.02, 1.02), xlim=(0, 1))
    axes.set_xticks([0, 0.5, 1], ["0", "half", "all"])


def drift_against_spread(
    axes: Axes, heads: tuple[np.ndarray, np.ndarray], twin: tuple[np.ndarray, np.ndarray], classes: np.ndarray
) -> None:
    """Draw each head by its spread and the length of its mean drift, in its class's colour; the twin's in grey.

    `heads` and `twin`: spread and drift, (layers, heads) each. The dashed line is where both are equal. Axes are
    logarithmic.
    """
    # Crosses on top: behind a mask the twin's heads lie among the trained ones.
    cross = {"color": "0.25", "markersize": 3.5, "markeredgewidth": 0.7, "zorder": 3}
    axes.plot(*(value.ravel() for value in twin), "x", label="untrained twin", **cross)
    for name, colour in COLOURS.items():
        chosen = classes == name
        if chosen.any():
            x, y = (value[chosen] for value in heads)
            axes.plot(x, y, "o", color=colour, markersize=4, alpha=0.85, markeredgewidth=0, label=name)
    axes.plot([0.1, 30], [0.1, 30], color="0.35", linewidth=1, linestyle="--")
    axes.set(xlabel="spread (lattice units)", xscale="log", yscale="log", xlim=(0.15, 20), ylim=(0.02, 40))
    axes.set_xticks([0.2, 1, 5, 20], ["0.2", "1", "5", "20"])
    axes.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    axes.minorticks_off()


def by_layer(axes: Axes, heads: np.ndarray, twin: np.ndarray, name: str, colour: str, **line: Any) -> None:
    """Draw every head (layers, heads) as a dot with each layer's median as a line; the twin's medians as another.

    `line` styles the twin's line, which is dashed in the same colour otherwise.
    """
    dots_by_layer(axes, heads, colour, name)
    look: dict[str, Any] = {"color": colour, "linestyle": "--"} | line
    axes.plot(np.median(twin, 1), **look)
    axes.set(xlabel="layer")


def against_even(
    axes: Axes, trained: np.ndarray, twin: np.ndarray, even: np.ndarray, one: np.ndarray, name: str
) -> None:
    """Draw causal heads (heads, places) by how much lies before the query: 1, 2, ... tokens.

    The trained heads' median with the band of nine in ten, the twin's median as dots, the even head in black (places),
    and one head in pink with its name.
    """
    back = np.arange(1, trained.shape[1] + 1)
    low, middle, high = np.quantile(trained, [0.05, 0.5, 0.95], axis=0)
    axes.fill_between(back, low, high, color="#56b4e9", alpha=0.3)
    axes.plot(back, middle, color="#1c7db5", label="trained heads")
    axes.plot(back[::2], np.median(twin, 0)[::2], "o", color="0.6", markersize=4, label="untrained twin")
    axes.plot(back, even, color="black", linewidth=1.2, label="even head")
    axes.plot(back, one, color=COLOURS["advective"], label=name)
    axes.set(xlabel="tokens before the query")


def remainders(axes: Axes, each: Mapping[str, np.ndarray]) -> None:
    """Draw what each picture of the heads leaves out, a row of dots with its median as a bar, the first one on top.

    `each`, by the picture's name: one remainder a head. The dashed line is 1, no better than doing nothing.
    """
    random = np.random.default_rng(0)
    for place, values in enumerate(each.values()):
        axes.scatter(values, place + random.uniform(-0.2, 0.2, len(values)), s=7, alpha=0.6, color=f"C{place}")
        axes.vlines(np.median(values), place - 0.36, place + 0.36, color="black", linewidth=1.8)
    axes.axvline(1, color="0.35", linewidth=1, linestyle="--")
    axes.set(xscale="log", xlabel="remainder", ylim=(len(each) - 0.5, -0.5))
    axes.set_yticks(range(len(each)), list(each))
    axes.grid(axis="y", visible=False)


def queried(axes: Axes, image: np.ndarray, query: tuple[int, int], patches: int, title: str) -> None:
    """Draw a square picture with one of its patches marked: row and column, of so many a side."""
    patch = image.shape[0] / patches
    photograph(axes, image, (query[1] * patch, query[0] * patch, patch), title)


def portrait(axes: Axes, attention: Any, names: Sequence[str], place: tuple[int, int], kind: str) -> None:
    """Draw one head's map under all that it is furthest in, in a frame of its class's colour."""
    title = ",\n".join(names)
    head_picture(axes, attention, f"{title}\n{place[0]}.{place[1]}", COLOURS[kind])
