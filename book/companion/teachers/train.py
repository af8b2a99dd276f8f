"""Trains the teachers: deterministic on one machine, resumable after a kill.

Each teacher's file carries what made it, and how good it is with its weights as the file holds them.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pdelens.models import Transformer
from pdelens.pde.checkpoints import forget

from ..data.splits import TOKENIZER, Examples, coder, digest_of, load_splits, tokenizer_digest
from ..jobs import Job, Run, keep, kept, provenance
from ..paths import say
from . import files, stack
from .recipes import SEEDS, Recipe, chosen, recipes_of, stacks

Tests = Mapping[str, Examples]
# The most of each test set that a smoke run looks at.
SMOKE_TESTS = 200
# What of a recipe a weight file's header repeats.
SETTINGS = ("steps", "batch", "peak_rate", "weight_decay", "label_smoothing", "word_dropout", "shift", "examples")


@dataclass(frozen=True)
class TrainStack(Job):
    """Trains teachers of one shape as one stack, each to a file of its own."""

    recipes: tuple[Recipe, ...]

    @property
    def name(self) -> str:
        """The stack's name: that of its first teacher, and how many are with it."""
        return stack.label_of(self.recipes)

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the recipes, by teacher."""
        return {recipe.name: _identity(recipe, run) for recipe in self.recipes}

    def cost(self, run: Run) -> float:
        """Return its floating-point operations, forward."""
        return sum(float(one.steps * one.batch * one.configuration.flops) for one in self.recipes)

    def recorded(self, run: Run) -> dict[str, Any] | None:
        """Return the teachers' records where all are whole, whichever stacks they were trained in."""
        found = {recipe.name: _whole(recipe, run) for recipe in self.recipes}
        return None if None in found.values() else found

    def keep(self, run: Run, record: Mapping[str, Any]) -> None:
        """Write a record for each teacher."""
        for recipe in self.recipes:
            keep(run, recipe.name, _identity(recipe, run), record[recipe.name], [f"{recipe.name}.safetensors"])

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the teachers' test accuracies."""
        return ", ".join(f"test accuracy {one['test_accuracy']:.4f} in {one['seconds']} s" for one in record.values())

    def do(self, run: Run) -> dict[str, Any] | None:
        """Train the stack; return what made each teacher, and how good it is."""
        first = self.recipes[0]
        found = load_splits(_kind(first), first.configuration.length, run.folder)
        train, held, tests = found.small(SMOKE_TESTS) if run.scale == "smoke" else found

        def snapshot(recipe: Recipe, model: Transformer, step: int) -> None:
            made = _made(recipe, run) | {"step": step}
            _write(run, f"{recipe.name}-step{step:05d}", files.rounded(model), made, tests)

        def stop(done: int) -> bool:
            return done % first.checkpoint_every == 0 and run.late

        position = (*multiprocessing.current_process()._identity, 1)[0] - 1
        finished, records = stack.train(
            self.recipes, train, run.folder, held=held, device=run.device, stop=stop, keep=snapshot, position=position
        )
        if finished is None:
            return None
        made = {
            recipe.name: self._measured(run, recipe, model, about, train, tests)
            for recipe, model, about in zip(self.recipes, finished, records, strict=True)
        }
        forget(stack.checkpoint_of(self.recipes, run.folder))
        return made

    def _measured(
        self, run: Run, recipe: Recipe, model: Transformer, about: Mapping[str, Any], train: Examples, tests: Tests
    ) -> dict[str, Any]:
        """Write a finished teacher; return its header: what made it, and how good it is as its file holds it."""
        model = files.rounded(model)
        made = _made(recipe, run) | {
            "seconds": round(about["seconds"] / len(self.recipes)),
            "stack": len(self.recipes),
            "data_sha256": digest_of(_kind(recipe), recipe.configuration.length, run.folder),
            "curve": about["curve"],
        }
        seen = Examples(*(column[:2000] for column in stack.training_set(recipe, train)))
        made["train_accuracy"] = stack.evaluate(model, seen)["accuracy"]
        if recipe.configuration.vocabulary:
            made["tokenizer_sha256"] = tokenizer_digest(run.folder)
        return _write(run, recipe.name, model, made, tests)


def train_jobs(run: Run, only: str = "*", seeds: int = SEEDS, size: int | None = None) -> list[TrainStack]:
    """Return the jobs of the teachers that fit `only` (patterns, by commas), in stacks of at most `size`.

    A CPU gains nothing from stacking what keeps it busy (1), a GPU takes all that fit together.
    """
    wanted = tuple(recipe for recipe in chosen(recipes_of(run.scale), only) if recipe.seed < seeds)
    size = size or (1 if run.device == "cpu" else max(1, len(wanted)))
    parts = [TrainStack(tuple(part)) for part in stacks(wanted, size)]
    if any(one.configuration.vocabulary for part in parts for one in part.recipes):
        coder(run.folder)  # learnt once, before those that read it begin
    return parts


def _whole(recipe: Recipe, run: Run) -> dict[str, Any] | None:
    """Return a teacher's record; None where it isn't whole, or reads by another tokeniser than stands beside it."""
    found = kept(run, recipe.name, _identity(recipe, run))
    if found is None or "tokenizer_sha256" not in found:
        return found
    if tokenizer_digest(run.folder) != found["tokenizer_sha256"]:
        say(
            f"{run.folder / TOKENIZER} is not the tokeniser that {recipe.name} was trained with: making the teacher "
            "again."
        )
        return None
    return found


def _identity(recipe: Recipe, run: Run) -> dict[str, Any]:
    return {"scale": run.scale, "recipe": asdict(recipe)}


def _made(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Return what made a weight file: scale, seed, recipe, device, versions."""
    return {
        "scale": run.scale,
        "seed": recipe.seed,
        **{setting: getattr(recipe, setting) for setting in SETTINGS},
        "random_labels": recipe.random_labels,
        **provenance(run.device),
    }


def _write(run: Run, name: str, model: Transformer, made: dict[str, Any], tests: Tests) -> dict[str, Any]:
    """Measure a model on the test sets and write it; return what its header says."""
    for test, data in tests.items():
        made |= {f"{test}_{measure}": value for measure, value in stack.evaluate(model, data).items()}
    files.save(model, run.folder / f"{name}.safetensors", made, torch.float16)
    return made


def _kind(recipe: Recipe) -> str:
    return "text" if recipe.configuration.vocabulary else "image"


def describe(recipes: Sequence[Recipe]) -> list[str]:
    """Return a line on each teacher: how long it is trained, and what that costs."""
    teraflops = {one: one.steps * one.batch * one.configuration.flops * 3e-12 for one in recipes}
    return [f"{one.name}: {one.steps} steps of {one.batch}, {size:.0f} Tflop" for one, size in teraflops.items()]
