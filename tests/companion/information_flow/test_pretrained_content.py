"""What pretrained models' tokens tell: inputs, codes and readers, on small models and made-up texts and pictures."""

from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from companion.information_flow import jobs, pretrained_content
from companion.information_flow import targets as asked
from companion.information_flow.pretrained_content import PretrainedContent
from companion.jobs import Run
from pdelens.information.usable import usable_information
from pdelens.lattice import Chain, Grid


class Known:
    """A tokeniser of letters, between a first and a last token of its own."""

    def lengths(self, texts):
        return [len(text) + 2 for text in texts]

    def encode(self, texts, tokens):
        rows = [[1, *(ord(letter) - 90 for letter in text[: tokens - 2]), 2] for text in texts]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.ones(len(rows), tokens)}


@pytest.fixture
def texts(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    letters = torch.multinomial(torch.tensor([5.0, 4, 3, 2, 1, 0.1]), 60 * 40, True, generator=generator).view(60, 40)
    found = ["".join("abcdef"[letter] for letter in row) for row in letters.tolist()]
    known = [SimpleNamespace(text=text, source="imdb") for text in found]
    known += [SimpleNamespace(text="aa", source="imdb"), SimpleNamespace(text="z" * 40, source="other")]
    monkeypatch.setattr(pretrained_content.reviews, "movie_reviews", lambda: known)
    monkeypatch.setattr(asked, "PIECES", 4)
    monkeypatch.setattr(asked.frequent_pieces, "__defaults__", (4,))
    return found


@pytest.mark.parametrize("model", ["MiniLM", "SmolLM2"])
def test_texts_are_coded_by_the_frequent_pieces_of_others(texts, model):
    inputs, codes, mask, lattice = pretrained_content.shown(model, Known(), 20, 15)
    assert codes.shape == (40, 32) and lattice == Chain(32, causal=model == "SmolLM2")
    ranks = {ord(letter) - 90: place for place, letter in enumerate("abcd")}
    for row, given in zip(codes.tolist(), inputs["input_ids"].tolist(), strict=True):
        inner = slice(1, -1) if model == "MiniLM" else slice(None)
        if model == "MiniLM":
            assert row[inner] == [ranks.get(piece, -1) for piece in given[inner]] and row[0] == row[-1] == -1
    # Tokens of its own are no pieces of a text that could be asked or read.
    assert mask[:, [0, -1]].any() == (model == "SmolLM2") and mask[:, 1:-1].all()


def test_pictures_are_coded_by_their_own_patches(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 2, (30, 7, 7), generator=generator)
    pictures = (200 * kinds).repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    split = SimpleNamespace(images=pictures)
    monkeypatch.setattr(pretrained_content, "fashion_mnist", lambda training: split)
    monkeypatch.setattr(asked.centres, "__defaults__", (2, 0))
    inputs, codes, mask, lattice = pretrained_content.shown("DINOv2", None, 10, 20)
    assert inputs["pixel_values"].shape == (10, 3, 98, 98) and lattice == Grid(7, 7) and mask.all()
    # Each patch of 14 pixels is one of 4 of the picture, and as bright as its code says.
    bright = inputs["pixel_values"][:, 0, 7::14, 7::14].flatten(1)
    assert (
        len({(int(code), bool(value > 0)) for code, value in zip(codes.flatten(), bright.flatten(), strict=True)}) == 2
    )


@pytest.mark.parametrize("name", ["MiniLM", "DINOv2"])
def test_curves_are_the_librarys_numbers_at_each_depth(name, monkeypatch):
    torch.manual_seed(0)
    common = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    if name == "MiniLM":
        model = BertModel(BertConfig(**common, vocab_size=9, intermediate_size=16)).eval()
        inputs = {"input_ids": torch.randint(1, 9, (40, 6)), "attention_mask": torch.ones(40, 6).long()}
        codes, lattice = inputs["input_ids"] % 3, Chain(6)
    else:
        model = Dinov2Model(Dinov2Config(**common, image_size=42, patch_size=14)).eval()
        inputs, lattice = {"pixel_values": torch.randn(40, 3, 42, 42)}, Grid(3, 3)
        codes = (inputs["pixel_values"][:, 0, ::14, ::14] > 0).long().flatten(1)
    monkeypatch.setattr(pretrained_content, "BATCH", 16)
    monkeypatch.setitem(pretrained_content.DEPTHS, name, (0, 2))
    which = asked.drawn(codes, torch.ones_like(codes).bool(), lattice, 40, 3, distances=(0, 1))
    found = pretrained_content.measure(model, inputs, which, name)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    for distance in (0, 1):
        for place, depth in enumerate((0, 2)):
            u = states[depth][:, 1:] if name == "DINOv2" else states[depth]
            read = pretrained_content.components(u[which.examples, which.readers[distance]])
            wanted = usable_information(read, which.codes, groups=which.examples, permutations=0)
            target = asked.target_name(distance)
            assert found["curves"][target][place] == pytest.approx(float(wanted), abs=1e-5)
            assert found["interval"][target][place] == pytest.approx(list(wanted.interval), abs=1e-5)
    assert found["ceiling"] == pytest.approx(wanted.ceiling) and found["rows"] == 120
    assert found["shares"] == pytest.approx((torch.bincount(which.codes) / 120).tolist())


def test_a_job_asks_as_its_model_reads(monkeypatch, tmp_path):
    given = []
    loaded = SimpleNamespace(model="model")
    monkeypatch.setitem(pretrained_content._LOADERS, "SmolLM2", lambda **how: given.append(how) or loaded)
    monkeypatch.setattr(pretrained_content, "shown", lambda *about: (about, "codes", "mask", "lattice"))
    monkeypatch.setattr(asked, "drawn", lambda *about, **how: (about, how))
    monkeypatch.setattr(pretrained_content.frozen, "backbone", lambda model: model)
    monkeypatch.setattr(pretrained_content, "measure", lambda *about: [str(one) for one in about])
    found = PretrainedContent("SmolLM2", False).do(Run("book", tmp_path))
    assert given == [{"trained": False, "seed": 1}] and found[0] == "model" and found[3] == "SmolLM2"
    assert "(0, 1, 2, 4, -1)" in found[2] and "512, 4" in found[2] and "2048" in found[1]


def test_every_model_has_a_job_and_a_twins(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "jobs_of", lambda *about: [])
    found = [job.name for job in jobs.token_jobs(Run("book", tmp_path), "information-flow-pretrained-*")]
    assert len(found) == 6 and "information-flow-pretrained-DINOv2-twin" in found
    assert jobs.token_jobs(Run("smoke", tmp_path), "information-flow-pretrained-*") == []
    assert "2.000 nats at depth 0, 1.500" in PretrainedContent("MiniLM", True).line({"curves": {"itself": [2.0, 1.5]}})
