"""One look for all figures, and captioned tables that are text."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

BAR_COLOUR = "#b40426"
PALETTE = "colorblind"


def style() -> None:
    """Set the book's look: call once at a chapter's start."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, font="DejaVu Sans")
    plt.rcParams.update(
        {
            "figure.dpi": 150,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 11,
            "axes.labelsize": 10.5,
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
            "legend.fontsize": 9,
            "legend.frameon": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.facecolor": "white",
        }
    )


def panels(columns: int, rows: int = 1, width: float = 8.2, height: float = 3.2, **kwargs) -> tuple[Figure, np.ndarray]:
    """Return a figure of so many panels, as wide as the page's text."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **kwargs)
    return figure, axes


def bar(axes: Axes, value: float = 0.98, label: bool = True, where: float = 0.02) -> None:
    """Draw a claim's bar as a red dashed line, named at its left."""
    axes.axhline(value, color=BAR_COLOUR, linestyle="--", linewidth=1.3, zorder=5)
    if label:
        axes.text(
            where,
            value,
            f"{value:g}",
            transform=axes.get_yaxis_transform(),
            color=BAR_COLOUR,
            fontsize=9,
            va="center",
            ha="left",
            zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )


def sequence(count: int) -> list:
    """Return so many colours in order, pale to dark: for depths, noise levels and other ordered lines."""
    return list(sns.color_palette("flare", count))


def legend(axes: Axes, **kwargs) -> None:
    """Add a legend and return nothing, so that a cell may end with it."""
    axes.legend(**kwargs)


def points_with_range(axes: Axes, x: np.ndarray, samples: Sequence[np.ndarray], label: str) -> str:
    """Draw each sample's mean with the range that holds 95 % of it; return the colour used."""
    means = np.array([np.mean(sample) for sample in samples])
    low, high = np.array([np.quantile(sample, [0.025, 0.975]) for sample in samples]).T
    errors = np.maximum([means - low, high - means], 0)
    drawn = axes.errorbar(x, means, yerr=errors, fmt="o", markersize=3.5, elinewidth=1, label=label)
    return to_hex(drawn.lines[0].get_color())


def grouped_boxes(axes: Axes, samples: dict[tuple[int, float], np.ndarray], group: str, label: str) -> None:
    """Draw a box a sample, keyed by (group, member): groups side by side, members by colour."""
    groups = list(dict.fromkeys(key[0] for key in samples))
    members = list(dict.fromkeys(key[1] for key in samples))
    rows = [(groups.index(g), f"{label}{m:g}", value) for (g, m), values in samples.items() for value in values]
    place, member, value = zip(*rows, strict=True)
    sns.boxplot(
        x=np.array(place),
        y=np.array(value),
        hue=np.array(member),
        hue_order=[f"{label}{m:g}" for m in members],
        whis=(0, 100),
        linewidth=0.9,
        ax=axes,
    )
    axes.set_xticks(range(len(groups)), [str(g) for g in groups])
    axes.set_xlabel(group)
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()


def null_lines(axes: Axes, scores: dict[str, np.ndarray]) -> None:
    """Draw each null's score (layers, heads): a line through the mean over heads, a dot a head."""
    for number, (name, values) in enumerate(scores.items()):
        layers = np.arange(len(values))
        offset = 0.07 * (number - (len(scores) - 1) / 2)
        axes.plot(layers + offset, values.mean(1), marker="_", markersize=9, linewidth=1.4, label=name)
        x = np.repeat(layers + offset, values.shape[1])
        axes.scatter(x, values.ravel(), s=5, alpha=0.5, color=f"C{number}")
    axes.set_xticks(range(len(next(iter(scores.values())))))


def attention_map(axes: Axes, weights, title: str, largest: float | None = None) -> None:
    """Draw one attention map (queries, keys), dark where attention is; `largest` makes maps comparable."""
    low = None if largest is None else 0.0
    axes.imshow(np.asarray(weights), cmap="mako_r", interpolation="nearest", vmin=low, vmax=largest)
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[], xlabel="keys", ylabel="queries")
    axes.grid(False)


def drift_field(axes: Axes, drift, spread, title: str, largest: float = 4.0):
    """Draw a head's drift (places, 2), in rows and columns of a grid, over its spread (rows, columns)."""
    rows, columns = np.asarray(spread).shape
    image = axes.imshow(np.asarray(spread), cmap="mako_r", vmin=0, vmax=largest)
    down, right = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    moved = np.asarray(drift).reshape(rows, columns, 2)
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.012, "color": BAR_COLOUR}
    axes.quiver(right, down, moved[..., 1], moved[..., 0], **arrows)
    axes.set_title(title, fontsize=8.5)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    return image


def strips(axes: Axes, samples: dict[str, np.ndarray]) -> None:
    """Draw each sample as a column of dots with its median as a bar."""
    random = np.random.default_rng(0)
    for place, values in enumerate(samples.values()):
        axes.scatter(place + random.uniform(-0.18, 0.18, len(values)), values, s=9, alpha=0.65, color=f"C{place}")
        axes.hlines(np.median(values), place - 0.32, place + 0.32, color=f"C{place}", linewidth=2.2)
    axes.set_xticks(range(len(samples)), list(samples), fontsize=8)
    axes.grid(axis="x", visible=False)


def table(name: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a numbered, captioned table; the cell needs `mystnb: {markdown_format: myst}`.

    Cells are texts, already formatted from recorded numbers. The first column is set to the left,
    the others to the right; where a narrow column breaks a line, "±" stays with its number. A label `name`
    makes it `{numref}`-able.
    """
    from IPython.display import Markdown, display

    wrong = [row for row in rows if len(row) != len(columns)]
    if wrong:
        raise ValueError(f"row {wrong[0]!r} has {len(wrong[0])} cells for {len(columns)} columns.")
    lines = [f":::{{table}} {caption}", f":name: {name}", ":align: left", ""]
    lines += ["| " + " | ".join(columns) + " |", "|:---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(row).replace("± ", "±\u00a0") + " |" for row in rows]
    display(Markdown("\n".join([*lines, ":::"])))


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


def layer_head_map(axes: Axes, values: np.ndarray, title: str, colourbar: bool = False, low: float = 0.0) -> None:
    """Draw values (layers, heads) as a heat map, with the numbers in it where there are at most 80."""
    notes = np.array([[f"{value:.2f}" for value in row] for row in values]) if values.size <= 80 else False
    _heat_map(axes, values, notes, 7.5, vmin=low, vmax=1, cmap="mako", cbar=colourbar)
    axes.set(xlabel="head", ylabel="layer", title=title)


def _heat_map(axes: Axes, values: np.ndarray, notes: np.ndarray | bool, size: float, **settings: Any) -> None:
    """Draw a matrix as a heat map with notes of this font size in its cells; row names stand upright."""
    shown: dict[str, Any] = {"cbar": False} | settings
    sns.heatmap(
        values,
        ax=axes,
        annot=notes,
        fmt="",
        annot_kws={"fontsize": size},
        linewidths=0.4,
        linecolor="white",
        **shown,
    )
    axes.tick_params(axis="y", rotation=0)
