"""How often classifiers give the same name, and how often they would if they knew less of each other."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor


def same_name(names: Tensor) -> np.ndarray:
    """Return the share of pairs of classifiers that give each example the same name, (examples,).

    `names` (classifiers, examples) are numbers of classes.

    >>> same_name(torch.tensor([[0, 1], [0, 1], [0, 2]])).round(2).tolist()
    [1.0, 0.33]
    """
    pairs = [(names[a] == names[b]).double() for a, b in _pairs(names)]
    return torch.stack(pairs).mean(0).numpy()


def same_by_chance(names: Tensor, classes: int) -> float:
    """Return how often pairs would agree if each drew its names blindly, each as often as it gives them.

    >>> same_by_chance(torch.tensor([[0, 1], [1, 0]]), 2)
    0.5
    """
    shares = _counted(names, classes) / names.shape[1]
    return float(np.mean([float(shares[a] @ shares[b]) for a, b in _pairs(names)]))


def same_by_class(names: Tensor, labels: Tensor, classes: int) -> float:
    """Return how often pairs would agree if, within each true class, they named independently of each other.

    Each keeps its own table of confusions. What is left beyond it is owed to the example. `labels` (examples,).

    >>> names, labels = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 1]]), torch.tensor([0, 0, 1, 1])
    >>> same_by_class(names, labels, 2)
    0.75
    """
    if len(labels) != names.shape[1]:
        raise ValueError(f"{names.shape[1]} names and {len(labels)} classes were given: each example needs both.")
    found = 0.0
    for kind in labels.unique():
        of = labels == kind
        found += float(of.double().mean()) * same_by_chance(names[:, of], classes)
    return found


def confusion(names: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """Return the share of each true class that is given each name, (classes, classes), mean over classifiers."""
    rows = [_counted(names[:, labels == kind], classes) / (labels == kind).sum() for kind in range(classes)]
    return torch.stack(rows).mean(1).numpy()


def _pairs(names: Tensor) -> list[tuple[int, int]]:
    if names.ndim != 2 or len(names) < 2:
        raise ValueError(f"names of shape {tuple(names.shape)} were given: two classifiers or more are compared.")
    return list(combinations(range(len(names)), 2))


def _counted(names: Tensor, classes: int) -> Tensor:
    """Return how often each classifier gives each name, (classifiers, classes)."""
    return torch.stack([torch.bincount(row, minlength=classes) for row in names]).double()
