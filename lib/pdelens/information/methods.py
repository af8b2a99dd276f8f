"""The estimators of mutual information by name: how each is called, and what it can report at most."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from . import density, neural
from . import gaussian as parametric
from .auto import calibrated, ceiling_of_neighbours, quick
from .ksg import class_ksg, ksg
from .samples import is_labels

Estimator = Callable[[Tensor, Tensor], float]
Maker = Callable[[int, int], Estimator]


@dataclass(frozen=True)
class Method:
    """An estimator by name: how to call it, how much it can report, and how often it may be called.

    `make(neighbours, seed)` gives the estimator of x and y, `ceiling(samples, neighbours)` its largest value;
    `quick`, where there is one, makes a cheaper estimator for the null. `halves` is the number of random halves
    behind the interval, `repeats` of calibration samples (0 for what estimates another quantity: Renyi's, sliced and
    usable information); `null_samples` and `shuffles` bound the null. `continuous`: ties are broken and labels
    refused. `classes`: y has to be class labels, and ties are broken in x alone.
    """

    make: Maker
    ceiling: Callable[[int, int], float]
    quick: Maker | None = None
    halves: int = 20
    repeats: int = 4
    null_samples: int = 10**9
    shuffles: int = 10**9
    continuous: bool = True
    classes: bool = False


def _auto(neighbours: int, seed: int) -> Estimator:
    return lambda x, y: calibrated(x, y, neighbours=neighbours, random=np.random.default_rng(seed)).value


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0)


def _ksg(variant: int) -> Method:
    def make(neighbours: int, seed: int) -> Estimator:
        return lambda x, y: ksg(_standardised(x), _standardised(y), neighbours=neighbours, variant=variant)

    return Method(make, ceiling_of_neighbours, null_samples=500)


def _class_ksg(neighbours: int, seed: int) -> Estimator:
    def estimate(x: Tensor, y: Tensor) -> float:
        if y.shape[1] > 1 or not bool((y == y.round()).all()):
            raise ValueError(
                f"y of {y.shape[1]} column(s) was given: method='class_ksg' wants class labels, one column of whole "
                "numbers; take method='ksg' for what is continuous."
            )
        return class_ksg(_standardised(x), y[:, 0], neighbours=neighbours)

    return estimate


def _binned(x: Tensor, y: Tensor) -> float:
    """Take cells of equal counts per column so that a cell of the joint grid holds about five samples."""
    bins = max(2, round((len(x) / 5) ** (1 / (x.shape[1] + y.shape[1]))))
    return density.binned(x, y, bins=bins, equal="count", correction="miller-madow")


def _probe(x: Tensor, y: Tensor, labels: bool | None = None, **settings) -> float:
    if y.shape[1] > 1:
        raise ValueError(f"y has {y.shape[1]} columns: method='probe' wants one column, labels or numbers.")
    if is_labels(y[:, 0]) if labels is None else labels:
        return neural.probe_bound(x, y[:, 0].unique(return_inverse=True)[1], **settings)
    return neural.gaussian_probe_bound(x, y, **settings)


def _trained(function: Callable[..., float], **settings) -> Maker:
    return lambda neighbours, seed: partial(function, seed=seed, **settings)


def _log(samples: int, neighbours: int) -> float:
    return math.log(samples)


def _none(samples: int, neighbours: int) -> float:
    return math.inf


def _critic(function: Callable[..., float], batch: int | None = None) -> Method:
    """A trained critic: its own ensemble for the value, one short run for each shuffle."""
    short = _trained(function, seeds=1, steps=200)
    return Method(_trained(function), lambda samples, _: neural.ceiling(samples, batch=batch), short, 4, 1, 10**9, 19)


METHODS: dict[str, Method] = {
    "ksg": _ksg(1),
    "ksg2": _ksg(2),
    "class_ksg": Method(_class_ksg, ceiling_of_neighbours, null_samples=500, continuous=False, classes=True),
    "gaussian": Method(lambda *_: parametric.gaussian, _none),
    "gaussian_copula": Method(lambda *_: parametric.gaussian_copula, _none),
    "binned": Method(lambda *_: _binned, _log, continuous=False),
    "kernel_density": Method(lambda *_: density.kernel_density, _log, null_samples=500),
    "renyi": Method(lambda *_: density.renyi, _log, halves=6, repeats=0, null_samples=250),
    "info_nce": _critic(neural.info_nce, batch=256),
    "nwj": _critic(neural.nwj),
    "mine": _critic(neural.mine),
    "probe": Method(_trained(_probe), _none, _trained(_probe, steps=200), 4, 0, 500, 19, continuous=False),
    "sliced": Method(_trained(neural.sliced, slices=50), _none, halves=6, repeats=0, null_samples=250),
}
_AUTO = Method(_auto, ceiling_of_neighbours, lambda neighbours, _: quick(neighbours), null_samples=500)


def chosen(method: str, labels: bool | None = None) -> Method:
    """Return `auto` or one of `METHODS`, or raise ValueError where there is none of this name.

    `labels` says whether whole numbers are class labels, to a probe.
    """
    if method != "auto" and method not in METHODS:
        raise ValueError(f"method={method!r} was given: 'auto' or one of {', '.join(METHODS)} is wanted.")
    if method == "probe" and labels is not None:
        make, quick = _trained(_probe, labels=labels), _trained(_probe, labels=labels, steps=200)
        return replace(METHODS[method], make=make, quick=quick)
    return METHODS.get(method, _AUTO)


def estimator(method: str, *, neighbours: int = 10, seed: int = 0) -> Estimator:
    """Return the function of x (samples, dx) and y (samples, dy) that gives the value of a method in nats.

    >>> from pdelens.information.tasks import bivariate
    >>> 0.3 < estimator("gaussian")(*bivariate(0.75).sample(500)) < 0.5
    True
    """
    return chosen(method).make(neighbours, seed)
