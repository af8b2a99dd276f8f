"""How a loss's gradient flows back through depth, in a Transformer or an equation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import _doors
from ..flow import padding_of
from ..pde.equation import PDE
from ..pde.integrate import integrate
from .flow_map import Layers


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
    is that of the steps `method` and `substeps` (as `integrate` has them), taken by backpropagation through them. A
    loss that sums over examples has every example's own gradient; one that averages, a share of it. Raises `ValueError`
    for a loss that is no single number or does not depend on the states, `CaptureError` where no layers are found.
    Cost: one forward and one backward pass.

    >>> from pdelens.models import Configuration, Transformer
    >>> images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    >>> found = gradient_flow(Transformer(Configuration(layers=3)), images, lambda logits: logits.logsumexp(-1).sum())
    >>> len(found.gradients), tuple(found.norms.shape)
    (4, (4, 2))
    """
    if isinstance(model, PDE):
        return _of_equation(model, inputs, loss, mask, method, substeps)
    layers = Layers(model, inputs, which)
    with torch.enable_grad():
        states, output = layers.states()
        gradients = _gradients(loss(output), states)
    real = padding_of(layers.mask if mask is None else mask)
    return GradientFlow(_kept(gradients, real), torch.arange(layers.depth + 1.0))


def _of_equation(pde: PDE, u, loss, mask, method: str, substeps: int) -> GradientFlow:
    u = pde.checked(_doors.state("inputs", u)).detach().clone().requires_grad_()
    real = padding_of(_doors.mask("mask", mask, u.shape[:-1]))
    with torch.enable_grad():
        flow = integrate(pde, u, method=method, substeps=substeps, mask=real)
        gradients = _gradients(loss(flow.states[-1]), [u, *flow.states[1:]])
    return GradientFlow(_kept(gradients, real), flow.depths)


def _gradients(value: Any, states: list[Tensor]) -> tuple[Tensor, ...]:
    if not isinstance(value, Tensor) or value.numel() != 1:
        shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"a loss of {shown} was given: one number is wanted, such as the sum over examples.")
    try:
        return torch.autograd.grad(value.sum(), states)
    except RuntimeError as error:
        raise ValueError("the loss does not depend on the states: take it of what the model puts out.") from error


def _kept(gradients: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Tensor, ...]:
    if mask is None:
        return gradients
    return tuple(gradient * mask[..., None].to(gradient.dtype) for gradient in gradients)
