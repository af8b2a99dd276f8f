"""How a calibration steps, in words, and what an optimiser step costs: read off the plan in a record."""

from collections.abc import Mapping
from typing import Any

from pdelens.pde.schemes import SCHEMES


def ranges(plan: Mapping[str, Any], layers: int) -> list[tuple[int, int]]:
    """Return the fewest and most sub-steps of each part of depth-time: layers, and what entry times cut off.

    `plan` is `fit.Plan` as an equation's record keeps it (`record["made"]["plan"]`).
    """
    substeps = plan["substeps"]
    even = (substeps, substeps) if isinstance(substeps, int) else tuple(substeps)
    given = [tuple(pair) for pair in plan["graded"]] or [even]
    return [given[min(part, len(given) - 1)] for part in range(layers + len(plan["entry"]))]


def right_hand_sides(plan: Mapping[str, Any], layers: int) -> float:
    """Return how many right-hand sides an optimiser step evaluates, in the mean over a calibration.

    Counts the roll-out alone (its gradient costs about twice as much again, and as much for every plan). Doubled
    sub-steps and single Lie steps count for their share of the steps; a refinement penalty rolls out anew, twice as
    finely.

    >>> plan = {"substeps": 1, "graded": [[3, 5], [1, 2]], "entry": [], "method": "heun", "doubled": 0.25}
    >>> right_hand_sides(plan | {"refinement": 0.0}, layers=6)
    28.75
    """
    once = SCHEMES[plan["method"]].stages * sum((low + high) / 2 for low, high in ranges(plan, layers))
    coarse = plan.get("coarse", 0.0)  # plans of the first records know none
    return coarse * layers + (1 - coarse) * once + once * (plan["doubled"] + 2 * (plan["refinement"] > 0))


def describe(plan: Mapping[str, Any], layers: int) -> str:
    """Return how a plan steps, in words.

    >>> plan = {"substeps": 1, "graded": [[3, 5], [1, 2]], "entry": [], "method": "heun"}
    >>> describe(plan | {"refinement": 0.0, "forced": 0.3, "doubled": 0.25}, layers=6)
    'Heun, 3 to 5 in the first layer, 1 to 2 after; forced, doubled'
    """
    scheme = SCHEMES[plan["method"]].title
    first, *_, last = ((str(low) if low == high else f"{low} to {high}") for low, high in ranges(plan, layers))
    if plan["entry"]:
        text = f"{scheme}, {last} a layer, crowded at the entry"
    elif first != last:
        text = f"{scheme}, {first} in the first layer, {last} after"
    else:
        text = f"{scheme}, {last} a layer"
    added = [name for name in ("forced", "coarse", "smooth", "doubled") if plan.get(name)]
    added += ["penalty"] * bool(plan["refinement"])
    return "; ".join(filter(None, [text, ", ".join(added)]))
