"""What a deterministic map tells of its input once noise of a stated size is added: measured, and bounded.

Without noise the question has no useful answer: the information is ln N for N inputs that a map keeps apart, and
infinite for most continuous ones.
"""

import math

import torch
from torch import Tensor

from .density import chunks, positive, squared_distances
from .gaussian import paired


def noisy_information(t: Tensor, *, variance: float, draws: int = 4, seed: int = 0) -> float:
    r"""Return I(X; T + noise) in nats, X uniform over the given samples: the very mixture, by Monte Carlo.

    X is one of N inputs, each as likely, $t_i$ (samples, columns) is what a deterministic map makes of it, and
    Gaussian noise Z of the stated `variance` is added to every column:

    $$I = -\frac1N \sum_i \mathbb E_Z \ln \frac1N \sum_j e^{-(|t_i - t_j + Z|^2 - |Z|^2) / 2 \sigma^2},$$

    the expectation over `draws` draws of Z for every i, half of them the negatives of the others where the number is
    even. It runs from `ln N` (no noise) to 0, whatever the map; the error of one call is about $1 / \sqrt{N \cdot
    draws}$ nats. `variance` has the units of t squared: give it relative to the layer's scale, and sweep it. No
    statement about other inputs than these N. ValueError for a variance or a number of draws that is not positive.
    Cost: `draws N^2 columns`, chunked. Source: Goldfeld et al. 2019 (1810.05728), who add the noise to the network.

    >>> two = torch.tensor([[0.0], [100.0]])
    >>> round(noisy_information(two, variance=1.0), 6), round(noisy_information(two, variance=1e12), 6)
    (0.693147, 0.0)
    """
    t, _ = paired(t, t)
    positive("variance", variance)
    if draws < 1:
        raise ValueError(f"{draws} draws were asked for: at least one is wanted.")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn((draws + 1) // 2, *t.shape, generator=generator, dtype=torch.float64).to(t.device)
    # Antithetic pairs: errors that are odd in the noise cancel.
    noise = variance**0.5 * torch.stack([half, -half], 1).flatten(0, 1)[:draws]
    centred, total = t - t.mean(0), 0.0
    for rows in chunks(len(t)):
        distances = squared_distances(centred, rows)
        for drawn in noise:
            along = (drawn[rows] * centred[rows]).sum(1, keepdim=True) - drawn[rows] @ centred.T
            exponents = (distances + 2 * along).div_(-2 * variance)
            total += float(exponents.logsumexp(1).sum())
    return math.log(len(t)) - total / (len(t) * draws)


def kernel_bounds(t: Tensor, *, variance: float, labels: Tensor | None = None) -> tuple[float, float]:
    r"""Return a lower and an upper bound of I(X; T + noise), in nats, X uniform over the given samples.

    X, t and `variance` as in `noisy_information`. The noisy state is a mixture of N Gaussians about the $t_i$, and

    $$-\tfrac1N \sum_i \ln \tfrac1N \sum_j e^{-|t_i - t_j|^2 / 8 \sigma^2} \;\le\; I \;\le\;
      -\tfrac1N \sum_i \ln \tfrac1N \sum_j e^{-|t_i - t_j|^2 / 2 \sigma^2}$$

    (Bhattacharyya below, Kullback-Leibler above). With integer `labels` (samples,) the bounds are of I(label; T +
    noise), the entropies of the classes' mixtures taken off. They are bounds for those N inputs, not for the law they
    were drawn from: both are at most `ln N`, and where the $t_i$ lie apart both equal it, however large the information
    of the law is. ValueError for a variance that is not positive. Cost: `N^2 columns`, chunked: no N^2 memory. Source:
    Kolchinsky and Tracey 2017 (10.3390/e19070361).

    >>> two = torch.tensor([[0.0], [100.0]])
    >>> [round(bound, 6) for bound in kernel_bounds(two, variance=1.0)]
    [0.693147, 0.693147]
    """
    t, _ = paired(t, t)
    positive("variance", variance)
    lower, upper = _mixture(t, 4.0 * variance), _mixture(t, variance)
    if labels is None:
        return lower, upper
    if labels.shape != t.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} were given: one integer for each of "
            f"the {len(t)} samples is wanted."
        )
    for label in labels.unique():
        members = t[labels == label]
        share = len(members) / len(t)
        lower, upper = lower - share * _mixture(members, variance), upper - share * _mixture(members, 4.0 * variance)
    return max(lower, 0.0), upper


def _mixture(t: Tensor, variance: float) -> float:
    """Entropy of a mixture of Gaussians about t less one Gaussian's, by pairwise Gaussian overlaps."""
    total = 0.0
    for rows in chunks(len(t)):
        total += float((-squared_distances(t, rows) / (2 * variance)).logsumexp(1).sum())
    return math.log(len(t)) - total / len(t)
