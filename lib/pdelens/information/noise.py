"""What a deterministic map tells of its input once noise of a stated size is added: measured, and bounded.

Without noise the question has no useful answer: the information is ln N for N inputs that a map keeps apart, and
infinite for most continuous ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from .. import _doors
from . import density
from .gaussian import paired
from .mixture import Mixture, centred, extremes, mixture_of, overlaps, terms, upper_bound

# Noise levels looked at in one pass over the pairs of inputs, which costs as much as a few levels do.
_LEVELS = 9
# So few terms carry what is missing to the ceiling that their spread says nothing of those not met.
_FEW = 100
_SHARE = 0.5  # of the ceiling: what is left at the noise that stands for a depth


@dataclass(frozen=True)
class NoisyInformation:
    """I(X; T + noise) in nats, X one of N given inputs; prints as one line, `float()` gives the value.

    `error` is the standard error of the Monte Carlo, `interval` the value and 1.96 of it to either side, within 0 and
    the `ceiling` ln N. It speaks of these N inputs, not of others. `sigma` is the noise's deviation in the units of
    the states, `relative` the same over their scale (`scale`). `draws` of the noise were made for each of the inputs
    that differ.

    >>> import torch
    >>> print(noisy_information(torch.tensor([[0.0], [100.0]]), 1.0))
    0.693 +- 0.000 nats of 0.693 at sigma = 1 (0.02 of the scale); N = 2, 1 features, 4096 draws each
    """

    value: float
    error: float
    ceiling: float
    sigma: float
    relative: float
    inputs: int
    features: int
    draws: int
    unit: str = "nats"

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the Monte Carlo."""
        return max(self.value - 1.96 * self.error, 0.0), min(self.value + 1.96 * self.error, self.ceiling)

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} +- {self.error:.3f} {self.unit} of {self.ceiling:.3f} at sigma = {self.sigma:.3g} "
            f"({self.relative:.3g} of the scale); N = {self.inputs}, {self.features} features, {self.draws} draws each"
        )


class HalfNoise(NamedTuple):
    """The noise at which half of ln N is left: `sigma` in the states' units, its standard error, sigma over the scale.

    A layer that keeps its inputs far apart has a large `relative`, whatever units it is in.

    >>> import torch
    >>> sigma, error, relative = half_information_noise(torch.tensor([[0.0], [2.0]]))
    >>> error < 0.02 * sigma, relative == sigma  # the two states are one unit from their mean
    (True, True)
    """

    sigma: float
    error: float
    relative: float


def noisy_information(
    states: Float[Tensor, "inputs entries *width"],
    sigma: float,
    *,
    relative: bool = False,
    mask: Bool[Tensor, "inputs entries"] | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> NoisyInformation:
    r"""Return I(X; T + noise) in nats, X uniform over the given inputs: of the very mixture, by Monte Carlo.

    X is one of N inputs, each as likely, $t_i$ is what a deterministic map makes of it, and Gaussian noise Z of
    deviation `sigma` is added to every feature:

    $$I = -\frac1N \sum_i \mathbb E_Z \ln \frac1N \sum_j e^{-(|t_i - t_j + Z|^2 - |Z|^2) / 2 \sigma^2}.$$

    No density is estimated. It falls from `ln N` (the entropy of the states that differ, where some are equal) to 0 as
    sigma grows, whatever the map is; only in between does it say anything. A map of the states that brings none of
    them farther apart, a projection say, never has more. The noise is added where the states are read, so that data
    processing does not bind one layer to the next.

    `states` (inputs, features), or (inputs, tokens, width), taken as one row of numbers an input. `sigma` is in the
    states' units or, with `relative`, in units of their `scale`: the root mean square over all real entries of the
    distance from the entry's mean over inputs. `mask`, True at real entries, is (inputs, features) or (inputs,
    tokens); padding is filled with the mean of the inputs that are real there, so that it tells nothing of its own.
    `draws`, an even number, is how often noise is drawn for each input, in opposite pairs (errors that are odd in the
    noise cancel); without it at least 4, and 8,192 in all. The error is estimated within the inputs, so two pairs are
    needed; with one pair it is an upper estimate, their spread over inputs included. Where so little is missing to ln N
    that few draws met it, the error is an upper one, from the overlaps of the inputs' Gaussians.

    Raises ValueError for fewer than two inputs, NaN, a sigma that is not positive, states that are all the same, and
    what does not fit into memory (with its bytes). Deterministic in `seed`, on a GPU with the same noise as on a CPU.
    Cost: `(1 + draws / 2) N^2 features` for the products and `draws N^2` exponentials: 0.3 s at N = 1,000 of 64
    features, on one thread. Memory: the states in double precision `2 + draws / 2` times and half a GiB, whatever N is.
    Source: Goldfeld et al. 2019 (1810.05728), who add the noise inside the network.

    >>> import torch
    >>> two = torch.tensor([[0.0], [100.0]])
    >>> round(float(noisy_information(two, 1.0)), 6), round(float(noisy_information(two, 1e9)), 6)
    (0.693147, 0.0)
    """
    _doors.real("sigma", sigma, above=0.0)
    _doors.flag("relative", relative)
    mixture = mixture_of(states, mask, draws, seed)
    level = float(sigma) * mixture.scale if relative else float(sigma)
    return _curve(mixture, [level])[0]


def noise_curve(
    states: Float[Tensor, "inputs entries *width"],
    sigmas: Sequence[float],
    *,
    relative: bool = False,
    mask: Bool[Tensor, "inputs entries"] | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> list[NoisyInformation]:
    """Return `noisy_information` at several sigmas, the same noise at each: the products are made once for all.

    >>> import torch
    >>> [round(float(found), 3) for found in noise_curve(torch.tensor([[0.0], [1.0]]), [0.01, 100.0])]
    [0.693, 0.0]
    """
    wanted = "numbers above 0, at least one,"
    levels = _doors.tensor("sigmas", sigmas, wanted, exact=True)
    if levels.ndim != 1 or not levels.numel() or levels.is_complex():
        raise ValueError(f"sigmas of shape {tuple(levels.shape)} were given: {wanted} are wanted.")
    for level in levels.tolist():
        _doors.real("sigmas", level, above=0.0)
    _doors.flag("relative", relative)
    mixture = mixture_of(states, mask, draws, seed)
    return _curve(mixture, [float(level) * (mixture.scale if relative else 1.0) for level in levels.tolist()])


def half_information_noise(
    states: Float[Tensor, "inputs entries *width"],
    *,
    mask: Bool[Tensor, "inputs entries"] | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> HalfNoise:
    r"""Return the noise at which I(X; T + noise) = ln(N) / 2, with its standard error: one number for a layer.

    Found by narrowing a bracket on common random numbers, nine levels a pass. The first bracket is certain: with the
    upper bound U of `kernel_bounds`, $U(2\sigma) \le I(\sigma) \le U(\sigma)$, so that the sigma wanted lies between
    a half and the whole of the one where U has that value. The error is that of the information over its slope.

    Arguments and errors as `noisy_information`; ValueError too where so many inputs have equal states that less than
    half of ln N is left without noise. Cost: about fifteen calls of `noisy_information`, 5 s at N = 1,000 of 64
    features.

    >>> import torch
    >>> found = half_information_noise(torch.tensor([[0.0], [1.0]]))
    >>> round(found.sigma, 1), found.error < 0.01, round(found.relative, 1)
    (0.5, True, 1.0)
    """
    mixture = mixture_of(states, mask, draws, seed)
    target = _SHARE * math.log(mixture.inputs)
    entropy = -float((mixture.log_weights.exp() * mixture.log_weights).sum())
    if entropy <= target:
        raise ValueError(
            f"{mixture.inputs} inputs have {len(mixture.points)} different states, {entropy:.3f} nats: less than "
            f"half of ln N, {target:.3f}, is left without any noise; leave out repeated inputs."
        )
    nearest, farthest = extremes(mixture)
    low = nearest / math.sqrt(2 * math.log(1e3 * len(mixture.points)))
    low, high, _, _ = _narrowed(lambda s: upper_bound(mixture, s), low, farthest / math.sqrt(2 * target), target, 4)
    found: list[NoisyInformation] = []

    def values(sigmas: Sequence[float]) -> list[float]:
        found[:] = _curve(mixture, sigmas)
        return [each.value for each in found]

    low, high, above, below = _narrowed(values, low / 2, high, target, 2)
    slope = (above - below) / math.log(high / low)
    if not slope > 0:
        return HalfNoise(low, math.inf, low / mixture.scale)
    sigma = low * math.exp(min(max((above - target) / slope, 0.0), math.log(high / low)))
    error = min(found, key=lambda each: abs(each.sigma - sigma)).error
    return HalfNoise(sigma, sigma * error / slope, sigma / mixture.scale)


def scale(states: Tensor, mask: Tensor | None = None) -> float:
    """Return the root mean square over real entries of the distance from the entry's mean over inputs.

    `states` and `mask` as in `noisy_information`. Noise is stated relative to it.

    >>> import torch
    >>> scale(torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
    1.0
    """
    return centred(states, mask)[1]


def _curve(mixture: Mixture, sigmas: Sequence[float]) -> list[NoisyInformation]:
    """Return the information at each sigma."""
    each = terms(mixture, sigmas)  # (sigmas, pairs, distinct)
    weights = mixture.log_weights.exp()
    pairs, ceiling = each.shape[1], math.log(mixture.inputs)
    if pairs > 1:
        variances = (each.var(1) @ weights.square()) / pairs
    else:
        variances = (each[:, 0] - each.mean(2)).square() @ weights.square()
    missing = -each - mixture.log_weights  # to the ceiling, term by term: none is below 0
    met = missing.sum((1, 2)).square() / missing.square().sum((1, 2)).clamp(min=1e-300)
    enough = min(_FEW, missing[0].numel() / 2)
    found = []
    for sigma, value, variance, few in zip(
        sigmas, (each.mean(1) @ weights).tolist(), variances.tolist(), (met < enough).tolist(), strict=True
    ):
        if few:
            # ln(1 + x)^2 <= 2.2 x^(1/2), and the mean of x^(1/2) is the overlap.
            variance = max(variance, 2.2 * float(overlaps(mixture, sigma) @ weights.square()) / pairs)
        value = min(max(value, 0.0), ceiling)
        sizes = mixture.inputs, mixture.features, 2 * pairs
        found.append(NoisyInformation(value, variance**0.5, ceiling, sigma, sigma / mixture.scale, *sizes))
    return found


def _narrowed(
    evaluate: Callable[[Sequence[float]], Sequence[float]], low: float, high: float, target: float, passes: int
) -> tuple[float, float, float, float]:
    """Return neighbouring levels about the place where a falling function passes the target, and its values there."""
    above = below = math.nan
    for _ in range(passes):
        levels = np.geomspace(low, high, _LEVELS).tolist()
        values = evaluate(levels)
        at = next((n for n, value in enumerate(values) if value <= target), _LEVELS - 1)
        at = max(at, 1)
        low, high, above, below = levels[at - 1], levels[at], values[at - 1], values[at]
    return low, high, above, below


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

    >>> import torch
    >>> two = torch.tensor([[0.0], [100.0]])
    >>> [round(bound, 6) for bound in kernel_bounds(two, variance=1.0)]
    [0.693147, 0.693147]
    """
    t, _ = paired(t, t)
    density.positive("variance", variance)
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
    for rows in density.chunks(len(t)):
        total += float((-density.squared_distances(t, rows) / (2 * variance)).logsumexp(1).sum())
    return math.log(len(t)) - total / len(t)
