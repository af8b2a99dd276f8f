"""Equations of which everything is known: linear ones, and states drawn with a seed."""

import torch

from pdelens.pde.equation import PDE
from pdelens.pde.terms import Reaction


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(matrix, depth=1.0):
    """Return `du/dt = M u` for each token, by the library's own reaction."""
    width = len(matrix)
    term = Reaction(width, width, lambda u: u, "linear", depth).double()
    with torch.no_grad():
        for modes, value in ((term.first, matrix), (term.second, torch.eye(width, dtype=torch.float64))):
            modes.coefficients.zero_()
            modes.coefficients[0, :, :-1] = value
    return PDE({"reaction": term}, None, depth)
