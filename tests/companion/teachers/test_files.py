"""Teachers as files and their logits on many inputs."""

import pytest
import torch

from companion.teachers import files
from pdelens import models
from pdelens.models import Configuration, Transformer

PICTURES = Configuration(width=8, layers=1, heads=2, side=8, patch=4, outputs=3)
WORDS = Configuration(width=8, layers=1, heads=2, vocabulary=20, length=6, outputs=3)


@pytest.mark.parametrize("about", [PICTURES, WORDS], ids=["pictures", "words"])
@pytest.mark.parametrize("batch", [3, 250])
def test_logits_by_batches_are_those_one_by_one_with_padding_masked(about, batch, monkeypatch):
    model = Transformer(about, 0).eval()
    inputs = torch.randint(1, 20, (7, 6)) if about.vocabulary else torch.randint(0, 256, (7, 8, 8), dtype=torch.uint8)
    if about.vocabulary:
        inputs[2, 3:] = 0
    sizes, plain = [], model.forward
    monkeypatch.setattr(model, "forward", lambda part, mask: sizes.append(len(part)) or plain(part, mask))
    found = files.predict(model, inputs, batch)
    assert sizes == ([3, 3, 1] if batch == 3 else [7]) and not found.requires_grad
    for row, ours in zip(inputs, found, strict=True):
        alone = plain(row[None], row[None] != 0 if about.vocabulary else None)[0]
        torch.testing.assert_close(alone, ours, atol=1e-5, rtol=0)
    files.predict(model, torch.cat([inputs] * 36))
    assert sizes[-2:] == [250, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_gives_back_the_teacher_and_what_made_it(tmp_path, dtype):
    model = Transformer(PICTURES, 1)
    files.save(model, tmp_path / "a.safetensors", {"steps": 3}, dtype)
    found, made = models.load(tmp_path / "a.safetensors")
    assert made == {"steps": 3} and found.configuration == PICTURES and not found.training
    exact = [torch.equal(a, b) for a, b in zip(found.parameters(), model.parameters(), strict=True)]
    assert all(exact) == (dtype == torch.float32)
    # What a file of halves holds is what rounding in place gives.
    rounded = files.rounded(model, dtype)
    assert rounded is model and next(model.parameters()).dtype == torch.float32
    for ours, theirs in zip(found.parameters(), rounded.parameters(), strict=True):
        assert torch.equal(ours.float(), theirs)


def test_rounding_is_to_halves_unless_told():
    model = Transformer(PICTURES, 1)
    before = [value.half().float() for value in model.parameters()]
    files.rounded(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert files.committed_teacher()[1]["seed"] == 0
