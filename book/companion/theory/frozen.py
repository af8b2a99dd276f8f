"""What becomes of a frozen pretrained model whose layers are stepped more finely, further, or in another order."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdelens.agreement.nulls import mean_map
from pdelens.agreement.report import Report, compare
from pdelens.attention.capture import flow_of
from pdelens.flow import Flow

from .substeps import reordered, substepped

STEPS = (2, 4, 8)
# Units of depth-time that a layer crosses in all: 1 is the model's own.
TIMES = (0.8, 0.9, 1.1, 1.5, 2.0)


@dataclass(frozen=True)
class Subject:
    """A frozen model with what it is shown, the name of its stack of layers, and what is read off, by example."""

    model: nn.Module
    stack: str
    inputs: Mapping[str, Tensor]
    read: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]

    def __post_init__(self) -> None:
        # A layer that runs twice would find its own first keys in a cache of the text so far.
        if hasattr(self.model, "config"):
            self.model.config.use_cache = False  # type: ignore[union-attr]

    @property
    def layers(self) -> int:
        """How many layers there are."""
        stack = self.model.get_submodule(self.stack)
        assert isinstance(stack, nn.ModuleList)
        return len(stack)

    def chosen(self, kind: str) -> list[int]:
        """Return the layers of a kind.

        `all`, `inner` (all but two at each end), `middle` and `block` (the middle third), or one by its number.
        """
        if kind in ("middle", "block"):
            return list(range(self.layers // 3, self.layers - self.layers // 3))
        return {"all": list(range(self.layers)), "inner": list(range(2, self.layers - 2))}.get(kind) or [int(kind)]

    def changed(self, kind: str, steps: int = 1, time: float = 1.0) -> AbstractContextManager[nn.Module]:
        """Give the model changed in one way.

        `steps` of all layers of a kind (`chosen`), of a `block` together, cross `time` units of depth-time in all; or
        the middle third stands in another order, drawn with the seed behind `shuffled-`.
        """
        if kind.startswith("shuffled-"):
            order, middle = list(range(self.layers)), self.chosen("middle")
            random = np.random.default_rng(int(kind.partition("-")[2]))
            mixed = middle
            while mixed == middle and len(middle) > 1:  # of two layers every other draw would change nothing
                mixed = random.permutation(middle).tolist()
            order[middle[0] : middle[-1] + 1] = mixed
            return reordered(self.model, self.stack, order)
        about: dict[str, Any] = {"length": time / steps, "layers": self.chosen(kind), "together": kind == "block"}
        return substepped(self.model, self.stack, steps, **about)

    @torch.no_grad()
    def reading(self, kind: str = "all", steps: int = 1, time: float = 1.0) -> Tensor:
        """Return what is read off the model so changed, (examples, ...)."""
        with self.changed(kind, steps, time) as model:
            return self.read(model, self.inputs)

    @torch.no_grad()
    def flow(self, kind: str = "all", steps: int = 1) -> Flow:
        """Return states and attention at the layers' own depths: of several steps of one layer the first, which looks
        at the state that enters it.
        """
        with self.changed(kind, steps) as model:
            found = flow_of(backbone(model), dict(self.inputs), batch=8)
        if steps == 1:
            return found
        refined = set(self.chosen(kind))
        starts = np.cumsum([0, *(steps if layer in refined else 1 for layer in range(self.layers))]).tolist()
        return replace(
            found,
            states=tuple(found.states[place] for place in starts),
            attention=tuple(found.attention[place] for place in starts[:-1]),
            depths=torch.arange(self.layers + 1.0),
            visible=tuple(found.visible[place] for place in starts[:-1]) if found.visible else (),
        )


def stack_of(model: nn.Module) -> str:
    """Return the name of a model's longest list of modules: its layers.

    >>> stack_of(nn.Transformer(8, 2, num_encoder_layers=3, num_decoder_layers=1))
    'encoder.layers'
    """
    stacks = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not stacks:
        raise ValueError(f"{type(model).__name__} holds no list of layers (nn.ModuleList).")
    return max(stacks, key=stacks.__getitem__)


def backbone(model: Any) -> nn.Module:
    """Return a language model's layers without its vocabulary, any other model as it is."""
    return model.model if hasattr(model, "lm_head") else model


def losses(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean loss of the next token in nats, for every example of one length (examples,)."""
    ids = inputs["input_ids"]
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return each.view(len(ids), -1).mean(1)


def mean_embedding(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of an encoder's last states over the real tokens, (examples, width)."""
    states, real = model(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
    return (states * real).sum(1) / real.sum(1)


def class_embedding(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the class token's last state, (examples, width)."""
    return model(**inputs).last_hidden_state[:, 0]


def embedding_kept(found: Tensor, original: Tensor) -> tuple[np.ndarray, float]:
    """Return each embedding's cosine to the model's own about their mean, and the share nearest to their own one.

    What all examples share is taken away first: embeddings of one model lie in a narrow cone, where the cosine of two
    unrelated ones is high. Chance is 0, and 1 / examples.
    """
    centre = original.mean(0)
    ours, theirs = (nn.functional.normalize(x - centre, dim=-1) for x in (found, original))
    cosines = ours @ theirs.T
    own = cosines.argmax(1) == torch.arange(len(found))
    return cosines.diagonal().numpy(), float(own.double().mean())


def kept(found: Tensor, own: Tensor) -> np.ndarray:
    """Return, by example, the change of the loss, or the cosine of the embedding to the model's own (see above)."""
    return (found - own).numpy() if own.ndim == 1 else embedding_kept(found, own)[0]


def attention_kept(found: Flow, original: Flow, calibration: Flow) -> Report:
    """Return how the changed model's attention agrees with its own, beside the `mean map` of other inputs."""
    blind = {"mean map": mean_map(calibration, original)}
    return compare(found, original, blind, calibration=calibration, measures=("cosine", "centred cosine"))


@torch.no_grad()
def bends(subject: Subject) -> Tensor:
    """Return how far every layer's field f turns along its own step, `|f(u + f(u) / 2) - f(u)| / |f(u)|`, (layers,).

    The median over real tokens, at the model's own states. For a small step of a smooth flow it is small: half of the
    relative difference that two half steps make, to any order. 0 where the field is constant.
    """
    stack, found = subject.model.get_submodule(subject.stack), []
    assert isinstance(stack, nn.ModuleList)
    real = subject.inputs.get("attention_mask")

    def watch(layer: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        state, out = args[0], output[0] if isinstance(output, tuple) else output
        middle = layer.forward((state + out) / 2, *args[1:], **kwargs)
        middle = middle[0] if isinstance(middle, tuple) else middle
        turned = (middle - (state + out) / 2 - (out - state)).norm(dim=-1) / (out - state).norm(dim=-1)
        found.append(turned[real.bool()].median() if real is not None else turned.median())

    handles = [layer.register_forward_hook(watch, with_kwargs=True) for layer in stack]
    try:
        backbone(subject.model)(**subject.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)


def one_layer_at_a_time(subject: Subject, steps: int = 2) -> Iterator[Tensor]:
    """Yield what is read off with one layer refined, for every layer."""
    for layer in range(subject.layers):
        yield subject.reading(str(layer), steps)
