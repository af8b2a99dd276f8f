"""Nearest neighbours and counts within a radius in the maximum norm, exact, without `samples^2` memory.

What answers is chosen by size (`method="auto"`), where each won on one CPU thread, 5,000 and 20,000 samples:

- `"sort"`: one column is sorted, a count is two look-ups;
- `"tree"`: scipy's k-d tree, for the neighbours of up to 6 columns (8 from 20,000 samples on) and for counts in
  2 or 3 columns beyond 50,000 samples;
- `"bits"`: sets of points as bits, 64 pairs an operation (`neighbour_bits`): wider neighbours, and the other
  counts, where a radius holds so many points that a tree no longer prunes;
- `"chunks"`: all distances in torch, some rows at a time: any size on a GPU.

They give the same numbers: a distance is the greatest rounded difference of coordinates, and a radius is
compared with that distance, never with the rounded ends of an interval.
"""

import numpy as np
import torch
from torch import Tensor

from .neighbour_bits import Columns, count_in_boxes, interval, nearest_in_boxes

CHUNK_BYTES = 2**26
"""Bytes of distances held at once by `"chunks"`, on a GPU four times as many."""


def nearest(points: Tensor, neighbours: int, *, method: str = "auto") -> tuple[Tensor, Tensor]:
    """Return the distances and the indices of each point's nearest other points, in order.

    `points` (samples, dims); both results are (samples, neighbours), on the device of `points`, distances in
    float64 (`"chunks"`: in the points' own type). Raises ValueError for fewer than `neighbours + 1` points and
    for NaN or infinity. Between points at the same distance the choice is free.

    >>> distance, index = nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 2)
    >>> distance.tolist(), index.tolist()
    ([[1.0, 3.0], [1.0, 2.0], [2.0, 3.0], [4.0, 6.0]], [[1, 2], [0, 2], [1, 0], [2, 1]])
    """
    check_points(points)
    if not 1 <= neighbours < len(points):
        raise ValueError(
            f"{neighbours} neighbours among {len(points)} samples were asked for: there are 1 ... samples - 1 others."
        )
    method = _method(points, method, {"tree", "bits", "chunks"}, _nearest_method)
    if method == "chunks":
        return _nearest_chunks(points, neighbours)
    array = _array(points)
    if method == "tree":
        distance, index = nearest_tree(array, neighbours)
    else:
        distance, index = nearest_bits(Columns(array), neighbours)
    return torch.from_numpy(distance).to(points.device), torch.from_numpy(index).to(points.device)


def count_within(points: Tensor, radius: Tensor, *, strict: bool = True, method: str = "auto") -> Tensor:
    """Return how many other points are nearer than each point's radius, or with `strict=False` no farther.

    `points` (samples, dims), `radius` (samples,), counts (samples,) int64. Raises ValueError for radii that are
    not one a point, and for NaN or infinity in the points.

    >>> points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    >>> count_within(points, torch.full((4,), 3.0)).tolist()
    [1, 2, 1, 0]
    >>> count_within(points, torch.full((4,), 3.0), strict=False).tolist()
    [2, 2, 2, 0]
    """
    check_points(points)
    if radius.shape != points.shape[:1]:
        raise ValueError(f"Radii of shape {tuple(radius.shape)} were given for {len(points)} points: each needs one.")
    method = _method(points, method, {"sort", "tree", "bits", "chunks"}, _count_method)
    if method == "chunks":
        return _count_chunks(points, radius, strict)
    array, reach = _array(points), _array(radius)
    if method == "tree":
        found = _count_tree(array, reach, strict)
    elif method == "bits":
        columns = Columns(array)
        found = count_in_boxes(columns, columns.values, reach, strict)
    else:
        found = count_sorted(Columns(array), reach, strict)
    return torch.from_numpy(found - itself(reach, strict)).to(points.device)


def check_points(points: Tensor, name: str = "points") -> None:
    """Raise ValueError unless `points` is a finite matrix with a column."""
    if points.ndim != 2 or not points.shape[1]:
        raise ValueError(f"{name} of shape {tuple(points.shape)} were given: (samples, dims) is needed.")
    if not torch.isfinite(points).all():
        wrong = int((~torch.isfinite(points)).sum())
        raise ValueError(f"{wrong} of {points.numel()} values of {name} are NaN or infinite: leave those samples out.")


def count_sorted(columns: Columns, radius: np.ndarray, strict: bool) -> np.ndarray:
    """Return how many values of the one column, the point's own among them, lie within each point's radius."""
    values = columns.values[0]
    first, last = interval(values[columns.order[0]], values, radius, strict)
    return last - first


def itself(radius: np.ndarray, strict: bool) -> np.ndarray:
    """Return whether a point lies within its own radius, which it does unless that is zero and `strict`."""
    return radius > 0 if strict else radius >= 0


def prefers_tree(samples: int, dims: int) -> bool:
    """Return whether a k-d tree finds neighbours sooner than bits do."""
    return dims <= (6 if samples < 20_000 else 8)


def nearest_tree(points: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `nearest` by scipy's k-d tree."""
    from scipy.spatial import KDTree

    distance, index = KDTree(points).query(points, neighbours + 1, p=np.inf)
    return _without_self(np.asarray(distance), np.asarray(index))


def nearest_bits(columns: Columns, neighbours: int, reach: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return `nearest` by sets of bits; `reach` is a guess of radii that hold enough points."""
    return _without_self(*nearest_in_boxes(columns, columns.values, neighbours + 1, reach))


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


def fill_own(tile: Tensor, part: slice, value: float | bool) -> Tensor:
    """Set, in place, what a tile of rows `part` says of each point and itself."""
    tile[:, part].fill_diagonal_(value)
    return tile


def _nearest_chunks(points: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    found = [
        fill_own(distances(points, part), part, torch.inf).topk(neighbours, largest=False) for part in chunks(points)
    ]
    distance, index = (torch.cat(parts) for parts in zip(*found, strict=True))
    return distance, index


def _count_chunks(points: Tensor, radius: Tensor, strict: bool) -> Tensor:
    compare = torch.lt if strict else torch.le
    return torch.cat(
        [fill_own(compare(distances(points, part), radius[part, None]), part, False).sum(1) for part in chunks(points)]
    )


def _count_tree(points: np.ndarray, radius: np.ndarray, strict: bool) -> np.ndarray:
    from scipy.spatial import KDTree

    reach = np.nextafter(radius, 0) if strict else radius
    found = KDTree(points).query_ball_point(points, reach, p=np.inf, return_length=True)
    return found * itself(radius, strict)


def _without_self(distance: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave each point out of its own list, or the last of the list where duplicates took its place."""
    others = index != np.arange(len(index))[:, None]
    others[others.all(1), -1] = False
    return distance[:, 1:].copy(), index[others].reshape(len(index), -1)


def _method(points: Tensor, method: str, known: set[str], choose) -> str:
    if method == "auto":
        return "chunks" if points.is_cuda else choose(*points.shape)
    if method not in known or (method == "sort" and points.shape[1] > 1):
        raise ValueError(
            f"method={method!r} was given for {points.shape[1]} column(s): there are 'auto' and "
            f"{', '.join(map(repr, sorted(known)))} ('sort' for one column only)."
        )
    return method


def _nearest_method(samples: int, dims: int) -> str:
    return "tree" if prefers_tree(samples, dims) else "bits"


def _count_method(samples: int, dims: int) -> str:
    if dims == 1:
        return "sort"
    # Bits grow with the square of the samples, a tree of few columns much more slowly.
    return "tree" if dims <= 3 and samples > 50_000 else "bits"


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
