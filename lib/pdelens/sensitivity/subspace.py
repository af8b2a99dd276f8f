"""Blocks of directions (count, examples, tokens, width), and the spaces that they span, example by example."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .. import _doors
from .jacobian import Jacobian

Product = Callable[[Tensor], Tensor]


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


def krylov(
    jacobian: Jacobian, product: Product, block: Tensor, rounds: int, back: Product | None = None
) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the span of `P^i block`, i = 0 ... rounds, and a product's images of it.

    P is the `product`, followed by `back` where one is given.
    """
    # Of the longest state: a shorter one's surplus directions have no image, and spoil nothing.
    most = int(jacobian.real(torch.ones_like(jacobian.point)).flatten(1).sum(1).max())
    basis, images = block, each(product, block)
    for _ in range(rounds):
        room = min(len(block), most - len(basis))
        if room <= 0:
            break
        latest = images[-len(block) :]
        block = _beyond(basis, (latest if back is None else each(back, latest))[:room])
        basis, images = torch.cat([basis, block]), torch.cat([images, each(product, block)])
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
