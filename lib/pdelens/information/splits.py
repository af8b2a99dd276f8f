"""Which examples a probe is fitted to and which it is read on: whole groups, no class unseen, and shuffles alike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .. import _doors

# A part of the training examples that chooses the penalty, and stops a network.
_VALIDATION = 0.2
_LEAST = 20


@dataclass(frozen=True, eq=False)
class Parts:
    """Numbers of classes and of groups (examples,), and the row numbers of each part."""

    labels: np.ndarray
    groups: np.ndarray
    train: np.ndarray
    inner: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    classes: int


def parted(x: np.ndarray, target: Any, groups: Any, held_out: Any, random: np.random.Generator) -> Parts:
    """Return the parts of examples with states x (examples, features), or say what no probe can be fitted to.

    `held_out` is a share, or booleans (examples,); a fifth of the rest is for validation.
    """
    examples = len(x)
    labels = _numbers("target", target, examples, "whole numbers (examples,), the classes,")
    classes = int(labels.max()) + 1
    if classes < 2:
        raise ValueError("target has one class: at least two are wanted, for one tells nothing.")
    if examples < max(_LEAST, 2 * classes):
        raise ValueError(
            f"{examples} examples of {classes} classes were given: at least {max(_LEAST, 2 * classes)} are wanted, "
            "20 and two a class; leave out rare classes."
        )
    if bool((x == x[0]).all()):
        raise ValueError("states are the same in every example: they tell nothing of any target.")
    number = np.arange(examples)
    if groups is not None:
        number = _numbers("groups", groups, examples, "whole numbers (examples,), those of the groups,")
    held = _held(labels, number, held_out, random)
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    _refuse_split(labels, number, train, test, classes)
    _, own = np.unique(number[train], return_inverse=True)
    apart = split(labels[train], own, _VALIDATION, random)
    if not apart.any():
        raise ValueError("The training examples are too few to choose a penalty by: give more groups of examples.")
    return Parts(labels, number, train, train[~apart], train[apart], test, classes)


def _held(labels: np.ndarray, groups: np.ndarray, held_out: Any, random: np.random.Generator) -> np.ndarray:
    if isinstance(held_out, Tensor | np.ndarray | list | tuple):
        mask = _doors.tensor("held_out", held_out, "a share, or booleans (examples,),")
        if tuple(mask.shape) != labels.shape:
            raise ValueError(f"held_out of shape {tuple(mask.shape)} was given: a share, or {labels.shape}, is wanted.")
        held = _doors.booleans("held_out", mask, "booleans (examples,)").cpu().numpy()
        both = np.intersect1d(groups[held], groups[~held])
        if len(both):
            raise ValueError(f"held_out parts {len(both)} of the groups: a group is wanted on one side.")
        return held
    _doors.real("held_out", held_out, above=0.0)
    if held_out >= 1:
        raise ValueError(f"held_out={held_out} was given: a share below 1 is wanted, the rest is trained on.")
    return split(labels, groups, float(held_out), random)


def _refuse_split(labels: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray, classes: int) -> None:
    if len(np.unique(groups[test])) < 2:
        raise ValueError(
            "Fewer than two groups of examples are held out: give more groups, or hold out a larger share."
        )
    unseen = np.setdiff1d(np.arange(classes), labels[train])
    if len(unseen):
        raise ValueError(f"{len(unseen)} of {classes} classes have no training example: leave them out.")


def _numbers(name: str, values: Any, examples: int, wanted: str) -> np.ndarray:
    """Return whole numbers (examples,) as 0, 1, ... in their order."""
    values = _doors.tensor(name, values, wanted)
    if values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name} of type {values.dtype} was given: {wanted} is wanted; use {name}.long().")
    if tuple(values.shape) != (examples,):
        raise ValueError(f"{name} of shape {tuple(values.shape)} was given: ({examples},) is wanted, one an example.")
    return np.unique(values.detach().cpu().numpy(), return_inverse=True)[1]


def split(labels: np.ndarray, groups: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Return which examples are held out, booleans (examples,): about a `share` of every class, of groups whole.

    `labels` are numbers of classes, `groups` numbers of groups, (examples,) each; a group is counted to the class of
    its first example. A class that would be held out whole is given back one of its groups, so that the rest has
    every class.

    >>> labels = np.arange(8) % 2
    >>> held = split(labels, np.arange(8), 0.25, np.random.default_rng(0))
    >>> sorted(labels[held].tolist())
    [0, 1]
    """
    count = int(groups.max()) + 1
    first = np.full(count, -1)
    first[groups[::-1]] = np.arange(len(groups))[::-1]
    order = np.lexsort((random.random(count), labels[first]))
    steps = np.floor(share * np.arange(count + 1) + random.random())
    held = np.zeros(count, bool)
    held[order] = np.diff(steps) > 0
    for label in np.unique(labels):
        members = groups[labels == label]
        if held[members].all():
            held[members[0]] = False
    return held[groups]


def shuffled(groups: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return a random order of the examples in which those of a group stay together and in order, (examples,).

    What belongs to one group depends on it; only whole groups may change places. Groups of one size do so exactly,
    others are laid end to end.

    >>> shuffled(np.array([0, 0, 1, 1, 2, 2]), np.random.default_rng(0)).reshape(3, 2).tolist()
    [[4, 5], [0, 1], [2, 3]]
    """
    places = np.argsort(groups, kind="stable")
    size = np.bincount(groups)
    start = np.cumsum(size) - size
    taken = np.concatenate([places[start[one] : start[one] + size[one]] for one in random.permutation(len(size))])
    order = np.empty_like(taken)
    order[places] = taken
    return order
