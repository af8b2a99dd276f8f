import numpy as np
import pytest
import torch

from companion.pretrained import atlas_heads
from pdelens import Chain, Flow, Grid
from pdelens.attention.heads import CLASSES, Heads, Thresholds


def softmax_maps(examples, heads, lattice, sharpness, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(examples, heads, lattice.tokens, lattice.tokens, generator=generator)
    if lattice.causal:
        logits = logits.masked_fill(~torch.ones(logits.shape[-2:], dtype=torch.bool).tril(), float("-inf"))
    return torch.softmax(logits, -1)


def slowly(maps, lattice, radius):
    """Spread and mass within a radius of one map (queries, keys), key by key: means over queries."""
    maps = maps.double().numpy()
    before, places = lattice.special[0], lattice.positions().numpy()
    spreads, within = [], []
    for i in range(lattice.places):
        row = maps[before + i, before : before + lattice.places]
        if row.sum() < 1e-6:
            continue
        row = row / row.sum()
        mean = sum(weight * (places[j] - places[i]) for j, weight in enumerate(row))
        square = sum(weight * ((places[j] - places[i] - mean) ** 2).sum() for j, weight in enumerate(row))
        spreads.append(square**0.5)
        near = [((places[j] - places[i]) ** 2).sum() ** 0.5 <= radius for j in range(lattice.places)]
        within.append(sum(weight for weight, close in zip(row, near, strict=True) if close))
    return np.mean(spreads), np.mean(within)


@pytest.mark.parametrize("lattice", [Chain(6, special=(1, 1)), Chain(7, special=1, causal=True), Grid(3, 4, special=1)])
def test_spread_and_mass_near_are_those_of_a_slow_loop(lattice):
    layers = [softmax_maps(3, 2, lattice, sharpness, seed) for seed, sharpness in enumerate((1.0, 4.0))]
    # A query that looks at the special token alone has no displacement: it is left out.
    layers[0][0, 0, 2] = torch.eye(lattice.tokens)[0]
    found = atlas_heads.measured(Flow(attention=layers), lattice)
    for radius in (1.0, 1.6, 2.0, 2.4, 4.0):
        expected = [
            [[slowly(layer[example, head], lattice, radius) for head in range(2)] for layer in layers]
            for example in range(3)
        ]
        spread, near = np.moveaxis(np.array(expected), -1, 0)
        assert np.allclose(found.values["spread"].numpy(), spread, atol=1e-5)
        assert np.allclose(found.values[atlas_heads.within(radius)].numpy(), near, atol=1e-5)
    assert torch.allclose(found.values["mass near"], found.values["within 2"], atol=1e-6)


def test_two_squares_of_one_photograph_count_as_one():
    lattice = Grid(3, 3)
    flow = Flow(attention=[softmax_maps(4, 1, lattice, 2.0)])
    single, paired = (atlas_heads.measured(flow, lattice, group).values["spread"] for group in (1, 2))
    assert torch.allclose(paired, (single[0::2] + single[1::2]) / 2) and len(paired) == 2


def test_a_shift_has_no_spread():
    maps = torch.eye(8).roll(-1, 1)
    maps[0] = torch.eye(8)[0]
    found = atlas_heads.measured(Flow(attention=[maps.expand(2, 1, 8, 8)]), Chain(8))
    assert found.mean("spread")[0, 0] == pytest.approx(0, abs=1e-6)
    assert found.mean("within 1")[0, 0] == pytest.approx(1)
    assert atlas_heads.classes(found, Thresholds())[0, 0] == "advective"


@pytest.mark.parametrize("lattice", [Chain(31, causal=True), Chain(30, special=(1, 1)), Grid(5, 4, special=1)])
def test_the_even_head_has_the_moments_of_the_proposition(lattice):
    found = atlas_heads.measured(atlas_heads.even_head(lattice), lattice)
    if not lattice.causal:
        assert found.mean("speed")[0, 0] == pytest.approx(0, abs=1e-5), "it drifts away from every edge alike"
        assert atlas_heads.bounds_of(lattice).ratio == 1
        return
    past = np.arange(lattice.places)
    speed, spread = (past / 2).mean(), np.sqrt(past * (past + 2) / 12).mean()
    assert found.mean("speed")[0, 0] == pytest.approx(speed, rel=1e-5)
    assert found.mean("spread")[0, 0] == pytest.approx(spread, rel=1e-5)
    assert atlas_heads.bounds_of(lattice).ratio == pytest.approx(speed / spread, rel=1e-5) and speed > spread


def test_an_even_head_behind_a_mask_is_not_called_advective():
    lattice = Chain(31, causal=True)
    found = atlas_heads.measured(atlas_heads.even_head(lattice), lattice)
    near = found.mean("mass near")[0, 0]
    assert atlas_heads.classes(found, Thresholds(near=near / 2))[0, 0] == "advective", (
        "without the mask's bound it would be"
    )
    ratio = (1 + 1e-9) * atlas_heads.bounds_of(lattice).ratio  # it is at the bound: rounding shall not decide
    assert atlas_heads.classes(found, Thresholds(near=near / 2, ratio=ratio))[0, 0] == "diffusive"


def heads(**given):
    """Heads (examples, 1, heads) of which everything unsaid is that of a local head at rest."""
    rest = {"special mass": 0.0, "speed": 0.0, "spread": 1.0, "within 1.6": 0.9, "within 2": 0.9, "within 2.4": 0.9}
    given = {name.replace("_", " "): torch.tensor(value) for name, value in given.items()}
    shape = next(iter(given.values())).shape
    values = {name: torch.full(shape, value) for name, value in rest.items()} | given
    return Heads({name: value.double().unsqueeze(1) for name, value in values.items()})


def test_lengths_are_compared_with_lengths():
    # Drift 12.8 and spread 6.7 (tr D = 22.4): by |v| > tr D it would not move.
    found = heads(speed=[[12.8, 6.6]], spread=[[6.7, 6.7]])
    assert atlas_heads.classes(found, Thresholds()).tolist() == [["advective", "diffusive"]]
    assert found.ratio()[0].tolist() == pytest.approx([12.8 / 6.7, 6.6 / 6.7])


def test_the_first_line_that_holds_decides():
    found = heads(special_mass=[[0.6, 0.4, 0.4, 0.4]], within_2=[[0.1, 0.4, 0.6, 0.6]], speed=[[5.0, 5.0, 5.0, 0.5]])
    assert atlas_heads.classes(found, Thresholds())[0].tolist() == list(CLASSES)
    assert atlas_heads.local_share(found, 2.0)[0] == 0.5, "sinks count as all others do"


def test_moved_bounds_move_one_at_a_time():
    bounds = Thresholds(ratio=1.5)
    moved = atlas_heads.moved(bounds)
    assert moved.keys() == {"sink", "near", "radius", "ratio"}
    for name, pair in moved.items():
        for changed, factor in zip(pair, (0.8, 1.2), strict=True):
            assert getattr(changed, name) == pytest.approx(factor * getattr(bounds, name))
            assert sum(getattr(changed, other) != getattr(bounds, other) for other in moved) == 1


def test_what_is_renamed_hangs_on_the_threshold_beside_it():
    # One head just below each threshold, one just above one, one far from all.
    found = heads(
        special_mass=[[0.45, 0.0, 0.0, 0.0, 0.0]],
        within_2=[[0.9, 0.45, 0.55, 0.9, 0.9]],
        within_1_6=[[0.9, 0.2, 0.52, 0.9, 0.9]],
        speed=[[0.0, 0.0, 0.0, 0.9, 0.1]],
    )
    found.values["within 1.6"] = found.values.pop("within 1 6")
    parts = atlas_heads.renamed(found, Thresholds())
    # Of the third head the least near mass, raised to .6, is too much; its mass within 1.6 is enough.
    assert parts == pytest.approx({"sink": 0.2, "near": 0.4, "radius": 0.2, "ratio": 0.2, "any": 0.8})


def test_shares_are_resampled_over_examples():
    generator = torch.Generator().manual_seed(3)
    mass = 0.5 + 0.2 * torch.randn(12, 20, generator=generator)
    found = heads(special_mass=mass.tolist())
    shares = atlas_heads.class_shares(found, Thresholds())
    assert sum(share for share, _ in shares.values()) == pytest.approx(1)
    expected = float((mass.double().mean(0) > 0.5).double().mean())
    share, (low, high) = shares["sink"]
    assert share == pytest.approx(expected) and low <= share <= high and 0.05 < high - low < 0.8
    # Resampling alike examples changes nothing.
    same = heads(special_mass=mass.mean(0, keepdim=True).expand(12, 20).tolist())
    assert atlas_heads.class_shares(same, Thresholds())["sink"] == (pytest.approx(expected), (expected, expected))


def test_the_local_share_has_the_interval_of_its_examples():
    generator = torch.Generator().manual_seed(4)
    near = 0.5 + 0.2 * torch.randn(10, 30, generator=generator)
    found = heads(within_2=near.tolist())
    share, (low, high) = atlas_heads.local_share(found, 2.0)
    assert share == pytest.approx(float((near.double().mean(0) >= 0.5).double().mean()))
    assert low <= share <= high and high - low > 0.05
    just = heads(within_2=[[0.5, 0.25, 0.75]])
    assert atlas_heads.local_share(just, 2.0)[0] == pytest.approx(2 / 3), "half of its mass is enough"
    assert atlas_heads.local_share(found, 2.0, near=-9.0) == (1.0, (1.0, 1.0))


def test_the_furthest_heads_are_named_once_with_all_that_they_are():
    values = {
        "special mass": [0.9, 0.1, 0.1, 0.1, 0.1],
        "entropy": [0.05, 3.0, 0.1, 2.0, 2.0],
        "mass near": [0.9, 0.2, 0.9, 0.9, 0.1],
        "speed": [9.0, 2.0, 1.0, 0.2, 0.1],
        "spread": [1.0, 4.0, 0.2, 4.0, 9.0],
        # By |v| / tr D the second head, of a length and a squared length, would move most.
        "diffusivity": [0.5, 0.01, 0.02, 8.0, 40.0],
        "shift": [0.0, 5.0, 0.1, 8.0, 40.0],
    }
    found = Heads({name: torch.tensor([[value]]).double() for name, value in values.items()})
    assert atlas_heads.furthest(found) == {
        (0, 0): ["most on special tokens"],
        (0, 1): ["flattest"],
        (0, 2): ["sharpest", "most advective", "closest to a shift"],
        (0, 3): ["most diffusive"],
        (0, 4): ["longest range"],
    }
