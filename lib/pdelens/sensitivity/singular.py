"""Singular values of a flow map's Jacobian, and which token's change reaches which token."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import _doors
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
    jacobian: Jacobian, count: int = 8, *, rounds: int = 12, oversampling: int = 8, seed: int = 0
) -> SingularValues:
    """Return the `count` largest singular values of a flow map's Jacobian, or a field's, of all examples at once.

    `|J v| / |v|` lies between the smallest and the largest. Where a state has at most 1,024 entries the Jacobian is
    written down, and they are exact; else a block Krylov method finds them: `rounds` pairs of products with `count +
    oversampling` directions, and the best answer in the span of all. The error is a posteriori, not a guess: with the
    residuals `|J v - s u|` and `|J^T u - s v|`, a singular value lies within the larger of them of s. Raises
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
    if tokens * width <= DENSE:
        left, values, right = torch.linalg.svd(jacobian.matrix(), full_matrices=False)
        shape = (examples, -1, tokens, width)
        ways = [one.view(shape)[:, :count].transpose(0, 1) for one in (right, left.mT.contiguous())]
        return SingularValues(values[:, :count], torch.zeros_like(values[:, :count]), ways[0], ways[1], True)
    basis, images = _krylov(jacobian, random_directions(jacobian, count + oversampling, seed), rounds)
    left, values, turn = torch.linalg.svd(columns(images), full_matrices=False)
    right = rows(columns(basis) @ turn.mT[..., :count], basis.shape)
    ends = rows(left[..., :count], basis.shape)
    values = values[:, :count]
    size_of = values.T[..., None, None]
    gaps = [each(jacobian.jvp, right) - size_of * ends, each(jacobian.vjp, ends) - size_of * right]
    error = torch.stack([gap.flatten(2).norm(dim=-1) for gap in gaps]).amax(0).T
    return SingularValues(values, error, right, ends, False)


def _krylov(jacobian: Jacobian, block: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the span of `(J^T J)^i block`, i = 0 ... rounds, and what J makes of it."""
    # Of the longest state: a shorter one's surplus directions have no image, and spoil nothing.
    most = int(jacobian.real(torch.ones_like(jacobian.point)).flatten(1).sum(1).max())
    basis, images = block, each(jacobian.jvp, block)
    for _ in range(rounds):
        room = min(len(block), most - len(basis))
        if room <= 0:
            break
        block = each(jacobian.vjp, images[-len(block) :])[:room]
        block = _beyond(basis, block)
        basis, images = torch.cat([basis, block]), torch.cat([images, each(jacobian.jvp, block)])
    return basis, images


def _beyond(basis: Tensor, block: Tensor) -> Tensor:
    """Return orthonormal directions that add to a basis what a block has beside it; zero where that is rounding."""
    size = columns(block).norm(dim=1).amax(-1, keepdim=True)
    least = 100 * torch.finfo(block.dtype).eps * size
    # Twice: one pass leaves of the span what rounding was to the little that is new; what a second one still shortens
    # was rounding altogether. By singular values: QR mixes what is dropped into the columns after it.
    for _ in range(2):
        matrix, sizes, _ = torch.linalg.svd(columns(block - _projected(basis, block)), full_matrices=False)
        block = rows(matrix * (sizes > least)[:, None], block.shape)
        least = torch.full_like(least, 0.5)
    return block


def _projected(basis: Tensor, block: Tensor) -> Tensor:
    """Return the part of a block's directions that lies in the span of an orthonormal basis, example by example."""
    return rows(columns(basis) @ (columns(basis).mT @ columns(block)), block.shape)


def influence(jacobian: Jacobian, *, draws: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return how much each token's change moves each token: `|J_ij|`, Frobenius norms, and their standard errors.

    Both are (examples, tokens, tokens): row i is the token at the map's end, column j the one at its start, as in a map
    of attention. Exact where a state's width is at most `draws` (a product for each entry, error 0); else the mean of
    `|J_ij z|^2` over `draws` random z ~ N(0, 1) at token j, whose expectation is `|J_ij|^2`. Raises `ValueError` for
    fewer than two draws, which have no standard error. Cost: `tokens x min(width, draws)` products. Source: the
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
    exact = width <= draws
    generator = torch.Generator().manual_seed(seed)
    probes = torch.eye(width) if exact else torch.randn(draws, width, generator=generator, dtype=torch.float64)
    squares = torch.zeros(len(probes), examples, tokens, tokens, dtype=torch.float64)
    for number, way in enumerate(probes.to(jacobian.point)):
        for token in range(tokens):
            change = torch.zeros_like(jacobian.point)
            change[:, token] = way
            squares[number, :, :, token] = jacobian.jvp(change).detach().double().square().sum(-1).cpu()
    if exact:
        return squares.sum(0).sqrt(), torch.zeros_like(squares[0])
    norm = squares.mean(0).sqrt()
    # The error of a root is half that of its square, over the root.
    error = squares.std(0) / len(probes) ** 0.5 / (2 * norm).clamp_min(torch.finfo(norm.dtype).tiny)
    return norm, error


def at_most(name: str, count: int, jacobian: Jacobian) -> None:
    """Raise `ValueError` unless a whole number of directions fits into every state."""
    _doors.whole(name, count)
    if count > jacobian.entries:
        raise ValueError(f"{name}={count} was given, but the smallest state has {jacobian.entries} real entries.")


def drawn(jacobian: Jacobian, count: int, seed: int) -> Tensor:
    """Return so many directions of independent N(0, 1) entries, (count, *state), zero at padded tokens.

    A token's numbers do not depend on how many tokens follow it, so padding behind a text changes nothing.
    """
    _doors.whole("seed", seed, 0)
    examples, tokens, width = jacobian.point.shape
    found = np.random.default_rng(seed).standard_normal((tokens, count, examples, width))
    directions = torch.from_numpy(found).permute(1, 2, 0, 3).to(jacobian.point)
    return torch.stack([jacobian.real(one) for one in directions])


def random_directions(jacobian: Jacobian, count: int, seed: int) -> Tensor:
    """Return so many random directions, or as many as there are, orthonormal for every example: (count, *state)."""
    return orthonormal(drawn(jacobian, min(count, jacobian.entries), seed))


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
