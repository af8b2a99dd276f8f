"""Moves complete weights from where they were trained into `data/`, and lists them."""

from pathlib import Path

from . import models, surrogates, teachers
from .datasets import write_subset
from .project import DataError, root, sha256, write_checksums


def adopt(scale: str, only: str = ",".join(teachers.COMMITTED)) -> None:
    """Copy the complete weights of a scale into `data/weights` and list them in SHA256SUMS.

    Of the teachers those whose names fit `only`, and all surrogates; with them the tokeniser, and the
    committed subset of pictures if it is not there. Raises `DataError` where there are none.
    """
    folder = root() / "_build/train" / scale
    trained = sorted(
        path
        for path in folder.glob("*.safetensors")
        if ".checkpoint" not in path.name
        and (path.stem.startswith("surrogate") or teachers.fits(path.stem, only.split(",")))
    )
    if not trained:
        raise DataError(
            f"there are no complete weights in _build/train/{scale} that fit {only!r}: run `make train SCALE={scale}` "
            "first."
        )
    data = root() / "data"
    adopted = {}
    for path in trained:
        # Refuses a file that is neither a teacher's nor a surrogate's.
        surrogates.load(path.stem, path) if path.stem.startswith("surrogate") else models.load(path)
        adopted |= _copied(path, data, f"weights/{path.name}")
    if (folder / "tokenizer.json").exists():
        adopted |= _copied(folder / "tokenizer.json", data, "tokenizer.json")
    subset = data / "fashion-mnist-subset.safetensors"
    if not subset.exists():
        write_subset(subset)
    adopted[subset.name] = sha256(subset)
    write_checksums(adopted)
    print("Adopted: " + ", ".join(sorted(adopted)))


def _copied(path: Path, data: Path, name: str) -> dict[str, str]:
    target = data / name
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".draft")
    draft.write_bytes(path.read_bytes())
    draft.replace(target)
    return {name: sha256(target)}
