"""The second difference along one axis of a large tensor, at nearly the cost of copying it.

The plain formula reads and writes the tensor several times. Here blocks that stay in the cache are finished one after
another. The operator is symmetric for every boundary offered (`zero` reads zeros beyond the ends), so its own
transpose is its gradient.
"""

from typing import Any

import torch
from torch import Tensor

# Bytes of a block: two of them fit into a core's own cache.
_BLOCK = 1 << 19
# Elements below which the plain formula is as fast.
LARGE = 1 << 20


class SecondDifference(torch.autograd.Function):
    """`x[i-1] - 2 x[i] + x[i+1]` along an axis, for `periodic`, `neumann` (no flux) or `zero` ends."""

    @staticmethod
    def forward(x: Tensor, axis: int, boundary: str) -> Tensor:
        """Return the second difference, of x's shape, along an axis counted from the end."""
        side = x.shape[axis]
        rest = x.shape[axis + 1 :] if axis != -1 else ()
        inner = int(torch.Size(rest).numel())
        flat = x.contiguous().view(-1, side, inner)
        # Not a view of something: its ends may be set in place later.
        result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        written = result.view(flat.shape)
        block = max(1, _BLOCK // (side * inner * x.element_size()))
        for start in range(0, len(flat), block):
            _second(flat[start : start + block], written[start : start + block], boundary)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, str], output: Tensor) -> None:
        """Keep axis and boundary: the operator is linear."""
        _, ctx.axis, ctx.boundary = inputs

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        """Return the same operator applied to the tangent."""
        return SecondDifference.apply(tangents[0], ctx.axis, ctx.boundary)  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, None, None], x: Tensor, axis: int, boundary: str):
        """Return the operator on the whole batch: the axis is counted from the end."""
        return SecondDifference.apply(x.movedim(in_dims[0] or 0, 0), axis, boundary), 0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the same operator applied to the gradient."""
        return SecondDifference.apply(gradients[0], ctx.axis, ctx.boundary), None, None  # type: ignore[return-value]


def _second(x: Tensor, result: Tensor, boundary: str) -> None:
    middle = result[:, 1:-1]
    torch.add(x[:, :-2], x[:, 2:], out=middle)
    middle.sub_(x[:, 1:-1], alpha=2)
    for end, next_to, opposite in ((0, 1, -1), (-1, -2, 0)):
        edge = result[:, end]
        torch.sub(x[:, next_to], x[:, end], out=edge)
        if boundary == "periodic":
            edge.add_(x[:, opposite]).sub_(x[:, end])
        elif boundary == "zero":
            edge.sub_(x[:, end])


def second_difference(inner: Tensor, axis: int, boundary: str, order: int) -> Tensor:
    """Second difference along one axis (pinned ends are set to zero later)."""
    if order == 2 and inner.numel() >= LARGE:
        return SecondDifference.apply(inner, axis, "zero" if boundary == "dirichlet" else boundary)  # type: ignore[return-value]
    if order == 2 and boundary == "periodic":
        return inner.roll(1, axis) + inner.roll(-1, axis) - 2 * inner
    if order == 2:
        # No flux beyond the ends (neumann), or no change at them (dirichlet).
        around = (0, 0) * (-1 - axis) + (1, 1)
        if boundary == "neumann":
            return torch.nn.functional.pad(inner.diff(dim=axis), around).diff(dim=axis)
        return torch.nn.functional.pad(inner.diff(n=2, dim=axis), around)
    side = inner.shape[axis]
    wide = padded(inner, axis, boundary, order // 2)
    far = wide.narrow(axis, 0, side) + wide.narrow(axis, 4, side)
    near = wide.narrow(axis, 1, side) + wide.narrow(axis, 3, side)
    return (16 * near - far - 30 * inner) / 12


def padded(inner: Tensor, axis: int, boundary: str, reach: int) -> Tensor:
    """Extend one axis by `reach` at both ends as the boundary has it."""
    side = inner.shape[axis]

    def take(places):
        return inner.index_select(inner.ndim + axis, torch.tensor(places, device=inner.device))

    if boundary == "periodic":
        before, after = take([side - reach + k for k in range(reach)]), take(list(range(reach)))
    elif boundary == "neumann":
        before, after = take(list(range(reach - 1, -1, -1))), take([side - 1 - k for k in range(reach)])
    else:
        # Odd about the pinned value: where it stays put, the second derivative vanishes there.
        before = 2 * take([0]) - take(list(range(reach, 0, -1)))
        after = 2 * take([side - 1]) - take([side - 2 - k for k in range(reach)])
    return torch.cat([before, inner, after], axis)
