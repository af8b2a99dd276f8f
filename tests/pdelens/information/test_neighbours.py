import tracemalloc

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from sklearn.neighbors import KDTree as BinaryTree

from pdelens.information import _bits, neighbours

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def gaussian(dims, samples=300):
    generator = torch.Generator().manual_seed(dims)
    common = torch.randn(samples, 1, generator=generator, dtype=torch.float64)
    return common + torch.randn(samples, dims, generator=generator, dtype=torch.float64)


def heavy_tails(dims):
    return torch.from_numpy(np.random.default_rng(0).standard_cauchy((300, dims)))


def integers(dims):
    return torch.randint(0, 4, (300, dims), generator=torch.Generator().manual_seed(0)).double()


def tenths(dims):
    """Ties whose differences are rounded."""
    return integers(dims) / 10


def clusters(dims):
    centre = 1000 * torch.randint(0, 3, (300, 1), generator=torch.Generator().manual_seed(0))
    return gaussian(dims) + centre


def far_away(dims):
    """Coordinates whose differences are rounded much more coarsely than they are."""
    return gaussian(dims) + 1e12


def constant_column(dims):
    points = gaussian(dims)
    points[:, 0] = 3
    return points


DATA = [gaussian, heavy_tails, integers, tenths, clusters, far_away, constant_column]


def plain_distances(points):
    """All pairs at once: the oracle of every other way."""
    return torch.cdist(points, points, p=torch.inf)


def plain_nearest(points, number):
    distance = plain_distances(points)
    distance.fill_diagonal_(torch.inf)
    return distance.sort(1).values[:, :number]


def plain_count(points, radius, strict):
    distance = plain_distances(points)
    inside = distance < radius[:, None] if strict else distance <= radius[:, None]
    inside.fill_diagonal_(False)
    return inside.sum(1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Give the bits several blocks, chunks and batches already at a few hundred points."""
    sizes = {"BLOCK": 128, "CHUNK": 48, "SETS": 2**13, "PAIRS": 2**11, "FEW": 96}
    for name, size in sizes.items():
        monkeypatch.setattr(_bits, name, size)
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 2**20)


@pytest.mark.parametrize("dims", [1, 2, 16])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", ["tree", "bits", "chunks"])
def test_nearest_is_the_plain_one(method, data, dims, small_blocks):
    points = data(dims)
    distance, index = neighbours.nearest(points, 10, method=method)
    assert torch.equal(distance, plain_nearest(points, 10))
    assert torch.equal(plain_distances(points).gather(1, index), distance)
    assert all(len(set(row)) == 10 and own not in row for own, row in enumerate(index.tolist()))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    ("method", "dims"), [("sort", 1), *((method, dims) for method in ("tree", "bits", "chunks") for dims in (1, 2, 16))]
)
def test_counts_are_the_plain_ones_at_radii_that_are_distances(method, data, dims, strict, small_blocks):
    """Every radius is some pair's distance: a comparison rounded otherwise than the distance would show."""
    points = data(dims)
    pairs = plain_distances(points)[torch.arange(300), torch.arange(300).roll(1)]
    for radius in (plain_nearest(points, 5)[:, -1], pairs):
        expected = plain_count(points, radius, strict)
        assert torch.equal(neighbours.count_within(points, radius, strict=strict, method=method), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dims", [1, 4, 12])
def test_chosen_ways_agree_with_the_plain_one_on_each_device(dims, dtype, device):
    points = gaussian(dims, samples=1200).to(dtype)
    distance, index = neighbours.nearest(points.to(device), 4)
    counts = neighbours.count_within(points.to(device), 1.5 * distance[:, -1])
    assert distance.device.type == index.device.type == counts.device.type == device
    exact = points.to(distance.dtype).cpu()
    assert torch.equal(distance.cpu(), plain_nearest(exact, 4))
    assert torch.equal(counts.cpu(), plain_count(exact, 1.5 * distance[:, -1].cpu(), True))


@pytest.mark.parametrize("guess", [0.0, 0.3, torch.inf])
def test_bits_do_not_depend_on_the_guessed_radius(guess, small_blocks, monkeypatch):
    monkeypatch.setattr(_bits, "_reach", lambda *_: np.full(300, guess))
    points = gaussian(5)
    assert torch.equal(neighbours.nearest(points, 5, method="bits")[0], plain_nearest(points, 5))


def test_boxes_by_hand():
    columns = _bits.Columns(np.array([[0.0, 0.0], [1.0, 5.0], [1.0, 1.0], [3.0, 0.0]]))
    centres, radius = np.array([[0.0, 2.0], [0.0, 0.0]]), np.array([1.0, 2.0])
    assert _bits.boxes(columns, centres, radius, strict=True).tolist() == [[0b0001], [0b0100 | 0b1000]]
    assert _bits.boxes(columns, centres, radius, strict=False).tolist() == [[0b0101], [0b1101]]


@pytest.mark.parametrize("dims", [1, 3, 8])
def test_parity_with_scipy_and_scikit_learn(dims):
    points = gaussian(dims)
    distance = neighbours.nearest(points, 3, method="bits")[0]
    assert np.array_equal(distance, KDTree(points).query(points, 4, p=np.inf)[0][:, 1:])
    assert np.array_equal(distance, BinaryTree(points, metric="chebyshev").query(points, 4)[0][:, 1:])
    inside = BinaryTree(points, metric="chebyshev").query_radius(points, distance[:, -1], count_only=True)
    assert np.array_equal(neighbours.count_within(points, distance[:, -1], strict=False, method="bits"), inside - 1)


@pytest.mark.parametrize("dims", [2, 9])
def test_memory_of_bits_does_not_grow_with_the_square(dims):
    """12,000 samples: a byte a pair would be 137 MiB, a distance a pair 1.1 GiB (tracemalloc sees numpy's)."""
    points = gaussian(dims, samples=12_000)
    tracemalloc.start()
    radius = neighbours.nearest(points, 3)[0][:, -1]
    neighbours.count_within(points, radius, method="bits")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_chunks_fit_their_bytes(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK_BYTES", 2**20)
    points = gaussian(2)
    parts = neighbours.chunks(points)
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(300))
    assert all(2 * neighbours.distances(points, part).nbytes <= 2**20 for part in parts)


def test_radius_zero_holds_nobody():
    points = torch.zeros(20, 2)
    for method in ("tree", "bits", "chunks"):
        assert neighbours.count_within(points, torch.zeros(20), method=method).tolist() == [0] * 20
        assert neighbours.count_within(points, torch.zeros(20), strict=False, method=method).tolist() == [19] * 20


def test_bad_input_is_named():
    points = gaussian(2)
    with pytest.raises(ValueError, match="300 neighbours among 300 samples"):
        neighbours.nearest(points, 300)
    with pytest.raises(ValueError, match=r"shape \(300,\)"):
        neighbours.nearest(points[:, 0], 3)
    with pytest.raises(ValueError, match="1 of 600 values of points"):
        neighbours.nearest(torch.where(points == points[3, 1], torch.nan, points), 3)
    with pytest.raises(ValueError, match=r"shape \(5,\) were given for 300 points"):
        neighbours.count_within(points, torch.ones(5))
    with pytest.raises(ValueError, match="'sort' was given for 2 column"):
        neighbours.count_within(points, torch.ones(300), method="sort")
