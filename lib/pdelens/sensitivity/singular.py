"""Singular values of a flow map's Jacobian, and which token's change reaches which token."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _doors
from .flow_map import FlowMap
from .jacobian import DENSE, Jacobian


@dataclass(frozen=True, eq=False)
class SingularValues:
    """The largest singular values of a Jacobian by example, in falling order.

    `values` (examples, count); `error` (examples, count): within so much of each value lies a true one (0 where all
    were computed, `exact`); `right`, `left` (count, examples, tokens, width): the directions that grow so, and where
    they end.
    """

    values: Tensor
    error: Tensor
    right: Tensor
    left: Tensor
    exact: bool


def jacobian_spectrum(
    flow_map: FlowMap, count: int = 8, *, rounds: int = 12, oversampling: int = 8, seed: int = 0
) -> SingularValues:
    """Return the `count` largest singular values of a flow map's Jacobian, of all examples at once.

    `|J v| / |v|` lies between the smallest and the largest. Where a state has at most 1,024 entries the Jacobian is
    written down, and they are exact; else block power iteration finds them: `rounds` pairs of products with `count +
    oversampling` random directions, orthonormalised after each. The error is a posteriori, not a guess: with the
    residuals `|J v - s u|` and `|J^T u - s v|`, a singular value lies within the larger of them of s. Cost: `tokens x
    width` products, or `2 (count + oversampling) (rounds + 1)`. Source: Halko, Martinsson and Tropp 2011; Weyl's
    inequality for the error.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens.sensitivity.flow_map import flow_map
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=1)
    >>> found = jacobian_spectrum(flow_map(heat, torch.zeros(1, 3, 1), substeps=64), 3)
    >>> [round(float(value), 3) for value in found.values[0].log()]  # the eigenvalues of the chain's Laplacian
    [0.0, -1.0, -3.0]
    """
    _doors.is_a("flow_map", flow_map, FlowMap, "what `flow_map` returns")
    examples, tokens, width = flow_map.point.shape
    size = tokens * width
    at_most("count", count, flow_map)
    _doors.whole("rounds", rounds)
    _doors.whole("oversampling", oversampling, 0)
    if size <= DENSE:
        left, values, right = torch.linalg.svd(flow_map.matrix(), full_matrices=False)
        shape = (examples, -1, tokens, width)
        ways = [one.view(shape)[:, :count].transpose(0, 1) for one in (right, left.mT.contiguous())]
        return SingularValues(values[:, :count], torch.zeros_like(values[:, :count]), ways[0], ways[1], True)
    basis = random_directions(flow_map, count + oversampling, seed)
    for _ in range(rounds):
        basis = orthonormal(each(flow_map.jvp, basis))
        basis = orthonormal(each(flow_map.vjp, basis))
    images = columns(each(flow_map.jvp, basis))
    left, values, turn = torch.linalg.svd(images, full_matrices=False)
    right = rows(columns(basis) @ turn.mT, basis.shape)[:count]
    ends = rows(left, basis.shape)[:count]
    values = values[:, :count]
    size_of = values.T[..., None, None]
    gaps = [each(flow_map.jvp, right) - size_of * ends, each(flow_map.vjp, ends) - size_of * right]
    error = torch.stack([gap.flatten(2).norm(dim=-1) for gap in gaps]).amax(0).T
    return SingularValues(values, error, right, ends, False)


def influence(flow_map: FlowMap, *, draws: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return how much each token's change moves each token: `|J_ij|`, Frobenius norms, and their standard errors.

    Both are (examples, tokens, tokens): row i is the token at the map's end, column j the one at its start, as in a map
    of attention. Exact where a state's width is at most `draws` (a product for each entry, error 0); else the mean of
    `|J_ij z|^2` over `draws` random z ~ N(0, 1) at token j, whose expectation is `|J_ij|^2`. Cost: `tokens x min(width,
    draws)` products. Source: the stochastic trace estimator of Hutchinson 1990.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens.sensitivity.flow_map import flow_map
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 2, 1.0)}, Chain(3), depth=0.01)
    >>> found, error = influence(flow_map(heat, torch.zeros(1, 3, 2)))
    >>> (found[0] / 2**0.5).mul(1000).round().tolist()  # nearly the identity, plus a hundredth of the Laplacian
    [[990.0, 10.0, 0.0], [10.0, 980.0, 10.0], [0.0, 10.0, 990.0]]
    """
    _doors.is_a("flow_map", flow_map, FlowMap, "what `flow_map` returns")
    _doors.whole("draws", draws, 2)
    examples, tokens, width = flow_map.point.shape
    exact = width <= draws
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.eye(width) if exact else torch.randn(draws, width, generator=generator, dtype=torch.float64)
    squares = torch.zeros(len(drawn), examples, tokens, tokens, dtype=torch.float64)
    for number, way in enumerate(drawn.to(flow_map.point)):
        for token in range(tokens):
            change = torch.zeros_like(flow_map.point)
            change[:, token] = way
            squares[number, :, :, token] = flow_map.jvp(change).detach().double().square().sum(-1).cpu()
    if exact:
        return squares.sum(0).sqrt(), torch.zeros_like(squares[0])
    norm = squares.mean(0).sqrt()
    # The error of a root is half that of its square, over the root.
    error = squares.std(0) / len(drawn) ** 0.5 / (2 * norm).clamp_min(torch.finfo(norm.dtype).tiny)
    return norm, error


def at_most(name: str, count: int, jacobian: Jacobian) -> None:
    """Raise `ValueError` unless a whole number of directions fits into every state."""
    _doors.whole(name, count)
    if count > jacobian.entries:
        raise ValueError(f"{name}={count} was given, but the smallest state has {jacobian.entries} real entries.")


def random_directions(jacobian: Jacobian, count: int, seed: int) -> Tensor:
    """Return so many random directions, or as many as there are, orthonormal for every example: (count, *state)."""
    shape = (min(count, jacobian.entries), *jacobian.point.shape)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return orthonormal(torch.stack([jacobian.real(one.to(jacobian.point)) for one in drawn]))


def each(product: Callable[[Tensor], Tensor], block: Tensor) -> Tensor:
    """Return a product with every direction of a block (count, examples, tokens, width)."""
    return torch.stack([product(one).detach() for one in block])


def columns(block: Tensor) -> Tensor:
    """Return directions (count, examples, tokens, width) as columns, (examples, tokens * width, count)."""
    return block.flatten(2).permute(1, 2, 0)


def rows(matrix: Tensor, shape: torch.Size) -> Tensor:
    """Return columns (examples, tokens * width, count) as directions; `shape` is a block's, whatever its count."""
    return matrix.permute(2, 0, 1).reshape(matrix.shape[-1], *shape[1:])


def orthonormal(block: Tensor) -> Tensor:
    """Return directions that span the same, orthonormal for every example."""
    return rows(torch.linalg.qr(columns(block))[0], block.shape)
