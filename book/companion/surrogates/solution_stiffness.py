"""Why a field strays from its teacher: how stiff it is, how wrong in one layer, and what later layers make of it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement.nulls import state_nulls
from pdelens.flow import Flow
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.jacobian import FieldJacobian
from pdelens.sensitivity.local_error import local_errors
from pdelens.sensitivity.spectrum import eigenvalues, lipschitz_constant, logarithmic_norms

from .solution_fields import Subject, distance

# Depths along a solution at which its Lipschitz constant is measured: many at the entry, then one a layer.
ALONG = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def sizes(flow: Flow) -> list[float]:
    """Return the median over real tokens of a state's standard deviation over channels, by depth."""
    return [float(state[flow.mask].std(-1, unbiased=False).median()) for state in flow.states]


class Linearised(NamedTuple):
    """A field linearised at a Flow's states.

    `lipschitz` (depths, examples): the largest singular value of its Jacobian; `norms` (layers, or the first alone):
    one example's logarithmic norm; `mode`: that example's eigenvalue of largest modulus at depth 0.
    """

    lipschitz: Tensor
    norms: Tensor
    mode: complex


def linearised(pde: PDE, flow: Flow, everywhere: bool) -> Linearised:
    """Return a field linearised at a Flow's states; logarithmic norms at every layer's start, or at the first alone."""
    constants, norms, mode = [], [], 0j
    for t, u in enumerate(flow.states):
        jacobian = FieldJacobian(pde, t, u, flow.mask)
        constants.append(lipschitz_constant(jacobian, 1e-3))
        if t == 0 or (everywhere and t < len(flow.states) - 1):
            first = jacobian.example(0)
            norms.append(logarithmic_norms(first, 1e-2).upper[0])
            if t == 0:
                mode = complex(eigenvalues(first, 1e-3).largest[0])
    return Linearised(torch.stack(constants), torch.stack(norms), mode)


def one_layer(one: Subject, flow: Flow) -> tuple[dict[str, Sequence[Tensor]], dict[str, Tensor]]:
    """Return where each field's solution of one layer ends that starts at the teacher's state, and one step's error.

    The first holds, by field, a state a layer, and `affine`, the best affine map of each layer from the same state, a
    null that knows no equation; the second, by field, the error of one Lie step over each layer as a share of the
    solution's displacement, (layers, examples).
    """
    ends: dict[str, Sequence[Tensor]] = {"affine": state_nulls(flow, one.calibration)["affine, one step"][1:]}
    errors = {}
    for name, pde in one.fields.items():
        local = local_errors(pde, flow, rtol=1e-5, atol=1e-6)
        ends[name], errors[name] = local.solved, local.relative
    return ends, errors


def defects(ends: Sequence[Tensor], flow: Flow) -> list[float]:
    """Return by layer how far given ends are from the Flow's next states, as a share of the Flow's own displacement."""
    return [
        distance(end, after, flow.mask) / distance(after, before, flow.mask)
        for end, (before, after) in zip(ends, pairwise(flow.states), strict=True)
    ]


def factor_towards(ends: Sequence[Tensor], flow: Flow, path: Sequence[Tensor]) -> float:
    """Return by what a field multiplies its distance from its own path in one layer, if set down on a Flow's states.

    `ends[l]` is where the solution of layer l ends that starts at the Flow's state; `path` is the field's own solution
    at whole depths. Geometric mean over all layers but the first, in which both start at one point.
    """
    pairs = zip(ends[1:], path[2:], flow.states[1:-1], path[1:-1], strict=True)
    ratios = [distance(end, after, flow.mask) / distance(u, ours, flow.mask) for end, after, u, ours in pairs]
    return float(np.exp(np.mean(np.log(ratios))))


def doubling(pde: PDE, flow: Flow, depth: int = 3) -> float:
    """Return by what the Lipschitz constant at a Flow's first example is multiplied if its state is doubled."""
    alone = flow.select(slice(1))
    u = alone.states[depth]
    twice, once = (
        lipschitz_constant(FieldJacobian(pde, float(depth), scale * u, alone.mask), 1e-4) for scale in (2, 1)
    )
    return float(twice / once)


def steps_wanted(pde: PDE, flow: Flow) -> dict[str, float]:
    """Return how many Euler steps with `h Lambda <= 1` follow a field's solution from a Flow's first embedding.

    `equal`: of one length everywhere; `graded`: as long as Lambda lets them be (its integral over depth-time), and how
    many of these lie in the first layer (`graded.first`). Lambda is the local Lipschitz constant along the solution.
    """
    alone = flow.select(slice(1))
    times = [*ALONG, *range(2, int(pde.depth) + 1)]
    with torch.no_grad():
        path = integrate(pde, alone.states[0], times, "dopri5", mask=alone.mask, rtol=1e-6, atol=1e-6)
    along = [
        float(lipschitz_constant(FieldJacobian(pde, t, state, alone.mask), 1e-3)[0])
        for t, state in zip(times, path.states, strict=True)
    ]
    first = len(ALONG)
    return {
        "equal": int(pde.depth) * max(along),
        "graded": float(np.trapezoid(along, times)),
        "graded.first": float(np.trapezoid(along[:first], times[:first])),
    }


def bound(found: Sequence[float], norms: Sequence[float], flow: Flow) -> tuple[float, float]:
    """Return the bound on how far a solution strays from a Flow, and by what later layers can spread the first's error.

    `found` are the defects by layer as shares of the Flow's displacement, `norms` the logarithmic norms by layer.
    """
    moves = [distance(after, before, flow.mask) for before, after in pairwise(flow.states)]
    spread = [float(np.exp(sum(norms[layer + 1 :]))) for layer in range(len(moves))]
    return float(np.dot(np.array(moves) * np.array(found), spread)), spread[0]
