"""Figures of tokens that come together: on the sphere, layer by layer, and in a trained model."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from .base import legend


def common_cosines(
    axes: Axes,
    grid: np.ndarray,
    curves: Mapping[float, np.ndarray],
    dots: np.ndarray,
    found: Mapping[float, np.ndarray],
) -> None:
    """Draw the exact common cosine over time, a line a temperature, and the particles' on it as dots."""
    for number, (beta, curve) in enumerate(curves.items()):
        axes.plot(grid, curve, color=f"C{number}", label=f"$\\beta={beta:g}$")
        axes.plot(dots, found[beta], "o", color=f"C{number}", markersize=4)
    axes.set(xlabel="time", ylabel="cosine", title="one common cosine")
    legend(axes, loc="center right")


def waiting_times(
    axes: Axes, betas: Sequence[float], exact: np.ndarray, fine: np.ndarray, found: Mapping[float, np.ndarray]
) -> None:
    """Draw the time until the mean cosine is one half: exact over `fine`, and random starts with their range."""
    axes.plot(fine, exact, color="black", linewidth=1.2, label="orthonormal start")
    middle = np.array([np.median(found[beta]) for beta in betas])
    ends = np.array([np.quantile(found[beta], [0.025, 0.975]) for beta in betas]).T
    reach = np.abs(ends - middle)
    axes.errorbar(betas, middle, yerr=reach, fmt="o", markersize=4, label="random starts")
    axes.set(yscale="log", xlabel="$\\beta$", ylabel="time", title="until the mean cosine is 1/2")
    axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    legend(axes, loc="upper left")


def collapse(axes: Axes, found: Mapping[str, np.ndarray]) -> None:
    """Draw the tokens' residual by layer, a line a kind of layer; a line ends where rounding begins."""
    for (name, values), marker in zip(found.items(), "osD^v", strict=True):
        kept = values[: int((values > 1e-14).sum())]
        axes.plot(range(len(kept)), kept, marker=marker, markersize=3.5, linewidth=1.2, label=name)
    axes.set(yscale="log", xlabel="layer", ylabel="residual / norm", ylim=(1e-14, 3), title="layers")
    legend(axes, loc="lower right", fontsize=8)


def cure(axes: Axes, times: np.ndarray, found: Mapping[float, np.ndarray]) -> None:
    """Draw the tokens' residual over time, a line a strength of the fidelity term."""
    for strength, values in found.items():
        axes.plot(times, values, label=f"$\\lambda={strength:g}$")
    axes.set(yscale="log", xlabel="time", ylim=(1e-6, 1.5), title="a fidelity term")
    legend(axes, loc="lower left")


def switched_off(axes: Axes, found: Mapping[tuple[str, str], np.ndarray], kinds: Mapping[str, tuple[str, int]]) -> None:
    """Draw the residual over depth with terms switched off: trained solid, untrained dashed, seeds' range as a band.

    `found[name, kind]` is (seeds, depths); `kinds` gives each kind's label and its number among the colours.
    """
    for kind, (label, number) in kinds.items():
        for name, line in (("trained", "-"), ("untrained", "--")):
            each, colour = found[name, kind], f"C{number}"
            axes.fill_between(range(each.shape[1]), each.min(0), each.max(0), color=colour, alpha=0.15, linewidth=0)
            shown_as = label if name == "trained" else f"{label}, untrained"
            look = {"marker": "osD^"[number], "markersize": 4, "linewidth": 1.2, "color": colour}
            axes.plot(each.mean(0), line, label=shown_as, **look)
    axes.set(xlabel="depth")
    legend(axes, loc="lower left", fontsize=7.5)
