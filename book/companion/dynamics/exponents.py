"""Finite-time Lyapunov exponents of models beside each other, and changes tangent and normal to the norm's sphere."""

from collections.abc import Mapping

import torch
from torch import Tensor

from pdelens.sensitivity.growth import lyapunov_exponents
from pdelens.sensitivity.sphere import split_at_norm

from .changes import SMALL, Point, grown, length
from .movers import Mover

COUNT, MORE, ROUNDS = 4, 2, 4
# So many examples keep the graphs of their solution at once.
TOGETHER = 4


def spectra(models: Mapping[str, tuple[Mover, Point]], few: int) -> dict[str, dict[str, list[float]]]:
    """Return by name the leading exponents from depth 0 to the last ("0") and from depth 1 on ("1").

    Means over the first `few` examples, in falling order: `log s_k / (depths)` with the singular values s of the map's
    Jacobian, by re-orthonormalised directions. Cost: `(2 ROUNDS + 1) (COUNT + MORE)` products with each map.
    """
    found = {}
    for name, (mover, point) in models.items():
        rows: dict[str, list[Tensor]] = {"0": [], "1": []}
        for some in torch.arange(min(few, len(point.u))).split(TOGETHER):
            padding = None if point.padding is None else point.padding[some]
            last = len(point.states) - 1
            late = mover.flow_map(point.states[1][some], padding, 1, last)
            entry = mover.flow_map(point.u[some], padding, 0, 1)
            for start, maps in (("0", [entry, late]), ("1", [late])):
                rows[start].append(lyapunov_exponents(maps, COUNT, rounds=ROUNDS, oversampling=MORE))
        found[name] = {start: torch.cat(each).mean(0).tolist() for start, each in rows.items()}
    return found


def on_the_sphere(mover: Mover, point: Point) -> dict[str, list[float]]:
    """Return growth up to the last depth of noise tangent and normal to the norm's sphere, from depth 0 and from 1.

    Geometric means over examples of small changes (`SMALL`), [tangent, normal] each.
    """
    found = {}
    for start in (0, 1):
        here = Point(point.states[start], point.padding, point.states[start:], start)
        noise = torch.randn(here.u.shape, generator=torch.Generator().manual_seed(3))
        grew = []
        for part in split_at_norm(here.u, noise):
            if here.padding is not None:
                part = part.masked_fill(~here.padding[..., None], 0.0)
            scale = SMALL * here.norm / length(part, here.padding).clamp_min(1e-300)
            growth = grown(mover, here, part * scale.to(part).view(-1, 1, 1)).growth[:, -1]
            grew.append(float(growth.log().mean().exp()))
        found[str(start)] = grew
    return found
