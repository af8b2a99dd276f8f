"""Eigenvalues, logarithmic norms and Lipschitz constants of a field's Jacobian."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .. import _doors
from ..pde.equation import PDE
from .jacobian import FieldJacobian

# Below this size Arnoldi has no room for its subspace, and all eigenvalues are as cheap.
_SMALL = 64
_RESTARTS = 300


class LogNorms(NamedTuple):
    """The extreme eigenvalues of `(J + J^T) / 2`, (examples,): `-mu_2(-J)` and `mu_2(J)`."""

    lower: Tensor
    upper: Tensor


class Eigenvalues(NamedTuple):
    """The eigenvalues with the largest and smallest real part and the largest modulus, complex (examples,)."""

    rightmost: Tensor
    leftmost: Tensor
    largest: Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The linearised field at one depth, per unit of depth-time; every tensor is (examples,).

    `lipschitz`: the largest singular value of J, the field's local Lipschitz constant. `log_norms`: the fastest
    instantaneous growth and decay of any perturbation. `eigenvalues`: None where not asked for.
    """

    t: float
    lipschitz: Tensor
    log_norms: LogNorms
    eigenvalues: Eigenvalues | None = None


def lipschitz_constant(jacobian: FieldJacobian, tolerance: float = 1e-5) -> Tensor:
    """Return the largest singular value of J, (examples,): the field's local Lipschitz constant `|J|_2`.

    Restarted Lanczos on `J^T J` (ARPACK): the power method's subspace, with the best answer that is in it.
    `tolerance` is relative. Raises `RuntimeError` where it is not reached. Cost: some tens of pairs of products an
    example.
    """
    squares = _ends(jacobian, lambda one, v: one.vjp(one.jvp(v)), True, tolerance, "LM")
    return torch.tensor([max(float(found[0].max()), 0.0) ** 0.5 for found in squares], dtype=torch.float64)


def logarithmic_norms(jacobian: FieldJacobian, tolerance: float = 1e-5) -> LogNorms:
    """Return the extreme eigenvalues of `(J + J^T) / 2`, (examples,): `upper` is the logarithmic norm `mu_2(J)`.

    A perturbation e obeys `lower <= d log|e| / dt <= upper` at this state; `mu_2 < 0` contracts. `mu_2` (the
    numerical abscissa) is never below the rightmost eigenvalue, and above it where J is far from normal. Source:
    Soderlind 2006, "The logarithmic norm". Raises and costs as `lipschitz_constant`.
    """
    ends = _ends(jacobian, lambda one, v: (one.jvp(v) + one.vjp(v)) / 2, True, tolerance, "SA", "LA")
    return LogNorms(*torch.tensor([(float(low.min()), float(high.max())) for low, high in ends]).double().T)


def eigenvalues(jacobian: FieldJacobian, tolerance: float = 1e-5) -> Eigenvalues:
    """Return the rightmost, leftmost and largest eigenvalues of J, complex (examples,), by restarted Arnoldi.

    Raises as `lipschitz_constant`. Cost: some hundred products an example.
    """
    found = [
        [right[right.real.argmax()], left[left.real.argmin()], large[np.abs(large).argmax()]]
        for right, left, large in _ends(jacobian, FieldJacobian.jvp, False, tolerance, "LR", "SR", "LM")
    ]
    return Eigenvalues(*torch.tensor(np.array(found, dtype=complex)).T)


def spectrum(
    pde: PDE,
    t: float,
    u: Float[Tensor, "batch tokens width"],
    mask: Bool[Tensor, "batch tokens"] | None = None,
    *,
    arnoldi: bool = True,
) -> Spectrum:
    """Return the measures of the linearised field `J = d rhs / d u` at a state, per unit of depth-time.

    Lipschitz constant `|J|_2`, logarithmic norms (the extreme eigenvalues of `(J + J^T) / 2`) and, unless
    `arnoldi=False`, the extreme eigenvalues of J, for every example. Raises `ValueError` where state, mask or
    depth-time do not fit, `RuntimeError` where an eigenvalue is not found. Cost: some hundred products with J an
    example. Source: Lehoucq, Sorensen and Yang 1998 (ARPACK); Soderlind 2006 for logarithmic norms.

    >>> from pdelens.lattice import Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=1)
    >>> round(float(spectrum(heat, 0.0, torch.zeros(1, 3, 1)).log_norms.lower), 4)
    -3.0
    """
    _doors.flag("arnoldi", arnoldi)
    jacobian = FieldJacobian(pde, t, u, mask)
    modes = eigenvalues(jacobian) if arnoldi else None
    return Spectrum(jacobian.t, lipschitz_constant(jacobian), logarithmic_norms(jacobian), modes)


def _ends(jacobian: FieldJacobian, product, symmetric: bool, tolerance: float, *which: str) -> Iterator[list[Any]]:
    """Yield, example by example, eigenvalues of `product(J, v)` at the named ends of its spectrum, an array each.

    `tolerance` is relative to the operator's size. Where the matrix is small all eigenvalues are given.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs, eigsh

    solver: Any = eigsh if symmetric else eigs
    for number in range(len(jacobian.point)):
        one = jacobian.example(number)
        # Padded tokens' zero rows would add eigenvalues of their own: only real tokens' entries are seen.
        entries = np.flatnonzero(one.real(torch.ones_like(one.point)).detach().cpu().numpy())
        size = len(entries)

        def apply(vector: np.ndarray, shift: float = 0.0, one=one, entries=entries) -> np.ndarray:
            whole = np.zeros(one.point.numel())
            whole[entries] = vector.ravel()
            moved = product(one, torch.from_numpy(whole).view_as(one.point)).double().cpu().numpy().ravel()
            return moved[entries] + shift * vector.ravel()

        start = np.random.default_rng(0).standard_normal(size)
        scale = float(np.linalg.norm(apply(start)) / np.linalg.norm(start))
        if size <= _SMALL or scale == 0:
            dense = np.stack([apply(unit) for unit in np.eye(size)], 1) if scale else np.zeros((1, 1))
            yield [np.linalg.eigvalsh(dense) if symmetric else np.linalg.eigvals(dense)] * len(which)
            continue
        found, how = [], {"v0": start, "tol": tolerance, "maxiter": _RESTARTS, "return_eigenvectors": False}
        for end in which:
            # ARPACK's tolerance is relative to the eigenvalue, which may be zero (diffusion's is): it is moved away.
            shift = 0.0 if end == "LM" else scale if end[0] == "L" else -scale
            moved: Any = {"matvec": partial(apply, shift=shift), "dtype": np.float64}
            try:
                found.append(solver(LinearOperator((size, size), **moved), 2, which=end, **how) - shift)
            except ArpackError as error:
                raise RuntimeError(
                    f"the eigenvalue {end!r} of {size} rows was not found to {tolerance:g} in {_RESTARTS} restarts: "
                    "ask for a larger tolerance, or give the state and the equation in float64."
                ) from error
        yield found
