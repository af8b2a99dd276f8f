"""What the information estimators are given: what is let in, what is mended and said, what is turned away."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _doors

# Distance of two neighbours in single precision, of their size, and some room.
_ROUNDING = 1e-6
# Of so many different whole numbers one may guess that they are classes; of more that their order means something.
_CLASSES = 20


def as_samples(values: Any, name: str) -> Tensor:
    """Return values as (samples, columns) in float64; one number a sample is one column.

    Tensors, arrays, lists and tables (of pandas, say) are welcome. Raises TypeError for what holds no numbers;
    ValueError for other shapes, for nothing, for masked entries, for what is not a finite real number, and for a column
    that never changes.

    >>> as_samples([1.0, 2.0, 4.0], "x").shape
    torch.Size([3, 1])
    """
    tensor = _doors.tensor(name, values, "a table of numbers, one pair a row and none missing,", exact=True)
    if tensor.is_complex():
        raise ValueError(f"{name} is complex: give real and imaginary parts as two columns.")
    tensor = tensor.detach().to("cpu", torch.float64)
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


def serial(x: Tensor, y: Tensor) -> tuple[str, ...]:
    """Say, in words, where rows follow one another so that they count for fewer: what nulls and intervals can't see.

    The deviation of a covariance of two series is that of `n / (1 + 2 sum_k r_x(k) r_y(k))` independent rows (Bartlett
    1935), `r(k)` the autocorrelation at lag k; of several columns the largest counts, and lags as long as both are four
    deviations from 0. Said from a third fewer on. A table sorted by a column, or by class, is no series.

    >>> x = torch.arange(200.0)[:, None]
    >>> serial(x.cos(), x.sin())[0][:54]
    'Rows follow one another: the 200 count for about 127; '
    """
    if any(bool((column.diff() >= 0).all() or (column.diff() <= 0).all()) for column in (*x.T, *y.T)):
        return ()
    largest = [_autocorrelations(_within(values, other)).amax(1) for values, other in ((x, y), (y, x))]
    clear = (torch.minimum(*largest) > 4 / len(x) ** 0.5).cumprod(0).bool()
    counted = len(x) / (1 + 2 * float((largest[0] * largest[1])[clear].sum()))
    if counted > len(x) / 1.5:
        return ()
    return (
        f"Rows follow one another: the {len(x)} count for about {counted:.0f}; keep one in "
        f"{math.ceil(len(x) / counted)}, as p-value and interval take them for independent.",
    )


def _within(values: Tensor, other: Tensor) -> Tensor:
    """Return values less their mean in each class, where the other is a column of classes."""
    if other.shape[1] > 1 or not is_labels(other[:, 0]):
        return values
    _, number = other[:, 0].unique(return_inverse=True)
    count = torch.bincount(number).to(values)
    means = values.new_zeros(len(count), values.shape[1]).index_add_(0, number, values) / count[:, None]
    return values - means[number]


def _autocorrelations(values: Tensor) -> Tensor:
    """Return each column's autocorrelations at lags 1, 2, ... up to a third of the rows, (lags, columns)."""
    centred = values - values.mean(0)
    spectrum = torch.fft.rfft(centred, 2 * len(values), dim=0).abs().square()
    found = torch.fft.irfft(spectrum, dim=0)[: len(values) // 3 + 1]
    return found[1:] / found[:1].clamp_min(1e-300)


def untied(
    x: Tensor, y: Tensor, generator: torch.Generator, labels: bool | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return x and y with ties broken by a stated jitter, and what was done in words.

    Distances and ranks need continuous columns. A tied column gets uniform noise as wide as its smallest gap, which
    is what rounding took away. Raises ValueError for class labels: whole numbers, up to 20 different ones, of which
    each comes ten times or more (`labels` True: any whole numbers; False: none).

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
    mended, ties = [], []
    for values, name in ((x, "x"), (y, "y")):
        columns = [
            _jittered(column, f"column {n} of {name}", generator, ties, labels) for n, column in enumerate(values.T)
        ]
        mended.append(torch.stack(columns, 1) if columns else values)
    return mended[0], mended[1], (*notes, *_told(ties, len(x)))


def is_labels(column: Tensor) -> bool:
    """Return whether a column (samples,) looks like class labels: whole numbers, each ten times or more on average.

    >>> is_labels(torch.arange(100.0) % 3), is_labels(torch.arange(100.0)), is_labels(torch.rand(100).round(decimals=1))
    (True, False, False)
    """
    return bool((column == column.round()).all()) and 10 * len(column.unique()) <= len(column)


class _Tie(NamedTuple):
    """What was mended of one column: how many values are tied, how wide the noise is, whether they may be classes."""

    column: str
    tied: int
    width: float
    guessed: bool


def _jittered(column: Tensor, name: str, generator: torch.Generator, ties: list[_Tie], labels: bool | None) -> Tensor:
    distinct, counts = column.unique(return_counts=True)
    tied = int(counts[counts > 1].sum())
    if not tied:
        return column
    whole = is_labels(column)
    if (whole and len(distinct) <= _CLASSES) if labels is None else (labels and bool((column == column.round()).all())):
        raise ValueError(
            f"{name[0].upper()}{name[1:]} has {len(distinct)} whole numbers in {len(column)} samples, class labels "
            "by the look of them: this method needs continuous values; take method='binned' or method='probe', or say "
            "labels=False where they are counts or scores."
        )
    gap = float(distinct.diff().min())
    # As narrow as single precision at this size rounds: nobody need believe anything else for it.
    if gap > _ROUNDING * float(column.abs().max()):
        ties.append(_Tie(name, tied, gap, whole and labels is None))
    return column + gap * (torch.rand(len(column), generator=generator, dtype=torch.float64) - 0.5)


def _told(ties: list[_Tie], samples: int) -> tuple[str, ...]:
    """Return one sentence on all ties, none where there are none."""
    if not ties:
        return ()
    most = max(ties, key=lambda tie: tie.tied)
    order = (
        " Whole numbers were taken for counts, not labels: say which by `labels`."
        if any(tie.guessed for tie in ties)
        else ""
    )
    if len(ties) == 1:
        start = f"{most.tied} of {samples} values of {most.column} are tied"
        return (f"{start}: uniform noise of width {most.width:.3g} was added.{order}",)
    return (
        f"{len(ties)} columns have tied values (most, {most.tied} of {samples}, {most.column}): uniform noise as wide "
        f"as each one's smallest gap was added ({most.width:.3g} there).{order}",
    )
