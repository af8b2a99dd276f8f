"""Joint neighbours and marginal counts over many shuffles of y, reusing what a shuffle leaves as it was.

A shuffle changes which y goes with which x, and so the joint neighbours. It changes neither a point's
distances within x or within y (sorted once, a count is a look-up), nor either one's sorted columns, nor how
many x, and how many y, lie within a radius: the product of their shares is the share of joint neighbours to
expect of unrelated x and y, so the radius that holds enough of them is known beforehand.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import neighbours as search
from .neighbour_bits import Columns, count_in_boxes

SAMPLE = 512
"""Points from which the shares within a radius are foretold."""
RADII = 64
MANY = 120
"""From so many shuffles times columns on it pays to sort every row of distances."""


def at_once(samples: int) -> int:
    """Return how many shuffles are taken together: their radii fit into 128 MiB."""
    return max(1, 2**24 // samples)


def marginal_radii(x: Tensor, y: Tensor, distance: Tensor, index: Tensor, variant: int) -> tuple[Tensor, Tensor]:
    """Return the radii of KSG in x and in y, (samples,), from the joint neighbours (samples, neighbours).

    Variant 1: the k-th joint distance for both; variant 2: how far the k neighbours reach in either.
    """
    if variant == 1:
        return distance[:, -1], distance[:, -1]
    in_x, in_y = ((part[index] - part[:, None]).abs().amax(-1).amax(1) for part in (x, y))
    return in_x, in_y


def counts_over_shuffles(
    x: Tensor, y: Tensor, permutations: Tensor, neighbours: int, variant: int
) -> tuple[Tensor, Tensor]:
    """Return how many others lie within the radii in x and in y, each (shuffles, samples).

    Shuffle s pairs x (samples, dx) with `y[permutations[s]]`, y (samples, dy).
    """
    if x.is_cuda:
        return _counts_in_chunks(x, y, permutations.to(x.device), neighbours, variant)
    x, y = x.cpu(), y.cpu()
    joint = _joint_search(x.numpy(), y.numpy(), neighbours)
    in_x, in_y = torch.empty(2, *permutations.shape, dtype=x.dtype)
    for shuffle, permutation in enumerate(permutations):
        distance, index = (torch.from_numpy(found) for found in joint(permutation.numpy()))
        # Kept by y's own index, under which its distances are the same in every shuffle.
        in_x[shuffle], in_y[shuffle, permutation] = marginal_radii(x, y[permutation], distance, index, variant)
    counts_x, counts_y = (_count_each(p.numpy(), radii.numpy(), variant == 1) for p, radii in ((x, in_x), (y, in_y)))
    return torch.from_numpy(counts_x), torch.from_numpy(counts_y).gather(1, permutations)


def _joint_search(x: np.ndarray, y: np.ndarray, neighbours: int) -> Callable:
    """Return what finds the neighbours in (x, y[permutation])."""
    if search.prefers_tree(len(x), x.shape[1] + y.shape[1]):
        return lambda permutation: search.nearest_tree(np.hstack([x, y[permutation]]), neighbours)
    columns_x, columns_y, reach = Columns(x), Columns(y), _foretold_reach(x, y, neighbours)

    def by_bits(permutation: np.ndarray):
        both = columns_x.joined(columns_y.permuted(permutation))
        return search.nearest_bits(both, neighbours, reach(permutation))

    return by_bits


def _foretold_reach(x: np.ndarray, y: np.ndarray, neighbours: int) -> Callable:
    """Return what gives, for a permutation, radii that hold a few more points than the wanted neighbours."""
    from scipy.spatial.distance import cdist

    random = np.random.default_rng(0)
    chosen = random.choice(len(x), min(SAMPLE, len(x)), replace=False)
    in_x, in_y = (cdist(points[chosen], points[random.permutation(chosen)], "chebyshev") for points in (x, y))
    radii = np.quantile(np.maximum(in_x, in_y), np.geomspace(1 / len(x), 1, RADII))
    log_x, log_y = (_log_share(points, points[chosen], radii) for points in (x, y))
    log_x[:, -1] = np.inf  # the greatest radius is taken where none is enough
    goal = np.log((2 * neighbours + 12) / len(x))
    return lambda permutation: radii[(log_x + log_y[permutation] >= goal).argmax(1)]


def _log_share(points: np.ndarray, sample: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the logarithm of the share of a sample within each radius of each point, (samples, radii)."""
    from scipy.spatial.distance import cdist

    counts = np.empty((len(points), len(radii)))
    for start in range(0, len(points), SAMPLE):
        distance = cdist(points[start : start + SAMPLE], sample, "chebyshev")
        counts[start : start + SAMPLE] = np.stack([(distance <= radius).sum(1) for radius in radii], 1)
    return np.log(np.maximum(counts, 1e-9) / len(sample))


def _count_each(points: np.ndarray, radii: np.ndarray, strict: bool) -> np.ndarray:
    """Return how many other points lie within each point's radii (shuffles, samples)."""
    from scipy.spatial.distance import cdist

    if points.shape[1] == 1 or len(radii) * points.shape[1] < MANY:
        columns = Columns(points)
        if points.shape[1] == 1:
            found = [search.count_sorted(columns, radius, strict) for radius in radii]
        else:
            found = [count_in_boxes(columns, columns.values, radius, strict) for radius in radii]
        return np.stack(found) - search.itself(radii, strict)
    counts = np.empty(radii.shape, np.int64)
    step = max(1, 2**17 // len(points))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        distance = cdist(points[part], points, "chebyshev")
        distance.sort(1)
        asked = torch.from_numpy(radii[:, part].T.copy())
        counts[:, part] = torch.searchsorted(torch.from_numpy(distance), asked, right=not strict).numpy().T
    return counts - search.itself(radii, strict)


def _counts_in_chunks(
    x: Tensor, y: Tensor, permutations: Tensor, neighbours: int, variant: int
) -> tuple[Tensor, Tensor]:
    """Return the same counts from tiles of distances: those in x are computed once for all shuffles."""
    compare = torch.lt if variant == 1 else torch.le
    counts = permutations.new_empty(2, *permutations.shape)
    for part in search.chunks(x):
        in_x = search.distances(x, part)
        for shuffle, permutation in enumerate(permutations):
            shuffled = y[permutation]
            in_y = search.distances(shuffled, part)
            both = search.fill_own(torch.maximum(in_x, in_y), part, torch.inf)
            distance, index = both.topk(neighbours, largest=False)
            radii = distance[:, -1], distance[:, -1]
            if variant == 2:
                radii = in_x.gather(1, index).amax(1), in_y.gather(1, index).amax(1)
            for place, (tile, radius) in enumerate(zip((in_x, in_y), radii, strict=True)):
                counts[place, shuffle, part] = search.fill_own(compare(tile, radius[:, None]), part, False).sum(1)
    return counts[0], counts[1]
