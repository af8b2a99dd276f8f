"""Volume: against determinants, and Liouville's formula against the Jacobian of the solution itself."""

import numpy as np
import pytest
import torch
from linear import linear, random

from companion.dynamics import volumes
from companion.theory.problems import full_equation
from pdelens.lattice import Chain
from pdelens.sensitivity.flow_map import FlowMap, flow_map


def test_a_jacobian_is_written_down_for_real_tokens():
    mask = torch.tensor([[True, True, True, False]])
    found = volumes.written_down(FlowMap(lambda u: u.sin() + u.flip(-1), random(1, 4, 2), mask))
    exact = torch.func.jacrev(lambda u: (u.sin() + u.flip(-1)).flatten())(random(1, 4, 2)[0, :3]).flatten(1)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=1e-12)
    with pytest.raises(ValueError, match="2 examples were given"):
        volumes.written_down(FlowMap(lambda u: u.sin(), random(2, 4, 2)))


def test_volume_and_trace_of_a_matrix():
    matrix = torch.eye(5).double() + random(5, 5)
    eigenvalues = np.linalg.eigvals(matrix.numpy() - np.eye(5))
    found = volumes.volume_of(matrix)
    assert found.log == pytest.approx(np.log(np.linalg.svd(matrix.numpy())[1]).mean())
    assert found.log == pytest.approx(np.log(abs(1 + eigenvalues)).mean())
    assert found.trace == pytest.approx(eigenvalues.real.mean())


def test_a_linear_equations_volume_is_its_trace_times_its_time():
    generator = torch.tensor([[-0.4, 0.3], [0.1, 0.2]]).double()
    found = volumes.liouville(
        linear(generator, 3.0), random(2, 3, 2), torch.ones(2, 3).bool(), [0.0, 1.0, 3.0], 64, substeps=8, method="rk4"
    )
    assert found.total == pytest.approx(-0.2 * 3 / 2, abs=4 * found.error)
    assert sum(part.sum() for part in found.terms.values()) == pytest.approx(found.total)
    (each,) = found.terms.values()
    assert each.shape == (2,) and each[1] == pytest.approx(2 * each[0], abs=0.1)


def test_liouvilles_formula_is_the_determinant_of_the_solutions_jacobian():
    pde, u = full_equation(Chain(4), 4), random(1, 4, 4)
    times = np.linspace(0, pde.depth, 4).tolist()
    found = volumes.liouville(pde, u, torch.ones(1, 4).bool(), times, 60, method="rk4", substeps=4)
    exact = torch.linalg.slogdet(flow_map(pde, u, substeps=32).matrix()[0]).logabsdet / 16
    assert abs(float(exact)) > 10 * found.error, "there is something to find"
    assert found.total == pytest.approx(float(exact), abs=4 * found.error)


def test_padding_has_no_volume():
    pde, mask = full_equation(Chain(5), 4), torch.tensor([[True] * 3 + [False] * 2])
    u = random(1, 5, 4)
    signs = random(400, 1, 5, 4).sign()
    found = volumes.trace(lambda v: pde.rhs(0.0, v, mask), u, mask, signs).mean()
    short = full_equation(Chain(3), 4)
    short.load_state_dict(pde.state_dict(), strict=False)
    matrix = torch.func.jacrev(lambda v: short.rhs(0.0, v[None])[0].flatten())(u[0, :3]).flatten(1)
    assert float(found) == pytest.approx(float(matrix.detach().diagonal().mean()), abs=0.05)
