from dataclasses import replace

import pytest
import torch

from pdelens import Chain, Flow


@pytest.fixture
def flow(attention):
    states = [torch.randn(6, 7, 5) for _ in range(3)]
    mask = torch.ones(6, 7, dtype=torch.bool)
    return Flow(states=states, attention=[attention(seed=1), attention(seed=2)], mask=mask)


def test_saved_flow_comes_back_exactly(flow, tmp_path):
    flow.save(tmp_path / "flow.safetensors")
    back = Flow.load(tmp_path / "flow.safetensors")
    for ours, theirs in zip((*back.states, *back.attention), (*flow.states, *flow.attention), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(back.mask, flow.mask) and torch.equal(back.depths, flow.depths) and back.causal == flow.causal


def test_a_saved_flow_keeps_its_lattice_and_notes_and_the_users_own_drafts(flow, tmp_path):
    (tmp_path / "flow.draft").write_text("mine")
    for where in (None, Chain(flow.tokens), Chain(flow.tokens - 3, "dirichlet", special=(1, 2))):
        replace(flow, lattice=where, notes=("one", "two")).save(tmp_path / "flow.st")
        again = Flow.load(tmp_path / "flow.st")
        assert again.lattice == where and again.notes == ("one", "two")
    assert (tmp_path / "flow.draft").read_text() == "mine"


def test_truncated_file_is_named(flow, tmp_path):
    path = tmp_path / "flow.safetensors"
    flow.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        Flow.load(path)


def test_select_and_permute_heads(flow):
    part = flow.select(slice(1, 3))
    assert part.examples == 2 and torch.equal(part.states[1], flow.states[1][1:3])
    order = torch.tensor([2, 0, 1])
    turned = flow.permute_heads([order, torch.arange(3)])
    assert torch.equal(turned.attention[0][:, 0], flow.attention[0][:, 2])
    assert torch.equal(turned.attention[1], flow.attention[1])


def test_allowed_keys_know_padding_and_causality(attention):
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[:, 5:] = False
    maps = attention() * mask[:, None, None, :].float()
    maps = (maps / maps.sum(-1, keepdim=True)) * mask[:, None, :, None].float()
    flow = Flow(attention=[maps], mask=mask)
    assert int(flow.allowed()[0, 0, 0].sum()) == 5
    causal = maps.tril() / maps.tril().sum(-1, keepdim=True).clamp_min(1e-9)
    assert int(Flow(attention=[causal], mask=mask, causal=True).allowed()[0, 0, 2].sum()) == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "without states and without attention"),
        ({"states": [torch.zeros(2, 3)]}, r"\(batch, tokens, width\)"),
        ({"attention": [torch.full((1, 1, 2, 2), 0.7)]}, "sum to 1.4"),
        ({"states": [torch.full((1, 2, 3), float("nan"))] * 2}, "not finite"),
        ({"states": [torch.zeros(1, 2, 3)] * 2, "attention": [torch.full((1, 1, 2, 2), 0.5)] * 2}, "one state more"),
        ({"states": [torch.zeros(1, 2, 3)] * 2, "mask": torch.ones(1, 5)}, "mask has shape"),
        ({"states": [torch.zeros(1, 2, 3)] * 2, "depths": torch.zeros(5)}, "5 depths"),
    ],
)
def test_bad_input_is_named(given, says):
    with pytest.raises(ValueError, match=says):
        Flow(**given)
