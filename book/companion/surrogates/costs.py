"""What an equation costs beside its teacher: parameters are one price, arithmetic is another."""

import torch
from torch import Tensor

from pdelens.flow import Flow
from pdelens.pde.equation import PDE, PostNorm
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import Advection, Diffusion, Reaction, SelfAttention, Term

from .narrow import NarrowPDE


def flops(pde: PDE, tokens: int) -> int:
    """Return the floating-point operations of one right-hand side on one example.

    Counted as `models.Configuration.flops` does, two for each product with its addition: matrices and stencils alone.
    Norms, softmax, activations and biases are left out, and so are coefficients that a whole batch shares. For n
    tokens, width w, hidden width h, a lattice of d dimensions:

        attention    2 n (4 w^2 + 2 n w)        reaction     2 n (2 w h)
        diffusion    2 n w (2 d + 1)            advection    2 n w (d + 1), both directions of upwind

    Order-4 diffusion takes 4 d + 1 places. One step of Lie's splitting takes as many: each term once.

    >>> from pdelens.lattice import Grid
    >>> from pdelens.pde.equation import TransformerPDE
    >>> flops(TransformerPDE(64, 4, Grid(7, 7)), 49)
    5462912
    """
    return sum(_of_term(term, tokens) for term in pde.active().values())


def solve_flops(pde: PDE, tokens: int, sides: int) -> int:
    """Return the operations of a solution that takes so many right-hand sides, ends included.

    One Lie step a layer takes `pde.depth` of them. A narrow network's maps in and out are counted once each.
    """
    ends = 4 * tokens * pde.width * pde.narrow if isinstance(pde, NarrowPDE) else 0
    return sides * flops(pde, tokens) + ends


@torch.no_grad()
def adaptive(pde: PDE, u0: Tensor, mask: Tensor | None = None, tolerance: float = 1e-6) -> tuple[Flow, int]:
    """Return the adaptive solution (dopri5) on a batch of embeddings, and how many right-hand sides it took.

    One step size serves the whole batch: a batch takes what its hardest example needs. Raises `DivergenceError` where
    there is no solution.
    """
    count, total = 0, pde.total

    def counted(*arguments) -> Tensor:
        nonlocal count
        count += 1
        return total(*arguments)

    # An attribute of this one equation hides the method for as long as it is there.
    object.__setattr__(pde, "total", counted)
    try:
        flow = integrate(pde, u0, mask=mask, method="dopri5", rtol=tolerance, atol=tolerance)
    finally:
        object.__delattr__(pde, "total")
    return flow, count


def _of_term(term: Term, tokens: int) -> int:
    inner = term.inner if isinstance(term, PostNorm) else term
    if isinstance(inner, SelfAttention):
        width = inner.output.coefficients.shape[-2]
        return 2 * tokens * (4 * width**2 + 2 * tokens * width)
    if isinstance(inner, Reaction):
        hidden, inputs = inner.first.coefficients.shape[-2:]
        return 2 * tokens * 2 * (inputs - 1) * hidden
    if isinstance(inner, Diffusion):
        return 2 * tokens * inner.raw.coefficients.shape[-1] * (inner.order * inner.lattice.dims + 1)
    if isinstance(inner, Advection):
        return 2 * tokens * inner.velocity.coefficients.shape[-1] * (inner.lattice.dims + 1)
    raise TypeError(f"a term {type(inner).__name__} was given: its operations are not known.")
