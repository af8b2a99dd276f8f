"""Bounds on collapse and growth: never broken by what is drawn, and attained where they say so."""

import math

import numpy as np
import pytest
import torch

from companion.theory import stabilisers
from companion.theory.clusters import diameter

RANDOM = torch.Generator().manual_seed(0)


def drawn(layers=5, tokens=6, width=4, sharpness=1.0, size=0.5):
    maps = [
        torch.softmax(sharpness * torch.randn(tokens, tokens, generator=RANDOM, dtype=torch.float64), -1)
        for _ in range(layers)
    ]
    matrices = [size * torch.randn(width, width, generator=RANDOM, dtype=torch.float64) for _ in range(layers)]
    return torch.randn(tokens, width, generator=RANDOM, dtype=torch.float64), maps, matrices


def test_diameters_and_coefficients_against_loops():
    u, (a, *_), _ = drawn()
    assert float(diameter(u)) == pytest.approx(max(math.dist(x, y) for x in u.tolist() for y in u.tolist()))
    rows = a.tolist()
    wanted = max(sum(abs(p - q) for p, q in zip(x, y, strict=True)) / 2 for x in rows for y in rows)
    assert float(stabilisers.ergodicity(a)) == pytest.approx(wanted)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 8.0])
def test_diameters_stay_between_their_bounds(sharpness):
    for _ in range(20):
        u, maps, matrices = drawn(sharpness=sharpness, size=0.2)
        start = float(diameter(u))
        for carried, bounds, side in ((0.0, stabilisers.collapse_bounds, 1), (1.0, stabilisers.kept_bounds, -1)):
            path = stabilisers.layers_of(u, maps, matrices, carried)
            shares = np.array([float(diameter(one)) / start for one in path])
            assert (side * (bounds(maps, matrices) - shares) >= -1e-12).all()


def test_the_bound_on_collapse_is_attained_by_two_tokens():
    maps = [torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)] * 3
    matrices = [0.9 * torch.eye(2, dtype=torch.float64)] * 3
    path = stabilisers.layers_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64), maps, matrices, 0.0)
    shares = [float(diameter(one)) / math.sqrt(2) for one in path]
    assert shares == pytest.approx([(0.5 * 0.9) ** n for n in range(4)])
    assert stabilisers.collapse_bounds(maps, matrices) == pytest.approx(shares)


def test_tokens_that_see_themselves_alone_keep_apart_without_a_residual_connection():
    u, _, _ = drawn()
    turned = torch.linalg.qr(torch.randn(4, 4, generator=RANDOM, dtype=torch.float64))[0]
    path = stabilisers.layers_of(u, [torch.eye(6, dtype=torch.float64)] * 9, [turned] * 9, 0.0)
    assert float(diameter(path[-1])) == pytest.approx(float(diameter(u)))


def test_random_branches_grow_as_they_say():
    layers, width, scale, found = 4, 16, 0.7, []
    for _ in range(4000):
        u = torch.ones(width, dtype=torch.float64)
        for _ in range(layers):
            u = u + scale / math.sqrt(width) * torch.randn(width, width, generator=RANDOM, dtype=torch.float64) @ u
        found.append(float(u.square().sum()) / width)
    error = float(np.std(found)) / math.sqrt(len(found))
    assert abs(np.mean(found) - stabilisers.growth_of_random_branches(scale, layers)) < 4 * error
    assert stabilisers.growth_of_random_branches(1 / math.sqrt(10_000), 10_000) < math.e


def test_bounded_branches_grow_linearly():
    u = start = torch.full((4,), 0.5, dtype=torch.float64)
    bounds = stabilisers.bounded_growth(start, [2.0] * 5)
    for layer in range(5):
        u = u + 2 * u / u.norm()  # as long as a branch of length 2 can be, and in the state's own direction
        assert float(u.norm()) == pytest.approx(bounds[layer + 1])
    assert bounds[0] == 1


def test_a_network_without_residual_connections_is_eulers_step_of_a_damped_equation():
    matrix = torch.tensor([[0.3, 0.2], [-0.1, 0.4]], dtype=torch.float64)
    start = torch.tensor([1.0, -2.0], dtype=torch.float64)
    whole = stabilisers.relaxed(lambda u: matrix @ u, start, 1.0, 3.0)
    assert torch.allclose(whole, matrix @ matrix @ matrix @ start)
    solved = stabilisers.relaxed(lambda u: matrix @ u, start, 1e-4, 3.0)
    assert torch.allclose(solved, torch.linalg.matrix_exp(3 * (matrix - torch.eye(2))) @ start, atol=1e-3)


def test_steps_before_a_normalisation_lengthen_the_weights():
    target = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)

    def gradient(w):
        w = w.clone().requires_grad_()
        (-(w / w.norm()) @ target).backward()
        return w.grad

    start = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    sizes, added = stabilisers.scale_invariant_path(gradient, start, 0.5, 40)
    assert np.diff(sizes) == pytest.approx(added, rel=1e-9, abs=1e-15) and sizes[-1] > sizes[0]
    assert torch.allclose(gradient(10 * start), gradient(start) / 10)
