"""Whose states are measured: teachers at moments of their training, on inputs that they have or have not seen."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pdelens import models
from pdelens.attention.capture import flow_of
from pdelens.flow import Flow
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE

from ..data import tokens
from ..data.fashion_mnist import fashion_mnist
from ..data.splits import Examples, coder, fair_order, load_splits
from ..surrogates.evaluate import rolled_out
from ..teachers.recipes import Recipe
from ..teachers.stack import training_set
from ..theory.token_influence import STEPS

BATCH = 256


@dataclass(frozen=True, eq=False)
class Sample:
    """Inputs with their labels, and the group (a review, a picture) that each is of: (examples, ...) each."""

    inputs: Tensor
    labels: Tensor
    groups: Tensor

    def given(self) -> Tensor | dict[str, Tensor]:
        """Return the inputs as a Transformer takes them: texts with their mask."""
        if self.inputs.dtype == torch.uint8:
            return self.inputs
        return {"inputs": self.inputs, "mask": self.inputs != tokens.PAD}


def held_out(configuration: Configuration, count: int, folder: Path) -> Sample:
    """Return so many examples that no teacher was trained on, a fair sample; texts are coded as a folder says."""
    if configuration.vocabulary:
        data = tokens.windows("test", configuration.length, coder=coder(folder))
        columns = data.tokens, data.labels, data.reviews
    else:
        pictures = fashion_mnist(False)
        columns = pictures.images, pictures.labels, torch.arange(len(pictures.labels))
    order = fair_order(len(columns[1]))[:count]
    return Sample(*(column[order] for column in columns))


def memorised(recipe: Recipe, count: int, folder: Path) -> Sample:
    """Return what a random-label twin was trained on, with the labels that it was given; each a group of its own."""
    configuration = recipe.configuration
    if configuration.vocabulary:
        data = load_splits("text", configuration.length, folder).train
    else:
        data = Examples(*fashion_mnist(True))
    inputs, labels = (column[:count] for column in training_set(recipe, data))
    return Sample(inputs, labels, torch.arange(len(labels)))


def moments(recipe: Recipe, folder: Path) -> dict[int, Path | None]:
    """Return the weights after each step that was kept, the last one with them; None before the first step."""
    found: dict[int, Path | None] = {0: None}
    found |= {step: folder / f"{recipe.name}-step{step:05d}.safetensors" for step in recipe.snapshots}
    return found | {recipe.steps: folder / f"{recipe.name}.safetensors"}


def trained_there(recipe: Recipe, folder: Path) -> bool:
    """Say whether a teacher's training has ended in a folder, and all its moments are there."""
    return all(path is None or path.exists() for path in moments(recipe, folder).values())


def model_at(recipe: Recipe, path: Path | None) -> Transformer:
    """Return a teacher at a moment; with no path before its first step."""
    return recipe.untrained().eval() if path is None else models.load(path)[0]


@torch.no_grad()
def flow_at(model: Transformer, sample: Sample) -> Flow:
    """Return the states on a sample, without attention maps."""
    return flow_of(model, sample.given(), attention=None, batch=BATCH)


def solved(pde: PDE, reference: Flow) -> Flow:
    """Return an equation's states at whole depths from the reference's embedding alone, by the steps of `STEPS`."""
    whole = [STEPS.index(float(depth)) for depth in range(int(pde.depth) + 1)]
    parts = []
    for part in _batches(reference):
        states = rolled_out(pde, part, depths=STEPS, method="rk4").states
        parts.append([states[at] for at in whole])
    states = tuple(torch.cat(each) for each in zip(*parts, strict=True))
    return replace(reference, states=states, attention=(), visible=())


def solver_error(pde: PDE, reference: Flow, few: int, **how: Any) -> float:
    """Return how far `solved` ends from the solution by `how`, over its movement, on the first few examples."""
    flow = reference.select(slice(few))
    exact, stepped = rolled_out(pde, flow, **how).states, solved(pde, flow).states
    moved = (exact[-1] - exact[0])[flow.mask].norm()
    return float((stepped[-1] - exact[-1])[flow.mask].norm() / moved)


def _batches(flow: Flow) -> Iterator[Flow]:
    for start in range(0, len(flow.states[0]), BATCH):
        yield flow.select(slice(start, start + BATCH))
