"""Measures of how alike tokens are, against closed forms and slow plain versions, and a null that keeps the places."""

import math

import pytest
import torch

from companion.theory.depth_profiles import LINKED, clusters, mixed, plateaus, profile
from pdelens.flow import Flow


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_tokens_apart_and_all_alike_have_their_closed_forms():
    states = [torch.eye(5).double()[None], 3 * torch.ones(1, 5, 5).double()]
    found = profile(Flow(states), beta=2.0)
    assert found.cosine[0].tolist() == pytest.approx([0.0, 1.0])
    apart = (5 * math.exp(2.0) + 20) / 25 / 4
    assert found.energy[0].tolist() == pytest.approx([apart, math.exp(2.0) / 4])
    assert found.rank[0].tolist() == pytest.approx([5.0, 1.0])
    assert clusters(Flow(states)).tolist() == [[5, 1]] and found.rises().tolist() == [1.0]


def test_every_measure_by_its_plain_definition():
    tokens = random(2, 6, 4) + 1.5
    found = profile(Flow([tokens, tokens * 2]), beta=0.7)
    for example in range(2):
        x = tokens[example] / tokens[example].norm(dim=1, keepdim=True)
        pairs = [float(x[i] @ x[j]) for i in range(6) for j in range(6) if i != j]
        assert float(found.cosine[example, 0]) == pytest.approx(sum(pairs) / 30)
        every = [math.exp(0.7 * float(x[i] @ x[j])) for i in range(6) for j in range(6)]
        assert float(found.energy[example, 0]) == pytest.approx(sum(every) / 36 / 1.4)
        values = torch.linalg.eigvalsh(x.T @ x).clamp_min(0).sqrt()
        share = values / values.sum()
        assert float(found.rank[example, 0]) == pytest.approx(math.exp(-sum(float(p * p.log()) for p in share)))
    counts = clusters(Flow([tokens, tokens * 2]))
    assert torch.equal(counts[:, 0], counts[:, 1]), "length plays no part"


def test_a_chain_of_links_is_one_cluster():
    step = math.acos(LINKED) * 0.9
    angles = torch.tensor([0, step, 2 * step, 3.0])
    tokens = torch.stack([angles.cos(), angles.sin()], 1)[None]
    assert clusters(Flow([tokens, tokens])).tolist() == [[2, 2]]
    assert clusters(Flow([tokens]), linked=0.95).tolist() == [[4]] and clusters(Flow([tokens]), -1).tolist() == [[1]]


def test_padding_is_no_token():
    tokens = random(3, 7, 4)
    real = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]
    noisy = torch.where(real[..., None], tokens, 1e3)
    found = profile(Flow([noisy, noisy], mask=real))
    for example, length in enumerate((7, 4, 2)):
        alone = profile(Flow([tokens[example : example + 1, :length]] * 2))
        counts = (
            clusters(Flow([noisy], mask=real))[example],
            clusters(Flow([tokens[example : example + 1, :length]]))[0],
        )
        assert torch.equal(*counts)
        for name in ("cosine", "energy", "rank"):
            torch.testing.assert_close(getattr(found, name)[example], getattr(alone, name)[0])
    with pytest.raises(ValueError, match="example 0 has 1 real tokens: pairs need at least two"):
        profile(Flow([noisy[:1]] * 2, mask=torch.arange(7)[None] < 1))


@pytest.mark.parametrize(
    ("counts", "longest"),
    [
        ([8, 5, 5, 5, 1], 3),
        ([8, 8, 8, 8, 8], 0),
        ([8, 1, 1, 1, 1], 0),
        ([8, 6, 5, 5, 4], 2),
        ([8, 5, 4, 5, 5], 2),
        ([8, 7, 6, 5, 4], 1),
    ],
)
def test_a_plateau_is_a_number_of_clusters_that_stays(counts, longest):
    assert plateaus(torch.tensor([counts])).tolist() == [longest]


def test_the_null_keeps_places_and_mixes_company():
    states = [random(40, 5, 3, seed=depth) + torch.arange(5.0)[:, None] for depth in range(3)]
    real = torch.arange(5) < (torch.arange(40) % 2 + 4)[:, None]
    flow = Flow(states, mask=real)
    null = mixed(flow)
    for depth in range(3):
        for place in range(5):
            ours, theirs = null.states[depth][:, place], states[depth][:, place]
            assert torch.equal(ours.sort(0).values, theirs.sort(0).values)
    assert torch.equal(null.mask.sum(0), real.sum(0))
    for example in range(40):
        for place in range(5):
            (source,) = (states[1][:, place] == null.states[1][example, place]).all(1).nonzero().flatten().tolist()
            assert null.mask[example, place] == real[source, place], "a token stays what it was, real or padding"
    # One example's tokens come from many, and from the same ones at every depth.
    sources = [(states[0][:, p] == null.states[0][0, p]).all(1).nonzero().item() for p in range(5)]
    assert len(set(sources)) > 2
    assert all(torch.equal(null.states[2][0, p], states[2][s, p]) for p, s in enumerate(sources))


def test_what_tokens_of_one_example_share_is_gone():
    common = random(30, 1, 8)
    tokens = 2 * common + random(30, 6, 8, seed=1)
    flow = Flow([tokens, tokens])
    assert float(profile(flow).cosine.mean()) > 0.6 and abs(float(profile(mixed(flow)).cosine.mean())) < 0.1


def test_a_flow_of_maps_alone_is_named():
    with pytest.raises(ValueError, match="a Flow without states was given"):
        profile(Flow(attention=[torch.full((1, 1, 3, 3), 1 / 3)]))


def test_the_null_forgets_who_saw_whom_and_follows_its_seed():
    maps = [torch.full((6, 2, 4, 4), 0.25)] * 2
    flow = Flow(
        [random(6, 4, 3, seed=k) for k in range(3)],
        maps,
        key_mask=torch.ones(6, 4, dtype=torch.bool),
        visible=[torch.ones(6, 1, 4, 4, dtype=torch.bool)] * 2,
    )
    null, again, other = mixed(flow), mixed(flow, 0), mixed(flow, seed=1)
    assert null.attention == null.visible == () and null.key_mask is None and len(null.states) == 3
    assert torch.equal(null.states[1], again.states[1]) and not torch.equal(null.states[1], other.states[1])


def test_rises_are_counted_by_layers_alone():
    """Three layers: tokens draw together, fall apart, draw together."""
    apart, near = torch.eye(4).double()[None], torch.eye(4).double()[None] + 1.0
    found = profile(Flow([apart, near, apart, near]))
    assert found.rises().tolist() == pytest.approx([2 / 3])
    still = profile(Flow([apart, apart]))
    assert still.rises().tolist() == [0.0], "what stays has not risen"
    both = profile(Flow([torch.cat([apart, near]), torch.cat([near, apart])]))
    assert both.rises().tolist() == [1.0, 0.0]


def test_one_tokens_example_is_too_few_and_two_are_enough():
    tokens = random(1, 3, 4)
    two = torch.tensor([[True, False, True]])
    found = profile(Flow([tokens, tokens], mask=two))
    x, y = tokens[0, 0], tokens[0, 2]
    assert float(found.cosine[0, 0]) == pytest.approx(float(x @ y / x.norm() / y.norm()))


def test_a_token_of_size_zero_has_no_direction():
    tokens = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1e-100, 0.0]]], dtype=torch.float64)
    found = profile(Flow([tokens, tokens]), beta=1.0)
    # The second and the third point alike, however small; the first's products are 0.
    assert float(found.cosine[0, 0]) == pytest.approx(1 / 3)
    assert float(found.energy[0, 0]) == pytest.approx((4 * math.e + 5) / 9 / 2)


def test_links_are_above_their_cosine_and_a_groups_size_plays_no_part():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]])
    assert clusters(Flow([tokens]), linked=0.0).tolist() == [[3]], "a cosine of just 0 is not above it"
    assert clusters(Flow([tokens]), linked=-0.1).tolist() == [[1]]
