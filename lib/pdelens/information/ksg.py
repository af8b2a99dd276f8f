"""Mutual information by nearest neighbours in the maximum norm, in nats.

Kraskov, Stoegbauer and Grassberger (2004, Phys. Rev. E 69, 066138). It takes continuous samples: ties make a k-th
distance zero or shared and bias the estimate, so ties are broken first (`samples.untied`).
"""

import torch
from torch import Tensor

from . import neighbours as search


def ksg(x: Tensor, y: Tensor, *, neighbours: int = 10, variant: int = 1) -> float:
    r"""Return the KSG estimate of I(X;Y) in nats.

    Variant 1, with $n_x$ the other points strictly nearer in x than the k-th neighbour in (x, y):

    $$I_1 = \psi(k) + \psi(N) - \langle \psi(n_x + 1) + \psi(n_y + 1) \rangle$$

    Variant 2, with $n_x$ the points no farther in x than the farthest of the k neighbours is in x:

    $$I_2 = \psi(k) - 1/k + \psi(N) - \langle \psi(n_x) + \psi(n_y) \rangle$$

    `x` (samples, dx) and `y` (samples, dy), both in the units in which the maximum norm shall compare their columns
    (variant 1 changes with their relative scale). No estimate passes `psi(samples) - psi(neighbours)`. Raises
    ValueError for other shapes, NaN, or fewer than `neighbours + 1` samples. Cost: 5,000 samples of 5 + 5 columns take
    some 0.2 s on one CPU thread; memory does not grow with the samples' square. Source: Kraskov et al. (2004),
    equations 8 and 9.

    >>> x, noise = torch.randn(2, 1000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> exact = -0.5 * torch.tensor(1 - 0.8**2).log()
    >>> bool(abs(ksg(x, 0.8 * x + 0.6 * noise) - exact) < 0.1)
    True
    """
    x, y = _checked(neighbours, x=x, y=y)
    if variant not in (1, 2):
        raise ValueError(f"Variant {variant!r} of KSG was asked for: there are 1 and 2.")
    distance, index = search.nearest(torch.cat([x, y], 1), neighbours)
    first = variant == 1
    radii = 2 * [distance[:, -1]] if first else [(t[index] - t[:, None]).abs().amax(-1).amax(1) for t in (x, y)]
    inside = [search.count_within(t, radius, strict=first) + first for t, radius in zip((x, y), radii, strict=True)]
    psi_k, psi_n = torch.digamma(torch.tensor([neighbours, len(x)], dtype=torch.float64)).tolist()
    constant = psi_k + psi_n - (0 if first else 1 / neighbours)
    return float(constant - torch.digamma(torch.stack(inside).double()).mean(-1).sum())


def conditional_ksg(x: Tensor, y: Tensor, z: Tensor, *, neighbours: int = 10) -> float:
    r"""Return the estimate of I(X;Y|Z) by Frenzel and Pompe, in nats.

    $$I = \psi(k) - \langle \psi(n_{xz} + 1) + \psi(n_{yz} + 1) - \psi(n_z + 1) \rangle$$

    with $n$ the other points strictly nearer in those columns than the k-th neighbour in (x, y, z). `x`, `y` and `z`
    (samples, dims). It is biased towards zero, the more so the more columns there are. Source: Frenzel and Pompe
    (2007).

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
    return float(torch.digamma(torch.tensor(neighbours, dtype=torch.float64)) - xz - yz + given)


def class_ksg(x: Tensor, labels: Tensor, *, neighbours: int = 3) -> float:
    r"""Return Ross's nearest-neighbour estimate of I(X;Y) in nats for a class Y, named by `labels`.

    $$I = \psi(N) + \langle \psi(k_i) - \psi(N_i) - \psi(m_i) \rangle$$

    with $N_i$ the samples of i's class, $k_i$ the smaller of `neighbours` and $N_i - 1$, and $m_i - 1$ the other
    samples of any class that are strictly nearer than the $k_i$-th neighbour in its own class. A sample alone in its
    class is left out, of N too. No estimate passes `psi(N) - psi(2)`, nor about H(Y); it may be below 0.

    `x` (samples, dims), continuous, in the units in which the maximum norm shall compare its columns; `labels`
    (samples,) of any type whose values can be compared. Raises ValueError for other shapes, NaN, or no class of two
    samples. Cost as `ksg`. Source: Ross 2014 (10.1371/journal.pone.0087357), whose count is scikit-learn's
    `mutual_info_classif` too.

    >>> labels = torch.arange(600) % 2
    >>> x = torch.randn(600, 1, generator=torch.Generator().manual_seed(0)) + 8 * labels[:, None]
    >>> 0.68 < class_ksg(x, labels) < 0.70
    True
    """
    search.check_points(x, "x")
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} were given: one for each of {len(x)} samples is wanted."
        )
    if neighbours < 1:
        raise ValueError(f"{neighbours} neighbours were asked for: at least one is wanted.")
    number, count = labels.unique(return_inverse=True, return_counts=True)[1:]
    kept = count[number] > 1
    if not bool(kept.any()):
        raise ValueError(f"No class has two of the {len(x)} samples: no sample has a neighbour of its own class.")
    x, number = x.detach().double()[kept], number[kept]
    radius, reached = x.new_empty(len(x)), torch.empty_like(number)
    for label in number.unique():
        members = (number == label).nonzero().flatten()
        reached[members] = min(neighbours, len(members) - 1)
        radius[members] = search.nearest(x[members], int(reached[members[0]]))[0][:, -1]
    inside = search.count_within(x, radius) + 1
    psi = torch.digamma(torch.stack([reached, count[number], inside]).double())
    return float(torch.digamma(torch.tensor(len(x), dtype=torch.float64)) + (psi[0] - psi[1] - psi[2]).mean())


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
