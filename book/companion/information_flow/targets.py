"""What a state is asked about: the code of the token's own patch or piece, of a neighbour's, and the class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from pdelens.lattice import Lattice

# Codes of patches, and pieces that are asked about, the most frequent ones.
CODES, PIECES = 6, 8
# How far from the state that is read the token lies whose code is asked for, along one axis of the lattice.
DISTANCES = (0, 1, 2, 4)
OWN, LABEL = "itself", "class"
# The token before the one that is asked about, of a model of language: what comes next.
NEXT = -1
_ITERATIONS = 50


def target_name(distance: int) -> str:
    """Return what a target is called.

    >>> target_name(0), target_name(2), target_name(-1)
    ('itself', 'distance 2', 'next')
    """
    return "next" if distance == NEXT else f"distance {distance}" if distance else OWN


TARGETS = (*(target_name(distance) for distance in DISTANCES), LABEL)


def distances_of(lattice: Lattice) -> tuple[int, ...]:
    """Return the distances that are read on a lattice: on a causal one also from the token before, `NEXT`."""
    return (*DISTANCES, NEXT) if lattice.causal else DISTANCES


def targets_of(distances: Iterable[int]) -> dict[str, int]:
    """Return what is asked by name, with the distance that is read: what comes next, or else the example's class.

    >>> list(targets_of((0, 2))), list(targets_of((0, NEXT)))
    (['itself', 'distance 2', 'class'], ['itself', 'next'])
    """
    found = {target_name(distance): distance for distance in distances}
    return found if target_name(NEXT) in found else found | {LABEL: 0}


def patches(pictures: Tensor, side: int) -> Tensor:
    """Cut pictures (examples, rows, columns) into patches of `side` pixels, (examples, patches, pixels), row by row.

    >>> patches(torch.arange(16).reshape(1, 4, 4), 2)[0, 1].tolist()
    [2.0, 3.0, 6.0, 7.0]
    """
    cut = pictures.double().unfold(1, side, side).unfold(2, side, side)  # (examples, rows, columns, side, side)
    return cut.flatten(3).flatten(1, 2)


def centres(pictures: Tensor, side: int, count: int = CODES, seed: int = 0) -> Tensor:
    """Return the centres of k-means on the patches of pictures, (count, pixels): Lloyd's, started by k-means++."""
    rows = patches(pictures, side).flatten(0, 1).numpy()
    return torch.from_numpy(kmeans2(rows, count, iter=_ITERATIONS, minit="++", rng=np.random.default_rng(seed))[0])


def patch_codes(pictures: Tensor, known: Tensor, side: int) -> Tensor:
    """Return the number of the centre next to each patch, (examples, patches)."""
    return torch.cdist(patches(pictures, side), known).argmin(-1)


def frequent_pieces(tokens: Tensor, mask: Tensor, count: int = PIECES) -> Tensor:
    """Return the most frequent pieces of texts, (count,), the most frequent first; of equals the lower number."""
    counts = torch.bincount(tokens[mask.bool()])
    return counts.argsort(descending=True, stable=True)[:count]


def piece_codes(tokens: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Return the rank of each token's piece among the known ones, -1 for other pieces and padding.

    >>> piece_codes(torch.tensor([[7, 5, 9, 5]]), torch.tensor([[1, 1, 1, 0]]), torch.tensor([5, 7])).tolist()
    [[1, 0, -1, -1]]
    """
    same = tokens[..., None] == known  # (examples, tokens, known)
    return torch.where(same.any(-1) & mask.bool(), same.int().argmax(-1), -1)


@dataclass(frozen=True, eq=False)
class Targets:
    """Tokens that are asked for, a row each: their example and code, and by distance the token whose state is read."""

    examples: Tensor  # (rows,)
    codes: Tensor  # (rows,)
    readers: dict[int, Tensor]  # (rows,) each; distance 0: the token itself

    def __len__(self) -> int:
        return len(self.examples)

    def states(self, states: Sequence[Tensor], first: int = 0) -> dict[int, Tensor]:
        """Return by distance the states that are read, (depths, rows, width); states (examples, tokens, width) each.

        `first` is the number of the first example given: rows of those given alone come back, in their order.
        """
        mine = (self.examples >= first) & (self.examples < first + len(states[0]))
        rows = self.examples[mine] - first
        return {d: torch.stack([u[rows, place[mine]] for u in states]) for d, place in self.readers.items()}


def drawn(
    codes: Tensor,
    mask: Tensor,
    lattice: Lattice,
    examples: int,
    each: int,
    seed: int = 0,
    distances: Sequence[int] | None = None,
) -> Targets:
    """Return `each` random targets of each of the first `examples` that have as many.

    `codes` (examples, tokens), -1 where a token is none; `mask` (examples, tokens). A target has a real token at each
    of the `distances` (`DISTANCES`, if not given) along one axis; which one is read is drawn anew for each distance. So
    all distances are asked about the same targets. On a causal lattice only later tokens are read, which see the
    target, and with a distance of -1 the one before it, which is to tell what comes next. Raises ValueError where there
    are too few examples.
    """
    generator, distances = torch.Generator().manual_seed(seed), DISTANCES if distances is None else distances
    mask, axes = mask.bool(), {d: along_an_axis(lattice, abs(d)) for d in distances}
    if lattice.causal:
        axes = {d: axis.tril() if d < 0 else axis.triu() for d, axis in axes.items()}
    near = {d: (mask[:, None] & axes[d]).any(-1) for d in distances}  # (examples, tokens)
    able = (codes >= 0) & mask & torch.stack(list(near.values())).all(0)
    rich = (able.sum(1) >= each).nonzero()[:examples, 0]
    if len(rich) < examples:
        raise ValueError(f"{examples} examples of {each} targets were asked for, but {len(rich)} have them: give more.")
    order = torch.rand(able.shape, generator=generator).masked_fill(~able, -1.0)
    chosen = order[rich].topk(each, 1).indices.flatten()
    rows = rich.repeat_interleave(each)
    readers = {
        d: torch.multinomial((mask[rows] & axes[d][chosen]).double(), 1, generator=generator)[:, 0] for d in distances
    }
    return Targets(rows, codes[rows, chosen], readers)


def along_an_axis(lattice: Lattice, distance: int) -> Tensor:
    """Return which tokens lie so far apart along one axis and on the same place of the others, (tokens, tokens).

    >>> from pdelens.lattice import Chain
    >>> along_an_axis(Chain(3), 2).int().tolist()
    [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """
    places = lattice.positions().double().reshape(lattice.tokens, -1)
    apart = (places[:, None] - places[None]).abs()
    return (apart.sum(-1) == distance) & (apart.amax(-1) == distance)
