"""Figures of the ladder of laws: what each law misses at each budget, and where it would cross the bar."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..surrogates import ladder
from ..surrogates.crossing import power_law
from .base import THRESHOLD_COLOUR

# How a law is drawn: the teacher's own architecture learnt anew is what any student reaches, in black.
LOOKS: dict[str, dict[str, Any]] = {
    "k1": {"color": "#0173b2", "marker": "o"},
    "k2": {"color": "#029e73", "marker": "v"},
    "k3": {"color": "#de8f05", "marker": "s"},
    "k4": {"color": "#cc78bc", "marker": "^"},
    "k6": {"color": "#ca9161", "marker": "P"},
    "blocks": {"color": "black", "marker": "D"},
}
# Curves against parameters, in their order: laws by number; one law with low-rank corrections; without diffusion. How
# each is drawn, and how many points above its own the words stand (below, where the next curve would hide them).
_CURVES: tuple[tuple[dict[str, Any], int], ...] = (
    (LOOKS["k1"], 4),
    ({"color": "#d55e00", "marker": "s"}, 4),
    ({"color": "#029e73", "marker": "x", "linestyle": ":"}, -11),
)
# Numbers beyond this say no more than that they are large.
_MANY = 1e4
# A curve is carried on so many times beyond its last budget, and no further: what a fit says there is a guess.
_BEYOND = 64.0


def learning_curves(
    axes: Axes, teacher: str, laws: Mapping[str, str], bar: float = 0.98, nulls: Mapping[str, float] | None = None
) -> None:
    """Draw what every law's attention misses, `1 - cosine` at the worst layer, against its budget, both logarithmic.

    `laws` names the curves of `ladder.misses` (`blocks` at one step a layer, as it is calibrated; the others
    converged). A law with three budgets or more is carried on (dashed) by its own power law as far as `bar`, or as
    far as a fit may be trusted. `nulls` are cosines, drawn as grey lines with their names.
    """
    for name, label in laws.items():
        found = ladder.misses(teacher, name, "1" if name == "blocks" else "converged")
        budgets = np.array(sorted(found))
        missing = np.array([found[budget] for budget in budgets])
        axes.plot(budgets, missing, markersize=5.5, linewidth=1.4, label=label, **LOOKS[name])
        if len(budgets) > 2:
            curve = power_law(found)
            needed = curve.needed(1 - bar)[0]
            end = min(max(needed, budgets[-1]), _BEYOND * budgets[-1])
            beyond = np.geomspace(budgets[-1], end, 30)
            axes.plot(beyond, curve.scale * beyond**-curve.exponent, "--", linewidth=1, color=LOOKS[name]["color"])
    where = axes.get_yaxis_transform()
    for name, value in (nulls or {}).items():
        axes.axhline(1 - value, color="0.55", linestyle=":", linewidth=1.1, zorder=1)
        axes.text(0.99, 1 - value, name, transform=where, fontsize=8, color="0.35", ha="right", va="bottom")
    _bar(axes, bar)
    axes.set(xscale="log", yscale="log", xlabel="right-hand sides × examples", ylabel="1 − cosine, worst layer")


def by_parameters(
    axes: Axes, teacher: str, curves: Mapping[str, Mapping[str, str]], budget: int, bar: float = 0.98
) -> None:
    """Draw what is missed at one budget, `1 - cosine` at the worst layer, against the share of the blocks' parameters.

    `curves` has laws (as in `ladder`) by the curve's label, each with what stands beside its point; those that are not
    calibrated for this teacher are left out. All are converged, and of seed 0: points differ by the equation alone.
    """
    for (label, laws), (look, above) in zip(curves.items(), _CURVES, strict=False):
        rows = {name: ladder.records_of(teacher, name, budget).get(0) for name in laws}
        shown = {name: about for name, about in rows.items() if about is not None}
        if not shown:
            continue
        shares = [about["made"]["share"] for about in shown.values()]
        missing = [1 - ladder.value(about, "converged", ladder.COSINE) for about in shown.values()]
        axes.plot(shares, missing, label=label, markersize=5.5, linewidth=1.3, **look)
        for name, share, miss in zip(shown, shares, missing, strict=True):
            where = {"textcoords": "offset points", "xytext": (4, above)}
            axes.annotate(laws[name], (share, miss), fontsize=8, color=look["color"], **where)
    _bar(axes, bar)
    axes.set(xscale="log", yscale="log", xlabel="share of the blocks' parameters", ylabel="1 − cosine, worst layer")
    axes.set_xticks([one / 6 for one in (1, 2, 3, 4, 6)], ["1/6", "1/3", "1/2", "2/3", "1"])
    axes.set_yticks([0.01, 0.02, 0.03, 0.05, 0.1, 0.2], ["0.01", "0.02", "0.03", "0.05", "0.1", "0.2"])
    axes.minorticks_off()


def span(number: float, interval: tuple[float, float]) -> str:
    """Return a number with its interval as tables show what a curve foretells: two digits, and no more than thousands.

    >>> span(3.14, (0.5, 27.2)), span(1234.0, (45.0, float("inf")))
    ('3.1 (0.5 to 27)', '1,234 (45 to > 10,000)')
    """
    shown, low, high = (_plain(one) for one in (number, *interval))
    return f"{shown} ({low} to {high})"


def _bar(axes: Axes, bar: float) -> None:
    """Draw what a claim's bar lets be missed, as a red dashed line with the bar's own number."""
    axes.axhline(1 - bar, color=THRESHOLD_COLOUR, linestyle="--", linewidth=1.3, zorder=1)
    where = axes.get_yaxis_transform()
    axes.text(0.99, 1 - bar, f"{bar:g}", transform=where, fontsize=9, color=THRESHOLD_COLOUR, ha="right", va="top")


def _plain(number: float) -> str:
    if number > _MANY:
        return f"> {_MANY:,.0f}"
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"
