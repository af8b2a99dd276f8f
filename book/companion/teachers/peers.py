"""Networks without attention that have as many parameters as the image teacher, trained by its own recipe."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdelens.pde.loop import Loop

from ..data.splits import Examples
from . import stack
from .recipes import Recipe

# Widths with which each has the image teacher's number of parameters, to half a per cent.
_DENSE, _HIDDEN = 239, 179
_SIDE = 28


def dense(classes: int = 10) -> nn.Module:
    """Return a perceptron with three hidden layers on pixels, (examples, 28, 28) in [0, 1]."""
    widths = (_SIDE**2, _DENSE, _DENSE, _DENSE)
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(_DENSE, classes))


def convolutional(classes: int = 10) -> nn.Module:
    """Return four convolutions of 3 x 3, each of the first three followed by pooling, and a hidden layer."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, _SIDE))]
    for a, b in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(64, 128, 3, padding=1), nn.GELU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128 * 9, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, classes))


def trained(make: Callable[[], nn.Module], recipe: Recipe, train: Examples) -> nn.Module:
    """Return a network trained on pictures as a recipe says: its batches, steps, rates, decay, smoothing, clipping.

    `make` builds it, with the recipe's seed for its first weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = make().train()
    # As for the teachers: matrices decay, biases are left alone.
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak_rate, betas=(0.9, 0.98))
    loop = Loop(model, optimizer, {"name": recipe.name}, recipe.steps, recipe.peak_rate, label=f"peer of {recipe.name}")
    for _, (_, inputs, labels) in zip(loop, stack.batches(recipe, train, 0), strict=False):
        loss = F.cross_entropy(model(_shown(inputs)), labels, label_smoothing=recipe.label_smoothing)
        loop.descend(loss, lambda: nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, test: Examples, batch: int = 250) -> float:
    """Return the share of pictures that a network names rightly."""
    pairs = zip(test.inputs.split(batch), test.labels.split(batch), strict=True)
    hits = sum(int((model(_shown(inputs)).argmax(-1) == labels).sum()) for inputs, labels in pairs)
    return hits / len(test.labels)


def _shown(inputs: Tensor) -> Tensor:
    return inputs.float() / 255
