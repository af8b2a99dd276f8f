"""Nearest neighbours and counts within a radius in the maximum norm, exact, without `samples^2` memory.

What answers is chosen by size (`method="auto"`), where each won on one CPU thread, 5,000 and 20,000 samples:

- `"sort"`: one column is sorted, a count is two look-ups;
- `"tree"`: scipy's k-d tree, for the neighbours of up to 6 columns (8 from 20,000 samples on) and for counts in
  2 or 3 columns beyond 50,000 samples;
- `"bits"`: sets of points as bits, 64 pairs an operation (`_bits`): wider neighbours, and the other counts, where
  a radius holds so many points that a tree no longer prunes;
- `"chunks"`: all distances in torch, some rows at a time: any size on a GPU.

They give the same numbers: a distance is the greatest rounded difference of coordinates, and a radius is compared
with that distance, never with the rounded ends of an interval.
"""

import numpy as np
import torch
from torch import Tensor

from ._bits import Columns, Pair, count_in_boxes, interval, nearest_in_boxes

# Bytes of distances held at once by "chunks", on a GPU four times as many.
CHUNK_BYTES = 2**26


def nearest(points: Tensor, neighbours: int, *, method: str = "auto") -> tuple[Tensor, Tensor]:
    """Return the distances and the indices of each point's nearest other points, in order.

    `points` (samples, dims); both results are (samples, neighbours), on the device of `points`, distances in float64
    (`"chunks"`: in the points' own type). Raises ValueError for fewer than `neighbours + 1` points and for NaN or
    infinity. Between points at the same distance the choice is free.

    >>> distance, index = nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 2)
    >>> distance.tolist(), index.tolist()
    ([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0], [4.0, 6.0]], [[1, 2], [0, 2], [1, 0], [2, 1]])
    """
    check_points(points)
    samples, dims = points.shape
    if not 1 <= neighbours < samples:
        raise ValueError(
            f"{neighbours} neighbours among {samples} samples were asked for: there are 1 ... samples - 1 others."
        )
    best = "tree" if dims <= (6 if samples < 20_000 else 8) else "bits"
    method = _method(points, method, best, {"tree", "bits", "chunks"})
    if method == "chunks":
        return _nearest_chunks(points, neighbours)
    find = _nearest_tree if method == "tree" else _nearest_bits
    distance, index = _without_self(*find(_array(points), neighbours + 1))
    return torch.from_numpy(distance).to(points.device), torch.from_numpy(index).to(points.device)


def count_within(points: Tensor, radius: Tensor, *, strict: bool = True, method: str = "auto") -> Tensor:
    """Return how many other points are nearer than each point's radius, or with `strict=False` no farther.

    `points` (samples, dims), `radius` (samples,), counts (samples,) int64. Raises ValueError for radii that are not
    one a point, and for NaN or infinity in the points.

    >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> count_within(points, torch.full((4,), 3.0)).tolist()
    [1, 2, 1, 0]
    >>> count_within(points, torch.full((4,), 3.0), strict=False).tolist()
    [2, 2, 2, 0]
    """
    check_points(points)
    samples, dims = points.shape
    if radius.shape != points.shape[:1]:
        raise ValueError(f"Radii of shape {tuple(radius.shape)} were given for {samples} points: each needs one.")
    # Bits grow with the square of the samples, a tree of few columns much more slowly.
    best = "sort" if dims == 1 else "tree" if dims <= 3 and samples > 50_000 else "bits"
    method = _method(points, method, best, {"sort", "tree", "bits", "chunks"})
    if method == "chunks":
        return _count_chunks(points, radius, strict)
    array, reach = _array(points), _array(radius)
    # A point lies within its own radius unless that is zero and `strict`.
    itself = reach > 0 if strict else reach >= 0
    if method == "tree":
        found = _count_tree(array, reach, strict) * itself
    elif method == "bits":
        columns = Columns(array)
        found = count_in_boxes(columns, columns.values, reach, strict)
    else:
        first, last = interval(np.sort(array[:, 0]), array[:, 0], reach, strict)
        found = last - first
    return torch.from_numpy(found - itself).to(points.device)


def check_points(points: Tensor, name: str = "points") -> None:
    """Raise ValueError unless `points` is a finite matrix with a column."""
    if points.ndim != 2 or not points.shape[1]:
        raise ValueError(f"{name} of shape {tuple(points.shape)} were given: (samples, dims) is needed.")
    if not torch.isfinite(points).all():
        wrong = int((~torch.isfinite(points)).sum())
        raise ValueError(f"{wrong} of {points.numel()} values of {name} are NaN or infinite: leave those samples out.")


def chunks(points: Tensor) -> list[slice]:
    """Return the slices of points whose distances to all `points`, in two tiles, fit into CHUNK_BYTES."""
    budget = CHUNK_BYTES * (4 if points.is_cuda else 1)
    step = max(1, budget // (2 * len(points) * points.element_size()))
    return [slice(start, min(start + step, len(points))) for start in range(0, len(points), step)]


def distances(points: Tensor, part: slice) -> Tensor:
    """Return the max-norm distances from `points[part]` to all points, column by column in two tiles."""
    columns = points.T.contiguous()
    asked = columns[:, part, None]
    greatest = (asked[0] - columns[0]).abs_()
    difference = torch.empty_like(greatest)
    for one, column in zip(asked[1:], columns[1:], strict=True):
        torch.sub(one, column, out=difference)
        torch.maximum(greatest, difference.abs_(), out=greatest)
    return greatest


def _nearest_chunks(points: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    found = []
    for part in chunks(points):
        tile = distances(points, part)
        tile[:, part].fill_diagonal_(torch.inf)
        found.append(tile.topk(neighbours, largest=False))
    distance, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distance, index


def _count_chunks(points: Tensor, radius: Tensor, strict: bool) -> Tensor:
    compare, counts = torch.lt if strict else torch.le, []
    for part in chunks(points):
        inside = compare(distances(points, part), radius[part, None])
        inside[:, part].fill_diagonal_(False)
        counts.append(inside.sum(1))
    return torch.cat(counts)


def _nearest_tree(points: np.ndarray, neighbours: int) -> Pair:
    from scipy.spatial import KDTree

    distance, index = KDTree(points).query(points, neighbours, p=np.inf)
    return np.asarray(distance), np.asarray(index)


def _nearest_bits(points: np.ndarray, neighbours: int) -> Pair:
    columns = Columns(points)
    return nearest_in_boxes(columns, columns.values, neighbours)


def _count_tree(points: np.ndarray, radius: np.ndarray, strict: bool) -> np.ndarray:
    from scipy.spatial import KDTree

    reach = np.nextafter(radius, 0) if strict else radius
    return np.asarray(KDTree(points).query_ball_point(points, reach, p=np.inf, return_length=True))


def _without_self(distance: np.ndarray, index: np.ndarray) -> Pair:
    """Leave each point out of its own list, or the last of the list where duplicates took its place."""
    others = index != np.arange(len(index))[:, None]
    others[others.all(1), -1] = False
    return distance[:, 1:].copy(), index[others].reshape(len(index), -1)


def _method(points: Tensor, method: str, best: str, known: set[str]) -> str:
    if method == "auto":
        return "chunks" if points.is_cuda else best
    if method not in known or (method == "sort" and points.shape[1] > 1):
        raise ValueError(
            f"method={method!r} was given for {points.shape[1]} column(s): there are 'auto' and "
            f"{', '.join(map(repr, sorted(known)))} ('sort' for one column only)."
        )
    return method


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
