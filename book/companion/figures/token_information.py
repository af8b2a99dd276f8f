"""Figures of what tokens keep and learn, and of what attention says of cut edges and of information."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

# How a Transformer and what stands beside it are drawn, by name.
LOOKS: dict[str, dict[str, Any]] = {
    "teacher": {"color": "black", "linewidth": 2.8, "label": "Transformer", "zorder": 2},
    "three laws": {"color": "#0173b2", "linewidth": 1.8, "marker": "o", "label": "equation (three laws), solved"},
    "one-step field": {"color": "#b40426", "linewidth": 1.3, "linestyle": "--", "label": "one-step field (one seed)"},
    "identity": {"color": "0.55", "linewidth": 1.3, "linestyle": "--", "label": "identity"},
    "heat equation": {"color": "#de8f05", "linewidth": 1.6, "linestyle": ":", "label": "heat equation"},
    "untrained twin": {"color": "#029e73", "linewidth": 1.3, "label": "untrained twin"},
    "shuffled tokens": {"color": "#cc78bc", "linewidth": 1.3, "linestyle": "-.", "label": "shuffled tokens"},
    "position alone": {"color": "#949494", "linewidth": 1.1, "linestyle": ":", "label": "position alone"},
}
# What may say how much passes an edge.
MAPS: dict[str, dict[str, Any]] = {
    "attention": {"color": "black", "linewidth": 2.4, "label": "attention"},
    "value-weighted norm": {"color": "#0173b2", "linewidth": 1.6, "marker": "o", "label": "value-weighted norm"},
    "rollout": {"color": "#029e73", "linewidth": 1.4, "marker": "s", "label": "rollout"},
    "equation's attention": {"color": "#56b4e9", "linewidth": 1.4, "linestyle": "--", "label": "equation's attention"},
    "next state": {"color": "#de8f05", "linewidth": 1.4, "marker": "^", "label": "effect on the next state"},
    "another input's attention": {"color": "#b40426", "linestyle": "--", "label": "another input's attention (null)"},
    "another seed's attention": {"color": "#b40426", "linestyle": "-.", "label": "another seed's attention (null)"},
    "distance": {"color": "0.55", "linestyle": ":", "label": "distance alone (null)"},
    "other half": {"color": "0.55", "linewidth": 1.2, "label": "information on other examples"},
}
_SHARES, _MARK = "magma_r", "#de8f05"


def curves(axes: Axes, found: Mapping[str, Tensor], looks: Mapping[str, Mapping[str, Any]], first: int = 0) -> None:
    """Draw lines by name as in `looks`, each (seeds, places): the mean over seeds, their range as a band."""
    for name, look in looks.items():
        if name not in found or not len(found[name]):
            continue
        each = found[name].double().numpy()
        places = np.arange(each.shape[1]) + first
        axes.plot(places, each.mean(0), markersize=3.5, **{"linewidth": 1.2, "zorder": 3} | dict(look))
        if len(each) > 1:
            axes.fill_between(places, each.min(0), each.max(0), color=look["color"], alpha=0.15, linewidth=0)
    axes.tick_params(labelsize=8)


def content(axes: Sequence[Axes], found: Mapping[str, Mapping[str, Tensor]], ceilings: Mapping[str, float]) -> None:
    """Draw a panel for each target: usable information by depth, a line a name, and the ceiling H as a thin line.

    `found` by target and name, (seeds, depths).
    """
    for panel, (target, lines) in zip(axes, found.items(), strict=True):
        curves(panel, lines, LOOKS)
        top = max(float(each.max()) for each in lines.values())
        if ceilings[target] < 2 * top:
            panel.axhline(ceilings[target], color="0.3", linewidth=0.7)
            look: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "fontsize": 8, "ha": "right", "va": "top"}
            panel.annotate("H", (0.97, ceilings[target]), **look)
        panel.set_xticks(range(0, 7, 2))
        panel.set_ylim(min(-0.02, 1.05 * min(float(each.min()) for each in lines.values())), None)


def edge_panel(axes: Axes, found: Mapping[str, Tensor], title: str) -> None:
    """Draw rank correlations by layer, (seeds, layers) by name; 0 and 1 are no and perfect agreement."""
    axes.axhline(0, color="0.3", linewidth=0.7)
    curves(axes, found, MAPS, first=1)
    axes.set_ylim(-0.4, 1.02)
    axes.set_xticks(range(1, 7))
    axes.set_title(title, fontsize=9.5)


def patch_maps(axes: Sequence[Axes], shown: Mapping[str, Any], titles: Mapping[str, str]) -> None:
    """Draw how 7 x 7 patches stand to one, framed, a panel for each of `titles`: from 0 to its own largest value."""
    for panel, (name, title) in zip(axes, titles.items(), strict=True):
        values = np.array(shown["rows"][name])
        values[shown["place"]] = np.nan
        panel.imshow(values.reshape(7, 7), cmap=_SHARES, vmin=0, vmax=np.nanmax(values), interpolation="nearest")
        row, column = divmod(shown["place"], 7)
        corner = (column - 0.5, row - 0.5)
        panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=_MARK, linewidth=2))
        panel.set(xticks=[], yticks=[])
        panel.grid(visible=False)
        panel.set_title(title, fontsize=9.5)
