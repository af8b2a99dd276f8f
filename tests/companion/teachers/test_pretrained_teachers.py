"""Pretrained encoders as teachers, with stand-ins for their weights: inputs, sizes, embeddings."""

from types import SimpleNamespace

import pytest
import torch

from companion.data import reviews as film_reviews
from companion.data.fashion_mnist import Pictures
from companion.data.reviews import Review
from companion.data.splits import fair_order
from companion.pretrained.models import upscaled
from companion.teachers import teacher
from pdelens import Chain, Grid

ABOUT = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "layer_norm_eps": 0.5}


class Encoder(torch.nn.Module):
    """A model with a configuration, blocks of its own, and a norm that halves."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(**ABOUT)
        self.layernorm = torch.nn.Identity()
        self.layernorm.forward = lambda u: u / 2
        self.encoder = torch.nn.ModuleDict({"layer": torch.nn.ModuleList([torch.nn.Linear(3, 2, bias=False)] * 1)})


@pytest.fixture
def aligned(monkeypatch):
    """Let heads be aligned without a run, and record on what they were."""
    asked = []
    monkeypatch.setattr(teacher.Teacher, "of", lambda self, *given: given)
    monkeypatch.setattr(teacher, "align_heads", lambda given: asked.append(given) or [torch.arange(2)] * 3)
    return asked


def test_minilm_reads_cleaned_reviews_of_a_split_in_a_fair_order(aligned, monkeypatch):
    reviews = [Review(f"a  film<br />of {k}", k % 2, "imdb") for k in range(200)]
    asked = []

    def encode(texts, tokens):
        asked.append((texts, tokens))
        return {"input_ids": torch.zeros(len(texts), tokens)}

    encoder = SimpleNamespace(model=Encoder().train(), encode=encode)
    monkeypatch.setattr(teacher, "minilm", lambda: encoder)
    monkeypatch.setattr(teacher, "movie_reviews", lambda: reviews)
    found = teacher.teacher_named(teacher.MINILM)
    assert (found.name, found.width, found.heads, found.layers, found.epsilon) == ("minilm", 8, 2, 3, 0.5)
    assert found.form == "post" and found.lattice == Chain(32) and not found.model.training
    assert aligned == [("calibration", teacher.ALIGNING)] and len(found.orders) == 3
    for split, wanted in (("heldout", "test"), ("calibration", "validation"), ("train", "train")):
        own = [one for one in reviews if film_reviews.split_of(one.text) == wanted]
        chosen = [own[number] for number in fair_order(len(own))[:5].tolist()]
        asked.clear()
        rows, labels = found.inputs(split, 5)
        assert asked == [([" ".join(one.text.replace("<br />", " ").split()) for one in chosen], 32)]
        assert labels.tolist() == [one.label for one in chosen] and rows["input_ids"].shape == (5, 32)
        assert len(found.inputs(split, None)[1]) == len(own)
    u, mask = torch.arange(6.0).view(1, 3, 2), torch.tensor([[True, True, False]])
    assert found.embed(u, mask).tolist() == [[1.0, 2.0]] and found.embed(u, None).tolist() == [[2.0, 3.0]]


def test_dinov2_looks_at_upscaled_pictures_and_is_used_by_its_first_token(aligned, monkeypatch):
    pictures = torch.randint(0, 256, (9, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    monkeypatch.setattr(teacher, "fashion_mnist_subset", lambda split: Pictures(pictures, torch.arange(9)))
    monkeypatch.setattr(teacher, "fashion_mnist", lambda train: Pictures(pictures.flip(0), torch.arange(9)))
    monkeypatch.setattr(teacher, "dinov2", lambda: SimpleNamespace(model=Encoder()))
    found = teacher.teacher_named(teacher.DINOV2)
    assert (found.name, found.width, found.heads, found.layers, found.form) == ("dinov2", 8, 2, 3, "pre")
    assert found.lattice == Grid(7, 7, special=1) and aligned == [("calibration", teacher.ALIGNING)]
    given, labels = found.inputs("heldout", 4)
    assert torch.equal(given["pixel_values"], upscaled(pictures[:4], 7 * 14)) and labels.tolist() == [0, 1, 2, 3]
    given, labels = found.inputs("train", 4)
    order = fair_order(9)[:4]
    assert torch.equal(labels, order) and torch.equal(given["pixel_values"], upscaled(pictures.flip(0)[order], 98))
    u = torch.arange(12.0).view(2, 3, 2)
    assert found.embed(u, None).tolist() == [[0.0, 0.5], [3.0, 3.5]], "normalised, and the class token alone"
    assert found.share(3) == 0.5


@pytest.mark.parametrize("name", [teacher.MINILM, teacher.DINOV2])
def test_untrained_twins_of_pretrained_models_are_their_own_kind(name, monkeypatch):
    made = []

    def maker(kind):
        return lambda *, trained: made.append((kind, trained)) or SimpleNamespace(model=Encoder().train())

    monkeypatch.setattr(teacher, "minilm", maker("minilm"))
    monkeypatch.setattr(teacher, "dinov2", maker("dinov2"))
    one = teacher.Teacher(name, Encoder(), Chain(4), 8, 2, 3, lambda *given: None, orders=(torch.arange(2),) * 3)
    twin = one.untrained()
    assert made == [(name, False)] and twin.orders == () and twin.name == name and not twin.model.training


def test_targets_of_what_does_not_predict_tokens_are_its_classes():
    inputs = {"input_ids": torch.zeros(3, 4), "attention_mask": torch.ones(3, 4)}
    one = teacher.Teacher("x", Encoder(), Chain(4), 8, 2, 3, lambda split, count: (inputs, torch.arange(3)))
    assert one.targets("heldout", 3).tolist() == [0, 1, 2]
