import dataclasses
import json

import pytest
import torch

from pdelens import DataError, examples, ladder, models, project, stacked, teachers, text, training, yardsticks
from pdelens.examples import Examples
from pdelens.models import Configuration
from pdelens.teachers import Job

TINY = Job("image-tiny", Configuration(width=16, layers=1, heads=2, patch=7, outputs=2), 0, 12, batch=32)
TINY_TEXT = Job("text-tiny", dataclasses.replace(TINY.configuration, vocabulary=300, length=12), 0, 6, batch=16)
JOBS = (
    dataclasses.replace(TINY, checkpoint_every=5),
    dataclasses.replace(TINY, checkpoint_every=5, seed=1),
    dataclasses.replace(TINY_TEXT, checkpoint_every=5, word_dropout=0.1),
)


@pytest.fixture
def project_with_data(project_copy, monkeypatch):
    """Give a project whose data are 300 noisy pictures and 60 short reviews, and whose teachers are tiny."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (300,), generator=generator)
    images = torch.randint(0, 60, (300, 28, 28), generator=generator, dtype=torch.uint8)
    images[labels == 1, 14:] += 120
    pictures = Examples(images, labels)
    reviews = [text.Review(f"a {word} film, number {k}", k % 2, "imdb") for k in range(60) for word in ("good", "bad")]
    monkeypatch.setattr(
        examples, "fashion_mnist", lambda train: pictures if train else Examples(*(c[:90] for c in pictures))
    )
    monkeypatch.setattr(examples, "fashion_mnist_subset", lambda split: Examples(*(c[:50] for c in pictures)))
    monkeypatch.setattr(text, "movie_reviews", lambda: reviews)
    monkeypatch.setattr(text, "VOCABULARY", 300)
    monkeypatch.setattr(teachers, "jobs", lambda scale: JOBS)
    monkeypatch.setattr(yardsticks, "jobs_of", lambda scale: JOBS)
    monkeypatch.setattr(teachers, "MAIN", ("image-tiny",))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield project_copy
    torch.set_num_threads(threads)
    for cached in (examples.sets, examples.digest_of, examples.coder):
        cached.cache_clear()


def test_every_file_says_what_made_it_and_how_good_it_is(project_with_data):
    assert training.train_all("smoke", "cpu", workers=1)
    folder = project_with_data / "_build/train/smoke"
    assert {path.stem for path in folder.glob("*seed?.safetensors")} == {job.name for job in JOBS}
    assert not list(folder.glob("*.checkpoint.*")) and (folder / "tokenizer.json").exists()
    assert len(list(folder.glob("image-tiny-seed0-step*"))) == len(JOBS[0].snapshots)
    for job in JOBS:
        model, made = models.load(folder / f"{job.name}.safetensors")
        assert {"scale", "device", "seconds", "versions", "data_sha256", "test_loss", "train_accuracy"} <= set(made)
        assert (made["seed"], made["steps"], made["scale"]) == (job.seed, job.steps, "smoke")
        assert [row[0] for row in made["curve"]] == sorted({*range(5, job.steps, 5), job.steps})
        # The recorded accuracy is that of the file's own, rounded weights, to the last digit.
        found = examples.sets(training._kind(job), job.configuration.length, folder)
        for test, data in found.small(training.SMOKE_TESTS).tests.items():
            found = stacked.evaluate(model, data)
            assert (made[f"{test}_accuracy"], made[f"{test}_loss"]) == (found["accuracy"], found["loss"])
    assert made["tokenizer_sha256"] == text.describe(examples.coder(folder))["sha256"]


def test_what_is_whole_is_kept_and_time_may_run_out(project_with_data, capsys):
    folder = project_with_data / "_build/train/smoke"
    assert not training.train_all("smoke", "cpu", "image-*", workers=1, minutes=1e-9)
    assert training.train_all("smoke", "cpu", "image-tiny-seed1", workers=1)
    before = (folder / "image-tiny-seed1.safetensors").read_bytes()
    assert training.train_all("smoke", "cpu", "image-*", workers=1, seeds=1)
    assert (folder / "image-tiny-seed0.safetensors").exists()
    assert (folder / "image-tiny-seed1.safetensors").read_bytes() == before
    assert not (folder / "text-tiny-seed0.safetensors").exists()


def test_a_torn_file_and_one_of_another_recipe_are_made_again(project_with_data, monkeypatch, capsys):
    path = project_with_data / "_build/train/smoke/image-tiny-seed1.safetensors"
    training.train_all("smoke", "cpu", "image-tiny-seed1", workers=1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    training.train_all("smoke", "cpu", "image-tiny-seed1", workers=1)
    assert "is no teacher's weights" in capsys.readouterr().err
    assert models.load(path)[1]["steps"] == JOBS[1].steps
    monkeypatch.setattr(teachers, "jobs", lambda scale: (dataclasses.replace(JOBS[1], steps=6),))
    training.train_all("smoke", "cpu", "image-tiny-seed1", workers=1)
    assert "was made by another recipe" in capsys.readouterr().err and models.load(path)[1]["steps"] == 6


def test_killed_in_the_middle_and_run_again_gives_the_same_file(project_with_data, monkeypatch):
    folder = project_with_data / "_build/train/smoke"
    assert training.train_all("smoke", "cpu", "image-tiny-seed0", workers=1)
    whole, _ = models.load(folder / "image-tiny-seed0.safetensors")
    (folder / "image-tiny-seed0.safetensors").unlink()
    score, calls = stacked._losses, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(stacked, "_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train_all("smoke", "cpu", "image-tiny-seed0", workers=1)
    assert training.train_all("smoke", "cpu", "image-tiny-seed0", workers=1)
    again, _ = models.load(folder / "image-tiny-seed0.safetensors")
    # 7 steps, of which 5 were kept, then 7 more.
    assert len(calls) == 8 + 7
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) <= 1e-6


def test_one_that_diverges_does_not_stop_the_others(project_with_data, monkeypatch):
    wild = dataclasses.replace(JOBS[0], peak_rate=float("inf"))
    monkeypatch.setattr(teachers, "jobs", lambda scale: (wild, JOBS[1]))
    with pytest.raises(RuntimeError, match="image-tiny-seed0: the loss is nan"):
        training.train_all("smoke", "cpu", workers=1)
    assert (project_with_data / "_build/train/smoke/image-tiny-seed1.safetensors").exists()


def test_a_stack_writes_one_file_for_each(project_with_data):
    assert training.train_all("smoke", "cpu", "image-*", workers=1, stack=5)
    folder = project_with_data / "_build/train/smoke"
    for job in JOBS[:2]:
        _, made = models.load(folder / f"{job.name}.safetensors")
        assert made["stack"] == 2 and made["seed"] == job.seed


def test_adopt_takes_complete_weights_only(project_with_data):
    with pytest.raises(DataError, match="run `make train SCALE=smoke` first"):
        training.adopt("smoke")
    training.train_all("smoke", "cpu", workers=1)
    folder = project_with_data / "_build/train/smoke"
    (folder / "image-tiny-seed7.checkpoint.safetensors").write_bytes(b"half")
    subset = project_with_data / "data/fashion-mnist-subset.safetensors"
    subset.write_bytes(b"there already")
    training.adopt("smoke", "image-tiny-seed?,text-*")
    assert set(project.checksums()) == {
        *(f"weights/{job.name}.safetensors" for job in JOBS),
        "fashion-mnist-subset.safetensors",
        "tokenizer.json",
        "training.json",
    }
    known = teachers.histories()
    assert set(known) >= {job.name for job in JOBS}
    for job in JOBS:
        model, made = models.teacher(job.name)
        assert known[job.name]["test_accuracy"] == made["test_accuracy"]
        assert known[job.name]["configuration"] == dataclasses.asdict(model.configuration)
    _, made = models.teacher("image-tiny-seed1")
    assert made["seed"] == 1 and text.describe(text.tokenizer())["sha256"]
    text.tokenizer.cache_clear()
    (folder / "image-tiny-seed0.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="is no teacher's weights"):
        training.adopt("smoke", "image-*")


def test_snapshots_can_be_adopted_by_name(project_with_data):
    training.train_all("smoke", "cpu", "image-tiny-seed0", workers=1)
    (project_with_data / "data/fashion-mnist-subset.safetensors").write_bytes(b"there already")
    training.main(["adopt", "--scale", "smoke", "--only", "image-tiny-seed0-step*"])
    adopted = [name for name in project.checksums() if name.startswith("weights/")]
    assert len(adopted) == len(JOBS[0].snapshots) and all("-step" in name for name in adopted)
    with pytest.raises(SystemExit, match="no complete weights"):
        training.main(["adopt", "--scale", "smoke", "--only", "audio"])


def test_names_choose_what_the_program_makes(project_with_data, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(ladder, "calibrate_all", lambda scale, device, only, **_: made.append(f"ladder {only}") or True)
    monkeypatch.setattr(yardsticks, "measure", lambda *given: made.append("baselines"))
    monkeypatch.setattr(yardsticks, "stacking", lambda *given: made.append("stacking"))
    folder = project_with_data / "_build/train/smoke"
    training.main(["list", "--scale", "smoke"])
    listed = capsys.readouterr().out
    assert "image-tiny-seed1: 12 steps of 32" in listed and "baselines" in listed
    assert "rung-image-patch4-full-k1-seed0" in listed and "power-equation" in listed
    here = ["train", "--scale", "smoke", "--device", "cpu", "--workers", "1"]
    training.main([*here, "--only", "image-tiny-seed0"])
    assert (folder / "image-tiny-seed0.safetensors").exists()
    assert made == ["ladder image-tiny-seed0"]
    made.clear()
    training.main([*here, "--only", "baselines,rung-image-patch4-full-k2-seed0"])
    assert (
        made == ["baselines", "ladder baselines,rung-image-patch4-full-k2-seed0"]
        and not (folder / "image-tiny-seed1.safetensors").exists()
    )
    made.clear()
    training.main([*here, "--only", "*"])
    assert made == ["baselines", "stacking", "ladder *"]
    assert (folder / "image-tiny-seed1.safetensors").exists()
    with pytest.raises(SystemExit, match="nothing is called 'audio'"):
        training.main(["train", "--scale", "smoke", "--only", "audio"])


def test_plain_methods_are_measured_once(project_with_data, monkeypatch):
    monkeypatch.setattr(yardsticks, "LENGTHS", (8,))
    folder = project_with_data / "_build/train/smoke"
    folder.mkdir(parents=True)
    path = yardsticks.measure("smoke", folder)
    found = json.loads(path.read_text())
    assert set(found) == {
        "image-linear",
        "image-neighbours",
        "text-8-tfidf-1",
        "text-8-tfidf-2",
        "text-8-tfidf-pieces",
        *(f"text-causal-runs-{order}" for order in (1, 2, 3)),
    }
    # Half of the pictures are bright below, half of the reviews say "good": neither is hard.
    assert found["image-linear"]["test_accuracy"] == found["image-neighbours"]["test_accuracy"] == 1.0
    assert found["text-causal-runs-2"]["test_loss"] < found["text-causal-runs-1"]["test_loss"]
    began = path.stat().st_mtime_ns
    yardsticks.measure("smoke", folder)
    assert path.stat().st_mtime_ns == began
    assert all({"seconds", "data_sha256", "scale"} <= set(about) for about in found.values())


def test_a_stack_is_measured_against_training_alone(project_with_data):
    folder = project_with_data / "_build/train/smoke"
    folder.mkdir(parents=True)
    path = yardsticks.stacking("smoke", folder, "cpu", family="image-tiny")
    found = json.loads(path.read_text())
    assert found["difference_float64"] < 1e-9 and found["difference_float32"] < 1e-4
    assert found["ratio"] > 0 and found["jobs"] == 5
    began = path.stat().st_mtime_ns
    yardsticks.stacking("smoke", folder, "cpu", family="image-tiny")
    assert path.stat().st_mtime_ns == began


def test_committed_weights_say_what_made_them():
    _, made = models.teacher("image-patch4-seed0")
    assert {"scale", "seed", "steps", "device", "versions", "data_sha256", "test_accuracy", "curve"} <= set(made)
    assert json.dumps(made)
