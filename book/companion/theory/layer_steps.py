"""How large a step a Transformer's layer is: parity with its equation, tied networks, and each layer's own error."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate

from . import splitting

# What `sizes` measures of every layer.
COLUMNS = ("change", "commutator", "curvature", "distance")
SCHEMES = ("Lie", "Strang", "Strang, Euler sub-steps")


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference as a share of the largest entry, over all depths.

    >>> largest_difference([torch.tensor([1.0, 4.0])], [torch.tensor([1.5, 2.0])])
    1.0
    """
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


def parity(equation: PDE, flow: Flow) -> dict[str, float]:
    """Return how far one Lie step a layer is from a recorded Flow, in its states and in its attention."""
    found = integrate(equation, flow.states[0], method="lie", mask=flow.mask)
    return {part: largest_difference(getattr(found, part), getattr(flow, part)) for part in ("states", "attention")}


@torch.no_grad()
def tied_errors(equation: TransformerPDE, start: Tensor, layers: tuple[int, ...]) -> dict[str, list[float]]:
    """Return the errors of networks of so many tied layers against their equation, by `SCHEMES`.

    `equation` is one layer's (`splitting.tied`) and `start` a state (examples, tokens, width), both float64. Errors
    are shares of the whole change, `|u_L - u| / |u - u_0|`; the solution u is dopri5's at tolerance 1e-10.
    """
    span = [0.0, equation.depth]
    solved = integrate(equation, start, span, "dopri5", rtol=1e-10, atol=1e-10).states[-1]
    ends = (splitting.strang_with_euler(equation, start, count) for count in layers)
    size = (solved - start).norm()
    return {
        "Lie": splitting.order_errors(equation, start, "lie", layers, solved),
        "Strang": splitting.order_errors(equation, start, "strang", layers, solved),
        "Strang, Euler sub-steps": [float((end - solved).norm() / size) for end in ends],
    }


def slope(layers: Sequence[int], errors: Sequence[float]) -> float:
    """Return the slope of log error over log layers, fitted to the three finest: minus the order.

    >>> round(slope((1, 2, 4, 8), (9.0, 1.0, 0.25, 0.0625)), 6)
    -2.0
    """
    return float(np.polyfit(np.log(layers[-3:]), np.log(errors[-3:]), 1)[0])


@torch.no_grad()
def unexplained(equation: PDE, start: Tensor, steps: Sequence[float]) -> dict[str, list[float]]:
    """Return what {prf:ref}`prop-step-defect` leaves of the error of one Lie step of each size, as a share of it.

    With `both parts`, and with the `commutator alone`. The solution is 16 steps of rk4; give float64.
    """
    defect = splitting.step_defect(equation, 0.0, start)
    parts = {"both parts": defect.commutator + defect.curvature, "commutator alone": defect.commutator}
    found: dict[str, list[float]] = {name: [] for name in parts}
    for step in steps:
        span = [0.0, float(step)]
        exact, stepped = (integrate(equation, start, span, *how).states[-1] for how in (("rk4", 16), ("lie", 1)))
        missed = (exact - stepped) / step**2
        for name, part in parts.items():
            found[name].append(float((missed - part).norm() / missed.norm()))
    return found


@torch.no_grad()
def sizes(equation: TransformerPDE, flow: Flow, examples: int) -> np.ndarray:
    """Return `COLUMNS` of every layer, from the model's own states of the first examples, (layers, 4).

    `change`: |step| / |state|. The others are shares of the step: the two parts of what it leaves out at second
    order, and how far it ends from the solution of its own layer's equation (16 Strang steps, float64).
    """
    rows = []
    for place in range(flow.layers):
        alone = splitting.tied(equation, place, 1.0)
        u, after = (flow.states[place + k][:examples].double() for k in (0, 1))
        step = (after - u).norm()
        parts = splitting.step_defect(alone, 0.0, u)
        solved = integrate(alone, u, [0.0, 1.0], "strang", 16).states[-1]
        shares = (parts.commutator.norm(), parts.curvature.norm(), (solved - after).norm())
        rows.append([float(step / u.norm()), *(float(share / step) for share in shares)])
    return np.array(rows)
