"""Layers that run more than once: a pass is a pass, a shared layer counts each time, other tokens are other tokens."""

import pytest
import torch
import transformers
from tests.pdelens.attention.test_users_models import IDS, SMALL, encoder, sharp
from torch import nn

from pdelens import CaptureError, capture, substitute_attention
from pdelens.attention.runs import common_name

IDLESS = {"bos_token_id": None, "eos_token_id": None}
X, Y = torch.randn(2, 2, 5, 16, generator=torch.Generator().manual_seed(3))
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0}
BART = {"vocab_size": 50, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "pad_token_id": 1}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = encoder()

    def forward(self, a, b):
        return (self.encoder(a) * self.encoder(b)).mean()


class Stage(nn.Module):
    """A few blocks one after another, `times` times."""

    def __init__(self, blocks, times=1):
        super().__init__()
        self.blocks, self.times = nn.ModuleList(blocks), times

    def forward(self, x):
        for _ in range(self.times):
            for block in self.blocks:
                x = block(x)
        return x


def block(heads=4):
    torch.manual_seed(heads)
    return nn.TransformerEncoderLayer(16, heads, 32, batch_first=True, dropout=0.0).eval()


class Mixing(nn.Module):
    """A block of one's own, whose attention can be replaced."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def attend(self, query, key, value, mask):
        return nn.functional.scaled_dot_product_attention(query, key, value, mask)

    def forward(self, x):
        query, key, value = (z.unflatten(-1, (4, 4)).transpose(1, 2) for z in self.qkv(x).chunk(3, -1))
        return x + self.attend(query, key, value, None).transpose(1, 2).flatten(2)


def by_hand(blocks, x):
    """Return states and maps of blocks run one after another, from torch's own attention module."""
    states, maps = [x], []
    for each in blocks:
        maps.append(each.self_attn(states[-1], states[-1], states[-1], average_attn_weights=False)[1])
        states.append(each(states[-1]))
    return states, maps


def agrees(flow, states, maps):
    assert len(flow.states) == len(states) and len(flow.attention) == len(maps)
    for ours, theirs in zip((*flow.states, *flow.attention), (*states, *maps), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_one_encoder_on_two_inputs_makes_two_passes():
    model = Siamese().eval()
    with capture(model) as both:
        model(X, Y)
    with capture(model.encoder) as alone:
        model.encoder(torch.cat([X, Y]))
    assert both.stacks == ["encoder.layers"]
    agrees(both.flow(), alone.flow().states, alone.flow().attention)
    assert "ran 2 times in one forward pass" in both.flow().notes[0]
    assert not alone.flow().notes


@torch.no_grad()
def test_passes_are_causal_together_where_each_of_them_is():
    model = transformers.GPT2Model(
        transformers.GPT2Config(**IDLESS, vocab_size=50, n_embd=32, n_layer=2, n_head=4)
    ).eval()
    with torch.no_grad(), capture(model) as caught:
        model(IDS)
        model(IDS.flip(1))
    assert caught.flow().causal and len(caught.flow().mask) == 2 * len(IDS)
    siamese = Siamese().eval()
    with torch.no_grad(), capture(siamese) as caught:
        siamese(X, Y)
    assert not caught.flow().causal


def test_a_layer_used_again_on_what_it_put_out_is_one_layer_more():
    for blocks in ([block()], [block(), block()]):
        model = Stage(blocks, times=3)
        with capture(model) as recording:
            model(X)
        assert recording.stacks == ["blocks"]
        agrees(recording.flow(), *by_hand(blocks * 3, X))
        assert recording.flow().depths.tolist() == list(range(3 * len(blocks) + 1))


@torch.no_grad()
def test_stages_of_blocks_are_layers_of_self_attention():
    stages = [Stage([block(), block()]) for _ in range(3)]
    model = Stage(stages)
    with capture(model) as recording:
        model(X)
    assert recording.stacks == ["blocks"]
    agrees(recording.flow(), *by_hand([each for stage in stages for each in stage.blocks], X))


@torch.no_grad()
def test_stages_of_other_heads_are_stacks_of_their_own():
    model = Stage([Stage([block(4), block(4)]), Stage([block(2), block(2)])])
    with capture(model) as recording:
        model(X)
    assert recording.stacks == ["blocks.0.blocks", "blocks.1.blocks"]
    assert recording.flow("blocks.1").heads == 2


@torch.no_grad()
def test_albert_counts_its_shared_layer_each_time():
    settings = {**SMALL, "embedding_size": 16, "num_hidden_layers": 4}
    for groups in (1, 2):
        config = transformers.AlbertConfig(**settings, num_hidden_groups=groups)
        model = sharp(lambda config=config: transformers.AlbertModel(config))
        model.set_attn_implementation("eager")
        oracle = model(IDS, output_attentions=True, output_hidden_states=True)
        with capture(model) as recording:
            model(IDS)
        agrees(recording.flow(), oracle.hidden_states, oracle.attentions)


@torch.no_grad()
def test_layers_are_chosen_by_depth_where_they_are_shared():
    model = Stage([block()], times=4)
    states, maps = by_hand([model.blocks[0]] * 4, X)
    with capture(model, layers=[1, 3]) as recording:
        model(X)
    agrees(recording.flow(), [states[1], states[3], states[4]], [maps[1], maps[3]])
    for wrong in ([-1], [4]):
        with pytest.raises(CaptureError, match=r"count layers from the first|layer 4 was asked for"):
            with capture(model, layers=wrong):
                model(X)


@torch.no_grad()
def test_two_kinds_of_self_attention_in_a_layer_are_refused():
    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Mixing(), Mixing()

        def forward(self, x):
            return self.two(self.one(x))

    model = Stage([Double(), Double()])
    with pytest.raises(CaptureError, match=r"called attention \[2\] times each"), capture(model):
        model(X)
    with capture(model, None) as recording:
        model(X)
    assert len(recording.flow().states) == 3


@torch.no_grad()
def test_a_part_that_is_called_alone_is_a_pass():
    model = sharp(lambda: transformers.BartModel(transformers.BartConfig(**BART)))
    with capture(model) as recording:
        found = model.get_encoder()(IDS)
    assert recording.stacks == ["encoder.layers"]
    torch.testing.assert_close(recording.flow().states[-1], found.last_hidden_state)


@torch.no_grad()
def test_a_pass_that_fails_leaves_the_next_one_whole():
    model = encoder()
    with capture(model) as recording:
        with pytest.raises(RuntimeError):
            model(torch.randn(2, 5, 15))
        model(X)
    assert recording.flow().examples == 2 and recording.flow().layers == 2


@pytest.mark.parametrize("which", ["decoder", "encoder", "cross"])
@torch.no_grad()
def test_own_maps_put_back_into_an_encoder_decoder_change_nothing(which):
    model = sharp(lambda: transformers.BartModel(transformers.BartConfig(**BART)))
    with capture(model) as recording:
        plain = model(input_ids=IDS, decoder_input_ids=IDS[:, :6])[0]
    maps = recording.flow(which).attention
    with substitute_attention(model, maps, which=which):
        torch.testing.assert_close(model(input_ids=IDS, decoder_input_ids=IDS[:, :6])[0], plain, atol=1e-5, rtol=1e-5)
    with substitute_attention(model, [each.flip(0) for each in maps], which=which):
        assert not torch.allclose(model(input_ids=IDS, decoder_input_ids=IDS[:, :6])[0], plain, atol=1e-3)


@torch.no_grad()
def test_maps_for_a_model_of_several_stacks_need_a_name():
    model = sharp(lambda: transformers.BartModel(transformers.BartConfig(**BART)))
    even = [torch.full((9, 9), 1 / 9)] * 3
    with pytest.raises(CaptureError, match=r"'encoder\.layers' and in 'decoder\.layers': say which"):
        with substitute_attention(model, even):
            model(input_ids=IDS, decoder_input_ids=IDS)
    with pytest.raises(CaptureError, match="which='middle' fits no stack"):
        with substitute_attention(model, even, which="middle"):
            model(input_ids=IDS, decoder_input_ids=IDS)


@torch.no_grad()
def test_maps_of_a_shared_layer_are_put_back_by_depth():
    model = Stage([Mixing()], times=3).eval()
    with capture(model) as recording:
        plain = model(X)
    maps = recording.flow().attention
    with substitute_attention(model, maps):
        torch.testing.assert_close(model(X), plain)
        torch.testing.assert_close(model(X), plain)  # each pass begins with the first layer
    with substitute_attention(model, [maps[0], maps[0], maps[2]]):
        assert not torch.allclose(model(X), plain, atol=1e-4)
    with substitute_attention(model, [maps[0], maps[0], maps[2]], layers=[0, 2]):
        torch.testing.assert_close(model(X), plain)
    assert "attend" not in vars(model.blocks[0])


@torch.no_grad()
def test_steps_of_generation_are_no_examples():
    model = sharp(
        lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5, decoder_start_token_id=0))
    )
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with capture(model) as recording, capture(model, "statistics") as counted:
        model.generate(IDS, **settings)
    assert recording.flow("encoder").examples == 2
    for which in ("decoder", "cross"):
        with pytest.raises(CaptureError, match="run in steps with a cache"):
            recording.flow(which)
        with pytest.raises(CaptureError, match="run in steps with a cache"):
            counted.statistics(which)
    with capture(model) as whole, capture(model, "statistics") as counted:
        model.generate(IDS, **settings, use_cache=False)
    for ask in (whole.flow, counted.statistics):
        with pytest.raises(CaptureError, match=r"\[1, 2, 3\] tokens"):
            ask("decoder")


def test_names_share_what_they_begin_with():
    assert common_name(["a.0.b", "a.1.b"]) == "a" and common_name(["a.b", "a.b"]) == "a.b"
    assert common_name(["one", "two"]) == "one + two"
