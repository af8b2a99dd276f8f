"""The three pretrained models as the atlas sees them: where their tokens live, what they read, and their twins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pdelens.attention.capture import flow_of
from pdelens.flow import Flow
from pdelens.lattice import Chain, Grid, Lattice

from .. import fetch
from . import models

Inputs = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A pretrained model, its untrained twin (the same architecture as its library initialises it) and its lattice.

    `package` holds the weights; `known` prepares inputs; `trained` and `twin` are the stacks of layers alone. Each
    `group` of examples in a row counts as one: the two squares of one photograph.
    """

    short: str
    package: fetch.Package
    known: Any = field(repr=False)
    trained: nn.Module = field(repr=False)
    twin: nn.Module = field(repr=False)
    lattice: Lattice
    group: int = 1


def load(twin_seed: int = 1) -> dict[str, Subject]:
    """Return MiniLM (32 tokens), SmolLM2 (64) and DINOv2 (16 x 16 patches), by name.

    Of the language model the layers alone are kept: its vocabulary is not asked. Its first token is special, since it
    is where such models put attention that they have no use for (Xiao et al. 2023, arXiv 2309.17453).
    """
    text, twin = models.minilm(), models.minilm(trained=False, seed=twin_seed)
    found = {"MiniLM": Subject("minilm", fetch.MINILM, text, text.model, twin.model, Chain(30, special=(1, 1)))}
    language, twin = models.smollm2(), models.smollm2(trained=False, seed=twin_seed)
    bodies: list[Any] = [language.model, twin.model]
    lattice = Chain(63, special=1, causal=True)
    found["SmolLM2"] = Subject("smollm2", fetch.SMOLLM2, language, bodies[0].model, bodies[1].model, lattice)
    image, other = models.dinov2(), models.dinov2(trained=False, seed=twin_seed)
    grid = Grid(16, 16, special=1)
    found["DINOv2"] = Subject("dinov2", fetch.DINOV2, image, image.model, other.model, grid, group=2)
    return found


def openings(subject: Subject, texts: Sequence[str], count: int, generator: torch.Generator) -> Inputs:
    """Return the first tokens of so many random texts that are long enough to need no padding.

    Looks at twelve times as many texts as are wanted; raises `ValueError` where too few of them are long enough.
    """
    tokens = subject.lattice.tokens
    order = torch.randperm(len(texts), generator=generator).tolist()
    some = [texts[place] for place in order[: 12 * count]]
    long = [text for text, n in zip(some, subject.known.lengths(some), strict=True) if n >= tokens]
    if len(long) < count:
        raise ValueError(f"{count} texts of {tokens} tokens were asked for, of which there are {len(long)}.")
    return subject.known.encode(long[:count], tokens)


def captured(
    subjects: Mapping[str, Subject], inputs: Mapping[str, Inputs], counts: Mapping[str, tuple[int, int]], device: str
) -> dict[tuple[str, str], tuple[Flow, Flow]]:
    """Return the Flows of every model and its twin, by (name, `trained` or `twin`): calibration and held out.

    `counts` says how many examples of each model's inputs come first and are for calibration. What follows is small
    enough for the processor, to which the models come back.
    """
    found = {}
    for name, subject in subjects.items():
        for state in ("trained", "twin"):
            model = getattr(subject, state)
            flow = flow_of(model, inputs[name], batch=16, device=device)
            found[name, state] = flow.split(counts[name][0])
            model.cpu()
    return found
