"""The map from the state at one depth to the state at another, of a Transformer or of an equation, and its Jacobian."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..pde.equation import PDE
from ..pde.integrate import integrate
from ..pde.schemes import SCHEMES
from .jacobian import Jacobian, real_tokens
from .layers import Layers

# How far, in its norm, a state may lie from that of the model's own pass: rounding is far below, a dropout far above.
_SAME = 1e-2


class FlowMap(Jacobian):
    """The map `F` from states at depth `start` to states at depth `end`, and its Jacobian `J = dF / du` at `point`.

    `point` (batch, tokens, width) is the state at `start`, `value` is `F(point)`; padded tokens (`mask` (batch, tokens)
    False) are left out of both. `flow_map` makes one of a Transformer or an equation; any differentiable `function` of
    a state that keeps its shape, and examples apart, makes one too. `jvp`, `vjp` and `matrix` apply or write down J, a
    call evaluates F at other states. Raises `ValueError` where shapes do not fit, in half precision, and where no
    gradient passes. Cost: the map is evaluated once; then each product costs about one backward pass. Source: the
    double backward of Pearlmutter 1994.

    >>> squares = FlowMap(lambda u: u**2, torch.tensor([[[1.0, 3.0]]]))
    >>> squares.value.tolist(), squares.jvp(torch.ones(1, 1, 2)).tolist()
    ([[[1.0, 9.0]]], [[[2.0, 6.0]]])
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        point: Tensor,
        mask: Tensor | None = None,
        depths: tuple[float, float] = (0, 1),
    ):
        if not callable(function):
            raise TypeError(f"function={function!r} was given: a function of a state is wanted.")
        point = _doors.state("point", point)
        self.function, self.depths = function, _increasing(depths)
        super().__init__(self._applied, point, real_tokens(mask, point))
        if self.constant:
            raise ValueError(
                f"no gradient passes from the state at depth {self.depths[0]:g} to that at {self.depths[1]:g}: look "
                "for `detach`, `torch.no_grad` or rounding to whole numbers in between."
            )

    def _applied(self, u: Tensor) -> Tensor:
        found = self.function(u)
        if not isinstance(found, Tensor) or found.shape != u.shape or found.dtype != u.dtype:
            made = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the map made {made} of {u.dtype} {tuple(u.shape)}: shape and type are to stay.")
        if not bool(torch.isfinite(found if self.mask is None else found[self.mask]).all()):
            raise ValueError(
                f"the state at depth {self.depths[1]:g} holds NaN or infinity: look at what leads from "
                f"{self.depths[0]:g} to there."
            )
        return self.real(found)

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
        u = _doors.state("u", u)
        if u.shape != self.point.shape:
            raise ValueError(f"states of shape {tuple(u.shape)} were given for {tuple(self.point.shape)}.")
        return self._applied(u.to(self.point))


def _increasing(depths: Any) -> tuple[float, float]:
    if not isinstance(depths, tuple | list) or len(depths) != 2:
        raise ValueError(f"depths={depths!r} was given: two, where the map starts and where it ends, are wanted.")
    for depth in depths:
        _doors.real("depths", depth)
    if not depths[0] < depths[1]:
        raise ValueError(f"depths={tuple(depths)} was given: the second is to be the larger one.")
    return depths[0], depths[1]


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
    layers, the state at depth l enters layer l, and `which` names its stack where it has several. Of a `PDE`, `inputs`
    is the state (batch, tokens, width) at depth-time `start`, and the steps are `method` and `substeps`, as `integrate`
    has them. `mask` (batch, tokens) is True at real tokens (as the model was told, if not given). Raises `ValueError`
    for depths that are not there, half precision, a model that draws at random (dropout), states that are not finite
    and where no gradient passes, `CaptureError` where no layers are found. Cost: one forward and one backward pass;
    the layers in front of `start` run too.

    >>> from pdelens.models import Configuration, Transformer
    >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    >>> found = flow_map(Transformer(Configuration(layers=3)), images, 1)
    >>> found.depths, tuple(found.jvp(torch.ones_like(found.point)).shape)
    ((1, 3), (2, 49, 64))
    """
    check_options(which, method, substeps)
    if isinstance(model, PDE):
        return _solution_map(model, inputs, start, end, mask, method, substeps)
    layers = Layers(model, inputs, which, mask)
    _doors.whole("start", start, 0)
    _doors.whole("end", layers.depth if end is None else end)
    first, last = int(start), layers.depth if end is None else int(end)
    if not first < last <= layers.depth:
        raise ValueError(f"depths {first} to {last} were asked for: 0 <= start < end <= {layers.depth} is wanted.")
    return map_between(layers, first, last)


def map_between(layers: Layers, start: int, end: int) -> FlowMap:
    """Return the map between two depths of a model's layers; refuse a model that makes another state of the same."""
    found = FlowMap(lambda u: layers.run(u, start, end), layers.state(start), layers.mask, (start, end))
    own = found.real(layers.state(end))
    if float((found.value - own).norm()) > _SAME * float(own.norm()):
        raise ValueError(
            f"a second pass gave another state at depth {end} than the first: the model draws at random, or "
            "remembers; use model.eval()."
        )
    return found


def check_options(which: str | None, method: str, substeps: int) -> None:
    """Refuse what names no stack of layers, or are no steps of an equation."""
    _doors.is_a("which", which, (str, type(None)), "the name of a stack of layers")
    _doors.option("method", method, SCHEMES)
    _doors.whole("substeps", substeps)


def _solution_map(pde: PDE, u, start, end, mask, method: str, substeps: int) -> FlowMap:
    u = pde.checked(_doors.state("inputs", u))
    mask = real_tokens(mask, u)
    for name, value in {"start": start, "end": pde.depth if end is None else end}.items():
        _doors.real(name, value)
    first, last = float(start), float(pde.depth if end is None else end)
    if not 0 <= first < last <= pde.depth:
        raise ValueError(f"depth-times {first:g} to {last:g} were asked for: 0 <= start < end <= {pde.depth:g}.")

    def function(state: Tensor) -> Tensor:
        return integrate(pde, state, [first, last], method, substeps, mask=mask).states[-1]

    return FlowMap(function, u, mask, (first, last))
