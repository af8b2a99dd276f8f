"""Frozen models changed in one way at a time, and what is read off them."""

import pytest
import torch
import transformers
from torch import nn

from companion.theory import frozen
from pdelens import flow_of

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}
IDS = torch.randint(1, 50, (3, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, num_hidden_layers=6, num_key_value_heads=1)
    model = transformers.LlamaForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data.mul_(4)  # so that layers do something
    return frozen.Subject(model, "model.layers", {"input_ids": IDS}, frozen.losses)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**SMALL, num_hidden_layers=6)).eval()
    for weight in model.encoder.parameters():
        weight.data.mul_(8 if weight.ndim == 2 else 1)
    real = torch.ones_like(IDS)
    real[1, 4:] = 0
    return frozen.Subject(model, "encoder.layer", {"input_ids": IDS, "attention_mask": real}, frozen.mean_embedding)


@torch.no_grad()
def test_losses_are_the_librarys_own(language_model):
    each = language_model.reading()
    for row, found in zip(IDS, each, strict=True):
        wanted = language_model.model(input_ids=row[None], labels=row[None]).loss
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_embeddings_are_over_real_tokens(encoder):
    short = frozen.Subject(
        encoder.model, encoder.stack, {k: v[1:2, :4] for k, v in encoder.inputs.items()}, frozen.mean_embedding
    )
    torch.testing.assert_close(encoder.reading()[1], short.reading()[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_changes_are_what_they_are_called(language_model):
    """Every change by hand: on the states, layer by layer."""
    model, ids = language_model.model, IDS

    def by_hand(way):
        inner = model.model
        u = inner.embed_tokens(ids)
        places = torch.arange(ids.shape[1])[None]
        position = inner.rotary_emb(u, places)
        mask = torch.full((7, 7), float("-inf")).triu(1)[None, None]

        def layer(number, u):
            out = inner.layers[number](u, attention_mask=mask, position_embeddings=position, position_ids=places)
            return out[0] if isinstance(out, tuple) else out

        logits = model.lm_head(inner.norm(way(layer, u)))[:, :-1]
        each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return each.view(3, -1).mean(1)

    def stepped(chosen, steps, length):
        def way(layer, u):
            for number in range(6):
                for _ in range(steps if number in chosen else 1):
                    u = u + (length if number in chosen else 1) * (layer(number, u) - u)
            return u

        return way

    def block(layer, u):
        for number in (0, 1):
            u = layer(number, u)
        for _ in range(2):
            through = layer(3, layer(2, u))
            u = u + (through - u) / 2
        return layer(5, layer(4, u))

    assert language_model.chosen("middle") == [2, 3] == language_model.chosen("inner")
    assert language_model.chosen("all") == [*range(6)] and language_model.chosen("4") == [4]
    for kind, steps, time, chosen in (
        ("all", 2, 1.0, range(6)), ("middle", 4, 1.0, (2, 3)), ("middle", 1, 1.5, (2, 3)), ("middle", 2, 2.0, (2, 3)),
        ("5", 2, 1.0, (5,)),
    ):  # fmt: skip
        torch.testing.assert_close(
            language_model.reading(kind, steps, time),
            by_hand(stepped(chosen, steps, time / steps)),
            atol=1e-5,
            rtol=1e-4,
        )
    torch.testing.assert_close(language_model.reading("block", 2), by_hand(block), atol=1e-5, rtol=1e-4)
    each = list(frozen.one_layer_at_a_time(language_model))
    assert len(each) == 6
    torch.testing.assert_close(each[5], language_model.reading("5", 2))
    orders = {tuple(language_model.reading(f"shuffled-{seed}").tolist()) for seed in range(6)}
    assert len(orders) == 1  # two layers have one other order
    assert tuple(language_model.reading().tolist()) not in orders


def test_a_refined_flow_is_read_at_the_layers_own_depths(encoder):
    own, halves = encoder.flow(), encoder.flow("middle", 2)
    assert halves.layers == own.layers == 6 and halves.depths.tolist() == own.depths.tolist()
    for depth in range(3):  # nothing is changed before
        torch.testing.assert_close(halves.states[depth], own.states[depth])
        torch.testing.assert_close(halves.attention[depth], own.attention[depth])
    with encoder.changed("middle", 2) as model:
        whole = flow_of(model, dict(encoder.inputs))
    assert whole.layers == 8
    torch.testing.assert_close(halves.attention[3], whole.attention[4])
    torch.testing.assert_close(halves.states[4], whole.states[6])
    torch.testing.assert_close(halves.states[6], whole.states[8])
    report = frozen.attention_kept(halves, own, own)
    assert report.nulls["mean map"].headline() < 1
    assert report.per_head("cosine")[:3].min() == pytest.approx(1) and report.headline() < 1
    every = encoder.flow("all", 2)
    torch.testing.assert_close(every.attention[0], own.attention[0])


class Linear(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False).double()])
        self.layers[0].weight.data = torch.eye(4).double() + matrix

    def forward(self, u):
        return self.layers[0](u)


def test_a_field_bends_as_its_derivative_says():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    u = torch.randn(1, 9, 4, generator=generator, dtype=torch.float64)
    found = frozen.bends(frozen.Subject(Linear(matrix), "layers", {"u": u}, frozen.losses))
    f = u @ matrix.T
    wanted = ((f @ matrix.T / 2).norm(dim=-1) / f.norm(dim=-1)).median()
    assert found.tolist() == pytest.approx([float(wanted)])


class Masked(Linear):
    def forward(self, u, attention_mask):
        return self.layers[0](u)


def test_bends_are_the_middle_one_of_the_real_tokens():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.diag(torch.tensor([0.1, 0.2, 1.0, 3.0])).double()
    u = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) ** 3
    real = torch.arange(5)[None] < torch.tensor([5, 3, 1])[:, None]
    subject = frozen.Subject(Masked(matrix), "layers", {"u": u, "attention_mask": real.long()}, frozen.losses)
    f = u @ matrix
    bends = ((f @ matrix / 2).norm(dim=-1) / f.norm(dim=-1))[real].tolist()
    assert len(bends) == 9 and frozen.bends(subject).tolist() == pytest.approx([sorted(bends)[4]])


def test_padding_does_not_bend(encoder):
    garbage = encoder.inputs["input_ids"].clone()
    garbage[1, 4:] = 7
    other = frozen.Subject(encoder.model, encoder.stack, {**encoder.inputs, "input_ids": garbage}, encoder.read)
    torch.testing.assert_close(frozen.bends(other), frozen.bends(encoder))


def test_embeddings_are_compared_about_what_all_share():
    # Three directions a third of a turn apart, far from the origin.
    turn = 2 * torch.pi * torch.arange(3) / 3
    own = torch.stack([9 + turn.cos(), turn.sin()], 1)
    cosines, share = frozen.embedding_kept(own, own)
    assert cosines.tolist() == pytest.approx([1, 1, 1]) and share == 1
    cosines, share = frozen.embedding_kept(own[[0, 0, 0]], own)
    assert cosines.tolist() == pytest.approx([1, -0.5, -0.5], abs=1e-5) and share == pytest.approx(1 / 3)


@torch.no_grad()
def test_a_cache_of_keys_does_not_come_between(language_model):
    """A layer that is looked at twice sees the text once: bends by hand, from the states that enter each layer."""
    inner, found = language_model.model.model, frozen.bends(language_model)
    places, mask = torch.arange(7)[None], torch.full((7, 7), float("-inf")).triu(1)[None, None]
    states = language_model.flow().states
    position = inner.rotary_emb(states[0], places)
    for layer, u, turned in zip(inner.layers, states, found, strict=False):

        def field(u, layer=layer):
            out = layer(u, attention_mask=mask, position_embeddings=position, position_ids=places)
            return (out[0] if isinstance(out, tuple) else out) - u

        f = field(u)
        wanted = (field(u + f / 2) - f).norm(dim=-1) / f.norm(dim=-1)
        assert float(turned) == pytest.approx(float(wanted.median()), rel=1e-4)
    assert [len(language_model.flow("middle", steps).attention) for steps in (1, 2)] == [6, 6]


@pytest.mark.parametrize("seed", range(4))
def test_another_order_is_another(encoder, seed):
    layers = list(encoder.model.encoder.layer)
    with encoder.changed(f"shuffled-{seed}") as model:  # of six layers the middle third are two
        assert [layers.index(one) for one in model.encoder.layer] == [0, 1, 3, 2, 4, 5]
