"""The Transformers that equations are calibrated to: their Flows, split by split, heads in one order across depth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import models, text
from .capture import flow_of
from .datasets import fashion_mnist, fashion_mnist_subset, movie_reviews
from .examples import fair_order
from .flow import Flow
from .lattice import Chain, Grid, Lattice
from .models import Transformer
from .nulls import align_heads
from .pretrained import minilm
from .project import data_file

# So many calibration examples decide the order of heads; validation comes after them.
ALIGNING = 256
VALIDATION = 128
MINILM = "minilm"
PRETRAINED_TOKENS = 32
Inputs = Tensor | dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Subject:
    """A Transformer under study, with its data.

    `inputs(split, count)` gives at most so many of the split's inputs: "train" (the same fair sample
    each time), "calibration" or "heldout", with their classes. `orders` permute each layer's heads so
    that they continue the layer before; found on calibration examples alone.
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

    def flow(self, inputs: Inputs, keep: str | torch.device = "cpu", batch: int = 256) -> Flow:
        """Return the Flow on inputs, with aligned heads and the lattice."""
        flow = flow_of(self.model, inputs, keep=keep, batch=batch)
        if self.orders:
            flow = flow.permute_heads(self.orders)
        return replace(flow, lattice=self.lattice)

    def of(self, split: str, count: int | None = None, keep: str | torch.device = "cpu") -> Flow:
        """Return the Flow on a split's first so many examples."""
        return self.flow(self.inputs(split, count)[0], keep)

    def readout(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the classes' logits that the subject's own head gives a last state (batch, tokens, width)."""
        if not isinstance(self.model, Transformer):
            raise TypeError(f"{self.name} has no classes: its head can't be asked.")
        return self.model.readout(state, None if mask is None or bool(mask.all()) else mask)

    def untrained(self) -> "Subject":
        """Return the same architecture with its library's own initialisation, heads as they are."""
        if isinstance(self.model, Transformer):
            device = next(self.model.parameters()).device
            made = Transformer(self.model.configuration, int(self.name[-1])).eval().to(device)
        else:
            made = minilm(trained=False).model.eval()
        return replace(self, model=made, orders=())

    def share(self, parameters: int) -> float:
        """Return a number of parameters as a share of the subject's blocks'."""
        return parameters / sum(value.numel() for value in blocks_of(self.model).parameters())


def blocks_of(model: nn.Module) -> nn.Module:
    """Return the part of a model that an equation stands for: its layers."""
    return model.blocks if isinstance(model, Transformer) else model.encoder.layer  # type: ignore[union-attr]


def subject(name: str, folder: Path | None = None, device: str = "cpu") -> Subject:
    """Return a teacher by name, from a folder of weights where it is there, else from `data/weights`.

    "minilm" is the pretrained encoder, in the post-norm form. Heads are aligned on `ALIGNING` calibration
    examples.
    """
    if name == MINILM:
        return of_minilm(device)
    path = None if folder is None else folder / f"{name}.safetensors"
    if path is None or not path.exists():
        path = data_file(f"weights/{name}.safetensors")
    return of_teacher(name, models.load(path)[0].to(device))


def of_teacher(name: str, model: Transformer) -> Subject:
    """Return the subject of a small teacher: pictures or texts as its configuration says."""
    made = model.configuration
    side = made.side // made.patch
    lattice = Chain(made.length, causal=made.causal) if made.vocabulary else Grid(side, side)
    inputs = _texts(made.length) if made.vocabulary else _pictures
    form = made.placement
    found = Subject(name, model, lattice, made.width, made.heads, made.layers, inputs, form=form)
    return replace(found, orders=tuple(align_heads(found.of("calibration", ALIGNING))))


def of_minilm(device: str = "cpu") -> Subject:
    """Return the pretrained encoder, reading the first `PRETRAINED_TOKENS` pieces of the same reviews."""
    encoder = minilm()
    configuration: Any = encoder.model.config

    def inputs(split: str, count: int | None) -> tuple[Inputs, Tensor]:
        wanted = _text_split(split)
        reviews = [review for review in movie_reviews() if text.split_of(review.text) == wanted]
        chosen = [reviews[number] for number in fair_order(len(reviews))[:count].tolist()]
        rows = encoder.encode([text.clean(review.text) for review in chosen], PRETRAINED_TOKENS)
        return rows, torch.tensor([review.label for review in chosen])

    lattice, heads = Chain(PRETRAINED_TOKENS), configuration.num_attention_heads
    found = Subject(
        MINILM,
        encoder.model.eval().to(device),
        lattice,
        configuration.hidden_size,
        heads,
        configuration.num_hidden_layers,
        inputs,
        epsilon=configuration.layer_norm_eps,
        form="post",
    )
    return replace(found, orders=tuple(align_heads(found.of("calibration", ALIGNING))))


def _pictures(split: str, count: int | None) -> tuple[Inputs, Tensor]:
    data = fashion_mnist(True) if split == "train" else fashion_mnist_subset(split)
    chosen = fair_order(len(data.labels))[:count] if split == "train" else slice(count)
    return data.images[chosen], data.labels[chosen]


def _texts(length: int) -> Callable[[str, int | None], tuple[Inputs, Tensor]]:
    def inputs(split: str, count: int | None) -> tuple[Inputs, Tensor]:
        data = _windows(_text_split(split), length)
        chosen = fair_order(len(data.labels))[:count]
        tokens = data.tokens[chosen]
        return {"inputs": tokens, "mask": tokens != text.PAD}, data.labels[chosen]

    return inputs


def _text_split(split: str) -> str:
    """Return the reviews' split: they have none for calibration, so the validation reviews are it."""
    return {"calibration": "validation", "heldout": "test"}.get(split, split)


@cache
def _windows(split: str, length: int) -> text.Windows:
    return text.windows(split, length)


@dataclass(frozen=True, eq=False)
class Bank:
    """A subject's Flows on many examples in half precision: what a calibration draws its batches from.

    Running the subject anew for every batch would cost a third of each step. Memory: for 49 tokens, width
    64, six layers of four heads 160 kB an example.
    """

    states: Tensor  # (examples, layers + 1, tokens, width)
    attention: Tensor  # (examples, layers, heads, tokens, tokens)
    mask: Tensor  # (examples, tokens)
    labels: Tensor  # (examples,)
    lattice: Lattice
    causal: bool = False

    @classmethod
    def of(cls, subject: Subject, split: str, count: int, device: str | torch.device = "cpu") -> "Bank":
        """Run a subject on so many examples of a split and keep its Flows on a device."""
        inputs, labels = subject.inputs(split, count)
        states, attention, masks, causal = [], [], [], False
        for start in range(0, len(labels), 250):
            flow = subject.flow(_part(inputs, slice(start, start + 250)), device)
            states.append(torch.stack(flow.states, 1).half())
            attention.append(torch.stack(flow.attention, 1).half())
            assert flow.mask is not None
            masks.append(flow.mask)
            causal = flow.causal
        parts = torch.cat(states), torch.cat(attention), torch.cat(masks), labels.to(device)
        return cls(*parts, subject.lattice, causal)

    def draw(self, generator: torch.Generator, batch: int) -> tuple[Flow, Tensor]:
        """Return a batch drawn with replacement, as a Flow in single precision, and its classes."""
        chosen = torch.randint(0, len(self.labels), (batch,), generator=generator).to(self.states.device)
        return self.flow(chosen), self.labels[chosen]

    def flow(self, chosen: Tensor | slice) -> Flow:
        """Return the Flow of chosen examples."""
        attention = self.attention[chosen].float()
        # Halves round: rows sum to 1 again, but for padding, whose rows may hold anything.
        attention = attention / attention.sum(-1, keepdim=True).clamp_min(1e-6)
        states = self.states[chosen].float().unbind(1)
        return Flow(states, attention.unbind(1), self.mask[chosen], self.causal, lattice=self.lattice)


def _part(inputs: Inputs, chosen: slice) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: value[chosen] for name, value in inputs.items()}
    return inputs[chosen]
