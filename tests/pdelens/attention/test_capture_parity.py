"""Maps and states of many architectures against each model's own eager attention; no model is named in the library."""

import pytest
import torch
import transformers
from torch import nn

from pdelens import capture

SMALL = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
WORDS = {**SMALL, "vocab_size": 50}
PICTURES = {**SMALL, "image_size": 16, "patch_size": 4}
ENCODER_DECODER = {"vocab_size": 50, "d_model": 32, "decoder_start_token_id": 0, "pad_token_id": 1}
GROUPED = {**WORDS, "num_key_value_heads": 2}

BUILD = {
    "bert": lambda t: t.BertModel(t.BertConfig(**WORDS)),
    "roberta": lambda t: t.RobertaModel(t.RobertaConfig(**WORDS)),
    "distilbert": lambda t: t.DistilBertModel(
        t.DistilBertConfig(n_layers=3, n_heads=4, dim=32, hidden_dim=48, vocab_size=50)
    ),
    "gpt2": lambda t: t.GPT2Model(t.GPT2Config(n_layer=3, n_head=4, n_embd=32, vocab_size=50)),
    "gpt-neox": lambda t: t.GPTNeoXModel(t.GPTNeoXConfig(**WORDS)),
    "llama": lambda t: t.LlamaModel(t.LlamaConfig(**GROUPED)),
    "mistral": lambda t: t.MistralModel(t.MistralConfig(**GROUPED, sliding_window=4)),
    "qwen2": lambda t: t.Qwen2Model(t.Qwen2Config(**GROUPED)),
    "gemma2": lambda t: t.Gemma2Model(
        t.Gemma2Config(**GROUPED, head_dim=8, attn_logit_softcapping=2.0, sliding_window=4)
    ),
    "vit": lambda t: t.ViTModel(t.ViTConfig(**PICTURES)),
    "deit": lambda t: t.DeiTModel(t.DeiTConfig(**PICTURES)),
    "dinov2": lambda t: t.Dinov2Model(t.Dinov2Config(**PICTURES, mlp_ratio=2)),
    "t5": lambda t: t.T5Model(t.T5Config(num_layers=3, num_heads=4, d_kv=8, d_ff=48, **ENCODER_DECODER)),
    "bart": lambda t: t.BartModel(
        t.BartConfig(
            encoder_layers=3,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            **ENCODER_DECODER,
        )
    ),
}
SEEING = {"vit", "deit", "dinov2"}
CAUSAL = {"gpt2", "gpt-neox", "llama", "mistral", "qwen2", "gemma2"}


def made(name):
    torch.manual_seed(0)
    model = BUILD[name](transformers).eval()
    with torch.no_grad():
        for value in model.parameters():
            value += 0.1 * torch.randn_like(value)  # sharper attention than at initialisation
    return model


def inputs_of(name, padding=None):
    generator = torch.Generator().manual_seed(1)
    if name in SEEING:
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    ids = torch.randint(2, 50, (2, 9), generator=generator)
    mask = torch.ones(2, 9, dtype=torch.long)
    if padding == "right":
        mask[1, 6:] = 0
    elif padding == "left":
        mask[1, :3] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if name in ("t5", "bart"):
        others = torch.randint(2, 50, (2, 5), generator=generator)
        given |= {"decoder_input_ids": others, "decoder_attention_mask": torch.ones(2, 5, dtype=torch.long)}
        if padding:
            given["decoder_attention_mask"][0, 4:] = 0
    return given


def close(ours, theirs, mask):
    """Compare the rows of real tokens."""
    rows = mask[:, None, :, None]
    torch.testing.assert_close(ours * rows, theirs * rows, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "padding"),
    [(name, padding) for name in BUILD for padding in (None, "right", "left") if name not in SEEING or not padding],
)
@torch.no_grad()
def test_flow_equals_eager_attention(name, padding):
    model, inputs = made(name), inputs_of(name, padding)
    if name != "gemma2":  # its plain form is eager already
        plain = model(**inputs).last_hidden_state
    with capture(model) as recording:
        recorded = model(**inputs).last_hidden_state
    if name != "gemma2":
        assert torch.equal(plain, recorded)
    model.set_attn_implementation("eager")
    oracle = model(**inputs, output_attentions=True, output_hidden_states=True)
    if name in ("t5", "bart"):
        pairs = {
            "encoder": (oracle.encoder_attentions, oracle.encoder_hidden_states),
            "decoder": (oracle.decoder_attentions, oracle.decoder_hidden_states),
            "cross": (oracle.cross_attentions, oracle.decoder_hidden_states),
        }
    else:
        pairs = {None: (oracle.attentions, oracle.hidden_states)}
    for which, (maps, states) in pairs.items():
        flow = recording.flow(which)
        assert flow.layers == 3 and flow.causal == (name in CAUSAL or which == "decoder")
        real = inputs.get("decoder_attention_mask" if which in ("decoder", "cross") else "attention_mask")
        if real is not None:
            assert torch.equal(flow.mask, real.bool())
        for ours, theirs in zip(flow.attention, maps, strict=True):
            close(ours, theirs, flow.mask)
        for ours, theirs in list(zip(flow.states, states, strict=True))[:-1]:
            torch.testing.assert_close(ours[flow.mask], theirs[flow.mask], atol=1e-4, rtol=1e-4)
        if which == "cross":
            assert torch.equal(flow.key_mask, inputs["attention_mask"].bool())
            assert float((flow.attention[0] * ~flow.key_mask[:, None, None, :]).abs().max()) == 0


@pytest.mark.parametrize("name", BUILD)
@torch.no_grad()
def test_statistics_equal_those_of_the_maps_and_leave_the_output_alone(name):
    # In double precision: in single one, how much two ways to add up differ is the machine's.
    model, inputs = made(name).double(), inputs_of(name, "right")
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    with capture(model) as recording:
        first = model(**inputs).last_hidden_state
    with capture(model, "statistics") as counted:
        second = model(**inputs).last_hidden_state
    torch.testing.assert_close(first, second, atol=1e-12, rtol=1e-12)
    for which in ("encoder", "decoder", "cross") if name in ("t5", "bart") else (None,):
        flow = recording.flow(which)
        for maps, statistics in zip(flow.attention, counted.statistics(which), strict=True):
            exact = maps.double()
            entropy = -torch.xlogy(exact, exact).sum(-1)
            rows = flow.mask[:, None, :].expand_as(entropy)
            torch.testing.assert_close(statistics.entropy[rows].double(), entropy[rows], atol=2e-5, rtol=1e-5)
            collision = exact.square().sum(-1)
            torch.testing.assert_close(statistics.collision[rows].double(), collision[rows], atol=2e-5, rtol=1e-5)


class Cross(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)

    def forward(self, x, memory, padding):
        return self.decoder(x, memory, memory_key_padding_mask=padding)


@torch.no_grad()
def test_torch_decoder_has_self_and_cross_attention():
    torch.manual_seed(0)
    model = Cross().eval()
    x, memory, padding = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    with capture(model) as recording:
        model(x, memory, padding)
    assert recording.flow().attention[0].shape == (2, 4, 5, 5)
    cross = recording.flow("cross")
    assert cross.attention[0].shape == (2, 4, 5, 7) and torch.equal(cross.key_mask, ~padding)
    with capture(model, "statistics") as counted:
        model(x, memory, padding)
    for maps, statistics in zip(cross.attention, counted.statistics("cross"), strict=True):
        entropy = -torch.xlogy(maps, maps).sum(-1)
        torch.testing.assert_close(statistics.entropy, entropy, atol=1e-5, rtol=1e-5)
