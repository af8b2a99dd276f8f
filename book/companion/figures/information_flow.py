"""Figures of information that flows: strips of tokens over depth, profiles, maps of influence, paths in a plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .base import keep_look

# How a teacher and what stands beside it are drawn, by name.
LOOKS: dict[str, dict[str, Any]] = {
    "teacher": {"color": "black", "linewidth": 2.6, "label": "Transformer"},
    "three laws": {"color": "#0173b2", "linewidth": 1.8, "marker": "o", "label": "equation (three laws), solved"},
    "one law": {"color": "#56b4e9", "linewidth": 1.2, "marker": "s", "label": "equation (one law), solved"},
    "one-step field": {"color": "#b40426", "linewidth": 1.2, "linestyle": "--", "label": "one-step field"},
    "one-step field, solved": {"color": "#b40426", "linewidth": 1, "linestyle": ":", "label": "one-step field, solved"},
    "another seed's teacher": {"color": "#029e73", "linewidth": 1.2, "label": "another seed's Transformer"},
    "mean state": {"color": "0.6", "linewidth": 1.2, "linestyle": "-.", "label": "mean state"},
    "identity": {"color": "0.6", "linewidth": 1.2, "linestyle": "--", "label": "identity"},
    "heat equation": {"color": "#de8f05", "linewidth": 1, "linestyle": ":", "label": "heat equation"},
}
MEASURES = {
    "norm": "rms of tokens",
    "cosine": "cosine of pairs",
    "rank": "effective rank",
    "clusters": "clusters (cosine > .9)",
}
# Short names above strips and maps of influence.
STRIPS = {
    "teacher": "Transformer",
    "three laws": "equation",
    "one-step field": "one step",
    "one-step field, solved": "one step,\nsolved",
    "heat equation": "heat",
    "identity": "identity",
}
INFLUENCE = {"teacher": "Transformer", "three laws": "equation", "rollout": "rollout", "heat equation": "heat kernel"}
_STRIP, _SHARES, _MARK = "RdBu_r", "magma_r", "#de8f05"


def strip_figure(rows: int, columns: int, height: float, first: float = 1.0) -> tuple[Figure, np.ndarray]:
    """Return a figure of panels, as wide as the text; the first column is `first` times as wide as the others."""
    ratios = {"width_ratios": [first, *[1.0] * (columns - 1)]}
    figure, axes = plt.subplots(rows, columns, figsize=(8.2, height * rows), squeeze=False, gridspec_kw=ratios)
    keep_look(figure)
    return figure, axes


def picture(axes: Axes, pixels: np.ndarray, patches: int, title: str, target: int | None = None) -> None:
    """Draw a picture with the grid of its patches, the tokens line by line; a target's patch is framed."""
    side = len(pixels) / patches
    axes.imshow(pixels, cmap="gray_r")
    for place in np.arange(patches + 1) * side - 0.5:
        axes.axhline(place, color=_MARK, linewidth=0.3)
        axes.axvline(place, color=_MARK, linewidth=0.3)
    if target is not None:
        _frame(axes, target, patches, side)
    _bare(axes, title)


def strip(axes: Axes, values: np.ndarray, reach: float, title: str, names: Sequence[str] = ()) -> None:
    """Draw one number for each token (down) and depth (across), blue below zero and red above, full at `reach`."""
    axes.imshow(values, cmap=_STRIP, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    _bare(axes, title)
    axes.set_xticks(range(0, values.shape[1], 2))
    axes.set_yticks(range(len(names)), list(names))
    axes.tick_params(axis="x", labelsize=7.5, length=0)
    axes.tick_params(axis="y", labelsize=6, length=0)


def strip_scale(figure: Figure, axes: np.ndarray, reach: float, label: str) -> None:
    """Add the one colour scale of all strips, below them."""
    scale = ScalarMappable(Normalize(-reach, reach), _STRIP)
    bar = figure.colorbar(scale, ax=axes, orientation="horizontal", fraction=0.03, aspect=60, pad=0.02)
    bar.set_label(label, fontsize=8.5)
    bar.ax.tick_params(labelsize=8)


def profile(axes: Axes, curves: Mapping[str, torch.Tensor], logarithmic: bool = False) -> None:
    """Draw a measure over depth, a line a name (as in `LOOKS`): the mean over seeds, and their range as a band.

    Each of `curves` is (seeds, depths). The Transformer's line is broad and lies below the others.
    """
    for name, look in LOOKS.items():
        if name not in curves:
            continue
        each = curves[name].numpy()
        axes.plot(each.mean(0), markersize=3, zorder=1 if name == "teacher" else 3, **look)
        if len(each) > 1:
            axes.fill_between(
                range(each.shape[1]), each.min(0), each.max(0), color=look["color"], alpha=0.15, linewidth=0
            )
    if logarithmic:
        axes.set_yscale("log")
        axes.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
        axes.minorticks_off()
    axes.set_xticks(range(0, 7, 2))
    axes.tick_params(labelsize=8)


def strip_row(
    axes: Sequence[Axes],
    strips: Mapping[str, np.ndarray],
    agreement: Mapping[str, np.ndarray],
    row: int,
    reach: float,
    names: Sequence[str] = (),
) -> None:
    """Draw one example's strips side by side, each with its agreement above; tokens are named at the first."""
    for panel, (name, values) in zip(axes, strips.items(), strict=True):
        title = STRIPS[name] if name == "teacher" else f"{STRIPS[name]}\n{agreement[name][row]:.2f}"
        strip(panel, values, reach, title, names if panel is axes[0] else ())


def influence_row(axes: Sequence[Axes], found: Mapping[str, Any], line: int, target: int, notes: bool = True) -> None:
    """Draw who influenced one patch of a 7 x 7 picture, a map for each of `INFLUENCE`, in per cent on one scale.

    `found` by name has `shares` (targets, tokens), `cosine` and `rank` (`companion.dynamics.shown.Influenced`).
    """
    top = float(np.quantile(100 * found["teacher"].shares[line].numpy(), 0.98))
    for panel, (name, label) in zip(axes, INFLUENCE.items(), strict=True):
        shares = 100 * found[name].shares[line].numpy().reshape(7, 7)
        panel.imshow(shares, cmap=_SHARES, vmin=0, vmax=top, interpolation="nearest")
        _frame(panel, target, 7, 1.0)
        agreed = "" if name == "teacher" else f"\n({found[name].cosine:.2f}, {found[name].rank:.2f})"
        _bare(panel, label + agreed if notes else "")
    scale = ScalarMappable(Normalize(0, top), _SHARES)
    bar = axes[0].figure.colorbar(scale, ax=axes[-1], fraction=0.046, pad=0.04)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("per cent", fontsize=7.5)


def word_influence(axes: Sequence[Axes], found: Mapping[str, Any], targets: np.ndarray, names: Sequence[str]) -> None:
    """Draw who influenced some pieces of a text: a column for each target, a row for each piece, in per cent."""
    real = len(names)
    top = float(np.quantile(100 * found["teacher"].shares[:, :real].numpy(), 0.98))
    colours = plt.get_cmap(_SHARES).with_extremes(bad="0.8")
    for panel, (name, label) in zip(axes, INFLUENCE.items(), strict=True):
        shown = 100 * found[name].shares[:, :real].numpy().T
        shown[targets, np.arange(len(targets))] = np.nan
        drawn = panel.imshow(shown, cmap=colours, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        panel.grid(visible=False)
        panel.set_xticks(range(len(targets)), [names[int(target)] for target in targets], rotation=90, fontsize=6.5)
        panel.set_yticks(range(real) if panel is axes[0] else [], names if panel is axes[0] else [], fontsize=6)
        panel.tick_params(length=0)
        agreed = "" if name == "teacher" else f"\n({found[name].cosine:.2f}, {found[name].rank:.2f})"
        panel.set_title(label + agreed, fontsize=8.5)
    bar = axes[0].figure.colorbar(drawn, ax=list(axes), fraction=0.02, pad=0.01)
    bar.set_label("share of others, per cent", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)


def plane_paths(axes: Axes, paths: np.ndarray, title: str) -> None:
    """Draw where tokens go in the plane, (times, tokens, 2): thin lines, hollow where they start, full where they end.

    Colour is a token's place, from the first (dark) to the last (bright).
    """
    colours = token_colours(paths.shape[1])
    for token, colour in enumerate(colours):
        axes.plot(*paths[:, token].T, color=colour, linewidth=0.6, alpha=0.6)
    axes.scatter(*paths[0].T, s=10, facecolors="white", edgecolors=colours, linewidths=0.8, zorder=3)
    axes.scatter(*paths[-1].T, s=14, c=colours, zorder=4)
    axes.set_title(title, fontsize=9.5)
    axes.set_xlabel("first direction", fontsize=8.5)
    axes.tick_params(labelsize=8)


def token_colours(count: int) -> list[str]:
    """Return a colour for each place of a token, readable on white and on dark ground."""
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in plt.get_cmap("plasma")(np.linspace(0.15, 0.85, count))]


def _bare(axes: Axes, title: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.set_title(title, fontsize=8.5)


def _frame(axes: Axes, target: int, patches: int, side: float) -> None:
    """Frame one patch of a picture whose patches are `side` wide."""
    corner = (target % patches * side - 0.5, target // patches * side - 0.5)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=_MARK, linewidth=2, zorder=5))
