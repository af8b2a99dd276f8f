"""How much of what a head prefers position alone explains."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..flow import Flow
from ..intervals import bootstrap_interval
from ..lattice import Lattice
from .heads import grouped
from .moments import lattice_attention

# Below this an attention weight counts as this: its logarithm would be noise of the number format.
_FLOOR = 1e-30


@dataclass(frozen=True, eq=False)
class PositionShare:
    """What position explains of row-centred log-attention: sums of squares, (examples, layers, heads) each."""

    explained: dict[str, Tensor]
    total: Tensor

    def heads(self, name: str) -> np.ndarray:
        """Return each head's share over all examples, (layers, heads): 0 explains nothing, 1 all."""
        return (self.explained[name].double().sum(0) / self.total.double().sum(0).clamp_min(1e-30)).numpy()

    def median(self, name: str, group: int = 1, seed: int = 0) -> tuple[float, tuple[float, float]]:
        """Return the median head's share and its 95 % bootstrap interval over groups of so many examples."""
        pairs = torch.stack([grouped(v.double().flatten(1), group) for v in (self.explained[name], self.total)], 1)

        def share(drawn: np.ndarray) -> float:
            explained, total = drawn.sum(0)
            return np.median(explained / np.maximum(total, 1e-30))

        rows = pairs.numpy()
        return share(rows), bootstrap_interval(rows, share, resamples=400, seed=seed)


def position_share(calibration: Flow, heldout: Flow, lattice: Lattice) -> PositionShare:
    """Return how much of row-centred log-attention position alone explains, per example and head.

    For each head, `log A` on the lattice's own tokens is centred in each row over its allowed keys (which removes the
    row's normaliser). `pair`: its mean for each (query, key) over the calibration Flow; `offset`: the function of
    displacement alone that fits that mean best. Each is judged by `1 - |log A - mean|^2 / |log A|^2` on the held-out
    Flow (the picture of Shi, Zhu and Liu 2025, of attention as a kernel of position modulated by content). A mean over
    few examples carries their content with it, which costs about one part in their number. `pair, unbiased` and
    `offset, unbiased` are `<log A, mean> / |log A|^2`: what the mean over endless examples would explain (numerator and
    denominator without bias, as the splits share nothing).
    """
    if lattice.places < 3:
        raise ValueError(f"{lattice} has {lattice.places} places: at least three are wanted.")
    names = ("pair", "offset", "pair, unbiased", "offset, unbiased", "total")
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    own = slice(lattice.special[0], lattice.special[0] + lattice.places)
    seen, by_offset = torch.empty(0), None
    for layer, (fitted, evaluated) in enumerate(zip(calibration.attention, heldout.attention, strict=True)):
        # The keys that every example and head may see.
        allowed = heldout.allowed(layer)[..., own, own].all(0).all(0)
        if by_offset is None or not torch.equal(allowed, seen):  # most models' layers all see the same
            seen, by_offset = allowed, _offset_projection(lattice, allowed)
        mean = _centred_logs(fitted, lattice, allowed).mean(0)  # (heads, places, places)
        logs = _centred_logs(evaluated, lattice, allowed)
        found["total"].append(logs.square().sum((-2, -1)))  # (examples, heads)
        for name, guess in (("pair", mean), ("offset", by_offset(mean))):
            along = torch.einsum("ehqk,hqk->eh", logs, guess)
            found[name].append(2 * along - guess.square().sum((-2, -1)))
            found[f"{name}, unbiased"].append(along)
    stacked = {name: torch.stack(layers, 1) for name, layers in found.items()}
    return PositionShare({name: stacked[name] for name in names[:-1]}, stacked["total"])


def _centred_logs(maps: Tensor, lattice: Lattice, allowed: Tensor) -> Tensor:
    inner, _ = lattice_attention(maps, lattice)
    logs = inner.clamp_min(_FLOOR).log()
    keep = allowed.to(logs)
    mean = (logs * keep).sum(-1, keepdim=True) / keep.sum(-1, keepdim=True)
    return (logs - mean) * keep


def _offsets(lattice: Lattice) -> Tensor:
    """Return a number for each displacement, (places, places)."""
    place = lattice.positions()
    offset = place[None] - place[:, None] + torch.tensor(lattice.shape) - 1
    number = offset[..., 0]
    for axis in range(1, lattice.dims):
        number = number * (2 * lattice.shape[axis] - 1) + offset[..., axis]
    return number


def _offset_projection(lattice: Lattice, allowed: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what fits row-centred maps (heads, places, places) by a function of displacement alone.

    Least squares with a free constant in each row: where rows see different keys (causal, or near an edge), averaging
    over pairs of one displacement would mix rows that were centred differently.
    """
    number = _offsets(lattice)
    size = int(number.max()) + 1
    flat, keep = number.flatten(), allowed.double()
    seen = torch.zeros(lattice.places, size, dtype=torch.float64).scatter_(1, number, keep)  # each row has each once
    count = keep.sum(-1, keepdim=True)
    gram = torch.diag(seen.sum(0)) - seen.T @ (seen / count)
    inverse = torch.linalg.pinv(gram, hermitian=True)

    def project(mean: Tensor) -> Tensor:
        values = (mean.double() * keep.to(mean.device)).flatten(1)
        sums = values.new_zeros(len(mean), size).index_add_(1, flat.to(mean.device), values)
        function = sums @ inverse.to(mean.device)
        spread = function[:, flat.to(mean.device)].view(mean.shape) * keep.to(mean.device)
        centre = spread.sum(-1, keepdim=True) / count.to(mean.device)
        return ((spread - centre) * keep.to(mean.device)).to(mean.dtype)

    return project
