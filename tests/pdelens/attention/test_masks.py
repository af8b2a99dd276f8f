"""Who may see whom is what the call itself was told, not what an argument is called."""

import inspect

import pytest
import torch
import transformers
from tests.pdelens.attention.test_runs import BART, Mixing, Stage, block
from tests.pdelens.attention.test_users_models import IDS, SMALL, encoder, sharp
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pdelens import CaptureError, capture, compare
from pdelens.agreement import nulls
from pdelens.attention.masks import SELF_MASKS, sight_of, token_mask
from pdelens.attention.runs import Seen

TEXT = torch.randint(3, 48, (4, 24), generator=torch.Generator().manual_seed(2))
GROUPED = {**SMALL, "num_key_value_heads": 2}


@torch.no_grad()
def test_uniform_null_spreads_over_the_keys_of_the_window():
    torch.manual_seed(0)
    model = transformers.MistralModel(transformers.MistralConfig(**GROUPED, sliding_window=3)).eval()
    with capture(model) as recording, capture(model, "statistics") as counted:
        model(TEXT)
    flow = recording.flow()
    seen = (flow.attention[0] > 0).float()
    oracle = (seen / seen.sum(-1, keepdim=True),) * flow.layers
    found, wanted = (compare(maps, flow).headline() for maps in (nulls.uniform(flow), oracle))
    assert abs(found - wanted) < 1e-6 and wanted > 0.99
    assert flow.causal and all(torch.equal(flow.allowed(layer), seen[:, :1] > 0) for layer in range(3))
    assert torch.equal(counted.statistics()[0].allowed[0, 0], flow.allowed()[0, 0].sum(-1))


@torch.no_grad()
def test_windows_may_differ_by_layer_and_are_kept_through_saving_joining_and_choosing(tmp_path):
    settings = {**GROUPED, "head_dim": 8, "sliding_window": 4}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    model = sharp(lambda: transformers.Gemma2Model(transformers.Gemma2Config(**settings, layer_types=kinds)))
    with capture(model) as recording:
        model(TEXT[:3])
        model(TEXT[3:])
    flow = recording.flow()
    assert [int(flow.allowed(layer)[0, 0].sum(-1).max()) for layer in range(3)] == [4, 24, 4]
    flow.save(tmp_path / "flow")
    again = type(flow).load(tmp_path / "flow")
    for layer in range(3):
        assert torch.equal(again.allowed(layer), flow.allowed(layer))
        assert torch.equal(flow.select([2, 0]).allowed(layer), flow.allowed(layer)[[2, 0]])
        assert bool((flow.attention[layer][~flow.allowed(layer).expand_as(flow.attention[layer])] == 0).all())
    for name, maps in nulls.attention_nulls(flow, flow).items():
        for layer, each in enumerate(maps):
            if name != "shuffled layers":
                outside = each.expand_as(flow.attention[layer])[~flow.allowed(layer).expand_as(flow.attention[layer])]
                assert bool((outside == 0).all()), name


@torch.no_grad()
def test_packed_texts_do_not_see_each_other():
    model = sharp(lambda: transformers.BertModel(transformers.BertConfig(**SMALL)))
    own = torch.block_diag(torch.ones(10, 10), torch.ones(14, 14)).bool()[None, None].expand(4, 1, 24, 24)
    with capture(model) as recording:
        model(TEXT, attention_mask=own)
    flow = recording.flow()
    assert bool(flow.mask.all()) and not flow.causal and torch.equal(flow.allowed(1), own)
    with capture(model) as recording:
        model(TEXT)
    whole, nearest = recording.flow(), torch.tensor([[1, 2], [0, 1], [3, 2], [1, 1]])
    for maps in (nulls.mean_map(whole, flow), nulls.nearest_maps(whole, nearest, flow)):
        assert all(float(each[~own.expand_as(flow.attention[0])].max()) == 0 for each in maps)
        assert all(torch.allclose(each.sum(-1), torch.ones(())) for each in maps)


@torch.no_grad()
def test_heads_may_see_different_keys_also_over_several_batches():
    model = sharp(lambda: transformers.BertModel(transformers.BertConfig(**SMALL)))
    near = torch.ones(24, 24).tril(2).triu(-2).bool()
    heads = torch.stack([near, ~near, near, torch.ones(24, 24).bool()])[None].expand(4, -1, -1, -1)
    with capture(model) as recording:
        model(TEXT, attention_mask=heads)
        model(TEXT)
    flow = recording.flow()
    assert torch.equal(flow.allowed()[:4], heads) and bool(flow.allowed()[4:].all())
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(flow.permute_heads([order] * 3).allowed(2)[:4], heads[:, order])


@torch.no_grad()
def test_a_square_mask_is_no_padding():
    model, x = encoder(), torch.randn(6, 6, 16)
    hides = torch.ones(6, 6, dtype=torch.bool).triu(1)
    with capture(model) as recording:
        model(x, mask=hides)
    flow = recording.flow()
    assert bool(flow.mask.all()) and flow.causal and not flow.visible
    padding = torch.zeros(6, 6, dtype=torch.bool)
    padding[2, 4:] = True
    with capture(model) as recording:
        model(x, mask=hides, src_key_padding_mask=padding)
    assert torch.equal(recording.flow().mask, ~padding) and recording.flow().causal


@torch.no_grad()
def test_one_towers_padding_is_not_the_others():
    text = {**SMALL, "max_position_embeddings": 16, "num_hidden_layers": 2}
    vision = {"image_size": 8, "patch_size": 4, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    config = transformers.CLIPConfig(text_config=text, vision_config={**vision, "intermediate_size": 48})
    model = sharp(lambda: transformers.CLIPModel(config))
    ids, mask = IDS[:, :5], torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])  # as many tokens as patches and one
    with capture(model) as recording:
        model(input_ids=ids, pixel_values=torch.randn(2, 3, 8, 8), attention_mask=mask)
    assert recording.flow("vision").tokens == 5 and bool(recording.flow("vision").mask.all())
    assert torch.equal(recording.flow("text").mask, mask.bool())


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_causal_padding_is_in_the_mask_and_nothing_else(side):
    model = sharp(lambda: transformers.LlamaModel(transformers.LlamaConfig(**GROUPED)))
    mask = torch.ones(4, 24, dtype=torch.long)
    mask[1, slice(20, 24) if side == "right" else slice(0, 4)] = 0
    with capture(model) as recording, capture(model, None) as states:
        model(TEXT, attention_mask=mask)
    flow = recording.flow()
    assert torch.equal(flow.mask, mask.bool()) and flow.causal and not flow.visible
    assert torch.equal(states.flow().mask, flow.mask) and states.flow().causal


@torch.no_grad()
def test_a_mask_that_the_model_does_not_heed_says_nothing():
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = Stage([block(), block()])

        def forward(self, x, attention_mask=None):
            return self.stage(x)

    mask, model = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]), Deaf()
    with capture(model) as recording:
        model(torch.randn(2, 5, 16), attention_mask=mask)
    assert bool(recording.flow().mask.all())


@torch.no_grad()
def test_cross_attention_has_the_memorys_padding_and_its_queries_their_own():
    model = sharp(lambda: transformers.BartModel(transformers.BartConfig(**BART)))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    with capture(model) as recording:
        model(input_ids=IDS, attention_mask=mask, decoder_input_ids=IDS[:, :4])
    cross = recording.flow("cross")
    assert torch.equal(cross.key_mask, mask.bool()) and bool(cross.mask.all()) and not cross.causal
    assert torch.equal(recording.flow("encoder").mask, mask.bool()) and recording.flow("decoder").causal


class Turned(nn.Module):
    """Sequence-first attention inside a layer whose states are batch first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.attention = nn.MultiheadAttention(16, 4)

    def forward(self, x):
        turned = x.transpose(0, 1)
        return x + self.attention(turned, turned, turned)[0].transpose(0, 1)


@torch.no_grad()
def test_states_keep_their_axes_whatever_the_attention_inside_does():
    model, x = Stage([Turned(), Turned()]).eval(), torch.randn(2, 5, 16)
    with capture(model) as recording:
        output = model(x)
    flow = recording.flow()
    torch.testing.assert_close(flow.states[0], x)
    torch.testing.assert_close(flow.states[-1], output)
    with pytest.raises(CaptureError, match="as many examples as tokens, 5"), capture(model):
        model(torch.randn(5, 5, 16))
    first = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0), 2, enable_nested_tensor=False)
    x = torch.randn(5, 5, 16)
    with capture(first.eval()) as recording:
        first(x)
    torch.testing.assert_close(recording.flow().states[0], x.transpose(0, 1))


class Scaled(Mixing):
    def attend(self, query, key, value, mask):
        return nn.functional.scaled_dot_product_attention(query, key, value, scale=1.0)


class Other(Mixing):
    """Something else of that name."""

    def attend(self, x):
        return x

    def forward(self, x):
        return self.attend(x)


@pytest.mark.parametrize("kind", ["weights", "statistics"])
@torch.no_grad()
def test_attend_is_a_method_too_and_weighs_as_it_says(kind):
    model, x = Stage([Mixing(), Mixing()]).eval(), torch.randn(2, 20, 16)
    with capture(model, kind) as recording:
        model(x)
    assert recording.flow().layers == 2 and not any("attend" in vars(each) for each in model.blocks)
    if kind == "weights":
        query, key, _ = (z.unflatten(-1, (4, 4)).transpose(1, 2) for z in model.blocks[0].qkv(x).chunk(3, -1))
        torch.testing.assert_close(recording.flow().attention[0], torch.softmax(query @ key.mT / 2, -1))
    with pytest.raises(CaptureError, match="`attend` of Scaled does not return softmax"):
        with capture(wrong := Stage([Scaled(), Scaled()]).eval(), kind):
            wrong(x)
    with pytest.raises(CaptureError, match="no attention could be read"), capture(other := Stage([Other()]), kind):
        other(x)


def test_an_argument_called_mask_is_no_padding_where_another_one_is():
    def forward(x, mask=None, src_key_padding_mask=None):
        return x

    known, square = inspect.signature(forward).parameters, torch.ones(6, 6).tril().bool()
    assert token_mask({"mask": square}, known, SELF_MASKS, None) is None
    assert torch.equal(token_mask({"mask": square}, {"mask": None}, SELF_MASKS, None), square)
    padding = torch.tensor([[0.0, -1e9], [0.0, 0.0]])
    assert token_mask({"mask": padding}, {"mask": None}, SELF_MASKS, None).tolist() == [[True, False], [True, True]]


@torch.no_grad()
def test_one_passs_padding_is_not_the_next_ones():
    class Opaque(nn.Module):
        """Attention that nobody can read: what it was told of padding is all that is known."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x, attention_mask=None):
            for layer in self.layers:
                x = layer(torch.softmax(x @ x.mT, -1) @ x)
            return x

    model, x, mask = Opaque(), torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]])
    with capture(model, None) as recording:
        model(x, attention_mask=mask)
        model(x)
    assert torch.equal(recording.flow().mask, torch.cat([mask.bool(), torch.ones(2, 3, dtype=torch.bool)]))


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor):
            self.numel = max(self.numel, found.numel())
        return found


def test_what_is_causal_by_name_alone_needs_no_triangle():
    tokens = 2000
    call = Seen((), None, False, (1, 2, tokens, tokens), torch.device("cpu"), causal=True)
    with Largest() as made:
        sight = sight_of([call] * 3, None, None)
        told = torch.arange(tokens)[None] < 1990
        padded = sight_of([call] * 3, told, None)
    assert sight.causal and sight.mask is None
    assert padded.mask is not None and torch.equal(padded.mask, told)
    assert made.numel <= 2 * tokens


@pytest.mark.parametrize("seed", range(20))
def test_padding_that_a_later_query_sees_is_not_heeded(seed):
    generator = torch.Generator().manual_seed(seed)
    real = torch.rand(1, 6, generator=generator) > 0.3
    triangle = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    plain = Seen((), None, False, (1, 2, 6, 6), torch.device("cpu"), causal=True)
    masked = Seen((), None, False, (1, 2, 6, 6), torch.device("cpu"), mask=triangle)
    ours, theirs = (sight_of([call], real, None).mask for call in (plain, masked))
    assert (ours is None) == (theirs is None)
    assert ours is None or (theirs is not None and torch.equal(ours, theirs))
