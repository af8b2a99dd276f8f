"""The map from the state at one depth to the state at another, of a Transformer or of an equation, and its Jacobian."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..attention.call import CaptureError
from ..attention.hooks import hooked
from ..attention.recording import fits
from ..attention.runs import Depth, Run, depths_of, oriented, unread_depths
from ..flow import padding_of
from ..pde.equation import PDE
from ..pde.integrate import integrate
from .jacobian import Jacobian


class FlowMap(Jacobian):
    """The map `F` from states at depth `start` to states at depth `end`, and its Jacobian `J = dF / du` at `point`.

    `point` (batch, tokens, width) is the state at `start`, `value` is `F(point)`; padded tokens are left out of both.
    Made by `flow_map`. Products and their cost: `Jacobian`.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor, mask: Tensor | None, depths: tuple):
        self.function, self.depths = function, depths
        super().__init__(lambda u: self.real(function(u)), point, mask)

    @property
    def value(self) -> Tensor:
        """`F(point)`, (batch, tokens, width)."""
        return self.output.detach()

    @property
    def length(self) -> float:
        """How much depth-time lies between: one unit a layer."""
        return float(self.depths[1] - self.depths[0])

    @torch.no_grad()
    def __call__(self, u: Tensor) -> Tensor:
        """Return `F(u)` for other states of the same shape, padded tokens zero."""
        if u.shape != self.point.shape:
            raise ValueError(f"states of shape {tuple(u.shape)} were given for {tuple(self.point.shape)}.")
        return self.real(self.function(u.to(self.point)))


def flow_map(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    start: float = 0,
    end: float | None = None,
    *,
    mask: Tensor | None = None,
    which: str | None = None,
    method: str = "rk4",
    substeps: int = 4,
) -> FlowMap:
    """Return the map from the state at depth `start` to the state at depth `end` (the last, if not given).

    Of a Transformer (anything that `capture` takes) on `inputs`, a tensor or tensors by argument name: depths are whole
    layers, the state at depth l enters layer l; `which` names its stack where it has several. Of a `PDE`, `inputs` is
    the state (batch, tokens, width) at depth-time `start`, with `mask` and the steps `method` and `substeps` (as
    `integrate` has them). Raises `ValueError` for depths that are not there, `CaptureError` where no layers are found.
    Cost: one forward and one backward pass; the layers in front of `start` run too.

    >>> from pdelens.models import Configuration, Transformer
    >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    >>> found = flow_map(Transformer(Configuration(layers=3)), images, 1)
    >>> found.depths, tuple(found.jvp(torch.ones_like(found.point)).shape)
    ((1, 3), (2, 49, 64))
    """
    if isinstance(model, PDE):
        return _solution_map(model, inputs, start, end, mask, method, substeps)
    layers = Layers(model, inputs, which)
    _doors.whole("start", start, 0)
    _doors.whole("end", layers.depth if end is None else end)
    first, last = int(start), layers.depth if end is None else int(end)
    if not first < last <= layers.depth:
        raise ValueError(f"depths {first} to {last} were asked for: 0 <= start < end <= {layers.depth} is wanted.")
    point, real = layers.state(first), layers.mask if mask is None else mask
    return FlowMap(lambda u: layers.run(u, first, last), point, padding_of(real), (first, last))


def _solution_map(pde: PDE, u, start, end, mask, method: str, substeps: int) -> FlowMap:
    u = pde.checked(_doors.state("inputs", u))
    for name, value in {"start": start, "end": pde.depth if end is None else end}.items():
        _doors.real(name, value)
    first, last = float(start), float(pde.depth if end is None else end)
    if not 0 <= first < last <= pde.depth:
        raise ValueError(f"depth-times {first:g} to {last:g} were asked for: 0 <= start < end <= {pde.depth:g}.")
    mask = padding_of(_doors.mask("mask", mask, u.shape[:-1]))

    def function(state: Tensor) -> Tensor:
        return integrate(pde, state, [first, last], method, substeps, mask=mask).states[-1]

    return FlowMap(function, u, mask, (first, last))


class _Reached(Exception):
    """The state at the depth that was asked for is known: the rest need not run."""


class Layers:
    """A model's layers in the order in which one input passes them; runs a part of them from another state."""

    def __init__(self, model: nn.Module, inputs: Tensor | Mapping[str, Tensor], which: str | None = None):
        _doors.is_a("model", model, nn.Module, "a torch module, or an equation")
        given = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
        for name, value in given.items():
            _doors.tensor(name or "inputs", value, "one example a row")
        self.model, self.inputs = model, given
        found: list[Depth] = []

        def finished(runs: list[Run]) -> None:
            try:
                sides = depths_of(runs, None)
            except CaptureError:
                sides = []
            found.extend(side[0] for side in sides or unread_depths(runs, None))

        with torch.no_grad(), hooked(model, lambda *about: (None, None), maps=False) as hooks:
            hooks.finished = finished
            self._forward()
        wanted = [one for one in found if fits(one.name, which)]
        if len(wanted) != 1:
            names = ", ".join(repr(one.name) for one in found) or "none"
            raise CaptureError(
                f"one row of layers is wanted, but {len(wanted)} fit: say which= (what ran, in its order: {names})."
            )
        (self.found,) = wanted
        self.modules = [step.module for step in self.found.steps]
        self.mask = self.found.run.mask
        entered = [step.entered for step in self.found.steps]
        assert all(state is not None for state in entered)
        self._entered: list[Tensor] = entered  # type: ignore[assignment]
        turned = oriented(self._entered, self.found) if self.found.calls else self._entered
        self._crossed = turned[0].shape != self._entered[0].shape

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.modules)

    def state(self, depth: int) -> Tensor:
        """Return the state that enters a layer, (batch, tokens, width)."""
        return self._turned(self._entered[depth])

    def run(self, u: Tensor, start: int, end: int) -> Tensor:
        """Return the state at depth `end` of a model whose state at depth `start` is u."""
        with self._watched({start: u}, end) as states:
            try:
                self._forward()
            except _Reached:
                pass
        return states[end]

    def states(self) -> tuple[list[Tensor], Any]:
        """Return the states at every depth, as the graph has them, and what the model puts out."""
        with self._watched({}, None) as states:
            output = self._forward()
        return [states[depth] for depth in range(self.depth + 1)], output

    def _forward(self) -> Any:
        return self.model(self.inputs[""]) if "" in self.inputs else self.model(**self.inputs)

    def _turned(self, state: Tensor) -> Tensor:
        return state.transpose(0, 1) if self._crossed else state

    @contextmanager
    def _watched(self, given: Mapping[int, Tensor], until: int | None) -> Iterator[dict[int, Tensor]]:
        """Put states in at some depths, and note every state from there to the depth `until`."""
        states: dict[int, Tensor] = {}
        entered = iter(range(self.depth))

        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            place = next(entered)
            if place in given:
                args, kwargs = _replaced(args, kwargs, self._turned(given[place]))
            state = _state_of(args, kwargs)
            if torch.is_grad_enabled() and not state.requires_grad:
                # Where nothing before it learns (frozen weights, states as inputs), the graph begins here.
                state = state.detach().requires_grad_()
                args, kwargs = _replaced(args, kwargs, state)
            states[place] = self._turned(state)
            if place == until:
                raise _Reached
            return args, kwargs

        def after(module: nn.Module, args: tuple, output: Any) -> None:
            place = max(states) + 1
            if place == self.depth:
                parts = (output,) if isinstance(output, Tensor) else tuple(output)
                states[place] = self._turned(_state_of(parts, {}))
                if place == until:
                    raise _Reached

        with ExitStack() as undo:
            for module in dict.fromkeys(self.modules):
                undo.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                undo.callback(module.register_forward_hook(after).remove)
            undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            yield states


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()


def _state_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    given: list[Any] = [kwargs.get("hidden_states"), *args, *kwargs.values()]
    return next(value for value in given if _is_state(value))


def _replaced(args: tuple, kwargs: dict, state: Tensor) -> tuple[tuple, dict]:
    """Put a state where a layer's own one is, of its type."""
    if _is_state(kwargs.get("hidden_states")):
        return args, {**kwargs, "hidden_states": state.to(kwargs["hidden_states"].dtype)}
    for place, value in enumerate(args):
        if _is_state(value):
            return (*args[:place], state.to(value.dtype), *args[place + 1 :]), kwargs
    name = next(name for name, value in kwargs.items() if _is_state(value))
    return args, {**kwargs, name: state.to(kwargs[name].dtype)}
