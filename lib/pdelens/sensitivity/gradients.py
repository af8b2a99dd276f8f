"""How a loss's gradient flows back through depth, in a Transformer or an equation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..pde.equation import PDE
from ..pde.integrate import integrate
from .flow_map import check_options
from .jacobian import real_tokens, refuse_underivable
from .layers import Layers


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """The gradient of a loss by the state at every depth.

    `gradients[l]` (batch, tokens, width) is `dLoss / du(l)`, padded tokens zero; `depths` (L + 1,).
    """

    gradients: tuple[Tensor, ...]
    depths: Tensor

    @property
    def norms(self) -> Tensor:
        """Frobenius norms by depth and example, (L + 1, batch)."""
        return torch.stack([gradient.flatten(1).norm(dim=1) for gradient in self.gradients])

    def log_ratio(self) -> Tensor:
        """`log |g(l)| - log |g(L)|` by depth and example, (L + 1, batch): above 0 where the gradient has grown."""
        logs = self.norms.clamp_min(torch.finfo(self.norms.dtype).tiny).log()
        return logs - logs[-1]

    def alignment(self, other: "GradientFlow") -> Tensor:
        """Return the cosine of two gradients by depth and example, tokens and channels flattened, (L + 1, batch)."""
        ours, theirs = ([g.flatten(1).double() for g in one.gradients] for one in (self, other))
        shapes = [[tuple(g.shape) for g in one.gradients] for one in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"gradients of shapes {shapes[1][:1]} x {len(shapes[1])} were given for {len(shapes[0])}.")
        return torch.stack([torch.cosine_similarity(a, b, dim=1) for a, b in zip(ours, theirs, strict=True)])


def gradient_flow(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    loss: Callable[[Any], Tensor],
    *,
    mask: Tensor | None = None,
    which: str | None = None,
    method: str = "rk4",
    substeps: int = 4,
) -> GradientFlow:
    """Return the gradient of a loss by the state at every depth: `g(l) = dLoss / du(l)`.

    Of a Transformer (anything that `capture` takes) on `inputs`, `loss` is given what the model puts out; of a `PDE`,
    `inputs` is the state (batch, tokens, width) at depth-time 0, `loss` is given its state at the end, and the gradient
    is that of the steps `method` and `substeps` (as `integrate` has them), taken by backpropagation through them and
    begun anew at every depth. A loss that sums over examples has every example's own gradient; one that averages, a
    share of it. `mask` (batch, tokens) is True at real tokens (as the model was told, if not given). Raises
    `ValueError` for a loss that is no single finite number or does not depend on the states, and in half precision,
    `CaptureError` where no layers are found. Cost: one forward and one backward pass.

    >>> from pdelens.models import Configuration, Transformer
    >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    >>> found = gradient_flow(Transformer(Configuration(layers=3)), images, lambda logits: logits.logsumexp(-1).sum())
    >>> len(found.gradients), tuple(found.norms.shape)
    (4, (4, 2))
    """
    check_options(which, method, substeps)
    if not callable(loss):
        raise TypeError(f"loss={loss!r} was given: a function of what the model puts out is wanted.")
    if isinstance(model, PDE):
        return _of_equation(model, inputs, loss, mask, method, substeps)
    layers = Layers(model, inputs, which, mask)
    with torch.enable_grad():
        states, output = layers.states()
        gradients = gradients_of(loss(output), states, layers.mask)
    return GradientFlow(gradients, torch.arange(layers.depth + 1.0))


def _of_equation(pde: PDE, u, loss, mask, method: str, substeps: int) -> GradientFlow:
    u = pde.checked(_doors.state("inputs", u)).detach().clone()
    refuse_underivable(u)
    mask, times = real_tokens(mask, u), [float(depth) for depth in range(int(pde.depth) + 1)]
    with torch.enable_grad():
        states = [u.requires_grad_()]
        # Depth by depth: what an adaptive solver gives in between are interpolants, off the path of the gradient.
        for start, end in pairwise(times):
            states.append(integrate(pde, states[-1], [start, end], method, substeps, mask=mask).states[-1])
        gradients = gradients_of(loss(states[-1]), states, mask)
    return GradientFlow(gradients, torch.tensor(times))


def gradients_of(value: Any, states: Sequence[Tensor], mask: Tensor | None) -> tuple[Tensor, ...]:
    """Return the gradient of a loss's value by some states, padded tokens zero; refuse what is no loss of theirs."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"a loss of {shown} was given: one number is wanted, such as the sum over examples.")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"the loss is {float(value.detach()):g}: a finite one is wanted.")
    try:
        found = torch.autograd.grad(value.sum(), states)
    except RuntimeError as error:
        raise ValueError(
            "the loss does not depend on the states at every depth: take it of what the model puts out, and look for "
            "`detach` or `torch.no_grad` on the way."
        ) from error
    return found if mask is None else tuple(one.masked_fill(~mask[..., None], 0.0) for one in found)
