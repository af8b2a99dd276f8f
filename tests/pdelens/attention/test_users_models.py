"""Models as users put them together: what a recording must see, and what it must not change."""

import pytest
import torch
import transformers
from torch import nn

from pdelens import CaptureError, capture

SMALL = {"vocab_size": 50, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
IDS = torch.randint(3, 48, (2, 9), generator=torch.Generator().manual_seed(1))
KINDS = ("weights", "statistics", None)


def sharp(make):
    """Return a model whose attention is far from uniform."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def bert(implementation="sdpa"):
    model = sharp(lambda: transformers.BertModel(transformers.BertConfig(**SMALL)))
    model.set_attn_implementation(implementation)
    return model


def encoder(layers=2, dropout=0.0):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=dropout)
    return nn.TransformerEncoder(layer, layers).eval()


class Classifier(nn.Module):
    """A pretrained model inside one's own."""

    def __init__(self):
        super().__init__()
        self.bert = bert()
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        return self.head(self.bert(x).last_hidden_state[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_sinks_are_refused_in_every_mode(kind):
    settings = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}
    model = sharp(lambda: transformers.GptOssModel(transformers.GptOssConfig(**settings, sliding_window=4)))
    with torch.no_grad():
        plain = model(IDS)[0]
        with pytest.raises(CaptureError, match="changes its attention weights by s_aux"), capture(model, kind):
            model(IDS)
        torch.testing.assert_close(model(IDS)[0], plain)


@pytest.mark.parametrize("wrap", [Classifier, lambda: nn.DataParallel(bert()), lambda: nn.Sequential(bert())])
def test_a_model_inside_ones_own_is_read_like_the_model(wrap):
    outer = wrap().eval()
    inner = outer.bert if isinstance(outer, Classifier) else next(outer.children())
    with torch.no_grad():
        with capture(inner) as wanted:
            inner(IDS)
        with capture(outer) as found:
            outer(IDS)
    for ours, theirs in zip(found.flow().attention, wanted.flow().attention, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert inner.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_who_asks_for_attentions_gets_those_of_without_a_recording(kind, implementation):
    model = bert(implementation)
    with torch.no_grad():
        plain = model(IDS, output_attentions=True)
        with capture(model, kind) as recording:
            found = model(IDS, output_attentions=True)
    torch.testing.assert_close(found.last_hidden_state, plain.last_hidden_state, atol=1e-5, rtol=1e-5)
    assert len(found.attentions or ()) == len(plain.attentions or ())
    for ours, theirs in zip(found.attentions or (), plain.attentions or (), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    if kind == "weights" and implementation == "eager":
        for ours, theirs in zip(recording.flow().attention, plain.attentions, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


class Block(nn.Module):
    def __init__(self, average=True, **adds):
        super().__init__()
        self.average = average
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True, **adds)

    def forward(self, x, src_key_padding_mask=None):
        mixed, weights = self.attn(x, x, x, src_key_padding_mask, average_attn_weights=self.average)
        return x + mixed, weights


class Blocks(nn.Module):
    def __init__(self, average=True, **adds):
        super().__init__()
        self.layers = nn.ModuleList([Block(average, **adds)])

    def forward(self, x, src_key_padding_mask=None):
        return self.layers[0](x, src_key_padding_mask)


ADDED = [{}, {"add_zero_attn": True}, {"add_bias_kv": True}, {"add_zero_attn": True, "add_bias_kv": True}]


@pytest.mark.parametrize("adds", ADDED, ids=str)
@pytest.mark.parametrize("average", [False, True])
def test_torch_attention_gives_the_weights_that_were_asked_for(average, adds):
    torch.manual_seed(0)
    model, x = Blocks(average, **adds).eval(), torch.randn(2, 5, 16)
    with torch.no_grad():
        plain = model(x)
        with capture(model) as recording:
            found = model(x)
    torch.testing.assert_close(found, plain)
    kept = recording.flow().attention[0]
    torch.testing.assert_close(kept.mean(1) if average else kept, plain[1])


@pytest.mark.parametrize("adds", ADDED, ids=str)
def test_padding_beside_keys_that_a_module_added(adds):
    torch.manual_seed(0)
    model, x = Blocks(**adds).eval(), torch.randn(2, 5, 16)
    padding = torch.arange(5)[None] >= torch.tensor([5, 3])[:, None]
    with torch.no_grad():
        with capture(model) as recording:
            model(x, padding)
        with capture(model) as cropped:
            model(x[1:, :3])
    flow, added = recording.flow(), len(adds)
    assert flow.mask is not None and torch.equal(flow.mask, ~padding)
    seen = flow.attention[0][1, :, :3]
    wanted = cropped.flow().attention[0][0]
    torch.testing.assert_close(torch.cat([seen[..., :3], seen[..., 5:]], -1), wanted)
    assert seen.shape[-1] == 5 + added and not seen[..., 3:5].any()
    if adds:
        assert torch.equal(flow.visible[0][1, 0, 0], torch.tensor([True] * 3 + [False] * 2 + [True] * added))


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode_keeps_its_dropout_and_its_maps_come_before_it(kind):
    model, x = encoder(dropout=0.3), torch.randn(3, 6, 16)
    with torch.no_grad():
        with capture(model) as quiet:
            model(x)
        model.train()
        torch.manual_seed(5)
        plain = model(x)
        torch.manual_seed(5)
        with capture(model, kind) as recording:
            found = model(x)
    torch.testing.assert_close(found, plain)  # the very same units are dropped
    if kind == "weights":
        # The first layer's maps are those of evaluation: nothing was dropped before them.
        torch.testing.assert_close(recording.flow().attention[0], quiet.flow().attention[0])


def test_recordings_may_overlap_in_any_order_of_kinds():
    model = bert()
    with torch.no_grad():
        plain = model(IDS)[0]
        for outer, inner in ((a, b) for a in KINDS for b in KINDS):
            with capture(model, outer) as one, capture(model, inner) as two:
                found = model(IDS)[0]
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
            for recording, kind in ((one, outer), (two, inner)):
                assert len(recording.flow().states) == 4, (outer, inner)
                if kind == "statistics":
                    assert len(recording.statistics()) == 3
                assert recording.flow().heads == (4 if kind == "weights" else 0)


def test_a_stack_whose_name_is_part_of_anothers_can_be_asked_for():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.extra, self.layers = encoder(), encoder().layers

        def forward(self, x):
            x = self.extra(x)
            for layer in self.layers:
                x = layer(x)
            return x

    model, x = Two().eval(), torch.randn(2, 5, 16)
    with torch.no_grad(), capture(model) as recording:
        model(x)
    assert recording.stacks == ["extra.layers", "layers"]
    torch.testing.assert_close(recording.flow("extra").states[0], x)
    torch.testing.assert_close(recording.flow("layers").states[0], recording.flow("extra.layers").states[-1])
