"""Figures on how much an equation reaches: the whole ladder, sharing over depth, and the length of a calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..seeds import SeedMean, over_seeds
from ..surrogates import results
from ..surrogates.proportion_ladder import NAMES, Hypothesis, by_seed, is_short, steps
from ..surrogates.specs import TEACHERS
from . import surrogates
from .base import threshold

# One mode and more than one were calibrated by two policies, which no line joins; with one step a layer, by one.
_MODES = {
    "filled": (((1, "full-k1"),), ((3, "full-k3"),)),
    "hollow": (((1, "full-k1-short"),), ((2, "full-k2"), (6, "unshared"))),
}
_ONE_STEP = ((1, "full-k1-one-step-short"), (3, "full-k3-one-step"), (6, "unshared-one-step"))
_MEASURES = {"cosine": "attention cosine", "r2": "R2 mean over channels"}
_LENGTHS = ("full-k1-short", "full-k1", "full-k1-long")


def poster(
    axes: Axes,
    modality: str,
    ladder: Mapping[str, Hypothesis],
    plain: Mapping[str, tuple[float, float]],
    nulls: Mapping[str, float],
    other: float,
) -> None:
    """Draw every hypothesis of a modality by its share of parameters, between its nulls.

    `plain` gives predictors that are no equation: share, and the cosine of the teacher's heads at their states; `other`
    is another seed's teacher's cosine.
    """
    teacher = TEACHERS[modality]
    marks = [surrogates.Mark(share, over_seeds([read]), name, "read") for name, (share, read) in plain.items()]
    for family, one in ladder.items():
        kind = "short" if is_short(teacher, family) else "long"
        kind = "control" if family == "narrow-k1" else kind if one.attends else "read"
        found = results.seed_mean(teacher, family, "cosine" if one.attends else "read")
        marks.append(surrogates.Mark(one.share, found, one.label, kind))
    surrogates.fidelity(axes, marks, nulls, other)
    axes.set(ylabel="cosine of attention, worst layer")


def states(axes: Axes, modality: str, plain: Mapping[str, Mapping[str, float]], floor: Mapping[str, float]) -> None:
    """Draw every hypothesis by its states and by its classes; `plain` as `proportion_nulls.predictors` gives them."""
    columns = {
        label: [
            *(over_seeds([plain[name][measure]]) for name in ("identity", "affine")),
            *(results.seed_mean(TEACHERS[modality], family, measure) for family in NAMES),
        ]
        for label, measure in ((_MEASURES["r2"], "r2"), ("same class", "classes"))
    }
    lines = {_MEASURES["r2"]: floor["r2"], "same class": floor["classes"]}
    surrogates.equation_dots(axes, ["identity", "affine", *NAMES.values()], columns, lines)
    axes.set(xlabel="R2, or share")


def sharing(axes: Axes, modality: str, floor: Mapping[str, float], depth: int) -> None:
    """Draw the full equation by its number of modes; lines join what one policy calibrated for equally long."""
    teacher = TEACHERS[modality]
    for number, measure in enumerate(_MEASURES):
        marker, colour = "os"[number], f"C{number}"
        for kind, groups in _MODES.items():
            face = colour if kind == "filled" else "white"
            for group in groups:
                found = [results.seed_mean(teacher, family, measure) for _, family in group]
                _points(axes, [k for k, _ in group], found, color=colour, marker=marker, mfc=face, ls="--")
        axes.plot(0.9, results.seed_mean(teacher, "narrow-k1", measure).mean, "D", color=colour, mfc="white")
        axes.axhline(floor[measure], color=colour, linestyle=":", linewidth=1.2)
        axes.plot([], [], color=colour, marker=marker, ls="", label=_MEASURES[measure])
    stepped = [results.seed_mean(teacher, family, "cosine", "1") for _, family in _ONE_STEP]
    label = "cosine, calibrated and judged at one step a layer"
    _points(axes, [k for k, _ in _ONE_STEP], stepped, color="0.5", marker="^", mfc="white", ls="-", label=label)
    _in_logs(axes, (1, 2, 3, 6), [f"{k}\n{k / depth:.0%}" for k in (1, 2, 3, 6)], "modes K (share of parameters)")


def lengths(axes: Axes, modality: str, floor: Mapping[str, float]) -> None:
    """Draw the full autonomous equation by how many optimiser steps calibrated it: seed 0, which has every length.

    Beside it, hollow, the mean over seeds with its interval, where there are several.
    """
    teacher = TEACHERS[modality]
    taken = [steps(teacher, family) for family in _LENGTHS]
    for number, (measure, label) in enumerate(_MEASURES.items()):
        look: dict[str, Any] = {"color": f"C{number}", "marker": "os"[number]}
        axes.plot(taken, [by_seed(teacher, family, measure)[0] for family in _LENGTHS], label=label, **look)
        for place, family in zip(taken, _LENGTHS, strict=True):
            mean = results.seed_mean(teacher, family, measure)
            if mean.interval is not None:
                _points(axes, [place * 1.12], [mean], mfc="white", ls="", **look)
        axes.axhline(floor[measure], color=f"C{number}", linestyle=":", linewidth=1.2)
    _in_logs(axes, taken, [f"{count:,}" for count in taken], "optimiser steps", bar=0.02)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Put one legend, of a panel's labels, under the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), bbox_to_anchor=(0.5, 0.0))


def _points(axes: Axes, places: Sequence[float], found: Sequence[SeedMean], color: str, **look: Any) -> None:
    """Draw means, joined, with upright lines for the intervals over seeds."""
    axes.plot(places, [one.mean for one in found], color=color, **look)
    for place, one in zip(places, found, strict=True):
        if one.interval is not None:
            axes.plot([place] * 2, one.interval, color=color, linewidth=1.6)


def _in_logs(axes: Axes, places: Sequence[float], names: Sequence[str], label: str, bar: float = 0.75) -> None:
    """Name places on a logarithmic axis, and the claim's bar so far along it."""
    threshold(axes, where=bar)
    axes.set(xscale="log", ylim=(-0.05, 1.05), xlabel=label)
    axes.set_xticks(np.asarray(places), list(names))
    axes.minorticks_off()
