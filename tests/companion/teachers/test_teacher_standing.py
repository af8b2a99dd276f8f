"""How even, local and positional attention is, against loops over heads, queries and keys."""

import numpy as np
import pytest
import torch

from companion.teachers import teacher_standing
from pdelens import Chain, Flow, Grid
from pdelens.agreement import nulls

LATTICE = Grid(3, 4)
PLACES = [(row, column) for row in range(3) for column in range(4)]


def flow_of_logits(logits):
    """Return a Flow with the attention of logits, a tensor (examples, heads, 12, 12) a layer."""
    states = [torch.zeros(len(logits[0]), 12, 2)] * (len(logits) + 1)
    return Flow(attention=[torch.softmax(each.double(), -1) for each in logits], states=states)


def logits(examples, seed, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    heads = torch.tensor([0.1, 1.0, 1.5]).view(1, 3, 1, 1)  # the first head is nearly even
    return [scale * heads * torch.randn(examples, 3, 12, 12, generator=generator) for _ in range(2)]


@pytest.fixture(scope="module")
def flows():
    return flow_of_logits(logits(7, 0)), flow_of_logits(logits(5, 1))


@pytest.fixture(scope="module")
def found(flows):
    return teacher_standing.standing(*flows, LATTICE)


def cosine(a, b):
    a, b = a.double().flatten(), b.double().flatten()
    return float(a @ b / (a.norm() * b.norm()))


def scores(flow, guesses):
    """Return the cosine of each head with a guess, mean over examples, (layers, heads)."""
    table = np.zeros((2, 3))
    for layer, maps in enumerate(flow.attention):
        guess = guesses[layer].expand_as(maps)
        for head in range(3):
            pairs = zip(maps[:, head], guess[:, head], strict=True)
            table[layer, head] = np.mean([cosine(one, other) for one, other in pairs])
    return table


def near(row, query):
    """Return the share of a row of attention within two units of its query."""
    distances = [np.hypot(PLACES[query][0] - a, PLACES[query][1] - b) for a, b in PLACES]
    return sum(float(w) for w, d in zip(row, distances, strict=True) if d <= 2)


def test_entropy_is_a_share_of_the_largest(flows, found):
    each = [-float((row * row.log()).sum()) for maps in flows[1].attention for row in maps.flatten(0, 2)]
    assert found.entropy == pytest.approx(np.mean(each) / np.log(12))


def test_near_and_local_are_counted_row_by_row(flows, found):
    even = np.mean([near([1 / 12] * 12, query) for query in range(12)])
    assert teacher_standing.near_if_even(LATTICE) == pytest.approx(even)
    heads = np.zeros((2, 3))
    for layer, maps in enumerate(flows[1].attention):
        for head in range(3):
            rows = [near(example[head, query], query) for example in maps for query in range(12)]
            heads[layer, head] = np.mean(rows)
    assert found.near == pytest.approx(heads.mean())
    assert found.local == pytest.approx((heads > even).mean()) and 0 < found.local < 1


def test_nulls_are_those_of_the_worst_layer(flows, found):
    before, after = flows
    uniform = scores(after, [torch.full((1, 1, 12, 12), 1 / 12)] * 2)
    mean = scores(after, [maps.mean(0, keepdim=True) for maps in before.attention])
    other = scores(after, nulls.other_input(after))
    layers = scores(after, [after.attention[1], after.attention[0]])
    assert found.uniform == pytest.approx(uniform.mean(1).min())
    assert found.null == pytest.approx(max(each.mean(1).min() for each in (uniform, mean, other, layers)))
    best = np.stack([uniform, mean, other, layers]).max(0)
    assert found.even == (uniform >= 0.9).mean() == 1 / 3
    assert found.testable == (best <= 0.95).mean() == 2 / 3


def test_position_explains_all_of_attention_that_is_the_same_for_every_input():
    fixed = [each.expand(6, -1, -1, -1) for each in logits(1, 2)]
    found = teacher_standing.standing(flow_of_logits(fixed), flow_of_logits(fixed), LATTICE)
    assert found.position == pytest.approx(1) and found.null == pytest.approx(1) and found.testable == 0


def test_position_explains_its_share_of_variance():
    fixed = [each.expand(400, -1, -1, -1) for each in logits(1, 3)]
    before, after = ([a + b for a, b in zip(fixed, logits(400, seed), strict=True)] for seed in (4, 5))
    found = teacher_standing.standing(flow_of_logits(before), flow_of_logits(after), LATTICE)
    centred = [each[0] - each[0].mean(-1, keepdim=True) for each in fixed]
    size = torch.stack([each.square().sum((1, 2)) for each in centred])
    # Content adds (scale of the head)^2 to each entry, of which centring a row takes a twelfth.
    content = (2 * torch.tensor([0.1, 1.0, 1.5])) ** 2 * 12 * 11
    assert found.position == pytest.approx(np.median((size / (size + content)).numpy()), abs=0.02)


def test_even_maps_are_no_more_local_than_even():
    even = Flow(attention=[torch.full((4, 2, 5, 5), 0.2)] * 2, states=[torch.zeros(4, 5, 2)] * 3)
    found = teacher_standing.standing(even, even, Chain(5))
    assert found.near == pytest.approx(teacher_standing.near_if_even(Chain(5)))
    assert (found.even, found.testable, found.uniform, found.entropy) == pytest.approx((1, 0, 1, 1))
    # Nothing lies within half a unit but the query itself.
    assert teacher_standing.near_if_even(Chain(5), 0.5) == pytest.approx(1 / 5)


def test_every_part_that_a_table_shows_has_a_unit():
    assert teacher_standing.UNITS.keys() <= set(teacher_standing.Standing._fields)
