"""Changes of inputs: noise on all tokens or on one, along a gradient, and natural ones; and how far they grow."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..teachers.teacher import Inputs
from .movers import Mover

NOISE, TOKEN, GRADIENT, SHIFT, SWAP, REPLACED = "noise", "token", "gradient", "shift", "swap", "replacement"
# Relative to the state's root mean square where a change enters; `SMALL` is in the linear regime.
SIZES, SMALL = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0), 1e-3


class Grown(NamedTuple):
    """What became of a change: `growth` (examples, depths), `|change at depth| / |change at its start|`; `last`."""

    growth: Tensor
    last: Tensor


class Point(NamedTuple):
    """Where changes begin: states at a whole depth, their padding, and the unchanged states from there on."""

    u: Tensor
    padding: Tensor | None
    states: tuple[Tensor, ...]
    start: int = 0

    @property
    def norm(self) -> Tensor:
        """The state's size over real tokens and channels, (examples,)."""
        return length(self.u, self.padding)

    @property
    def tokens(self) -> Tensor:
        """How many real tokens there are, (examples,)."""
        if self.padding is None:
            return torch.full((len(self.u),), float(self.u.shape[1]))
        return self.padding.sum(1).float()


def point_of(mover: Mover, inputs: Inputs) -> Point:
    """Return a model's states on inputs as the point of departure."""
    mask = inputs["mask"].bool() if isinstance(inputs, dict) else None
    padding = None if mask is None or bool(mask.all()) else mask
    u = mover.embedded(inputs)
    return Point(u, padding, mover.run(u, padding))


def length(change: Tensor, padding: Tensor | None) -> Tensor:
    """Return the Euclidean norm of states over real tokens, (examples,)."""
    kept = change if padding is None else change.masked_fill(~padding[..., None], 0.0)
    return kept.double().flatten(1).norm(dim=1)


def drawn_noise(mover: Mover, point: Point, seed: int, token: Tensor | None = None) -> Tensor:
    """Return normal noise in the input, (examples, tokens, inner): on all real tokens, or on one of each example."""
    shape = (*point.u.shape[:2], mover.inner)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if point.padding is not None:
        z = z.masked_fill(~point.padding[..., None], 0.0)
    if token is None:
        return z
    here = torch.zeros(shape[:2], dtype=torch.bool).scatter(1, token[:, None], True)
    return z.masked_fill(~here[..., None], 0.0)


def sized(mover: Mover, point: Point, z: Tensor, size: float, one: bool = False) -> Tensor:
    """Return the change of the embedding along z that is as large as the state, times `size`.

    All of the state, or (`one`) one token of mean size: root mean square times the changed entries' root number.
    """
    return along(point, mover.lifted(z), size, one)


def along(point: Point, direction: Tensor, size: float, one: bool = False) -> Tensor:
    """Return the change of the state along a direction of it that is as large as the state, times `size` (`sized`)."""
    whole = point.norm / point.tokens.sqrt() if one else point.norm
    scale = size * whole / length(direction, point.padding).clamp_min(1e-300)
    return direction * scale.to(direction).view(-1, 1, 1)


def grown(mover: Mover, point: Point, change: Tensor) -> Grown:
    """Return how a change of the state grows from its depth to the last."""
    moved = mover.run(point.u + change, point.padding, point.start)
    began = length(moved[0] - point.u, point.padding).clamp_min(1e-300)
    rows = [length(ours - own, point.padding) / began for ours, own in zip(moved, point.states, strict=True)]
    return Grown(torch.stack(rows, 1), moved[-1])


def solver_error(mover: Mover, point: Point, examples: int = 8) -> float:
    """Return how far growth by a solution's fixed steps is from that of its adaptive solution: median, relative.

    Small noise on the first so many examples. The adaptive solver is given an input and its change together, so that
    it takes the same steps for both.
    """
    assert mover.adaptive is not None
    few = slice(0, examples)
    padding = None if point.padding is None else point.padding[few]
    here = Point(point.u[few], padding, mover.run(point.u[few], padding))
    change = sized(mover, here, drawn_noise(mover, here, 2), SMALL)
    exact = mover.adaptive(torch.cat([here.u, here.u + change]), None if padding is None else padding.repeat(2, 1))
    own, moved = exact.split(len(here.u))
    wanted = length(moved - own, padding) / length(change, padding)
    return float((grown(mover, here, change).growth[:, -1] / wanted - 1).abs().median())


def natural(inputs: Inputs, draws: int, seed: int = 0) -> dict[str, list[Inputs]]:
    """Return natural changes of inputs by kind: of pictures all four shifts, of texts `draws` swaps and replacements.

    A picture is moved by one pixel, black comes in. Two neighbouring pieces of a text that differ are exchanged, at a
    random place; or a random piece is replaced by one drawn from all the pieces of the given texts.
    """
    if not isinstance(inputs, dict):
        return {SHIFT: list(shifted(inputs))}
    tokens, mask = inputs["inputs"], inputs["mask"].bool()
    generator = torch.Generator().manual_seed(seed)
    swaps: list[Inputs] = [inputs | {"inputs": swapped(tokens, mask, generator)} for _ in range(draws)]
    others: list[Inputs] = [inputs | {"inputs": replaced(tokens, mask, generator)} for _ in range(draws)]
    return {SWAP: swaps, REPLACED: others}


def shifted(pictures: Tensor) -> Sequence[Tensor]:
    """Return pictures (examples, side, side) moved by a pixel down, up, right and left; black comes in.

    >>> [one[0].tolist() for one in shifted(torch.tensor([[[1, 2], [3, 4]]]))][0]
    [[0, 0], [1, 2]]
    """
    found = []
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        moved = pictures.roll(step, axis)
        moved.select(axis, 0 if step > 0 else -1).zero_()
        found.append(moved)
    return found


def swapped(tokens: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return texts with two neighbouring pieces exchanged, at a random place where they differ."""
    differ = (tokens[:, 1:] != tokens[:, :-1]) & mask[:, 1:]
    if not bool(differ.any(1).all()):
        raise ValueError("a text of one piece, or of the same piece throughout, was given: there is nothing to swap.")
    place = torch.rand(differ.shape, generator=generator).masked_fill(~differ, -1).argmax(1)
    rows, found = torch.arange(len(tokens)), tokens.clone()
    found[rows, place], found[rows, place + 1] = tokens[rows, place + 1], tokens[rows, place]
    return found


def replaced(tokens: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return texts with one random piece replaced by another, drawn from all the pieces of the texts."""
    place = torch.rand(mask.shape, generator=generator).masked_fill(~mask, -1).argmax(1)
    rows, found, pool = torch.arange(len(tokens)), tokens.clone(), tokens[mask]
    todo = rows
    while len(todo):
        found[todo, place[todo]] = pool[torch.randint(len(pool), (len(todo),), generator=generator)]
        todo = rows[found[rows, place] == tokens[rows, place]]
    return found
