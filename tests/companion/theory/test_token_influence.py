"""Maps of influence against plain loops, matrix exponentials and regression on classes."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
import torch
from chain_graph import path_laplacian

from companion.theory import token_influence as maps
from pdelens.flow import Flow
from pdelens.lattice import Chain, Grid
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.terms import Diffusion
from pdelens.sensitivity.flow_map import flow_map
from pdelens.sensitivity.singular import influence

RANDOM = np.random.default_rng(0)
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])
TARGETS = torch.tensor([[1, 4, 0], [2, 0, 1]])


@pytest.fixture
def some():
    return torch.from_numpy(RANDOM.uniform(0.1, 1, (2, 3, 5)))


def test_rollouts_are_products_of_all_layers_before():
    layers = [torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(d)).softmax(-1) for d in range(3)]
    found, eye = maps.rollouts(Flow(attention=layers))[1:], torch.eye(4).double()
    steps = [(layer.mean(1).double() + eye) / 2 for layer in layers]
    torch.testing.assert_close(found[2], steps[2] @ steps[1] @ steps[0])
    torch.testing.assert_close(found[0], steps[0])


def test_rollout_multiplies_later_layers_from_the_left():
    attention = [torch.softmax(torch.randn(2, 3, 4, 4, dtype=torch.float64), -1) for _ in range(3)]
    flow = Flow(attention=attention)
    for start in (0, 1, 3):
        for example in range(2):
            wanted = np.eye(4)
            for layer in attention[start:]:
                wanted = (layer[example].mean(0).numpy() + np.eye(4)) / 2 @ wanted
            np.testing.assert_allclose(maps.rollout(flow, start)[example], wanted, atol=1e-12)
    np.testing.assert_allclose(maps.rollout(flow).sum(-1), 1)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_the_propagator_of_a_linear_equation_is_the_matrix_exponential(start):
    pde = PDE({"diffusion": Diffusion(Chain(5), 3, 0.2)}, Chain(5), depth=6)
    targets = torch.tensor([[0, 1, 4], [2, 0, 1]])
    found = maps.row_influence(maps.solution_map(pde, torch.randn(2, 5, 3), MASK, start), targets, draws=3)
    for example, size in enumerate((5, 3)):
        wanted = scipy.linalg.expm(0.2 * (6 - start) * path_laplacian(size)) * 3**0.5
        np.testing.assert_allclose(found[example, :, :size], wanted[targets[example]], atol=2e-3)
    assert float(found[1, :, 3:].abs().max()) == 0


def test_rows_of_influence_are_those_of_the_whole_map_exactly_and_by_random_directions():
    model = Transformer(Configuration(width=8, layers=2, heads=2, outputs=3, side=8, patch=4), 0).requires_grad_(False)
    pictures = torch.randint(0, 255, (2, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    of, targets = flow_map(model.eval(), pictures), torch.tensor([[0, 2], [3, 1]])
    whole = influence(of, draws=8)[0]
    wanted = torch.stack([whole[example][targets[example]] for example in range(2)])
    torch.testing.assert_close(maps.rows_of(whole, targets), wanted)
    torch.testing.assert_close(maps.row_influence(of, targets, draws=8), wanted, atol=1e-5, rtol=1e-4)
    drawn = [maps.row_influence(of, targets, draws=7, seed=seed).square() for seed in range(40)]
    error = torch.stack(drawn).std(0) / 40**0.5
    assert bool(((torch.stack(drawn).mean(0) - wanted.square()).abs() < 5 * error).all())
    assert float(error.max()) > 0 and not torch.allclose(drawn[0], drawn[1])


def test_targets_are_real_tokens_all_different_and_in_order():
    found = maps.drawn_targets(MASK, 3, 1)
    assert found[1].tolist() == [0, 1, 2] and len(set(found[0].tolist())) == 3
    assert found[0].tolist() == sorted(found[0].tolist())
    assert len({tuple(maps.drawn_targets(MASK, 2, seed)[0].tolist()) for seed in range(20)}) > 3
    with pytest.raises(ValueError, match="4 targets were asked for, but an example has 3 real tokens"):
        maps.drawn_targets(MASK, 4)


def test_the_propagator_is_that_of_runge_kutta_steps_at_the_stated_times():
    pde = TransformerPDE(8, 2, Chain(4), depth=6, temporal_modes=2, seed=1).requires_grad_(False)
    u, change = torch.randn(2, 1, 4, 8, generator=torch.Generator().manual_seed(0))

    def solution(u):
        for a, b in zip(maps.STEPS, maps.STEPS[1:], strict=False):
            h = b - a
            first = pde.rhs(a, u)
            second = pde.rhs(a + h / 2, u + h / 2 * first)
            third = pde.rhs(a + h / 2, u + h / 2 * second)
            u = u + h / 6 * (first + 2 * second + 2 * third + pde.rhs(b, u + h * third))
        return u

    found = maps.solution_map(pde, u, torch.ones(1, 4, dtype=torch.bool))
    small = 1e-3
    wanted = (solution(u + small * change) - solution(u - small * change)) / (2 * small)
    torch.testing.assert_close(found.value, solution(u), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.jvp(change), wanted, atol=2e-3, rtol=2e-3)


def test_a_solution_that_begins_between_steps_is_refused():
    pde = PDE({"diffusion": Diffusion(Chain(5), 3, 0.2)}, Chain(5), depth=6)
    with pytest.raises(ValueError, match=r"depth-times 0\.3 to 6 were asked for"):
        maps.solution_map(pde, torch.zeros(2, 5, 3), MASK, 0.3)


def test_heat_kernels_are_matrix_exponentials_within_each_examples_real_tokens():
    found = maps.HeatKernels(Chain(5), MASK)(0.7)
    for example, size in enumerate((5, 3)):
        np.testing.assert_allclose(found[example, :size, :size], scipy.linalg.expm(0.7 * path_laplacian(size)))
    np.testing.assert_allclose(found[1, 3:, 3:], np.eye(2), atol=1e-12)
    assert float(found[1, :3, 3:].abs().max()) < 1e-12


def test_shares_of_others_and_a_tokens_own_by_loops(some):
    shares, own = maps.others_shares(some, TARGETS, MASK), maps.own_share(some, TARGETS, MASK)
    for example, size in enumerate((5, 3)):
        kept = []
        for row, target in enumerate(TARGETS[example].tolist()):
            values = some[example, row, :size].tolist()
            others = [value if place != target else 0.0 for place, value in enumerate(values)]
            np.testing.assert_allclose(shares[example, row, :size], np.array(others) / sum(others))
            kept.append(values[target] / sum(values))
        assert float(own[example]) == pytest.approx(np.mean(kept))
    assert float(shares[1, :, 3:].sum()) == 0
    nobody = maps.others_shares(maps.rows_of(torch.eye(5).expand(2, -1, -1), TARGETS), TARGETS, MASK)
    assert float(nobody.abs().max()) == 0 and float(maps.map_cosine(nobody, shares).abs().max()) == 0


def test_the_mean_rollout_counts_who_has_both_tokens():
    attention = [torch.softmax(torch.randn(3, 2, 4, 4), -1).double() for _ in range(2)]
    mask = torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]])
    flow = Flow(attention=attention, mask=mask)
    found, each = maps.mean_rollout(flow, 1), maps.rollout(flow, 1)
    for i in range(4):
        for j in range(4):
            wanted = np.mean([float(each[k, i, j]) for k in range(3) if mask[k, i] and mask[k, j]])
            assert float(found[i, j]) == pytest.approx(wanted)


def test_the_cosine_is_of_flattened_maps(some):
    other = some.flip(0)
    for example in range(2):
        a, b = some[example].numpy().ravel(), other[example].numpy().ravel()
        assert float(maps.map_cosine(some, other)[example]) == pytest.approx(1 - scipy.spatial.distance.cosine(a, b))


def test_distances_on_a_grid_are_those_of_its_places():
    found, places = maps.token_distances(Grid(3, 4)), [(i, j) for i in range(3) for j in range(4)]
    for a, one in enumerate(places):
        for b, two in enumerate(places):
            assert found[a, b] == pytest.approx(np.hypot(one[0] - two[0], one[1] - two[1]), abs=1e-6)


def test_the_rank_correlation_given_distance_is_that_of_residuals_on_classes(some):
    distances = maps.token_distances(Chain(5))
    other = some**2 + torch.from_numpy(RANDOM.uniform(0, 0.5, (2, 3, 5)))
    found = maps.rank_given_distance(some, other, TARGETS, distances, MASK)
    for example, size in enumerate((5, 3)):
        targets = TARGETS[example].tolist()
        pairs = [(row, i, j) for row, i in enumerate(targets) for j in range(size) if i != j]
        known = sorted({float(distances[i, j]) for _, i, j in pairs})
        classes = np.array([[float(distances[i, j] == d) for d in known] for _, i, j in pairs])
        rest = []
        for one in (some, other):
            ranks = scipy.stats.rankdata([float(one[example, row, j]) for row, _, j in pairs])
            rest.append(ranks - classes @ np.linalg.lstsq(classes, ranks, rcond=None)[0])
        assert float(found[example]) == pytest.approx(np.corrcoef(*rest)[0, 1])


def test_who_knows_distance_alone_scores_nothing_and_ranks_are_all_that_counts(some):
    distances = maps.token_distances(Chain(5))
    near = torch.exp(-torch.from_numpy(distances[TARGETS]))
    assert maps.rank_given_distance(near, some, TARGETS, distances, MASK).tolist() == [0, 0]
    same = maps.rank_given_distance(some.exp(), some, TARGETS, distances, MASK)
    torch.testing.assert_close(same, torch.ones(2).double())


def test_padded_equals_cropped(some):
    distances, real = maps.token_distances(Chain(5)), torch.ones(1, 3, dtype=torch.bool)
    cut, few = some[1:, :, :3], TARGETS[1:]
    other = torch.from_numpy(RANDOM.uniform(0, 1, (2, 3, 5)))
    whole = maps.rank_given_distance(some, other, TARGETS, distances, MASK)[1]
    part = maps.rank_given_distance(cut, other[1:, :, :3], few, distances[:3, :3], real)[0]
    torch.testing.assert_close(whole, part)
    torch.testing.assert_close(maps.others_shares(some, TARGETS, MASK)[1, :, :3], maps.others_shares(cut, few, real)[0])
    torch.testing.assert_close(maps.own_share(some, TARGETS, MASK)[1:], maps.own_share(cut, few, real))


def test_the_best_heat_kernel_is_found():
    kernels = maps.HeatKernels(Chain(5), MASK)
    wanted = maps.others_shares(maps.rows_of(kernels(1.5), TARGETS), TARGETS, MASK)
    amount, found = maps.best_heat(kernels, wanted, TARGETS, MASK, (0.2, 1.5, 8.0))
    assert amount == 1.5
    torch.testing.assert_close(found, maps.rows_of(kernels(1.5), TARGETS))
