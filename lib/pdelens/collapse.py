"""How far tokens are from being all alike, and how fast attention brings them there."""

from collections.abc import Callable

from torch import Tensor

from .terms import Term


def centred(u: Tensor) -> Tensor:
    """Return `u - 1 mean(u)`: what is left of states (..., tokens, width) without their mean token."""
    return u - u.mean(-2, keepdim=True)


def rank_residual(u: Tensor) -> Tensor:
    """Return `|u - 1 mean(u)| / |u|` (Frobenius), (...): 0 where all tokens are equal, at most 1.

    Source: Dong, Cordonnier and Loukas 2021 (arXiv 2103.03404), there with another norm.

    >>> import torch
    >>> float(rank_residual(torch.ones(4, 2))), float(rank_residual(torch.tensor([[1.0], [-1.0]])))
    (0.0, 1.0)
    """
    return centred(u).flatten(-2).norm(dim=-1) / u.flatten(-2).norm(dim=-1).clamp_min(1e-300)


def diameter(u: Tensor) -> Tensor:
    """Return the largest distance between two tokens of (..., tokens, width), (...).

    >>> import torch
    >>> float(diameter(torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 0.0]])))
    5.0
    """
    # Differences, not `cdist`'s expanded squares, which lose small distances to rounding.
    return (u.unsqueeze(-2) - u.unsqueeze(-3)).norm(dim=-1).flatten(-2).amax(-1)


def iterate(step: Callable[[int, Tensor], Tensor], u: Tensor, steps: int) -> list[Tensor]:
    """Return `u, step(0, u), step(1, step(0, u)), ...`: as many steps as asked for.

    >>> import torch
    >>> [float(x) for x in iterate(lambda _, x: x / 2, torch.tensor(1.0), 2)]
    [1.0, 0.5, 0.25]
    """
    found = [u]
    for number in range(steps):
        found.append(step(number, found[-1]))
    return found


def energy_ratio(attention: Tensor, u: Tensor) -> Tensor:
    """Return `|c(A u)|^2 / |c(u)|^2` per head, c = `centred`: above 1 where attention spreads tokens apart.

    `attention` (batch, heads, tokens, tokens), `u` (batch, tokens, width); the result (batch, heads).

    >>> import torch
    >>> apart = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    >>> round(float(energy_ratio(apart[None, None], torch.eye(4)[None, :, :1])), 3)
    1.333
    """
    before = centred(u).square().sum((-1, -2))
    return centred(attention @ u.unsqueeze(-3)).square().sum((-1, -2)) / before.unsqueeze(-1)


class Fidelity(Term):
    """`strength (anchor - u)`: pulls tokens back to where they began, against over-smoothing.

    `anchor` is a state (..., tokens, width). Source: the regularised functional of NeuTRENO (Nguyen,
    Nguyen and Baraniuk 2023, arXiv 2312.00751), here as the gradient flow of its fidelity part.

    >>> import torch
    >>> Fidelity(torch.ones(2, 3), 0.5)(0.0, torch.zeros(2, 3)).tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """

    symbol = "λ (u₀ − u)"

    def __init__(self, anchor: Tensor, strength: float):
        super().__init__()
        self.anchor, self.strength = anchor, strength

    def forward(self, t: float, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `strength (anchor - u)`."""
        return self.strength * (self.anchor - u)
