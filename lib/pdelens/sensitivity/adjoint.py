"""The continuous adjoint of an equation: a gradient solved backwards in depth-time instead of stored on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import _doors
from ..pde.equation import PDE
from ..pde.integrate import MOST_STEPS, DivergenceError, _clip, _norm_of_real
from ..pde.schemes import Frozen
from .gradients import GradientFlow, gradients_of
from .jacobian import real_tokens, refuse_underivable


@dataclass(frozen=True, eq=False)
class AdjointGradient(GradientFlow):
    """A loss's gradient by the states that were kept, from the continuous adjoint.

    As `GradientFlow`, at the depth-times `depths` alone. `reconstruction[i]` (pieces, examples) is how far, relative to
    its norm, the state that the backward solve arrives at lies from the one that was kept at `depths[i]`: where it is
    not small, the gradient before that depth was taken along another path than the solution's.
    """

    reconstruction: Tensor


class _Field(nn.Module):
    """A piece of an equation, as torchdiffeq calls it."""

    def __init__(self, frozen: Frozen, start: float, end: float):
        super().__init__()
        self.frozen, self.at = frozen, _clip(frozen.pde, start, end)

    def forward(self, t: Tensor, u: Tensor) -> Tensor:
        return self.frozen.rhs(self.at(float(t.detach())), u)


class _Piece:
    """The solution between two depth-times, with nothing kept but its ends."""

    def __init__(self, frozen: Frozen, u: Tensor, start: float, end: float, options: dict[str, Any]):
        from torchdiffeq import odeint_adjoint

        self.frozen, self.span, self.options = frozen, (start, end), options
        self.field = _Field(frozen, start, end)
        pde = frozen.pde
        self.entered = u.detach().clone().requires_grad_()
        times = torch.tensor(self.span, dtype=torch.float64, device=u.device)
        with torch.enable_grad(), self._followed("on"):
            self.start = pde.encode(self.entered, start)
            solved: Any = odeint_adjoint(self.field, self.start, times, adjoint_params=(), **options)
            self.end = solved[-1].detach()
            self.left = pde.decode(end, frozen.retracted(solved[-1]))

    def pulled_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the piece's first state of what has this gradient by its last one."""
        # At unit size, as absolute tolerances are about numbers of that size.
        size = gradient.square().mean().sqrt().clamp_min(torch.finfo(gradient.dtype).tiny)
        with self._followed("back"):
            (found,) = torch.autograd.grad(self.left, self.entered, gradient / size)
        return found * size

    @torch.no_grad()
    def reconstruction(self, mask: Tensor | None) -> Tensor:
        """Return how far from its first state the piece's solution arrives when solved backwards, (examples,)."""
        from torchdiffeq import odeint

        times = torch.tensor(self.span[::-1], dtype=torch.float64, device=self.end.device)
        start = self.start.detach()
        try:
            found: Any = odeint(self.field, self.end, times, **self.options)
        except AssertionError:
            return torch.full((len(start),), torch.inf, dtype=start.dtype, device=start.device)
        gap = found[-1] - start
        parts = [one if mask is None else one.masked_fill(~mask[..., None], 0.0) for one in (gap, start)]
        sizes = [one.flatten(1).norm(dim=1) for one in parts]
        return sizes[0] / sizes[1].clamp_min(torch.finfo(start.dtype).tiny)

    def _followed(self, way: str) -> "_Followed":
        return _Followed(way, self.span, self.end.dtype if hasattr(self, "end") else self.entered.dtype)


class _Followed:
    """Says in a sentence where a solver has given up."""

    def __init__(self, way: str, span: tuple[float, float], dtype: torch.dtype):
        self.way, self.span, self.dtype = way, span, str(dtype).removeprefix("torch.")

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, AssertionError):
            start, end = self.span if self.way == "on" else self.span[::-1]
            cure = "a looser rtol, or float64" if self.way == "on" else "checkpoints in between, or float64"
            raise DivergenceError(
                f"dopri5 could not follow the solution from t = {start:g} to {end:g} in {self.dtype} ({error}): give "
                f"{cure}."
            ) from error


def adjoint_gradient(
    pde: PDE,
    inputs: Tensor,
    loss: Callable[[Any], Tensor],
    *,
    checkpoints: Sequence[float] | Tensor = (),
    mask: Tensor | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-8,
) -> AdjointGradient:
    """Return the gradient of a loss of an equation's last state by its continuous adjoint, backwards in depth-time.

    The gradient `g = dLoss / du` obeys `dg/dt = -J(u(t))^T g` and is solved from the end to the start together with the
    state, `du/dt = f(u)`, so that nothing is kept on the way. `inputs` is the state (batch, tokens, width) at
    depth-time 0, `loss` is given the state at the end. That fails where the equation forgets: what it contracts by
    `exp(-s)` on its way, a diffusion `s = D lambda T`, the backward solve blows up by `exp(s)`, rounding and the
    solver's error too, and J is then that of another path (`reconstruction` says how far another). `checkpoints` are
    depth-times whose states are kept and from which it starts anew; states are also kept where coefficients jump, and
    at each of these depths the gradient is returned. Steps are dopri5's at `rtol` and `atol`. Raises `ValueError` for
    checkpoints outside (0, depth), half precision, and a loss that is no single finite number of the state;
    `DivergenceError` where no solution is found. Cost: one adaptive solve there and about four back, in the memory of
    the states that are kept. Source: Chen et al. 2018 (arXiv 1806.07366) for the adjoint; Gholami et al. 2019 (arXiv
    1902.10298) for its instability.

    >>> from pdelens.pde.terms import Diffusion
    >>> from pdelens import Chain
    >>> heat = PDE({"diffusion": Diffusion(Chain(4), 1, 0.5)}, Chain(4), depth=1).double()
    >>> u = torch.tensor([1.0, 0.0, 0.0, 0.0]).double().view(1, 4, 1)
    >>> found = adjoint_gradient(heat, u, lambda v: v.sum())
    >>> found.depths.tolist(), found.gradients[0].flatten().round(decimals=4).tolist()  # what is there stays there
    ([0.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    """
    _doors.is_a("pde", pde, PDE, "an equation")
    u = pde.checked(_doors.state("inputs", inputs)).detach()
    if not callable(loss):
        raise TypeError(f"loss={loss!r} was given: a function of the last state is wanted.")
    refuse_underivable(u)
    mask = real_tokens(mask, u)
    _doors.real("rtol", rtol, above=0)
    _doors.real("atol", atol, 0)
    times = sorted({0.0, *_inside(checkpoints, pde), *pde.breakpoints(), pde.depth})
    steps = {"max_num_steps": MOST_STEPS} | ({} if mask is None else {"norm": _norm_of_real(mask)})
    pieces: list[_Piece] = []
    for start, end in pairwise(times):
        options = {"rtol": rtol, "atol": atol, "method": "dopri5", "options": dict(steps)}
        pieces.append(_Piece(Frozen(pde, mask), u, start, end, options))
        u = pieces[-1].left.detach()
    last = u.requires_grad_()
    with torch.enable_grad():
        gradients = [gradients_of(loss(last), [last], mask)[0]]
    for piece in reversed(pieces):
        found = piece.pulled_back(gradients[0])
        gradients.insert(0, found if mask is None else found.masked_fill(~mask[..., None], 0.0))
    reconstruction = torch.stack([piece.reconstruction(mask) for piece in pieces])
    return AdjointGradient(tuple(gradients), torch.tensor(times), reconstruction)


def _inside(checkpoints: Sequence[float] | Tensor, pde: PDE) -> list[float]:
    if isinstance(checkpoints, str) or not isinstance(checkpoints, Sequence | np.ndarray | Tensor):
        raise ValueError(
            f"checkpoints={checkpoints!r} were given: a row of depth-times in (0, {pde.depth:g}) is wanted."
        )
    for one in checkpoints:
        _doors.real("checkpoints", one)
        if not 0 < float(one) < pde.depth:
            raise ValueError(f"a checkpoint at {float(one):g} was given: depth-times in (0, {pde.depth:g}) are wanted.")
    return [float(one) for one in checkpoints]
