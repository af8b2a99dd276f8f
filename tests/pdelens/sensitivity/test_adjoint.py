import pytest
import torch
from linear import linear, random

from companion.theory.problems import full_equation
from pdelens.lattice import Chain, eigensystem
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import DivergenceError
from pdelens.pde.terms import Diffusion, Term
from pdelens.sensitivity import adjoint
from pdelens.sensitivity.adjoint import adjoint_gradient
from pdelens.sensitivity.gradients import gradient_flow

TIGHT = {"rtol": 1e-9, "atol": 1e-11}


class Squashed(Term):
    """`du/dt = tanh(3 u)`: bounded slopes, so that a lost path gives a wrong gradient and no overflow."""

    def forward(self, t, u, mask=None):
        return torch.tanh(3 * u)


LATTICE = Chain(6)
LARGEST = -float(torch.as_tensor(eigensystem(LATTICE)[0]).min())


def reacting(contraction):
    """Return diffusion with a reaction whose fastest mode decays by exp(-contraction), and a state."""
    diffusion = Diffusion(LATTICE, 2, contraction / LARGEST)
    return PDE({"diffusion": diffusion, "reaction": Squashed()}, LATTICE, depth=1).double(), random(2, 6, 2)


def weighted(u):
    return (u * random(*u.shape, seed=7)).sum()


def gap(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("contraction", [0.5, 2.0, 5.0])
def test_the_adjoint_is_backpropagation_where_little_is_forgotten(contraction):
    """`D lambda T <= 5`, float64, rtol 1e-9: to 1e-4 of the gradient through many small steps."""
    pde, u = reacting(contraction)
    found = adjoint_gradient(pde, u, weighted, **TIGHT)
    steps = gradient_flow(pde, u, weighted, substeps=64)
    assert found.depths.tolist() == [0.0, 1.0]
    for ours, theirs in ((found.gradients[0], steps.gradients[0]), (found.gradients[-1], steps.gradients[-1])):
        assert gap(ours, theirs) < 1e-4
    assert float(found.reconstruction.max()) < 1e-4


def test_heat_alone_goes_back_by_its_exponential():
    """The heat equation's J does not depend on the state: with all of `D lambda T = 5` it is the propagator."""
    pde = PDE({"diffusion": Diffusion(LATTICE, 2, 5 / LARGEST)}, LATTICE, depth=1).double()
    u = random(2, 6, 2)
    laplacian = torch.stack(
        [pde.rhs(0.0, unit.view(1, 6, 1).expand(1, 6, 2))[0, :, 0] for unit in torch.eye(6).double()], 1
    )
    exact = torch.linalg.matrix_exp(laplacian.detach()).T @ random(*u.shape, seed=7)
    assert gap(adjoint_gradient(pde, u, weighted, **TIGHT).gradients[0], exact) < 1e-7


def test_beyond_it_is_wrong_from_the_end_alone_and_right_from_states_that_were_kept():
    """`D lambda T = 40`: solved backwards, heat blows the solver's error up by e^40."""
    pde, u = reacting(40.0)
    steps = gradient_flow(pde, u, weighted, substeps=128).gradients[0]
    wrong = adjoint_gradient(pde, u, weighted, rtol=1e-5, atol=1e-7)
    assert gap(wrong.gradients[0], steps) > 0.1
    assert float(wrong.reconstruction.min()) > 1, "and it says so"
    kept = [number / 8 for number in range(1, 8)]
    right = adjoint_gradient(pde, u, weighted, checkpoints=kept, rtol=1e-7, atol=1e-9)
    assert gap(right.gradients[0], steps) < 1e-4 and right.depths.tolist() == [0, *kept, 1]
    assert float(right.reconstruction.max()) < 1e-2


def test_a_linear_equation_goes_back_by_the_transposed_exponential():
    generator, u = torch.tensor([[-0.4, 0.3], [0.0, -0.1]]).double(), random(2, 3, 2)
    found = adjoint_gradient(linear(generator, 3.0), u, weighted, checkpoints=torch.tensor([1.5]), **TIGHT)
    for depth, gradient in zip(found.depths.tolist(), found.gradients, strict=True):
        exact = random(*u.shape, seed=7) @ torch.linalg.matrix_exp((3 - depth) * generator)
        torch.testing.assert_close(gradient, exact, atol=1e-7, rtol=1e-6)
    assert found.norms.shape == (3, 2) and found.reconstruction.shape == (2, 2)


def test_the_master_equation_at_its_checkpoints():
    pde, u = full_equation(Chain(5), 8), 0.5 * random(2, 5, 8)
    depth = pde.depth
    found = adjoint_gradient(pde, u, weighted, checkpoints=[depth / 2], rtol=1e-6, atol=1e-8)
    steps = gradient_flow(pde, u, weighted, substeps=16)
    assert gap(found.gradients[0], steps.gradients[0]) < 1e-4
    assert float(found.alignment(found).min()) == pytest.approx(1)


def test_on_a_sphere_gradients_go_through_its_charts():
    pde, u = TransformerPDE(8, 2, Chain(4), depth=2, form="post", diffusion=0.05).double(), random(2, 4, 8)
    found = adjoint_gradient(pde, u, weighted, checkpoints=[1.0], **TIGHT)
    steps = gradient_flow(pde, u, weighted, substeps=64)
    for ours, theirs in zip(found.gradients, steps.gradients, strict=True):
        assert gap(ours, theirs) < 1e-4


def test_states_are_kept_where_coefficients_jump():
    pde = TransformerPDE(8, 2, Chain(4), depth=2, temporal_modes=2, basis="piecewise").double()
    found = adjoint_gradient(pde, u := random(1, 4, 8), weighted, **TIGHT)
    assert found.depths.tolist() == [0.0, 1.0, 2.0]
    assert gap(found.gradients[0], gradient_flow(pde, u, weighted, substeps=64).gradients[0]) < 1e-4


def test_a_small_gradient_has_as_many_digits_as_a_large_one():
    pde, u = reacting(2.0)
    one = adjoint_gradient(pde, u, weighted, rtol=1e-7, atol=1e-9).gradients[0]
    small = adjoint_gradient(pde, u, lambda v: 1e-12 * weighted(v), rtol=1e-7, atol=1e-9).gradients[0]
    torch.testing.assert_close(small * 1e12, one, rtol=1e-9, atol=1e-9)


def test_padding_is_as_if_it_were_not_there():
    long, short = (PDE({"d": Diffusion(Chain(n), 2, 0.3), "r": Squashed()}, Chain(n), 1).double() for n in (7, 5))
    u, mask = random(1, 7, 2), torch.arange(7)[None] < 5
    u[:, 5:] = 1e3
    ours = adjoint_gradient(long, u, lambda v: v[:, :5].square().sum(), mask=mask, **TIGHT)
    theirs = adjoint_gradient(short, u[:, :5], lambda v: v.square().sum(), **TIGHT)
    torch.testing.assert_close(ours.gradients[0][:, :5], theirs.gradients[0], atol=1e-7, rtol=1e-6)
    assert not ours.gradients[0][:, 5:].any() and ours.reconstruction.max() < 1e-5
    rough = {"rtol": 1e-4, "atol": 1e-6}
    ours = adjoint_gradient(long, u, lambda v: v[:, :5].square().sum(), mask=mask, **rough)
    theirs = adjoint_gradient(short, u[:, :5], lambda v: v.square().sum(), **rough)
    assert float(ours.reconstruction) == pytest.approx(float(theirs.reconstruction), rel=0.05) and theirs.reconstruction


class Cube(Term):
    """`du/dt = -u^3`: backwards it leaves every bound in a finite time."""

    def forward(self, t, u, mask=None):
        return -(u**3)


def test_where_no_path_leads_back_it_says_so(monkeypatch):
    monkeypatch.setattr(adjoint, "MOST_STEPS", 40)
    pde = PDE({"cube": Cube(), "diffusion": Diffusion(LATTICE, 1, 20 / LARGEST)}, LATTICE, depth=1).double()
    with pytest.raises(DivergenceError, match=r"from t = 1 to 0 in float64 .*: give checkpoints in between"):
        adjoint_gradient(pde, 3 * random(1, 6, 1), weighted, rtol=1e-4, atol=1e-6)
    with pytest.raises(DivergenceError, match=r"from t = 0 to 1 in float64 .*: give a looser rtol, or float64"):
        adjoint_gradient(pde, 3 * random(1, 6, 1), weighted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"checkpoints": [0.0]}, "a checkpoint at 0 was given"),
        ({"checkpoints": "ab"}, "a row of depth-times"),
        ({"checkpoints": [float("nan")]}, "checkpoints=nan was given"),
        ({"rtol": 0.0}, "rtol=0.0 was given"),
        ({"loss": 3}, "a function of the last state is wanted"),
        ({"loss": lambda u: u.sum(-1)}, "one number is wanted"),
        ({"inputs": random(1, 6, 1).half()}, "states of type float16 were met"),
        ({"inputs": random(1, 6, 1).long()}, "floating point is wanted"),
        ({"pde": torch.nn.Linear(2, 2)}, "an equation is wanted"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(given, sentence):
    pde = PDE({"diffusion": Diffusion(LATTICE, 1, 0.3)}, LATTICE, depth=1).double()
    with pytest.raises((ValueError, TypeError), match=sentence):
        adjoint_gradient(**{"pde": pde, "inputs": random(1, 6, 1), "loss": weighted, **given})
