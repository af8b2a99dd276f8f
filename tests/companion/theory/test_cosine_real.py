import itertools
import math

import numpy as np
import pytest
import torch

from companion.theory import cosine, cosine_real
from pdelens.agreement import measures
from pdelens.agreement.report import compare
from pdelens.flow import Flow


def drawn(seed, heads=3, layers=2, examples=5, tokens=6):
    generator = torch.Generator().manual_seed(seed)
    return Flow(attention=[cosine.random_attention(tokens, 1.5, examples, heads, generator) for _ in range(layers)])


@pytest.mark.parametrize(("null", "share"), [(0.6, 0.5), (0.9, 0.1), (0.3, 2.0)])
def test_a_shrunken_map_has_a_centred_cosine_of_one_at_the_stated_raw_cosine(null, share):
    mean = torch.full((1, 1, 1, 4), 0.25, dtype=torch.float64)
    # A direction that is orthogonal to the mean, as long as the mean map's score wants it.
    away = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[None, None, None] / 2
    away = away * mean.norm() * math.sqrt(1 / null**2 - 1)
    truth, ours = mean + away, mean + share * away
    assert float(measures.cosine(mean, truth)) == pytest.approx(null)
    assert float(measures.centred_cosine(ours, truth, mean[0])) == pytest.approx(1)
    assert float(measures.cosine(ours, truth)) == pytest.approx(float(cosine_real.shrunken(null, share)))
    single = cosine_real.shrunken(np.float32(null), share)
    assert single.dtype == np.float64 and single == cosine_real.shrunken(float(np.float32(null)), share)


def test_skewness_of_known_logits():
    # Two of three logits alike: skewness 1 / sqrt(2), whatever their scale and each row's offset.
    row = torch.tensor([0.0, 0.0, 3.0])
    maps = torch.softmax(torch.stack([row, row + 2]), -1).expand(4, 2, 2, 3)
    assert cosine_real.logit_skewness(maps).tolist() == pytest.approx([1 / math.sqrt(2)] * 2)
    assert cosine_real.skewness_by_head([maps, maps]) == pytest.approx([1 / math.sqrt(2)] * 4)
    mirrored = torch.softmax(-row, -1).expand(4, 1, 2, 3)
    assert float(cosine_real.logit_skewness(mirrored)) == pytest.approx(-1 / math.sqrt(2))


def test_the_skewed_law_is_nearer_than_the_gaussian_for_skewed_logits():
    generator = torch.Generator().manual_seed(0)
    # Centred exponentials: skewness 2.
    logits = 0.1 * (torch.empty(40, 2, 256, 256).exponential_(generator=generator) - 1)
    maps = torch.softmax(logits, -1)
    spread, skewness = cosine.logit_spread(maps).numpy(), cosine_real.logit_skewness(maps).numpy()
    assert skewness == pytest.approx([2, 2], abs=0.05)
    found = cosine.cosine_to_uniform(maps).mean(0).numpy()
    assert (found < cosine.uniform_law(spread)).all()
    assert found == pytest.approx(cosine_real.skewed_law(spread, skewness), abs=4e-4)
    # Exactly (1 - 2t)^(1/2) / (1 - t) for t = .1, which the Gaussian law misses by more.
    assert found == pytest.approx([math.sqrt(0.8) / 0.9] * 2, abs=3e-4)
    assert np.abs(found - cosine.uniform_law(spread)).min() > 1e-3


def test_two_inputs_of_a_head_that_varies_in_so_many_directions():
    """`E cos^2 = tr C^2`: a head that moves its mean map along one of three directions, by either sign."""
    mean = torch.full((1, 1, 4, 4), 0.25)
    ways = torch.eye(3)[:, :, None] * torch.tensor([0.1, -0.1, 0.05, -0.05])
    maps = torch.stack([mean[0] + sign * torch.cat([way, torch.zeros(1, 4)])[None] for way in ways for sign in (1, -1)])
    pairs = list(itertools.product(range(6), repeat=2))
    ours, theirs = (maps[[pair[place] for pair in pairs]] for place in (0, 1))
    report = compare([ours], Flow(attention=[theirs]), None, Flow(attention=[maps]), ["centred cosine"])
    assert cosine_real.root_mean_square(report)[0] == pytest.approx([1 / math.sqrt(3)], abs=1e-5)
    assert report.per_head("centred cosine")[0] == pytest.approx([0], abs=1e-6)


def test_heads_are_found_wherever_they_are():
    reference = drawn(0)
    # Every head of the reference, layers exchanged and heads turned about.
    ours = Flow(attention=[layer[:, [2, 0, 1]] for layer in reversed(reference.attention)])
    places = cosine_real.nearest_heads(ours, reference)
    assert places.tolist() == [[[1, 1], [1, 2], [1, 0]], [[0, 1], [0, 2], [0, 0]]]
    found = cosine_real.pair((ours, ours), (reference, reference))
    assert found.anywhere.headline() == pytest.approx(1, abs=1e-5)
    assert found.matched.headline() < 0.9


def test_the_nearest_head_has_the_highest_centred_cosine():
    reference, ours = drawn(1), drawn(2)
    places = cosine_real.nearest_heads(ours, reference)
    for layer, theirs in enumerate(reference.attention):
        middle = theirs.mean((0, 1))
        for head in range(3):
            one = theirs[:, head : head + 1]
            scores = {
                (at, other): float(measures.centred_cosine(maps[:, other : other + 1], one, middle[None]).mean())
                for at, maps in enumerate(ours.attention)
                for other in range(3)
            }
            assert tuple(places[layer, head].tolist()) == max(scores, key=scores.__getitem__)


def test_heads_are_chosen_on_calibration_and_judged_on_what_is_held_out():
    reference, held = drawn(3), drawn(4)
    turned = Flow(attention=[layer[:, [1, 2, 0]] for layer in reference.attention])
    found = cosine_real.pair((turned, held), (reference, held))
    # The order that the calibration examples ask for is the wrong one for these held-out maps.
    expected = [measures.cosine(layer[:, [2, 0, 1]], layer).mean() for layer in held.attention]
    assert found.matched.headline() == pytest.approx(float(min(expected)), abs=1e-5)
    assert found.anywhere.headline() == pytest.approx(float(min(expected)), abs=1e-5)
