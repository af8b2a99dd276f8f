"""Singular values of a flow map's Jacobian, and which token's change reaches which token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _doors
from .jacobian import DENSE, Jacobian
from .subspace import at_most, columns, each, krylov, random_directions, rows


@dataclass(frozen=True, eq=False)
class SingularValues:
    """The largest singular values of a Jacobian by example, in falling order.

    `values` (examples, count); `error` (examples, count): within so much of each value lies a true one (0 where all
    were computed, `exact`); `right`, `left` (count, examples, tokens, width): the directions that grow so, and where
    they end; `entries` (examples,): how many real entries each state has, so how many values there are.
    """

    values: Tensor
    error: Tensor
    right: Tensor
    left: Tensor
    exact: bool
    entries: Tensor


def jacobian_spectrum(
    jacobian: Jacobian, count: int = 8, *, rounds: int = 12, oversampling: int = 8, seed: int = 0
) -> SingularValues:
    """Return the `count` largest singular values of a flow map's Jacobian, or a field's, of all examples at once.

    `|J v| / |v|` lies between the smallest and the largest. Where a state has at most 1,024 entries the Jacobian is
    written down, and they are exact; else a block Krylov method finds them: `rounds` pairs of products with `count +
    oversampling` directions, and the best answer in the span of all. The error is a posteriori, not a guess: where
    `J v = s u`, a singular value lies within `|J^T u - s v|` of s. Raises
    `ValueError` where a state has fewer than `count` real entries. Cost: `tokens x width` products, or `2 (count +
    oversampling) (rounds + 1)`. Source: Musco and Musco 2015; Weyl's inequality for the error.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens.sensitivity.flow_map import flow_map
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=1)
    >>> found = jacobian_spectrum(flow_map(heat, torch.zeros(1, 3, 1), substeps=64), 3)
    >>> [round(float(value), 3) for value in found.values[0].log()]  # the eigenvalues of the chain's Laplacian
    [0.0, -1.0, -3.0]
    """
    _doors.is_a("jacobian", jacobian, Jacobian, "what `flow_map` returns, or a FieldJacobian,")
    examples, tokens, width = jacobian.point.shape
    at_most("count", count, jacobian)
    _doors.whole("rounds", rounds)
    _doors.whole("oversampling", oversampling, 0)
    _doors.whole("seed", seed, 0)
    entries = jacobian.real(torch.ones_like(jacobian.point)).detach().flatten(1).sum(1).long()
    if tokens * width <= DENSE:
        left, values, right = torch.linalg.svd(jacobian.matrix(), full_matrices=False)
        shape = (examples, -1, tokens, width)
        ways = [one.view(shape)[:, :count].transpose(0, 1) for one in (right, left.mT.contiguous())]
        return SingularValues(values[:, :count], torch.zeros_like(values[:, :count]), ways[0], ways[1], True, entries)
    start = random_directions(jacobian, count + oversampling, seed)
    basis, images = krylov(jacobian, jacobian.jvp, start, rounds, jacobian.vjp)
    left, values, turn = torch.linalg.svd(columns(images), full_matrices=False)
    right = rows(columns(basis) @ turn.mT[..., :count], basis.shape)
    ends = rows(left[..., :count], basis.shape)
    values = values[:, :count]
    error = (each(jacobian.vjp, ends) - values.T[..., None, None] * right).flatten(2).norm(dim=-1).T
    return SingularValues(values, error, right, ends, False, entries)


def influence(jacobian: Jacobian, *, draws: int = 16, segment: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return how much each token's change moves each token: `|J_ij|`, Frobenius norms, and their standard errors.

    Both are (examples, tokens, tokens): row i is the token at the map's end, column j the one at its start, as in a map
    of attention; with a `segment` of several tokens, column j is that of so many successive ones together. Exact where
    a segment's entries are at most `draws` (a product for each, error 0); else the mean of `|J_ij z|^2` over `draws`
    random z ~ N(0, 1) at segment j, whose expectation is `|J_ij|^2`. Raises `ValueError` for fewer than two draws,
    which have no standard error. Cost: `tokens / segment x min(segment x width, draws)` products. Source: the
    stochastic trace estimator of Hutchinson 1990.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens.sensitivity.flow_map import flow_map
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 2, 1.0)}, Chain(3), depth=0.01)
    >>> found, error = influence(flow_map(heat, torch.zeros(1, 3, 2)))
    >>> (found[0] / 2**0.5).mul(1000).round().tolist()  # nearly the identity, plus a hundredth of the Laplacian
    [[990.0, 10.0, 0.0], [10.0, 980.0, 10.0], [0.0, 10.0, 990.0]]
    """
    _doors.is_a("jacobian", jacobian, Jacobian, "what `flow_map` returns, or a FieldJacobian,")
    _doors.whole("draws", draws, 2)
    _doors.whole("seed", seed, 0)
    examples, tokens, width = jacobian.point.shape
    _doors.whole("segment", segment)
    exact, starts = width * segment <= draws, range(0, tokens, segment)
    generator = torch.Generator().manual_seed(seed)
    size = segment * width
    probes = torch.eye(size) if exact else torch.randn(draws, size, generator=generator, dtype=torch.float64)
    squares = torch.zeros(len(probes), examples, tokens, len(starts), dtype=torch.float64)
    for number, way in enumerate(probes.to(jacobian.point).view(-1, segment, width)):
        for place, start in enumerate(starts):
            change = torch.zeros_like(jacobian.point)
            change[:, start : start + segment] = way[: tokens - start]
            squares[number, :, :, place] = jacobian.jvp(change).detach().double().square().sum(-1).cpu()
    if exact:
        return squares.sum(0).sqrt(), torch.zeros_like(squares[0])
    norm = squares.mean(0).sqrt()
    # The error of a root is half that of its square, over the root.
    error = squares.std(0) / len(probes) ** 0.5 / (2 * norm).clamp_min(torch.finfo(norm.dtype).tiny)
    return norm, error
