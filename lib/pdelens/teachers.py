"""The list of teachers: what each is called, what it is, and how it is trained at which scale."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from . import text
from .models import Configuration, Transformer
from .project import data_file

SCALES = ("smoke", "book", "full")
SEEDS = 5
# Of so many steps, snapshots are taken after these shares (the finished teacher is a file of its own).
SNAPSHOTS = (0.005, 0.02, 0.06, 0.15, 0.3, 0.6)
# What `make adopt` moves into data/weights unless told otherwise: what pages load, within the budget of data/.
COMMITTED = ("image-patch4-seed?", "text-classifier-seed[012]")
# What is known of all training, of teachers whose weights are not committed too (in `data/`).
RECORDS = "training.json"


@dataclass(frozen=True)
class Job:
    """What is trained: a model, its seed, its data's treatment, and how long.

    `examples` keeps that many of the training set (0: all); `random_labels` draws the classes anew,
    independent of the inputs; `word_dropout` is the share of tokens masked at every step; `shift`
    moves each batch of pictures by up to so many pixels.
    """

    family: str
    configuration: Configuration
    seed: int
    steps: int
    variant: str = ""
    batch: int = 128
    peak_rate: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    word_dropout: float = 0.0
    shift: int = 0
    examples: int = 0
    random_labels: bool = False
    checkpoint_every: int = 50

    @property
    def name(self) -> str:
        """The weight file's name, without its ending."""
        return "-".join(part for part in (self.family, self.variant, f"seed{self.seed}") if part)

    @property
    def snapshots(self) -> tuple[int, ...]:
        """After which steps a snapshot is kept: for the first seed of each main teacher."""
        if self.family not in MAIN or self.variant or self.seed:
            return ()
        return tuple(sorted({max(1, round(share * self.steps)) for share in SNAPSHOTS}))

    @property
    def shape(self) -> dict[str, Any]:
        """What must agree for jobs to be trained as one stack; seeds and data may differ."""
        free = {"family", "variant", "seed", "examples", "random_labels", "word_dropout", "shift"}
        return {name: value for name, value in asdict(self).items() if name not in free}

    def untrained(self) -> Transformer:
        """Return the model before its first step: the untrained twin."""
        return Transformer(self.configuration, self.seed)


MAIN = ("image-patch4", "text-classifier", "text-causal")
_TEXT = Configuration(vocabulary=text.VOCABULARY, length=text.LENGTH, outputs=2)
_CAUSAL = replace(_TEXT, causal=True, outputs=text.VOCABULARY)
_VARIANTS: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu"},
    "tanh": {"activation": "tanh"},
    "linear": {"activation": "linear"},
    "post": {"placement": "post"},
    "rms": {"norm": "rms"},
    "dyt": {"norm": "dyt"},
    "none": {"norm": "none"},
}
_STEPS = {
    "smoke": {"image-patch4": 20, "text-classifier": 20, "text-causal": 10, "image-patch7": 40, "text-short": 20},
    "book": {
        "image-patch4": 2800,
        "text-classifier": 1600,
        "text-causal": 2000,
        "image-patch7": 1875,
        "text-short": 1250,
    },
    "full": {
        "image-patch4": 5600,
        "text-classifier": 2400,
        "text-causal": 4800,
        "image-patch7": 1875,
        "text-short": 1250,
    },
}


def jobs(scale: str) -> tuple[Job, ...]:
    """Return every teacher of a scale, in the order of their importance.

    The main teachers (pictures of 49 tokens, texts of 48, next tokens) and the cheap ones for sweeps
    (16 and 24 tokens) in 5 seeds; of the cheap ones also the variants: activations, normalisations, and
    the random-label twin, which has 2,000 examples to memorise; these in 1 seed (`full`: 5).
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} was given: choose from {', '.join(SCALES)}.")
    steps = _STEPS[scale]
    base = {
        "image-patch4": Job("image-patch4", Configuration(), 0, steps["image-patch4"]),
        "text-classifier": Job(
            "text-classifier", _TEXT, 0, steps["text-classifier"], peak_rate=2e-3, label_smoothing=0.0, word_dropout=0.2
        ),
        "text-causal": Job("text-causal", _CAUSAL, 0, steps["text-causal"], batch=64, label_smoothing=0.0),
        "image-patch7": Job("image-patch7", Configuration(patch=7), 0, steps["image-patch7"]),
        "text-short": Job(
            "text-short",
            replace(_TEXT, length=24),
            0,
            steps["text-short"],
            peak_rate=2e-3,
            label_smoothing=0.0,
            word_dropout=0.2,
        ),
    }
    every = range(1 if scale == "smoke" else SEEDS)
    found = [replace(job, seed=seed) for job in base.values() for seed in every]
    for job in (base["image-patch7"], base["text-short"]):
        for seed in range(SEEDS if scale == "full" else 1):
            found.append(replace(job, seed=seed, variant="random-labels", random_labels=True, examples=2000))
            for variant, settings in _VARIANTS.items():
                changed = replace(job.configuration, **settings)
                found.append(replace(job, seed=seed, variant=variant, configuration=changed))
    return tuple(found)


def job_named(name: str, scale: str = "book") -> Job:
    """Return one job by its name.

    >>> job_named("image-patch7-relu-seed0").configuration.activation
    'relu'
    """
    for job in jobs(scale):
        if job.name == name:
            return job
    raise ValueError(f"no teacher is called {name!r}: see pdelens.teachers.jobs({scale!r}).")


def histories() -> dict[str, dict[str, Any]]:
    """Return what is known of every teacher that was trained, by name: what made it, its learning curve, its scores."""
    return json.loads(data_file(RECORDS).read_text())["teachers"]


def plain_methods() -> dict[str, dict[str, Any]]:
    """Return what plain methods scored on the teachers' tasks (`yardsticks`), by name."""
    return json.loads(data_file(RECORDS).read_text())["baselines"]


def stacking() -> dict[str, Any]:
    """Return what training the seeds as one stack costs, and how far each is from training alone (`yardsticks`)."""
    return json.loads(data_file(RECORDS).read_text())["stacking"]["seeds"]


def chosen(found: tuple[Job, ...], only: str = "*") -> tuple[Job, ...]:
    """Return the jobs whose names fit one of the patterns, which are separated by commas."""
    return tuple(job for job in found if fits(job.name, only.split(",")))


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a name fits one of the patterns (`*` and `?` as in a shell)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def stacks(found: tuple[Job, ...], size: int) -> list[list[Job]]:
    """Return the jobs in stacks of at most `size` whose shapes agree, in the order of their first jobs."""
    if size < 1:
        raise ValueError(f"a stack of {size} jobs was asked for: at least 1 is wanted.")
    place = {job.name: number for number, job in enumerate(found)}
    ordered = sorted(found, key=lambda job: (repr(sorted(job.shape.items(), key=str)), place[job.name]))
    parts = []
    for _, group in groupby(ordered, key=lambda job: job.shape):
        alike = list(group)
        parts += [alike[start : start + size] for start in range(0, len(alike), size)]
    return sorted(parts, key=lambda part: place[part[0].name])
