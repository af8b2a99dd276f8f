from types import SimpleNamespace

import pytest
import torch

from companion.jobs import Run
from companion.surrogates import probe


def teacher_of(informative: bool):
    """A stand-in whose embedding is a line through its classes, or noise that knows nothing of them."""

    def inputs(split, count):
        generator = torch.Generator().manual_seed({"train": 0, "calibration": 1, "heldout": 2}[split])
        labels = torch.randint(0, 4, (count,), generator=generator)
        noise = torch.randn(count, 1, 6, generator=generator)
        return {"u": noise + 8.0 * informative * torch.eye(4, 6)[labels][:, None]}, labels

    def flow(given):
        return SimpleNamespace(states=(given["u"],), padding=None)

    return SimpleNamespace(inputs=inputs, flow=flow, embed=lambda u, mask: u[:, 0])


@pytest.mark.parametrize(("informative", "low", "high"), [(True, 0.99, 1.0), (False, 0.17, 0.33)])
def test_a_probe_finds_what_is_there_and_scores_at_chance_where_nothing_is(
    tmp_path, monkeypatch, informative, low, high
):
    teacher = teacher_of(informative)
    monkeypatch.setattr(probe, "cached_teacher", lambda name, run: teacher)
    found = probe.probe_of(f"stand-in-{informative}", Run("smoke", tmp_path), 300)
    embeddings, labels = probe.embedded(teacher, "heldout", 520)  # more than one batch
    assert torch.equal(embeddings, teacher.inputs("heldout", 520)[0]["u"][:, 0])
    assert low <= found.accuracy(embeddings, labels) <= high
    assert torch.equal(found.mean, probe.embedded(teacher, "calibration", 300)[0].mean(0))


def test_embeddings_are_compared_about_their_mean():
    mean = torch.full((8,), 5.0)
    own = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    found = probe.Probe(None, mean)
    assert found.cosine(own + mean, own + mean) == pytest.approx(1.0)
    assert abs(found.cosine(own + mean, own.roll(1, 0) + mean)) < 0.15, "raw it would be about .97"
