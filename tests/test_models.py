import pytest
import torch

from pdelens import DataError, datasets, models
from pdelens.models import Configuration, Transformer

PICTURES = torch.randint(0, 256, (4, 28, 28), dtype=torch.uint8)
TEXT = Configuration(vocabulary=30, length=12, outputs=2, layers=2)


def test_image_model_has_the_sizes_it_is_described_with():
    model = Transformer(Configuration())
    assert model.configuration.tokens == 49
    assert sum(p.numel() for p in model.blocks.parameters()) == 299_904
    assert Configuration(patch=7).tokens == 16


def test_seed_fixes_the_weights_and_leaves_the_global_state():
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (Transformer(Configuration(layers=2), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


@torch.no_grad()
def test_padding_does_not_change_a_text():
    model = Transformer(TEXT).eval()
    tokens = torch.randint(0, 30, (3, 6))
    padded = torch.cat([tokens, torch.zeros(3, 6, dtype=torch.long)], 1)
    mask = torch.arange(12).expand(3, 12) < 6
    assert torch.allclose(model(tokens), model(padded, mask), atol=1e-5)


@torch.no_grad()
def test_causal_model_never_sees_the_future():
    model = Transformer(Configuration(vocabulary=30, length=12, outputs=30, layers=2, causal=True)).eval()
    tokens = torch.randint(0, 30, (3, 12))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 30
    assert torch.equal(model(tokens)[:, :7], model(changed)[:, :7])
    assert not torch.equal(model(tokens)[:, 7:], model(changed)[:, 7:])


@torch.no_grad()
def test_whole_model_is_embedding_blocks_readout():
    model = Transformer(Configuration(layers=3)).eval()
    u = model.embedding(PICTURES)
    for block in model.blocks:
        u = block(u, None)
    assert torch.equal(model.readout(u), model(PICTURES))


def test_saved_weights_come_back(tmp_path):
    model = Transformer(Configuration(layers=2), seed=5).eval()
    models.save(model, tmp_path / "w.safetensors", {"seed": 5})
    back, made = models.load(tmp_path / "w.safetensors")
    assert made == {"seed": 5} and torch.equal(back(PICTURES), model(PICTURES))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((tmp_path / "w.safetensors").read_bytes()[:2000])
    with pytest.raises(DataError, match="is no teacher's weights"):
        models.load(torn)


@pytest.mark.parametrize("name", ["image-patch4-seed0", "image-patch4-seed1"])
def test_committed_teachers_know_fashion(name):
    model, made = models.teacher(name)
    images, labels = datasets.fashion_mnist_subset("heldout")
    with torch.no_grad():
        accuracy = float((model(images).argmax(1) == labels).float().mean())
    # The subset is a tenth of the test set whose accuracy was recorded: three standard errors.
    assert accuracy == pytest.approx(made["test_accuracy"], abs=3 * (0.13 * 0.87 / 1024) ** 0.5)
    assert made["test_accuracy"] > 0.86 and made["scale"] == "book" and made["versions"]["torch"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Configuration(width=10, heads=4), "no multiple of heads"),
        (lambda: Configuration(patch=5), "no multiple of patch"),
        (lambda: Configuration(activation="swish"), "choose from"),
        (lambda: Transformer(Configuration(layers=1))(torch.zeros(1, 28, 28)), "uint8"),
        (lambda: Transformer(TEXT)(torch.zeros(1, 13, dtype=torch.long)), "at most 12"),
        (lambda: Transformer(TEXT)(torch.zeros(1, 5)), "integers"),
        (lambda: Transformer(TEXT)(torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 4)), "mask has shape"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


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
