"""A pretrained model read as steps of an ordinary differential equation: its layers stepped more finely, or further.

A layer takes a state u to u + f(u). Sub-stepped, it becomes several steps of `du/dt = f(u)`, each a part of one unit of
depth-time long: Euler's method on the frozen layer. Nothing is trained.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Stepped(nn.Module):
    """Layers that go only part of their way, `u + length (layers(u) - u)`; all else is the layers' own."""

    def __init__(self, layers: Sequence[nn.Module], length: float):
        super().__init__()
        self.layers, self.length = nn.ModuleList(layers), length

    def forward(self, state: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the last layer returns, the state moved by a part of the way."""
        out, found = state, None
        for layer in self.layers:
            found = layer(out, *args, **kwargs)
            out = found[0] if isinstance(found, tuple) else found
        moved = state + self.length * (out - state)
        return (moved, *found[1:]) if isinstance(found, tuple) else moved

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that the stack around asks its layers for (a kind of mask, say)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layers = super().__getattr__("layers")
            assert isinstance(layers, nn.ModuleList)
            return getattr(layers[0], name)


@contextmanager
def substepped(
    model: nn.Module,
    name: str,
    steps: int,
    *,
    length: float | None = None,
    layers: Sequence[int] | None = None,
    together: bool = False,
) -> Iterator[nn.Module]:
    """Give the model with layers of one stack stepped several times, as it was afterwards.

    `name` is the stack's (`nn.ModuleList`) in the model. Each of the `layers` (all, if not given) makes `steps` steps
    of `length` units of depth-time: 1 / steps if not given, so that depth stays what it was and its steps get finer;
    with 1 it is repeated whole. With `together` the chosen layers, which follow one another, are one field: a step is a
    part of the way through all of them (a loop over a block, Chen et al. 2026, arXiv 2605.23872). Whoever captures the
    model sees each step as a layer. Raises `ValueError` for what is no stack, no step, or no layer of it. Cost: as many
    passes of a layer as it has steps.

    >>> import torch
    >>> class Doubles(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layers = nn.ModuleList([nn.Linear(1, 1, bias=False)])
    ...         self.layers[0].weight.data.fill_(2.0)
    ...     def forward(self, u):
    ...         for layer in self.layers:
    ...             u = layer(u)
    ...         return u
    >>> model = Doubles()
    >>> with substepped(model, "layers", 4):
    ...     float(model(torch.ones(1)))  # (1 + 1/4)^4, on the way to e
    2.44140625
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    stack = getattr(parent, name.rpartition(".")[2], None)
    if not isinstance(stack, nn.ModuleList) or not len(stack):
        raise ValueError(f"{name!r} of {type(model).__name__} is no stack of layers.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r} was given: a whole number, at least 1, is wanted.")
    chosen = sorted(set(range(len(stack)) if layers is None else layers))
    if wrong := sorted(set(chosen) - set(range(len(stack)))):
        raise ValueError(f"layer {wrong[0]} was asked for, but {name!r} has {len(stack)} layers.")
    if together and chosen != list(range(min(chosen, default=0), min(chosen, default=0) + len(chosen))):
        raise ValueError(f"layers {chosen} were asked to step together: they must follow one another.")
    refined = nn.ModuleList(_refined(stack, steps, 1 / steps if length is None else length, chosen, together))
    configurations: dict[int, Any] = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    counted = [one for one in configurations.values() if getattr(one, "num_hidden_layers", None) == len(stack)]
    try:
        setattr(parent, name.rpartition(".")[2], refined)
        for one in counted:  # some models run so many of their layers as their configuration says
            one.num_hidden_layers = len(refined)
        yield model
    finally:
        setattr(parent, name.rpartition(".")[2], stack)
        for one in counted:
            one.num_hidden_layers = len(stack)


def _refined(stack: nn.ModuleList, steps: int, part: float, chosen: list[int], together: bool) -> list[nn.Module]:
    """Return the stack's layers, those that are chosen replaced by so many steps of each, or of all of them."""
    found: list[nn.Module] = []
    for place, layer in enumerate(stack):
        if place not in chosen:
            found.append(layer)
        elif not together:
            found += [Stepped([layer], part) for _ in range(steps)]
        elif place == chosen[0]:
            found += [Stepped([stack[other] for other in chosen], part) for _ in range(steps)]
    return found


@contextmanager
def reordered(model: nn.Module, name: str, order: Sequence[int]) -> Iterator[nn.Module]:
    """Give the model with the layers of one stack in another order, as it was afterwards: a null for its steps."""
    parent, last = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    stack = getattr(parent, last)
    if sorted(order) != list(range(len(stack))):
        raise ValueError(f"the order {list(order)} was given, but {name!r} has {len(stack)} layers, each wanted once.")
    try:
        setattr(parent, last, nn.ModuleList([stack[place] for place in order]))
        yield model
    finally:
        setattr(parent, last, stack)
