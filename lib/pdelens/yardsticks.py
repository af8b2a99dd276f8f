"""What plain methods score on the teachers' own tasks: measured once, by `make train`, kept with the weights."""

import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import baselines, text
from .datasets import Pictures
from .examples import Sets, coder, digest_of, sets, shuffled
from .project import replace_text

NAME = "baselines"
LENGTHS = (text.LENGTH, text.LENGTH // 2)
# How much a smoke run looks at, of each training and test set.
SMOKE = 400


def measure(scale: str, folder: Path) -> Path:
    """Measure every plain method into `folder/baselines.json`; what stands there of the same data is kept.

    All see what the teachers see: the same pictures, the same windows, the same training rows. TF-IDF reads the
    windows as text. Five minutes for all (a tenth of that at scale `smoke`, which looks at little).
    """
    target = folder / f"{NAME}.json"
    found = json.loads(target.read_text()) if target.exists() else {}
    for kind, tasks in _tasks(scale, folder).items():
        for name, (length, task) in tqdm(tasks.items(), desc=NAME, unit="method", file=sys.stderr):
            data = {"scale": scale, "data_sha256": digest_of(kind, length, folder)}
            if found.get(name, {}).items() >= data.items():
                continue
            began = time.perf_counter()
            scores = task()
            about = {"seconds": round(time.perf_counter() - began, 1), "versions": _versions()}
            found[name] = data | scores | about
            replace_text(target, json.dumps(found, indent=1, sort_keys=True) + "\n")
    return target


def _tasks(scale: str, folder: Path) -> dict[str, dict[str, tuple[int, Any]]]:
    """Return by kind of data, then name: the windows' length and the call that gives the scores."""

    def drawn(kind: str, length: int) -> Sets:
        found = sets(kind, length, folder)
        if scale != "smoke":
            return found
        return found.small(SMOKE)._replace(train=shuffled(found.train, SMOKE))

    def pictures(method, **settings):
        found = drawn("image", 0)
        test = found.tests["test"]
        return _accuracy(method(Pictures(*found.train), Pictures(*test), **settings), len(test.labels))

    def bag(length: int, words: int):
        found = drawn("text", length)
        test = found.tests["test"]
        told, asked = (_as_text(part.inputs, folder) for part in (found.train, test))
        named = baselines.tfidf(told, found.train.labels, asked, words)
        return _accuracy(float((named == test.labels).double().mean()), len(test.labels))

    def following(order: int):
        found = drawn("text", text.LENGTH)
        loss = baselines.next_token(found.train.inputs, found.tests["test"].inputs, text.VOCABULARY, order)
        return {"test_loss": loss}

    image = {
        "image-linear": (0, lambda: pictures(baselines.linear_pixels)),
        "image-neighbours": (0, lambda: pictures(baselines.nearest_neighbours)),
    }
    texts = {
        f"text-{length}-tfidf-{words}": (length, lambda length=length, words=words: bag(length, words))
        for length in LENGTHS
        for words in (1, 2)
    }
    runs = {f"text-causal-runs-{order}": (text.LENGTH, lambda order=order: following(order)) for order in (1, 2, 3)}
    return {"image": image, "text": texts | runs}


def _as_text(tokens: torch.Tensor, folder: Path) -> list[str]:
    return [line.strip() for line in coder(folder).decode_batch(tokens.tolist(), skip_special_tokens=True)]


def _accuracy(share: float, examples: int) -> dict[str, Any]:
    return {"test_accuracy": round(share * examples) / examples, "test_examples": examples}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}
