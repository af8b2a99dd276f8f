"""Refinement curves: how the agreement of a calibrated equation changes as its steps are made finer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from ..surrogates.evaluate import RESOLUTIONS
from ..surrogates.results import seed_mean

LABELS = tuple("∞" if resolution == "converged" else resolution for resolution in RESOLUTIONS)
TOP = 1.03  # where the panels end: a perfect agreement has its marker


class Curve(NamedTuple):
    """A measure by way of stepping: mean over seeds and its 95 % interval; nan where it diverged or is one seed."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(teacher: str, family: str, measure: str = "cosine") -> Curve:
    """Return an equation's refinement curve over its seeds, all nan where there is no such one."""
    found = [seed_mean(teacher, family, measure, resolution) for resolution in RESOLUTIONS]
    ends = [one.interval or (np.nan, np.nan) for one in found]
    return Curve(np.array([one.mean for one in found]), *np.array(ends, dtype=float).T)


def alone(values: Sequence[float]) -> Curve:
    """Return the curve of one model, without an interval."""
    given = np.asarray(values, dtype=float)
    blank = np.full(given.shape, np.nan)
    return Curve(given, blank, blank)


def draw(axes: Axes, curves: Mapping[str, tuple[Curve, Mapping]], floor: float = 0.0) -> None:
    """Draw named curves, each with its line's style, over the sub-steps; intervals as bars, joined by bands.

    What lies below `floor` is drawn there as a triangle, so that one field's ruin does not flatten the others. Nor
    does it hide them: an interval that is wider than the panel, or of a mean below it, is not drawn.
    """
    places = np.arange(len(LABELS))
    for name, (found, style) in curves.items():
        shown = np.maximum(found.mean, floor)
        settings = {"marker": "o", "markersize": 3.5, "linewidth": 1.5} | dict(style)
        (line,) = axes.plot(places, shown, label=name, **settings)
        colour = line.get_color()
        fits = (found.high - found.low < TOP - floor) & (found.mean >= floor)
        # Empty or blank artists have no extent, and would leave the figure's layout unsolved.
        low, high = np.maximum([found.low, found.high], floor)
        if fits.any():
            axes.vlines(places[fits], low[fits], high[fits], color=colour, linewidth=1)
        if (fits[1:] & fits[:-1]).any():
            axes.fill_between(places, low, high, where=fits, color=colour, alpha=0.18, linewidth=0)
        under = found.mean < floor
        if under.any():
            axes.plot(places[under], shown[under], "v", color=colour, markersize=7, clip_on=False)
    axes.set_xticks(places, LABELS)
    axes.set(xlabel="Lie sub-steps a layer", ylim=(floor, TOP))
