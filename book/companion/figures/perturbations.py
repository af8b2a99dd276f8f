"""Figures of perturbations: growth by size and by depth, rank correlations, robust accuracy, exponents, layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ..seeds import SeedMean
from .information_flow import LOOKS as FLOW_LOOKS

LOOKS: dict[str, dict[str, Any]] = {
    **{name: FLOW_LOOKS[name] for name in ("teacher", "three laws", "one law", "one-step field")},
    "one-step field, solved": FLOW_LOOKS["one-step field, solved"],
    "another seed's teacher": FLOW_LOOKS["another seed's teacher"],
    "untrained twin": {"color": "#cc78bc", "linewidth": 1.2, "linestyle": "-.", "label": "untrained twin"},
    "affine maps": {"color": "#de8f05", "linewidth": 1.2, "linestyle": ":", "label": "affine maps"},
    "nearest inputs": {"color": "0.55", "linewidth": 1.2, "label": "nearest inputs (look-up)"},
}
_TRAINED, _TWIN = "#0173b2", "0.55"


def by_size(axes: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], logarithmic: bool = True) -> None:
    """Draw what is measured at each size of a change, a line a name (as in `LOOKS`), means over seeds with their range.

    `curves` by name: sizes (sizes,) and values (seeds, sizes).
    """
    for name, look in LOOKS.items():
        if name in curves:
            _line(axes, *curves[name], look, name == "teacher")
    axes.set_xscale("log")
    if logarithmic:
        _plain_log(axes)
    axes.tick_params(labelsize=8)


def by_depth(axes: Axes, curves: Mapping[str, np.ndarray]) -> None:
    """Draw growth over depth, logarithmic, a line a name; each of `curves` is (seeds, depths)."""
    for name, look in LOOKS.items():
        if name in curves:
            _line(axes, np.arange(curves[name].shape[1]), curves[name], look, name == "teacher")
    axes.axhline(1, color="0.6", linewidth=1, linestyle="--", label="identity")
    _plain_log(axes)
    axes.tick_params(labelsize=8)


def _plain_log(axes: Axes) -> None:
    """Make the upright axis logarithmic, with plain numbers at 1, 2 and 5 of each decade, or at 1 alone over many."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 60 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _line(axes: Axes, x: np.ndarray, values: np.ndarray, look: Mapping[str, Any], below: bool) -> None:
    axes.plot(x, values.mean(0), markersize=3, zorder=1 if below else 3, **look)
    if len(values) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=look["color"], alpha=0.15, linewidth=0)


def ranks(axes: Axes, found: Mapping[str, Mapping[str, SeedMean]], names: Mapping[str, str]) -> None:
    """Draw rank correlations: a row for each kind of change, a dot for each name with its interval over seeds.

    `found` by kind and then by name (as in `LOOKS`); `names` are the kinds' labels. Diamonds are of one seed; what is
    solved from it is hollow.
    """
    drawn = [name for name in LOOKS if any(name in row for row in found.values())]
    for row, each in enumerate(found.values()):
        for place, name in enumerate(drawn):
            if name not in each or not np.isfinite(each[name].mean):
                continue
            height, colour = row + 0.7 * ((place + 0.5) / len(drawn) - 0.5), LOOKS[name]["color"]
            label, several = LOOKS[name]["label"] if row == 0 else None, each[name].interval is not None
            marker = "o" if several else "d"
            inside = "none" if name.endswith("solved") else colour
            shown: dict[str, Any] = {"color": colour, "markerfacecolor": inside, "markersize": 4.5, "linestyle": "none"}
            axes.plot(each[name].mean, height, marker=marker, label=label, zorder=3, **shown)
            if (ends := each[name].interval) is not None:
                axes.hlines(height, ends[0], ends[1], color=colour, linewidth=1.2, zorder=2)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(found)), [names[kind] for kind in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(-0.6, 1.05)
    axes.tick_params(labelsize=8.5)
    axes.grid(axis="y", visible=False)


def spectrum(axes: Axes, found: Mapping[str, Sequence[SeedMean]]) -> None:
    """Draw the leading exponents in falling order, a line a name, with intervals over seeds."""
    for name, look in LOOKS.items():
        if name in found:
            places, means = np.arange(1, len(found[name]) + 1), np.array([one.mean for one in found[name]])
            axes.plot(places, means, markersize=3, zorder=1 if name == "teacher" else 3, **look)
            ends = [one.interval for one in found[name]]
            if all(end is not None for end in ends):
                axes.fill_between(places, *np.array(ends).T, color=look["color"], alpha=0.12, linewidth=0)  # type: ignore[arg-type]
    axes.set_xticks(range(1, 1 + max(len(each) for each in found.values())))
    axes.tick_params(labelsize=8)


def relative_growth(axes: Axes, trained: Mapping[str, Any], twin: Mapping[str, Any]) -> None:
    """Draw how noise on the embedding grows through a pretrained model, relative to the state, and its twin's."""
    growth = trained["growth"]
    axes.plot(growth["relative"], color=_TRAINED, linewidth=1.8, label="whole state")
    axes.plot(growth["token"], color=_TRAINED, linewidth=1.2, linestyle="--", label="median token")
    axes.plot(twin["growth"]["relative"], color=_TWIN, linewidth=1.8, label="random twin, whole state")
    axes.axhline(1, color="0.4", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
    axes.minorticks_off()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)


def layer_values(axes: Axes, trained: Mapping[str, Any], twin: Mapping[str, Any]) -> None:
    """Draw each layer's largest singular values, of a pretrained model and of its random twin, logarithmic."""
    for about, colour, label in ((trained, _TRAINED, "trained"), (twin, _TWIN, "random twin")):
        values = np.array(about["layers"])
        places = np.arange(1, len(values) + 1)
        axes.plot(places, values[:, 0], ".-", color=colour, linewidth=1.5, markersize=4, label=f"{label}, largest")
        axes.plot(places, values[:, -1], color=colour, linewidth=0.9, linestyle="--", label=f"{label}, fourth")
    _plain_log(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)


def shared_legend(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Put one panel's legend below all panels, and draw them with fewer dots: many lines make a large file."""
    figure.set_dpi(110)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8)
