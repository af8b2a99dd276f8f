"""The Flow: what moves through depth, whether a Transformer or a PDE moved it."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _doors
from .files import read_tensors, write_tensors
from .lattice import Lattice


@dataclass(frozen=True, eq=False)
class Flow:
    """Hidden states at each depth and the attention that acted between them.

    `states[l]` of shape (batch, tokens, width) enters layer l, l = 0 ... L-1; `states[L]` leaves the last layer before
    any final norm. `attention[l]` of shape (batch, heads, queries, keys) is evaluated at `states[l]` and its rows sum
    to 1. `mask` of shape (batch, tokens) is True at real tokens (all, if not given); padded rows and keys are left out
    of every measure. `causal` says that no token sees a later one. `depths` are the states' places in depth-time, one
    unit a layer. `lattice` says where tokens live (None: nowhere in particular). `notes` are warnings of whatever made
    the Flow. Either sequence of tensors may be empty. `key_mask` (batch, keys) belongs to cross-attention, whose keys
    are another sequence's tokens. `visible[l]` (batch, 1 or heads, queries, keys), one a layer, is True where a query
    may see a key, where that is less than padding and causality leave (windows, packed texts). Raises `ValueError`
    where shapes disagree, values are not finite or rows don't sum to 1. Cost: one look at every value.

    >>> flow = Flow(states=[torch.zeros(2, 5, 8)] * 3, attention=[torch.full((2, 4, 5, 5), 0.2)] * 2)
    >>> flow
    Flow(2 layers, 2 examples, 5 tokens, 4 heads, width 8)
    """

    states: tuple[Tensor, ...] = ()
    attention: tuple[Tensor, ...] = ()
    mask: Tensor = None  # type: ignore[assignment]  # all real, if not given
    causal: bool = False
    depths: Tensor = None  # type: ignore[assignment]  # 0 ... L, if not given
    lattice: Any = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    key_mask: Tensor | None = None
    visible: tuple[Tensor, ...] = field(default=(), repr=False)

    def __post_init__(self):
        for name in ("states", "attention", "visible"):
            object.__setattr__(self, name, _series(name, getattr(self, name)))
        if not self.states and not self.attention:
            raise ValueError("a Flow without states and without attention was asked for: give at least one.")
        self._check_shapes()
        shape = (self.examples, self.tokens)
        device = (self.states or self.attention)[0].device
        mask = torch.ones(shape, dtype=torch.bool, device=device) if self.mask is None else self.mask
        object.__setattr__(self, "mask", _doors.mask("mask", mask, shape))
        if self.key_mask is not None:
            keys = (self.examples, self.attention[0].shape[-1] if self.attention else self.key_mask.shape[-1])
            object.__setattr__(self, "key_mask", _doors.mask("key_mask", self.key_mask, keys))
        depths = torch.arange(self.layers + 1.0) if self.depths is None else self.depths
        object.__setattr__(self, "depths", self._checked_depths(depths))
        object.__setattr__(self, "notes", tuple(self.notes) if isinstance(self.notes, tuple | list) else self.notes)
        self._check_circumstances()
        self._check_values()

    @property
    def layers(self) -> int:
        """Number of layers L."""
        return len(self.attention) if self.attention else len(self.states) - 1

    @property
    def examples(self) -> int:
        """Number of examples."""
        return (self.states or self.attention)[0].shape[0]

    @property
    def tokens(self) -> int:
        """Number of tokens, special ones and padding included."""
        return self.states[0].shape[1] if self.states else self.attention[0].shape[-2]

    @property
    def heads(self) -> int:
        """Number of heads (0 where no attention was kept)."""
        return self.attention[0].shape[1] if self.attention else 0

    @property
    def padding(self) -> Tensor | None:
        """The mask where it leaves any token out, else None: what solvers take, and what costs them nothing."""
        return padding_of(self.mask)

    def allowed(self, layer: int = 0) -> Tensor:
        """Return which query may see which key in a layer, (batch, 1 or heads, queries, keys)."""
        if self.visible:
            return self.visible[layer]
        keys = self.mask if self.key_mask is None else self.key_mask
        allowed = keys[:, None, None, :].expand(-1, 1, self.tokens, -1)
        return allowed.tril() if self.causal else allowed

    def select(self, examples) -> "Flow":
        """Return the Flow of some examples (a slice or an index tensor)."""
        return self._map(lambda value: value[examples])

    def split(self, count: int) -> tuple["Flow", "Flow"]:
        """Return the Flow of the first so many examples, and that of the others."""
        if not 0 < count < self.examples:
            raise ValueError(f"{count} of {self.examples} examples were asked for: both parts need at least one.")
        return self.select(slice(0, count)), self.select(slice(count, None))

    def to(self, *args, **kwargs) -> "Flow":
        """Return the Flow on another device, or with states and attention of another type."""
        moved = self._map(lambda value: value if value.dtype == torch.bool else value.to(*args, **kwargs))
        device = moved.states[0].device if moved.states else moved.attention[0].device
        key_mask = None if self.key_mask is None else self.key_mask.to(device)
        visible = tuple(each.to(device) for each in self.visible)
        return replace(moved, mask=self.mask.to(device), key_mask=key_mask, visible=visible)

    def detach(self) -> "Flow":
        """Return the Flow without the gradients that its making would carry."""
        return self._map(lambda value: value.detach())

    def permute_heads(self, orders) -> "Flow":
        """Return the Flow with layer l's heads in the order `orders[l]`."""
        attention = tuple(a[:, order] for a, order in zip(self.attention, orders, strict=True))
        layers = zip(self.visible, orders, strict=False)
        visible = tuple(each[:, order] if each.shape[1] > 1 else each for each, order in layers)
        return replace(self, attention=attention, visible=visible)

    def save(self, path: str | Path) -> None:
        """Write the Flow as safetensors, with its lattice and notes."""
        tensors = {f"states.{depth}": value for depth, value in enumerate(self.states)}
        tensors |= {f"attention.{layer}": value for layer, value in enumerate(self.attention)}
        tensors |= {"mask": self.mask, "depths": self.depths}
        tensors |= {f"visible.{layer}": value.contiguous() for layer, value in enumerate(self.visible)}
        tensors |= {} if self.key_mask is None else {"key_mask": self.key_mask}
        about = {"causal": self.causal, "notes": list(self.notes)}
        about |= {} if self.lattice is None else {"lattice": asdict(self.lattice)}
        write_tensors(path, tensors, {"flow": about})

    @classmethod
    def load(cls, path: str | Path) -> "Flow":
        """Read a Flow that `save` wrote; raises `ValueError` where the file is damaged or another's."""
        tensors, header = read_tensors(path)
        if "flow" not in header:
            raise ValueError(f"{path} is no saved Flow: save it again with `flow.save`.")

        def series(kind: str) -> tuple[Tensor, ...]:
            return tuple(
                tensors[f"{kind}.{place}"] for place in range(sum(name.startswith(f"{kind}.") for name in tensors))
            )

        about = header["flow"]
        where: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in about.get("lattice", {}).items()
        }
        return cls(
            series("states"),
            series("attention"),
            tensors["mask"],
            about["causal"],
            tensors["depths"],
            Lattice(**where) if where else None,
            tuple(about.get("notes", ())),
            key_mask=tensors.get("key_mask"),
            visible=series("visible"),
        )

    def __repr__(self) -> str:
        parts = [f"{self.layers} layers", f"{self.examples} examples", f"{self.tokens} tokens"]
        parts += [f"{self.heads} heads"] if self.attention else []
        parts += [f"width {self.states[0].shape[-1]}"] if self.states else []
        return f"Flow({', '.join(parts)})"

    def _map(self, change) -> "Flow":
        return replace(
            self,
            states=tuple(change(value) for value in self.states),
            attention=tuple(change(value) for value in self.attention),
            mask=change(self.mask),
            key_mask=None if self.key_mask is None else change(self.key_mask),
            visible=tuple(change(value) for value in self.visible),
        )

    def _check_shapes(self) -> None:
        for name, series, rank in (("states", self.states, 3), ("attention", self.attention, 4)):
            shapes = {tuple(value.shape) for value in series}
            if len(shapes) > 1 or any(len(shape) != rank for shape in shapes):
                wanted = "(batch, tokens, width)" if rank == 3 else "(batch, heads, queries, keys)"
                raise ValueError(f"{name} have shapes {sorted(shapes)}, but one shape {wanted} is wanted.")
        if self.states and self.attention:
            if len(self.states) != len(self.attention) + 1:
                raise ValueError(
                    f"{len(self.states)} states and {len(self.attention)} attentions were given, but one state more "
                    "than attentions is wanted."
                )
            batch, tokens = self.states[0].shape[:2]
            if (self.attention[0].shape[0], self.attention[0].shape[2]) != (batch, tokens):
                raise ValueError(
                    f"attention of shape {tuple(self.attention[0].shape)} does not fit states of shape "
                    f"{tuple(self.states[0].shape)}: batch and queries must agree."
                )
        if self.visible:
            shapes = {(each.dtype, each.shape[0], *each.shape[2:]) for each in self.visible}
            wanted = (self.examples, *(self.attention[0].shape[2:] if self.attention else (self.tokens, self.tokens)))
            heads = {1, self.heads or 1}
            right = len(self.visible) == self.layers and all(each.ndim == 4 for each in self.visible)
            if not right or shapes != {(torch.bool, *wanted)} or not {each.shape[1] for each in self.visible} <= heads:
                raise ValueError(
                    f"`visible` of shapes {[tuple(each.shape) for each in self.visible]} was given: one boolean tensor "
                    f"({wanted[0]}, 1 or heads, {wanted[1]}, {wanted[2]}) a layer is wanted."
                )

    def _checked_depths(self, depths: Any) -> Tensor:
        depths = _doors.tensor("depths", depths, f"{self.layers + 1} increasing depth-times")
        if depths.ndim != 1 or len(depths) != self.layers + 1:
            raise ValueError(f"{len(depths)} depths were given for {self.layers} layers: one more is wanted.")
        if not bool((depths.diff() > 0).all() & torch.isfinite(depths).all()):
            raise ValueError(f"depths {depths.tolist()} were given: finite, increasing ones are wanted.")
        return depths

    def _check_circumstances(self) -> None:
        _doors.flag("causal", self.causal)
        _doors.is_a("lattice", self.lattice, (Lattice, type(None)), "a Chain, a Grid or None")
        if self.lattice is not None and self.lattice.tokens != self.tokens:
            raise ValueError(f"{self.lattice} of {self.lattice.tokens} tokens was given for {self.tokens} tokens.")
        if not isinstance(self.notes, tuple) or not all(isinstance(note, str) for note in self.notes):
            raise TypeError(f"notes={self.notes!r} were given: a tuple of sentences is wanted.")

    def _check_values(self) -> None:
        for name, series in (("states", self.states), ("attention", self.attention)):
            for layer, value in enumerate(series):
                if not value.is_floating_point():
                    raise TypeError(f"{name}[{layer}] of type {value.dtype} was given: floating point is wanted.")
                if not finite(value):
                    raise ValueError(f"{name}[{layer}] holds values that are not finite: look at the layer before it.")
        whole = bool(self.mask.all())
        for layer, value in enumerate(self.attention):
            rows = value.detach().sum(-1)  # (batch, heads, queries)
            if not whole:
                rows = rows.transpose(1, 2)[self.mask.to(value.device)]  # (real rows, heads)
            if value.numel() and float(value.detach().min()) < -1e-6:
                raise ValueError(
                    f"attention[{layer}] has a weight of {float(value.min()):.4g}, but none is negative: give weights "
                    "after the softmax."
                )
            slack = 1e-2 if value.dtype in (torch.bfloat16, torch.float16) else 1e-4
            if rows.numel() and float((rows - 1).abs().max()) > slack:
                raise ValueError(
                    f"attention[{layer}] has rows that sum to {float(rows.min()):.4g} ... {float(rows.max()):.4g}, "
                    "but every row of a real token must sum to 1."
                )


def _series(name: str, values: Any) -> tuple[Tensor, ...]:
    """Return one tensor a depth; arrays are welcome, a tensor's first axis counts depths."""
    if isinstance(values, Tensor):
        return tuple(values)
    _doors.is_a(name, values, (tuple, list, map, zip), "one tensor a layer")
    return tuple(_doors.tensor(f"{name}[{layer}]", value, "a tensor") for layer, value in enumerate(values))


def padding_of(mask: Tensor | None) -> Tensor | None:
    """Return a mask (batch, tokens) where it leaves any token out, None where it leaves out none."""
    return None if mask is None or bool(mask.all()) else mask


def finite(value: Tensor) -> bool:
    """Return whether no entry is NaN or infinite, in one pass where that is so."""
    value = value.detach()
    # The sum is finite only if every entry is; where it is not, it may only have overflowed.
    return math.isfinite(float(value.sum())) or bool(torch.isfinite(value).all())
