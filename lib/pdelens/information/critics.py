"""Critics, which score how well each x goes with each y, and the bounds that a matrix of scores gives."""

import math

import torch
from torch import Tensor, nn

from .cross_fit import Perceptrons

_HIDDEN, _PRODUCTS = 64, 16


class Separable(nn.Module):
    """Critics `g(x).h(y) + a(x) + b(y)`: the cost of a pair is 16 products, once each side has been through."""

    def __init__(self, members: int, dx: int, dy: int, generator: torch.Generator):
        super().__init__()
        self.x = Perceptrons(members, [dx, _HIDDEN, _PRODUCTS + 1], generator)
        self.y = Perceptrons(members, [dy, _HIDDEN, _PRODUCTS + 1], generator, zero=True)
        with torch.no_grad():
            for weight in self.x.outward():
                weight[..., -1] = 0.0  # a(x) starts at 0, as y's side does: the first critic is 0 everywhere

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score (members, samples, dx) against (members, samples, dy): (members, samples, samples)."""
        g, h = self.x(x), self.y(y)
        return torch.baddbmm(g[..., -1:] + h[..., -1:].mT, g[..., :-1], h[..., :-1].mT)


class Joint(nn.Module):
    """Critics that put every pair through a perceptron of two hidden layers."""

    def __init__(self, members: int, dx: int, dy: int, generator: torch.Generator):
        super().__init__()
        # A layer on the pair (x, y) is a layer on x plus one on y, made once for all pairs.
        self.x, self.y = (Perceptrons(members, [columns, _HIDDEN], generator) for columns in (dx, dy))
        self.pair = Perceptrons(members, [_HIDDEN, _HIDDEN, 1], generator, zero=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Score (members, samples, dx) against (members, samples, dy): (members, samples, samples)."""
        hidden = torch.relu(self.x(x)[:, :, None] + self.y(y)[:, None])  # (members, samples, samples, hidden)
        return self.pair(hidden.flatten(1, 2)).view(hidden.shape[:3])


class MovingAverage:
    """MINE's objective: the Donsker-Varadhan bound, the denominator of its gradient averaged over steps."""

    def __init__(self, memory: float):
        if not 0 <= memory < 1:
            raise ValueError(
                f"memory={memory} was given: the share of the last steps, 0 or more and below 1, is wanted."
            )
        self.memory, self.average = memory, None

    def __call__(self, scores: Tensor) -> Tensor:
        """Return a number per member whose gradient, not whose value, is the one wanted."""
        log_mean = _log_mean(scores)
        now = log_mean.detach()
        if self.average is None:
            self.average = now
        old = self.memory * (self.average - now).exp()  # relative to this batch's mean, which may be huge
        self.average = now + (old + 1 - self.memory).log()
        return _own(scores) - (log_mean - self.average).exp()


def info_nce(scores: Tensor) -> Tensor:
    """Return the InfoNCE bound of scores (members, samples, samples), at most ln(samples)."""
    return _own(scores) - scores.logsumexp(2).mean(1) + math.log(scores.shape[2])


def nwj(scores: Tensor) -> Tensor:
    """Return the bound of Nguyen, Wainwright and Jordan, a sample's own y among the others: at most ln(samples)."""
    return _own(scores) + 1 - _log_mean(scores).exp()


def donsker_varadhan(scores: Tensor) -> Tensor:
    """Return the Donsker-Varadhan bound, a sample's own y among the others: at most ln(samples)."""
    return _own(scores) - _log_mean(scores)


def _own(scores: Tensor) -> Tensor:
    return scores.diagonal(dim1=1, dim2=2).mean(1)


def _log_mean(scores: Tensor) -> Tensor:
    return scores.logsumexp((1, 2)) - math.log(scores[0].numel())
