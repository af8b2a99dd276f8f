"""Usable information: what a stated family of probes can tell of a class from a state, held out."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import _doors
from ..intervals import bootstrap_interval
from .probes import LinearProbe, chosen, standardised, two_layer_losses
from .splits import Parts, parted, shuffled
from .streams import own_random

FAMILIES = ("linear", "two-layer")
# Fewer training examples than these, in all and of a class, are remarked on.
_MANY, _RARE = 1500, 10
# Features in double precision: as given, standardised, and the parts of them that are fitted and read.
_BYTES, _COPIES = 16 << 30, 4
# Numbers of features of probes that are fitted together, beyond the first probe's own.
_TOGETHER = 1 << 25


@dataclass(frozen=True, eq=False)
class UsableInformation:
    """Usable information in nats and its circumstances; prints as one line, `float()` gives the value.

    `value` is `ceiling` less `cross_entropy`, each the mean of -ln q over the held-out examples: of the probe that is
    given nothing (for a conditional value: what is given alone), and of the probe. `interval` is the 95 % bootstrap
    interval over held-out examples, or groups of them: it speaks of other examples under the same probe, not of other
    training examples. `null_mean`, `null_std` and `p_value` are of the same procedure with the states' training rows
    in another order, `permutations` times (nan without any). `gains` (held-out examples,) are the differences whose
    mean the value is, in the order of `held_out`, their row numbers. `penalty` is the linear probe's, inf where the
    class shares were better than any.

    >>> labels = torch.arange(400) % 2
    >>> found = usable_information(8.0 * labels[:, None], labels, permutations=0)
    >>> round(float(found), 2), found.classes, found.gains.shape, found.warnings[0][:21]
    (0.69, 2, (100,), '300 training examples')
    """

    value: float
    interval: tuple[float, float]
    ceiling: float
    cross_entropy: float
    null_mean: float
    null_std: float
    p_value: float
    family: str
    penalty: float
    classes: int
    training: int
    features: int
    permutations: int
    seconds: float
    warnings: tuple[str, ...]
    gains: np.ndarray = field(repr=False)
    held_out: np.ndarray = field(repr=False)
    unit: str = "nats"

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        line = (
            f"{self.value:.3f} {self.unit} of {self.ceiling:.3f}, 95 % in {self.interval[0]:.3f} ... "
            f"{self.interval[1]:.3f}; p = {self.p_value:.3g} (null {self.null_mean:.3f} +- {self.null_std:.3f}); "
            f"{self.family} probe of {self.features} features, {self.classes} classes, {self.training} training and "
            f"{len(self.gains)} held-out examples"
        )
        return "\n".join([line, *(f"  warning: {warning}" for warning in self.warnings)])


def usable_information(
    states: Float[Tensor, "examples features"],
    target: Int[Tensor, " examples"],
    family: str = "linear",
    *,
    groups: Int[Tensor, " examples"] | None = None,
    held_out: float | Tensor = 0.25,
    permutations: int = 20,
    seed: int = 0,
) -> UsableInformation:
    r"""Return the information of states about a class that a family of probes can use, held out, in nats.

    $$I_V(T \to Y) = H_V(Y) - H_V(Y \mid T), \qquad
      H_V(Y \mid T) = \mathbb E_{\text{held out}}[-\ln q(y \mid t)]$$

    q is the family's probe fitted to the training examples, and for $H_V(Y)$ their class shares. `"linear"`:
    multinomial logistic regression, its squared weights penalised. `"two-layer"`: 64 hidden ReLUs trained by Adam,
    beside a linear map that starts as the linear probe. Features are standardised by the training examples; a fifth of
    those chooses the penalty (13, from 1 to 1e-6), and ends a network's training; a linear probe is then fitted to
    all of them. It is a lower bound, in expectation, of I(T; Y) for the law that the examples are drawn from, at most
    `ceiling`, and below 0 where the probe does worse than the class shares. It may rise with depth, for a deeper
    layer may be easier to read: no violation of data processing. Few examples bias it low, by about `parameters / 2
    training` nats without a penalty.

    `states` (examples, features); `target` (examples,), whole numbers that name classes. `groups` (examples,), whole
    numbers: examples of one group (tokens of one text) stay on one side of the split, change places together in the
    null and are resampled together. `held_out` is the share that is held out, of every class alike, or booleans
    (examples,), True at examples held out. `permutations` of the states' training rows against their labels, each
    with all that is fitted and chosen, make the null.

    Raises ValueError for NaN, states that are all the same, one class, fewer than 20 examples or two a class, a class
    without a training example, fewer than two held-out groups, and what does not fit into memory (with its bytes).
    Deterministic in `seed`. Cost: about a second at 2,000 examples of 64 features and 10 classes on one thread, the
    null included; three for `"two-layer"`. Source: Xu et al. 2020 (2002.10689); probes by held-out
    cross-entropy: Pimentel et al. 2020 (2004.03061).

    >>> generator = torch.Generator().manual_seed(0)
    >>> labels = torch.arange(400) % 2
    >>> states = torch.randn(400, 3, generator=generator) + 4 * labels[:, None]
    >>> found = usable_information(states, labels)
    >>> 0.6 < found.value <= found.ceiling, found.null_mean < 0.05, found.classes
    (True, True, 2)
    """
    return _gain(None, states, target, family, groups, held_out, permutations, seed)


def conditional_usable_information(
    states: Float[Tensor, "examples features"],
    given: Float[Tensor, "examples others"],
    target: Int[Tensor, " examples"],
    family: str = "linear",
    *,
    groups: Int[Tensor, " examples"] | None = None,
    held_out: float | Tensor = 0.25,
    permutations: int = 20,
    seed: int = 0,
) -> UsableInformation:
    r"""Return what states add to what is given already about a class, for a family of probes, held out, in nats.

    $$I_V(T \to Y \mid S) = H_V(Y \mid S) - H_V(Y \mid S, T)$$

    with S `given` (examples, others) and T `states` (examples, features), both as the features of one probe in the
    second term. Its `ceiling` is the first term. The chain rule holds to rounding for one family, split and seed: with
    `usable_information(given)` it adds up to `usable_information` of the two side by side, `given` first. The null
    has the states' training rows in another order and what is given in place: it breaks the states' tie to the class,
    and to what is given as well.

    All else as in `usable_information`: arguments, families, errors and source; the cost is that of both its probes.

    >>> generator = torch.Generator().manual_seed(0)
    >>> labels, noise = torch.arange(400) % 2, torch.randn(2, 400, 1, generator=generator)
    >>> found = conditional_usable_information(4 * labels[:, None] + noise[0], noise[1], labels)
    >>> 0.5 < found.value <= found.ceiling
    True
    """
    return _gain(_features("given", given), states, target, family, groups, held_out, permutations, seed)


def _gain(
    given: np.ndarray | None,
    states: Any,
    target: Any,
    family: str,
    groups: Any,
    held_out: Any,
    permutations: int,
    seed: int,
) -> UsableInformation:
    started = time.perf_counter()
    _doors.option("family", family, FAMILIES)
    _doors.whole("permutations", permutations, 0)
    _doors.whole("seed", seed, 0)
    before, x, parts, random = _admitted(given, states, target, groups, held_out, seed)
    alone, _ = _losses(family, before, x[:, :0], parts, [parts.train], seed)
    losses, penalty = _losses(family, before, x, parts, [parts.train], seed)
    gains, ceiling = alone[0] - losses[0], float(alone[0].mean())
    _, own = np.unique(parts.groups[parts.train], return_inverse=True)
    orders = [parts.train[shuffled(own, random)] for _ in range(permutations)]
    null = ceiling - _losses(family, before, x, parts, orders, seed)[0].mean(1) if orders else np.full(1, np.nan)
    return UsableInformation(
        float(gains.mean()),
        _interval(gains, parts.groups[parts.test], seed),
        ceiling,
        float(losses[0].mean()),
        float(null.mean()),
        float(null.std(ddof=1)) if len(null) > 1 else math.nan,
        float((1 + (null >= gains.mean()).sum()) / (1 + len(null))) if orders else math.nan,
        family,
        penalty,
        parts.classes,
        len(parts.train),
        before.shape[1] + x.shape[1],
        permutations,
        time.perf_counter() - started,
        _warnings(parts),
        gains,
        parts.test,
    )


def _admitted(
    given: np.ndarray | None, states: Any, target: Any, groups: Any, held_out: Any, seed: int
) -> tuple[np.ndarray, np.ndarray, Parts, np.random.Generator]:
    """Return what is given and the states, (examples, features) each, and the parts; refuse what can't be used."""
    x = _features("states", states)
    before = np.empty((len(x), 0)) if given is None else given
    if len(before) != len(x):
        raise ValueError(f"states has {len(x)} examples and given has {len(before)}: row i of both must be example i.")
    random = own_random(seed)
    parts = parted(x, target, groups, held_out, random)
    features = before.shape[1] + x.shape[1]
    needed = 8 * len(x) * (_COPIES * features + 3 * parts.classes)
    if needed > _BYTES:
        raise ValueError(
            f"{len(x)} examples of {features} features and {parts.classes} classes were given: they take "
            f"{needed / 2**30:.1f} GiB, more than {_BYTES / 2**30:.0f}; give fewer examples or project them."
        )
    return before, x, parts, random


def _losses(
    family: str, given: np.ndarray, states: np.ndarray, parts: Parts, orders: Sequence[np.ndarray], seed: int
) -> tuple[np.ndarray, float]:
    """Return each held-out example's -ln q, (orders, held out), and the first penalty.

    An order puts the states' training rows in place of one another.
    """
    found, penalties = [], []
    size = max(1, _TOGETHER // max(1, len(states) * (given.shape[1] + states.shape[1])))
    for first in range(0, len(orders), size):
        features = []
        for order in orders[first : first + size]:
            rows = np.arange(len(states))
            rows[parts.train] = order
            features.append(standardised(np.concatenate([given, states[rows]], 1), parts.train))
        starts = [chosen(x, parts.labels, parts.inner, parts.validation, parts.classes) for x in features]
        penalties += [start.penalty for start in starts]
        if family == "two-layer" and features[0].shape[1]:
            found.append(two_layer_losses(features, starts, parts, seed))
            continue
        for x, start in zip(features, starts, strict=True):
            probe = _refitted(start, x, parts)
            found.append(probe.losses(x[parts.test], parts.labels[parts.test])[None])
    return np.concatenate(found), penalties[0]


def _refitted(start: LinearProbe, x: np.ndarray, parts: Parts) -> LinearProbe:
    """Return a probe with the chosen penalty fitted to all training examples."""
    labels = parts.labels[parts.train]
    if math.isinf(start.penalty):
        start.bias = np.log(np.bincount(labels) / len(labels))
        return start
    return start.fit(x[parts.train], labels, start.penalty)


def _interval(gains: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the bootstrap interval of the mean gain, whole groups resampled."""
    _, number = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(number, gains), np.bincount(number)], 1)  # (groups, 2)
    return bootstrap_interval(sums, lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum(), seed=seed)


def _features(name: str, values: Any) -> np.ndarray:
    wanted = "(examples, features)"
    return _doors.state(name, values, wanted, 2).detach().to("cpu", torch.float64).numpy()


def _warnings(parts: Parts) -> tuple[str, ...]:
    notes = ()
    if len(parts.train) < _MANY:
        notes += (f"{len(parts.train)} training examples: the value is biased low by what {_MANY} would still learn.",)
    rare = int((np.bincount(parts.labels[parts.train]) < _RARE).sum())
    if rare:
        notes += (f"{rare} of {parts.classes} classes have fewer than {_RARE} training examples.",)
    return notes
