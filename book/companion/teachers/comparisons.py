"""What stands beside the teachers: plain methods on their tasks, measured once by `make train`."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from ..data import tokens as text
from ..data.fashion_mnist import Pictures
from ..data.splits import Splits, coder, digest_of, load_splits, shuffled
from ..jobs import Job, Run, provenance
from . import baselines, peers, recipes
from .recipes import SEEDS, fits

NAME = "baselines"
LENGTHS = (text.LENGTH, text.LENGTH // 2)
# How much a smoke run looks at, of each training and test set.
SMOKE = 400


@dataclass(frozen=True)
class Comparison(Job):
    """Measures one plain method on a teacher's task: it sees the same pictures, windows and training rows.

    TF-IDF counts the windows' words, their words and pairs of words, or the tokeniser's pieces. Networks without
    attention (`peers`) are trained as the image teacher's seeds are. A quarter of an hour for all (a tenth of that at
    scale `smoke`, which looks at little).
    """

    method: str
    kind: str
    length: int

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{NAME}-{self.method}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale and the digest of the training set."""
        return {"scale": run.scale, "data_sha256": digest_of(self.kind, self.length, run.folder)}

    def do(self, run: Run) -> dict[str, Any]:
        """Return the method's scores."""
        began = time.perf_counter()
        scores = _tasks(run)[self.kind][self.method][1]()
        about = {"seconds": round(time.perf_counter() - began, 1), "versions": provenance(run.device)["versions"]}
        return self.identity(run) | scores | about


def comparison_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs of the plain methods that fit `only` (patterns, by commas)."""
    tasks = ((kind, *task) for kind, methods in _tasks(run).items() for task in methods.items())
    found = [Comparison(method, kind, length) for kind, method, (length, _) in tasks]
    return [job for job in found if fits(job.name, only.split(",")) or fits(NAME, only.split(","))]


def _tasks(run: Run) -> dict[str, dict[str, tuple[int, Any]]]:
    """Return by kind of data, then name: the windows' length and the call that gives the scores."""

    def drawn(kind: str, length: int) -> Splits:
        found = load_splits(kind, length, run.folder)
        small = run.scale == "smoke"
        return found.small(SMOKE)._replace(train=shuffled(found.train, SMOKE)) if small else found

    def pictures(method, **settings):
        found = drawn("image", 0)
        test = found.tests["test"]
        return _accuracy(method(Pictures(*found.train), Pictures(*test), **settings), len(test.labels))

    def alike(make, seeds: int):
        found = drawn("image", 0)
        test = found.tests["test"]
        # As the image teacher's seeds are trained, which is the first of the main ones.
        how = [recipes.recipe_named(f"{recipes.MAIN[0]}-seed{number}", run.scale) for number in range(seeds)]
        each = [peers.accuracy(peers.trained(make, recipe, found.train), test) for recipe in how]
        return _accuracy(sum(each) / seeds, len(test.labels)) | {"test_accuracies": each}

    def bag(length: int, words: int, read):
        found = drawn("text", length)
        test = found.tests["test"]
        shown, asked = (read(part.inputs) for part in (found.train, test))
        named = baselines.tfidf(shown, found.train.labels, asked, words)
        return _accuracy(float((named == test.labels).double().mean()), len(test.labels))

    def as_text(tokens: torch.Tensor) -> list[str]:
        return text.sentences(tokens, coder(run.folder))

    def following(order: int):
        found = drawn("text", text.LENGTH)
        train, test = found.train.inputs, found.tests["test"].inputs
        return {"test_loss": baselines.next_token(train, test, text.VOCABULARY, order)}

    image = {
        "image-linear": (0, lambda: pictures(baselines.linear_pixels)),
        "image-neighbours": (0, lambda: pictures(baselines.nearest_neighbours)),
        "image-dense": (0, lambda: alike(peers.dense, 1 if run.scale == "smoke" else SEEDS)),
        "image-convolutional": (0, lambda: alike(peers.convolutional, 1)),
    }
    texts = {
        f"text-{length}-tfidf-{name}": (length, lambda length=length, words=words, read=read: bag(length, words, read))
        for length in LENGTHS
        for name, words, read in (("1", 1, as_text), ("2", 2, as_text), ("pieces", 1, _as_pieces))
    }
    runs = {f"text-causal-runs-{order}": (text.LENGTH, lambda order=order: following(order)) for order in (1, 2, 3)}
    return {"image": image, "text": texts | runs}


def _as_pieces(tokens: torch.Tensor) -> list[str]:
    """Name each piece by its number: words to a bag of words, and exactly what a teacher sees."""
    return [" ".join(f"piece{number}" for number in row if number != text.PAD) for row in tokens.tolist()]


def _accuracy(share: float, examples: int) -> dict[str, Any]:
    return {"test_accuracy": round(share * examples) / examples, "test_examples": examples}
