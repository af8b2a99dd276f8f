"""Which layer ran when: a stack's layers as a pass went through them, also where they ran more than once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from .call import CaptureError

# Torch's own layers attend in the order of axes that their states have.
_TORCH_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(eq=False)
class Stack:
    """A container whose children are layers. `mask` and `key_mask`: real tokens, as the modules around it were told."""

    name: str
    depth: int
    mask: Tensor | None = None
    key_mask: Tensor | None = None


@dataclass(eq=False)
class Seen:
    """One call of attention and what the reader kept of it.

    `mask` and `causal` say which query may see which key, as in `AttentionCall`; `known` is False where the module kept
    that to itself. `real` (batch, keys), where the call itself was told of padding.
    """

    path: tuple["Step", ...]
    kept: Any
    cross: bool
    shape: tuple[int, int, int, int]  # batch, heads, queries, keys
    device: torch.device
    mask: Tensor | None = None
    causal: bool = False
    known: bool = True
    real: Tensor | None = None
    sequence_first: bool = False


@dataclass(eq=False)
class Step:
    """One layer that ran once, after the one `before`: what entered and left it, its calls; `place` is its depth."""

    run: "Run"
    layer: int
    place: int
    module: nn.Module
    before: "Step | None" = None
    entered: Tensor | None = None
    left: Tensor | None = None
    calls: list[Seen] = field(default_factory=list)

    def count(self, cross: bool) -> int:
        """Return how often it attended to its own sequence, or across to another."""
        return sum(call.cross == cross for call in self.calls)


@dataclass(eq=False)
class Run:
    """A stack's layers, each once, in the order in which they ran; `runs` of a first one are those that deepen it."""

    stack: Stack
    parent: Step | None
    mask: Tensor | None
    key_mask: Tensor | None
    steps: list[Step] = field(default_factory=list)
    calls: list[Seen] = field(default_factory=list)
    head: "Run" = None  # type: ignore[assignment]  # itself, if not given
    runs: list["Run"] = field(default_factory=list)

    def __post_init__(self):
        if self.head is None:
            self.head = self
        self.head.runs.append(self)

    @property
    def deep(self) -> list[Step]:
        """All the layers that the state went through, those of the runs that go on where this one ended included."""
        return [step for run in self.runs for step in run.steps]


class Runs:
    """The runs of one forward pass, as they happen.

    A layer that is entered again begins another run of its stack. It deepens the run before where it takes up what
    that one put out (layers used several times, stages of a few blocks), and is a pass of its own otherwise (one
    encoder, two inputs).
    """

    def __init__(self) -> None:
        self.all: list[Run] = []
        self.running: list[Step] = []

    def enter(self, stack: Stack, layer: int, module: nn.Module, state: Tensor | None) -> Step:
        """Note that a layer begins."""
        parent = self.running[-1] if self.running else None
        run = next((run for run in reversed(self.all) if run.stack is stack and run.parent is parent), None)
        if run is None or any(step.layer == layer for step in run.steps):
            before = self._before(stack, parent, state)
            head = None if before is None else before.head
            run = Run(stack, parent, stack.mask, stack.key_mask, head=head)  # type: ignore[arg-type]
            self.all.append(run)
        deep = run.head.deep
        step = Step(run, layer, len(deep), module, before=deep[-1] if deep else None)
        run.steps.append(step)
        self.running.append(step)
        return step

    def leave(self, state: Tensor | None) -> Step:
        """Note that the layer begun last ends, and what it puts out."""
        step = self.running.pop()
        step.left = state
        return step

    def _before(self, stack: Stack, parent: Step | None, state: Tensor | None) -> Run | None:
        """Return the run whose output a new one takes up."""
        if state is None:
            return None
        for run in reversed(self.all):
            sisters = parent and run.parent and parent.run.head is run.parent.run.head
            last = run.steps[-1].left
            if run.calls and (run.stack is stack or sisters) and last is not None and same(last, state):
                return run
        return None


def same(one: Tensor, other: Tensor) -> bool:
    """Say whether two tensors hold the same values, without a look where they are one."""
    if one.shape != other.shape or one.device != other.device:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)


@dataclass(frozen=True, eq=False)
class Depth:
    """A row of layers that attend alike: its name, its steps in order, and each one's call, if there is one."""

    name: str
    steps: list[Step]
    calls: list[Seen]
    notes: tuple[str, ...] = ()

    @property
    def run(self) -> Run:
        """The run that it begins with."""
        return self.steps[0].run


def depths_of(runs: Sequence[Run], wanted: Sequence[int] | None, level: int = 0) -> list[list[Depth]]:
    """Return, for each outermost run whose layers attend alike, its self-attention and its cross-attention.

    Alike is once each, or once beside once across. What lies inside such a layer (T5 keeps its sublayers in a list of
    their own) is not taken apart. Raises `CaptureError` where layers don't attend alike, or one that is `wanted` isn't
    there.
    """
    found: list[list[Depth]] = []
    heads = [run for run in runs if run.head is run and _level(run) == level and any(one.calls for one in run.runs)]
    for part in (part for head in heads for part in _of_one_shape(head.runs)):
        steps = [step for run in part for step in run.steps]
        name = common_name([run.stack.name for run in part])
        kinds = {(step.count(cross=False), step.count(cross=True)) for step in steps}
        if len(kinds) == 1 and kinds <= {(1, 0), (1, 1), (0, 1)}:
            chosen = chosen_steps(steps, wanted, name)
            sides = [cross for cross in (False, True) if chosen[0].count(cross)]
            found.append([_side(name, chosen, cross, len(sides) > 1) for cross in sides])
            continue
        deeper = depths_of([run for run in runs if _inside(run, steps)], wanted, level + 1)
        if not deeper:
            raise CaptureError(
                f"the layers of {name!r} called attention {sorted(sum(kind) for kind in kinds)} times each, so a "
                "layer's one map is not defined: capture a part of the model with one kind of layer, or use "
                "attention=None."
            )
        found.extend(deeper)
    return _noted(found)


def _side(name: str, steps: list[Step], cross: bool, both: bool) -> Depth:
    """Return the calls of a row of layers across to another sequence, or those within its own."""
    calls = [next(call for call in step.calls if call.cross == cross) for step in steps]
    return Depth(f"{name} cross" if cross and both else name, steps, calls)


def _noted(found: list[list[Depth]]) -> list[list[Depth]]:
    """Say of what ran several times in one pass, each time on another input, that these are its examples."""
    times = Counter(depth.name for sides in found for depth in sides)

    def noted(depth: Depth) -> Depth:
        if times[depth.name] == 1:
            return depth
        note = (
            f"{depth.name!r} ran {times[depth.name]} times in one forward pass, each time on another input than it had "
            "put out before: the examples of one run follow those of the other."
        )
        return replace(depth, notes=(note,))

    return [[noted(depth) for depth in sides] for sides in found]


def oriented(states: list[Tensor], depth: Depth) -> list[Tensor]:
    """Return states as (batch, tokens, width), as the calls of attention know batch and tokens.

    Raises `CaptureError` where both are one number and attention that has tokens first doesn't say which is which.
    """
    call = depth.calls[0]
    if not states or not call.sequence_first:
        return states
    batch, tokens = call.shape[0], call.shape[2]
    if batch == tokens and not isinstance(depth.steps[0].module, _TORCH_LAYERS):
        raise CaptureError(
            f"{depth.name!r} attends sequence first, and there are as many examples as tokens, {tokens}, so which of a "
            "state's axes counts tokens is not known: use another number of examples."
        )
    crossed = tuple(states[0].shape[:2]) == (tokens, batch)
    return [state.transpose(0, 1) for state in states] if crossed else states


def unread_depths(runs: Sequence[Run], wanted: Sequence[int] | None) -> list[list[Depth]]:
    """Return the longest row of layers, where no attention could be read."""
    whole = [run for run in runs if any(step.entered is not None for step in run.steps)]
    if not whole:
        return []
    longest = max(whole, key=lambda run: len(run.steps))
    return [[Depth(longest.stack.name, chosen_steps(longest.steps, wanted, longest.stack.name), [])]]


def chosen_steps(steps: list[Step], wanted: Sequence[int] | None, name: str) -> list[Step]:
    """Return the steps at the depths wanted (all, if not given; negative ones count from the end)."""
    wrong = [layer for layer in wanted or () if not -len(steps) <= layer < len(steps)]
    if wrong:
        raise CaptureError(f"layer {wrong[0]} was asked for, but {name!r} has {len(steps)} layers.")
    if wanted is None:
        return steps
    return [steps[place] for place in sorted({layer % len(steps) for layer in wanted})]


def common_name(names: Sequence[str]) -> str:
    """Return what dotted names begin with, up to a dot; the names themselves where they share nothing."""
    distinct = list(dict.fromkeys(names))
    columns = zip(*(name.split(".") for name in distinct), strict=False)
    shared = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, columns)]
    return ".".join(shared) or " + ".join(distinct)


def _level(run: Run) -> int:
    return 0 if run.parent is None else 1 + _level(run.parent.run)


def _inside(run: Run, steps: list[Step]) -> bool:
    """Say whether a run happened inside one of these steps."""
    return run.parent is not None and (run.parent in steps or _inside(run.parent.run, steps))


def _of_one_shape(runs: list[Run]) -> list[list[Run]]:
    """Split runs where heads or tokens change: those make no one Flow."""

    def shape(run: Run) -> Any:
        return {(call.shape, call.cross) for step in run.steps for call in step.calls}

    groups = [[runs[0]]]
    for before, run in pairwise(runs):
        if shape(before) == shape(run):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def continues_a_cache(call: Seen) -> bool:
    """Say whether self-attention looked at more keys than its queries: those of earlier steps, kept in a cache."""
    return not call.cross and call.known and call.shape[3] > call.shape[2]
