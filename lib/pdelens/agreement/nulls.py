"""What could score as well without knowing anything: the nulls that stand beside every agreement.

An attention null is one map a layer, each broadcastable to (batch, heads, queries, keys). A state null is one state a
depth.
"""

from itertools import pairwise

import torch
from torch import Tensor

from ..flow import Flow

Maps = tuple[Tensor, ...]


def uniform(reference: Flow) -> Maps:
    """The constant map: every query sees all the keys it may see alike."""
    if not reference.visible:
        return (_even(reference, 0),) * reference.layers
    return tuple(_even(reference, layer) for layer in range(reference.layers))


def mean_map(calibration: Flow, reference: Flow | None = None) -> Maps:
    """The teacher's mean map per layer and head over the calibration split: it knows positions only.

    With `reference`, the mean is restricted to each example's allowed keys and rows sum to 1 again.
    """
    means = tuple(attention.mean(0, keepdim=True) for attention in calibration.attention)
    if calibration.padding is not None:
        counts = calibration.mask.to(means[0].dtype).sum(0).clamp_min(1)[None, None, :, None]
        keep = calibration.mask[:, None, :, None]
        means = tuple((attention * keep).sum(0, keepdim=True) / counts for attention in calibration.attention)
    if reference is None or not _restricts(reference):
        return means
    return tuple(_restricted(mean, reference, layer) for layer, mean in enumerate(means))


def other_input(reference: Flow, seed: int = 0) -> Maps:
    """Another example's maps: right mean, right spread, wrong content; uniform in the rows that it does not have."""
    if reference.examples < 2:
        raise ValueError("one example was given: another input's map needs at least two.")
    order = _derangement(reference.examples, seed)
    theirs = reference.mask[order][:, None, :, None]
    return tuple(
        _restricted(attention[order] * theirs, reference, layer) for layer, attention in enumerate(reference.attention)
    )


def shuffled_layers(reference: Flow, seed: int = 0) -> Maps:
    """The same example's maps of another layer: does agreement need the right depth?"""
    if reference.layers < 2:
        raise ValueError("a Flow of one layer was given: shuffling layers needs at least two.")
    order = _derangement(reference.layers, seed).tolist()
    return tuple(reference.attention[layer] for layer in order)


def nearest_inputs(inputs: Tensor, known: Tensor, count: int = 5) -> Tensor:
    """Return, for each input, which of the `known` ones are nearest, (examples, count), the nearest first.

    `inputs` and `known` are features of any shape (examples, ...): pixels, or how often each piece occurs. Euclidean
    distance. Raises `ValueError` where there are fewer known ones than are asked for.

    >>> nearest_inputs(torch.tensor([[0.0], [9.0]]), torch.tensor([[8.0], [1.0], [3.0]]), 2).tolist()
    [[1, 2], [0, 2]]
    """
    if len(known) < count:
        raise ValueError(f"{len(known)} calibration examples were given, but {count} neighbours of each are wanted.")
    distances = torch.cdist(inputs.flatten(1).double(), known.flatten(1).double())
    return distances.topk(count, largest=False).indices


def nearest_maps(calibration: Flow, nearest: Tensor, reference: Flow) -> Maps:
    """The teacher's maps on the nearest calibration inputs, averaged: a look-up table, which needs no equation.

    `nearest` (examples, count) as from `nearest_inputs`. A neighbour counts in the rows that it has (its padding says
    nothing), and a row that none has is the mean map's.
    """
    found = []
    for layer, (maps, behind) in enumerate(zip(calibration.attention, mean_map(calibration), strict=True)):
        mean = _mean_of_rows(maps, calibration.mask, nearest, behind)
        found.append(_restricted(mean, reference, layer) if _restricts(reference) else mean)
    return tuple(found)


def nearest_states(calibration: Flow, nearest: Tensor) -> tuple[Tensor, ...]:
    """The teacher's states on the nearest calibration inputs, averaged, one a depth; see `nearest_maps`."""
    pairs = zip(calibration.states, mean_states(calibration), strict=True)
    return tuple(_mean_of_rows(state, calibration.mask, nearest, behind) for state, behind in pairs)


def _mean_of_rows(values: Tensor, mask: Tensor, nearest: Tensor, behind: Tensor) -> Tensor:
    """Return the mean over neighbours of values (examples, ..., tokens, any), over those that have the row.

    `behind` is what stands in rows that none has.
    """
    rows = mask.view(len(mask), *[1] * (values.ndim - 3), -1, 1)
    total, count = values.new_zeros(len(nearest), *values.shape[1:]), values.new_zeros(1)
    for neighbour in nearest.unbind(1):  # one at a time: all at once would hold every map `count` times
        total += values[neighbour] * rows[neighbour]
        count = count + rows[neighbour]
    return torch.where(count > 0, total / count.clamp_min(1), behind)


def attention_nulls(
    reference: Flow, calibration: Flow, untrained: Flow | None = None, seed: int = 0, nearest: Tensor | None = None
) -> dict[str, Maps]:
    """Return every attention null by name.

    `untrained` is a twin's Flow on the same inputs, `nearest` says which calibration inputs are nearest to each
    (`nearest_inputs`).
    """
    nulls = {
        "uniform": uniform(reference),
        "mean map": mean_map(calibration, reference),
        "other input": other_input(reference, seed),
        "shuffled layers": shuffled_layers(reference, seed),
    }
    if untrained is not None:
        nulls["untrained twin"] = untrained.attention
    if nearest is not None:
        nulls["nearest neighbours"] = nearest_maps(calibration, nearest, reference)
    return nulls


def perturbed(reference: Flow, spread: float, seed: int = 0) -> Maps:
    """The teacher's maps with Gaussian noise of sd `spread` on every logit: known to agree (power check)."""
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for attention in reference.attention:
        noise = torch.randn(attention.shape, generator=generator).to(attention)
        noisy = attention * (spread * noise).exp()
        maps.append(noisy / noisy.sum(-1, keepdim=True).clamp_min(1e-30))
    return tuple(maps)


def state_nulls(reference: Flow, calibration: Flow, nearest: Tensor | None = None) -> dict[str, tuple[Tensor, ...]]:
    """Return the state nulls by name, one state a depth.

    `identity` and `affine` come one-step (from the true previous state) and rolled out (from the state at depth 0
    alone); `mean state` knows depth, token and channel only; with `nearest` (`nearest_inputs`) the mean state of the
    `nearest neighbours` stands beside. The affine map is one matrix a layer, the same for every token, fitted by least
    squares on the calibration split.
    """
    maps = [_least_squares(a, b, calibration.mask) for a, b in pairwise(calibration.states)]
    stepped = [reference.states[0]]
    rolled = [reference.states[0]]
    for layer, (matrix, bias) in enumerate(maps):
        stepped.append(reference.states[layer] @ matrix + bias)
        rolled.append(rolled[-1] @ matrix + bias)
    first = reference.states[0]
    looked_up = {} if nearest is None else {"nearest neighbours": nearest_states(calibration, nearest)}
    return {
        "identity, one step": (first, *reference.states[:-1]),
        "identity, rolled out": (first,) * len(reference.states),
        "affine, one step": tuple(stepped),
        "affine, rolled out": tuple(rolled),
        "mean state": tuple(mean.expand_as(first) for mean in mean_states(calibration)),
        **looked_up,
    }


def mean_states(calibration: Flow) -> tuple[Tensor, ...]:
    """The mean state per depth, token and channel over the calibration split, each (tokens, width)."""
    keep = calibration.mask[..., None].to(calibration.states[0].dtype)
    count = keep.sum(0).clamp_min(1)
    return tuple((state * keep).sum(0) / count for state in calibration.states)


def _even(reference: Flow, layer: int) -> Tensor:
    allowed = reference.allowed(layer).to(reference.attention[0].dtype)
    return allowed / allowed.sum(-1, keepdim=True).clamp_min(1)


def _restricts(reference: Flow) -> bool:
    """Say whether examples differ in the keys that they may see."""
    return reference.padding is not None or bool(reference.visible)


def _restricted(maps: Tensor, reference: Flow, layer: int) -> Tensor:
    """Keep only the allowed keys and make rows sum to 1; a row left with nothing becomes uniform."""
    kept = maps * reference.allowed(layer)
    total = kept.sum(-1, keepdim=True)
    return torch.where(total > 1e-9, kept / total.clamp_min(1e-9), _even(reference, layer))


def _derangement(count: int, seed: int) -> Tensor:
    """Return an order that leaves nothing in place: a random cycle through all."""
    cycle = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


def _least_squares(before: Tensor, after: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    keep = torch.ones(before.shape[:2], dtype=torch.bool) if mask is None else mask
    x, y = before[keep].double(), after[keep].double()
    ones = torch.ones(len(x), 1, dtype=x.dtype, device=x.device)
    design = torch.cat([x, ones], 1)
    gram = design.T @ design
    # A ridge far below the data's own scale: states may lie in a subspace.
    gram += 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    solution = torch.linalg.solve(gram, design.T @ y).to(before.dtype)
    return solution[:-1], solution[-1]
