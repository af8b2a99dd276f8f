"""The list of teachers: what each is called, what it is, and how it is trained at which scale."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from pdelens.models import Configuration, Transformer

from ..data import tokens
from ..paths import SCALES, refuse_unknown_scale

SEEDS = 5
# Of so many steps, snapshots are taken after these shares (the finished teacher is a file of its own).
SNAPSHOTS = (0.005, 0.02, 0.06, 0.15, 0.3, 0.6)
# Variants of the cheap teachers that are followed over training, and so many seeds of each beside the first.
FOLLOWED = ("", "random-labels", "tanh")
TWINS = 3
# What `make adopt` moves into data/weights unless told otherwise: what pages load, within the budget of data/.
COMMITTED = ("image-patch4-seed?", "text-classifier-seed[012]")


@dataclass(frozen=True)
class Recipe:
    """What is trained: a model, its seed, its data's treatment, and how long.

    `examples` keeps that many of the training set (0: all); `random_labels` draws the classes anew, independent of
    the inputs; `word_dropout` is the share of tokens masked at every step; `shift` moves each batch of pictures by up
    to so many pixels.
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
        """After which steps a snapshot is kept: for the first seed of each main teacher, for all the cheap ones that
        the information bottleneck is measured on."""
        first = self.family in MAIN and not self.variant and not self.seed
        if not first and not (self.family in CHEAP and self.variant in FOLLOWED):
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
CHEAP = ("image-patch7", "text-short")
_TEXT = Configuration(vocabulary=tokens.VOCABULARY, length=tokens.LENGTH, outputs=2)
_CAUSAL = replace(_TEXT, causal=True, outputs=tokens.VOCABULARY)
_VARIANTS = {name: {"activation": name} for name in ("relu", "tanh", "linear")}
_VARIANTS |= {"post": {"placement": "post"}} | {name: {"norm": name} for name in ("rms", "dyt", "none")}
# Steps at each of `SCALES`.
_STEPS = {
    "image-patch4": (20, 2800, 5600),
    "text-classifier": (20, 1600, 2400),
    "text-causal": (10, 2000, 4800),
    "image-patch7": (40, 1875, 1875),
    "text-short": (20, 1250, 1250),
}


def recipes_of(scale: str) -> tuple[Recipe, ...]:
    """Return every teacher of a scale, in the order of their importance.

    The main teachers (pictures of 49 tokens, texts of 48, next tokens) and the cheap ones for sweeps (16 and 24
    tokens) in 5 seeds; of the cheap ones also the variants: activations, normalisations, and the random-label twin,
    which has 2,000 examples to memorise; these in 1 seed, those in `FOLLOWED` in `TWINS` (`full`: all in 5).
    """
    refuse_unknown_scale(scale)

    def recipe(family: str, configuration: Configuration, **settings: Any) -> Recipe:
        return Recipe(family, configuration, 0, _STEPS[family][SCALES.index(scale)], **settings)

    classifier = {"peak_rate": 2e-3, "label_smoothing": 0.0, "word_dropout": 0.2}
    cheap = (
        recipe("image-patch7", Configuration(patch=7)),
        recipe("text-short", replace(_TEXT, length=24), **classifier),
    )
    main = (
        recipe("image-patch4", Configuration()),
        recipe("text-classifier", _TEXT, **classifier),
        recipe("text-causal", _CAUSAL, batch=64, label_smoothing=0.0),
    )
    every = range(1 if scale == "smoke" else SEEDS)
    found = [replace(one, seed=seed) for one in main + cheap for seed in every]
    many = {"smoke": (1, 1), "book": (1, TWINS), "full": (SEEDS, SEEDS)}[scale]
    seeds = {variant: many[variant in FOLLOWED] for variant in ("random-labels", *_VARIANTS)}
    for one in cheap:
        for seed in range(max(seeds.values())):
            if seed < seeds["random-labels"]:
                found.append(replace(one, seed=seed, variant="random-labels", random_labels=True, examples=2000))
            for variant, settings in _VARIANTS.items():
                if seed < seeds[variant]:
                    changed = replace(one.configuration, **settings)
                    found.append(replace(one, seed=seed, variant=variant, configuration=changed))
    return tuple(found)


def recipe_named(name: str, scale: str = "book") -> Recipe:
    """Return one job by its name.

    >>> recipe_named("image-patch7-relu-seed0").configuration.activation
    'relu'
    """
    for recipe in recipes_of(scale):
        if recipe.name == name:
            return recipe
    raise ValueError(f"no teacher is called {name!r}: `python -m companion list --scale {scale}` shows what there is.")


def chosen(found: tuple[Recipe, ...], only: str = "*") -> tuple[Recipe, ...]:
    """Return the jobs whose names fit one of the patterns, which are separated by commas."""
    return tuple(recipe for recipe in found if fits(recipe.name, only.split(",")))


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Say whether a name fits one of the patterns (`*` and `?` as in a shell)."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def stacks(found: tuple[Recipe, ...], size: int) -> list[list[Recipe]]:
    """Return the jobs in stacks of at most `size` whose shapes agree, in the order of their first jobs."""
    if size < 1:
        raise ValueError(f"a stack of {size} jobs was asked for: at least 1 is wanted.")
    groups: dict[str, list[Recipe]] = {}
    for recipe in found:
        groups.setdefault(repr(recipe.shape), []).append(recipe)
    parts = [alike[start : start + size] for alike in groups.values() for start in range(0, len(alike), size)]
    return sorted(parts, key=lambda part: found.index(part[0]))
