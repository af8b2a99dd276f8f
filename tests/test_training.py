import dataclasses
import json

import pytest
import torch

from pdelens import DataError, models, project, training
from pdelens.datasets import Pictures


@pytest.fixture
def data():
    """Two kinds of pictures that a tiny model can tell apart: bright above or bright below."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (400,), generator=generator)
    images = torch.randint(0, 60, (400, 28, 28), generator=generator, dtype=torch.uint8)
    images[labels == 0, :14] += 120
    images[labels == 1, 14:] += 120
    return Pictures(images, labels)


@pytest.fixture
def job():
    configuration = models.Configuration(width=16, layers=1, heads=2, patch=7, outputs=2)
    return training.Job(configuration, seed=3, steps=30, batch=32, checkpoint_every=7)


def weights_equal(a, b, tolerance=0.0):
    return all(
        float((x - y).detach().abs().max()) <= tolerance for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def test_it_learns_and_is_deterministic(data, job, tmp_path):
    first, curve = training.train(job, data, tmp_path / "a")
    second, _ = training.train(job, data, tmp_path / "b")
    assert weights_equal(first, second)
    assert training.accuracy(first, data) > 0.95 > training.accuracy(models.Transformer(job.configuration, 3), data)
    assert [row[0] for row in curve] == [7, 14, 21, 28, 30]
    assert curve[-1][1] < curve[0][1]


@pytest.mark.parametrize("killed_after", [9, 14, 29])
def test_killed_and_resumed_gives_the_same_weights(data, job, tmp_path, killed_after):
    whole, curve = training.train(job, data, tmp_path / "whole")
    stopped, _ = training.train(job, data, tmp_path / "parts", stop_after=killed_after)
    assert stopped is None
    resumed, resumed_curve = training.train(job, data, tmp_path / "parts")
    assert weights_equal(whole, resumed, 1e-6)
    assert [row[0] for row in resumed_curve] == [row[0] for row in curve]


def test_torn_checkpoint_is_named_and_left_behind(data, job, tmp_path, capsys):
    training.train(job, data, tmp_path, stop_after=10)
    (checkpoint,) = tmp_path.glob("*.checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    again, _ = training.train(job, data, tmp_path)
    assert "is torn" in capsys.readouterr().err
    assert weights_equal(again, training.train(job, data, tmp_path / "whole")[0])


def test_another_jobs_checkpoint_is_not_used(data, job, tmp_path, capsys):
    training.train(job, data, tmp_path, stop_after=10)
    longer = dataclasses.replace(job, steps=40)
    training.train(longer, data, tmp_path)
    assert "is of another job" in capsys.readouterr().err


def test_every_epoch_sees_every_example_once(job):
    marked = Pictures(torch.zeros(320, 28, 28, dtype=torch.uint8), torch.arange(320))
    seen = [labels for step, _, labels in training.batches(job, marked, 0) if step < 10]
    assert sorted(torch.cat(seen).tolist()) == list(range(320))
    later = [labels for _, _, labels in training.batches(job, marked, 5)]
    assert torch.equal(later[0], seen[5])


def test_learning_rate_is_one_cycle(job):
    rates = [training.one_cycle(job.peak_rate, step, job.steps) for step in range(job.steps)]
    assert max(rates) == pytest.approx(job.peak_rate) and rates[-1] < 0.02 * job.peak_rate
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_diverging_training_says_where(data, job, tmp_path):
    wild = dataclasses.replace(job, peak_rate=float("inf"))
    with pytest.raises(RuntimeError, match=r"the loss is nan at step \d+: lower the peak rate"):
        training.train(wild, data, tmp_path)


def test_adopt_takes_complete_weights_only(project_copy, data, job, tmp_path):
    with pytest.raises(DataError, match="run `make train SCALE=smoke` first"):
        training.adopt("smoke")
    folder = project_copy / "_build/train/smoke"
    training.train(job, data, folder, stop_after=10)
    model, _ = training.train(job, data, tmp_path / "elsewhere")
    models.save(model, folder / "image-patch7-seed3.safetensors", {"seed": 3})
    (project_copy / "data/fashion-mnist-subset.safetensors").write_bytes(b"there already")
    training.adopt("smoke")
    listed = project.checksums()
    assert set(listed) == {"weights/image-patch7-seed3.safetensors", "fashion-mnist-subset.safetensors"}
    back, made = models.teacher("image-patch7-seed3")
    assert weights_equal(back, model) and made == {"seed": 3}


def test_committed_weights_say_what_made_them():
    _, made = models.teacher("image-patch4-seed0")
    assert {"scale", "seed", "steps", "device", "versions", "data_sha256", "test_accuracy", "curve"} <= set(made)
    assert json.dumps(made)
