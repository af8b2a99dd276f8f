"""What pretrained models are shown, and the same in disorder."""

import pytest
import torch

from companion.dynamics import pretrained
from companion.fetch import DINOV2, MINILM, MOVIE_REVIEWS, SMOLLM2
from companion.theory import frozen


def test_words_in_disorder_are_the_same_words_between_the_same_ends():
    ids = torch.arange(40).view(4, 10)
    found = pretrained.disordered({"input_ids": ids, "attention_mask": torch.ones(4, 10)}, seed=0)
    assert found["attention_mask"].shape == (4, 10)
    mixed = found["input_ids"]
    assert torch.equal(mixed[:, [0, -1]], ids[:, [0, -1]])
    assert torch.equal(mixed.sort(1).values, ids) and not torch.equal(mixed, ids)
    orders = {tuple((row - row.min()).tolist()) for row in mixed}
    assert len(orders) == 4
    assert not torch.equal(mixed, pretrained.disordered({"input_ids": ids}, seed=1)["input_ids"])


def test_padding_stays_where_it_is():
    ids, mask = torch.arange(1, 21).view(2, 10), torch.ones(2, 10, dtype=torch.bool)
    mask[1, 6:] = False
    found = pretrained.disordered({"inputs": ids, "mask": mask}, seed=3)["inputs"]
    assert torch.equal(found[1, [0, 5, 6, 7, 8, 9]], ids[1, [0, 5, 6, 7, 8, 9]])
    assert torch.equal(found[1, 1:5].sort().values, ids[1, 1:5]) and not torch.equal(found[0], ids[0])


def test_pictures_are_cut_into_their_patches():
    pictures = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    found = pretrained.disordered(pictures, seed=0, patch=4)
    assert found.dtype == torch.uint8 and not torch.equal(found, pictures)
    corners = {int(found[0, r, c]) for r in (0, 4) for c in (0, 4)}
    assert corners == {0, 4, 32, 36} and torch.equal(found[0, 1] - found[0, 0], torch.full((8,), 8, dtype=torch.uint8))


def test_patches_in_disorder_are_the_same_patches():
    pixels = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).view(2, 3, 4, 6)[..., :4].contiguous()
    mixed = pretrained.disordered({"pixel_values": pixels}, seed=0, patch=2)["pixel_values"]
    assert mixed.shape == pixels.shape and not torch.equal(mixed, pixels)
    for before, after in zip(pixels, mixed, strict=True):
        blocks = [
            {tuple(p[:, r : r + 2, c : c + 2].flatten().tolist()) for r in (0, 2) for c in (0, 2)}
            for p in (before, after)
        ]
        assert blocks[0] == blocks[1] and len(blocks[0]) == 4


@pytest.mark.replay
@pytest.mark.data(DINOV2, MINILM, SMOLLM2, MOVIE_REVIEWS)
@torch.no_grad()
def test_three_models_are_shown_what_needs_no_padding():
    known = pretrained.loaded()
    counts = {"MiniLM": 3, "DINOv2": 2, "SmolLM2": 2}
    inputs = pretrained.shown(known, counts)
    subjects = pretrained.subjects(known, inputs)
    assert {name: one.layers for name, one in subjects.items()} == {"MiniLM": 6, "DINOv2": 12, "SmolLM2": 30}
    for name, count in counts.items():
        assert all(len(value) == count for value in inputs[name].values())
        if "attention_mask" in inputs[name]:
            assert bool(inputs[name]["attention_mask"].all())
    assert inputs["SmolLM2"]["input_ids"].shape == (2, 64) and inputs["DINOv2"]["pixel_values"].shape[-1] == 112
    # A trained language model reads texts, and not the same words in disorder.
    language = subjects["SmolLM2"]
    other = frozen.Subject(language.model, language.stack, pretrained.disordered(language.inputs), frozen.losses)
    assert float(language.reading().mean()) < 4.5 < float(other.reading().mean())
    assert float(frozen.embedding_kept(subjects["MiniLM"].reading(), subjects["MiniLM"].reading())[1]) == 1
    with pytest.raises(ValueError, match="more than there are"):
        pretrained.shown(known, {**counts, "DINOv2": 10_000})
