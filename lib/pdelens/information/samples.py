"""What the information estimators are given: what is let in, what is mended and said, what is turned away."""

from typing import Any

import torch
from torch import Tensor


def as_samples(values: Any, name: str) -> Tensor:
    """Return values as (samples, columns) in float64; one number a sample is one column.

    Raises ValueError for other shapes, for nothing, for what is not a finite number, and for a column that never
    changes.

    >>> as_samples([1.0, 2.0, 4.0], "x").shape
    torch.Size([3, 1])
    """
    tensor = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if tensor.ndim == 1:
        tensor = tensor[:, None]
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: (samples, columns) or (samples,) is wanted.")
    wrong = int((~tensor.isfinite()).any(1).sum())
    if wrong:
        raise ValueError(f"{name} has {wrong} of {len(tensor)} rows with NaN or infinity: leave out those pairs.")
    constant = (tensor == tensor[0]).all(0).nonzero().flatten().tolist()
    if constant and len(tensor) > 1:
        raise ValueError(f"Column {constant[0]} of {name} is constant and carries no information: leave it out.")
    return tensor.contiguous()


def pair(x: Any, y: Any, at_least: int, why: str) -> tuple[Tensor, Tensor]:
    """Return x and y as samples of one pair of variables, or say which of the two is wrong and how.

    >>> pair([1.0, 2.0], [1.0, 3.0], 22, "2 (neighbours + 1)")
    Traceback (most recent call last):
    ...
    ValueError: 2 samples were given: at least 22 are wanted, 2 (neighbours + 1).
    """
    x, y = as_samples(x, "x"), as_samples(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} samples and y has {len(y)}: row i of both must belong to sample i.")
    if len(x) < at_least:
        raise ValueError(f"{len(x)} samples were given: at least {at_least} are wanted, {why}.")
    return x, y


def untied(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return x and y with ties broken by a stated jitter, and what was done in words.

    Distances and ranks need continuous columns. A tied column gets uniform noise as wide as its smallest gap, which
    is what rounding took away. Raises ValueError for class labels: whole numbers of which each comes ten times or
    more.

    >>> x, y = torch.arange(50.0)[:, None], torch.randn(50, 1)
    >>> rounded = torch.cat([x[:25], x[:25]])
    >>> untied(rounded, y, torch.Generator().manual_seed(0))[2]
    ('50 of 50 values of column 0 of x are tied: uniform noise of width 1 was added.',)
    """
    both, notes = torch.cat([x, y], 1), []
    repeated = len(both) - len(both.unique(dim=0))
    if repeated * 100 > len(both):  # samples drawn with replacement look close to themselves
        notes.append(
            f"{repeated} of {len(both)} pairs are exact repeats of others: nearest neighbours take a repeat for "
            "dependence; leave repeats out."
        )
    x, y = _jittered(x, "x", generator, notes), _jittered(y, "y", generator, notes)
    return x, y, tuple(notes)


def is_labels(column: Tensor) -> bool:
    """Return whether a column (samples,) looks like class labels: whole numbers, each ten times or more on average.

    >>> is_labels(torch.arange(100.0) % 3), is_labels(torch.arange(100.0)), is_labels(torch.rand(100).round(decimals=1))
    (True, False, False)
    """
    return bool((column == column.round()).all()) and 10 * len(column.unique()) <= len(column)


def _jittered(values: Tensor, name: str, generator: torch.Generator, notes: list[str]) -> Tensor:
    mended = values.clone()
    for index, column in enumerate(values.T):
        distinct, counts = column.unique(return_counts=True)
        tied = int(counts[counts > 1].sum())
        if not tied:
            continue
        if is_labels(column):
            raise ValueError(
                f"Column {index} of {name} has {len(distinct)} whole numbers in {len(column)} samples, class labels "
                "by the look of them: this method needs continuous values; take method='binned' or method='probe'."
            )
        gap = float(distinct.diff().min())
        mended[:, index] += gap * (torch.rand(len(column), generator=generator, dtype=torch.float64) - 0.5)
        notes.append(
            f"{tied} of {len(column)} values of column {index} of {name} are tied: "
            f"uniform noise of width {gap:.3g} was added."
        )
    return mended
