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
            eye = torch.eye(self.modes, dtype=values.dtype, device=values.device)
            return eye[_piece(t, self.depth, self.modes)]
        return _chebyshev(t, self.depth, values)

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


def matrix_modes(
    first: Tensor, depth: float, rank: int = 0, scaled: bool = False, parts: int = 1, **temporal
) -> "Modes":
    """Return a matrix's modes: with a rank one matrix corrected in each layer, `scaled` its rows so, else `Modes`."""
    if rank and temporal.get("modes", 1) != 1:
        raise ValueError(f"rank {rank} with {temporal['modes']} modes was given: a correction is one of a single law.")
    if rank:
        return LowRankModes(first, depth, round(depth), rank, parts)
    if scaled:
        return ScaledModes(first, depth, round(depth), **temporal)
    return Modes(first, depth, parts=parts, **temporal)


class LowRankModes(Modes):
    """One constant matrix, and a correction of rank r in each of `layers` equal pieces: `c(t) = c_0 + A_l B_l`.

    Between one law for all depths and a law for each layer: r says how much the layers differ. A begins at zero, so
    that the equation begins as the autonomous one. Source: Relaxed Recursive Transformers (Bae et al. 2024, arXiv
    2410.20672), where layers that share their weights differ by low-rank parts.

    >>> LowRankModes(torch.eye(3), depth=2.0, layers=2, rank=1)(0.5).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """

    def __init__(self, first: Tensor, depth: float, layers: int, rank: int, parts: int = 1):
        super().__init__(first, depth, parts=parts)
        if not 1 <= rank <= min(first.shape):
            raise ValueError(f"a correction of rank {rank} to {tuple(first.shape)} was asked for: it does not fit.")
        self.basis, self.layers = "low-rank", layers
        rows, columns = first.shape
        self.left = nn.Parameter(torch.zeros(layers, rows, rank))
        with torch.random.fork_rng(devices=[]):  # what is drawn next is what it would be without the correction
            self.right = nn.Parameter(torch.randn(layers, rank, columns) / columns**0.5)

    @property
    def modes(self) -> int:
        """Number of pieces: no two layers are alike."""
        return self.layers

    def forward(self, t: float | Tensor) -> Tensor:
        """Return c(t)."""
        piece = _piece(float(t), self.depth, self.layers)
        return self.coefficients[0] + self.left[piece] @ self.right[piece]


class ScaledModes(Modes):
    """A matrix's modes whose rows every one of `layers` pieces scales for itself: `c(t) = diag(s_l) sum phi_k c_k`.

    Layers that share their weights but for such scales are the recurrent blocks of Raptor (arXiv 2512.19941). Scales
    begin at 1.

    >>> ScaledModes(torch.eye(2), depth=2.0, layers=2)(1.5).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, first: Tensor, depth: float, layers: int, modes: int = 1, basis: str = "chebyshev"):
        super().__init__(first, depth, modes, basis)
        self.layers = layers
        self.scales = nn.Parameter(torch.ones(layers, first.shape[0]))

    @property
    def modes(self) -> int:
        """Number of pieces: no two layers are alike."""
        return self.layers

    def forward(self, t: float | Tensor) -> Tensor:
        """Return c(t)."""
        piece = _piece(float(t), self.depth, self.layers)
        return self.scales[piece][:, None] * self._unscaled(float(t))

    def _unscaled(self, t: float) -> Tensor:
        shared = self.coefficients
        if self.basis == "piecewise":
            return shared[_piece(t, self.depth, len(shared))]
        return torch.tensordot(_chebyshev(t, self.depth, shared), shared, 1)

    def breakpoints(self) -> list[float]:
        """Return where the scales jump inside (0, depth)."""
        return [self.depth * k / self.layers for k in range(1, self.layers)]


def _chebyshev(t: float, depth: float, coefficients: Tensor) -> Tensor:
    """Return T_k(2 t / depth - 1) for each of the coefficients, (modes,)."""
    x = min(max(2 * t / depth - 1, -1.0), 1.0)
    row = [1.0, x]
    for _ in range(2, len(coefficients)):
        row.append(2 * x * row[-1] - row[-2])
    return torch.tensor(row[: len(coefficients)], dtype=coefficients.dtype, device=coefficients.device)


def _piece(t: float, depth: float, pieces: int) -> int:
    """Return in which of so many equal pieces of [0, depth] a time lies; a jump belongs to the later one."""
    return min(max(int(t * pieces / depth + 1e-9), 0), pieces - 1)


def _first_only(first: Tensor, modes: int) -> Tensor:
    """Put everything into the constant mode; the others begin at zero."""
    rest = torch.zeros(modes - 1, *first.shape, dtype=first.dtype, device=first.device)
    return torch.cat([first[None], rest])
