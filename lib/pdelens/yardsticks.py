"""What stands beside the teachers: plain methods on their tasks, and what training them as a stack costs.

Measured once, by `make train`, and kept with the weights.
"""

import json
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from . import baselines, text
from .datasets import Pictures
from .examples import Examples, Sets, coder, digest_of, sets, shuffled
from .project import replace_text
from .stacked import train
from .teachers import SEEDS
from .teachers import jobs as jobs_of

NAME = "baselines"
STACKING = "stacking"
LENGTHS = (text.LENGTH, text.LENGTH // 2)
# How much a smoke run looks at, of each training and test set.
SMOKE = 400


def measure(scale: str, folder: Path) -> Path:
    """Measure every plain method into `folder/baselines.json`; what stands there of the same data is kept.

    All see what the teachers see: the same pictures, the same windows, the same training rows. TF-IDF counts the
    windows' words, their words and pairs of words, or the tokeniser's pieces. Five minutes for all (a tenth of that
    at scale `smoke`, which looks at little).
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


def stacking(scale: str, folder: Path, device: str, family: str = "image-patch4") -> Path:
    """Measure into `folder/stacking.json` what five seeds as one stack cost, and how far each is from training alone.

    `ratio`: seconds of five seeds' steps over those of one seed; `difference`: the largest difference of any
    weight after those steps, in float32, and in float64. Random pictures; about five minutes on one CPU thread.
    """
    target = folder / f"{STACKING}.json"
    steps = {"smoke": 2, "book": 20, "full": 40}[scale]
    first = next(job for job in jobs_of(scale) if job.family == family)
    jobs = [replace(first, seed=seed, steps=steps, checkpoint_every=steps) for seed in range(SEEDS)]
    about: dict[str, Any] = {
        "scale": scale,
        "steps": steps,
        "batch": jobs[0].batch,
        "jobs": len(jobs),
        "family": family,
    }
    if target.exists() and json.loads(target.read_text()).items() >= about.items():
        return target
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (4 * jobs[0].batch, 28, 28), dtype=torch.uint8, generator=generator)
    data = Examples(pictures, torch.randint(0, first.configuration.outputs, (len(pictures),), generator=generator))
    for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        with TemporaryDirectory() as scratch:
            together, record = train(jobs, data, Path(scratch), device=device, dtype=dtype)
            alone, own = train(jobs[:1], data, Path(scratch), device=device, dtype=dtype)
        assert together is not None and alone is not None
        pairs = zip(together[0].parameters(), alone[0].parameters(), strict=True)
        about[f"difference_{name}"] = max(float((a - b).detach().abs().max()) for a, b in pairs)
        if dtype == torch.float32:
            about["ratio"] = record[0]["seconds"] / own[0]["seconds"]
    about |= {"device": "cuda" if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"}
    replace_text(target, json.dumps(about | {"versions": _versions()}, indent=1, sort_keys=True) + "\n")
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

    def bag(length: int, words: int, read):
        found = drawn("text", length)
        test = found.tests["test"]
        told, asked = (read(part.inputs) for part in (found.train, test))
        named = baselines.tfidf(told, found.train.labels, asked, words)
        return _accuracy(float((named == test.labels).double().mean()), len(test.labels))

    def as_text(tokens: torch.Tensor) -> list[str]:
        return [line.strip() for line in coder(folder).decode_batch(tokens.tolist(), skip_special_tokens=True)]

    def following(order: int):
        found = drawn("text", text.LENGTH)
        loss = baselines.next_token(found.train.inputs, found.tests["test"].inputs, text.VOCABULARY, order)
        return {"test_loss": loss}

    image = {
        "image-linear": (0, lambda: pictures(baselines.linear_pixels)),
        "image-neighbours": (0, lambda: pictures(baselines.nearest_neighbours)),
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


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "torch": torch.__version__}
