import pytest
import torch
from torch import nn

from pdelens import CaptureError, capture, substitute_attention
from pdelens.models import Configuration, Transformer

PICTURES = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def hugging_face(name, **extra):
    import transformers

    small = {
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "intermediate_size": 48,
        "vocab_size": 50,
    }
    torch.manual_seed(0)
    if name == "gpt2":
        config = transformers.GPT2Config(n_layer=3, n_head=4, n_embd=32, vocab_size=50, n_positions=32, **extra)
        return transformers.GPT2LMHeadModel(config).eval()
    if name == "llama":
        config = transformers.LlamaConfig(**small, num_key_value_heads=2, **extra)
        return transformers.LlamaForCausalLM(config).eval()
    if name == "vit":
        small.pop("vocab_size")
        return transformers.ViTModel(transformers.ViTConfig(**small, image_size=16, patch_size=4, **extra)).eval()
    return transformers.BertModel(transformers.BertConfig(**small, **extra)).eval()


def inputs_of(name):
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    ids = torch.randint(0, 50, (2, 9), generator=generator)
    mask = torch.ones(2, 9, dtype=torch.long)
    if name == "bert":
        mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def last(output):
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit"])
@torch.no_grad()
def test_hugging_face_flow_equals_eager_attention(name):
    model, inputs = hugging_face(name), inputs_of(name)
    plain = last(model(**inputs))
    with capture(model) as recording:
        recorded = last(model(**inputs))
    flow = recording.flow()
    assert torch.equal(plain, recorded)
    model.set_attn_implementation("eager")
    oracle = model(**inputs, output_attentions=True, output_hidden_states=True)
    assert flow.layers == 3 and flow.causal == (name in ("gpt2", "llama"))
    for ours, theirs in zip(flow.attention, oracle.attentions, strict=True):
        real = flow.mask[:, None, :, None]
        assert torch.allclose(ours * real, theirs * real, atol=1e-6)
    for ours, theirs in list(zip(flow.states, oracle.hidden_states, strict=True))[:-1]:
        assert torch.allclose(ours[flow.mask], theirs[flow.mask], atol=1e-5)


@torch.no_grad()
def test_last_state_is_before_the_final_norm():
    model, inputs = hugging_face("llama"), inputs_of("llama")
    with capture(model) as recording:
        model(**inputs)
    state = recording.flow().states[-1]
    normed = model.model.norm(state)
    assert torch.allclose(normed, model.model(**inputs).last_hidden_state, atol=1e-6)
    assert not torch.allclose(state, normed, atol=1e-2)


@torch.no_grad()
def test_padding_is_in_the_mask():
    with capture(model := hugging_face("bert")) as recording:
        model(**inputs_of("bert"))
    flow = recording.flow()
    assert flow.mask.sum(1).tolist() == [9, 6]
    assert float(flow.attention[0][1, :, :, 6:].abs().max()) == 0


@torch.no_grad()
def test_model_is_left_as_it_was_also_after_an_exception():
    from transformers import AttentionInterface

    model = hugging_face("bert")
    implementation, registered = model.config._attn_implementation, set(AttentionInterface._global_mapping)
    with pytest.raises(KeyError), capture(model):
        raise KeyError
    assert model.config._attn_implementation == implementation
    assert set(AttentionInterface._global_mapping) == registered
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    small = Transformer(Configuration(layers=2))
    attends = [block.attention.attend for block in small.blocks]
    with pytest.raises(ValueError), capture(small):
        small(torch.zeros(1, 5, 5, dtype=torch.uint8))
    assert all(block.attention.attend is a for block, a in zip(small.blocks, attends, strict=True))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_torch_encoder(norm_first, batch_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, norm_first=norm_first, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(3, 5, 16)
    given = x if batch_first else x.transpose(0, 1)
    plain = model(given)
    with capture(model) as recording:
        recorded = model(given)
    flow = recording.flow()
    assert torch.allclose(plain, recorded, atol=1e-6)
    assert (flow.layers, flow.examples, flow.tokens, flow.heads) == (2, 3, 5, 4)
    first = model.layers[0]
    normed = first.norm1(x) if norm_first else x
    order = normed if batch_first else normed.transpose(0, 1)
    weights = first.self_attn(order, order, order, average_attn_weights=False)[1]
    assert torch.allclose(flow.attention[0], weights, atol=1e-6)
    assert torch.allclose(flow.states[-1], recorded if batch_first else recorded.transpose(0, 1))


@torch.no_grad()
def test_torch_encoder_with_padding():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    with capture(model) as recording:
        model(torch.randn(3, 5, 16), src_key_padding_mask=padding)
    flow = recording.flow()
    assert torch.equal(flow.mask, ~padding) and float(flow.attention[0][0, :, :3, 3:].abs().max()) == 0


@torch.no_grad()
def test_torchvision_vit():
    import torchvision

    model = torchvision.models.VisionTransformer(32, 16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
    x = torch.randn(2, 3, 32, 32)
    plain = model(x)
    with capture(model) as recording:
        assert torch.allclose(plain, model(x), atol=1e-6)
    flow = recording.flow()
    assert (flow.layers, flow.tokens, flow.heads) == (3, 5, 2)
    normed = model.encoder.layers[0].ln_1(flow.states[0])
    block = model.encoder.layers[0].self_attention
    assert torch.allclose(flow.attention[0], block(normed, normed, normed, average_attn_weights=False)[1], atol=1e-6)


@torch.no_grad()
def test_small_teacher_states_and_batches():
    model = Transformer(Configuration(layers=3)).eval()
    with capture(model) as recording:
        model(PICTURES[:2])
        model(PICTURES[2:])
    flow = recording.flow()
    state = model.embedding(PICTURES)
    for depth, block in enumerate(model.blocks):
        assert torch.allclose(flow.states[depth], state, atol=1e-5)
        state = block(state, None)
    assert torch.allclose(flow.states[-1], state, atol=1e-5)


@torch.no_grad()
def test_states_alone():
    with capture(model := hugging_face("bert"), attention=None) as recording:
        model(**inputs_of("bert"))
    flow = recording.flow()
    assert len(flow.states) == 4 and not flow.attention


@torch.no_grad()
def test_own_attention_substituted_changes_nothing_and_other_attention_does():
    for model, inputs in (
        (Transformer(Configuration(layers=2)).eval(), {"inputs": PICTURES}),
        (hugging_face("llama"), inputs_of("llama")),
    ):
        read = last if "input_ids" in inputs else lambda output: output
        with capture(model) as recording:
            plain = read(model(**inputs))
        maps = recording.flow().attention
        with substitute_attention(model, maps):
            assert torch.allclose(plain, read(model(**inputs)), atol=1e-5)
        with substitute_attention(model, [maps_.flip(0) for maps_ in maps]):
            assert not torch.allclose(plain, read(model(**inputs)), atol=1e-4)
        assert torch.equal(plain, read(model(**inputs)))


class Opaque(nn.Module):
    """A model whose attention nobody can read: plain matrix products inside a ModuleList."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(torch.softmax(x @ x.transpose(1, 2), -1) @ x)
        return x


def test_silently_missing_attention_raises():
    model = Opaque()
    with pytest.raises(CaptureError, match="no attention could be read"), capture(model):
        model(torch.randn(2, 3, 4))


def test_states_of_a_model_whose_attention_nobody_can_read():
    model, x = Opaque(), torch.randn(2, 3, 4)
    with capture(model, attention=None) as recording:
        output = model(x)
    flow = recording.flow()
    assert len(flow.states) == 3 and torch.equal(flow.states[-1], output)


def test_errors_name_the_cure(attention):
    model = Transformer(Configuration(layers=2)).eval()
    with capture(model) as recording:
        pass
    with pytest.raises(CaptureError, match="nothing was recorded"):
        recording.flow()
    with pytest.raises(ValueError, match="choose 'weights', 'statistics' or None"), capture(model, attention="maps"):
        pass
    with pytest.raises(ValueError, match=r"attention\[0\] has shape"), substitute_attention(model, [attention()] * 2):
        model(PICTURES)
    with pytest.raises(ValueError, match="1 attentions were given"):
        with substitute_attention(model, [torch.full((1, 1, 49, 49), 1 / 49)]):
            model(PICTURES)
    with pytest.raises(CaptureError, match="MultiheadAttention keeps its values"):
        with substitute_attention(nn.TransformerEncoderLayer(8, 2), []):
            pass


@torch.no_grad()
def test_batches_of_different_length_are_named():
    with capture(model := hugging_face("bert")) as recording:
        model(torch.zeros(1, 4, dtype=torch.long))
        model(torch.zeros(1, 6, dtype=torch.long))
    with pytest.raises(CaptureError, match=r"\[4, 6\] tokens"):
        recording.flow()


@torch.no_grad()
def test_chosen_layers_with_the_states_around_them():
    model = Transformer(Configuration(layers=4)).eval()
    with capture(model) as whole, capture(model, layers=[1, -1]) as part:
        model(PICTURES)
    whole, part = whole.flow(), part.flow()
    assert part.depths.tolist() == [1, 3, 4] and part.layers == 2
    for ours, theirs in zip(part.attention, (whole.attention[1], whole.attention[3]), strict=True):
        assert torch.equal(ours, theirs)
    for ours, depth in zip(part.states, (1, 3, 4), strict=True):
        assert torch.equal(ours, whole.states[depth])


@torch.no_grad()
def test_kept_as_another_type_and_without_states():
    model = Transformer(Configuration(layers=2)).eval()
    with capture(model, dtype=torch.float16) as half, capture(model, states=False) as maps:
        model(PICTURES)
    assert {value.dtype for value in (*half.flow().states, *half.flow().attention)} == {torch.float16}
    assert not maps.flow().states and maps.flow().layers == 2
    with capture(model, "statistics", states=False) as counted:
        model(PICTURES)
    assert counted.statistics()[1].entropy.shape == (3, 4, 49)
    with pytest.raises(CaptureError, match="statistics alone were recorded"):
        counted.flow()


@torch.no_grad()
def test_too_much_attention_is_refused_before_it_is_kept():
    model = Transformer(Configuration(layers=2)).eval()
    need = 2 * 3 * 4 * 49 * 49 * 4
    with pytest.raises(CaptureError, match=rf"will need {need:,} bytes .*attention='statistics'"):
        with capture(model, max_bytes=need - 1):
            model(PICTURES)
    with capture(model, max_bytes=need) as recording:
        model(PICTURES)
    assert recording.flow().layers == 2
    with pytest.raises(CaptureError, match="past the limit"), capture(model, max_bytes=need + 1):
        model(PICTURES)
        model(PICTURES[:1])


@pytest.mark.parametrize("batch_first", [True, False])
@torch.no_grad()
def test_statistics_of_torch_attention(batch_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    x = torch.randn(3, 5, 16)
    x = x if batch_first else x.transpose(0, 1)
    plain = model(x, src_key_padding_mask=padding)
    with capture(model) as recording:
        model(x, src_key_padding_mask=padding)
    with capture(model, "statistics") as counted:
        torch.testing.assert_close(model(x, src_key_padding_mask=padding), plain, atol=1e-6, rtol=1e-6)
    for maps, statistics in zip(recording.flow().attention, counted.statistics(), strict=True):
        entropy = -torch.xlogy(maps, maps).sum(-1)
        torch.testing.assert_close(statistics.entropy, entropy, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_torchvision_vit_b_16():
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.vit_b_16(weights=None, image_size=32).eval()
    x = torch.randn(1, 3, 32, 32)
    with capture(model, layers=[0, 11]) as recording, capture(model, "statistics", layers=[0, 11]) as counted:
        model(x)
    flow = recording.flow()
    block = model.encoder.layers[11]
    normed = block.ln_1(flow.states[1])
    weights = block.self_attention(normed, normed, normed, average_attn_weights=False)[1]
    torch.testing.assert_close(flow.attention[1], weights, atol=1e-5, rtol=0)
    entropy = -torch.xlogy(weights, weights).sum(-1)
    torch.testing.assert_close(counted.statistics()[1].entropy, entropy, atol=1e-5, rtol=1e-5)


def test_contexts_open_once_and_layers_exist():
    model = Transformer(Configuration(layers=2)).eval()
    context = capture(model)
    with context:
        model(PICTURES)
    with pytest.raises(CaptureError, match="opened before"), context:
        pass
    with pytest.raises(CaptureError, match="layer 2 was asked for, but 'blocks' has 2 layers"):
        with capture(model, layers=[0, 2]):
            model(PICTURES)
    with pytest.raises(ValueError, match=r"layers=\[\] were given"):
        capture(model, layers=[])
    with pytest.raises(ValueError, match="go with attention='statistics'"):
        capture(model, positions=torch.zeros(49, 1))
    with capture(model) as recording:
        model(PICTURES)
    with pytest.raises(CaptureError, match=r"say which of 'blocks'"):
        recording.flow("decoder")
    with pytest.raises(CaptureError, match=r"use capture\(model, 'statistics'\)"):
        recording.statistics()


@pytest.mark.parametrize("kind", ["weights", "statistics"])
@torch.no_grad()
def test_attention_that_is_not_finite_is_named(kind):
    model = Transformer(Configuration(layers=3)).eval()
    model.blocks[1].attention.queries_keys_values.weight[0, 0] = float("nan")
    with pytest.raises(CaptureError, match="layer 1 in 'blocks' is not finite"), capture(model, kind):
        model(PICTURES)


@torch.no_grad()
def test_two_stacks_of_equal_depth_must_be_told_apart():
    import transformers

    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = transformers.T5Model(transformers.T5Config(**sizes, decoder_start_token_id=0)).eval()
    with capture(model) as recording:
        model(input_ids=torch.ones(1, 4, dtype=torch.long), decoder_input_ids=torch.ones(1, 3, dtype=torch.long))
    assert recording.stacks == ["encoder.block", "decoder.block", "decoder.block cross"]
    with pytest.raises(CaptureError, match=r"2 of the recorded stacks fit: say which of 'encoder.block'"):
        recording.flow()
