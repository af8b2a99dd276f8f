"""The examples that teachers learn from and are tested on, with their digest and their tokeniser."""

import os
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pdelens.files import digest

from . import reviews, tokens
from .fashion_mnist import fashion_mnist, fashion_mnist_subset

TOKENIZER = "tokenizer.json"
# On so many a learning curve is followed (committed pictures, or validation windows).
FOLLOWED = 1000


class Examples(NamedTuple):
    """Inputs (pictures (examples, side, side) uint8, or tokens (examples, length)) and classes (examples,)."""

    inputs: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """The training set, the examples that a learning curve follows, and the test sets by name."""

    train: Examples
    followed: Examples
    tests: dict[str, Examples]

    def small(self, most: int) -> "Splits":
        """Return the same training set, followed and tested on at most so many examples."""
        tests = {name: shuffled(test, most) for name, test in self.tests.items()}
        return Splits(self.train, shuffled(self.followed, most), tests)


@cache
def load_splits(kind: str, length: int, folder: Path) -> Splits:
    """Return the sets of a kind, "image" or "text"; texts in windows of `length` tokens, coded as `folder` says.

    Pictures are tested on all 10,000 (`test`) and on the committed ones among them (`heldout`), texts on the test and
    validation windows.
    """
    if kind == "image":
        subset = Examples(*fashion_mnist_subset("heldout"))
        tests = {"test": Examples(*fashion_mnist(False)), "heldout": subset}
        return Splits(Examples(*fashion_mnist(True)), Examples(*(column[:FOLLOWED] for column in subset)), tests)
    train, validation, test = (
        Examples(*tuple(tokens.windows(split, length, coder=coder(folder)))[:2]) for split in reviews.SPLITS
    )
    # The reviews lie sorted by source and class: what is cut off must be a fair sample.
    return Splits(shuffled(train), shuffled(validation, FOLLOWED), {"test": test, "validation": validation})


def shuffled(data: Examples, at_most: int | None = None) -> Examples:
    """Return the examples in an order that is always the same; the first so many of it."""
    order = fair_order(len(data.labels))[:at_most]
    return Examples(*(column[order] for column in data))


def fair_order(count: int) -> Tensor:
    """Return an order of so many examples that is always the same: what comes first in it is a fair sample."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


@cache
def digest_of(kind: str, length: int, folder: Path) -> str:
    """Return the SHA-256 of a training set."""
    return digest(load_splits(kind, length, folder).train._asdict())


@cache
def coder(folder: Path) -> Any:
    """Return the tokeniser of a folder of weights; learnt once, and kept there."""
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.exists():
        draft = path.with_suffix(f".{os.getpid()}.draft")
        tokens.train_reviews_tokenizer().save(str(draft), pretty=False)
        draft.replace(path)
    return Tokenizer.from_file(str(path))


def tokenizer_digest(folder: Path) -> str:
    """Return the digest of the tokeniser that stands in a folder of weights now; it is learnt where there is none."""
    from tokenizers import Tokenizer

    coder(folder)
    path = folder / TOKENIZER
    return tokens.describe(Tokenizer.from_file(str(path)) if path.exists() else coder(folder))["sha256"]
