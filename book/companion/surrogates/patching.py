"""Does agreement of attention matter? One model run with another's attention, and what it then answers.

Two directions: a Transformer that mixes its own values by given maps, and an equation solved with given maps in place
of its own. Beside every source stand the nulls of `nulls.attention_nulls`, put in likewise.
"""

from collections.abc import ItemsView, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pdelens.attention.substitute import substitute_attention
from pdelens.flow import Flow, finite
from pdelens.models import Transformer
from pdelens.pde.equation import PDE, PostNorm
from pdelens.pde.integrate import integrate
from pdelens.pde.modes import Modes
from pdelens.pde.terms import SelfAttention, Term

Maps = Sequence[Tensor]
# How far a row may be from 1, and how much of it may lie on keys that its query must not see.
_SLACK = 1e-4


@dataclass(frozen=True, eq=False)
class Effect:
    """What a run with given attention answers, beside the Transformer's own run on the same inputs.

    `agreement`: share of places (examples; real tokens where causal) given the same class; `accuracy`: share right
    (NaN without labels); `kept`: that accuracy over the own run's; `divergence`: mean Kullback-Leibler divergence of
    the answers from the own run's, in nats.
    """

    logits: Tensor
    agreement: float
    accuracy: float
    kept: float
    divergence: float


@torch.no_grad()
def substituted_logits(
    model: Transformer,
    inputs: Tensor,
    maps: Flow | Maps | None,
    *,
    mask: Tensor | None = None,
    layers: Sequence[int] | None = None,
    orders: Sequence[Tensor] | None = None,
    batch: int = 250,
) -> Tensor:
    """Return a Transformer's logits, on the CPU, where `layers` (all, if not given) mix values by given maps.

    `maps[l]` (examples, heads, tokens, tokens), or what broadcasts to it, stands for `softmax(Q K^T / sqrt(d))` in
    layer l; maps of layers not named are not looked at. Other layers compute their own attention, from the states
    that the change has reached; without maps (None) all do. `mask` (examples, tokens) is True at real tokens of
    texts. `orders` are those by which the maps' heads were aligned (`Teacher.orders`): they are undone. Raises
    `ValueError` where maps do not fit, do not sum to 1 or look at what must not be seen. Cost: one pass.

    >>> from pdelens.models import Configuration
    >>> model = Transformer(Configuration(layers=2))
    >>> blank = torch.zeros(3, 28, 28, dtype=torch.uint8)
    >>> substituted_logits(model, blank, [torch.full((1, 1, 49, 49), 1 / 49)] * 2).shape
    torch.Size([3, 10])
    """
    given = {} if maps is None else _substitutes(model, inputs, maps, mask, layers, orders)
    device, every, found = next(model.parameters()).device, range(model.configuration.layers), []
    for start in range(0, len(inputs), batch):
        part = slice(start, start + batch)
        keep = None if mask is None else mask[part].to(device)
        parts = [given[layer][part] if layer in given else torch.empty(0) for layer in every]
        with substitute_attention(model, parts, layers=list(given)) if given else nullcontext():
            found.append(model(inputs[part].to(device), keep).cpu())
    return torch.cat(found)


def substitution_effects(
    model: Transformer,
    inputs: Tensor,
    sources: Mapping[str, Flow | Maps],
    labels: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    layers: Sequence[int] | None = None,
    orders: Sequence[Tensor] | None = None,
    batch: int = 250,
) -> dict[str, Effect]:
    """Return by name what putting each source's maps into a Transformer does; "own" is the untouched run.

    Sources are Flows or maps, all with heads in one order (see `substituted_logits`); `labels` has one class an
    example, or one a token where causal, negative where there is none. Cost: one pass a source.
    """
    settings: dict[str, Any] = {"mask": mask, "orders": orders, "batch": batch}
    own = substituted_logits(model, inputs, None, **settings)
    effects = {"own": _effect(own, own, labels, mask)}
    for name, maps in _other(sources):
        effects[name] = _effect(substituted_logits(model, inputs, maps, layers=layers, **settings), own, labels, mask)
    return effects


class GivenAttention(SelfAttention):
    """Self-attention's values and output, mixed by given maps (batch, heads, tokens, tokens), l on [l, l + 1)."""

    symbol = "W A(t) V n(u)"

    def __init__(self, original: SelfAttention, maps: Maps):
        Term.__init__(self)
        self.heads, self.normalise, self.causal = original.heads, original.normalise, original.causal
        self.inputs, self.output, self.maps = original.inputs, original.output, tuple(maps)
        # A coefficient whose value is the layer's number: it tells solvers where the map jumps, so that they
        # look at it anew there and no step reads across.
        self.layer = Modes(torch.zeros(()), len(self.maps), len(self.maps), "piecewise")

    def weights(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the map given for depth-time t, whatever the state."""
        return self.maps[int(self.layer.weights(t).argmax())].to(u)

    def frozen(self, t: float, mask: Tensor | None = None):
        """Return what the given map adds to the residual stream, as a function of u."""
        inputs, output = self.inputs(t), self.output(t)

        def added(u: Tensor) -> Tensor:
            matrix = inputs[2 * u.shape[-1] :].to(u.dtype)  # the stacked rows are queries, keys, values
            (value,) = self._heads(self.normalise(u), matrix[:, :-1], matrix[:, -1])  # (batch, heads, tokens, dim)
            mixed = (self.weights(t, u) @ value).transpose(-3, -2).flatten(-2)  # (batch, tokens, width)
            return F.linear(mixed, output[:, :-1].to(u.dtype), output[:, -1].to(u.dtype))

        return added


@contextmanager
def given_attention(pde: PDE, maps: Maps) -> Iterator[PDE]:
    """Let an equation's attention term use given maps inside a `with` block: `maps[l]` on depth-times [l, l + 1).

    For a `SelfAttention` term, or one inside `PostNorm`; raises `ValueError` where there is none, or where there is
    not one map a unit of depth-time. Values are checked by `integrate_with_attention`.
    """
    maps = _maps_of(maps, int(pde.depth), "the equation")
    holder, key = _attention_place(pde)
    original: Any = holder._modules[key]
    holder._modules[key] = GivenAttention(original, maps)
    try:
        yield pde
    finally:
        holder._modules[key] = original


def integrate_with_attention(
    pde: PDE,
    u0: Tensor,
    maps: Flow | Maps,
    method: str = "lie",
    substeps: int = 1,
    *,
    mask: Tensor | None = None,
    depths: Sequence[float] | None = None,
    **options: Any,
) -> Flow:
    """Solve an equation with given attention: `du/dt = ... + W A_l V n(u) + ...` on depth-times [l, l + 1).

    `maps[l]` (batch, heads, tokens, tokens), or what broadcasts to it, is held constant over layer l, however many
    steps are made there; heads in the equation's order (a teacher's maps in the order it was calibrated to:
    `Teacher.flow`). Returns the Flow at `depths` (0, 1, ..., depth if not given), whose attention is the given one.
    `options` go to `integrate`. The equation's own maps give back its own Flow only at one Lie step a layer and where
    attention is the first active term: after diffusion, or within a refined layer, its own attention is evaluated at
    other states than those at 0, 1, ..., so own maps put in are the control to show beside others.
    """
    if u0.ndim != 3:
        raise ValueError(f"a state of shape {tuple(u0.shape)} was given, but (batch, tokens, width) is wanted.")
    holder, key = _attention_place(pde)
    term: Any = holder._modules[key]
    shape = (u0.shape[0], term.heads, u0.shape[1], u0.shape[1])
    found = _maps_of(maps, int(pde.depth), "the equation")
    given = [_fitting(a, shape, f"attention[{layer}]", mask, term.causal) for layer, a in enumerate(found)]
    with given_attention(pde, given):
        return integrate(pde, u0, depths, method, substeps, mask=mask, **options)


@torch.no_grad()
def equation_effects(
    pde: PDE,
    model: Transformer,
    inputs: Tensor,
    sources: Mapping[str, Flow | Maps],
    labels: Tensor | None = None,
    method: str = "lie",
    substeps: int = 1,
    *,
    mask: Tensor | None = None,
    depths: Sequence[float] | None = None,
    **options: Any,
) -> dict[str, Effect]:
    """Return by name what putting each source's maps into an equation does, read out by the Transformer's own head.

    "own" is the equation with its own attention at the same steps. Every effect, "own" too, is beside the
    *Transformer's* answers, so `kept` is a share of the Transformer's accuracy. All at once: give batches that fit.
    Sources and labels as in `substitution_effects`; `depths`, between which `substeps` are made, may crowd where the
    equation is stiff. Cost: one solve a source.
    """
    u0, target = model.embedding(inputs), model(inputs, mask)
    options |= {"mask": mask, "depths": depths}
    flows = {"own": integrate(pde, u0, method=method, substeps=substeps, **options)}
    for name, maps in _other(sources):
        flows[name] = integrate_with_attention(pde, u0, maps, method, substeps, **options)
    return {n: _effect(model.readout(flow.states[-1], mask), target, labels, mask) for n, flow in flows.items()}


def _attention_place(pde: PDE) -> tuple[nn.Module, str]:
    """Return the module that holds an equation's self-attention, and the name it has there."""
    for name, term in pde.active().items():
        holder, key = (term, "inner") if isinstance(term, PostNorm) else (pde.terms, name)
        if isinstance(holder._modules[key], SelfAttention):
            return holder, key
    raise ValueError(f"an equation without self-attention was given: it has {', '.join(pde.active()) or 'nothing'}.")


def _effect(logits: Tensor, own: Tensor, labels: Tensor | None, mask: Tensor | None) -> Effect:
    if labels is not None and labels.shape != own.shape[:-1]:
        raise ValueError(f"labels of shape {tuple(labels.shape)} were given, but {tuple(own.shape[:-1])} is wanted.")
    keep = mask.bool().to(own.device) if own.ndim == 3 and mask is not None else own.new_ones(own.shape[:-1]).bool()
    ours, theirs = logits[keep].double(), own[keep].double()  # (places, classes)
    accuracy = kept = float("nan")
    if labels is not None:
        truth = labels.to(own.device)[keep]
        right, before = ((x.argmax(-1) == truth)[truth >= 0].double().mean() for x in (ours, theirs))
        accuracy, kept = float(right), float(right / before)
    logs, reference = ours.log_softmax(-1), theirs.log_softmax(-1)
    divergence = float((reference.exp() * (reference - logs)).sum(-1).mean())
    return Effect(logits, float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()), accuracy, kept, divergence)


def _other(sources: Mapping[str, Flow | Maps]) -> ItemsView[str, Flow | Maps]:
    if "own" in sources:
        raise ValueError("a source named 'own' was given, but that is the untouched run: choose another name.")
    return sources.items()


def _substitutes(model: Transformer, inputs: Tensor, maps: Flow | Maps, mask, layers, orders) -> dict[int, Tensor]:
    """Return the maps to put in, by layer: checked, in full shape, heads in the model's own order."""
    about, depth = model.configuration, model.configuration.layers
    chosen = range(depth) if layers is None else [layer % depth for layer in layers if -depth <= layer < depth]
    if not chosen or (layers is not None and len(chosen) < len(layers)):
        raise ValueError(f"layers {list(layers or ())} were asked for of {depth}: name at least one, and only such.")
    tokens = inputs.shape[1] if about.vocabulary else about.tokens
    shape = (len(inputs), about.heads, tokens, tokens)
    given = _maps_of(maps, depth, "the model")
    given = given if orders is None else _unordered(given, orders)
    return {layer: _fitting(given[layer], shape, f"attention[{layer}]", mask, about.causal) for layer in chosen}


def _maps_of(maps: Flow | Maps, layers: int, who: str) -> Maps:
    found = maps.attention if isinstance(maps, Flow) else maps
    if len(found) != layers:
        raise ValueError(f"{len(found)} maps were given, but {who} has {layers} layers: one a layer is wanted.")
    return found


def _unordered(maps: Maps, orders: Sequence[Tensor]) -> list[Tensor]:
    """Return maps with their heads back in the model's own order; maps of one head for all have none."""
    if len(orders) != len(maps):
        raise ValueError(f"{len(orders)} orders of heads were given for {len(maps)} layers: one a layer is wanted.")
    pairs = zip(maps, orders, strict=True)
    return [a if a.ndim != 4 or a.shape[1] == 1 else a[:, torch.argsort(order).to(a.device)] for a, order in pairs]


def _fitting(given: Tensor, shape: tuple[int, ...], name: str, mask: Tensor | None, causal: bool) -> Tensor:
    """Return a map in the shape wanted; refuse rows that don't sum to 1 or look at what must not be seen."""
    if mask is not None and mask.shape != (shape[0], shape[2]):
        raise ValueError(f"the mask has shape {tuple(mask.shape)}, but ({shape[0]}, {shape[2]}) is wanted.")
    try:
        found = given.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} has shape {tuple(given.shape)}, but {shape} (or 1) is wanted.") from None
    if not finite(given):
        raise ValueError(f"{name} holds values that are not finite: look at the run that made it.")
    real = (torch.ones(shape[0], shape[2]) if mask is None else mask).bool().to(given.device)
    allowed = real[:, None, None, :].expand(-1, 1, shape[2], -1)
    allowed = allowed.tril() if causal else allowed
    total, seen = (part.sum(-1).transpose(1, 2)[real] for part in (found.detach(), found.detach() * allowed))
    if float((total - 1).abs().max()) > _SLACK:
        raise ValueError(f"{name} has rows summing to {float(total.min()):.4g} ... {float(total.max()):.4g}, not to 1.")
    hidden = float((total - seen).abs().max())
    if hidden > _SLACK:
        raise ValueError(f"{name} puts up to {hidden:.3g} of a row on padding or later tokens: see `Flow.allowed`.")
    return found
