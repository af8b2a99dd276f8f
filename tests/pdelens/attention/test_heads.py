import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pdelens import Chain, Flow, Grid, compare, plots
from pdelens.attention import heads as head_measures
from pdelens.attention.heads import Heads, Thresholds, against_causal_uniform, extremes, measure_heads
from pdelens.attention.moments import attention_moments, displacement_kernel
from pdelens.attention.positions import position_share
from pdelens.intervals import bootstrap_interval


def softmax_maps(logits, causal=False):
    if causal:
        past = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        logits = logits.masked_fill(~past, float("-inf"))
    return torch.softmax(logits, -1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lattice", [Chain(9, special=(1, 1)), Grid(3, 4, special=1)])
def test_measures_equal_the_moments_of_the_maps(lattice):
    maps = softmax_maps(2 * random(5, 3, lattice.tokens, lattice.tokens))
    found = measure_heads(Flow(attention=[maps]), lattice)
    exact = attention_moments(maps.double(), lattice)
    drift = exact.drift.mean(-2)
    for axis in range(lattice.dims):
        torch.testing.assert_close(found.values[f"drift {axis}"][:, 0].double(), drift[..., axis], atol=1e-5, rtol=1e-5)
    trace = exact.diffusivity.diagonal(dim1=-2, dim2=-1).sum(-1).mean(-1)
    torch.testing.assert_close(found.values["diffusivity"][:, 0].double(), trace, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.values["special mass"][:, 0].double(), exact.special_mass.mean(-1))
    assert found.mean("entropy").shape == (1, 3)


def test_shift_head_is_advective_with_nothing_aside():
    maps = torch.eye(8).roll(-1, 1)
    maps[0] = torch.eye(8)[0]
    found = measure_heads(Flow(attention=[maps.expand(4, 1, 8, 8)]), Chain(8))
    assert found.mean("shift")[0, 0] == 0 and found.mean("diffusivity")[0, 0] == 0
    assert found.mean("drift 0")[0, 0] == pytest.approx(-7 / 8)
    assert found.classes()[0, 0] == "advective"


def test_classes_by_the_stated_thresholds():
    def heads(special, near, speed, spread):
        given = {"special mass": special, "mass near": near, "speed": speed, "spread": spread}
        return Heads({name: torch.full((2, 1, 1), value) for name, value in given.items()})

    assert heads(0.6, 0.9, 1.0, 0.1).classes()[0, 0] == "sink"
    assert heads(0.4, 0.4, 1.0, 0.1).classes()[0, 0] == "long-range"
    assert heads(0.4, 0.6, 1.0, 0.1).classes()[0, 0] == "advective"
    assert heads(0.4, 0.6, 0.1, 1.0).classes()[0, 0] == "diffusive"
    assert heads(0.4, 0.6, 0.1, 1.0).classes(Thresholds(sink=0.3))[0, 0] == "sink"
    assert heads(0.4, 0.6, 1.5, 1.0).classes(Thresholds(ratio=1.6))[0, 0] == "diffusive"


def test_lengths_are_compared_with_lengths():
    # All look at the places 20 and 30 alike: moved by 10 on average, spread by 5, tr D = 12.5.
    maps = torch.zeros(1, 1, 31, 31)
    maps[..., 20] = maps[..., 30] = 0.5
    heads = measure_heads(Flow(attention=[maps]), Chain(31))
    assert heads.mean("diffusivity")[0, 0] == pytest.approx(12.5, rel=1e-5)
    assert heads.mean("spread")[0, 0] == pytest.approx(5, rel=1e-5)
    assert heads.ratio()[0, 0] == pytest.approx(2, rel=1e-5)
    assert heads.classes(Thresholds(near=0))[0, 0] == "advective"


def test_uniform_causal_head_is_its_own_measure():
    maps = softmax_maps(torch.zeros(2, 1, 12, 12), causal=True)
    flow = Flow(attention=[maps], causal=True)
    for ratio in against_causal_uniform(flow, Chain(12, causal=True)):
        torch.testing.assert_close(ratio, torch.ones(2, 1, 1), atol=1e-5, rtol=1e-5)
    sharp = softmax_maps(50.0 * torch.eye(12).expand(2, 1, 12, 12), causal=True)
    drift, diffusivity = against_causal_uniform(Flow(attention=[sharp], causal=True), Chain(12, causal=True))
    assert float(drift.abs().max()) < 1e-6 and float(diffusivity.abs().max()) < 1e-6


@pytest.mark.parametrize("causal", [False, True])
def test_share_of_position_is_what_was_put_in(causal):
    lattice, examples = Chain(16, special=(1, 0), causal=causal), 400
    profile = -(torch.arange(17.0)[:, None] - torch.arange(17.0)).abs() / 2  # depends on displacement alone
    pair = random(17, 17, seed=1)  # depends on the pair
    noise = random(2 * examples, 3, 17, 17, seed=2)
    logits = torch.stack([profile.expand(2 * examples, 17, 17), pair.expand(2 * examples, 17, 17)], 1)
    logits = torch.cat([logits, torch.zeros(2 * examples, 1, 17, 17)], 1) + noise
    flow = Flow(attention=[softmax_maps(logits, causal)], causal=causal)
    found = position_share(*flow.split(examples), lattice)

    def expected(signal):
        inner = signal[1:, 1:]
        keep = torch.ones(16, 16).tril() if causal else torch.ones(16, 16)
        centred = (inner - (inner * keep).sum(-1, keepdim=True) / keep.sum(-1, keepdim=True)) * keep
        degrees = float((keep.sum(-1) - 1).sum())  # a centred row of n keys has n - 1
        power = float(centred.square().sum())
        return power / (power + degrees)

    by_pair, by_offset = found.heads("pair")[0], found.heads("offset")[0]
    assert float(by_pair[0]) == pytest.approx(expected(profile), abs=0.02)
    assert float(by_offset[0]) == pytest.approx(expected(profile), abs=0.02)
    assert float(by_pair[1]) == pytest.approx(expected(pair), abs=0.02)
    assert float(by_offset[1]) < 0.25 * float(by_pair[1])
    assert abs(float(by_pair[2])) < 0.02 and found.total.shape == (examples, 1, 3)
    value, (low, high) = found.median("pair", group=2)
    assert value == pytest.approx(np.median(by_pair)) and low < value < high


def test_kernel_of_a_displacement_head_is_its_profile():
    lattice = Grid(4, 5, special=1)
    profile = random(7, 9).abs()
    place = lattice.positions()
    offset = place[None] - place[:, None]
    inner = profile[offset[..., 0] + 3, offset[..., 1] + 4]
    maps = torch.zeros(21, 21)
    maps[0, 0] = 1
    maps[1:, 1:] = inner
    scaled = maps / maps.sum(-1, keepdim=True)
    kernel = displacement_kernel(scaled[None], lattice)[0]
    count = torch.zeros(7, 9)
    total = torch.zeros(7, 9)
    for query in range(20):
        for key in range(20):
            down, right = (offset[query, key] + torch.tensor([3, 4])).tolist()
            total[down, right] += scaled[1 + query, 1 + key]
            count[down, right] += 1
    torch.testing.assert_close(kernel, total / count)


def test_extremes_and_intervals():
    flow = Flow(attention=[softmax_maps(s * random(30, 4, 10, 10, seed=int(s))) for s in (1, 4)])
    heads = measure_heads(flow, Chain(10))
    found = extremes(heads, 2)
    entropy = heads.mean("entropy")
    assert found["flattest"][0] == tuple(np.unravel_index(entropy.argmax(), entropy.shape))
    assert found["sharpest"][0] == tuple(np.unravel_index(entropy.argmin(), entropy.shape))
    low, high = heads.interval("entropy")
    assert bool((low < entropy).all()) and bool((entropy < high).all())
    half = 1.96 * heads.values["entropy"].std(0).numpy() / 30**0.5
    np.testing.assert_allclose((high - low) / 2, half, rtol=0.2)


def test_bad_input_is_named():
    flow = Flow(attention=[softmax_maps(random(2, 1, 6, 6))])
    with pytest.raises(ValueError, match=r"but .* is wanted"):
        measure_heads(flow, Chain(7))
    assert head_measures.CLASSES[0] == "sink"


def test_shares_of_classes_sum_to_one_and_hold_their_intervals():
    heads = measure_heads(
        Flow(attention=[softmax_maps(s * random(30, 4, 10, 10, seed=int(s))) for s in (1, 4)]), Chain(10)
    )
    shares = heads.class_shares()
    assert sum(share for share, _, _ in shares.values()) == pytest.approx(1)
    for name, (share, low, high) in shares.items():
        assert share == (heads.classes() == name).mean() and 0 <= low <= share <= high <= 1
    pairs = heads.grouped(2)
    assert pairs.values["entropy"].shape == (15, 2, 4)
    np.testing.assert_allclose(pairs.mean("entropy"), heads.mean("entropy"), rtol=1e-6)
    value, (low, high) = pairs.summary("entropy")
    assert low < value < high and value == pytest.approx(heads.mean("entropy").mean())
    with pytest.raises(ValueError, match="30 examples"):
        heads.grouped(4)


def test_unbiased_share_of_position_does_not_depend_on_how_many_examples_fit_it():
    lattice, noise = Chain(16), random(600, 1, 16, 16, seed=3)
    signal = random(16, 16, seed=4)
    flow = Flow(attention=[softmax_maps(signal + 2 * noise)])
    heldout = flow.select(slice(100, None))
    few = [position_share(flow.select(slice(k, k + 4)), heldout, lattice) for k in range(0, 80, 4)]
    many = position_share(flow.select(slice(0, 100)), heldout, lattice)
    unbiased = np.mean([share.heads("pair, unbiased") for share in few])
    assert unbiased == pytest.approx(float(many.heads("pair, unbiased")[0, 0]), abs=0.01)
    assert np.mean([share.heads("pair") for share in few]) < unbiased - 0.1


def test_headline_and_median_with_intervals():
    flow = Flow(attention=[softmax_maps(random(12, 3, 8, 8, seed=s)) for s in (1, 2)])
    report = compare([a.roll(1, 0) for a in flow.attention], flow)
    low, high = report.headline_interval(group=2)
    assert low < report.headline() < high
    with pytest.raises(ValueError, match="12 examples can't be averaged 5 by 5"):
        report.headline_interval(group=5)
    median, (low, high) = head_measures.median_head(torch.arange(7.0).expand(5, 2, 7))
    assert median == low == high == 3


def test_a_medians_interval_is_the_bootstraps_of_its_seed():
    values = random(12, 2, 3)
    rows = values.double().flatten(1).numpy()
    found = {seed: head_measures.median_head(values, seed) for seed in (0, 3)}
    for seed, (median, interval) in found.items():
        wanted = bootstrap_interval(rows, lambda drawn: np.median(drawn.mean(0)), resamples=400, seed=seed)
        assert interval == wanted and median == np.median(rows.mean(0))
    assert found[0][1] != found[3][1]


def test_poster_frames_every_head_in_its_class():
    tiles = np.random.default_rng(0).random((4, 3, 8, 8))
    classes = np.array([["sink", "diffusive", "advective"]] * 4)
    image, cell, apart = plots._composed(tiles, classes, 2, 16)
    assert image.shape == (2 * cell, 6 * cell + apart, 3)
    for layer, head in np.ndindex(4, 3):
        block, row = divmod(layer, 2)
        corner = image[row * cell, block * (3 * cell + apart) + head * cell]
        np.testing.assert_allclose(corner, plots.to_rgb(plots.COLOURS[classes[layer, head]]))
    plt.close(plots.poster(tiles, classes, "a model", "four layers", blocks=2))
    with pytest.raises(ValueError, match="divisor"):
        plots.poster(tiles, classes, "a model", "four layers", blocks=3)


def told(**values):
    """Give heads of one example, a number a head."""
    return Heads({name.replace("_", " "): torch.tensor([[row]]).double() for name, row in values.items()})


def test_a_head_of_just_half_its_mass_on_special_tokens_is_compared():
    found = extremes(
        told(
            special_mass=[0.5, 0.51, 0.1, 0.0],
            entropy=[0.4, 0.0, 2.0, 1.0],
            mass_near=[0.9, 0.2, 0.5, 0.49],
            speed=[3.0, 9.0, 1.0, 0.1],
            spread=[1.0, 1.0, 1.0, 1.0],
            shift=[0.2, 0.0, 0.9, 0.8],
        )
    )
    assert {name: places[0][1] for name, places in found.items()} == {
        "most on special tokens": 1,
        "flattest": 2,
        "sharpest": 0,
        "most advective": 0,
        "most diffusive": 2,
        "longest range": 3,
        "closest to a shift": 0,
    }


def test_extremes_are_as_many_as_asked_for_and_in_order():
    maps = [softmax_maps(s * random(5, 3, 10, 10, seed=int(s))) for s in (1, 4)]
    heads = measure_heads(Flow(attention=maps), Chain(10))
    entropy = {(layer, head): heads.mean("entropy")[layer, head] for layer in range(2) for head in range(3)}
    for count in (1, 2, 6):
        found = extremes(heads, count)
        assert all(len(places) == count for places in found.values())
        assert found["sharpest"] == sorted(entropy, key=entropy.__getitem__)[:count]
        assert found["flattest"] == sorted(entropy, key=entropy.__getitem__, reverse=True)[:count]
    assert all(len(places) == 1 for places in extremes(heads).values())


def test_bounds_of_classes_are_none_of_their_heads():
    given = told(special_mass=[0.5] * 3, mass_near=[0.5] * 3, speed=[1.0, 1.01, 0.99], spread=[1.0] * 3)
    assert given.classes().tolist() == [["diffusive", "advective", "diffusive"]]
    np.testing.assert_allclose(given.ratio(), [[1.0, 1.01, 0.99]])


@pytest.mark.parametrize("lattice", [Chain(5, special=(1, 2)), Grid(3, 4, special=1)], ids=str)
def test_measures_of_a_head_query_by_query(lattice):
    """A plain loop over queries and keys; the last query looks at special tokens alone."""
    maps = softmax_maps(random(1, 1, lattice.tokens, lattice.tokens, seed=3).double())
    first = lattice.special[0]
    maps[0, 0, first + lattice.places - 1] = torch.eye(lattice.tokens, dtype=torch.float64)[0]
    found = measure_heads(Flow(attention=[maps]), lattice, radius=1.5)
    place, drifts, traces, near, aside, special, entropy = lattice.positions().tolist(), [], [], [], [], [], []
    for query in range(lattice.places):
        row = maps[0, 0, first + query].tolist()
        own = row[first : first + lattice.places]
        special.append(sum(row) - sum(own))
        entropy.append(-sum(w * np.log(w) for w in row if w))
        if query == lattice.places - 1:
            continue
        offsets = [np.subtract(place[key], place[query]) for key in range(lattice.places)]
        share = np.array(own) / sum(own)
        drift = sum(w * offset for w, offset in zip(share, offsets, strict=True))
        trace = sum(w * ((offset - drift) ** 2).sum() for w, offset in zip(share, offsets, strict=True)) / 2
        drifts.append(drift)
        traces.append(trace)
        near.append(sum(w for w, offset in zip(share, offsets, strict=True) if np.linalg.norm(offset) <= 1.5))
        if query:
            aside.append(abs(drift[0] + 1) + trace)
    mean, spread = np.mean(drifts, 0), np.mean(np.sqrt(2 * np.array(traces)))
    wanted = {f"drift {axis}": mean[axis] for axis in range(lattice.dims)}
    wanted |= {
        "speed": np.linalg.norm(mean),
        "diffusivity": np.mean(traces),
        "mass near": np.mean(near),
        "spread": spread,
    }
    wanted |= {"special mass": np.mean(special), "entropy": np.mean(entropy)}
    wanted |= {"shift": np.mean(aside)} if lattice.dims == 1 else {}
    assert {name: float(value[0, 0, 0]) for name, value in found.values.items()} == pytest.approx(wanted, abs=1e-9)


def test_drift_and_diffusivity_by_place_are_the_moments(attention):
    lattice, maps = Chain(7), [attention(seed=1), attention(seed=2)]
    drift, diffusivity = head_measures.by_place(Flow(attention=maps), lattice)
    for layer in range(2):
        exact = attention_moments(maps[layer], lattice)
        torch.testing.assert_close(drift[:, layer], exact.drift[..., 0])
        torch.testing.assert_close(diffusivity[:, layer], exact.diffusivity[..., 0, 0])


def test_draws_are_means_over_resampled_examples():
    values = torch.arange(12.0).view(4, 1, 3)
    heads = Heads({"entropy": values})
    drawn = heads.draws("entropy", 300)
    assert drawn.shape == (300, 1, 3)
    # Heads go together: each draw has one share of examples for all of them.
    np.testing.assert_allclose(drawn[..., 1] - drawn[..., 0], 1)
    np.testing.assert_allclose(drawn.mean(0), heads.mean("entropy"), atol=0.6)
    assert len(np.unique(np.round(4 * drawn[:, 0, 0]))) > 8
    low, high = heads.interval("entropy", 300)
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975], axis=0))
