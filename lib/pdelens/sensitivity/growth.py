"""How a change of a state grows with depth: by its size, and in the linear limit by Lyapunov exponents."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .. import _doors
from .flow_map import FlowMap
from .subspace import at_most, columns, drawn, each, random_directions, rows


@dataclass(frozen=True, eq=False)
class Growth:
    """By how much changes of several sizes have grown between two depths.

    `sizes` are relative to the state's root mean square where the change enters; `factor` (sizes, examples) is
    `|F(u + d) - F(u)| / |d|`; `linear` (examples,) is the limit of small changes, `|J d| / |d|`.
    """

    sizes: tuple[float, ...]
    factor: Tensor
    linear: Tensor

    def linear_up_to(self, tolerance: float = 0.05) -> float:
        """Return the largest size up to which every factor's median is within a tolerance of the linear one; 0 if none.

        Medians over examples of the factor over the linear one; the tolerance is relative.
        """
        far = (self.factor / self.linear).median(1).values.sub(1).abs()
        good = 0.0
        for size, gap in sorted(zip(self.sizes, far.tolist(), strict=True)):
            if gap > tolerance:
                break
            good = size
        return good


@torch.no_grad()
def perturbation_growth(
    flow_map: FlowMap,
    sizes: Sequence[float] | Tensor = (1e-3, 1e-2, 1e-1, 1.0),
    direction: Tensor | None = None,
    *,
    token: int | None = None,
    seed: int = 0,
) -> Growth:
    """Return by how much changes of a state grow through a flow map, for several sizes.

    `sizes` are relative to the root mean square of the state at the map's start, over real tokens and channels: a
    change of size 1 of all tokens is as large as the state. `direction` (batch, tokens, width) is the change's
    direction, random (normal, seeded) if not given; `token` keeps it to one token. Raises `ValueError` for a size that
    is not above 0, and for a direction or a state that is zero for an example. Cost: one evaluation of the map a size,
    and one product. In float32 sizes below 1e-3 are lost in rounding. Source: the growth of finite perturbations of
    Aurell et al. 1997.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens.sensitivity.flow_map import flow_map
    >>> heat = PDE({"diffusion": Diffusion(Chain(4), 1, 0.1)}, Chain(4), depth=1)
    >>> found = perturbation_growth(flow_map(heat, torch.ones(1, 4, 1)), direction=torch.ones(1, 4, 1))
    >>> found.factor.flatten().round(decimals=4).tolist(), found.linear_up_to()  # a constant stays what it is
    ([1.0, 1.0, 1.0, 1.0], 1.0)
    """
    _doors.is_a("flow_map", flow_map, FlowMap, "what `flow_map` returns")
    known = _sizes(sizes)
    point = flow_map.real(flow_map.point.detach())
    direction = _direction(flow_map, direction, token, seed)
    length = direction.flatten(1).norm(dim=1)
    if not bool((length > 0).all()):
        raise ValueError("a direction that is zero for an example was given: there is nothing whose growth to measure.")
    unit = direction / length.view(-1, 1, 1)
    # As long as the state's changed part would be, were every entry of the root mean square's size.
    tokens = torch.full_like(length, point.shape[1]) if flow_map.mask is None else flow_map.mask.sum(1).to(length)
    entries = tokens * point.shape[2]
    rms = point.flatten(1).norm(dim=1) / entries.sqrt()
    if not bool((rms > 0).all()):
        raise ValueError("a state that is zero for an example was given: sizes are relative to it.")
    whole = rms * ((entries if token is None else torch.full_like(entries, point.shape[2])).sqrt())
    factors = []
    for size in known:
        change = unit * (size * whole).view(-1, 1, 1)
        moved = flow_map(point + change) - flow_map.value
        factors.append(moved.flatten(1).norm(dim=1) / change.flatten(1).norm(dim=1))
    with torch.enable_grad():
        linear = flow_map.jvp(unit).flatten(1).norm(dim=1).detach()
    return Growth(known, torch.stack(factors), linear)


def _sizes(sizes: Sequence[float] | Tensor) -> tuple[float, ...]:
    wanted = "a row of sizes above 0, relative to the state"
    if isinstance(sizes, str) or not isinstance(sizes, Sequence | np.ndarray | Tensor) or not len(sizes):
        raise ValueError(f"sizes={sizes!r} were given: {wanted}, is wanted.")
    for size in sizes:
        _doors.real("sizes", size, above=0)
    return tuple(float(size) for size in sizes)


def _direction(flow_map: FlowMap, direction: Tensor | None, token: int | None, seed: int) -> Tensor:
    """Return the direction of a change, of the state's shape: zero where it is padding, or another token than one."""
    point = flow_map.point
    if direction is None:
        direction = drawn(flow_map, 1, seed)[0]
    direction = _doors.state("direction", direction).to(point)
    if direction.shape != point.shape:
        raise ValueError(f"a direction of shape {tuple(direction.shape)} was given for {tuple(point.shape)}.")
    direction = flow_map.real(direction)
    if token is None:
        return direction
    _doors.whole("token", token, 0)
    if token >= point.shape[1]:
        raise ValueError(f"token={token} was given, but there are {point.shape[1]} tokens, counted from 0.")
    alone = torch.zeros_like(direction)
    alone[:, token] = direction[:, token]
    return alone


def lyapunov_exponents(
    flow_maps: Sequence[FlowMap], count: int = 4, *, rounds: int = 10, oversampling: int = 4, seed: int = 0
) -> Tensor:
    """Return the largest finite-time Lyapunov exponents `log s_k / T` through a row of flow maps, (examples, count).

    `s_k` are the singular values of `J = J_n ... J_1`, `T` is the depth-time between the first map's start and the last
    one's end. Directions are carried through the maps one after another and re-orthonormalised (QR) after each, there
    and back (`rounds` times), so that neither the product's size nor its conditioning is lost. Where maps follow each
    other each one's `point` is to be the one before's `value`. Raises `ValueError` where it is not. Cost: `2 rounds
    (count + oversampling)` products with every map. Source: Benettin et al. 1980; Dieci and Van Vleck 1995.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens.sensitivity.flow_map import flow_map
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=2)
    >>> maps = [flow_map(heat, torch.zeros(1, 3, 1), start, start + 1, substeps=32) for start in range(2)]
    >>> [abs(round(float(one), 3)) for one in lyapunov_exponents(maps, 3)[0]]  # 0, -1 and -3: the Laplacian's
    [0.0, 1.0, 3.0]
    """
    _doors.is_a("flow_maps", flow_maps, (tuple, list), "a row of what `flow_map` returns")
    if not flow_maps:
        raise ValueError("no flow map was given: at least one is wanted.")
    for one in flow_maps:
        _doors.is_a("flow_maps", one, FlowMap, "what `flow_map` returns")
    _doors.whole("rounds", rounds)
    _doors.whole("oversampling", oversampling, 0)
    at_most("count", count, flow_maps[0])
    for before, after in pairwise(flow_maps):
        _refuse_gap(before, after)
    basis = random_directions(flow_maps[0], count + oversampling, seed)
    for _ in range(rounds):
        basis, _ = _carried(basis, [one.jvp for one in flow_maps])
        basis, _ = _carried(basis, [one.vjp for one in reversed(flow_maps)])
    _, triangles = _carried(basis, [one.jvp for one in flow_maps])
    length = sum(one.length for one in flow_maps)
    return _log_singular(triangles)[:, :count] / length


def _refuse_gap(before: FlowMap, after: FlowMap) -> None:
    """Raise `ValueError` unless a map begins at the depth and the state where the one before has ended."""
    if before.depths[1] != after.depths[0] or before.point.shape != after.point.shape:
        raise ValueError(f"a map of depths {before.depths} is followed by one of {after.depths}: they are to meet.")
    end, start = before.value, after.real(after.point.detach()).to(before.value)
    if float((end - start).norm()) > 1e-2 * float(end.norm()):
        raise ValueError(
            f"the map from depth {after.depths[0]:g} begins at another state than the one before it ends at: give it "
            "that map's `value`, or both the same inputs."
        )


def _carried(basis: Tensor, products) -> tuple[Tensor, list[Tensor]]:
    """Carry directions through a row of products; return where they end, orthonormal, and each step's triangle."""
    triangles = []
    for product in products:
        matrix, triangle = torch.linalg.qr(columns(each(product, basis)))
        basis = rows(matrix, basis.shape)
        triangles.append(triangle.double())
    return basis, triangles


def _log_singular(triangles: Sequence[Tensor]) -> Tensor:
    """Return the logarithms of the singular values of `R_n ... R_1`, in falling order, whatever its size.

    Every factor is scaled by its largest entry. Small values keep their digits: after rounds there and back the product
    is nearly diagonal, and of such a graded triangle they are known to a relative precision.
    """
    scale = torch.stack([one.abs().amax((-2, -1)) for one in triangles])
    product = triangles[0] / scale[0, :, None, None]
    for one, size in zip(triangles[1:], scale[1:], strict=True):
        product = one / size[:, None, None] @ product
    return torch.linalg.svdvals(product).clamp_min(1e-300).log() + scale.log().sum(0)[:, None]
