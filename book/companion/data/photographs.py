"""Sixteen openly licensed colour photographs, committed with the project."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..paths import data_file

# Both halves hold a mountain, an animal, a person, a flower, something to eat, ...; no photograph is in both.
SPLITS = {
    "calibration": ("astronaut", "autumn", "cat", "coffee", "flower", "lounge", "rocket", "sunset"),
    "heldout": ("brushes", "dandelions", "dogs", "fig", "mountains", "officer", "stream", "temple"),
}
SHORT_SIDE = 448


class Photograph(NamedTuple):
    """A colour photograph, or a part of one: image `(height, width, 3)` uint8."""

    name: str
    image: np.ndarray


def load(split: str) -> list[Photograph]:
    """Return the eight photographs of `calibration` or of `heldout`, shorter sides 300 to 448 pixels.

    Authors and licences (public domain, CC0, CC BY) are listed in `data/README.md`. Sixteen photographs are few: what
    is measured on them is shown to hold for them. Raises `DataError` where a file is missing or changed. About 0.1 s;
    needs no download.
    """
    from PIL import Image

    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown: choose 'calibration' or 'heldout'.")
    found = []
    for name in SPLITS[split]:
        with Image.open(data_file(f"photographs/{name}.jpg")) as picture:
            found.append(Photograph(name, np.asarray(picture.convert("RGB"))))
    return found


def halves(photograph: Photograph) -> tuple[Photograph, Photograph]:
    """Return two squares that share no pixel: the middles of the longer side's two halves.

    Squares of one photograph are not independent examples: keep them on one side of any split, and count photographs,
    not squares, for an interval.

    >>> wide = Photograph("wide", np.zeros((400, 600, 3), np.uint8))
    >>> [(part.name, part.image.shape) for part in halves(wide)]
    [('wide, first half', (300, 300, 3)), ('wide, second half', (300, 300, 3))]
    """
    name, image = photograph
    longer = int(image.shape[1] >= image.shape[0])
    length, across = image.shape[longer] // 2, image.shape[1 - longer]
    edge = min(length, across)
    parts = []
    for start, which in ((0, "first half"), (image.shape[longer] - length, "second half")):
        along = slice(start + (length - edge) // 2, start + (length - edge) // 2 + edge)
        over = slice((across - edge) // 2, (across - edge) // 2 + edge)
        parts.append(Photograph(f"{name}, {which}", image[over, along] if longer else image[along, over]))
    return parts[0], parts[1]


def write_photograph(source: Path, target: Path) -> None:
    """Write a photograph as it is committed: shorter side at most 448 pixels, JPEG without chroma subsampling.

    Without subsampling every decoder gives the same pixels, up to rounding. Nothing of the camera's notes (EXIF) is
    kept.
    """
    from PIL import Image, ImageOps

    with Image.open(source) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    scale = min(1.0, SHORT_SIDE / min(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    picture.save(target, quality=90, subsampling=0, optimize=True)
