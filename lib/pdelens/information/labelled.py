"""Class labels and what belongs to them, as a model whose information is known: the calibration of discrete data."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

# Draws behind the information of a model that has no closed form; the error is about a hundredth of a nat.
_DRAWS = 20_000
# A variance below this share of the column's own leaves a class without a density.
_SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, eq=False)
class Labelled:
    """Classes y with probabilities, and of each the Gaussian of x, or where x is discrete too the table of both.

    `information` is that of the model in nats, exact for a table and by 20,000 draws of the mixture for Gaussians:
    E[log p(x|y) - log p(x)].
    """

    values_x: Tensor | None  # the distinct rows of x, where it is discrete
    values_y: Tensor
    table: np.ndarray  # (distinct x or 1, classes), probabilities
    means: np.ndarray  # (classes, columns of x)
    roots: np.ndarray  # (classes, columns, columns), lower Cholesky factors
    swapped: bool
    information: float

    def sample(self, count: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return paired samples of the model, (count, dx) and (count, dy)."""
        cells = random.choice(self.table.size, count, p=self.table.ravel())
        row, label = np.unravel_index(cells, self.table.shape)
        y = self.values_y[torch.from_numpy(label)]
        if self.values_x is not None:
            x = self.values_x[torch.from_numpy(row)]
        else:
            noise = random.standard_normal((count, self.means.shape[1]))
            x = torch.from_numpy(self.means[label] + np.einsum("nij,nj->ni", self.roots[label], noise))
        return (y, x) if self.swapped else (x, y)


def labelled(x: Tensor, y: Tensor, random: np.random.Generator) -> Labelled | None:
    """Return the model of x (samples, dx) and y (samples, dy) where one of them holds classes, None where neither does.

    Classes are distinct rows that come ten times or more on average. Raises no error. Cost: 20,000 draws.

    >>> labels = torch.arange(600.0)[:, None] % 3
    >>> model = labelled(labels, labels, np.random.default_rng(0))
    >>> round(model.information, 4) == round(math.log(3), 4)
    True
    """
    classes_x, classes_y = _classes(x), _classes(y)
    if classes_x and classes_y:
        return _table(*classes_x, *classes_y)
    if classes_y:
        return _gaussians(x, *classes_y, False, random)
    return _gaussians(y, *classes_x, True, random) if classes_x else None


def _table(values_x: Tensor, row: Tensor, values_y: Tensor, label: Tensor) -> Labelled:
    table = np.zeros((len(values_x), len(values_y)))
    np.add.at(table, (row.numpy(), label.numpy()), 1 / len(row))
    apart = table.sum(1, keepdims=True) * table.sum(0)
    met = table > 0
    information = float((table[met] * np.log(table[met] / apart[met])).sum())
    return Labelled(values_x, values_y, table, np.empty(0), np.empty(0), False, information)


def _gaussians(x: Tensor, values: Tensor, label: Tensor, swapped: bool, random: np.random.Generator) -> Labelled:
    rows, number = x.numpy(), label.numpy()
    share = np.bincount(number) / len(rows)
    spread = np.cov(rows.T).reshape(rows.shape[1], -1)
    means, roots = [], []
    for members in (rows[number == each] for each in range(len(values))):
        means.append(members.mean(0))
        # A class too small for a covariance of its own has everybody's.
        own = np.cov(members.T).reshape(spread.shape) if len(members) > rows.shape[1] + 1 else spread
        roots.append(np.linalg.cholesky(own + _SMALLEST_SHARE * np.diag(np.diag(spread))))
    # Numbers of classes in place of their values, to know which each draw is of.
    numbers = torch.arange(len(values))[:, None]
    model = Labelled(None, numbers, share[None], np.stack(means), np.stack(roots), False, math.nan)
    drawn, labels = model.sample(_DRAWS, random)
    densities = _log_densities(drawn.numpy(), model.means, model.roots)  # (draws, classes)
    mixed = np.logaddexp.reduce(densities + np.log(share), axis=1)
    information = float((densities[np.arange(_DRAWS), labels[:, 0].numpy()] - mixed).mean())
    return replace(model, values_y=values, swapped=swapped, information=information)


def _classes(values: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the distinct rows and the number of each sample's, where rows come ten times or more on average."""
    distinct, number = values.unique(dim=0, return_inverse=True)
    return (distinct, number) if 10 * len(distinct) <= len(values) else None


def _log_densities(x: np.ndarray, means: np.ndarray, roots: np.ndarray) -> np.ndarray:
    found = []
    for mean, root in zip(means, roots, strict=True):
        white = np.linalg.solve(root, (x - mean).T)
        scale = np.log(np.diag(root)).sum() + 0.5 * len(mean) * math.log(2 * math.pi)
        found.append(-0.5 * (white**2).sum(0) - scale)
    return np.stack(found, 1)
