"""Coefficients that depend on depth-time through few modes."""

import torch
from torch import Tensor, nn

BASES = ("chebyshev", "piecewise")


class Modes(nn.Module):
    """A coefficient c(t) = sum_k phi_k(t) c_k on depth-time [0, depth].

    `chebyshev`: phi_k = T_k(2 t / depth - 1); one mode is a constant. `piecewise`: phi_k = 1 on the k-th of as many
    equal intervals; as many modes as layers is the general layered network. `parts` says of how many matrices, one
    below the other, a matrix-valued coefficient consists (queries, keys, values: 3).
    """

    def __init__(self, first: Tensor, depth: float, modes: int = 1, basis: str = "chebyshev", parts: int = 1):
        super().__init__()
        if basis not in BASES:
            raise ValueError(f"basis {basis!r} was given: choose from {', '.join(BASES)}.")
        if modes < 1 or depth <= 0:
            raise ValueError(f"{modes} modes on [0, {depth}] were asked for: both must be positive.")
        self.depth, self.basis, self.parts = float(depth), basis, parts
        stack = first.expand(modes, *first.shape) if basis == "piecewise" else _first_only(first, modes)
        self.coefficients = nn.Parameter(stack.clone())

    @property
    def modes(self) -> int:
        """Number of modes K."""
        return self.coefficients.shape[0]

    def weights(self, t: float | Tensor) -> Tensor:
        """Return phi_k(t), (modes,)."""
        t = float(t)
        values = self.coefficients
        if self.basis == "piecewise":
            place = min(max(int(t * self.modes / self.depth + 1e-9), 0), self.modes - 1)
            return torch.eye(self.modes, dtype=values.dtype, device=values.device)[place]
        x = min(max(2 * t / self.depth - 1, -1.0), 1.0)
        row = [1.0, x]
        for _ in range(2, self.modes):
            row.append(2 * x * row[-1] - row[-2])
        return torch.tensor(row[: self.modes], dtype=values.dtype, device=values.device)

    def forward(self, t: float | Tensor) -> Tensor:
        """Return c(t)."""
        if self.modes == 1:
            return self.coefficients[0]
        if self.basis == "piecewise":
            return self.coefficients[int(self.weights(t).argmax())]
        return torch.tensordot(self.weights(t), self.coefficients, 1)

    def breakpoints(self) -> list[float]:
        """Return where the coefficient jumps inside (0, depth)."""
        if self.basis == "chebyshev":
            return []
        return [self.depth * k / self.modes for k in range(1, self.modes)]


def _first_only(first: Tensor, modes: int) -> Tensor:
    """Put everything into the constant mode; the others begin at zero."""
    rest = torch.zeros(modes - 1, *first.shape, dtype=first.dtype, device=first.device)
    return torch.cat([first[None], rest])
