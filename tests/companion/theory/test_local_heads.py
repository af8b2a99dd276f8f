"""Known heads, known maps, and what pictures of real heads leave, against plain loops and closed forms."""

import numpy as np
import pytest
import torch

from companion.theory import local_heads
from pdelens import Chain, Flow, Grid
from pdelens.attention import expansions
from pdelens.pde.normalisers import layer_normalise

GRID = Grid(3, 4)


def random_flow(examples, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(examples, 2, 12, 12, generator=generator) for _ in range(2)]
    states = [torch.randn(examples, 12, 5, generator=generator) for _ in range(3)]
    return Flow(attention=[torch.softmax(2 * each, -1) for each in logits], states=states)


@pytest.fixture(scope="module")
def flows():
    return random_flow(6, 0), random_flow(5, 1)


@pytest.fixture(scope="module")
def found(flows):
    return local_heads.real_remainders(*flows, GRID, refinements=1)


def test_known_heads_have_the_moments_that_they_claim():
    for head in local_heads.known_heads(41):
        row = head.weights[20]
        moved = torch.arange(41) - 20.0
        mean = sum(float(w * x) for w, x in zip(row, moved, strict=True))
        variance = sum(float(w) * (float(x) - mean) ** 2 for w, x in zip(row, moved, strict=True))
        assert float(row.sum()) == pytest.approx(1)
        assert (mean, variance / 2) == pytest.approx((head.drift, head.diffusivity), abs=1e-9), head.name


def test_modes_of_a_gaussian_head_are_those_of_its_matrix():
    found = local_heads.gaussian_modes(1.5, 16)
    row = torch.tensor([np.exp(-(min(j, 16 - j) ** 2) / 4.5) for j in range(16)])
    row = row / row.sum()
    for k, value in zip(found.wave, found.eigenvalues, strict=True):
        assert value == pytest.approx(sum(float(row[j]) * np.cos(k * j) for j in range(16)))
    assert found.diffusivity == pytest.approx(sum(float(row[j]) * min(j, 16 - j) ** 2 for j in range(16)) / 2)


def test_the_error_of_modes_counts_slow_waves_alone():
    wave = np.array([0.0, 0.5, 2.0])
    exact = np.exp(-(wave**2)) * np.array([1, 1.01, 3])  # off by log 1.01 where D k^2 < 1, far off beyond
    assert local_heads.Modes(wave, exact, 1.0).error() == pytest.approx(np.log(1.01))


def test_an_even_flow_of_heat_has_the_lattices_own_modes():
    heat = local_heads.even_flow([0.0, 0.0], 0.7, GRID)[0]
    a, b = torch.cos(torch.pi * (torch.arange(3) + 0.5) / 3), torch.cos(torch.pi * 2 * (torch.arange(4) + 0.5) / 4)
    mode = (a[:, None] * b[None]).flatten().double()
    rate = -4 * np.sin(np.pi / 6) ** 2 - 4 * np.sin(2 * np.pi / 8) ** 2
    assert torch.allclose(heat @ mode, np.exp(0.7 * rate) * mode, atol=1e-6)


def test_an_even_flow_with_drift_moves_that_way():
    along = local_heads.even_flow([0.5, 0.0], 0.3, Grid(9, 9))[0]
    place = Grid(9, 9).positions().double()
    moved = along[40] @ place - place[40]
    assert moved.tolist() == pytest.approx([0.5, 0.0], abs=1e-2)


def test_local_flows_pass_and_the_random_map_fails():
    lattice = Grid(7, 7)
    kernels, white = local_heads.control_maps(lattice)
    left = {name: local_heads.control_measures(kernel, white, lattice, 40) for name, kernel in kernels.items()}
    assert left["heat"]["generator"] < 0.02 and left["drift"]["generator"] < 0.02
    assert left["random"]["generator"] > 0.5 and left["heat"]["step"] > 1
    assert left["heat"]["matched"] < left["drift"]["matched"] < 0.1 < left["random"]["matched"]
    place = lattice.positions().double()
    for name, kernel in kernels.items():
        away = [float((row * (place - row @ place).square().sum(-1)).sum()) ** 0.5 for row in kernel[0]]
        assert left[name]["spread"] == pytest.approx(np.mean(away))
    # The known pass and the known fail are equally wide.
    assert left["heat"]["spread"] == pytest.approx(left["random"]["spread"], abs=0.05)
    again, _ = local_heads.control_maps(lattice, seed=1)
    assert not torch.equal(kernels["random"], again["random"]) and torch.equal(kernels["heat"], again["heat"])


def test_pooled_remainders_are_those_of_all_examples_at_once(flows, found):
    whole = expansions.remainders(*flows, GRID, layer_normalise, refinements=1)
    assert found.each.keys() == whole.keys()
    for name, values in whole.items():
        assert found.pooled(name) == pytest.approx(values.numpy(), rel=1e-9), name


def test_resampling_pools_as_a_loop_would(found):
    counts = np.array([[2, 0, 1, 0, 2], [1, 1, 1, 1, 1]])
    drawn = found._pooled("stencil", counts)
    for draw, row in enumerate(counts):
        chosen = [e for e, n in enumerate(row) for _ in range(n)]
        for layer, head in np.ndindex(2, 2):
            size = [float(found.size[e, layer, head]) for e in chosen]
            missed = [float(found.each["stencil"][e, layer, head]) ** 2 * s for e, s in zip(chosen, size, strict=True)]
            assert drawn[draw, layer, head] == pytest.approx((sum(missed) / sum(size)) ** 0.5)


def test_the_median_head_is_a_head_and_its_interval_holds_it(found):
    value, (low, high) = found.median("matched")
    assert value == sorted(found.pooled("matched").ravel())[1]
    assert low < value < high


def test_resamples_hold_as_many_examples_as_there_are(found):
    assert (found._draws().sum(1) == 5).all() and len(found._draws()) == 400


def test_one_example_over_and_over_has_no_width(found):
    same = local_heads.Remainders({"x": torch.full((4, 2, 2), 0.3)}, torch.ones(4, 2, 2))
    assert same.median("x") == (pytest.approx(0.3), (pytest.approx(0.3), pytest.approx(0.3)))
    assert found.first(2).size.shape == (2, 2, 2) and set(found.first(2).each) == set(found.each)
    assert torch.equal(found.first(2).each["taylor"], found.each["taylor"][:2])


def test_the_share_of_heads_must_be_below_every_other():
    low, high = torch.full((3, 1, 2), 0.2), torch.full((3, 1, 2), 0.5)
    half = torch.stack([low[..., 0], high[..., 0]], -1)
    found = local_heads.Remainders({"a": low + 0.1, "b": high, "c": half}, torch.ones(3, 1, 2))
    assert found.share_below("a", ["b"]) == (1.0, (1.0, 1.0))
    assert found.share_below("a", ["b", "c"]) == (0.5, (0.5, 0.5))


def test_spread_and_unevenness_are_means_of_each_example(flows):
    flow = flows[1]
    place = GRID.positions().double()
    for example in range(flow.examples):
        wide, uneven = [], []
        for maps in flow.attention:
            for head in maps[example].double():
                uneven += [abs(float(head[:, key].sum()) - 1) for key in range(12)]
                for query in range(12):
                    mean = head[query] @ place
                    wide.append(float((head[query] * (place - mean).square().sum(-1)).sum()) ** 0.5)
        assert local_heads.spreads(flow, GRID)[example] == pytest.approx(np.mean(wide), rel=1e-5)
        assert local_heads.unevenness(flow)[example] == pytest.approx(np.mean(uneven), rel=1e-5)


def test_even_attention_on_a_chain_conserves():
    flow = Flow(attention=[torch.full((2, 1, 5, 5), 0.2)], states=[torch.zeros(2, 5, 3)] * 2)
    assert local_heads.unevenness(flow) == pytest.approx(0, abs=1e-6)
    assert local_heads.spreads(flow, Chain(5)) == pytest.approx(2**0.5)


def test_only_waves_that_decay_by_less_than_one_are_compared():
    wave = np.array([0.0, 1.0, 2.0, 4.0])
    eigenvalues = np.exp([0.0, -0.26, -3.0, -9.0])  # -D k^2 would be 0, -.25, -1, -4
    assert local_heads.Modes(wave, eigenvalues, 0.25).error() == pytest.approx(0.01)
