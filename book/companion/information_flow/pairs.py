"""What token j's state adds to what token i's own state says of its next one: a linear Gaussian family, held out."""

import torch
from torch import Tensor

# How many directions of the next state are asked about, and by how many of the other token's state.
ASKED, TOLD = 8, 8
# Gaussian noise on the next state, and the penalty on standardised features: shares of a depth's mean square.
NOISE, RIDGE = 1e-3, 1e-3


def pair_information(now: Tensor, after: Tensor, asked: int = ASKED, told: int = TOLD) -> Tensor:
    r"""Return what states of other places tell of the next state, beyond its own, (2, tokens, tokens), in nats.

    $$I_{ij} = H_V(Y_i \mid S_i) - H_V(Y_i \mid S_i, T_j)$$

    `now`, `after` (examples, tokens, width): the states at two depths; examples are drawn anew, places stay. S_i is
    token i's state now, T_j the `told` leading principal components of token j's. Y_i is the next state of token i in
    the `asked` leading directions of what S_i does not say of it, plus independent noise of `NOISE` of the depth's mean
    square change. H_V is the cross-entropy, held out, of Gaussians whose mean is linear in what is given and whose
    covariance is fixed (ridge, `RIDGE`). Directions, maps and covariances are fitted to one half of the examples and
    read on the other, then the other way round: the first axis. Entry i = j is 0 by definition. Cost: tokens times a
    least-squares problem of `tokens * told` right sides.
    """
    examples = len(now)
    first, second = torch.arange(examples).split((examples + 1) // 2)
    noise, both = NOISE * (after - now).double().square().mean(), (now.double(), after.double())
    found = [_fold(*both, fit, read, noise, asked, told) for fit, read in ((first, second), (second, first))]
    return torch.stack(found)


def _fold(now: Tensor, after: Tensor, fit: Tensor, read: Tensor, noise: Tensor, asked: int, told: int) -> Tensor:
    tokens = now.shape[1]
    components = _scores(now, fit, told).flatten(1)  # (examples, tokens * told)
    rows = []
    for place in range(tokens):
        given = torch.cat([torch.ones(len(now), 1).double(), _standardised(now[:, place], fit)], 1)
        both = torch.cat([after[:, place], components], 1)
        known = given[fit]
        penalty = RIDGE * len(fit) * torch.eye(known.shape[1]).double()
        penalty[0, 0] = 0
        rest = both - given @ torch.linalg.solve(known.T @ known + penalty, known.T @ both[fit])
        y, t = rest[:, : after.shape[-1]], rest[:, after.shape[-1] :].unflatten(1, (tokens, -1)).transpose(0, 1)
        y = y @ torch.linalg.eigh(y[fit].T @ y[fit])[1][:, -asked:]
        rows.append(_gains(y[fit], t[:, fit], y[read], t[:, read], noise))
    found = torch.stack(rows)
    return found - torch.diag(found.diagonal())


def _gains(y: Tensor, t: Tensor, y_read: Tensor, t_read: Tensor, noise: Tensor) -> Tensor:
    """Return how much less cross-entropy there is with each t, (tokens,); y (examples, asked), t (tokens, ., told)."""
    count, told = len(y), t.shape[-1]
    gram, cross = t.mT @ t / count, t.mT @ y / count
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1) + 1e-300
    weights = torch.linalg.solve(gram + ridge[:, None, None] * torch.eye(told).double(), cross)
    alone = _entropy(y[None], y_read[None], noise)
    return alone - _entropy(y - t @ weights, y_read - t_read @ weights, noise)


def _entropy(fitted: Tensor, read: Tensor, noise: Tensor) -> Tensor:
    """Return the cross-entropy of rests (., examples, asked), but for its constant, expected over the noise."""
    identity = torch.eye(fitted.shape[-1]).double()
    factor = torch.linalg.cholesky(fitted.mT @ fitted / fitted.shape[1] + noise * identity)
    inverse = torch.cholesky_inverse(factor)
    square = torch.einsum("kni,kij,knj->k", read, inverse, read) / read.shape[1]
    squares = square + noise * inverse.diagonal(dim1=1, dim2=2).sum(1)
    return factor.diagonal(dim1=1, dim2=2).log().sum(1) + squares / 2


def _scores(states: Tensor, fit: Tensor, count: int) -> Tensor:
    """Return the leading principal components of states about their places' means, (examples, tokens, count)."""
    centred = states - states[fit].mean(0)
    rows = centred[fit].flatten(0, 1)
    return centred @ torch.linalg.eigh(rows.T @ rows)[1][:, -count:]


def _standardised(x: Tensor, fit: Tensor) -> Tensor:
    centred = x - x[fit].mean(0)
    return centred / centred[fit].square().mean(0).sqrt().clamp_min(1e-12)
