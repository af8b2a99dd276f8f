"""Figures of the teachers: what they see, how they learnt, and whether they know when they err."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from ..teachers.reliability import Reliability
from .base import legend

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
_PATCH, _SIDE = 4, 28


def examples(axes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
    """Draw the first pictures (examples, 28, 28) of each class, one class a column, the last row cut into patches.

    `axes` (rows, classes).
    """
    for kind, column in enumerate(axes.T):
        column[0].set_title(CLASSES[kind], fontsize=8)
        shown = images[labels == kind][: len(column)]
        for axis, image in zip(column, shown, strict=True):
            axis.imshow(image, cmap="gray_r")
            axis.set_axis_off()
        for line in range(_PATCH, _SIDE, _PATCH):
            column[-1].axhline(line - 0.5, color="C3", linewidth=0.5)
            column[-1].axvline(line - 0.5, color="C3", linewidth=0.5)


def learning(axes: Axes, curves: Sequence[np.ndarray], column: int, kept: Sequence[int], title: str) -> None:
    """Draw learning curves, a seed a line: running batches pale, examples apart dark, dots where snapshots are kept.

    A curve (points, 5) holds step, loss and accuracy of running batches, loss and accuracy apart; `column` is 1 for
    the loss (nats a token), 2 for accuracy. Snapshots `kept` (steps) are of the first seed.
    """
    for curve in curves:
        axes.plot(curve[:, 0], curve[:, column], color="C0", alpha=0.2, lw=0.8)
        axes.plot(curve[:, 0], curve[:, column + 2], color="C0", alpha=0.7, lw=1.1)
    first = curves[0]
    for step in kept:
        axes.plot(step, np.interp(step, first[:, 0], first[:, column + 2]), "o", color="C3", ms=4)
    axes.set(xlabel="step", title=title, ylabel="accuracy" if column == 2 else "nats a token")


def levels(axes: Axes, found: Mapping[str, float]) -> None:
    """Draw each value as a dashed line with its name at the right."""
    for name, value in found.items():
        axes.axhline(value, color="0.3", linestyle="--", lw=1)
        axes.text(1, value, name, transform=axes.get_yaxis_transform(), fontsize=8, va="bottom", ha="right")


def knowing(axes: Axes, curves: Sequence[Reliability], title: str) -> None:
    """Draw accuracy against confidence, a line a seed, with the diagonal dashed."""
    for number, curve in enumerate(curves):
        axes.plot(curve.confidence, curve.accuracy, marker="o", ms=3, lw=1, label=f"seed {number}")
    axes.plot([0.4, 1], [0.4, 1], color="0.3", linestyle="--", lw=1)
    axes.set(xlabel="confidence", ylabel="accuracy", title=title)
    legend(axes, loc="lower right")
