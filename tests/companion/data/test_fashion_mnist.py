import pytest
import torch

from companion import paths
from companion.data import fashion_mnist
from companion.data import reviews as film_reviews
from companion.paths import DataError


def test_committed_pictures_are_balanced_and_apart():
    calibration, heldout = (
        fashion_mnist.fashion_mnist_subset("calibration"),
        fashion_mnist.fashion_mnist_subset("heldout"),
    )
    assert calibration.images.shape == (512, 28, 28) and heldout.images.shape == (1024, 28, 28)
    for subset in (calibration, heldout):
        counts = torch.bincount(subset.labels)
        assert len(counts) == 10 and int(counts.max() - counts.min()) <= 1
    seen = {picture.numpy().tobytes() for picture in calibration.images}
    assert not any(picture.numpy().tobytes() in seen for picture in heldout.images)
    with pytest.raises(ValueError, match="choose 'calibration' or 'heldout'"):
        fashion_mnist.fashion_mnist_subset("test")


def test_changed_committed_data_is_named(project_copy):
    (project_copy / "data/a.bin").write_bytes(b"1")
    paths.write_checksums({"a.bin": paths.sha256(project_copy / "data/a.bin")})
    paths.data_file("a.bin")
    (project_copy / "data/a.bin").write_bytes(b"2")
    with pytest.raises(DataError, match=r"git checkout -- data/a\.bin"):
        paths.data_file("a.bin")
    (project_copy / "data/a.bin").unlink()
    with pytest.raises(DataError, match=r"is missing"):
        paths.data_file("a.bin")
    with pytest.raises(DataError, match="is not listed"):
        paths.data_file("b.bin")


@pytest.mark.data
def test_movie_reviews():
    reviews = film_reviews.movie_reviews()
    sources = {source: [r for r in reviews if r.source == source] for source in ("rotten_tomatoes", "imdb")}
    assert {source: len(rows) for source, rows in sources.items()} == {"rotten_tomatoes": 8530, "imdb": 25000}
    assert {r.label for r in reviews} == {0, 1}
    assert sum(r.label for r in sources["imdb"]) == 12500
    lengths = sorted(len(r.text.split()) for r in sources["rotten_tomatoes"])
    assert 18 <= lengths[len(lengths) // 2] <= 22


@pytest.mark.parametrize("sizes", [{}, {"calibration": 23, "heldout": 31}])
def test_the_committed_pictures_are_the_first_of_each_class_in_turn(tmp_path, monkeypatch, sizes):
    """By plain loops, and with a sort that promises nothing about ties unless it is asked to."""
    generator, plain = torch.Generator().manual_seed(0), torch.argsort
    full = {}
    for train in (True, False):
        labels = torch.randint(0, 10, (2000,), generator=generator)
        images = torch.arange(2000)[:, None, None].expand(2000, 1, 2)
        full[train] = fashion_mnist.Pictures(torch.stack([images % 251, images // 251], -1).byte(), labels)

    def careless(values, *, stable=False):
        if stable:
            return plain(values, stable=True)
        mixed = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
        return mixed[plain(values[mixed], stable=True)]

    monkeypatch.setattr(fashion_mnist, "fashion_mnist", lambda train: full[train])
    monkeypatch.setattr(torch, "argsort", careless)
    fashion_mnist.write_subset(tmp_path / "subset.safetensors", **sizes)
    monkeypatch.setattr(fashion_mnist, "data_file", lambda name: tmp_path / "subset.safetensors")
    for split, train, count in (("calibration", True, 512), ("heldout", False, 1024)):
        images, labels = full[train]
        rank, seen = [], [0] * 10
        for label in labels.tolist():
            rank.append(seen[label])
            seen[label] += 1
        wanted = sorted(range(2000), key=lambda number: (rank[number], number))[: sizes.get(split, count)]
        found = fashion_mnist.fashion_mnist_subset(split)
        assert torch.equal(found.images, images[wanted]) and torch.equal(found.labels, labels[wanted])
        assert found.labels.dtype == torch.int64


@pytest.mark.parametrize("train", [True, False])
def test_all_pictures_are_read_from_the_cache_alone(tmp_path, monkeypatch, train):
    asked = []

    class Read:
        data, targets = torch.zeros(3, 28, 28), torch.arange(3)

        def __init__(self, folder, **how):
            asked.append((folder, how))

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", Read)
    monkeypatch.setattr(fashion_mnist, "fetch", lambda package: asked.append(package))
    monkeypatch.setenv("PDELENS_CACHE", str(tmp_path))
    found = fashion_mnist.fashion_mnist(train)
    assert found.images is Read.data and found.labels is Read.targets
    assert asked == [fashion_mnist.FASHION_MNIST, (str(tmp_path), {"train": train, "download": False})]
