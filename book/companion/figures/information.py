"""Figures of the chapter on what can be estimated: channels, held-out tasks, neighbours, noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from ..estimators.results import Panel
from . import estimators
from .base import sequence

NEIGHBOURS = 10  # of the committed trials
_SHORT = {
    "multinormal": "mn",
    "student-identity": "student",
    "normal_cdf": "cdf",
    "swissroll_x-cdf": "swiss",
    "gaussian-": "",
    "1v1-": "",
}


def label(name: str, truth: float) -> str:
    """Return a task's name, cut short, and its truth in nats.

    >>> label("normal_cdf-1v1-normal-0.75", 0.4133)
    'cdf-normal-0.75  0.41'
    """
    for long, brief in _SHORT.items():
        name = name.replace(long, brief)
    return f"{name}  {truth:.2f}"


def ksg_ceiling(samples: int, neighbours: int = NEIGHBOURS) -> float:
    """Return the largest value of KSG's first estimator, psi(N) - psi(k + 1), in nats.

    >>> round(ksg_ceiling(3, 1), 3)  # psi(3) - psi(2) = 1/2
    0.5
    """
    high, low = torch.special.digamma(torch.tensor([samples, neighbours + 1], dtype=torch.float64)).tolist()
    return high - low


def channels(axes: np.ndarray, panel: Panel, widths: Sequence[int], sizes: Sequence[int]) -> None:
    """Draw estimates against truths on Gaussian channels: rows numbers of samples, columns dimensions of x and of y.

    Crosses: the same methods on independent crossings, where there are some of that width.
    """
    for row, size in zip(axes, sizes, strict=True):
        for axis, width in zip(row, widths, strict=True):
            drawn, crossed = (panel.curves(size, width, channel=channel) for channel in (True, False))
            estimators.estimates(axis, drawn, ksg_ceiling(size))
            for number, method in enumerate(drawn):
                if method in crossed:
                    axis.plot(*crossed[method], "x", color=f"C{number}", ms=5)
            axis.set_title(f"{width} + {width}, N = {size:,}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("true, nats")
    for axis in axes[:, 0]:
        axis.set_ylabel("estimated")


def intervals(axes: Axes, rows: Mapping[str, Sequence[dict[str, Any]]], truths: Mapping[str, float]) -> None:
    """Draw every result's value and interval over its task's truth, tasks side by side, methods by colour."""
    places = {task: place for place, task in enumerate(truths)}
    for number, (method, results) in enumerate(rows.items()):
        seeds = max(row["seed"] for row in results) + 1
        for row in results:
            truth, shift = truths[row["task"]], (number + row["seed"] / seeds) * 0.4 - 0.3
            x, (low, high) = places[row["task"]] + shift, np.array(row["interval"]) / truth
            axes.vlines(x, low, high, color=f"C{number}", linewidth=1.6)
            name = method if row is results[0] else None
            axes.plot(x, row["value"] / truth, "o", color=f"C{number}", markersize=3.5, label=name)
    axes.axhline(1, color="0.3", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(places)), [task.replace(", ", "\n") for task in places], fontsize=7.5)
    axes.set(ylabel="estimate / truth", ylim=(0, None))
    axes.grid(axis="x", visible=False)


def neighbours(axes: Axes, counts: Sequence[int], shares: Mapping[str, np.ndarray]) -> None:
    """Draw KSG's estimate over the truth against the number of neighbours, a line a task."""
    for (name, values), marker in zip(shares.items(), "os^Dv", strict=False):
        axes.semilogx(counts, values, marker=marker, markersize=4, linewidth=1.2, label=name)
    axes.axhline(1, color="0.3", linestyle="--", linewidth=1)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="neighbours, k", ylabel="KSG / truth", ylim=(0, 1.15))


def over_levels(axes: Axes, levels: Sequence[float], curves: np.ndarray, ceiling: float) -> None:
    """Draw information against relative noise, a line a depth (depths, levels), with the ceiling dashed."""
    for depth, (row, colour) in enumerate(zip(curves, sequence(len(curves)), strict=True)):
        axes.semilogx(levels, row, color=colour, label=str(depth))
    axes.axhline(ceiling, color="0.3", linestyle="--", linewidth=1)
    axes.set(xlabel="noise / layer's scale", ylabel="nats", title="relative noise")


def over_depth(axes: Axes, levels: Sequence[float], curves: np.ndarray, ceiling: float) -> None:
    """Draw information over depth, a line an absolute noise level (depths, levels), with the ceiling dashed."""
    for level, column, colour in zip(levels, curves.T, sequence(len(levels)), strict=True):
        axes.plot(range(len(column)), column, marker="o", ms=3, color=colour, label=f"{level:.2g}")
    axes.axhline(ceiling, color="0.3", linestyle="--", linewidth=1)
    axes.set(xlabel="depth", ylabel="nats", title="absolute noise")
