"""Points inside boxes as bits of machine words: exact neighbours in the maximum norm, 64 pairs an operation.

A max-norm ball is a box. In one column the points inside an interval are a run of the sorted points, so their set is
the exclusive or of two *prefix sets* (the first c sorted points, one bit a point); over columns the sets meet by
`and`. Each column costs `samples^2 / 64` word operations whatever the data look like, which beats trees as soon as
boxes hold many points or columns are many.
"""

from collections.abc import Iterator

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]

# A block's prefix sets (BLOCK^2 / 8 bytes) and the sets of a chunk of queries stay in a cache of 1 MiB.
BLOCK, CHUNK = 2560, 512
SETS, PAIRS = 2**26, 2**20  # bytes of sets, and pairs with their distances, held at once
FEW = 1024  # so few points are compared one by one
GROUPS = 32  # groups of a sample whose least distances stand for the sample's


class Columns:
    """Points (samples, dims) by column, with each column's sorted order."""

    def __init__(self, points: np.ndarray):
        self.values = np.ascontiguousarray(points.T)  # (dims, samples)
        self.order = np.argsort(self.values, axis=1)  # (dims, samples)
        self.samples = len(points)


def below(column: np.ndarray, centres: np.ndarray, radius: np.ndarray, strict: bool) -> np.ndarray:
    """Return how many values s of a sorted column have s - centre < radius (not strict: <=), each centre.

    The difference is the rounded one, as in a matrix of distances: `s < centre + radius` rounds otherwise and is
    often wrong for the very neighbour that gave the radius, so its answer is mended.
    """
    radius = np.minimum(radius, np.finfo(float).max)
    found = column.searchsorted(centres + radius, "left" if strict else "right")
    padded = np.concatenate([[-np.inf], column, [np.inf]])
    inside = np.less if strict else np.less_equal
    while (short := np.flatnonzero(inside(padded[found + 1] - centres, radius))).size:
        found[short] = column.searchsorted(padded[found[short] + 1], "right")
    while (over := np.flatnonzero(~inside(padded[found] - centres, radius))).size:
        found[over] = column.searchsorted(padded[found[over]], "left")
    return found


def interval(column: np.ndarray, centres: np.ndarray, radius: np.ndarray, strict: bool) -> Pair:
    """Return the first and the last-plus-one rank of a sorted column inside each centre's interval."""
    first = len(column) - below(-column[::-1], -centres, radius, strict)
    return first, np.maximum(first, below(column, centres, radius, strict))  # a radius of nought holds nothing


def boxes(columns: Columns, centres: np.ndarray, radius: np.ndarray, strict: bool) -> np.ndarray:
    """Return which points lie in the box about each of `centres` (dims, queries): bits of (queries, words)."""
    queries, samples = len(radius), columns.samples
    ordered = np.take_along_axis(columns.values, columns.order, 1)
    ranks = [interval(column, centre, radius, strict) for column, centre in zip(ordered, centres, strict=True)]
    sets = np.empty((queries, -(-samples // 64)), np.uint64)
    for start in range(0, samples, BLOCK):
        block = sets[:, start // 64 : (start + BLOCK) // 64]
        words = block.shape[1]
        prefixes = np.empty((min(BLOCK, samples - start) + 1, words), np.uint64)
        buffers = np.empty((2, CHUNK, words), np.uint64)
        for dim, (order, (first, last)) in enumerate(zip(columns.order, ranks, strict=True)):
            member = (order >= start) & (order < start + BLOCK)
            before = np.concatenate([[0], member.cumsum()])
            _fill_prefixes(prefixes, order[member] - start)
            for chunk in range(0, queries, CHUNK):
                part = slice(chunk, chunk + CHUNK)
                inside = block[part]
                upper, lower = buffers[:, : len(inside)]
                # "clip" only because "raise" would copy the output once more
                prefixes.take(before[last[part]], 0, out=upper, mode="clip")
                prefixes.take(before[first[part]], 0, out=lower, mode="clip")
                np.bitwise_xor(upper, lower, out=upper if dim else inside)
                if dim:
                    np.bitwise_and(inside, upper, out=inside)
    return sets


def _fill_prefixes(prefixes: np.ndarray, order: np.ndarray) -> None:
    """Set row c to the set of the first c members of `order`."""
    prefixes.fill(0)
    bit = np.left_shift(np.uint64(1), (order & 63).astype(np.uint64))
    prefixes[np.arange(1, len(order) + 1), order >> 6] = bit
    np.bitwise_or.accumulate(prefixes, 0, out=prefixes)


def count_in_boxes(columns: Columns, centres: np.ndarray, radius: np.ndarray, strict: bool) -> np.ndarray:
    """Return how many points lie in each box."""
    counts = np.empty(len(radius), np.int64)
    for part in _parts(len(radius), columns.samples):
        sets = boxes(columns, centres[:, part], radius[part], strict)
        counts[part] = np.bitwise_count(sets).sum(1, dtype=np.int64)
    return counts


def nearest_in_boxes(columns: Columns, centres: np.ndarray, neighbours: int) -> Pair:
    """Return the distances and indices (queries, neighbours) of the points nearest to each centre, sorted.

    Boxes of a guessed radius that hold too few points are answered by comparing with every point.
    """
    queries = centres.shape[1]
    if columns.samples <= max(FEW, 4 * neighbours):
        return _nearest_plain(columns, centres, neighbours)
    radius = _reach(columns, centres, neighbours)
    distance, index = np.empty((queries, neighbours)), np.empty((queries, neighbours), np.int64)
    for part in _parts(queries, columns.samples):
        sets = boxes(columns, centres[:, part], radius[part], strict=False)
        counts = np.bitwise_count(sets).sum(1, dtype=np.int64)
        short = np.flatnonzero(counts < neighbours) + part.start
        distance[short], index[short] = _nearest_plain(columns, centres[:, short], neighbours)
        for some in _alike(counts, neighbours):
            where = some + part.start
            distance[where], index[where] = _nearest_of(columns, centres[:, where], neighbours, sets[some])
    return distance, index


def _reach(columns: Columns, centres: np.ndarray, neighbours: int) -> np.ndarray:
    """Return a radius that holds about four times as many points as are wanted, each centre."""
    from scipy.spatial.distance import cdist

    size = -(-columns.samples // max(neighbours, 8) // GROUPS) * GROUPS
    chosen = np.random.default_rng(0).choice(columns.samples, size, replace=False)
    sample = columns.values[:, chosen].T  # (size, dims)
    if size > FEW:
        return nearest_in_boxes(Columns(sample), centres, 4)[0][:, -1]
    radius = np.empty(centres.shape[1])
    for start in range(0, len(radius), CHUNK // 4):
        part = slice(start, start + CHUNK // 4)
        distance = cdist(centres[:, part].T, sample, "chebyshev").reshape(-1, size // GROUPS, GROUPS)
        # The groups' least distances hold nearly the sample's least, and a few are sorted faster than all.
        radius[part] = np.partition(distance.min(1), 3, axis=1)[:, 3]
    return radius


def _alike(counts: np.ndarray, neighbours: int) -> Iterator[np.ndarray]:
    """Yield the queries that found enough, those that found about as many together, in bounded numbers."""
    size = np.frexp(counts)[1]  # bits of the count
    for bits in np.unique(size[counts >= neighbours]):
        alike = np.flatnonzero((size == bits) & (counts >= neighbours))
        step = max(1, PAIRS >> bits)
        for start in range(0, len(alike), step):
            yield alike[start : start + step]


def _nearest_of(columns: Columns, centres: np.ndarray, neighbours: int, sets: np.ndarray) -> Pair:
    """Return the nearest points of each query's set."""
    query, point = np.divmod(_members(sets), 64 * sets.shape[1])
    found = np.zeros(len(query))
    for values, centre in zip(columns.values, centres, strict=True):
        np.maximum(found, np.abs(values.take(point) - centre.take(query)), out=found)
    starts = np.searchsorted(query, np.arange(len(sets)))
    slot = np.arange(len(query)) - starts[query]
    distance = np.full((len(sets), slot.max() + 1), np.inf)
    distance[query, slot] = found
    nearest, distance = _least(distance, neighbours)
    return distance, point[starts[:, None] + nearest]


def _members(sets: np.ndarray) -> np.ndarray:
    """Return which bits are set, counted through all sets; empty bytes, which most are, are never unpacked."""
    whole = sets.view(np.uint8).ravel()
    filled = np.flatnonzero(whole != 0)
    bits = np.flatnonzero(np.unpackbits(whole[filled], bitorder="little").view(bool))
    return 8 * filled[bits >> 3] + (bits & 7)


def _nearest_plain(columns: Columns, centres: np.ndarray, neighbours: int) -> Pair:
    """Return the same by comparing every centre with every point."""
    from scipy.spatial.distance import cdist

    queries = centres.shape[1]
    distance, index = np.empty((queries, neighbours)), np.empty((queries, neighbours), np.int64)
    step = max(1, PAIRS // columns.samples)
    for start in range(0, queries, step):
        part = slice(start, start + step)
        index[part], distance[part] = _least(cdist(centres[:, part].T, columns.values.T, "chebyshev"), neighbours)
    return distance, index


def _least(distance: np.ndarray, number: int) -> Pair:
    """Return where each row's least entries are, and those entries in order."""
    nearest = np.argpartition(distance, number - 1, axis=1)[:, :number]
    nearest = np.take_along_axis(nearest, np.take_along_axis(distance, nearest, 1).argsort(1), 1)
    return nearest, np.take_along_axis(distance, nearest, 1)


def _parts(queries: int, samples: int) -> Iterator[slice]:
    step = max(CHUNK, SETS // (samples // 8 + 1))
    return (slice(start, min(start + step, queries)) for start in range(0, queries, step))
