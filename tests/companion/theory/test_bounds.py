"""Bounds beside plain loops over heads, bisection on matrices made by hand, and steady states as linear systems."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from companion.theory import bounds
from pdelens.lattice import Chain, Lattice
from pdelens.pde.equation import PDE, TransformerPDE


def chain_matrix(side):
    """Second differences on a chain whose ends lose and get nothing."""
    found = np.zeros((side, side))
    for i in range(side):
        for j in (i - 1, i + 1):
            if 0 <= j < side:
                found[i, j] += 1
                found[i, i] -= 1
    return found


def enlivened(**others):
    pde = TransformerPDE(6, 3, Chain(5), depth=2.0, hidden=9, temporal_modes=2, diffusion=None, **others).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in pde.parameters():
            value += 0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
    return pde


def longest(matrix):
    return np.linalg.svd(matrix, compute_uv=False)[0]


@pytest.mark.parametrize("left_out", [(), ("attention",), ("reaction",)])
def test_growth_is_bounded_by_norms_head_by_head_biases_with_them(left_out):
    pde, t, width = enlivened(), 0.7, 6
    expected = 0.0
    if "attention" not in left_out:
        term = pde.terms["attention"]
        stacked, output = term.inputs(t).detach().numpy(), term.output(t).detach().numpy()
        values, bias = stacked[2 * width :, :width], stacked[2 * width :, width]
        heads = sum(longest(values[2 * h : 2 * h + 2]) ** 2 for h in range(3))
        seen = math.sqrt(width) * math.sqrt(heads) + math.sqrt(sum(bias**2))
        expected += longest(output[:, :width]) * seen + math.sqrt(sum(output[:, width] ** 2))
    if "reaction" not in left_out:
        term = pde.terms["reaction"]
        first, second = term.first(t).detach().numpy(), term.second(t).detach().numpy()
        seen = longest(first[:, :width]) * math.sqrt(width) + math.sqrt(sum(first[:, width] ** 2))
        expected += longest(second[:, :9]) * seen + math.sqrt(sum(second[:, 9] ** 2))
    with pde.without(*left_out):
        found = bounds.residual_bound(pde, t, width)
        assert found == pytest.approx(expected, rel=1e-10)
        states = 5 * torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            assert float(pde.rhs(t, states).norm(dim=-1).max()) < found


def test_proved_steps_are_where_bisection_ends():
    found = bounds.measured_bounds(12)
    assert len(found) == 10
    for statement, theory, measured in found.values():
        assert measured == pytest.approx(theory, rel=1e-5), statement


def test_step_bounds_on_matrices_made_by_hand():
    """At D = 0.2 and v = 0.8, by matrices written out and bisection of our own."""
    side, tokens = 16, 12
    eye, look = np.eye(side), np.roll(np.eye(side), 1, 1)
    ahead = np.roll(np.eye(tokens), 1, 1)
    ring = ahead + ahead.T - 2 * np.eye(tokens)
    ends = np.zeros((side, side))
    ends[0, 0] = ends[-1, -1] = -1 / 0.1

    def largest(matrix, norm):
        low, high = 1e-3, 20.0
        for _ in range(60):
            middle = (low + high) / 2
            holds = norm(np.eye(len(matrix)) + middle * matrix) <= 1 + 1e-12
            low, high = (middle, high) if holds else (low, middle)
        return low

    def rows(matrix):
        return np.abs(matrix).sum(1).max()

    found = bounds.measured_bounds(tokens)
    for key, matrix, norm in (
        ("chain", 0.2 * chain_matrix(side), rows),
        ("attention", look - eye, rows),
        ("upwind", 0.8 * (look - eye), rows),
        ("penalty", 0.2 * chain_matrix(side) + ends, rows),
        ("central", 0.2 * ring + 0.8 * (ahead - ahead.T) / 2, longest),
    ):
        assert found[key][1] == pytest.approx(largest(matrix, norm), rel=1e-5), key
    assert "12 tokens" in found["central"][0]


def test_the_largest_row_is_the_norm():
    matrix = torch.tensor([[1.0, -2.0, 0.5], [-3.0, -0.25, 0.0]])
    assert float(bounds.row_norm(matrix)) == 3.5
    assert bounds.row_norm(torch.stack([matrix, 2 * matrix])).tolist() == [3.5, 7.0]


def test_what_is_stationary_stays():
    generator = torch.Generator().manual_seed(1)
    attention = torch.softmax(2 * torch.randn(7, 7, generator=generator, dtype=torch.float64), -1)
    found = bounds.stationary(attention)
    power = np.linalg.matrix_power(attention.numpy(), 400)
    np.testing.assert_allclose(found.numpy(), power[3], atol=1e-12)


def test_a_step_is_read_off_by_columns():
    """The map is not symmetric, so a transposed matrix would be seen."""
    attention = torch.softmax(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double(), -1)
    pde = PDE({"attention": bounds.FrozenAttention(attention)}, Chain(4), 1.0)
    expected = np.eye(4) + 0.25 * (attention.numpy() - np.eye(4))
    np.testing.assert_allclose(bounds.step_matrix(pde, 0.25).numpy(), expected, atol=1e-14)
    twice = bounds.step_matrix(pde, 0.5, "lie", substeps=2).numpy()
    np.testing.assert_allclose(twice, expected @ expected, atol=1e-14)


@pytest.mark.parametrize(
    ("rows", "fine"),
    [
        ([[0.5, 0.5], [0.0, 1.0]], True),
        ([[0.5, 0.5 + 5e-7], [0.0, 1.0]], True),
        ([[0.5, 0.5], [0.0, 1.0 + 1e-4]], False),
        ([[0.5, 0.5], [0.0, 1.0 - 1e-4]], False),
        ([[-0.5, 1.5], [0.0, 1.0]], False),
        ([[[0.5, 0.5], [0.0, 1.0]]], False),
    ],
)
def test_only_a_map_can_be_frozen(rows, fine):
    attention = torch.tensor(rows, dtype=torch.float64)
    if fine:
        u = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
        term = bounds.FrozenAttention(attention)
        torch.testing.assert_close(term(0.0, u.expand(3, 2, 1)), (attention @ u - u).expand(3, 2, 1))
        assert term.weights(0.0, u.expand(3, 2, 1)).shape == (3, 1, 2, 2)
    else:
        with pytest.raises(ValueError, match="a square row-stochastic one is wanted"):
            bounds.FrozenAttention(attention)


def test_bisection_wants_a_yes_below_and_a_no_above():
    assert bounds.threshold(lambda x: x <= 3.7, 0, 10) == pytest.approx(3.7, rel=2e-7)
    assert bounds.threshold(lambda x: x <= 3.7, 0, 10, tolerance=0.1) < 3.7
    assert 3.7 - bounds.threshold(lambda x: x <= 3.7, 0, 10, tolerance=1e-3) < 4e-3
    asked = []
    bounds.threshold(lambda x: asked.append(x) or x <= 0.1, 0, 1, tolerance=0.01)
    assert len(asked) == 2 + 7, "below 1 the tolerance is of the number itself: 7 halves of 1"
    asked.clear()
    bounds.threshold(lambda x: asked.append(x) or x <= 300, 0, 1000, tolerance=0.01)
    assert len(asked) == 2 + 9, "above 1 it is a share: 9 halves of 1000 are less than 3"
    for low, high in ((4, 10), (0, 3)):
        with pytest.raises(ValueError, match="it must hold at the first only"):
            bounds.threshold(lambda x: x <= 3.7, low, high)


@pytest.mark.parametrize(("tokens", "diffusivity"), [(256, 0.3), (7, 0.3), (5, 1.0)])
def test_one_sided_differences_grow_at_the_symbols_largest_real_part(tokens, diffusivity):
    angles = [2 * math.pi * k / tokens for k in range(tokens)]
    rates = [1 - 2 * math.cos(a) + math.cos(2 * a) for a in angles]
    assert bounds.one_sided_growth(diffusivity, tokens) == pytest.approx(diffusivity * max(rates), rel=1e-12)
    assert bounds.one_sided_growth(0.3) == pytest.approx(4 * 0.3)


def test_a_penalty_pulls_at_the_ends_alone():
    u = torch.tensor([[1.0], [5.0], [4.0]], dtype=torch.float64)
    pull = bounds.Penalty(Lattice((3,)), (2.0, -1.0), 0.25)(0.0, u)
    assert pull.tolist() == [[4.0], [0.0], [-20.0]]


@pytest.mark.parametrize("split", [False, True])
def test_the_map_of_stability_by_powers_of_the_matrix(split):
    generator = torch.Generator().manual_seed(2)
    attention = torch.softmax(2 * torch.randn(6, 6, generator=generator).double(), -1)
    diffusion, relaxation = torch.linspace(0, 0.8, 6).double(), torch.linspace(0, 3, 7).double()
    found = bounds.stability_map(Chain(6), attention, diffusion, relaxation, split)
    assert found.shape == (7, 6) and found.unique().tolist() == [0, 1, 2]
    eye, second = np.eye(6), chain_matrix(6)
    for row, s in enumerate(relaxation.tolist()):
        for column, r in enumerate(diffusion.tolist()):
            relaxed, diffused = eye + s * (attention.numpy() - eye), eye + r * second
            step = relaxed @ diffused if split else relaxed + diffused - eye
            # A row sums to 1, so no row's absolute sum is above 1 just where no entry is negative.
            grows = np.abs(np.linalg.eigvals(step)).max() > 1 + 1e-4
            assert found[row, column] == (0 if step.min() >= -1e-12 else 2 if grows else 1), (s, r)


def test_growth_is_told_from_the_512th_power_to_the_1024th():
    """Two tokens that exchange, and one alone: a step s has the eigenvalues 1 - 2 s and 1."""
    swap, none = torch.eye(3)[[1, 0, 2]], torch.zeros(1, dtype=torch.float64)
    for excess, verdict in ((1e-11, 1), (1e-6, 1), (1e-4, 2), (1.0, 2), (1e3, 2)):
        step = torch.tensor([1 + excess / 2], dtype=torch.float64)
        assert int(bounds.stability_map(Chain(3), swap, none, step)) == verdict, excess
    assert int(bounds.stability_map(Chain(3), swap, none, torch.tensor([1.0], dtype=torch.float64))) == 0


@pytest.fixture
def exactly(monkeypatch):
    """Let affine equations be solved by the matrix exponential, and say how they were to be."""
    asked = []

    def solved(pde, u, times, method, **how):
        asked.append((times, method, how))
        size, start = u.shape[1], u[0, :, 0]
        constant = pde.rhs(0.0, torch.zeros_like(u))[0, :, 0]
        columns = [pde.rhs(0.0, unit[None, :, None])[0, :, 0] - constant for unit in torch.eye(size).double()]
        whole = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        whole[:size, :size], whole[:size, size] = torch.stack(columns, 1), constant
        end = (torch.linalg.matrix_exp((times[1] - times[0]) * whole) @ torch.cat([start, torch.ones(1).double()]))[:-1]
        return SimpleNamespace(states=[u, end[None, :, None]])

    monkeypatch.setattr(bounds, "integrate", solved)
    return asked


def test_boundary_values_by_penalty_are_missed_by_what_the_steady_state_says(exactly):
    epsilons, side, diffusivity, ends = (1.0, 0.1), 5, 0.3, np.array([2.0, -1.0])
    found = bounds.boundary_errors(epsilons)
    assert len(found) == 3
    for epsilon, (measured, proved, largest) in zip(epsilons, found, strict=False):
        pull = np.zeros((side, side))
        pull[0, 0] = pull[-1, -1] = 1 / epsilon
        matrix = diffusivity * chain_matrix(side) - pull
        steady = np.linalg.solve(matrix, -pull[:, [0, -1]] @ ends)
        missed = np.abs(steady[[0, -1]] - ends).max()
        assert measured == pytest.approx(missed, abs=1e-4) and proved == pytest.approx(missed, rel=1e-6)

        def holds(dt, matrix=matrix):
            return np.abs(np.eye(side) + dt * matrix).sum(1).max() <= 1 + 1e-12

        # What is proved is the least of two bounds, and attained where the ends bind.
        assert largest == pytest.approx(min(1 / 0.6, 2 / (0.6 + 1 / epsilon)), rel=1e-6)
        assert holds(0.999 * largest) and (epsilon > 0.5 or not holds(1.001 * largest))
    measured, proved, largest = found[-1]
    assert measured < 1e-12 and proved == 0 and largest == pytest.approx(1 / 0.6, rel=1e-6)


def test_what_is_asked_of_the_boundary_is_passed_on(exactly):
    """Four places: three steps of a straight line, and little time leaves the start's bump at the ends."""
    (late, proved, _), _ = bounds.boundary_errors([0.5], side=4)
    assert late == pytest.approx(proved, abs=1e-4) and proved == pytest.approx(0.5 * 0.3 * 3 / (3 + 0.3), rel=1e-6)
    (early, _, _), _ = bounds.boundary_errors([0.5], side=4, until=1e-91)
    assert early < 0.05
    for times, method, how in exactly:
        assert times[0] == 0 and method == "dopri5" and how["rtol"] <= 1e-6 and how["atol"] <= 1e-8
    (measured, _, _), _ = bounds.boundary_errors([1e-3], side=4, until=1e-9)
    assert measured < 1e-4, "it starts at the values that are wanted"


def test_a_penalty_is_double_to_the_last_digit():
    u = torch.tensor([[0.7], [5.0], [0.3]], dtype=torch.float64)
    pull = bounds.Penalty(Lattice((3,)), (0.1, -0.3), 0.3)(0.0, u)
    assert pull.flatten().tolist() == pytest.approx([(0.1 - 0.7) / 0.3, 0.0, (-0.3 - 0.3) / 0.3], rel=1e-13)


def test_where_the_bound_of_attention_is_attained_every_token_looks_at_the_next():
    for name, places in {"attention": 16, "sum": 36}.items():
        term = bounds._statements(8)[name][2]["attention"]
        assert term.attention.nonzero().tolist() == [[token, (token + 1) % places] for token in range(places)]
