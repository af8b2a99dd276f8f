"""Figures of what a cosine of attention maps is worth: laws, nulls, and real heads beside both."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pdelens.agreement.report import Report

from ..theory import cosine
from . import attention, base

LAWS = {"uniform": cosine.uniform_law, "independent": cosine.independent_law}
SPREADS = (0.05, 0.1, 0.2, 0.5, 1, 2, 3)
LOOKS: dict[tuple[str, Any], dict[str, Any]] = {
    (modality, state): {
        "marker": marker,
        "color": colour,
        "s": 20,
        "alpha": 0.75,
        "label": f"{modality}, {'trained' if state == 'trained' else 'untrained'}",
    }
    for modality, marker in (("image", "o"), ("text", "s"))
    for state, colour in ((1, "C0"), ("trained", "C1"))
}


def law(axes: Axes, kind: str, spreads: np.ndarray, simulated: Mapping[int, Sequence[np.ndarray]]) -> None:
    """Draw simulated cosines of unrelated maps against the logits' spread, by number of tokens, and their law.

    `kind` is "uniform" (a map and the constant map) or "independent"; `simulated[tokens]` holds a sample a spread.
    """
    for number, (tokens, samples) in enumerate(simulated.items()):
        base.points_with_range(axes, spreads * 1.03 ** (number - 1.5), samples, f"{tokens} tokens")
    inside = np.linspace(0.04, cosine.range_of_law(max(simulated)), 200)
    axes.plot(inside, LAWS[kind](inside), color="black", linewidth=1.2, label="law")
    base.threshold(axes, where=0.85)
    axes.set(xlabel="spread of the logits, $s$", xscale="log")
    axes.set_xticks(SPREADS, [f"{spread:g}" for spread in SPREADS])


def averaged_heads(axes: Axes, heads: Sequence[int], found: Mapping[float, Sequence[np.ndarray]]) -> None:
    """Draw the cosine of two unrelated models' maps averaged over heads: a colour a spread, lines the law."""
    for spread, samples in found.items():
        colour = base.points_with_range(axes, np.array(heads), samples, f"$s={spread:g}$")
        axes.plot(heads, [cosine.independent_law(spread, h) for h in heads], color=colour, linewidth=1)
    base.threshold(axes, where=0.92)
    axes.set(xscale="log", xlabel="heads averaged", ylabel="raw cosine of the averages", ylim=(0.3, 1.03))
    axes.set_xticks(heads, [str(count) for count in heads])
    axes.minorticks_off()


def unrelated(axes: Axes, samples: Mapping[tuple[int, float], np.ndarray], chance: bool) -> None:
    """Draw cosines of unrelated maps as boxes by (tokens, spread); `chance` adds two deviations by the theorem."""
    base.grouped_boxes(axes, dict(samples), "tokens", "$s=$")
    base.threshold(axes, where=0.42)
    axes.set(ylim=(-0.3, 1.08))
    for place, tokens in enumerate(dict.fromkeys(tokens for tokens, _ in samples) if chance else ()):
        band = 2 * cosine.chance_spread(tokens)
        axes.fill_between([place - 0.45, place + 0.45], -band, band, color="0.6", alpha=0.35, zorder=0)


def scaled_map(axes: Axes, weights: np.ndarray, title: str) -> None:
    """Draw one attention map on its own scale, from 0 to its largest weight or .05 at least, with its colour bar."""
    attention.attention_map(axes, weights, title, max(float(np.max(weights)), 0.05))
    axes.figure.colorbar(axes.images[0], ax=axes, shrink=0.8, pad=0.02, format="%.2g")


def nulls(axes: Axes, reports: Sequence[Report], names: Sequence[str]) -> None:
    """Draw every null's cosine by layer, a dot a head, mean over reports, with the bar."""
    scores = {name: np.mean([report.nulls[name].per_head() for report in reports], 0) for name in names}
    attention.null_lines(axes, scores)
    base.threshold(axes, where=0.9)
    axes.set(xlabel="layer", ylabel="raw cosine")


def heads_and_law(axes: Axes, heads: Mapping[tuple[str, Any], tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw each head's cosine to the constant map against the spread of its logits, with the law and its range.

    `heads[modality, state]` are (spreads, cosines). The law is drawn on up to the end of its range for 49 tokens.
    """
    for key, (spreads, scores) in heads.items():
        axes.scatter(spreads, scores, **LOOKS[key])
    line = np.linspace(0.08, cosine.range_of_law(49), 100)
    axes.plot(line, cosine.uniform_law(line), color="black", linewidth=1, label="law")
    base.threshold(axes, where=0.75)
    axes.set(xlabel="measured spread of the logits, $s$", ylabel="raw cosine to the constant map", ylim=(0, 1.06))
    axes.set_xscale("log")
    axes.set_xticks((0.1, 0.2, 0.5, 1, 2, 5, 10), ("0.1", "0.2", "0.5", "1", "2", "5", "10"))
    axes.minorticks_off()


def square_law(axes: Axes, heads: Mapping[tuple[str, Any], tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw what another input's map scores against the square of what the mean map scores, head by head."""
    for key, (squares, others) in heads.items():
        axes.scatter(squares, others, **LOOKS[key])
    axes.plot([0, 1], [0, 1], color="black", linewidth=1)
    axes.set(xlabel="(raw cosine to the mean map)$^2$", ylabel="raw cosine to another input's map")


def exchange_rate(axes: Axes, mean_maps: Mapping[tuple[str, Any], np.ndarray]) -> None:
    """Draw the centred cosine that a raw cosine stands for against the mean map's, with heads as ticks on the axis."""
    grid = np.linspace(0, 0.999, 400)
    for raw in (0.99, 0.98, 0.95, 0.9):
        colour = base.THRESHOLD_COLOUR if raw == 0.98 else None
        axes.plot(grid, cosine.centred_from_raw(raw, grid), label=f"raw cosine {raw:g}", color=colour)
    for (modality, state), scores in mean_maps.items():
        trained = state == "trained"
        label = None if modality == "text" else f"heads, {'trained' if trained else 'untrained'}"
        place = np.full_like(scores, 0.07 if trained else 0.02)
        axes.plot(scores, place, "|", color="C1" if trained else "C0", markersize=9, label=label)
    axes.set(xlabel="raw cosine of the mean map, $c_0$", ylabel="centred cosine", ylim=(0, 1.02))


def predicted(axes: Axes, found: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw measured centred cosines against those that the exchange rate predicts, by modality and noise."""
    for (modality, noise), (by_rate, measured) in found.items():
        marker = "o" if modality == "image" else "s"
        axes.scatter(by_rate, measured, s=18, alpha=0.7, marker=marker, label=f"{modality}, sd {noise}")
    axes.plot([0.4, 1], [0.4, 1], color="black", linewidth=1)
    axes.set(xlabel="predicted centred cosine", ylabel="measured centred cosine")
