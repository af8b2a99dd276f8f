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
