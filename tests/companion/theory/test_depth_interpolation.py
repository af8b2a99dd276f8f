"""Equations through the same layers, against plain formulas, and against each other where units change places."""

import pytest
import torch

from companion.theory.depth_interpolation import WAYS, Blended, LinearModes, reordered_units, through_layers
from pdelens import equation_of, flow_of, integrate
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.modes import Modes
from pdelens.pde.terms import Term


@pytest.fixture(scope="module")
def model():
    return Transformer(Configuration(layers=3, width=16, heads=2, vocabulary=20, length=6), seed=3).eval()


@pytest.fixture(scope="module")
def flow(model):
    tokens = torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return flow_of(model, {"inputs": tokens})


class Scaled(Term):
    """`c(t) u` with one number a unit of depth-time."""

    def __init__(self, numbers):
        super().__init__()
        self.rate = Modes(torch.zeros(()).double(), float(len(numbers)), len(numbers), "piecewise")
        self.rate.coefficients.data = torch.tensor(numbers).double()

    def frozen(self, t, mask=None):
        rate = self.rate(t)
        return lambda u: rate * u


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_one_step_a_layer_is_the_model_and_finer_steps_are_not(model, flow, way):
    pde = through_layers(equation_of(model), way)
    one = integrate(pde, flow.states[0], method="lie")
    for part in ("states", "attention"):
        for ours, theirs in zip(getattr(one, part), getattr(flow, part), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    finer = integrate(pde, flow.states[0], method="lie", substeps=4)
    assert float((finer.states[-1] - flow.states[-1]).abs().max()) > 1e-3


def test_coefficients_move_on_straight_lines_and_stop():
    steps = Modes(torch.zeros(2), 3.0, 3, "piecewise")
    steps.coefficients.data = torch.tensor([[1.0, 0.0], [3.0, 10.0], [2.0, -10.0]])
    moving = LinearModes(steps)
    for t, wanted in (
        (0.0, [1, 0]),
        (0.5, [2, 5]),
        (1.0, [3, 10]),
        (1.75, [2.25, -5]),
        (2.0, [2, -10]),
        (3.0, [2, -10]),
    ):
        assert moving(t).tolist() == pytest.approx(wanted)


@torch.no_grad()
def test_blended_fields_solve_what_the_formula_says():
    # du/dt = c(t) u with c linear between 0.3, -0.8 and 0.5, then constant: u(3) = exp(integral of c).
    inner, u = Scaled([0.3, -0.8, 0.5]), torch.ones(1, 2, 1).double()
    found = integrate(PDE({"rate": Blended(inner, 3)}, None, 3.0), u, method="rk4", substeps=20).states[-1]
    exact = torch.tensor((0.3 - 0.8) / 2 + (-0.8 + 0.5) / 2 + 0.5).double().exp()
    torch.testing.assert_close(found, exact.expand_as(found), rtol=1e-6, atol=0)


@torch.no_grad()
def test_the_right_hand_side_between_two_layers(model, flow):
    pde, u = equation_of(model), flow.states[1]
    fields = through_layers(pde, "fields")
    torch.testing.assert_close(
        fields.rhs(1.25, u), 0.75 * pde.rhs(1.0, u) + 0.25 * pde.rhs(2.0, u), rtol=1e-5, atol=1e-5
    )
    blended = 0.75 * pde.attention(1.0, u) + 0.25 * pde.attention(2.0, u)
    torch.testing.assert_close(fields.attention(1.25, u), blended)
    torch.testing.assert_close(fields.rhs(2.9, u), pde.rhs(2.0, u))
    weights = through_layers(pde, "weights")
    first = pde.terms["reaction"].first.coefficients
    torch.testing.assert_close(weights.terms["reaction"].first(0.25), 0.75 * first[0] + 0.25 * first[1])
    assert torch.equal(pde.terms["reaction"].first(0.25), first[0]), "what was given stays as it is"
    assert float((weights.rhs(1.25, u) - fields.rhs(1.25, u)).abs().max()) > 1e-3


@torch.no_grad()
def test_units_in_another_order_change_only_what_blends_weights(model, flow):
    pde = equation_of(model)
    other, u = reordered_units(pde, seed=1), flow.states[0]
    for t in (0.0, 1.0, 2.0):
        torch.testing.assert_close(other.rhs(t, u), pde.rhs(t, u), rtol=1e-4, atol=1e-5)
    ends = {
        way: [integrate(through_layers(one, way), u, method="rk4", substeps=4).states[-1] for one in (pde, other)]
        for way in WAYS
    }
    moved = {way: float((a - b).abs().max()) for way, (a, b) in ends.items()}
    assert moved["held"] < 1e-4 and moved["fields"] < 1e-4 and moved["weights"] > 1e-2
    assert (
        float((other.terms["attention"].inputs.coefficients - pde.terms["attention"].inputs.coefficients).abs().max())
        > 0
    )


def test_what_is_not_known_is_refused(model):
    with pytest.raises(ValueError, match="way 'spline' was given: choose from held, weights, fields"):
        through_layers(equation_of(model), "spline")
    post = equation_of(model)
    post.form = "post"
    with pytest.raises(ValueError, match="a post-norm equation was given"):
        through_layers(post, "fields")
