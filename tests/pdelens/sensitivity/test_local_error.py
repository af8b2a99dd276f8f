import numpy as np
import pytest
import torch

from pdelens import Chain, Flow
from pdelens.pde.equation import PDE
from pdelens.pde.terms import Diffusion
from pdelens.sensitivity.local_error import LocalErrors, error_growth, local_errors


@pytest.mark.parametrize("power", [1.0, -0.5, 2.0])
def test_growth_is_the_slope_of_logarithms(power):
    lipschitz = torch.tensor([[1.0, 2.0], [5.0, 0.3]])
    slope, rank = error_growth(7 * lipschitz**power, lipschitz)
    assert slope == pytest.approx(power, abs=1e-6) and rank == pytest.approx(np.sign(power))
    errors = torch.tensor([[1.0, 9.0], [3.0, 0.2]])
    x, y = lipschitz.log().flatten().numpy(), errors.log().flatten().numpy()
    slope, rank = error_growth(errors, lipschitz)
    assert slope == pytest.approx(np.cov(x, y)[0, 1] / np.var(x, ddof=1), rel=1e-5)
    assert rank == pytest.approx(np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1])


@pytest.mark.parametrize(
    ("errors", "lipschitz"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]),
        ([[1.0], [2.0], [3.0], [4.0]], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 1.0, 2.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
    ],
)
def test_one_shape_and_three_different_constants_are_wanted(errors, lipschitz):
    with pytest.raises(ValueError, match="one shape with at least three different constants is wanted"):
        error_growth(torch.tensor(errors), torch.tensor(lipschitz))


def test_noughts_have_no_logarithm():
    good, bad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 3.0])
    error_growth(good, good)
    for errors, lipschitz in ((bad, good), (good, bad), (-good, good)):
        with pytest.raises(ValueError, match="must be positive"):
            error_growth(errors, lipschitz)


def test_errors_are_measured_layer_by_layer_from_the_flows_own_states(heat_mode):
    """One heat mode: Euler's factor over a layer against the exponential, from states that no equation made."""
    lattice = Chain(8)
    mode, value = heat_mode(lattice, (2,))
    pde = PDE({"d": Diffusion(lattice, 1, 0.3)}, lattice, 4.0).double()
    rate = float(pde.terms["d"].diffusivity(0.0).detach()) * value
    sizes, depths = [1.0, 3.0, 0.5, 2.0], [0.0, 0.5, 2.0, 4.0]
    flow = Flow([torch.stack([size * mode, -2 * size * mode]) for size in sizes], depths=depths)
    found = local_errors(pde, flow, "euler", 2, rtol=1e-10, atol=1e-12)
    assert isinstance(found, LocalErrors) and len(found.solved) == 3
    for layer in range(3):
        step = depths[layer + 1] - depths[layer]
        norms = torch.tensor([1.0, 2.0]).double() * sizes[layer] * mode.norm()
        euler, exact = (1 + step / 2 * rate) ** 2, np.exp(step * rate)
        torch.testing.assert_close(found.error[layer], norms * abs(euler - exact), atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(found.displacement[layer], norms * abs(exact - 1), atol=1e-8, rtol=1e-6)
        torch.testing.assert_close(found.relative[layer], found.error[layer] / found.displacement[layer])
        torch.testing.assert_close(found.solved[layer][0], exact * sizes[layer] * mode, atol=1e-8, rtol=0)
