"""A head as a local operator: what its moments alone make of the states, and what they leave out.

`A u` at token i is the mean of `u` at displacement Delta under the row's weights. A head of drift `v = E[Delta]` and
diffusivity `D = Cov[Delta] / 2` (the second *cumulant*, throughout) is, if it is local at all, the flow of the
generator `v . grad + D : grad grad` over one unit of depth; one explicit step of it is its second-order expansion.
These are backward operators: they average values and conserve no mass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import _doors
from ..flow import Flow
from ..lattice import Lattice, gradient, laplacian
from .matched import match_moments
from .moments import Moments, attention_moments, centred_places, lattice_attention, row_moments

# How a term looks at the states: a normalisation.
Look = Callable[[Tensor], Tensor]
# How far a refined generator is corrected at a time by what its flow's moments lack.
_RATE = 0.7


def taylor(u: Tensor, moments: Moments, lattice: Lattice) -> Tensor:
    """Return `u + v . grad u + (D + v v^T / 2) : grad grad u`, the second-order expansion of `A u`.

    `u` (..., places, width) on the lattice alone (no special tokens); result (..., heads, places, width). Differences
    are central, with the lattice's own boundary.
    """
    outer = moments.drift.unsqueeze(-1) * moments.drift.unsqueeze(-2)
    raw = Moments(moments.drift, moments.diffusivity + outer / 2, moments.special_mass)
    u = u.unsqueeze(-3)
    return u + local_operator(raw, lattice).to(u) @ u


def local_operator(moments: Moments, lattice: Lattice) -> Tensor:
    """Return `v . grad + D : grad grad` as a matrix (..., heads, places, places), float64.

    Row i has drift and diffusivity of query i; differences are central, with the lattice's own boundary.

    >>> from pdelens.lattice import Chain
    >>> even = Moments(torch.zeros(1, 3, 1), torch.ones(1, 3, 1, 1), torch.zeros(1, 3))
    >>> local_operator(even, Chain(3))[0].tolist()
    [[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]]
    """
    own = Lattice(lattice.shape, lattice.boundary)
    eye = torch.eye(own.places, dtype=torch.float64, device=moments.drift.device)
    v, spread = moments.drift.double(), moments.diffusivity.double()
    bends = torch.stack([_second_difference(eye, own, axis) for axis in range(own.dims)])
    found = torch.einsum("...qd,dqk->...qk", v, gradient(eye, own))
    found = found + torch.einsum("...qdd,dqk->...qk", spread, bends)
    if own.dims == 2:
        found = found + 2 * spread[..., 0, 1].unsqueeze(-1) * gradient(gradient(eye, own)[0], own)[1]
    return found


def generated(moments: Moments, lattice: Lattice, refinements: int = 0) -> tuple[Tensor, Tensor]:
    """Return the flow of a head's generator over one unit of depth, and what its moments lack.

    The matrix exponential of `local_operator`, (..., heads, places, places), and the largest difference of its rows'
    drift and diffusivity from those given, (..., heads), lattice units and their squares. Near an edge a row's moments
    are not the coefficients of the operator there: each of `refinements` corrects the coefficients by what the flow's
    moments lack, and what came nearest is kept. So the flow of a local operator is recognised: for a heat kernel the
    lack tends to 0. Cost: one exponential each, `O(places^3)` a head.

    >>> from pdelens.lattice import Chain
    >>> heat = torch.linalg.matrix_exp(0.5 * local_operator(Moments(torch.zeros(1, 9, 1), torch.ones(1, 9, 1, 1), torch
    ...     .zeros(1, 9)), Chain(9)))
    >>> flow, lack = generated(attention_moments(heat, Chain(9)), Chain(9), refinements=60)
    >>> bool((flow - heat).abs().max() < 1e-6), bool(lack[0] < 1e-6)
    (True, True)
    """
    _doors.whole("refinements", refinements, 0)
    wanted = Moments(moments.drift.double(), moments.diffusivity.double(), moments.special_mass)
    own, now = Lattice(lattice.shape, lattice.boundary), wanted
    best, kept = torch.full(wanted.drift.shape[:-2], torch.inf, dtype=torch.float64).to(wanted.drift), None
    for _ in range(refinements + 1):
        flow = torch.linalg.matrix_exp(local_operator(now, own))
        drift, covariance = row_moments(flow, own)
        lack = Moments(wanted.drift - drift, wanted.diffusivity - covariance / 2, wanted.special_mass)
        size = torch.maximum(lack.drift.abs().amax((-1, -2)), lack.diffusivity.abs().amax((-1, -2, -3)))
        nearer = size < best  # False where a correction led astray, to no finite number even
        best = torch.where(nearer, size, best)
        kept = flow if kept is None else torch.where(nearer[..., None, None], flow, kept)
        now = Moments(now.drift + _RATE * lack.drift, now.diffusivity + _RATE * lack.diffusivity, now.special_mass)
    assert kept is not None
    return kept, best


def truncated_gaussian(moments: Moments, lattice: Lattice, floor: float = 1e-2) -> Tensor:
    """Return a Gaussian of mean v and covariance 2 D, cut off at the lattice's edges, (..., heads, places, places).

    Rows sum to 1. Cut off, and on points, it no longer has the moments that it is given: of a wide row's spread about
    four fifths are left (`match_moments` keeps them). `floor` is added to the variance, below which a lattice can't
    tell a Gaussian from a point.
    """
    # The quadratic form as two products with the keys' monomials: nothing of size (queries, keys, dims) is made.
    middle, pairs = centred_places(lattice, moments.drift.device)
    covariance = 2 * moments.diffusivity.double() + floor * torch.eye(lattice.dims).to(middle)
    inverse = torch.linalg.inv(covariance)
    centre = middle + moments.drift.double()
    linear = (inverse @ centre.unsqueeze(-1)).squeeze(-1)
    return torch.softmax(linear @ middle.T - inverse.flatten(-2) @ pairs.T / 2, -1).to(moments.drift)


def fitted_stencil(u: Tensor, target: Tensor, lattice: Lattice) -> Tensor:
    """Return the stencil of u and its first and second differences that best fits `target`, per head.

    One coefficient a head for the value, each first and each second difference (a 3-point stencil on a chain, a
    5-point one on a grid), by least squares over all examples, places and channels. `u` (examples, places, width),
    `target` (examples, heads, places, width); coefficients (heads, 1 + 2 dims).
    """
    features = stencil_features(u, lattice).double()
    # Normal equations will do: the features are few and of like scale.
    gram = torch.einsum("epwf,epwg->fg", features, features)
    along = torch.einsum("epwf,ehpw->fh", features, target.double())
    return torch.linalg.solve(gram, along).T.to(u.dtype)


def stencil_features(u: Tensor, lattice: Lattice) -> Tensor:
    """Return value, first and second differences of u (..., places, width), (..., places, width, 1 + 2 dims)."""
    own = Lattice(lattice.shape, lattice.boundary)
    seconds = [_second_difference(u, own, axis) for axis in range(own.dims)]
    return torch.stack([u, *gradient(u, own), *seconds], -1)


def remainder(target: Tensor, u: Tensor, approximation: Tensor, per_example: bool = False) -> Tensor:
    """Return `|A u - T u| / |A u - u|`, (heads,) or (examples, heads): 0 is exact, 1 no better than doing nothing.

    `target` is A u and `approximation` T u, (examples, heads, places, width); `u` (examples, places, width).
    """
    axes = (2, 3) if per_example else (0, 2, 3)
    miss = (target - approximation).square().sum(axes)
    return (miss / (target - u.unsqueeze(1)).square().sum(axes).clamp_min(1e-30)).sqrt()


def _second_difference(u: Tensor, lattice: Lattice, axis: int) -> Tensor:
    """Second difference along one axis alone."""
    if lattice.dims == 1:
        return laplacian(u, lattice)
    grid = u.unflatten(-2, lattice.shape)
    if axis == 0:
        grid = grid.transpose(-3, -2)
    line = Lattice((grid.shape[-2],), lattice.boundary)
    bent = laplacian(grid, line)
    if axis == 0:
        bent = bent.transpose(-3, -2)
    return bent.flatten(-3, -2)


def remainders(
    calibration: Flow,
    heldout: Flow,
    lattice: Lattice,
    see: Look | Sequence[Look],
    per_example: bool = False,
    refinements: int = 0,
    every: int = 1,
) -> dict[str, Tensor]:
    """Return what every local picture of a head leaves out (`remainder`), by name, (layers, heads).

    `taylor`: the second-order expansion with each row's own moments; `generator`: the flow of the operator with those
    (`generated`, which takes the `refinements`); `matched`: the row of largest entropy that has them
    (`match_moments`); `matched elsewhere`: its null with as many numbers a row (`matched_elsewhere`); `truncated`: a
    Gaussian with them, cut off at the edges; `stencil`: one fitted stencil a head; `mean map`: its mean attention
    (non-local, but blind to the input); `uniform`: the mean over all places. Stencil and mean map are fitted on the
    calibration Flow; all are judged on held-out states, looked at through `see` (the normalisation, or one for each
    layer), on the lattice's own tokens, one in `every`, in float64. With `per_example` every held-out example has a
    remainder of its own, (examples, layers, heads), so that intervals can be taken over examples.
    """
    found: dict[str, list[Tensor]] = {}
    own = Lattice(lattice.shape, lattice.boundary)
    for layer in range(heldout.layers):
        look = see[layer] if isinstance(see, Sequence) else see
        (maps, u_fit), (inner, u) = (_inside(flow, layer, lattice, look) for flow in (calibration, heldout))
        rows = torch.arange(0, own.places, every, device=u.device)
        target = inner[..., rows, :] @ u.unsqueeze(1)
        about = attention_moments(inner, own)
        stencil = fitted_stencil(u_fit, maps @ u_fit.unsqueeze(1), lattice)
        guesses = {
            "taylor": taylor(u, about, own)[..., rows, :],
            "generator": generated(about, own, refinements)[0][..., rows, :] @ u.unsqueeze(1),
            "matched": match_moments(about.of(rows), own, rows).weights @ u.unsqueeze(1),
            "matched elsewhere": matched_elsewhere(inner, own, queries=rows) @ u.unsqueeze(1),
            "truncated": truncated_gaussian(about, own)[..., rows, :] @ u.unsqueeze(1),
            "stencil": torch.einsum("epwf,hf->ehpw", stencil_features(u, lattice)[:, rows], stencil),
            "mean map": maps.mean(0)[..., rows, :] @ u.unsqueeze(1),
            "uniform": u.mean(1, keepdim=True).unsqueeze(1),
        }
        for name, guess in guesses.items():
            found.setdefault(name, []).append(remainder(target, u[:, rows], guess, per_example))
    return {name: torch.stack(layers, 1 if per_example else 0) for name, layers in found.items()}


def matched_elsewhere(weights: Tensor, lattice: Lattice, seed: int = 0, queries: Tensor | None = None) -> Tensor:
    """Return the rows of largest entropy that share moments with attention on a lattice in disorder.

    A null for `match_moments`: just as many numbers of each row are known, but about places in a random order. What
    the matched row explains beyond it is owed to the lattice. `weights` (..., heads, places, places), rows sum to 1;
    `queries` are the rows that are wanted, where not all.
    """
    order = torch.randperm(lattice.places, generator=torch.Generator().manual_seed(seed)).to(weights.device)
    own, back = Lattice(lattice.shape, lattice.boundary), order.argsort()
    about = attention_moments(weights.double()[..., order, :][..., order], own)
    rows = back if queries is None else back[queries]  # where the wanted ones lie in that order
    return match_moments(about.of(rows), own, rows).weights[..., back]


def _inside(flow: Flow, layer: int, lattice: Lattice, look: Look) -> tuple[Tensor, Tensor]:
    """Return attention among the lattice's own tokens, and their states as attention sees them."""
    own = slice(lattice.special[0], lattice.special[0] + lattice.places)
    return lattice_attention(flow.attention[layer].double(), lattice)[0], look(flow.states[layer])[..., own, :].double()
