"""How much a map of states expands or contracts volume: exactly for a layer, by Liouville's formula for an equation."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.flow import padding_of
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.jacobian import Jacobian

# Gauss's two points in each interval, exact for cubic integrands.
_NODES = (0.5 - 3**-0.5 / 2, 0.5 + 3**-0.5 / 2)
_AT_ONCE = 64


def written_down(jacobian: Jacobian) -> Tensor:
    """Return the Jacobian of one example itself, (entries, entries) of its real tokens; row i is entry i's gradient.

    Cost: a backward pass for each entry, many at once. For states larger than those of `Jacobian.matrix`.
    """
    if len(jacobian.point) != 1:
        raise ValueError(f"{len(jacobian.point)} examples were given: a Jacobian is written down for one.")
    real = jacobian.real(torch.ones_like(jacobian.point)).detach().flatten().nonzero()[:, 0]
    found = []
    for some in real.split(_AT_ONCE):
        units = torch.zeros(len(some), jacobian.point.numel())
        units[torch.arange(len(some)), some] = 1
        given = units.view(-1, *jacobian.point.shape).to(jacobian.point)
        (rows,) = torch.autograd.grad(jacobian.output, jacobian.point, given, retain_graph=True, is_grads_batched=True)
        found.append(rows.flatten(1)[:, real])
    return torch.cat(found)


class Volume(NamedTuple):
    """The mean over a map's singular values of their logarithm, and the mean of its branch's eigenvalues.

    `log` is `log |det J| / n`, the mean of `log |1 + lambda|` over the eigenvalues of `J - 1`; `trace` is their mean
    real part, `tr(J - 1) / n`: what the logarithm would be, were the branch a field, followed for a unit of time.
    """

    log: float
    trace: float


def volume_of(matrix: Tensor) -> Volume:
    """Return the volume of a Jacobian (entries, entries).

    >>> volume_of(torch.tensor([[-1.0, 3.0], [0.0, 1.0]]))  # a step that overshoots zero loses nothing
    Volume(log=0.0, trace=-1.0)
    """
    found = torch.linalg.slogdet(matrix.double()).logabsdet / len(matrix)
    return Volume(float(found), float(matrix.double().diagonal().mean()) - 1)


def trace(function: Callable[[Tensor], Tensor], u: Tensor, mask: Tensor, signs: Tensor) -> Tensor:
    """Return the trace of a field's Jacobian over the number of real entries, a draw each: (draws, examples).

    With random signs z (draws, *state): the mean of `z^T J z` is the trace (Hutchinson 1990).
    """
    real = mask[..., None].to(u)
    with torch.enable_grad():
        point = u.detach().clone().requires_grad_()
        value = function(point)
        products = []
        for z in signs:
            given = z * real
            (pulled,) = torch.autograd.grad(value, point, given, retain_graph=True)
            products.append((pulled * given).double().flatten(1).sum(1))
    return torch.stack(products) / (real.sum((1, 2)) * u.shape[-1]).double()


class Liouville(NamedTuple):
    """The integral of the mean eigenvalue along a solution: by `terms` and interval, (intervals,) each; its `error`.

    Their sum is the logarithm of the volume's growth over the number of entries (Liouville's formula); `error` is the
    standard error of the random draws, of the sum over all.
    """

    terms: dict[str, np.ndarray]
    error: float

    @property
    def total(self) -> float:
        """Over all terms and intervals."""
        return float(sum(part.sum() for part in self.terms.values()))


def liouville(
    pde: PDE, u: Tensor, mask: Tensor, times: Sequence[float], draws: int = 8, seed: int = 0, **solver
) -> Liouville:
    """Return `(1/n) int tr J dt` along the solution from u at `times[0]`, by term, mean over examples.

    In each interval of times by two Gauss points; the solution is `integrate`'s with `solver`.
    """
    padding, generator = padding_of(mask), torch.Generator().manual_seed(seed)
    nodes = [start + share * (end - start) for start, end in pairwise(times) for share in _NODES]
    with torch.no_grad():
        states = integrate(pde, u, [times[0], *nodes], mask=padding, check_steps=False, **solver).states[1:]
    found: dict[str, list[np.ndarray]] = {name: [] for name in pde.active()}
    for node, state in zip(nodes, states, strict=True):
        signs = torch.randint(0, 2, (draws, *u.shape), generator=generator).to(u) * 2 - 1
        for name, term in pde.frozen(node, padding).items():
            found[name].append(trace(term, state, mask, signs).mean(1).numpy())  # (draws,)
    lengths = np.diff(times)
    parts = {n: np.array(rows).reshape(len(lengths), 2, draws).mean(1) * lengths[:, None] for n, rows in found.items()}
    whole = np.array(list(parts.values())).sum((0, 1))
    return Liouville({n: part.mean(1) for n, part in parts.items()}, float(whole.std(ddof=1) / draws**0.5))
