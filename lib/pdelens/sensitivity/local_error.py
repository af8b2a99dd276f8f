"""Local errors of a step, and how they grow to the end of the depth-time."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..flow import Flow
from ..pde.equation import PDE
from ..pde.integrate import integrate


@dataclass(frozen=True, eq=False)
class LocalErrors:
    """One step a layer against the equation's solution, from the same states: (layers, examples) each.

    `error` is `|Phi(u) - phi(u)|`, `displacement` is `|phi(u) - u|`: Frobenius norms over real tokens. `solved` are
    the solutions themselves, one (examples, tokens, width) a layer.
    """

    error: Tensor
    displacement: Tensor
    solved: tuple[Tensor, ...]

    @property
    def relative(self) -> Tensor:
        """Return `|Phi(u) - phi(u)| / |phi(u) - u|`: 0 is a solved equation, 1 as wrong as not moving."""
        return self.error / self.displacement.clamp_min(torch.finfo(self.error.dtype).tiny)


@torch.no_grad()
def local_errors(
    pde: PDE, flow: Flow, method: str = "lie", substeps: int = 1, *, rtol: float = 1e-6, atol: float = 1e-8
) -> LocalErrors:
    """Return, layer by layer, how far so many steps are from the solution, both from the Flow's own state there.

    `Phi` is `method` with `substeps` over the layer, `phi` is dopri5 at `rtol` and `atol`. Steps beyond a proved
    bound are made, as their error is what is measured. Raises `DivergenceError` where no solution is found. Cost: one
    adaptive solve of one unit a layer.
    """
    errors, moves, ends = [], [], []
    times = _times(pde, flow)
    for a, b, u in zip(times[:-1], times[1:], flow.states[:-1], strict=True):
        solved = integrate(pde, u, [a, b], "dopri5", mask=flow.mask, rtol=rtol, atol=atol).states[-1]
        stepped = integrate(pde, u, [a, b], method, substeps, mask=flow.mask, check_steps=False).states[-1]
        keep = flow.mask[..., None].to(u.dtype)
        errors.append(((stepped - solved) * keep).flatten(1).norm(dim=1))
        moves.append(((solved - u) * keep).flatten(1).norm(dim=1))
        ends.append(solved)
    return LocalErrors(torch.stack(errors), torch.stack(moves), tuple(ends))


def error_growth(errors: Tensor, lipschitz: Tensor) -> tuple[float, float]:
    """Return the slope of log local error over log Lipschitz constant, and Spearman's rank correlation.

    One Euler step's relative error is `h |J f| / (2 |f|)` at leading order, at most `h |J|_2 / 2`: exponent 1 along
    one direction; further terms `(h J)^k` raise it where `h |J|_2` is not small.
    """
    from scipy.stats import spearmanr

    if errors.shape != lipschitz.shape or lipschitz.unique().numel() < 3:
        shapes = f"{tuple(errors.shape)} and {tuple(lipschitz.shape)}"
        raise ValueError(
            f"shapes {shapes} were given, but one shape with at least three different constants is wanted."
        )
    if not bool((errors > 0).all() & (lipschitz > 0).all()):
        raise ValueError("errors and Lipschitz constants must be positive: leave out what is zero.")
    y, x = (value.detach().double().cpu().flatten().numpy() for value in (errors, lipschitz))
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]), float(spearmanr(x, y).statistic)  # type: ignore[union-attr]


def _times(pde: PDE, flow: Flow) -> list[float]:
    """Return a Flow's depth-times; refuse Flows without states, and equations whose state is not the hidden state."""
    if not flow.states:
        raise ValueError("a Flow without states was given: capture or integrate it with them.")
    if pde.constraint is not None:
        raise ValueError("an equation on a sphere was given: its state is not a Flow's; use `spectrum` on its own.")
    return [float(t) for t in flow.depths]
