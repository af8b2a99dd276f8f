"""Other equations through the same layers: coefficients, or fields, that move linearly from each layer to the next."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.modes import Modes
from pdelens.pde.terms import Term

WAYS = ("held", "weights", "fields")


class LinearModes(Modes):
    """A coefficient that is `c_l` at depth-time l, linear in between, and constant after the last: `(1 - s) c_l + s
    c_{l+1}` at `t = l + s`.

    >>> steps = Modes(torch.zeros(()), 2.0, 2, "piecewise")
    >>> _ = steps.coefficients.data.copy_(torch.tensor([1.0, 3.0]))
    >>> [float(LinearModes(steps)(t).detach()) for t in (0.0, 0.25, 1.0, 1.75)]
    [1.0, 1.5, 3.0, 3.0]
    """

    def __init__(self, steps: Modes):
        super().__init__(steps.coefficients[0], steps.depth, steps.modes, "piecewise", steps.parts)
        self.coefficients = torch.nn.Parameter(steps.coefficients.detach().clone())

    def forward(self, t: float | Tensor) -> Tensor:
        """Return c(t)."""
        first, second, share = _between(float(t) * self.modes / self.depth, self.modes)
        return torch.lerp(self.coefficients[first], self.coefficients[second], share)


class Blended(Term):
    """A term whose value is `(1 - s) f_l(u) + s f_{l+1}(u)` at depth-time `t = l + s`, and f_L-1 in the last layer.

    `inner` has piecewise coefficients, one piece a unit of depth-time. Unlike a blend of weights this depends on the
    fields alone: heads and hidden units may stand in any order. Cost: twice the inner term's.
    """

    def __init__(self, inner: Term, layers: int):
        super().__init__()
        self.inner, self.layers = inner, layers

    def frozen(self, t: float, mask: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Return the blend at depth-time t as a function of the state."""
        first, second, share = _between(t, self.layers)
        before, after = (self.inner.frozen(float(layer), mask) for layer in (first, second))
        return before if not share else lambda u: torch.lerp(before(u), after(u), share)

    def weights(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the blend of the two layers' attention, (..., heads, tokens, tokens): at a layer's own depth, its."""
        first, second, share = _between(t, self.layers)
        before, after = (self.inner.weights(float(layer), u, mask) for layer in (first, second))  # type: ignore[operator]
        return torch.lerp(before, after, share)


def through_layers(pde: TransformerPDE, way: str) -> PDE:
    """Return an equation whose Lie steps of size 1 are the same layers as those of `pde`.

    `pde` is a pre-norm Transformer's own equation (`pdelens.equation_of`). `way`: `held` (as it is, each layer's
    coefficients constant over its unit of depth-time), `weights` (every coefficient linear from l to l + 1) or
    `fields` (the terms' values linear). After the last layer all are constant.
    """
    if way not in WAYS:
        raise ValueError(f"way {way!r} was given: choose from {', '.join(WAYS)}.")
    if pde.form != "pre":
        raise ValueError(f"a {pde.form}-norm equation was given: a pre-norm Transformer's is wanted.")
    if way == "held":
        return pde
    if way == "fields":
        terms = {name: Blended(term, int(pde.depth)) for name, term in pde.active().items()}
        return PDE(terms, pde.lattice, pde.depth)
    found = copy.deepcopy(pde)
    for module in list(found.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Modes):
                setattr(module, name, LinearModes(child))
    return found


def reordered_units(pde: TransformerPDE, seed: int = 0) -> TransformerPDE:
    """Return the same equation with every layer's heads and hidden units in an order drawn for it.

    No layer's map changes by it, and neither do `held` and `fields`; the way `weights` leads elsewhere.
    """
    found, generator = copy.deepcopy(pde), torch.Generator().manual_seed(seed)
    attention, reaction = found.terms["attention"], found.terms["reaction"]
    with torch.no_grad():
        for layer in range(int(pde.depth)):
            _reorder_heads(attention, layer, torch.randperm(attention.heads, generator=generator))  # type: ignore[arg-type]
            first, second = (part.coefficients[layer] for part in (reaction.first, reaction.second))  # type: ignore[union-attr]
            order = torch.randperm(len(first), generator=generator)
            first.copy_(first[order])
            second[:, :-1].copy_(second[:, :-1][:, order])
    return found


def _reorder_heads(attention: Term, layer: int, order: Tensor) -> None:
    """Put one layer's heads in an order, in queries, keys and values and in what mixes them."""
    inputs, output = attention.inputs.coefficients[layer], attention.output.coefficients[layer]  # type: ignore[union-attr]
    width, heads = len(output), len(order)
    channels = torch.arange(width).view(heads, -1)[order].flatten()
    inputs.copy_(inputs.view(3, width, -1)[:, channels].flatten(0, 1))
    output[:, :-1].copy_(output[:, :-1][:, channels])


def _between(t: float, layers: int) -> tuple[int, int, float]:
    """Return the layers between which a depth-time lies, and how far it is from the first to the second.

    >>> _between(1.25, 3), _between(2.5, 3)
    ((1, 2, 0.25), (2, 2, 0.5))
    """
    first = min(max(int(t + 1e-9), 0), layers - 1)
    return first, min(first + 1, layers - 1), min(max(t - first, 0.0), 1.0)
