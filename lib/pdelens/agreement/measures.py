"""How alike two attentions, or two states, are: one function a measure, defined in the book.

Attention maps have shape (batch, heads, queries, keys); `rows` of shape (batch, queries) is True where a row counts
(all rows, if not given). Every function returns one number an example and head, (batch, heads), so that means,
intervals and worst cases are taken afterwards and in the open.
"""

import torch
from torch import Tensor

TINY = 1e-12


def cosine(first: Tensor, second: Tensor, rows: Tensor | None = None) -> Tensor:
    """Cosine of the flattened maps: `<P, A> / (|P| |A|)`, (batch, heads).

    >>> one_hot = torch.eye(4).expand(1, 1, 4, 4)
    >>> float(cosine(one_hot, torch.full((1, 1, 4, 4), 0.25)))
    0.5
    """
    first, second = _paired(first, second, rows)
    return _flat_cosine(first, second)


def centred_cosine(first: Tensor, second: Tensor, mean: Tensor, rows: Tensor | None = None) -> Tensor:
    """Cosine of `P - M` and `A - M`, (batch, heads).

    `mean` is M, (heads, queries, keys) or broadcastable: the teacher's mean map on the calibration split, or the
    uniform map (then it is Pearson's correlation over the allowed keys). Where either difference vanishes there is no
    direction to compare, and the result is 0: a predictor that knows positions only scores 0.
    """
    first, second = _paired(first, second, rows)
    mean = mean.to(first.dtype)
    keep = 1.0 if rows is None else rows[:, None, :, None].to(first.dtype)
    return _flat_cosine((first - mean) * keep, (second - mean) * keep)


def row_cosine(first: Tensor, second: Tensor, rows: Tensor | None = None) -> Tensor:
    """Mean over rows of each row's own cosine, (batch, heads). Not the flattened cosine: up to 0.09 off."""
    first, second = _paired(first, second, rows)
    dots = (first * second).sum(-1)
    norms = first.norm(dim=-1) * second.norm(dim=-1)
    return _row_mean(dots / norms.clamp_min(TINY), rows)


def jensen_shannon(first: Tensor, second: Tensor, rows: Tensor | None = None) -> Tensor:
    """Jensen-Shannon divergence of each row, in nats (0 to ln 2), mean over rows, (batch, heads)."""
    first, second = _paired(first, second, rows)
    entropies = [torch.special.entr(rows_).sum(-1) for rows_ in ((first + second) / 2, first, second)]
    divergence = (entropies[0] - (entropies[1] + entropies[2]) / 2).clamp_min(0)
    return _row_mean(divergence, rows)


def total_variation(first: Tensor, second: Tensor, rows: Tensor | None = None) -> Tensor:
    """Total variation distance of each row (0 to 1), mean over rows, (batch, heads)."""
    first, second = _paired(first, second, rows)
    return _row_mean((first - second).abs().sum(-1) / 2, rows)


def top1(first: Tensor, second: Tensor, rows: Tensor | None = None) -> Tensor:
    """Share of rows whose largest weight falls on the same key, (batch, heads).

    Where the second map's largest weight is shared by several keys, the first may name any of them.
    """
    first, second = _paired(first, second, rows)
    named = first.argmax(-1, keepdim=True)
    right = second.gather(-1, named).squeeze(-1) >= second.amax(-1)
    return _row_mean(right.to(first.dtype), rows)


def state_r2(states: Tensor, reference: Tensor, mean: Tensor, rows: Tensor | None = None) -> Tensor:
    """Share of the reference's variance about `mean` that `states` explain, per channel, (width,).

    `states` and `reference` have shape (examples, tokens, width); `mean` (tokens, width) is the calibration split's
    mean per token and channel. 1 is exact, 0 is no better than that mean.
    """
    if states.shape != reference.shape:
        raise ValueError(
            f"states have shape {tuple(states.shape)} and the reference {tuple(reference.shape)}: they must agree."
        )
    keep = torch.ones(states.shape[:2], dtype=torch.bool) if rows is None else rows.cpu()
    error = (states - reference).double().cpu()[keep].square().sum(0)
    spread = (reference - mean).double().cpu()[keep].square().sum(0)
    return 1 - error / spread.clamp_min(TINY)


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Debiased linear centred-kernel alignment of two sets of features (samples, width).

    The unbiased HSIC estimator of Song et al. 2012 in its feature form: O(samples * width^2), no samples x samples
    matrix. Raises `ValueError` with fewer than 20 samples a feature, where even the debiased estimate is noise.
    """
    samples, widest = first.shape[0], max(first.shape[1], second.shape[1])
    if second.shape[0] != samples:
        raise ValueError(f"{samples} and {second.shape[0]} samples were given: the sets must be paired.")
    if samples < 20 * widest:
        raise ValueError(
            f"{samples} samples of {widest} features were given, but at least 20 a feature ({20 * widest}) are wanted."
        )
    x, y = (value.double() - value.double().mean(0) for value in (first, second))
    own = _unbiased_hsic(x, x) * _unbiased_hsic(y, y)
    # Features without any spread are aligned with nothing.
    return float(_unbiased_hsic(x, y) / own.sqrt()) if own > TINY**2 else 0.0


def _unbiased_hsic(x: Tensor, y: Tensor) -> Tensor:
    """Song et al. 2012, eq. 5, for K = x x^T and L = y y^T with their diagonals set to zero."""
    n = x.shape[0]
    diagonal_x, diagonal_y = x.square().sum(1), y.square().sum(1)
    trace = (x.T @ y).square().sum() - (diagonal_x * diagonal_y).sum()
    rows_x = x @ x.sum(0) - diagonal_x
    rows_y = y @ y.sum(0) - diagonal_y
    product = rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2))
    return (trace + product - 2 / (n - 2) * (rows_x * rows_y).sum()) / (n * (n - 3))


def _paired(first: Tensor, second: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check two maps, bring them to one shape and type, and drop the rows that don't count."""
    try:
        shape = torch.broadcast_shapes(first.shape, second.shape)
    except RuntimeError:
        shape = ()
    if len(shape) != 4:
        raise ValueError(
            f"attention maps of shapes {tuple(first.shape)} and {tuple(second.shape)} were given, but both must be "
            "(batch, heads, queries, keys)."
        )
    dtype = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    first, second = first.to(dtype).expand(shape), second.to(dtype).expand(shape)
    if rows is not None:
        if tuple(rows.shape) != (shape[0], shape[2]):
            raise ValueError(f"rows have shape {tuple(rows.shape)}, but ({shape[0]}, {shape[2]}) is wanted.")
        keep = rows[:, None, :, None].to(dtype)
        first, second = first * keep, second * keep
    return first, second


def _flat_cosine(first: Tensor, second: Tensor) -> Tensor:
    dots = (first * second).sum((-2, -1))
    norms = first.square().sum((-2, -1)).sqrt() * second.square().sum((-2, -1)).sqrt()
    return dots / norms.clamp_min(TINY)


def _row_mean(values: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return values.mean(-1)
    keep = rows[:, None, :].to(values.dtype)
    return (values * keep).sum(-1) / keep.sum(-1).clamp_min(1)
