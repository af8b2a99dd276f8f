"""A model's layers as they run: their states at every depth, and what they make of other states."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..attention.call import CaptureError
from ..attention.hooks import hooked
from ..attention.masks import sight_of
from ..attention.recording import fits
from ..attention.runs import Depth, Run, depths_of, oriented, unread_depths
from .jacobian import real_tokens, refuse_underivable


class _Reached(Exception):
    """The state at the depth that was asked for is known: the rest need not run."""


class Layers:
    """A model's layers in the order in which one input passes them; runs a part of them from another state."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor | Mapping[str, Tensor],
        which: str | None = None,
        mask: Tensor | None = None,
    ):
        _doors.is_a("model", model, nn.Module, "a torch module, or an equation")
        given = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
        self.inputs = {name: _doors.tensor(name or "inputs", one, "one example a row") for name, one in given.items()}
        self.model = model
        self.found = self._found(which)
        self.modules = [step.module for step in self.found.steps]
        states = [*(step.entered for step in self.found.steps), self.found.steps[-1].left]
        if any(state is None for state in states):
            raise CaptureError(f"a layer of {self.found.name!r} takes or makes no state (batch, tokens, width).")
        self._states: list[Tensor] = states  # type: ignore[assignment]
        turned = oriented(self._states, self.found) if self.found.calls else self._states
        self._crossed = turned[0].shape != self._states[0].shape
        refuse_underivable(turned[0])
        if not turned[0].numel():
            raise ValueError(f"states of shape {tuple(turned[0].shape)} were met: at least one example is wanted.")
        self.mask = real_tokens(self._told(turned[0]) if mask is None else mask, turned[0])
        for depth in range(self.depth):
            state = self.state(depth)
            if not bool(torch.isfinite(state if self.mask is None else state[self.mask]).all()):
                raise ValueError(f"the state at depth {depth} holds NaN or infinity: look at the layer before it.")

    def _told(self, state: Tensor) -> Tensor | None:
        """Return which tokens are real, as the model and its attention were told."""
        run = self.found.run
        told = sight_of(self.found.calls, run.mask, run.key_mask).mask if self.found.calls else run.mask
        return told if told is not None and told.shape == state.shape[:2] else None

    def _found(self, which: str | None) -> Depth:
        """Run the model once, and return the one row of layers that was asked for."""
        found: list[Depth] = []

        def finished(runs: list[Run]) -> None:
            try:
                sides = depths_of(runs, None)
            except CaptureError:
                sides = []
            found.extend(side[0] for side in sides or unread_depths(runs, None))

        with torch.no_grad(), hooked(self.model, lambda *about: (None, None), maps=False) as hooks:
            hooks.finished = finished
            try:
                self._forward()
            except CaptureError:
                raise
            except (RuntimeError, TypeError, LookupError, AttributeError) as error:
                given = ", ".join(
                    f"{name or 'one tensor'} {tuple(one.shape)} {one.dtype}" for name, one in self.inputs.items()
                )
                raise ValueError(f"the model did not run on {given or 'nothing'}: {error}") from error
        wanted = [one for one in found if fits(one.name, which)]
        if len(wanted) != 1:
            names = ", ".join(repr(one.name) for one in found) or "none"
            raise CaptureError(
                f"one row of layers is wanted, but {len(wanted)} fit: say which= (what ran, in its order: {names})."
            )
        return wanted[0]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.modules)

    def state(self, depth: int) -> Tensor:
        """Return the state at a depth, (batch, tokens, width)."""
        return self._turned(self._states[depth])

    def run(self, u: Tensor, start: int, end: int) -> Tensor:
        """Return the state at depth `end` of a model whose state at depth `start` is u."""
        # What comes before has no part in the derivative: its graph would only take memory.
        with torch.set_grad_enabled(torch.is_grad_enabled()), self._watched({start: u}, end) as states:
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
        entered, wanted = iter(range(self.depth)), torch.is_grad_enabled()

        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            place = next(entered)
            if place in given:
                torch.set_grad_enabled(wanted)
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
            torch.set_grad_enabled(wanted and not given)
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
