import dataclasses
import json

import pytest
import torch

from companion import __main__, adopt, paths
from companion.data import reviews as film_reviews
from companion.data import splits, tokens
from companion.data.splits import Examples
from companion.jobs import perform, run_jobs, run_of
from companion.paths import DataError
from companion.surrogates.laws import MAIN_BUDGET
from companion.teachers import comparisons, files, recipes, results, stack, stacking_cost
from companion.teachers import train as training
from companion.teachers.recipes import Recipe
from pdelens import models
from pdelens.models import Configuration

TINY = Recipe("image-tiny", Configuration(width=16, layers=1, heads=2, patch=7, outputs=2), 0, 12, batch=32)
TINY_TEXT = Recipe("text-tiny", dataclasses.replace(TINY.configuration, vocabulary=300, length=12), 0, 6, batch=16)
RECIPES = (
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
    reviews = [
        film_reviews.Review(f"a {word} film, number {k}", k % 2, "imdb") for k in range(60) for word in ("good", "bad")
    ]
    monkeypatch.setattr(
        splits, "fashion_mnist", lambda train: pictures if train else Examples(*(c[:90] for c in pictures))
    )
    monkeypatch.setattr(splits, "fashion_mnist_subset", lambda split: Examples(*(c[:50] for c in pictures)))
    monkeypatch.setattr(tokens, "movie_reviews", lambda: reviews)
    monkeypatch.setattr(tokens, "VOCABULARY", 300)
    for module in (recipes, training, stacking_cost):
        monkeypatch.setattr(module, "recipes_of", lambda scale: RECIPES)
    monkeypatch.setattr(recipes, "MAIN", ("image-tiny",))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield project_copy
    torch.set_num_threads(threads)
    for cached in (splits.load_splits, splits.digest_of, splits.coder):
        cached.cache_clear()


def train(only="*", minutes=None, seeds=5, size=None):
    run = run_of("smoke", "cpu", minutes)
    return run_jobs(training.train_jobs(run, only, seeds, size), run, workers=1)


def test_every_file_says_what_made_it_and_how_good_it_is(project_with_data):
    assert train()
    folder = project_with_data / "_build/train/smoke"
    assert {path.stem for path in folder.glob("*seed?.safetensors")} == {recipe.name for recipe in RECIPES}
    assert not list(folder.glob("*.checkpoint.*")) and (folder / "tokenizer.json").exists()
    assert len(list(folder.glob("image-tiny-seed0-step*"))) == len(RECIPES[0].snapshots)
    for recipe in RECIPES:
        model, made = models.load(folder / f"{recipe.name}.safetensors")
        assert {"scale", "device", "seconds", "versions", "data_sha256", "test_loss", "train_accuracy"} <= set(made)
        assert (made["seed"], made["steps"], made["scale"]) == (recipe.seed, recipe.steps, "smoke")
        assert [row[0] for row in made["curve"]] == sorted({*range(5, recipe.steps, 5), recipe.steps})
        # The recorded accuracy is that of the file's own, rounded weights, to the last digit.
        found = splits.load_splits(training._kind(recipe), recipe.configuration.length, folder)
        for test, data in found.small(training.SMOKE_TESTS).tests.items():
            found = stack.evaluate(model, data)
            assert (made[f"{test}_accuracy"], made[f"{test}_loss"]) == (found["accuracy"], found["loss"])
    assert made["tokenizer_sha256"] == tokens.describe(splits.coder(folder))["sha256"]


def test_what_is_whole_is_kept_and_time_may_run_out(project_with_data, capsys):
    folder = project_with_data / "_build/train/smoke"
    assert not train("image-*", minutes=1e-9)
    assert train("image-tiny-seed1")
    before = (folder / "image-tiny-seed1.safetensors").read_bytes()
    assert train("image-*", seeds=1)
    assert (folder / "image-tiny-seed0.safetensors").exists()
    assert (folder / "image-tiny-seed1.safetensors").read_bytes() == before
    assert not (folder / "text-tiny-seed0.safetensors").exists()


def test_a_torn_file_and_one_of_another_recipe_are_made_again(project_with_data, monkeypatch, capsys):
    path = project_with_data / "_build/train/smoke/image-tiny-seed1.safetensors"
    train("image-tiny-seed1")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    train("image-tiny-seed1")
    assert "is not what was written" in capsys.readouterr().err
    assert models.load(path)[1]["steps"] == RECIPES[1].steps
    monkeypatch.setattr(training, "recipes_of", lambda scale: (dataclasses.replace(RECIPES[1], steps=6),))
    train("image-tiny-seed1")
    assert "was made by another plan" in capsys.readouterr().err and models.load(path)[1]["steps"] == 6


def test_killed_in_the_middle_and_run_again_gives_the_same_file(project_with_data, monkeypatch):
    folder = project_with_data / "_build/train/smoke"
    assert train("image-tiny-seed0")
    whole, _ = models.load(folder / "image-tiny-seed0.safetensors")
    (folder / "image-tiny-seed0.safetensors").unlink()
    score, calls = stack._losses, []

    def killed(*given):
        calls.append(given)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(stack, "_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        train("image-tiny-seed0")
    assert train("image-tiny-seed0")
    again, _ = models.load(folder / "image-tiny-seed0.safetensors")
    # 7 steps, of which 5 were kept, then 7 more.
    assert len(calls) == 8 + 7
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) <= 1e-6


def test_one_that_diverges_does_not_stop_the_others(project_with_data, monkeypatch):
    wild = dataclasses.replace(RECIPES[0], peak_rate=float("inf"))
    monkeypatch.setattr(training, "recipes_of", lambda scale: (wild, RECIPES[1]))
    with pytest.raises(RuntimeError, match="image-tiny-seed0: the loss is nan"):
        train()
    assert (project_with_data / "_build/train/smoke/image-tiny-seed1.safetensors").exists()


def test_a_stack_writes_one_file_for_each(project_with_data):
    assert train("image-*", size=5)
    folder = project_with_data / "_build/train/smoke"
    for recipe in RECIPES[:2]:
        _, made = models.load(folder / f"{recipe.name}.safetensors")
        assert made["stack"] == 2 and made["seed"] == recipe.seed


def test_adopt_takes_complete_weights_only(project_with_data):
    with pytest.raises(DataError, match="run `make train SCALE=smoke` first"):
        adopt.adopt("smoke")
    train()
    folder = project_with_data / "_build/train/smoke"
    (folder / "image-tiny-seed7.checkpoint.safetensors").write_bytes(b"half")
    subset = project_with_data / "data/fashion-mnist-subset.safetensors"
    subset.write_bytes(b"there already")
    adopt.adopt("smoke", "image-tiny-seed?,text-*")
    assert set(paths.checksums()) == {
        *(f"weights/{recipe.name}.safetensors" for recipe in RECIPES),
        "fashion-mnist-subset.safetensors",
        "tokenizer.json",
        "training.json",
    }
    known = results.histories()
    assert set(known) >= {recipe.name for recipe in RECIPES}
    for recipe in RECIPES:
        model, made = files.committed_teacher(recipe.name)
        assert known[recipe.name]["test_accuracy"] == made["test_accuracy"]
        assert known[recipe.name]["configuration"] == dataclasses.asdict(model.configuration)
    _, made = files.committed_teacher("image-tiny-seed1")
    assert made["seed"] == 1 and tokens.describe(tokens.tokenizer())["sha256"]
    tokens.tokenizer.cache_clear()
    (folder / "image-tiny-seed0.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="is damaged"):
        adopt.adopt("smoke", "image-*")


def another_tokenizer(folder):
    """Exchange two pieces: the same number of them, and other tokens for the same text."""
    path = folder / "tokenizer.json"
    about = json.loads(path.read_text())
    pieces = about["model"]["vocab"]
    one, other = sorted(pieces)[10:12]
    pieces[one], pieces[other] = pieces[other], pieces[one]
    path.write_text(json.dumps(about))


def test_a_teacher_goes_with_its_tokeniser(project_with_data, capsys):
    train("text-*")
    folder = project_with_data / "_build/train/smoke"
    before = models.load(folder / "text-tiny-seed0.safetensors")[1]["tokenizer_sha256"]
    another_tokenizer(folder)
    with pytest.raises(DataError, match="is not the tokeniser that text-tiny-seed0 was trained with"):
        adopt.adopt("smoke", "text-*")
    assert not (project_with_data / "data/weights").exists()
    splits.coder.cache_clear()
    splits.load_splits.cache_clear()
    train("text-*")
    assert "is not the tokeniser that text-tiny-seed0 was trained with" in capsys.readouterr().err
    assert models.load(folder / "text-tiny-seed0.safetensors")[1]["tokenizer_sha256"] != before


def test_finished_weights_with_a_flipped_bit_are_not_adopted(project_with_data):
    train("image-tiny-seed1")
    path = project_with_data / "_build/train/smoke/image-tiny-seed1.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        adopt.adopt("smoke", "image-tiny-seed1")
    # Whole, and yet another teacher's.
    train("image-tiny-seed0")
    path.write_bytes(path.with_name("image-tiny-seed0.safetensors").read_bytes())
    with pytest.raises(DataError, match="is not what was written"):
        adopt.adopt("smoke", "image-tiny-seed1")
    assert not (project_with_data / "data/weights").exists()


@pytest.mark.parametrize("there", ["training.json", "ladder.json"])
def test_results_of_a_larger_scale_are_not_replaced_by_those_of_a_smaller(project_with_data, there):
    train("image-tiny-seed1")
    about = {"scale": "book"}
    known = {"teachers": {"a": about}} if there == "training.json" else {"rungs": {"a": {"made": about}}}
    (project_with_data / "data" / there).write_text(json.dumps(known))
    with pytest.raises(DataError, match="data/ holds results of scale book, which those of scale smoke would replace"):
        adopt.adopt("smoke", "image-tiny-seed1")


def test_snapshots_can_be_adopted_by_name(project_with_data):
    train("image-tiny-seed0")
    (project_with_data / "data/fashion-mnist-subset.safetensors").write_bytes(b"there already")
    __main__.main(["adopt", "--scale", "smoke", "--only", "image-tiny-seed0-step*"])
    adopted = [name for name in paths.checksums() if name.startswith("weights/")]
    assert len(adopted) == len(RECIPES[0].snapshots) and all("-step" in name for name in adopted)
    with pytest.raises(SystemExit, match="no complete weights"):
        __main__.main(["adopt", "--scale", "smoke", "--only", "audio"])


def test_names_choose_what_the_program_makes(project_with_data, monkeypatch, capsys):
    made = []

    def named(jobs, run, **how):
        made.append([job.name for job in jobs])
        return True

    monkeypatch.setattr("companion.jobs.run_jobs", named)
    __main__.main(["list", "--scale", "smoke"])
    listed = capsys.readouterr().out
    assert "image-tiny-seed1: 12 steps of 32" in listed and "baselines" in listed
    assert "rung-image-patch4-full-k1-seed0" in listed and "power-equation" in listed
    here = ["train", "--scale", "smoke", "--device", "cpu", "--workers", "1"]
    __main__.main([*here, "--only", "image-tiny-seed0"])
    assert made == [["image-tiny-seed0"], []]
    made.clear()
    __main__.main([*here, "--only", "baselines,rung-image-patch4-full-k2-seed0"])
    beside = made[1]
    assert (
        made[0] == []
        and beside[0] == "baselines-image-linear"
        and beside[-2:] == ["rung-image-patch4-full-k2-seed0", "nulls-image-patch4-seed0"]
    )
    made.clear()
    __main__.main([*here, "--only", "*"])
    assert made[0] == [recipe.name for recipe in RECIPES] and {"stacking", f"power-layers-b{MAIN_BUDGET}"} <= set(
        made[1]
    )
    with pytest.raises(SystemExit, match="nothing is called 'audio'"):
        __main__.main(["train", "--scale", "smoke", "--only", "audio"])


def test_settings_of_slurm_are_submitits():
    assert __main__._settings("partition=gpu timeout_min=120 gres=gpu:1") == {
        "slurm_partition": "gpu",
        "timeout_min": 120,
        "slurm_gres": "gpu:1",
    }


def test_plain_methods_are_measured_once(project_with_data, monkeypatch):
    monkeypatch.setattr(comparisons, "LENGTHS", (8,))
    run = run_of("smoke", "cpu")
    todo = comparisons.comparison_jobs(run)
    assert run_jobs(todo, run, workers=1)
    found = {job.method: job.recorded(run) for job in todo}
    assert set(found) == {
        "image-linear",
        "image-neighbours",
        "image-dense",
        "image-convolutional",
        "text-8-tfidf-1",
        "text-8-tfidf-2",
        "text-8-tfidf-pieces",
        *(f"text-causal-runs-{order}" for order in (1, 2, 3)),
    }
    # Half of the pictures are bright below, half of the reviews say "good": neither is hard.
    assert found["image-linear"]["test_accuracy"] == found["image-neighbours"]["test_accuracy"] == 1.0
    assert found["text-causal-runs-2"]["test_loss"] < found["text-causal-runs-1"]["test_loss"]
    assert all({"seconds", "data_sha256", "scale"} <= set(about) for about in found.values())
    assert [job.name for job in comparisons.comparison_jobs(run, "baselines-image-*")] == [
        "baselines-image-linear",
        "baselines-image-neighbours",
        "baselines-image-dense",
        "baselines-image-convolutional",
    ]


def test_a_stack_is_measured_against_training_alone(project_with_data):
    run, job = run_of("smoke", "cpu"), stacking_cost.StackingCost(family="image-tiny")
    found = perform(job, run)
    assert found["difference_float64"] < 1e-9 and found["difference_float32"] < 1e-4
    assert found["ratio"] > 0 and found["jobs"] == 5 and job.recorded(run) == found


def test_committed_weights_say_what_made_them():
    _, made = files.committed_teacher("image-patch4-seed0")
    assert {"scale", "seed", "steps", "device", "versions", "data_sha256", "test_accuracy", "curve"} <= set(made)
    assert json.dumps(made)


def test_a_teachers_line_says_what_it_costs():
    (one,) = recipes.chosen(recipes.recipes_of("book"), "image-patch4-seed0")
    size = 3 * one.steps * one.batch * one.configuration.flops / 1e12  # a pass forward, two back
    assert training.describe([one]) == [f"image-patch4-seed0: {one.steps} steps of {one.batch}, {size:.0f} Tflop"]
    assert size > 10
