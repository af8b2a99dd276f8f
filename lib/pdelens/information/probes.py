"""Probes that say how likely each class is: fitted to some examples, read on others."""

import numpy as np
import torch
from torch import Tensor

from .cross_fit import Perceptrons, fit
from .splits import Parts
from .streams import own_generator

# From almost no freedom to almost no penalty, relative to features of unit length an example.
PENALTIES = tuple(10.0 ** -(step / 2) for step in range(13))
_HIDDEN, _BATCH, _STEPS = 64, 256, 1000
_BETTER = 1e-4
# Numbers of features that the networks' validation examples may take at once: 256 MiB in single precision.
_ENTRIES = 1 << 26


def standardised(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return features (examples, features) with mean 0 and, all together, length 1 over the training examples.

    Every feature has the same deviation there; one that never changes there becomes 0.

    >>> x = standardised(np.array([[0.0, 5.0], [2.0, 5.0], [4.0, 6.0]]), np.array([0, 1]))
    >>> x.round(3).tolist()
    [[-0.707, 0.0], [0.707, 0.0], [2.121, 0.0]]
    """
    centred = x - x[train].mean(0)
    peak = np.abs(centred[train]).max(0, initial=0.0)  # so that no square is out of range
    steady = peak <= 1e-12 * np.abs(x[train]).max(0, initial=0.0)
    centred = np.where(steady, 0.0, centred) / np.where(steady, 1.0, peak)
    deviation = np.sqrt(np.square(centred[train]).mean(0))
    return centred / np.where(steady, 1.0, deviation * max(x.shape[1], 1) ** 0.5)


class LinearProbe:
    """Multinomial logistic regression: weights (features, classes), bias (classes,), the penalty it was fitted with."""

    def __init__(self, features: int, shares: np.ndarray):
        self.weights, self.bias, self.penalty = np.zeros((features, len(shares))), np.log(shares), np.inf

    def fit(self, x: np.ndarray, labels: np.ndarray, penalty: float) -> "LinearProbe":
        """Return the probe with the least mean cross-entropy plus `penalty / 2` times the squared weights.

        x (examples, features), labels (examples,) numbers of classes. L-BFGS from this probe's own weights.
        """
        from scipy.optimize import minimize  # imported here: it would lengthen the package's import

        shape, rows, parameters = self.weights.shape, np.arange(len(x)), self.weights.size

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat[:parameters].reshape(shape)
            logits = x @ weights + flat[parameters:]
            logits -= logits.max(1, keepdims=True)
            own = logits[rows, labels]
            shares = np.exp(logits, out=logits)
            total = shares.sum(1, keepdims=True)
            value = (np.log(total[:, 0]) - own).mean() + penalty / 2 * np.square(weights).sum()
            shares /= total
            shares[rows, labels] -= 1
            shares /= len(x)
            return value, np.concatenate([(x.T @ shares + penalty * weights).ravel(), shares.sum(0)])

        options = {"maxiter": 500, "maxcor": 20, "gtol": 1e-7, "ftol": 1e-11}
        start = np.concatenate([self.weights.ravel(), self.bias])
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
        fitted = LinearProbe(0, np.ones(1))
        fitted.weights, fitted.bias, fitted.penalty = found[:parameters].reshape(shape), found[parameters:], penalty
        return fitted

    def losses(self, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return -ln of what the probe gives to each example's own class, (examples,), in nats."""
        logits = x @ self.weights + self.bias
        logits -= logits.max(1, keepdims=True)
        return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(x)), labels]


def chosen(x: np.ndarray, labels: np.ndarray, inner: np.ndarray, validation: np.ndarray, classes: int) -> LinearProbe:
    """Return the linear probe fitted to the `inner` examples with the penalty that is best on the `validation` ones.

    Penalties fall, each fit starts from the last, and two in a row that are no better (by 1e-4 nats) end it; the class
    shares alone are the first probe. All weights are 0 where none is better.
    """
    shares = np.bincount(labels[inner], minlength=classes) / len(inner)
    best = probe = LinearProbe(x.shape[1], shares)
    least, worse = probe.losses(x[validation], labels[validation]).mean(), 0
    if not x.shape[1]:
        return best
    own, others = x[inner], x[validation]
    for penalty in PENALTIES:
        probe = probe.fit(own, labels[inner], penalty)
        loss = probe.losses(others, labels[validation]).mean()
        best, least, worse = (probe, loss, 0) if loss < least - _BETTER else (best, least, worse + 1)
        if worse == 2:
            break
    return best


def two_layer_losses(features: list[np.ndarray], starts: list[LinearProbe], parts: Parts, seed: int) -> np.ndarray:
    """Return -ln of what networks of 64 hidden ReLUs give to the `test` examples' own classes, (members, test).

    Each member has its own features (examples, features) and starts as its linear probe: the hidden layer is added to
    it, both are trained by Adam on the `inner` examples and stopped by the `validation` ones. So a member whom
    training only harms is its linear probe.
    """
    members, width = len(features), features[0].shape[1]
    generator = own_generator(seed)
    model = Perceptrons(members, [width, _HIDDEN, parts.classes], generator, zero=True)
    with torch.no_grad():
        model.straight.copy_(torch.stack([torch.from_numpy(start.weights) for start in starts]))
        model.bias.copy_(torch.stack([torch.from_numpy(start.bias[None]) for start in starts]))
        # Features come with length 1 together; a network's first layer wants 1 each.
        model.straight.div_(width**0.5)
    x = [torch.from_numpy(each).float() * width**0.5 for each in features]
    labels, inner, validation, test = map(torch.from_numpy, (parts.labels, parts.inner, parts.validation, parts.test))

    def losses(rows: Tensor) -> Tensor:
        logits = model(torch.stack([each[part] for each, part in zip(x, rows, strict=True)]))
        return torch.nn.functional.cross_entropy(logits.mT, labels[rows], reduction="none")

    def read(part: Tensor) -> Tensor:
        size = max(1, _ENTRIES // (members * width))
        return torch.cat([losses(rows.expand(members, -1)) for rows in part.split(size)], 1)

    fit(
        model,
        lambda rows: -losses(rows).mean(1),
        lambda: -read(validation).mean(1),
        inner.expand(members, -1),
        batch=_BATCH,
        steps=_STEPS,
        generator=generator,
    )
    with torch.no_grad():
        return read(test).double().numpy()
