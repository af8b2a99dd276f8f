"""Cut edges, what they carry and what the logits do, against plain loops over heads and tokens."""

import pytest
import torch

from companion.information_flow import edges
from pdelens.models import Configuration, Transformer

SHAPE = Configuration(width=8, layers=3, heads=2, outputs=3, side=12, patch=4)


@pytest.fixture(scope="module")
def one():
    model = Transformer(SHAPE, 0).eval().requires_grad_(False).double()
    for block in model.blocks:  # sharper than at the start, so that edges differ
        block.attention.queries_keys_values.weight.mul_(4)
    u = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0)).double()
    return model, u


def heads_of(block, x):
    """Return attention and values (heads, tokens, ...) of one example, by their definition."""
    q, k, v = (block.attention.queries_keys_values(x)[:, part * 8 : part * 8 + 8] for part in range(3))
    each = [(q[:, s], k[:, s], v[:, s]) for s in (slice(0, 4), slice(4, 8))]
    return [((q @ k.T / 2).softmax(-1), v) for q, k, v in each]


def without(block, u, target, source):
    """Return a token's next state with one edge cut, in every head renormalised."""
    outputs = []
    for attention, values in heads_of(block, block.norm_attention(u)):
        row = attention[target].clone()
        row[source] = 0
        outputs.append(row / row.sum() @ values)
    after = u[target] + block.attention.project(torch.cat(outputs))
    return after + block.mlp(block.norm_mlp(after))


def test_cut_states_are_those_of_a_plain_loop(one):
    model, u = one
    block = model.blocks[0]
    found = edges.cut_states(block, u, edges.parts(block, u))
    assert found.shape == (2, 9, 9, 8)
    for example, target, source in ((0, 0, 5), (1, 3, 3), (1, 8, 0)):
        wanted = without(block, u[example], target, source)
        torch.testing.assert_close(found[example, target, source], wanted)


def test_an_edge_without_attention_cuts_nothing(one):
    model, u = one
    block = model.blocks[0]
    given = edges.parts(block, u)
    attention = given.attention.clone()
    attention[..., 4] = 0
    attention /= attention.sum(-1, keepdim=True)
    found = edges.cut_states(block, u, given._replace(attention=attention))
    mixed = torch.einsum("bhij,bhjw->biw", attention, given.carried) + block.attention.project.bias
    after = u + mixed
    torch.testing.assert_close(found[:, :, 4], after + block.mlp(block.norm_mlp(after)))


def test_what_edges_carry_adds_up_to_the_layers_attention(one):
    model, u = one
    block = model.blocks[1]
    given = edges.parts(block, u)
    whole = torch.einsum("bhij,bhjw->biw", given.attention, given.carried) + block.attention.project.bias
    torch.testing.assert_close(whole, block.attention(block.norm_attention(u), None))
    norms = edges.value_norms(given)
    project = block.attention.project.weight
    (first, v1), (second, v2) = heads_of(block, block.norm_attention(u)[1])
    wanted = project[:, :4] @ v1[2] * first[5, 2] + project[:, 4:] @ v2[2] * second[5, 2]
    assert float(norms[1, 5, 2]) == pytest.approx(float(wanted.norm()))


def test_logits_move_as_they_do_when_the_model_runs_on_from_the_changed_state(one):
    model, u = one
    block, targets = model.blocks[0], torch.tensor([[1, 7], [0, 4]])
    cut = edges.cut_states(block, u, edges.parts(block, u))
    after = block(u, None)
    found = edges.logit_effects(model, 0, after, cut[torch.arange(2)[:, None], targets], targets)
    assert found.shape == (2, 2, 9)
    for example, row, source in ((0, 1, 3), (1, 0, 8)):
        place, states = int(targets[example, row]), after[example].clone()
        states[place] = without(block, u[example], place, source)
        ends = []
        for state in (states, after[example]):
            for later in model.blocks[1:]:
                state = later(state[None], None)[0]
            ends.append(model.head(model.norm(state).mean(0)))
        assert float(found[example, row, source]) == pytest.approx(float((ends[0] - ends[1]).norm()), rel=1e-5)


def test_post_norm_layers_are_refused():
    block = Transformer(Configuration(placement="post", side=12, width=8, heads=2), 0).blocks[0]
    with pytest.raises(ValueError, match="post-norm"):
        edges.parts(block, torch.zeros(1, 9, 8))
