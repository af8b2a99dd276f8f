"""A head as a local operator: moments of its displacement, and how far the local expansion holds.

`A u` at token i is the mean of `u` at displacement Delta under the row's weights. To second order it is `u + E[Delta]
. grad u + E[Delta Delta^T] : grad grad u / 2`: the generator of drift `v = E[Delta]` and diffusivity `D = Cov[Delta]
/ 2` (the second cumulant; the raw second moment would count the drift twice). These are backward operators: they
average values and conserve no mass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..flow import Flow
from ..lattice import Lattice, gradient, laplacian

# How a term looks at the states: a normalisation.
Look = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of attention (..., heads, tokens, keys) over displacement on the lattice, per query.

    `drift` (..., heads, places, dims), `diffusivity` (..., heads, places, dims, dims), in lattice units per layer,
    conditional on attention that lands on the lattice; `special_mass` (..., heads, places) is the share that does
    not. Queries are the lattice's own tokens.
    """

    drift: Tensor
    diffusivity: Tensor
    special_mass: Tensor

    def spread(self) -> Tensor:
        """Return the root-mean-square distance from the mean displacement, (..., heads, places)."""
        return (2 * self.diffusivity.diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt()


def attention_moments(weights: Tensor, lattice: Lattice) -> Moments:
    """Return the moments of explicit attention maps (..., heads, tokens, tokens).

    Displacement runs from query to key; a head that copies the previous token has v = -1, D = 0. O(tokens^2), as the
    maps are.

    >>> from pdelens.lattice import Chain
    >>> moments = attention_moments(torch.eye(6).roll(-1, 1)[None, None], Chain(6))
    >>> moments.drift[0, 0, :3, 0].tolist(), moments.diffusivity[0, 0, 1].tolist()
    ([5.0, -1.0, -1.0], [[0.0]])
    """
    inner, mass = lattice_attention(weights, lattice)
    middle, pairs = _centred_places(lattice, inner.device)
    # In float64: the difference of second and squared first moments cancels on sharp rows.
    exact = inner.double()
    exact = exact / exact.sum(-1, keepdim=True).clamp_min(1e-30)
    mean = exact @ middle  # (..., queries, dims)
    second = (exact @ pairs).unflatten(-1, (lattice.dims, lattice.dims))
    covariance = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    below = torch.diag_embed((-covariance.diagonal(dim1=-2, dim2=-1)).clamp_min(0))
    return Moments((mean - middle).to(inner), ((covariance + below) / 2).to(inner), mass)


def _centred_places(lattice: Lattice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return places about the lattice's middle, (places, dims), and their products, (places, dims * dims)."""
    place = lattice.positions().double().to(device)
    middle = place - place.mean(0)
    return middle, (middle.unsqueeze(-1) * middle.unsqueeze(-2)).flatten(1)


def lattice_attention(weights: Tensor, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Return attention among the lattice's own tokens, rows summing to 1, and the mass that lands elsewhere."""
    if weights.ndim < 3 or weights.shape[-1] != lattice.tokens or weights.shape[-2] != lattice.tokens:
        raise ValueError(
            f"attention of shape {tuple(weights.shape)} was given, but (..., heads, {lattice.tokens}, "
            f"{lattice.tokens}) is wanted."
        )
    before = lattice.special[0]
    own = slice(before, before + lattice.places)
    inner = weights[..., own, own]
    total = inner.sum(-1, keepdim=True)
    return inner / total.clamp_min(1e-30), 1 - total.squeeze(-1)


def taylor(u: Tensor, moments: Moments, lattice: Lattice) -> Tensor:
    """Return `u + v . grad u + (D + v v^T / 2) : grad grad u`, the second-order expansion of `A u`.

    `u` (..., places, width) on the lattice alone (no special tokens); result (..., heads, places, width). Differences
    are central, with the lattice's own boundary.
    """
    own = Lattice(lattice.shape, lattice.boundary)
    slope = gradient(u, own).movedim(0, -1)  # (..., places, width, dims)
    second = moments.diffusivity + moments.drift[..., :, None] * moments.drift[..., None, :] / 2
    first_order = torch.einsum("...hpd,...pwd->...hpw", moments.drift, slope)
    bends = torch.stack(
        [_second_difference(u, own, axis) for axis in range(own.dims)], -1
    )  # (..., places, width, dims)
    pure = torch.einsum("...hpdd,...pwd->...hpw", second, bends)
    mixed = torch.zeros_like(pure)
    if own.dims == 2:
        cross = gradient(gradient(u, own)[0], own)[1]
        mixed = 2 * second[..., 0, 1].unsqueeze(-1) * cross.unsqueeze(-3)
    return u.unsqueeze(-3) + first_order + pure + mixed


def gaussian(moments: Moments, lattice: Lattice, floor: float = 1e-2) -> Tensor:
    """Return the propagator `exp(v . grad + D : grad grad)` as attention, (..., heads, places, places).

    A Gaussian in displacement with mean v and covariance 2 D, on the lattice's tokens, rows summing to 1. `floor` is
    added to the variance, below which a lattice can't tell a Gaussian from a point.
    """
    # The quadratic form as two products with the keys' monomials: nothing of size (queries, keys, dims) is made.
    middle, pairs = _centred_places(lattice, moments.drift.device)
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


def expansions(
    calibration: Flow, heldout: Flow, lattice: Lattice, see: Look | Sequence[Look], per_example: bool = False
) -> dict[str, Tensor]:
    """Return the remainder of every local picture of every head, by name, (layers, heads).

    `taylor`: the second-order expansion with each row's own moments; `gaussian`: the propagator with those;
    `stencil`: one fitted stencil a head; `mean map`: the head's mean attention (non-local, but blind to the input);
    `uniform`: the mean over all places. Stencil and mean map are fitted on the calibration Flow; all are judged on
    held-out states, looked at through `see` (the normalisation, or one for each layer), on the lattice's own tokens.
    With `per_example` every held-out example has a remainder of its own, (examples, layers, heads), so that intervals
    can be taken over examples.
    """
    found: dict[str, list[Tensor]] = {}
    for layer in range(heldout.layers):
        look = see[layer] if isinstance(see, Sequence) else see
        (maps, u_fit), (inner, u) = (_inside(flow, layer, lattice, look) for flow in (calibration, heldout))
        target = inner @ u.unsqueeze(1)
        about = attention_moments(heldout.attention[layer], lattice)
        stencil = fitted_stencil(u_fit, maps @ u_fit.unsqueeze(1), lattice)
        guesses = {
            "taylor": taylor(u, about, lattice),
            "gaussian": gaussian(about, lattice) @ u.unsqueeze(1),
            "stencil": torch.einsum("epwf,hf->ehpw", stencil_features(u, lattice), stencil),
            "mean map": maps.mean(0) @ u.unsqueeze(1),
            "uniform": u.mean(1, keepdim=True).unsqueeze(1),
        }
        for name, guess in guesses.items():
            found.setdefault(name, []).append(remainder(target, u, guess, per_example))
    return {name: torch.stack(layers, 1 if per_example else 0) for name, layers in found.items()}


def _inside(flow: Flow, layer: int, lattice: Lattice, look: Look) -> tuple[Tensor, Tensor]:
    """Return attention among the lattice's own tokens, and their states as attention sees them."""
    own = slice(lattice.special[0], lattice.special[0] + lattice.places)
    return lattice_attention(flow.attention[layer], lattice)[0], look(flow.states[layer])[..., own, :]


def displacement_kernel(weights: Tensor, lattice: Lattice) -> Tensor:
    """Return attention (..., tokens, tokens) as a function of displacement, averaged over queries.

    (..., 2 n - 1) on a chain, (..., 2 h - 1, 2 w - 1) on a grid, displacement 0 in the middle; each entry is the mean
    over those queries from which that displacement stays on the lattice.
    """
    inner, _ = lattice_attention(weights, lattice)
    place = lattice.positions()
    offset = place[None] - place[:, None] + torch.tensor(lattice.shape) - 1  # (queries, keys, dims), from 0
    sides = [2 * side - 1 for side in lattice.shape]
    number = offset[..., 0] if lattice.dims == 1 else offset[..., 0] * sides[1] + offset[..., 1]
    flat = number.flatten().to(inner.device)
    size = int(torch.Size(sides).numel())
    sums = inner.new_zeros(*inner.shape[:-2], size).index_add_(-1, flat, inner.flatten(-2))
    counts = torch.bincount(flat, minlength=size).clamp_min(1).to(inner)
    return (sums / counts).view(*inner.shape[:-2], *sides)
