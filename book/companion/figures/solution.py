"""Figures about calibrated fields as equations: finer steps, a way through depth, stiffness, defects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .base import THRESHOLD_COLOUR, sequence
from .refinement import LABELS, Curve

# How calibrated equations are drawn and called; the teacher's own blocks stand beside them.
LOOKS: dict[str, dict[str, Any]] = {
    "full-k1-one-step": {"label": "K = 1, calibrated with one step a layer", "color": "#b40426"},
    "full-k1": {"label": "K = 1, calibrated with refined steps", "color": "#0173b2", "linewidth": 2.4},
    "full-k3": {"label": "K = 3, refined steps", "color": "#029e73", "marker": "s"},
    "unshared": {"label": "a law for each layer, refined steps", "color": "#cc78bc", "linewidth": 1},
    "blocks": {"label": "the teacher's own blocks", "color": "0.45", "linestyle": "--", "marker": "x"},
}
FIELD_COLOURS = {"one-step": "#b40426", "refined": "#0173b2", "blocks": "0.45"}
_BREAK = 0.8  # how much further than a doubling of the steps the converged solution stands
_TOP = 1.03  # a perfect agreement has its whole marker


def below(figure: Figure, axes: Axes, columns: int) -> None:
    """Put the legend of one panel below the whole figure."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def toy(axes: Axes, ends: Mapping[float, Sequence[float]], steps: Sequence[int], goal: float) -> None:
    """Draw where Euler's method arrives against its steps a layer, a line for each slope a; the teacher's goal dotted.

    The last number of steps stands for the solution, beyond a break of the axis.
    """
    places = _places(len(steps))
    for (slope, values), colour in zip(ends.items(), sequence(len(ends)), strict=True):
        _broken(axes, places, np.asarray(values), {"color": colour, "label": f"a = {slope:g}", "marker": "o"})
    axes.axhline(goal, color="black", linestyle=":", linewidth=1)
    _mark_break(axes, places, [*map(str, steps[:-1]), "∞"])
    axes.set(xlabel="Euler steps a layer", ylabel="units gone in six layers")
    axes.legend(loc="lower left")


def refinement(axes: Axes, curves: Mapping[str, Curve], null: float, floor: float = 0.0) -> None:
    """Draw curves, named as in `LOOKS`, over Lie steps a layer; converged solutions stand beyond a break of the axis.

    Intervals are bars, joined by bands; one that is wider than the panel, or of a mean below it, is left out. What
    lies below `floor` is drawn there as a triangle. The null is dotted.
    """
    places = _places(len(LABELS))
    for name, found in curves.items():
        look = {"marker": "o", "markersize": 3.5, "linewidth": 1.5} | LOOKS[name]
        _broken(axes, places, np.maximum(found.mean, floor), look)
        fits = (found.high - found.low < _TOP - floor) & (found.mean >= floor)
        low, high = np.maximum([found.low, found.high], floor)
        # Empty or blank artists have no extent, and would leave the figure's layout unsolved.
        if fits.any():
            axes.vlines(places[fits], low[fits], high[fits], color=look["color"], linewidth=1)
        if (fits[1:-1] & fits[:-2]).any():
            band = {"color": look["color"], "alpha": 0.18, "linewidth": 0}
            axes.fill_between(places[:-1], low[:-1], high[:-1], where=fits[:-1], **band)
        under = found.mean < floor
        if under.any():
            axes.plot(places[under], np.full(under.sum(), floor), "v", color=look["color"], markersize=7, clip_on=False)
    axes.axhline(null, color="black", linestyle=":", linewidth=1.3, label="best null")
    _mark_break(axes, places, LABELS)
    axes.set(xlabel="Lie steps a layer", ylim=(floor, _TOP))


def way(
    axes: Axes, known: np.ndarray, path: np.ndarray, whole: Sequence[int], steps: np.ndarray, title: str = ""
) -> None:
    """Draw one example's way through depth in a plane: the teacher's states, a solution, one step a layer.

    All are (2, points); `whole` are the solution's points at whole depths, drawn as circles.
    """
    axes.plot(*path, color="#0173b2", linewidth=1.4, label="solution")
    axes.plot(*path[:, list(whole)], "o", markerfacecolor="white", color="#0173b2", markersize=5)
    axes.plot(*steps, "x", color="#b40426", label="one step a layer")
    axes.plot(*known, ".", color="black", markersize=9, label="teacher")
    for depth, (x, y) in enumerate(known.T.tolist()):
        axes.annotate(str(depth), (x, y), (4, 4), textcoords="offset points", fontsize=8)
    axes.set(title=title, xlabel="first direction")


def stiffness(axes: Axes, found: Mapping[str, np.ndarray], labels: Mapping[str, str], sizes: np.ndarray) -> None:
    """Draw fields' Lipschitz constants by depth, and one over the states' size scaled to the refined field's last."""
    for name, values in found.items():
        axes.plot(values, marker="o", color=FIELD_COLOURS[name], label=labels[name])
    scaled = found["refined"][-1] * sizes[-1] / sizes
    axes.plot(scaled, color="0.6", linewidth=4, alpha=0.5, zorder=0, label="1 over the state's size, scaled")
    axes.axhline(1, color=THRESHOLD_COLOUR, linestyle="--", linewidth=1.2)
    axes.set(yscale="log", xlabel="depth")


def defects(axes: Axes, found: Mapping[str, np.ndarray], labels: Mapping[str, str]) -> None:
    """Draw fields' defects by layer on a logarithmic axis, and the best affine map of each layer (`affine`), dotted."""
    for name, label in labels.items():
        axes.plot(found[name], marker="o", color=FIELD_COLOURS[name], label=label)
    axes.plot(found["affine"], color="black", linestyle=":", label="best affine map (null)")
    axes.axhline(1, color=THRESHOLD_COLOUR, linestyle="--", linewidth=1.2)
    axes.set(yscale="log", xlabel="layer")


def _places(count: int) -> np.ndarray:
    """Return where numbers of steps stand, the last beyond a break."""
    places = np.arange(count, dtype=float)
    places[-1] += _BREAK
    return places


def _broken(axes: Axes, places: np.ndarray, values: np.ndarray, look: Mapping[str, Any]) -> None:
    """Draw a line as far as the break, a point beyond it, and thin dots between the two."""
    axes.plot(places[:-1], values[:-1], **look)
    plain = {key: value for key, value in look.items() if key in ("color", "marker", "markersize")}
    axes.plot(places[-1:], values[-1:], linestyle="", **plain)
    axes.plot(places[-2:], values[-2:], linestyle=(0, (1, 3)), linewidth=1, color=look["color"])


def _mark_break(axes: Axes, places: np.ndarray, labels: Sequence[str]) -> None:
    """Label the places, and put two strokes on the axis where it is broken."""
    axes.set_xticks(places, list(labels))
    middle = (places[-2] + places[-1]) / 2
    across = axes.get_xaxis_transform()
    strokes = {"color": "black", "linewidth": 1.1, "transform": across, "clip_on": False, "zorder": 7}
    for shift in (-0.06, 0.06):
        axes.plot([middle + shift - 0.05, middle + shift + 0.05], [-0.02, 0.02], **strokes)
