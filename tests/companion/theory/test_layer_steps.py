"""Layers as steps, on equations whose solutions are matrix exponentials."""

import math

import pytest
import torch

from companion.theory import layer_steps
from pdelens import equation_of, flow_of
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.terms import Term

FIRST = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double()
SECOND = torch.tensor([[0.0, 0.0], [-1.0, 0.2]]).double()


class Linear(Term):
    """`u M`."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = matrix

    def frozen(self, t, mask=None):
        return lambda u: u @ self.matrix.T


@pytest.fixture
def pde():
    return PDE({"first": Linear(FIRST), "second": Linear(SECOND)}, None, 2.0)


@pytest.fixture
def start():
    return torch.tensor([[[1.0, 0.5], [0.2, -1.0]]]).double()


def test_tied_errors_are_those_of_the_products_of_matrices(pde, start):
    found = layer_steps.tied_errors(pde, start, (32, 64, 128))
    solved = start @ torch.linalg.matrix_exp(2 * (FIRST + SECOND)).T
    one = torch.eye(2).double()

    def heun(matrix, h):
        return one + h * matrix + h * h / 2 * matrix @ matrix

    for number, count in enumerate((32, 64, 128)):
        h = 2 / count
        steps = {
            "Lie": (one + h * SECOND) @ (one + h * FIRST),
            "Strang": heun(FIRST, h / 2) @ heun(SECOND, h) @ heun(FIRST, h / 2),
            "Strang, Euler sub-steps": (one + h / 2 * FIRST) @ (one + h * SECOND) @ (one + h / 2 * FIRST),
        }
        for name, step in steps.items():
            end = start @ torch.linalg.matrix_power(step, count).T
            wanted = float((end - solved).norm() / (solved - start).norm())
            assert found[name][number] == pytest.approx(wanted, rel=1e-5), name
    orders = [-layer_steps.slope((32, 64, 128), found[name]) for name in layer_steps.SCHEMES]
    assert orders == pytest.approx([1, 2, 1], abs=0.25)


def test_both_parts_explain_a_small_step_and_one_alone_does_not(pde, start):
    steps = (0.5, 0.05)
    found = layer_steps.unexplained(pde, start, steps)
    commutator = (SECOND @ FIRST - FIRST @ SECOND) / -2  # A'R - R'A: derivatives act from the left
    both = commutator + (FIRST @ FIRST + SECOND @ SECOND) / 2
    for number, h in enumerate(steps):
        exact = torch.linalg.matrix_exp(h * (FIRST + SECOND))
        stepped = (torch.eye(2).double() + h * SECOND) @ (torch.eye(2).double() + h * FIRST)
        missed = start @ ((exact - stepped) / h**2).T
        for name, part in (("both parts", both), ("commutator alone", commutator)):
            wanted = float((missed - start @ part.T).norm() / missed.norm())
            assert found[name][number] == pytest.approx(wanted, rel=1e-4)
    assert found["both parts"][1] < 0.05 < found["commutator alone"][1]


@torch.no_grad()
def test_sizes_of_a_model_and_its_parity():
    model = Transformer(Configuration(layers=2, width=16, heads=2, vocabulary=20, length=6), seed=1).eval()
    tokens = torch.randint(1, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    flow, equation = flow_of(model, {"inputs": tokens}), equation_of(model)
    gaps = layer_steps.parity(equation, flow)
    assert set(gaps) == {"states", "attention"} and max(gaps.values()) < 1e-5
    sizes = layer_steps.sizes(equation, flow, 2)
    assert sizes.shape == (2, len(layer_steps.COLUMNS))
    u, after = flow.states[1][:2].double(), flow.states[2][:2].double()
    assert sizes[1, 0] == pytest.approx(float((after - u).norm() / u.norm()))
    # The distance to the solution by a thousand Euler steps of the whole field.
    small, solved = equation.double(), u.clone()
    for _ in range(1000):
        solved = solved + small.rhs(1.0, solved) / 1000
    assert sizes[1, 3] == pytest.approx(float((solved - after).norm() / (after - u).norm()), rel=0.02)
    # To second order the distance is what the two parts are together.
    assert sizes[1, 3] < sizes[1, 1] + sizes[1, 2] + 0.2 and not math.isclose(sizes[1, 1], sizes[1, 2])
