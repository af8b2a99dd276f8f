"""The estimators of mutual information by name: how each is called, and what it can report at most."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import information_density as density
from . import information_neural as neural
from . import information_parametric as parametric
from .information_auto import calibrated, ceiling_of_neighbours
from .information_input import is_labels
from .information_neighbours import ksg

Estimator = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Method:
    """An estimator by name: how to call it, how much it can report, and how often it may be called.

    `make(neighbours, seed)` gives the estimator of x and y; `quick`, where there is one, a cheaper one for
    the null. `halves` is the number of random halves behind the interval, `repeats` of calibration samples (0 for
    what does not estimate the mutual information: Renyi's, sliced and usable information); `null_samples` and
    `shuffles` bound the null. `continuous`: ties are broken and labels refused.
    """

    make: Callable[[int, int], Estimator]
    ceiling: Callable[[int, int], float]
    quick: Callable[[int, int], Estimator] | None = None
    halves: int = 20
    repeats: int = 4
    null_samples: int = 10**9
    shuffles: int = 10**9
    continuous: bool = True


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean(0)) / values.std(0)


def _ksg(variant: int) -> Callable[[int, int], Estimator]:
    def make(neighbours: int, seed: int) -> Estimator:
        return lambda x, y: ksg(_standardised(x), _standardised(y), neighbours=neighbours, variant=variant)

    return make


def _bins(x: Tensor, y: Tensor) -> int:
    """Cells of equal counts per column so that a cell of the joint grid holds about five samples."""
    return max(2, round((len(x) / 5) ** (1 / (x.shape[1] + y.shape[1]))))


def _plain(function: Callable[..., float], **settings) -> Callable[[int, int], Estimator]:
    return lambda neighbours, seed: lambda x, y: function(x, y, **settings)


def _trained(function: Callable[..., float], **settings) -> Callable[[int, int], Estimator]:
    return lambda neighbours, seed: lambda x, y: function(x, y, seed=seed, **settings)


def _probe(x: Tensor, y: Tensor, **settings) -> float:
    if y.shape[1] > 1:
        raise ValueError(f"y has {y.shape[1]} columns: method='probe' wants one column, labels or numbers.")
    if is_labels(y[:, 0]):
        labels = y[:, 0].unique(return_inverse=True)[1]
        return neural.probe_bound(x, labels, **settings)
    return neural.gaussian_probe_bound(x, y, **settings)


def _log(samples: int, neighbours: int) -> float:
    return math.log(samples)


def _none(samples: int, neighbours: int) -> float:
    return math.inf


def _of_batches(samples: int, neighbours: int) -> float:
    return neural.ceiling(samples, batch=256)


def _of_critics(samples: int, neighbours: int) -> float:
    return neural.ceiling(samples)


def _critic(function: Callable[..., float], ceiling: Callable[[int, int], float]) -> Method:
    """A trained critic: its own ensemble for the value, one short run for each shuffle."""
    return Method(_trained(function), ceiling, _trained(function, seeds=1, steps=200), 4, 1, 10**9, 19)


METHODS: dict[str, Method] = {
    "ksg": Method(_ksg(1), ceiling_of_neighbours, null_samples=500),
    "ksg2": Method(_ksg(2), ceiling_of_neighbours, null_samples=500),
    "gaussian": Method(_plain(parametric.gaussian), _none),
    "gaussian_copula": Method(_plain(parametric.gaussian_copula), _none),
    "binned": Method(
        lambda neighbours, seed: (
            lambda x, y: density.binned(x, y, bins=_bins(x, y), equal="count", correction="miller-madow")
        ),
        _log,
        continuous=False,
    ),
    "kernel_density": Method(_plain(density.kernel_density), _log, null_samples=500),
    "renyi": Method(_plain(density.renyi), _log, halves=6, repeats=0, null_samples=250),
    "info_nce": _critic(neural.info_nce, _of_batches),
    "nwj": _critic(neural.nwj, _of_critics),
    "mine": _critic(neural.mine, _of_critics),
    "probe": Method(_trained(_probe), _none, _trained(_probe, steps=200), 4, 0, 500, 19, continuous=False),
    "sliced": Method(_trained(neural.sliced, slices=50), _none, halves=6, repeats=0, null_samples=250),
}


def known(method: str) -> None:
    """Raise ValueError where a method is neither `auto` nor one of `METHODS`."""
    if method != "auto" and method not in METHODS:
        raise ValueError(f"method={method!r} was given: 'auto' or one of {', '.join(METHODS)} is wanted.")


def estimator(method: str, *, neighbours: int = 10, seed: int = 0) -> Estimator:
    """Return the function of x (samples, dx) and y (samples, dy) that gives the value of a method in nats.

    >>> from pdelens.information_tasks import bivariate
    >>> 0.3 < estimator("gaussian")(*bivariate(0.75).sample(500)) < 0.5
    True
    """
    known(method)
    if method == "auto":
        return lambda x, y: calibrated(x, y, neighbours=neighbours, random=np.random.default_rng(seed)).value
    return METHODS[method].make(neighbours, seed)
