"""Information by nearest neighbours in the maximum norm, in nats: mutual, conditional, and transfer entropy.

Kraskov, Stoegbauer and Grassberger (2004, Phys. Rev. E 69, 066138), Frenzel and Pompe (2007, Phys. Rev. Lett.
99, 204101), Schreiber (2000, Phys. Rev. Lett. 85, 461). All of them take continuous samples: ties make a k-th
distance zero or shared and bias the estimate, so data with ties are `jittered` first.
"""

import torch
from torch import Tensor

from . import neighbour_shuffles
from . import neighbours as search


def ksg(x: Tensor, y: Tensor, *, neighbours: int = 10, variant: int = 1) -> float:
    r"""Return the KSG estimate of I(X;Y) in nats.

    Variant 1, with $n_x$ the other points strictly nearer in x than the k-th neighbour in (x, y):

    $$I_1 = \psi(k) + \psi(N) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle$$

    Variant 2, with $n_x$ the points no farther in x than the farthest of the k neighbours is in x:

    $$I_2 = \psi(k) - 1/k + \psi(N) - \langle \psi(n_x) + \psi(n_y) \rangle$$

    `x` (samples, dx) and `y` (samples, dy), both in the units in which the maximum norm shall compare their
    columns (variant 1 changes with their relative scale). No estimate passes `psi(samples) - psi(neighbours)`.
    Raises ValueError for other shapes, NaN, or fewer than `neighbours + 1` samples. Cost: 5,000 samples of
    5 + 5 columns take some 0.2 s on one CPU thread; memory does not grow with the samples' square.

    Source: Kraskov et al. (2004), equations 8 and 9.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 1, generator=generator, dtype=torch.float64)
    >>> y = 0.8 * x + 0.6 * torch.randn(1000, 1, generator=generator, dtype=torch.float64)
    >>> exact = -0.5 * torch.tensor(1 - 0.8**2).log()
    >>> bool(abs(ksg(x, y) - exact) < 0.1)
    True
    """
    x, y = _checked(neighbours, x=x, y=y)
    if variant not in (1, 2):
        raise ValueError(f"Variant {variant!r} of KSG was asked for: there are 1 and 2.")
    distance, index = search.nearest(torch.cat([x, y], 1), neighbours)
    radii = neighbour_shuffles.marginal_radii(x, y, distance, index, variant)
    inside = [
        search.count_within(part, radius, strict=variant == 1) for part, radius in zip((x, y), radii, strict=True)
    ]
    return float(_kraskov(len(x), neighbours, variant, *inside))


def ksg_shuffled(
    x: Tensor,
    y: Tensor,
    *,
    neighbours: int = 10,
    shuffles: int = 200,
    seed: int = 0,
    subsample: int | None = None,
    variant: int = 1,
) -> Tensor:
    """Return `ksg(x, y[permutation])` for so many random permutations, (shuffles,) float64.

    The permutations are `torch.randperm`'s, one after another from a CPU generator with this seed: every
    device gets the same. With `subsample`, only so many samples are shuffled, drawn once by that generator
    before the permutations. Shuffled data have no information, and KSG's mean stays at nought at either
    number of samples; the null's standard deviation grows by about `sqrt(samples / subsample)` (measured: 1.8 to
    1.9 at a quarter), so a p-value from it is too large rather than too small. Cost: 200 shuffles of 5,000
    samples take as long as some 110 estimates of 5 + 5 columns and 70 of 25 + 25, but as 200 of 1 + 1, where
    nearly all of the time goes into the joint tree: there a subsample of 1,250 takes as long as 50.

    >>> x, y = torch.randn(2, 300, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> null = ksg_shuffled(x, y, neighbours=5, shuffles=3, seed=0)
    >>> first = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    >>> float(null[0]) == ksg(x, y[first], neighbours=5)
    True
    """
    x, y = _checked(neighbours, x=x, y=y)
    samples = len(x)
    if subsample is not None and not neighbours < subsample <= samples:
        raise ValueError(
            f"A subsample of {subsample} of {samples} samples was asked for with {neighbours} neighbours: it needs "
            "more samples than neighbours, and no more than there are."
        )
    if shuffles < 1 or variant not in (1, 2):
        raise ValueError(f"{shuffles} shuffles of variant {variant!r} were asked for: at least one, of 1 or 2.")
    generator = torch.Generator().manual_seed(seed)
    if subsample is not None:
        kept = torch.randperm(samples, generator=generator)[:subsample].to(x.device)
        x, y, samples = x[kept], y[kept], subsample
    found = []
    while len(found) < shuffles:
        several = min(shuffles - len(found), neighbour_shuffles.at_once(samples))
        permutations = torch.stack([torch.randperm(samples, generator=generator) for _ in range(several)])
        inside = neighbour_shuffles.counts_over_shuffles(x, y, permutations, neighbours, variant)
        found += [_kraskov(samples, neighbours, variant, *pair) for pair in zip(*inside, strict=True)]
    return torch.stack(found).cpu()


def conditional_ksg(x: Tensor, y: Tensor, z: Tensor, *, neighbours: int = 10) -> float:
    r"""Return the estimate of I(X;Y|Z) by Frenzel and Pompe, in nats.

    $$I = \psi(k) - \langle \psi(n_{xz} + 1) + \psi(n_{yz} + 1) - \psi(n_z + 1) \rangle$$

    with $n$ the other points strictly nearer in those columns than the k-th neighbour in (x, y, z). `x`, `y`
    and `z` (samples, dims). It is biased towards zero, the more so the more columns there are.

    Source: Frenzel and Pompe (2007).

    >>> z, a, b = torch.randn(3, 800, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> abs(conditional_ksg(z + a, z + b, z)) < 0.05 < ksg(z + a, z + b)
    True
    """
    x, y, z = _checked(neighbours, x=x, y=y, z=z)
    radius = search.nearest(torch.cat([x, y, z], 1), neighbours)[0][:, -1]
    xz, yz, given = (
        torch.digamma(search.count_within(part, radius).double() + 1).mean()
        for part in (torch.cat([x, z], 1), torch.cat([y, z], 1), z)
    )
    return float(_psi(neighbours) - xz - yz + given)


def transfer_entropy(source: Tensor, target: Tensor, *, lag: int = 1, history: int = 1, neighbours: int = 10) -> float:
    r"""Return the transfer entropy from one series to another, in nats.

    $$T = I(y_t; x_{t-\mathrm{lag}}, \dots, x_{t-\mathrm{lag}-h+1} \mid y_{t-1}, \dots, y_{t-h})$$

    `source` x and `target` y, (times, dims) or (times,), one step a row; h is `history`. Raises ValueError
    where the series are of different lengths or too short for their own past.

    Source: Schreiber (2000), equation 4, by `conditional_ksg`.

    >>> drive = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> follows = drive.roll(1) + 0.5 * torch.randn(1000, generator=torch.Generator().manual_seed(1))
    >>> transfer_entropy(drive, follows) > 0.5 > transfer_entropy(follows, drive)
    True
    """
    source, target = (series[:, None] if series.ndim == 1 else series for series in (source, target))
    start = max(lag + history - 1, history)
    if lag < 1 or history < 1 or len(source) != len(target) or len(target) <= start:
        raise ValueError(
            f"Series of {len(source)} and {len(target)} steps with lag {lag} and history {history} were given: "
            f"lag and history are at least 1, and both series need the same number of steps, more than {start}."
        )
    times = range(start, len(target))
    past = [
        torch.cat([series[start - back : len(times) + start - back] for back in backs], 1)
        for series, backs in ((source, range(lag, lag + history)), (target, range(1, history + 1)))
    ]
    return conditional_ksg(target[start:], past[0], past[1], neighbours=neighbours)


def jittered(x: Tensor, seed: int) -> Tensor:
    """Return `x` (samples, dims), centred, plus normal noise of 1e-10 of each column's standard deviation.

    It breaks ties (duplicates, rounded or discrete values) and changes nothing else that an estimate could
    see. In float64, which that noise needs; centred, so that a large mean does not swallow it. A constant
    column stays constant. The same seed gives the same noise on every device.

    >>> x = torch.tensor([[1.0], [1.0], [2.0]], dtype=torch.float64)
    >>> len(jittered(x, seed=0).unique()), float((jittered(x, seed=0) - (x - x.mean())).abs().max()) < 1e-8
    (3, True)
    """
    centred = x.double() - x.double().mean(0)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return centred + 1e-10 * centred.std(0, correction=0) * noise.to(x.device)


def _kraskov(samples: int, neighbours: int, variant: int, in_x: Tensor, in_y: Tensor) -> Tensor:
    own = 1 if variant == 1 else 0
    constant = _psi(neighbours) + _psi(samples) - (0 if variant == 1 else 1 / neighbours)
    counted = torch.stack([in_x, in_y]).double() + own
    return constant - torch.digamma(counted).mean(-1).sum()


def _psi(number: int) -> float:
    return float(torch.digamma(torch.tensor(float(number), dtype=torch.float64)))


def _checked(neighbours: int, **columns: Tensor) -> list[Tensor]:
    """Raise ValueError unless the samples fit together; give them in float64."""
    for name, part in columns.items():
        search.check_points(part, name)
    lengths = [len(part) for part in columns.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"{' and '.join(map(str, lengths))} samples were given: sample i of each belongs together.")
    if not 1 <= neighbours < lengths[0]:
        raise ValueError(
            f"{neighbours} neighbours of {lengths[0]} samples were asked for: 1 ... samples - 1 are there."
        )
    return [part.detach().double() for part in columns.values()]
