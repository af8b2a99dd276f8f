"""The Transformers that equations are calibrated to: their Flows, split by split, heads in one order across depth."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pdelens import models
from pdelens.agreement.matching import align_heads
from pdelens.agreement.nulls import nearest_inputs
from pdelens.attention.capture import flow_of
from pdelens.flow import Flow, padding_of
from pdelens.lattice import Chain, Grid, Lattice
from pdelens.models import Transformer

from ..data import reviews as film_reviews
from ..data import tokens as text
from ..data.fashion_mnist import fashion_mnist, fashion_mnist_subset
from ..data.reviews import movie_reviews
from ..data.splits import fair_order
from ..jobs import Run
from ..paths import data_file
from ..pretrained.models import dinov2, minilm, upscaled

# So many calibration examples decide the order of heads; validation comes after them.
ALIGNING = 256
VALIDATION = 128
MINILM, DINOV2 = "minilm", "dinov2"
PRETRAINED = (MINILM, DINOV2)
PRETRAINED_TOKENS = 32
# Pixels of an upscaled picture: 49 patches.
PRETRAINED_SIDE = 98
Inputs = Tensor | dict[str, Tensor]
# More pieces than any teacher's vocabulary has.
_PIECES = 32_000


@dataclass(frozen=True, eq=False)
class Teacher:
    """A Transformer under study, with its data.

    `inputs(split, count)` gives at most so many of the split's inputs: "train" (the same fair sample each time),
    "calibration" or "heldout", with their classes. `orders` permute each layer's heads so that they continue the
    layer before; found on calibration examples alone. `embed` gives the embedding that a pretrained model is used for,
    (batch, width), from a last state and its mask.
    """

    name: str
    model: nn.Module
    lattice: Lattice
    width: int
    heads: int
    layers: int
    inputs: Callable[[str, int | None], tuple[Inputs, Tensor]]
    orders: tuple[Tensor, ...] = ()
    epsilon: float = 1e-5
    form: str = "pre"
    embed: Callable[[Tensor, Tensor | None], Tensor] | None = None

    def flow(self, inputs: Inputs, keep: str | torch.device = "cpu", batch: int = 256) -> Flow:
        """Return the Flow on inputs, with aligned heads and the lattice."""
        flow = flow_of(self.model, inputs, keep=keep, batch=batch)
        if self.orders:
            flow = flow.permute_heads(self.orders)
        return replace(flow, lattice=self.lattice)

    def of(self, split: str, count: int | None = None, keep: str | torch.device = "cpu") -> Flow:
        """Return the Flow on a split's first so many examples."""
        return self.flow(self.inputs(split, count)[0], keep)

    def nearest(self, split: str = "heldout", count: int | None = None, known: int | None = None) -> Tensor:
        """Return which calibration inputs are nearest to each of a split's (`pdelens.agreement.nulls.nearest_inputs`).

        Pictures are near in their pixels, texts in how often each piece occurs, whatever their length.
        """
        given, calibration = (features(self.inputs(*part)[0]) for part in ((split, count), ("calibration", known)))
        return nearest_inputs(given, calibration)

    def readout(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the classes' logits that the teacher's own head gives a last state (batch, tokens, width)."""
        if not isinstance(self.model, Transformer):
            raise TypeError(f"{self.name} has no classes: its head can't be asked.")
        return self.model.readout(state, padding_of(mask))

    def answers(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the readout's logits, a row for each answer: an example, for language a token with a next one."""
        logits = self.readout(state, mask)
        if logits.ndim == 2:
            return logits
        keep = torch.ones(state.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        return logits[:, :-1][keep[:, 1:]]

    def targets(self, split: str, count: int | None = None) -> Tensor:
        """Return what the answers on a split should be: classes, or for language the next tokens."""
        inputs, labels = self.inputs(split, count)
        if not (isinstance(self.model, Transformer) and self.model.configuration.causal):
            return labels
        assert isinstance(inputs, dict)
        return inputs["inputs"][:, 1:][inputs["mask"][:, 1:].bool()]

    def untrained(self) -> "Teacher":
        """Return the same architecture with its library's own initialisation, heads as they are."""
        if isinstance(self.model, Transformer):
            device = next(self.model.parameters()).device
            made = Transformer(self.model.configuration, int(self.name[-1])).eval().to(device)
        else:
            made = (minilm if self.name == MINILM else dinov2)(trained=False).model.eval()
        return replace(self, model=made, orders=())

    def share(self, parameters: int) -> float:
        """Return a number of parameters as a share of its blocks'."""
        model: Any = self.model
        blocks = model.blocks if isinstance(model, Transformer) else model.encoder.layer
        return parameters / sum(value.numel() for value in blocks.parameters())


def features(inputs: Inputs) -> Tensor:
    """Return what inputs are compared by, (examples, ...): pixels, or shares of pieces (`piece_shares`)."""
    if isinstance(inputs, Tensor):
        return inputs
    tokens = inputs["inputs" if "inputs" in inputs else "input_ids"]
    return text.piece_shares(tokens, inputs["mask" if "mask" in inputs else "attention_mask"], _PIECES)


def teacher_named(name: str, folder: Path | None = None, device: str = "cpu") -> Teacher:
    """Return a teacher by name, from a folder of weights where it is there, else from `data/weights`.

    "minilm" and "dinov2" are the pretrained encoders, of texts (in the post-norm form) and of pictures. Heads are
    aligned on `ALIGNING` calibration examples.
    """
    if name in PRETRAINED:
        return (of_minilm if name == MINILM else of_dinov2)(device)
    path = weights_of(name, folder)
    assert path is not None
    return of_teacher(name, models.load(path)[0].to(device))


def of_teacher(name: str, model: Transformer) -> Teacher:
    """Return a small model as a teacher: of pictures or texts as its configuration says."""
    made = model.configuration
    side = made.side // made.patch
    lattice = Chain(made.length, causal=made.causal) if made.vocabulary else Grid(side, side)
    inputs = _texts(made.length) if made.vocabulary else _pictures
    found = Teacher(name, model, lattice, made.width, made.heads, made.layers, inputs, form=made.placement)
    return replace(found, orders=tuple(align_heads(found.of("calibration", ALIGNING))))


def of_minilm(device: str = "cpu") -> Teacher:
    """Return the pretrained encoder, reading the first `PRETRAINED_TOKENS` pieces of the same reviews."""
    encoder = minilm()
    about: Any = encoder.model.config

    def inputs(split: str, count: int | None) -> tuple[Inputs, Tensor]:
        wanted = _text_split(split)
        reviews = [review for review in movie_reviews() if film_reviews.split_of(review.text) == wanted]
        chosen = [reviews[number] for number in fair_order(len(reviews))[:count].tolist()]
        rows = encoder.encode([film_reviews.clean(review.text) for review in chosen], PRETRAINED_TOKENS)
        return rows, torch.tensor([review.label for review in chosen])

    model, lattice = encoder.model.eval().to(device), Chain(PRETRAINED_TOKENS)
    sizes = about.hidden_size, about.num_attention_heads, about.num_hidden_layers
    settings: dict[str, Any] = {"epsilon": about.layer_norm_eps, "form": "post", "embed": _mean_over_tokens}
    found = Teacher(MINILM, model, lattice, *sizes, inputs, **settings)
    return replace(found, orders=tuple(align_heads(found.of("calibration", ALIGNING))))


def of_dinov2(device: str = "cpu") -> Teacher:
    """Return the pretrained vision Transformer on the same pictures, upscaled to 7 x 7 of its patches."""
    model: Any = dinov2().model.eval().to(device)
    about = model.config

    def inputs(split: str, count: int | None) -> tuple[Inputs, Tensor]:
        pictures, labels = _pictures(split, count)
        assert isinstance(pictures, Tensor)
        return {"pixel_values": upscaled(pictures, PRETRAINED_SIDE)}, labels

    sizes = about.hidden_size, about.num_attention_heads, about.num_hidden_layers
    settings: dict[str, Any] = {"epsilon": about.layer_norm_eps, "embed": lambda u, mask: model.layernorm(u)[:, 0]}
    found = Teacher(DINOV2, model, Grid(7, 7, special=1), *sizes, inputs, **settings)
    return replace(found, orders=tuple(align_heads(found.of("calibration", ALIGNING))))


def _mean_over_tokens(u: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return u.mean(1)
    keep = mask.to(u.dtype)[..., None]
    return (u * keep).sum(1) / keep.sum(1)


def _pictures(split: str, count: int | None) -> tuple[Inputs, Tensor]:
    data = fashion_mnist(True) if split == "train" else fashion_mnist_subset(split)
    chosen = fair_order(len(data.labels))[:count] if split == "train" else slice(count)
    return data.images[chosen], data.labels[chosen]


def _texts(length: int) -> Callable[[str, int | None], tuple[Inputs, Tensor]]:
    def inputs(split: str, count: int | None) -> tuple[Inputs, Tensor]:
        data = _windows(_text_split(split), length)
        chosen = data[fair_order(len(data.labels))[:count]]
        return {"inputs": chosen.tokens, "mask": chosen.mask}, chosen.labels

    return inputs


def _text_split(split: str) -> str:
    """Return the reviews' split: they have none for calibration, so the validation reviews are it."""
    return {"calibration": "validation", "heldout": "test"}.get(split, split)


_windows = cache(text.windows)


# How many held-out, and calibration, examples an equation is evaluated on.
HELD = {"smoke": 16, "book": 192, "full": 1024}


@lru_cache(maxsize=4)
def cached_teacher(name: str, run: Run | None = None) -> Teacher:
    """Return a teacher, kept: who asks again gets the same one (`teacher_named` gives a fresh one).

    From the run's folder and on its device; without one from `data/weights`, on the CPU.
    """
    return teacher_named(name) if run is None else teacher_named(name, run.folder, run.device)


@lru_cache(maxsize=6)
def flow_on(name: str, run: Run, split: str, count: int) -> Flow:
    """Return a teacher's Flow on examples apart, kept; "validation" comes after the aligning calibration examples."""
    teacher = cached_teacher(name, run)
    if split != "validation":
        return teacher.of(split, count, run.device)
    whole = teacher.of("calibration", ALIGNING + count, run.device)
    return whole.select(slice(ALIGNING, None))


def evaluation_flows(name: str, run: Run) -> tuple[Flow, Flow]:
    """Return a teacher's held-out and calibration Flow that its equations and its nulls are evaluated on."""
    return flow_on(name, run, "heldout", HELD[run.scale]), flow_on(name, run, "calibration", HELD[run.scale])


def weights_of(name: str, folder: Path | None = None) -> Path | None:
    """Return the file of a teacher's weights, in a folder or else committed; None for a pretrained one."""
    if name in PRETRAINED:
        return None
    path = None if folder is None else folder / f"{name}.safetensors"
    return path if path is not None and path.exists() else data_file(f"weights/{name}.safetensors")
