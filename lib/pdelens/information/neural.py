"""Mutual information from trained critics and probes: each value is read on samples kept from the training."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from . import critics
from .cross_fit import blocks, cross_fitted, fit, parts, standardised
from .gaussian import normal_scores, paired
from .ksg import ksg

Critic = Literal["separable", "joint"]
Probe = Literal["linear", "mlp"]
Bound = Callable[[Tensor], Tensor]

# Held-out samples whose every pair is scored at once: 2^20 pairs a member.
_BLOCK = 1024


def info_nce(
    x: Tensor,
    y: Tensor,
    *,
    batch: int = 256,
    critic: Critic = "separable",
    seeds: int = 5,
    steps: int = 1000,
    seed: int = 0,
) -> float:
    r"""Return the InfoNCE bound of critics f on samples that they were not fitted to, in nats.

    $$I \ge \mathbb E\Big[\tfrac1B \sum_i \ln \frac{e^{f(x_i, y_i)}}{\tfrac1B \sum_j e^{f(x_i, y_j)}}\Big]$$

    A lower bound in expectation for any critic; it never passes `ln B`, B being `batch` or, where that is smaller,
    the validation part (`ceiling`). What it misses is the critic's fault, or the ceiling's.

    `seeds` critics train at once, as one tensor program. Each is fitted to its own 65 % of the samples, stopped where
    its bound on another 15 % is best (looked at every 10 steps; at rest for 15 looks, or `steps`), and read on the
    last 20 %; the result is their mean. With five seeds the parts that are read make up all samples. x and y are
    standardised by the training part; scores are held within `ln n + 2`, n the samples read, by a tanh, for one wild
    pair would decide an exponential's mean. `"separable"` is `g(x).h(y) + a(x) + b(y)`, 16 products, 64 hidden units
    beside a linear map on each side; `"joint"` puts every pair through two layers of 64, at tens of times the cost.

    x (samples, dx), y (samples, dy), at least 50 samples: else ValueError. Deterministic in `seed`; no global random
    state is touched. Cost: `seeds * steps * batch^2`, at most about 8 s at 2,000 samples on one thread. Source: van
    den Oord, Li and Vinyals 2018 (1807.03748); Poole et al. 2019 (1905.06922).

    >>> x, noise = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> 0.3 < info_nce(x, 0.8 * x + 0.6 * noise, steps=100) < 0.6  # the truth: 0.511
    True
    """
    return _read(x, y, critics.info_nce, critics.info_nce, batch, critic, seeds, steps, seed)


def nwj(
    x: Tensor,
    y: Tensor,
    *,
    batch: int = 256,
    critic: Critic = "separable",
    seeds: int = 5,
    steps: int = 1000,
    seed: int = 0,
) -> float:
    r"""Return the bound of Nguyen, Wainwright and Jordan on held-out samples, in nats.

    $$I \ge \mathbb E_{p(x, y)}[f] + 1 - \mathbb E_{p(x) p(y)}[e^f]$$

    A lower bound in expectation for any critic. The second mean is over all pairs of the n samples that are read (in
    blocks of at most 1,024), each with itself included, in training as in reading: that keeps the value at or below `ln
    n` (`ceiling`) and costs it about $\mathbb E_{p(x, y)}[e^f] / n$. As the information nears the ceiling few pairs
    carry that mean, and the value falls short and scatters. All else as in `info_nce`. Source: Nguyen, Wainwright and
    Jordan 2010 (0809.0853); Poole et al. 2019 (1905.06922), with `f + 1` for f.

    >>> x, noise = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> 0.3 < nwj(x, 0.8 * x + 0.6 * noise, steps=100) < 0.6  # the truth: 0.511
    True
    """
    return _read(x, y, critics.nwj, critics.nwj, batch, critic, seeds, steps, seed)


def mine(
    x: Tensor,
    y: Tensor,
    *,
    batch: int = 256,
    critic: Critic = "separable",
    seeds: int = 5,
    steps: int = 1000,
    seed: int = 0,
    memory: float = 0.9,
) -> float:
    r"""Return the Donsker-Varadhan bound of critics trained as MINE, on held-out samples, in nats.

    $$I \ge \mathbb E_{p(x, y)}[f] - \ln \mathbb E_{p(x) p(y)}[e^f]$$

    A batch's gradient of the logarithm is biased, so its denominator is an average over steps that keeps `memory` of
    the last. The logarithm of a mean over finitely many pairs is too small on average, so the value is a bound only up
    to that; each sample paired with itself, as in `nwj`, works the other way and keeps it at or below `ln n`. All else
    as in `info_nce`. Source: Belghazi et al. 2018 (1801.04062).

    >>> x, noise = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> 0.3 < mine(x, 0.8 * x + 0.6 * noise, steps=100) < 0.6  # the truth: 0.511
    True
    """
    objective = critics.MovingAverage(memory)
    return _read(x, y, objective, critics.donsker_varadhan, batch, critic, seeds, steps, seed)


def ceiling(samples: int, *, batch: int | None = None) -> float:
    """Return the largest value that a critic can report from so many samples, in nats.

    `ln B` for `info_nce` where `batch` is given, `ln n` for `nwj` and `mine` otherwise.

    >>> round(ceiling(2000, batch=256), 3), round(ceiling(2000), 3)
    (5.545, 5.991)
    """
    test, validation = _sizes(samples)
    return math.log(min(test, _BLOCK) if batch is None else min(batch, validation))


def probe_bound(
    x: Tensor, labels: Tensor, *, probe: Probe = "linear", folds: int = 5, steps: int = 1000, seed: int = 0
) -> float:
    r"""Return the usable information of x about class labels for a family of probes, held out, in nats.

    $$I(X; Y) \ge H(Y) - \mathbb E[-\ln q(y \mid x)]$$

    q is the softmax of a linear map of standardised x (`"linear"`), or of that plus one hidden layer of 64 units
    (`"mlp"`). Cross-fitted: each of the `folds` probes is fitted to 80 % of the other folds, stopped by the rest of
    them and read on its own. H(Y), the ceiling, is the entropy of the label counts. A lower bound of I(X; Y) in
    expectation for any probe, below 0 where the probes do worse than the counts. It may rise with depth, for a deeper
    layer may be easier to read: no violation of data processing.

    x (samples, columns), labels (samples,) of an integer type, at least two classes and ten samples a fold: else
    ValueError. Deterministic in `seed`. Cost: up to `folds * steps` batches of 256. Source: Xu et al. 2020
    (2002.10689).

    >>> labels = torch.arange(500) % 2
    >>> x = torch.stack([labels.double(), torch.randn(500, generator=torch.Generator().manual_seed(0))], 1)
    >>> 0.6 < probe_bound(x, labels, steps=300) <= math.log(2)
    True
    """
    if labels.is_floating_point() or labels.is_complex() or labels.numel() != len(labels):
        raise ValueError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} were given: (samples,) of an integer type is "
            "wanted; give `labels.long()` for classes, or take `gaussian_probe_bound` for a continuous target."
        )
    x, _ = paired(x, labels.reshape(-1, 1).double())
    classes, labels = labels.flatten().unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"Every label is {classes.tolist()[0]}: a class that never changes carries no information.")
    shares = labels.bincount().double() / len(labels)

    def losses(outputs: Tensor, rows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs.mT, labels[rows], reduction="none")

    read, _ = cross_fitted(x, shares.log().float(), losses, probe, folds, steps, seed)
    return float(torch.special.entr(shares).sum() - read.mean())


def gaussian_probe_bound(
    x: Tensor, y: Tensor, *, probe: Probe = "linear", folds: int = 5, steps: int = 1000, seed: int = 0
) -> float:
    r"""Return the usable information of x about one continuous column for Gaussian probes, held out, in nats.

    $$I(X; Y) \ge \tfrac12 \ln(2 \pi e) - \mathbb E[-\ln \mathcal N(s;\, \mu(x), v)]$$

    y (samples, 1), else ValueError, is replaced by its normal scores s, which keeps the information and makes the
    first term, the entropy of s, known. The mean $\mu$ is fitted by least squares (families, folds and stopping as in
    `probe_bound`, like all else); v is its mean square error on the part that stopped it. A linear $\mu$ gives about
    $-\tfrac12 \ln(1 - R^2)$; information in y's spread or higher moments is not usable so.

    >>> x, noise = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> 0.4 < gaussian_probe_bound(x, 0.8 * x + 0.6 * noise, steps=300) < 0.6
    True
    """
    x, y = paired(x, y)
    if y.shape[1] != 1:
        raise ValueError(f"y of {y.shape[1]} columns was given: one is wanted; give the columns one at a time.")
    scores = normal_scores(y).flatten().float()

    def losses(outputs: Tensor, rows: Tensor) -> Tensor:
        return (outputs.squeeze(2) - scores[rows]).square()

    read, variance = cross_fitted(x, torch.zeros(1), losses, probe, folds, steps, seed)
    return float(0.5 - 0.5 * (variance.log() + read / variance).mean())


def sliced(
    x: Tensor,
    y: Tensor,
    *,
    slices: int = 200,
    estimator: Callable[[Tensor, Tensor], float] | None = None,
    seed: int = 0,
) -> float:
    r"""Return the sliced mutual information, in nats: NOT the mutual information.

    $$SI(X; Y) = \mathbb E_{\theta, \phi}\, I(\theta^\top X;\, \phi^\top Y)$$

    over independent, uniformly random directions: the mean of a 1+1 `estimator(x, y)`, by default KSG 1 with 10
    neighbours, over `slices` pairs of them. It is 0 exactly at independence and never passes I(X; Y), but its size is
    another quantity's: isotropic Gaussians of d columns, each with correlation rho to its partner, have SI near
    `rho^2 / 2d` and I = `-d/2 ln(1 - rho^2)`. Compare it only with itself, at the same dx and dy. It obeys no
    data-processing inequality: stretching the columns that matter raises it.

    x (samples, dx), y (samples, dy) keep their units, which decide the directions: standardise or whiten first, and
    say so. The average's error is the slices' spread over `sqrt(slices)`. Cost: `slices` calls. Source: Goldfeld and
    Greenewald 2021 (2110.05279).

    >>> from pdelens.information.gaussian import gaussian
    >>> wide = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> 0 < sliced(wide, wide[:, :1], estimator=gaussian) < gaussian(wide[:, :1] + 1e-3 * wide[:, 1:], wide[:, :1])
    True
    """
    x, y = paired(x, y)
    if slices < 1:
        raise ValueError(f"{slices} slices were asked for: at least one is needed.")
    estimator = estimator or ksg
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        nn.functional.normalize(torch.randn(slices, t.shape[1], generator=generator, dtype=torch.float64)).to(t.device)
        for t in (x, y)
    )
    return sum(estimator(x @ a[:, None], y @ b[:, None]) for a, b in zip(first, second, strict=True)) / slices


def _read(
    x: Tensor, y: Tensor, objective: Bound, bound: Bound, batch: int, critic: str, seeds: int, steps: int, seed: int
) -> float:
    """Train critics on `objective`; read `bound` on the samples kept from them, InfoNCE in batches, others whole."""
    x, y = paired(x, y)
    test, validation = _sizes(len(x))
    if critic not in ("separable", "joint"):
        raise ValueError(f"critic={critic!r} was given: 'separable' or 'joint' is wanted.")
    if min(seeds, steps) < 1 or batch < 2:
        raise ValueError(f"seeds={seeds}, steps={steps}, batch={batch} were given: at least 1, 1 and 2 are needed.")
    generator = torch.Generator().manual_seed(seed)
    cut = parts(len(x), seeds, test, validation, generator, x.device)
    scaled_x, scaled_y = standardised(x, cut.train), standardised(y, cut.train)
    kind = critics.Separable if critic == "separable" else critics.Joint
    model = kind(seeds, x.shape[1], y.shape[1], generator).to(x.device)
    batch = min(batch, validation)
    block, limit = batch if bound is critics.info_nce else _BLOCK, math.log(min(test, _BLOCK)) + 2

    def scores(rows: Tensor) -> Tensor:
        return limit * (model(scaled_x(rows), scaled_y(rows)) / limit).tanh()

    def gain(rows: Tensor) -> Tensor:
        return objective(scores(rows))

    def read(rows: Tensor) -> Tensor:
        return torch.stack([bound(scores(part).double()) for part in blocks(rows, block)]).mean(0)

    fit(model, gain, lambda: read(cut.validation), cut.train, batch=batch, steps=steps, generator=generator)
    with torch.no_grad():
        return float(read(cut.test).mean())


def _sizes(samples: int) -> tuple[int, int]:
    if samples < 50:
        raise ValueError(f"{samples} samples were given: a critic needs at least 50, to be fitted, stopped and read.")
    return samples // 5, 3 * samples // 20
