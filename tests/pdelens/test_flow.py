from dataclasses import replace

import numpy as np
import pytest
import torch

from pdelens import Chain, Flow
from pdelens.flow import finite, padding_of


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


def test_a_flow_is_told_in_one_line(flow):
    everything = replace(flow, lattice=Chain(7), notes=("a note",), visible=[flow.allowed(0)] * 2)
    assert repr(everything) == repr(flow) == "Flow(2 layers, 6 examples, 7 tokens, 3 heads, width 5)"
    assert repr(Flow(flow.states)) == "Flow(2 layers, 6 examples, 7 tokens, width 5)"
    assert repr(Flow(attention=flow.attention)) == "Flow(2 layers, 6 examples, 7 tokens, 3 heads)"


def test_split_leaves_both_parts_at_least_one(flow):
    first, rest = flow.split(1)
    assert torch.equal(first.states[2], flow.states[2][:1]) and torch.equal(rest.attention[1], flow.attention[1][1:])
    assert flow.split(5)[1].examples == 1
    for count in (0, 6, -1):
        with pytest.raises(ValueError, match=f"{count} of 6 examples were asked for"):
            flow.split(count)


def test_moved_flows_keep_their_masks(flow):
    keys = torch.ones(6, 7, dtype=torch.bool)
    keys[2, 5:] = False
    wide = replace(flow, key_mask=keys, visible=[keys[:, None, None, :].expand(6, 1, 7, 7)] * 2)
    moved = wide.to(torch.float64)
    assert moved.states[0].dtype == moved.attention[1].dtype == torch.float64
    assert moved.mask.dtype == moved.visible[0].dtype == moved.key_mask.dtype == torch.bool
    part = wide.select(torch.tensor([2, 0]))
    assert torch.equal(part.key_mask, keys[[2, 0]]) and torch.equal(part.visible[1], wide.visible[1][[2, 0]])
    carried = Flow([s.clone().requires_grad_() for s in flow.states])
    assert carried.states[0].requires_grad and not carried.detach().states[0].requires_grad


def test_cross_attention_may_see_the_real_keys_of_the_other_sequence():
    keys = torch.tensor([[True, True, False], [True, True, True]])
    maps = torch.full((2, 1, 4, 3), 1 / 3)
    flow = Flow(attention=[maps], key_mask=keys.long())
    assert torch.equal(flow.allowed(), keys[:, None, None, :].expand(2, 1, 4, 3)) and flow.tokens == 4
    with pytest.raises(ValueError, match=r"key_mask has shape \(2, 4\), but \(2, 3\)"):
        Flow(attention=[maps], key_mask=torch.ones(2, 4))


def test_padding_is_a_mask_that_leaves_something_out(flow):
    assert flow.padding is None and padding_of(None) is None and padding_of(torch.ones(2, 3).bool()) is None
    short = torch.tensor([[True, False]])
    assert padding_of(short) is short
    assert replace(flow, mask=torch.arange(7) < torch.arange(2, 8)[:, None], attention=()).padding is not None


def test_what_is_finite_though_its_sum_is_not():
    assert finite(torch.full((4,), 3e38)) and finite(torch.zeros(0))
    for bad in (float("inf"), float("-inf"), float("nan")):
        assert not finite(torch.tensor([1.0, bad]))
    assert not finite(torch.tensor([float("inf"), float("-inf")]))


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)])
def test_rows_sum_to_one_up_to_their_types_rounding(dtype, off):
    def maps(total):
        return (torch.tensor([[[[0.5, total - 0.5], [0.25, 0.75]]]])).to(dtype)

    Flow(attention=[maps(1 + 0.5 * off)])
    Flow(attention=[maps(1 - 0.5 * off)])
    for total in (1 + 3 * off, 1 - 3 * off):
        with pytest.raises(ValueError, match=r"attention\[0\] has rows that sum to"):
            Flow(attention=[maps(total)])
    hidden = torch.tensor([[False, True]])
    Flow(attention=[maps(0.75)], mask=hidden)


def test_weights_are_not_negative_beyond_rounding():
    Flow(attention=[torch.tensor([[[[1.0, -5e-7], [0.0, 1.0]]]])])
    with pytest.raises(ValueError, match="has a weight of -2e-06, but none is negative"):
        Flow(attention=[torch.tensor([[[[1.0, -2e-6], [0.0, 1.0]]]])])


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"depths": [0.0, 1.0, 1.0]}, ValueError, "finite, increasing ones are wanted"),
        ({"depths": [0.0, 1.0, float("inf")]}, ValueError, "finite, increasing ones are wanted"),
        ({"depths": [[0.0, 1.0, 2.0]]}, ValueError, "1 depths were given for 2 layers"),
        ({"lattice": Chain(6)}, ValueError, "of 6 tokens was given for 7 tokens"),
        ({"notes": "one"}, TypeError, "a tuple of sentences is wanted"),
        ({"notes": (1,)}, TypeError, "a tuple of sentences is wanted"),
        ({"causal": 1}, TypeError, "causal=1 was given"),
        ({"visible": [torch.ones(6, 1, 7, 7).bool()]}, ValueError, "a layer is wanted"),
        ({"visible": [torch.ones(6, 1, 7, 7)] * 2}, ValueError, "a layer is wanted"),
        ({"visible": [torch.ones(6, 2, 7, 7).bool()] * 2}, ValueError, "1 or heads"),
        ({"visible": [torch.ones(6, 1, 7, 6).bool()] * 2}, ValueError, "a layer is wanted"),
        ({"visible": [torch.ones(6, 7, 7).bool()] * 2}, ValueError, "a layer is wanted"),
        ({"states": [torch.zeros(6, 7, 5).long()] * 3}, TypeError, "floating point is wanted"),
        ({"states": [torch.zeros(6, 8, 5)] * 3}, ValueError, "batch and queries must agree"),
        ({"states": [torch.zeros(6, 7, 5), torch.zeros(6, 7, 4), torch.zeros(6, 7, 5)]}, ValueError, "but one shape"),
    ],
)
def test_what_does_not_fit_a_flow_is_named(flow, given, error, says):
    with pytest.raises(error, match=says):
        replace(flow, **given)


def test_depths_and_notes_are_kept_and_arrays_are_welcome(flow):
    found = Flow(flow.states, depths=[0.5, 1.0, 4.0], notes=["one"], lattice=Chain(5, special=(1, 1)))
    assert found.depths.tolist() == [0.5, 1.0, 4.0] and found.notes == ("one",)
    assert flow.depths.tolist() == [0, 1, 2]
    stacked = Flow(torch.stack(flow.states), [np.asarray(maps) for maps in flow.attention])
    assert stacked.layers == 2 and torch.equal(stacked.states[1], flow.states[1])
