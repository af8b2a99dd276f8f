import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from companion.data import fashion_mnist
from companion.data import tokens as text
from companion.data.splits import Examples
from companion.teachers import files, stack
from pdelens import models
from pdelens.models import NORMS, Configuration, Transformer

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


SWITCHES = [
    {"activation": "relu"},
    {"activation": "tanh"},
    {"activation": "linear"},
    {"norm": "rms"},
    {"norm": "dyt"},
    {"norm": "none"},
    {"placement": "post"},
    {"norm": "rms", "placement": "post"},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda switches: "-".join(switches.values()))
@torch.no_grad()
def test_switches_change_what_they_say_and_nothing_else(switches):
    about = Configuration(layers=2, **switches)
    model, plain = Transformer(about, seed=4).eval(), Transformer(Configuration(layers=2), seed=4).eval()
    # Same seed, same matrices: a variant differs by its switch alone.
    for name, value in plain.named_parameters():
        if value.ndim > 1:
            assert torch.equal(value, model.get_parameter(name))
    assert not torch.allclose(model(PICTURES), plain(PICTURES))

    def normed(module, u):
        if about.norm == "dyt":
            return torch.tanh(0.5 * u)
        centred = u - u.mean(-1, keepdim=True) if about.norm == "layer" else u
        return u if about.norm == "none" else centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    act = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "tanh": torch.tanh, "linear": lambda z: z}

    def mlp(block, u):
        return block.mlp[2](act[about.activation](block.mlp[0](u)))

    u = model.embedding(PICTURES)
    for block in model.blocks:
        if about.placement == "pre":
            u = u + block.attention(normed(block, u), None)
            u = u + mlp(block, normed(block, u))
        else:
            u = normed(block, u + block.attention(u, None))
            u = normed(block, u + mlp(block, u))
    last = u if about.placement == "post" else normed(None, u)
    assert torch.allclose(model.head(last.mean(1)), model(PICTURES), atol=1e-4)


@torch.no_grad()
def test_attention_is_torchs_own():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    for mask in (None, torch.ones(5, 5, dtype=torch.bool).tril(), torch.tensor([[[[True] * 3 + [False] * 2]]])):
        ours = models.attend(q, k, v, mask)
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert torch.allclose(ours, theirs, atol=1e-14)


def test_linear_model_has_no_activation_left():
    block = Transformer(Configuration(layers=1, activation="linear")).blocks[0].mlp
    u, w = torch.randn(2, 5, 64), torch.randn(2, 5, 64)
    with torch.no_grad():
        assert torch.allclose(block(u) + block(w), block(u + w) + block(0 * u), atol=1e-5)


def test_flops_are_those_of_the_matrix_products():
    for about, inputs in (
        (Configuration(layers=2), PICTURES),
        (TEXT, torch.randint(0, 30, (4, 12))),
        (Configuration(vocabulary=30, length=12, outputs=30, causal=True), torch.randint(0, 30, (4, 12))),
    ):
        with FlopCounterMode(display=False) as counter:
            Transformer(about)(inputs)
        assert counter.get_total_flops() == 4 * about.flops


@torch.no_grad()
def test_half_precision_files_hold_the_rounded_model(tmp_path):
    model = Transformer(Configuration(layers=2), seed=5).eval()
    before = model(PICTURES)
    files.save(model, tmp_path / "w.safetensors", {}, torch.float16)
    files.save(model, tmp_path / "whole.safetensors", {})
    back, _ = models.load(tmp_path / "w.safetensors")
    assert back.head.weight.dtype == torch.float32
    assert torch.equal(back(PICTURES), files.rounded(model)(PICTURES)) and not torch.equal(back(PICTURES), before)
    assert (tmp_path / "w.safetensors").stat().st_size < 0.55 * (tmp_path / "whole.safetensors").stat().st_size


def test_many_inputs_are_answered_batch_by_batch():
    model = Transformer(Configuration(layers=1), seed=0).eval()
    torch.testing.assert_close(files.predict(model, PICTURES, batch=3), model(PICTURES).detach())
    reader = Transformer(Configuration(layers=1, vocabulary=9, length=6, outputs=2), seed=0).eval()
    tokens = torch.tensor([[3, 4, 5, 0, 0, 0], [8, 7, 6, 5, 4, 3]])
    torch.testing.assert_close(files.predict(reader, tokens), reader(tokens, tokens != 0).detach())


def test_saved_weights_come_back(tmp_path):
    model = Transformer(Configuration(layers=2), seed=5).eval()
    files.save(model, tmp_path / "w.safetensors", {"seed": 5})
    back, made = models.load(tmp_path / "w.safetensors")
    assert made == {"seed": 5} and torch.equal(back(PICTURES), model(PICTURES))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((tmp_path / "w.safetensors").read_bytes()[:2000])
    with pytest.raises(ValueError, match="is damaged"):
        models.load(torn)


@pytest.mark.parametrize("seed", range(5))
def test_committed_image_teachers_have_exactly_their_recorded_accuracy(seed):
    model, made = files.committed_teacher(f"image-patch4-seed{seed}")
    held = Examples(*fashion_mnist.fashion_mnist_subset("heldout"))
    assert stack.evaluate(model, held)["accuracy"] == made["heldout_accuracy"]
    assert made["scale"] == "book" and made["versions"]["torch"]


def test_image_teachers_name_88_of_100_pictures_rightly():
    scores = [files.committed_teacher(f"image-patch4-seed{seed}")[1]["test_accuracy"] for seed in range(5)]
    assert sum(scores) / 5 >= 0.88 and min(scores) > 0.875


@pytest.mark.data
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.replay) for seed in (1, 2))])
def test_committed_text_teachers_have_exactly_their_recorded_accuracy(seed):
    model, made = files.committed_teacher(f"text-classifier-seed{seed}")
    tests = text.windows("test")
    assert stack.evaluate(model, Examples(tests.tokens, tests.labels))["accuracy"] == made["test_accuracy"]
    assert made["tokenizer_sha256"] == text.describe(text.tokenizer())["sha256"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Configuration(width=10, heads=4), "no multiple of heads"),
        (lambda: Configuration(patch=5), "no multiple of patch"),
        (lambda: Configuration(activation="swish"), "activation 'swish' is unknown: choose from gelu"),
        (lambda: Configuration(norm="batch"), "norm 'batch' is unknown: choose from layer"),
        (lambda: Configuration(placement="middle"), "placement 'middle' is unknown: choose from pre"),
        (lambda: Transformer(Configuration(layers=1))(torch.zeros(1, 28, 28)), "uint8"),
        (lambda: Transformer(TEXT)(torch.zeros(1, 13, dtype=torch.long)), "at most 12"),
        (lambda: Transformer(TEXT)(torch.zeros(1, 5)), "integers"),
        (lambda: Transformer(TEXT)(torch.zeros(1, 5, dtype=torch.long), torch.ones(1, 4)), "mask has shape"),
    ],
)
def test_bad_input_is_named(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_small_states_are_normed_as_layer_norm_norms_them():
    """Both add 1e-5 to the mean square: a state of that size is not blown up to one of size 1."""
    u = torch.tensor([[1e-3, -2e-3, 3e-3, -2e-3]])
    for name in ("layer", "rms"):
        found = NORMS[name](4)(u)
        torch.testing.assert_close(found, u / (u.square().mean() + 1e-5).sqrt())
