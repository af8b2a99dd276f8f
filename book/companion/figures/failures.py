"""Figures of where equations fail: by layer, by the residual's width, by example and on changed inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from ..surrogates.failure_inputs import GROUPS, UNCHANGED, group_of
from ..surrogates.failure_layers import LAYERS, Losses
from .attention import attention_map
from .base import threshold

NULL: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1}
_COLOURS = dict(zip((UNCHANGED, *GROUPS), ("black", "#0173b2", "#de8f05", "#029e73", "#cc78bc"), strict=True))
_FEW_DECADES = 60
_MARKERS = {"image": "o", "text": "^"}


def logarithmic(axes: Axes) -> None:
    """Give an axis of shares a logarithmic scale with plain numbers, so many that it has at least two of them."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    between = (1, 2, 5) if high / low < _FEW_DECADES else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=between))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: "")


def non_affinities(axes: Axes, found: Mapping[str, np.ndarray]) -> None:
    """Draw the non-affinity of a teacher's states by layer: each token alone, with averages, and untrained."""
    axes.plot(LAYERS, found["state"], marker="o", label="each token alone")
    axes.plot(LAYERS, found["state-with-averages"], marker="s", label="and averages over tokens")
    axes.plot(LAYERS, found["state-untrained"], color="0.5", linestyle="--", marker=".", label="untrained twin")
    logarithmic(axes)


def widths(
    axes: Axes, found: Mapping[tuple[str, str, str], float], sharings: Mapping[str, str], names: Sequence[str]
) -> None:
    """Draw a measure against the residual's width, by (sharing, width, resolution).

    A colour for each sharing (its label beside it); filled: converged, open: at one Lie step a layer.
    """
    order = list(dict.fromkeys(width for _, width, _ in found))
    for number, (sharing, label) in enumerate(sharings.items()):
        look: dict[str, Any] = {"color": f"C{number}", "marker": "os"[number]}
        for resolution in ("converged", "1"):
            kind: dict[str, Any] = {"label": label} if resolution == "converged" else {"linestyle": ":", "mfc": "white"}
            axes.plot(range(len(order)), [found[sharing, width, resolution] for width in order], **look, **kind)
    axes.set_xticks(range(len(order)), list(names))
    axes.set_xlabel("hidden width of the residual")


def losses(axes: Axes, found: Losses) -> None:
    """Draw what is missed after each layer: means over seeds, with their range; dotted is the mean state."""
    drawn = {
        "equation, local": (found.local, "o"),
        "affine map, local": (found.affine, "s"),
        "equation, rolled out": (found.rolled, "^"),
    }
    for number, (label, (values, marker)) in enumerate(drawn.items()):
        axes.plot(LAYERS, values.mean(0), color=f"C{number}", marker=marker, label=label)
        axes.fill_between(LAYERS, values.min(0), values.max(0), color=f"C{number}", alpha=0.2, linewidth=0)
    axes.axhline(1, **NULL)
    logarithmic(axes)


def horizon(
    axes: Sequence[Axes], found: Mapping[str, tuple[np.ndarray, np.ndarray]], names: Mapping[str, str], end: float
) -> None:
    """Draw attention's cosine (first panel) and the share of the states missed (second) by layer.

    `found` holds both by equation, as `names` calls them, and the nulls' under `null`; the vertical line stands where
    the shorter calibration ended.
    """
    for number, (family, label) in enumerate(names.items()):
        for axis, values in zip(axes, found[family], strict=True):
            axis.plot(LAYERS, values, marker="os"[number], color=f"C{number}", label=label)
    for axis, values in zip(axes, found["null"], strict=True):
        axis.plot(LAYERS, values, label="null", **NULL)
        axis.axvline(end, color="0.5", linewidth=1)
    threshold(axes[0], where=0.02)
    logarithmic(axes[1])


def margins(axes: Axes, known: Mapping[str, np.ndarray], cosines: np.ndarray, nulls: Mapping[str, float]) -> None:
    """Draw every example: the teacher's margin against the cosine of attention, by whether the teacher is right.

    Each of the `nulls` is a line at what it has on average, named at its right end.
    """
    right = known["teacher is right"] > 0.5
    for chosen, marker, label in ((right, "o", "teacher right"), (~right, "x", "teacher wrong")):
        x, y = known["margin of the teacher"][chosen], cosines[chosen]
        axes.scatter(x, y, s=18, marker=marker, alpha=0.75, label=label)
    lowest = min(nulls.values())
    for name, value in nulls.items():
        axes.axhline(value, **NULL)
        # Above its line, or below where another null's lies above it.
        place, gap = ("top", -2) if value == lowest < max(nulls.values()) else ("bottom", 2)
        look = {"textcoords": "offset points", "ha": "right", "va": place, "fontsize": 8}
        axes.annotate(name, (0.99, value), (0, gap), xycoords=axes.get_yaxis_transform(), **look)
    threshold(axes, where=0.02)
    axes.set(ylim=(None, 1.02))


def example(axes: Sequence[Axes], picture: Any, maps: Sequence[Any], title: str) -> None:
    """Draw a picture above the teacher's and the equation's attention map (queries, keys), on one square-root scale."""
    axes[0].imshow(np.asarray(picture), cmap="gray_r")
    axes[0].set_title(title, fontsize=10)
    axes[0].set(xticks=[], yticks=[])
    axes[0].grid(False)
    roots = [np.sqrt(np.asarray(weights)) for weights in maps]
    largest = float(np.quantile(roots[0], 0.995))
    for axis, weights, who in zip(axes[1:], roots, ("teacher", "equation"), strict=True):
        attention_map(axis, weights, who, largest)
        axis.set(xlabel="", ylabel="")


def shifts(axes: Axes, found: Mapping[str, Mapping[str, Mapping[str, float]]], measure: str) -> None:
    """Draw a measure on changed inputs against how far the teacher is moved, by modality and shift.

    A colour for each kind of change; crosses: the mean map on the same inputs.
    """
    for kind, rows in found.items():
        for name, row in rows.items():
            marker, size = ("*", 70) if name == UNCHANGED else (_MARKERS[kind], 34)
            colour = _COLOURS[group_of(kind, name)]
            axes.scatter(row["moved"], row[measure], s=size, alpha=0.85, color=colour, marker=marker)
            axes.scatter(row["moved"], row["mean map"], s=14, color="0.6", marker="x")
    threshold(axes, where=0.3)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set_xticks([0, 0.1, 0.3, 1, 3], ["0", "0.1", "0.3", "1", "3"])
    axes.set(xlabel="teacher moved, share of variance", xlim=(-0.02, 3.2), ylim=(0, 1.04))


def shift_legend(axes: Axes, **look: Any) -> None:
    """Name the kinds of change by their colours, and the null."""
    for group, colour in _COLOURS.items():
        axes.scatter([], [], color=colour, s=30, marker="*" if group == UNCHANGED else "o", label=group)
    axes.scatter([], [], color="0.6", s=20, marker="x", label="mean map")
    axes.legend(**look)
