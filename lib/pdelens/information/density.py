"""Mutual information from an estimated density: cells, Gaussian kernels, and the spectrum of a kernel."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .gaussian import paired

# Rows of a distance matrix made at a time: 64 MiB of float64.
_ENTRIES = 1 << 23
# Three N x N float64 matrices live at once in `renyi`.
_RENYI_BYTES = 3 << 30

Correction = Literal["none", "miller-madow"]
Cells = Literal["width", "count"]


class BinnedEntropy(NamedTuple):
    """A plug-in entropy in nats and the number of cells that hold a sample."""

    nats: float
    cells: int


def binned(
    x: Tensor,
    y: Tensor,
    *,
    bins: int | None = None,
    width: float | None = None,
    equal: Cells = "width",
    correction: Correction = "none",
) -> float:
    r"""Return the plug-in information between the cells of x and the cells of y, in nats.

    $$I = H(X) + H(Y) - H(X, Y), \qquad H = -\sum_c \hat p_c \ln \hat p_c \;(+ (m - 1) / 2N)$$

    over cells of a grid that are `width` wide, or `bins` along each column, `equal` in width over the column's range or
    in count; the term in brackets, `m` the occupied cells, is `"miller-madow"`. Without either, `bins` is the largest
    number (at least 2) that leaves five samples a cell of the joint grid. It measures the cells, not x and y: the plain
    value never passes `ln N`, and once almost every sample has a cell of its own all entropies are `ln N` and so is the
    value, whatever x and y are. The correction does not see that; it adds up to 1/2.

    x (samples, dx), y (samples, dy); ValueError for `bins` with `width`. Cost: a sort of the rows. Source: Miller
    1955; Paninski 2003 (10.1162/089976603321780272) for the bias.

    >>> x = torch.tensor([[0.1], [0.9], [0.2], [0.8]])
    >>> round(binned(x, x + 5, bins=2), 6) == round(math.log(2), 6)
    True
    """
    x, y = paired(x, y)
    if bins is None and width is None:
        bins = max(2, int(math.pow(len(x) / 5, 1 / (x.shape[1] + y.shape[1])) + 1e-9))
    first, second = (_cells(t, bins, width, equal) for t in (x, y))
    h_x, h_y, h_xy = (_plug_in(cells, correction).nats for cells in (first, second, torch.cat([first, second], 1)))
    return h_x + h_y - h_xy


def binned_entropy(
    t: Tensor,
    *,
    width: float | None = None,
    bins: int | None = None,
    equal: Cells = "width",
    correction: Correction = "none",
) -> BinnedEntropy:
    """Return the plug-in entropy of the cells that t (samples, columns) falls in, and how many it occupies.

    Grid and correction as in `binned`; one of `width` and `bins` is needed. With N different cells the entropy is `ln
    N`: it then counts samples.

    >>> wide = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    >>> entropy = binned_entropy(wide, width=1.0)
    >>> entropy.cells, round(entropy.nats - math.log(500), 9)
    (500, 0.0)
    """
    t, _ = paired(t, t)
    return _plug_in(_cells(t, bins, width, equal), correction)


def kernel_density(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    r"""Return the mean log-ratio of leave-one-out kernel densities, in nats.

    $$I = \tfrac1N \sum_i \ln \frac{\hat p_{-i}(x_i, y_i)}{\hat p_{-i}(x_i)\, \hat p_{-i}(y_i)}$$

    with one isotropic Gaussian kernel on columns of unit variance, `bandwidth` its deviation; without one
    $N^{-1/(d+4)}$, $d = d_x + d_y$: Scott's rule for the joint density, used for all three so that their errors
    partly cancel. Keeping sample i in its own density would give the difference of the upper bounds of
    `noise.kernel_bounds`, whose value at a narrow kernel is `ln N`; so, the value is at most `ln(N - 1)`, and a
    kernel too narrow to hold neighbours gives large negative ones.

    For a few columns: at N = 2,000 it is within 0.03 nats of 0.51 for 1 + 1 columns, but for 5 + 5 it reads 1.6 for
    2.55 and -0.3 at independence, for 25 + 25 below 0 for 3.6. ValueError for a constant column or a bandwidth that
    is not positive. Cost: `N^2 (dx + dy)`, chunked. Source: Moon, Rajagopalan and Lall 1995
    (10.1103/PhysRevE.52.2318).

    >>> x, y = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
    >>> abs(kernel_density(x, y)) < 0.05
    True
    """
    x, y = (_unit_variance(t, name) for t, name in zip(paired(x, y), "xy", strict=True))
    scott = math.pow(len(x), -1 / (x.shape[1] + y.shape[1] + 4))
    bandwidth = scott if bandwidth is None else positive("bandwidth", bandwidth)
    total = 0.0
    for rows in chunks(len(x)):
        exponents = [-squared_distances(t, rows) / (2 * bandwidth**2) for t in (x, y)]
        for exponent in exponents:
            exponent[torch.arange(len(rows)), rows] = -torch.inf
        marginal = sum(exponent.logsumexp(1) for exponent in exponents)
        total += float(((exponents[0] + exponents[1]).logsumexp(1) - marginal).sum())
    return total / len(x) + math.log(len(x) - 1)


def renyi(x: Tensor, y: Tensor, *, alpha: float = 1.01, bandwidth: float | None = None) -> float:
    r"""Return the matrix-based Renyi information of order alpha, in nats.

    $$I_\alpha = S_\alpha(A) + S_\alpha(B) - S_\alpha\Big(\frac{A \circ B}{\mathrm{tr}(A \circ B)}\Big),
      \qquad S_\alpha(A) = \tfrac{1}{1 - \alpha} \ln \sum_i \lambda_i(A)^\alpha$$

    A and B are the Gaussian kernel matrices of x and of y over N. It is a functional of those matrices, in 0 ... `ln
    N`: it shares properties with the mutual information but does not estimate it, and it grows as the `bandwidth`
    shrinks. Rule without one, for each of x and y: median distance of its samples times $N^{-1/(d+4)}$, d its columns;
    `bandwidth` has the data's units and is used for both. x (samples, dx), y (samples, dy). ValueError where three N x
    N matrices pass 3 GiB (N = 11,585), for an order that is not positive, and for a median distance of 0. Cost: three
    eigenvalue problems, `4 N^3` operations. Source: Giraldo, Rao and Principe 2015 (10.1109/TIT.2014.2370058).

    >>> apart = torch.arange(8.0)[:, None]
    >>> round(renyi(apart, apart, bandwidth=0.01), 6) == round(math.log(8), 6)
    True
    """
    x, y = paired(x, y)
    first, second = (_kernel(t, name, bandwidth) for t, name in ((x, "x"), (y, "y")))
    return _renyi(first, alpha) + _renyi(second, alpha) - _renyi(first.mul_(second), alpha)


def _cells(t: Tensor, bins: int | None, width: float | None, equal: Cells) -> Tensor:
    """Give the integer coordinates of each sample's cell, (samples, columns)."""
    if equal not in ("width", "count"):
        raise ValueError(f"equal={equal!r} was given: 'width' or 'count' is wanted.")
    if width is not None and bins is None and equal == "width":
        return (t / positive("width", width)).floor().long()
    if width is not None or bins is None:
        raise ValueError(f"bins={bins}, width={width}, equal={equal!r} were given: give bins, or width of equal width.")
    if bins < 1:
        raise ValueError(f"{bins} bins were asked for: at least one is needed.")
    if equal == "count":
        # Equal values must share a cell, so each takes the first of its ranks.
        ranks = torch.searchsorted(t.sort(0).values.T.contiguous(), t.T.contiguous()).T
        return (ranks * bins).div(len(t), rounding_mode="floor")
    low, high = t.amin(0), t.amax(0)
    span = torch.where(high > low, high - low, 1.0)
    return ((t - low) / span * bins).floor().long().clamp(max=bins - 1)


def _plug_in(cells: Tensor, correction: Correction) -> BinnedEntropy:
    if correction not in ("none", "miller-madow"):
        raise ValueError(f"correction={correction!r} was given: 'none' or 'miller-madow' is wanted.")
    counts = torch.unique(cells, dim=0, return_counts=True)[1].double()
    entropy = math.log(len(cells)) - float(torch.special.xlogy(counts, counts).sum()) / len(cells)
    if correction == "miller-madow":
        entropy += (len(counts) - 1) / (2 * len(cells))
    return BinnedEntropy(max(entropy, 0.0), len(counts))


def chunks(samples: int) -> tuple[Tensor, ...]:
    """Return the numbers of the samples in parts whose rows of a distance matrix stay within 64 MiB."""
    return torch.arange(samples).split(max(1, _ENTRIES // samples))


def squared_distances(t: Tensor, rows: Tensor) -> Tensor:
    """Return squared distances of some rows to all, (rows, samples), exactly 0 between a sample and itself."""
    centred = t - t.mean(0)
    squares = centred.square().sum(1)
    distances = squares[rows, None] + squares - 2 * centred[rows] @ centred.T
    distances[torch.arange(len(rows)), rows] = 0.0
    return distances.clamp_(min=0.0)


def _unit_variance(t: Tensor, name: str) -> Tensor:
    centred = t - t.mean(0)
    deviation = centred.std(0)
    if not (deviation > 1e-14 * t.abs().amax(0)).all():
        raise ValueError(f"A column of {name} is constant: leave it out.")
    return centred / deviation


def _kernel(t: Tensor, name: str, bandwidth: float | None) -> Tensor:
    """Give the Gaussian kernel matrix, (samples, samples), ones on its diagonal."""
    if 24 * len(t) ** 2 > _RENYI_BYTES:
        raise ValueError(
            f"{len(t)} samples were given: their three kernel matrices take {24 * len(t) ** 2 / 2**30:.1f} GiB, "
            f"more than {_RENYI_BYTES / 2**30:.0f}; give at most {math.isqrt(_RENYI_BYTES // 24)} samples."
        )
    squared = squared_distances(t, torch.arange(len(t)))
    if bandwidth is None:
        median = float(squared[torch.triu_indices(len(t), len(t), 1).unbind()].median().sqrt())
        if median == 0:
            raise ValueError(f"Most samples of {name} are equal, so the rule gives no bandwidth: give one.")
        width = median * len(t) ** (-1 / (t.shape[1] + 4))
    else:
        width = positive("bandwidth", bandwidth)
    return squared.div_(-2 * width**2).exp_()


def positive(name: str, value: float) -> float:
    """Return the value, or raise ValueError where it is not positive."""
    if not value > 0:
        raise ValueError(f"{name}={value} was given: a positive number is wanted.")
    return value


def _renyi(kernel: Tensor, alpha: float) -> float:
    """Renyi entropy of the eigenvalues of a kernel matrix with ones on its diagonal, each over N."""
    positive("alpha", alpha)
    if alpha == 2:
        return max(0.0, -math.log(float(kernel.square().mean())))  # the trace of A^2 needs no spectrum
    shares = torch.linalg.eigvalsh(kernel).clamp_(min=0.0) / len(kernel)
    entropy = torch.special.entr(shares).sum() if alpha == 1 else shares.pow(alpha).sum().log() / (1 - alpha)
    return max(0.0, float(entropy))
