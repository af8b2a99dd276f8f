"""Muon: momentum whose matrices are made orthogonal."""

from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Muon for stacks of matrices, Adam for what is no matrix, in one optimiser with one state.

    A matrix G with momentum takes a step of `rate * 0.2 sqrt(max(rows, columns)) U V^T`, where `U V^T` is G with all
    singular values brought near 1 by five Newton-Schulz steps (Jordan et al. 2024; the scale that makes Adam's rates
    fit is Liu et al. 2025, arXiv 2502.16982). `torch.optim.Muon` does that for single matrices; here a parameter has
    shape (stack, rows, columns), each matrix of the stack by itself, and `parts` cuts its rows into so many matrices
    (queries, keys, values are three). Groups with `matrix=False` are stepped by Adam, with the same rate.

    >>> weight = torch.nn.Parameter(torch.eye(3)[None])
    >>> optimizer = Muon([{"params": [weight], "matrix": True, "parts": 1}], rate=0.1)
    >>> weight.grad = torch.diag(torch.tensor([1.0, 10.0, 100.0]))[None]
    >>> optimizer.step()
    >>> bool((weight.diagonal(dim1=1, dim2=2) < 1).all())  # all directions move, whatever their gradient's size
    True
    """

    def __init__(self, groups, rate: float = 3e-3, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.98)):
        defaults = {"lr": rate, "momentum": momentum, "betas": betas, "matrix": True, "parts": 1}
        super().__init__(groups, defaults)
        for group in self.param_groups:
            wrong = [
                p.shape for p in group["params"] if group["matrix"] and (p.ndim != 3 or p.shape[1] % group["parts"])
            ]
            if wrong:
                raise ValueError(
                    f"a parameter of shape {tuple(wrong[0])} was given as {group['parts']} stacked matrices: "
                    "(stack, rows, columns) with rows a multiple of that is wanted."
                )

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Step every parameter that has a gradient."""
        assert closure is None, "a closure is not used"
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    (self._matrix if group["matrix"] else self._vector)(value, group)

    def _matrix(self, value: Tensor, group: dict[str, Any]) -> None:
        state, stack, rows, columns = self.state[value], *value.shape
        if not state:
            state["momentum"] = torch.zeros_like(value)
        state["momentum"].lerp_(value.grad, 1 - group["momentum"])
        ahead = torch.lerp(value.grad, state["momentum"], group["momentum"])  # type: ignore[arg-type]
        parts = ahead.view(stack * group["parts"], rows // group["parts"], columns)
        scale = 0.2 * max(parts.shape[1:]) ** 0.5
        value.add_(orthogonalised(parts).view_as(value), alpha=-group["lr"] * scale)

    def _vector(self, value: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[value], group["betas"]
        assert value.grad is not None
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(value), "square": torch.zeros_like(value)}
        state["step"] += 1
        count = float(state["step"])
        state["mean"].lerp_(value.grad, 1 - first)
        state["square"].lerp_(value.grad.square(), 1 - second)
        root = (state["square"] / (1 - second**count)).sqrt_().add_(1e-8)
        value.addcdiv_(state["mean"], root, value=-group["lr"] / (1 - first**count))


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Return matrices (stack, rows, columns) with their singular values brought near 1 (0.7 to 1.2).

    Newton-Schulz iteration with the quintic `3.4445 x - 4.775 x^3 + 2.0315 x^5`, steep at 0 and not convergent beyond
    that range (Jordan et al. 2024).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
    for _ in range(iterations):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
