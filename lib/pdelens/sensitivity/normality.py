"""How far a Jacobian is from normal and from symmetric, and how successive layers' directions meet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _doors
from .flow_map import FlowMap
from .jacobian import DENSE, Jacobian
from .singular import SingularValues
from .subspace import columns, drawn, krylov, random_directions, rows


class Measured(NamedTuple):
    """A measure of each example and its error, (examples,) each: 0 where it was computed, else as the measure says."""

    value: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class NonNormality:
    """How far a matrix A is from normal and from symmetric, by example.

    `departure`: `|A^T A - A A^T|_F / |A|_F^2`, 0 where A is normal (its singular values are then its eigenvalues'
    moduli), at most sqrt(2). `asymmetry`: `|A - A^T|_F^2 / (4 |A|_F^2)`, 0 where A is symmetric, 1 where it is skew,
    one half for independent random entries. `abscissa`: the numerical abscissa, the largest eigenvalue of
    `(A + A^T) / 2`, at which rate some change grows at first. `exact`: whether A was written down; else errors are
    standard errors over random draws, and the abscissa's is the residual, within which a true eigenvalue lies.
    """

    departure: Measured
    asymmetry: Measured
    abscissa: Measured
    exact: bool


def non_normality(
    jacobian: Jacobian, *, residual: bool | None = None, draws: int = 8, rounds: int = 8, seed: int = 0
) -> NonNormality:
    """Return how far a Jacobian J is from normal and symmetric, and its numerical abscissa, example by example.

    With `residual` they are those of the branch `A = J - 1`, else of `A = J`; if not given, of the branch of a flow
    map and of a field's J itself, which is a branch already. The branch is the one to read of a layer: the commutator
    `A^T A - A A^T` is the same of both, but `|J|_F^2` is nearly the number of entries whatever a small branch does, so
    J itself is always almost normal and almost symmetric. Where a state has at most 1,024 entries the matrix is
    written down; else norms are means over `draws` random signs (Hutchinson) with jackknifed standard errors, and the
    abscissa is a Ritz value of `rounds` block Lanczos steps, a bound from below. Raises `ValueError` for fewer than two
    draws. Cost: `tokens x width` products, or `4 draws + 4 (rounds + 1)`. Source: Henrici 1962 for the departure;
    Trefethen and Embree 2005 for the abscissa; Hutchinson 1990.

    >>> from pdelens import FlowMap
    >>> shear = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    >>> found = non_normality(FlowMap(lambda u: u @ shear.T, torch.zeros(1, 1, 2)))
    >>> [round(float(one.value), 3) for one in (found.departure, found.asymmetry, found.abscissa)]
    [1.414, 0.5, 0.5]
    """
    _doors.is_a("jacobian", jacobian, Jacobian, "what `flow_map` returns, or a FieldJacobian,")
    if residual is not None:
        _doors.flag("residual", residual)
    _doors.whole("draws", draws, 2)
    _doors.whole("rounds", rounds)
    _doors.whole("seed", seed, 0)
    one = float(isinstance(jacobian, FlowMap) if residual is None else residual)
    if jacobian.point[0].numel() <= DENSE:
        return _dense(jacobian, one)

    def forward(v: Tensor) -> Tensor:
        return jacobian.jvp(v).detach() - one * v

    def backward(v: Tensor) -> Tensor:
        return jacobian.vjp(v).detach() - one * v

    signs = drawn(jacobian, draws, seed).sign()
    moments = torch.stack([_moments(forward, backward, sign) for sign in signs])  # (draws, 3, examples)
    departure, asymmetry = (_jackknifed(moments, ratio) for ratio in (_departure, _asymmetry))
    return NonNormality(departure, asymmetry, _abscissa(jacobian, forward, backward, rounds, seed), False)


def _dense(jacobian: Jacobian, one: float) -> NonNormality:
    real = jacobian.real(torch.ones_like(jacobian.point)).detach().flatten(1).double()  # (examples, entries)
    matrix = jacobian.matrix().detach().double() - one * torch.diag_embed(real)
    size = matrix.square().sum((1, 2))
    commutator = matrix.mT @ matrix - matrix @ matrix.mT
    sums = torch.stack([commutator.square().sum((1, 2)), (matrix - matrix.mT).square().sum((1, 2)), size])
    # A padded entry's eigenvalue is none of the matrix's: it is moved below all.
    below = torch.diag_embed((1 - real) * (1 + size.sqrt())[:, None])
    highest = torch.linalg.eigvalsh((matrix + matrix.mT) / 2 - below)[:, -1]
    exact = torch.zeros_like(highest)
    return NonNormality(*(Measured(v, exact) for v in (_departure(sums), _asymmetry(sums), highest)), exact=True)


def _departure(sums: Tensor) -> Tensor:
    return sums[0].sqrt() / sums[2].clamp_min(torch.finfo(sums.dtype).tiny)


def _asymmetry(sums: Tensor) -> Tensor:
    return sums[1] / (4 * sums[2]).clamp_min(torch.finfo(sums.dtype).tiny)


def _moments(forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor], sign: Tensor) -> Tensor:
    """Return what has the expectations `|A^T A - A A^T|^2`, `|A - A^T|^2` and `|A|^2`, (3, examples)."""
    ahead, back = forward(sign), backward(sign)
    parts = [backward(ahead) - forward(back), ahead - back]
    squares = [part.double().flatten(1).square().sum(1) for part in (*parts, ahead, back)]
    return torch.stack([squares[0], squares[1], (squares[2] + squares[3]) / 2])


def _jackknifed(moments: Tensor, ratio: Callable[[Tensor], Tensor]) -> Measured:
    """Return a function of mean moments (draws, 3, examples), and its standard error by leaving out each draw once."""
    count = len(moments)
    without = torch.stack([ratio((moments.sum(0) - one) / (count - 1)) for one in moments])
    error = ((count - 1) / count * (without - without.mean(0)).square().sum(0)).sqrt()
    return Measured(ratio(moments.mean(0)), error)


def _abscissa(jacobian: Jacobian, forward, backward, rounds: int, seed: int) -> Measured:
    def symmetric(v: Tensor) -> Tensor:
        return (forward(v) + backward(v)) / 2

    basis, images = krylov(jacobian, symmetric, random_directions(jacobian, 2, seed), rounds)
    projected = (columns(basis).mT @ columns(images)).double()
    values, turns = torch.linalg.eigh((projected + projected.mT) / 2)
    top, turn = values[:, -1], turns[..., -1:].to(basis.dtype)
    vector, image = (rows(columns(block) @ turn, basis.shape)[0] for block in (basis, images))
    gap = image - top.to(image.dtype).view(-1, 1, 1) * vector
    return Measured(top, gap.double().flatten(1).norm(dim=1))


class Coupling(NamedTuple):
    """How much of a layer's leading directions meets the next one's, by example, and what chance alone gives.

    `overlap` (examples,) is the mean squared cosine of the smaller space with the larger one: 1 where one contains
    the other, 0 where they are orthogonal. `chance` (examples,) is its expectation for random spaces.
    """

    overlap: Tensor
    chance: Tensor


def coupling(before: SingularValues, after: SingularValues) -> Coupling:
    """Return how far what one layer stretches most is what the next one stretches most.

    With the k left singular vectors U of one Jacobian (where what it stretches ends) and the k right singular vectors
    V of the next (what that one stretches): `|U^T V|_F^2 / k`. Of random spaces of n entries it is k / n on average; of
    spaces of different size k is the smaller one's, and chance the larger one's share. A space of leading vectors is
    defined only as far as its last singular value is apart from the next. Raises `ValueError` where the states differ.
    Cost: k^2 inner products. Source: Aubry et al. 2024 (arXiv 2407.07810), who align residual Jacobians by their
    singular vectors.

    >>> from pdelens import FlowMap, jacobian_spectrum
    >>> stretch = torch.tensor([4.0, 1.0, 1.0, 1.0])
    >>> found = jacobian_spectrum(FlowMap(lambda u: u * stretch, torch.zeros(1, 1, 4)), 1)
    >>> [float(part) for part in coupling(found, found)]
    [1.0, 0.25]
    """
    for name, one in (("before", before), ("after", after)):
        _doors.is_a(name, one, SingularValues, "what `jacobian_spectrum` returns")
    if before.left.shape[1:] != after.right.shape[1:] or not torch.equal(before.entries, after.entries):
        raise ValueError(
            f"directions of {tuple(before.left.shape[1:])} states are followed by those of "
            f"{tuple(after.right.shape[1:])}: the same states' tokens are wanted."
        )
    ends, starts = columns(before.left.double()), columns(after.right.double())
    fewer, more = sorted((ends.shape[-1], starts.shape[-1]))
    overlap = (ends.mT @ starts).square().sum((1, 2)) / fewer
    return Coupling(overlap, more / before.entries.double())
