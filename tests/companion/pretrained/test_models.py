import numpy as np
import pytest
import torch

from companion import fetch
from companion.data import photographs
from companion.paths import DataError
from companion.pretrained import models


@pytest.mark.data
@torch.no_grad()
def test_minilm_knows_what_is_alike():
    encoder = models.minilm()
    batch = encoder.encode(["a wonderful film", "an excellent movie", "the stock market fell"], tokens=10)
    state = encoder.model(**batch).last_hidden_state
    keep = batch["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((state * keep).sum(1) / keep.sum(1), dim=-1)
    alike, strange = float(pooled[0] @ pooled[1]), float(pooled[0] @ pooled[2])
    assert alike > 0.7 and strange < 0.2
    assert encoder.lengths(["a wonderful film"]) == [5]
    assert batch["attention_mask"].sum(1).tolist() == [5, 5, 6]


@pytest.mark.data
@torch.no_grad()
def test_untrained_minilm_depends_on_its_seed_alone():
    first, second, other = (models.minilm(trained=False, seed=seed).model for seed in (1, 1, 2))
    weights = [model.encoder.layer[0].attention.self.query.weight for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert float(weights[0].std()) == pytest.approx(0.02, rel=0.02)


@pytest.fixture(scope="module")
def smollm2():
    return models.smollm2()


def perplexities(language, texts):
    batch = language.encode(texts, tokens=32)
    predicted = torch.log_softmax(language.model(**batch).logits[:, :-1], -1)
    surprise = -predicted.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    shown = batch["attention_mask"][:, 1:]
    return ((surprise * shown).sum(1) / shown.sum(1)).exp().tolist()


@pytest.mark.data(fetch.SMOLLM2)
@torch.no_grad()
def test_smollm2_knows_english(smollm2):
    config = smollm2.model.config
    shape = (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads, config.hidden_size)
    assert shape == (30, 9, 3, 576) and sum(p.numel() for p in smollm2.model.parameters()) == 134_515_008
    sentence = "The sun rises in the east and sets in the west, and every morning the birds begin to sing."
    words = sentence.split()
    shuffled = " ".join(words[i] for i in torch.randperm(len(words), generator=torch.Generator().manual_seed(0)))
    ordered, disordered = perplexities(smollm2, [sentence, shuffled])
    assert ordered < 40 and disordered > 10 * ordered
    smollm2.tokenizer.no_padding()
    tokens = smollm2.tokenizer.encode("The capital of France is").ids
    following = smollm2.model(torch.tensor([tokens])).logits[0, -1].argmax()
    assert smollm2.tokenizer.decode([int(following)]) == " Paris"


@pytest.mark.data(fetch.SMOLLM2)
def test_smollm2_writes_and_reads_any_text(smollm2):
    for text in ("Don't stop!  In 1984, 2+2=5.", "naïve café — 日本 😀\n\tx", "<|im_start|>user\nHi<|im_end|>"):
        ids = smollm2.tokenizer.encode(text).ids
        assert smollm2.tokenizer.decode(ids, skip_special_tokens=False) == text
    # A numeral is a token of its own; a marker is one token.
    assert smollm2.lengths(["1984", "<|im_end|>", "Hello world"]) == [4, 1, 2]
    batch = smollm2.encode(["Hello world", "The cat sat on the mat."], tokens=5)
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["input_ids"][0, 2:].tolist() == [smollm2.model.config.pad_token_id] * 3


@pytest.mark.replay
@pytest.mark.data(fetch.DINOV2)
@torch.no_grad()
def test_dinov2_knows_a_photograph_whose_colours_are_exchanged():
    images = [picture.image for split in photographs.SPLITS for picture in photographs.load(split)]
    exchanged = [image[..., [1, 2, 0]] for image in images]

    def recognised(transformer):
        given, other = (
            transformer.model(transformer.preprocess(pictures, side=112)).last_hidden_state[:, 0]
            for pictures in (images, exchanged)
        )
        given, other = (torch.nn.functional.normalize(f - f.mean(0), dim=-1) for f in (given, other))
        return int(((given @ other.T).argmax(1) == torch.arange(len(images))).sum())

    trained, untrained = models.dinov2(), models.dinov2(trained=False)
    for transformer in (trained, untrained):
        config = transformer.model.config
        assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (12, 6, 384)
        assert transformer.model.embeddings.position_embeddings.shape == (1, 1 + 37**2, 384)
    # Of 16: a network with random weights goes by colour.
    assert recognised(trained) >= 14 and recognised(untrained) <= 8


@pytest.mark.parametrize(
    ("load", "name"),
    [
        pytest.param(
            models.smollm2,
            "model.layers.0.self_attn.q_proj.weight",
            marks=[pytest.mark.data(fetch.SMOLLM2), pytest.mark.replay],
            id="smollm2",
        ),
        pytest.param(models.dinov2, "encoder.layer.0.mlp.fc1.weight", id="dinov2"),
    ],
)
def test_untrained_twins_depend_on_their_seed_alone(load, name, monkeypatch):
    settings = models.llama_settings
    small = {"num_hidden_layers": 1, "vocab_size": 512, "pad_token_id": 2}
    monkeypatch.setattr(models, "llama_settings", lambda metadata: settings(metadata) | small)
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (load(trained=False, seed=seed).model.state_dict()[name] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), wanted), "the global generator was moved"
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(0.02, rel=0.02)


def test_preprocess_takes_the_central_square():
    transformer = models.VisionTransformer(torch.nn.Identity())
    wide = np.zeros((28, 60, 3), np.uint8)
    wide[:, 16:44] = 255
    pixels = transformer.preprocess([wide, np.full((50, 28, 3), 255, np.uint8)], side=28)
    white = (1 - models.IMAGENET_MEAN) / models.IMAGENET_DEVIATION
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, white.expand(2, 3, 28, 28))


def test_bad_pictures_are_one_sentence():
    transformer = models.VisionTransformer(torch.nn.Identity())
    with pytest.raises(ValueError, match="side 100 is no positive multiple of 14"):
        transformer.preprocess([np.zeros((28, 28, 3), np.uint8)], side=100)
    with pytest.raises(ValueError, match=r"shape \(28, 28\) and type float64: \(height, width, 3\) of uint8"):
        transformer.preprocess([np.zeros((28, 28))])
    with pytest.raises(ValueError, match="no photograph"):
        transformer.preprocess([])


def test_weights_that_do_not_fit_are_named():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    weights = LlamaForCausalLM(config).state_dict()
    del weights["model.norm.weight"]
    with pytest.raises(DataError, match=r"missing keys, model\.norm\.weight first"):
        models.assembled(LlamaForCausalLM, config, 0, weights)


def test_upscaled_pictures_are_resized_as_photographs_are_and_scaled_by_channel():
    """Pillow's bicubic on floating numbers, cut to what a colour can be."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (2, 9, 7), generator=generator, dtype=torch.uint8)
    pictures[1] = 255 * (torch.arange(9)[:, None] // 3 % 2)  # edges, where a bicubic overshoots
    found = models.upscaled(pictures, 28)
    assert found.shape == (2, 3, 28, 28) and found.dtype == torch.float32
    for picture, ours in zip(pictures, found, strict=True):
        large = Image.fromarray(picture.numpy().astype(np.float32)).resize((28, 28), Image.Resampling.BICUBIC)
        grey = np.clip(np.asarray(large) / 255, 0, 1)
        for channel, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
            np.testing.assert_allclose(ours[channel].numpy(), (grey - mean) / deviation, atol=2e-4)


def test_photographs_are_scaled_by_channel_whatever_their_sides():
    """Of even size and its own: nothing is resized."""
    transformer = models.VisionTransformer(torch.nn.Identity())
    photograph = np.random.default_rng(0).integers(0, 256, (14, 20, 3), dtype=np.uint8)
    (found,) = transformer.preprocess([photograph], side=14).numpy()
    for channel, (mean, deviation) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        wanted = (photograph[:, 3:17, channel] / 255 - mean) / deviation
        np.testing.assert_allclose(found[channel], wanted, atol=1e-5)
    tall = transformer.preprocess([photograph.transpose(1, 0, 2)], side=14).numpy()[0]
    np.testing.assert_allclose(tall.transpose(0, 2, 1), found, atol=1e-6)
    assert transformer.preprocess([photograph]).shape == (1, 3, 224, 224)


@pytest.mark.parametrize("side", [0, -14, 15])
def test_sides_are_whole_patches(side):
    with pytest.raises(ValueError, match=f"side {side} is no positive multiple"):
        models.VisionTransformer(torch.nn.Identity()).preprocess([np.zeros((28, 28, 3), np.uint8)], side=side)


@pytest.mark.parametrize(("shape", "kind"), [((28, 28, 4), np.uint8), ((28, 28, 3), np.float32), ((28, 28), np.uint8)])
def test_each_fault_of_a_photograph_is_enough(shape, kind):
    with pytest.raises(ValueError, match="of uint8 is wanted"):
        models.VisionTransformer(torch.nn.Identity()).preprocess([np.zeros(shape, kind)], side=28)


def small_encoder():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {word: number for number, word in enumerate(["[PAD]", "a", "b", "c", "[UNK]"])}
    tokenizer = Tokenizer(WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def test_sentences_are_cut_or_padded_and_counted_as_they_are():
    encoder = models.TextEncoder(torch.nn.Identity(), small_encoder(), padding=3)
    found = encoder.encode(["a b c a", "b"], 3)
    assert found["input_ids"].tolist() == [[1, 2, 3], [2, 3, 3]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    # Cutting and padding of before are forgotten.
    assert encoder.lengths(["a b c a", "b"]) == [4, 1]
    assert models.TextEncoder(torch.nn.Identity(), small_encoder()).encode(["a"], 2)["input_ids"].tolist() == [[1, 0]]


def test_a_file_of_minilm_comes_from_the_package_or_the_pinned_hub(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(models, "read_member", lambda package, member: asked.append((package, member)) or b"package")
    (tmp_path / "file").write_bytes(b"hub")

    def download(repository, name, *, revision):
        asked.append((repository, name, revision))
        return str(tmp_path / "file")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert models.minilm_file("config.json") == b"package" and models.minilm_file("config.json", "hub") == b"hub"
    assert asked[0][0] is fetch.MINILM and asked[0][1].endswith("/config.json")
    assert asked[1][:2] == ("sentence-transformers/all-MiniLM-L6-v2", "config.json") and len(asked[1][2]) == 40
    with pytest.raises(ValueError, match="source 'disk' is unknown"):
        models.minilm_file("config.json", "disk")


@pytest.mark.parametrize("bars", [True, False])
def test_loading_shows_no_bar_and_leaves_bars_as_they_were(bars):
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    weights = {name: value + 1 for name, value in LlamaForCausalLM(config).state_dict().items()}
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    try:
        model = models.assembled(LlamaForCausalLM, config, 0, dict(weights))
        assert logging.is_progress_bar_enabled() == bars
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
