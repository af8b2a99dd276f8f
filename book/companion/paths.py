"""Where the project's files lie, which of them a run has read, and at which scales there are runs."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

files_read: set[str] = set()
SCALES = ("smoke", "book", "full")


class DataError(RuntimeError):
    """A data file is missing, damaged or out of reach; the message names it and the cure."""


def refuse_unknown_scale(scale: str) -> None:
    """Raise `ValueError` for what is none of `SCALES`."""
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} was given: choose from {', '.join(SCALES)}.")


def root() -> Path:
    """Return the checkout that holds `data/` and `book/` (`PDELENS_ROOT`, else this file's own)."""
    given = os.environ.get("PDELENS_ROOT")
    return Path(given) if given else Path(__file__).resolve().parents[2]


def cache_folder() -> Path:
    """Return the folder for downloads (`PDELENS_CACHE`, else `~/.cache/pdelens`), made if needed.

    Raises `DataError` where it is no folder and can't be made. It need not be writable if it holds all that is read.
    """
    given = os.environ.get("PDELENS_CACHE")
    folder = Path(given) if given else Path.home() / ".cache" / "pdelens"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache {folder} can't be used ({error.strerror}): name a folder of your own in PDELENS_CACHE."
        ) from error
    return folder


def commit() -> str:
    """Return the commit that the project is at, nothing where there is no git, or no repository (an archive)."""
    asked = ["git", "-C", str(root()), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def results_folder() -> Path:
    """Return the committed results (`data/results`)."""
    return root() / "data" / "results"


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checksums() -> dict[str, str]:
    """Return `data/SHA256SUMS` as a mapping from path (inside `data/`) to digest."""
    listing = root() / "data" / "SHA256SUMS"
    if not listing.exists():
        raise DataError(f"{listing} is missing: clone the project, or name its folder in PDELENS_ROOT.")
    rows = (line.split(maxsplit=1) for line in listing.read_text().splitlines() if line.strip())
    return {name.strip(): digest for digest, name in rows}


def write_checksums(names: dict[str, str]) -> None:
    """Add these files of `data/` to `data/SHA256SUMS` and drop those that are gone."""
    listing = root() / "data" / "SHA256SUMS"
    known = (checksums() if listing.exists() else {}) | names
    kept = {name: digest for name, digest in known.items() if (listing.parent / name).exists()}
    replace_text(listing, "".join(f"{kept[name]}  {name}\n" for name in sorted(kept)))


def data_file(name: str) -> Path:
    """Return the path of a committed data file after checking it against `data/SHA256SUMS`.

    `name` is relative to `data/`. Raises `DataError` where the file is missing, not listed, or other than listed.
    Costs one pass over the file.
    """
    path = root() / "data" / name
    wanted = checksums().get(name)
    if wanted is None:
        raise DataError(f"data/{name} is not listed in data/SHA256SUMS: run `make adopt` to list it.")
    if not path.exists():
        raise DataError(f"data/{name} is missing: restore it with `git checkout -- data/{name}`.")
    found = sha256(path)
    if found != wanted:
        digests = f"SHA-256 {found[:12]}…, but data/SHA256SUMS wants {wanted[:12]}…"
        raise DataError(f"data/{name} has {digests}: restore it with `git checkout -- data/{name}`.")
    files_read.add(name)
    return path


def replace_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) so that it is never seen half-written."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def say(sentence: str) -> None:
    """Print a sentence for the person who waits, aside from the results."""
    print(sentence, file=sys.stderr, flush=True)
