"""Where attention lands on the lattice: sums of displacement over the tiles of `attention_blocks`.

A raw second moment less the square of the first loses all digits where a row is sharp and far from the origin. So
each tile's rows are centred: a first mean, correct to rounding of the positions themselves, then the sums of
displacement from that mean and of its square, which lose nothing.
"""

import math

import torch
from torch import Tensor

from .. import _doors
from ..lattice import Lattice
from .tiles import Tile, TiledAttention


class Places:
    """Positions of tokens, checked: `place` (examples | 1, tokens, dims) and `special` (examples | 1, tokens).

    Either may be None: nothing about positions asked for, no token special. `place` is zero at special tokens.
    """

    def __init__(self, attention: TiledAttention, positions: Lattice | Tensor | None, special: Tensor | None):
        if special is not None:
            special = _doors.tensor("special", special, "booleans, True at special tokens,")
        if positions is not None and not isinstance(positions, Lattice):
            positions = _doors.tensor("positions", positions, "a lattice, or coordinates (tokens, dims),")
        if special is not None and special.dtype != torch.bool:
            raise TypeError(f"special of type {special.dtype} was given: boolean, True at special tokens, is wanted.")
        if isinstance(positions, Lattice):
            if positions.tokens != attention.keys:
                raise ValueError(f"{positions} has {positions.tokens} tokens, but there are {attention.keys} keys.")
            own = positions.positions().to(attention.device, attention.exact)
            positions = torch.nn.functional.pad(own, (0, 0, *positions.special), value=math.nan)
        self.place = None if positions is None else _checked(attention, "positions", positions, 2).to(attention.exact)
        self.special = None if special is None else _checked(attention, "special", special, 1)
        if self.place is not None:
            if attention.queries != attention.keys:
                raise ValueError(
                    f"positions were given for {attention.queries} queries and {attention.keys} keys: displacement is "
                    "between the same tokens, so both must be as many."
                )
            if bool(self.place.isinf().any()):
                raise ValueError("positions hold infinite values: mark special tokens by NaN.")
            nowhere = self.place.isnan().any(-1)
            self.special = nowhere if self.special is None else nowhere | self.special
            if bool(self.special.any()):
                self.place = self.place.masked_fill(self.special.unsqueeze(-1), 0)
        if self.special is not None and not bool(self.special.any()):
            self.special = None

    @property
    def dims(self) -> int:
        """Number of dimensions, 0 without positions."""
        return 0 if self.place is None else self.place.shape[-1]


def _checked(attention: TiledAttention, name: str, given: Tensor, axes: int) -> Tensor:
    """Return (tokens, ...) or (..., tokens, ...) with one axis for all examples before the tokens."""
    rest = ("dims",) * (axes - 1)
    if given.ndim < axes or given.shape[-axes] != attention.keys or given.shape[:-axes] not in ((), attention.batch):
        raise ValueError(
            f"{name} of shape {tuple(given.shape)} was given, but {(attention.keys, *rest)} or "
            f"{(*attention.batch, attention.keys, *rest)} is wanted."
        )
    if given.device != attention.device:
        raise ValueError(f"{name} on {given.device} and a query on {attention.device} were given: move one.")
    return given.detach().reshape(-1, *given.shape[-axes:])


class Displacements:
    """Sums over keys of displacement and its square, tile by tile, (heads of all examples, queries).

    What is wanted: the mass on the lattice, its moments where `moments`, the mass `within` each radius.
    """

    def __init__(self, attention: TiledAttention, places: Places, moments: bool, within: tuple[float, ...]):
        if within and (places.place is None or not all(radius >= 0 for radius in within)):
            raise ValueError(f"within={within} was given: it needs positions, and radii of at least 0.")
        self.attention, self.within = attention, within
        self.dims = places.dims if moments else 0
        self.special = places.special
        self.on = None if places.special is None else (~places.special).to(attention.exact)
        self.place = None if places.place is None else places.place.permute(2, 0, 1).contiguous()
        self.pairs = [(a, b) for a in range(self.dims) for b in reversed(range(a, self.dims))]
        self.columns = self._columns()
        # What lies within each radius of some queries serves all heads, where examples don't differ.
        self._kept: tuple[slice, list[Tensor]] | None = None

    def spare(self) -> int:
        """Return how many buffers each tile needs."""
        return max(1, self.dims) + len(self.within)

    def read(self, tile: Tile) -> list[Tensor]:
        """Return one tile's sums, (heads, queries, columns): of position, of weight on the lattice. Uses it up."""
        if not self.columns:
            return []
        mixed = self._mixed(tile)
        if self.place is None:
            return [mixed]
        product, displaced = tile.spare[0], [tile.logits, *tile.spare[1:]]
        if self.on is not None:
            tile.weights.mul_(self._of(self.on, tile.heads)[:, None, tile.keys])
        near = [torch.mul(tile.weights, mask, out=product).sum(-1) for mask in self._near(tile)]
        if not self.dims:
            return [mixed, *near]
        landed = tile.total if self.on is None else mixed[..., self.dims]
        mean = mixed[..., : self.dims] / landed.unsqueeze(-1)
        for axis, column in enumerate(self.place):
            torch.sub(self._of(column, tile.heads)[:, None, tile.keys], mean[..., axis, None], out=displaced[axis])
        first, second = [], []
        for a, b in self.pairs:
            if b == self.dims - 1:
                torch.mul(tile.weights, displaced[a], out=product)
                first.append(product.sum(-1))
            # The pair (a, a) comes last and may overwrite.
            square = product.mul_(displaced[b]) if a == b else product * displaced[b]
            second.append(square.sum(-1))
        return [mixed, *near, *first, *second]

    def finish(self, total: Tensor, sums: list[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return special mass, drift, diffusivity and mass within the radii, the last three None if not asked for."""
        mixed, sums = (sums[0], sums[1:]) if self.columns else (None, [])
        landed = total if self.on is None or mixed is None else mixed[..., self.dims]
        lost = (1 - landed / total).clamp(0, 1)
        nowhere = None if self.special is None else self._of(self.special, slice(0, len(total)))
        near, sums = sums[: len(self.within)], sums[len(self.within) :]
        share = self._defined(torch.stack(near, -1) / total.unsqueeze(-1), nowhere) if near else None
        if not self.dims:
            return lost, None, None, share
        assert self.place is not None and mixed is not None
        query = torch.stack([self._of(column, slice(0, len(total))) for column in self.place], -1)
        shift = torch.stack(sums[: self.dims], -1) / landed.unsqueeze(-1)
        drift = mixed[..., : self.dims] / landed.unsqueeze(-1) - query + shift
        diffusivity = torch.empty(*total.shape, self.dims, self.dims, dtype=total.dtype, device=total.device)
        for sum_of_squares, (a, b) in zip(sums[self.dims :], self.pairs, strict=True):
            covariance = sum_of_squares / landed - shift[..., a] * shift[..., b]
            covariance = covariance.clamp_min(0) if a == b else covariance
            diffusivity[..., a, b] = diffusivity[..., b, a] = covariance / 2
        return lost, self._defined(drift, nowhere), self._defined(diffusivity, nowhere), share

    def _columns(self) -> list[Tensor]:
        """Return what is summed over each row, (examples | 1, tokens, columns): position, and being on the lattice.

        Columns go alone or by sixteen: products with a few odd columns cost more.
        """
        found = [] if self.place is None else list(self.place[: self.dims])
        found = found if self.on is None else [*found, self.on]
        if len(found) < 3:
            return [column.unsqueeze(-1) for column in found]
        return [torch.nn.functional.pad(torch.stack(found, -1), (0, -len(found) % 16))]

    def _mixed(self, tile: Tile) -> Tensor:
        """Return the columns' sums over each row of a tile, (heads, queries, columns)."""
        heads, queries, keys = tile.weights.shape
        if len(self.columns[0]) > 1:
            which = self.attention.examples(tile.heads)
            found = [torch.bmm(tile.weights, column[which, tile.keys]) for column in self.columns]
        else:
            rows = tile.weights.view(-1, keys)
            found = [(rows @ column[0, tile.keys]).view(heads, queries, -1) for column in self.columns]
        return found[0] if len(found) == 1 else torch.cat(found, -1)

    def _near(self, tile: Tile) -> list[Tensor]:
        """Return 1 where a key lies within each radius of the query, else 0, (heads | 1, queries, keys)."""
        if not self.within:
            return []
        assert self.place is not None
        shared = self.place.shape[1] == 1
        if shared and self._kept is not None and self._kept[0] == tile.queries:
            return self._kept[1]
        # In the tile's own buffers, which nobody else writes to while its queries last.
        examples = 1 if shared else len(tile.weights)
        found = [buffer[:examples] for buffer in tile.spare[-len(self.within) :]]
        distance, step = tile.spare[0][:examples], found[0]
        for axis, column in enumerate(self.place):
            own = self._of(column, tile.heads)
            torch.sub(own[:, None, tile.keys], own[:, tile.queries, None], out=step)
            torch.mul(step, step, out=distance) if axis == 0 else distance.addcmul_(step, step)
        for near, radius in zip(found, self.within, strict=True):
            torch.le(distance, radius**2, out=near)
        self._kept = (tile.queries, found)
        return found

    def _of(self, values: Tensor, heads: slice) -> Tensor:
        """Return what belongs to some heads of (examples | 1, tokens): (heads | 1, tokens)."""
        return values if len(values) == 1 else values[self.attention.examples(heads)]

    @staticmethod
    def _defined(values: Tensor, nowhere: Tensor | None) -> Tensor:
        """Return values (heads, queries, ...) with NaN where the query is no place of the lattice."""
        if nowhere is None:
            return values
        return values.masked_fill(nowhere.view(*nowhere.shape, *(1,) * (values.ndim - 2)), math.nan)
