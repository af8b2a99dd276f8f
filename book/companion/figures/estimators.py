"""Figures of the estimators of information."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .base import _heat_map


def confusion_map(axes: Axes, shares: np.ndarray, classes: Sequence[str], least: float = 0.005) -> None:
    """Draw shares (true class, name given) as a heat map; those below `least` are left blank."""
    notes = np.array([[f"{value:.2f}" if value >= least else "" for value in row] for row in shares])
    names: dict[str, Any] = {"xticklabels": list(classes), "yticklabels": list(classes)}
    _heat_map(axes, shares, notes, 7.5, vmin=0, vmax=1, cmap="mako_r", **names)
    axes.set(xlabel="named", ylabel="is")
    axes.tick_params(axis="x", rotation=40)


def ratio_map(axes: Axes, ratios: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw estimates over truths (rows, columns) as a heat map about 1, with the numbers in it; nan stays white."""
    notes = np.array([["" if np.isnan(v) else f"{v:.2f}" if abs(v) < 9.995 else f"{v:.0f}" for v in r] for r in ratios])
    names: dict[str, Any] = {"xticklabels": list(columns), "yticklabels": list(rows)}
    _heat_map(axes, ratios, notes, 6.5, vmin=0, vmax=2, center=1, cmap="vlag", **names)
    axes.grid(False)
    axes.tick_params(axis="x", rotation=60, labelsize=7.5, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.tick_params(axis="y", labelsize=7)


def estimates(axes: Axes, curves: dict[str, tuple[np.ndarray, np.ndarray]], ceiling: float, top: float = 4.5) -> None:
    """Draw estimates against truths, a line a method, with the diagonal (dashed) and a ceiling (dotted)."""
    axes.plot([0, top], [0, top], color="0.3", linestyle="--", linewidth=1)
    axes.axhline(ceiling, color="0.5", linestyle=":", linewidth=1)
    for number, (method, (truth, found)) in enumerate(curves.items()):
        axes.plot(truth, found, marker="o", markersize=3, linewidth=1.1, color=f"C{number}", label=method)
    axes.set(xlim=(0, top), ylim=(-0.3, top))
