"""What may not be looked at is not looked at: which rows each step of the book's learning reads."""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from companion.data import fashion_mnist, reviews, tokens
from companion.data.fashion_mnist import Pictures
from companion.surrogates import probe as probes
from companion.teachers import recipes, stack, teacher
from companion.teachers.stack import Examples
from pdelens import models
from pdelens.information import auto, cross_fit, neural


def test_the_tokeniser_learns_from_training_reviews_alone(monkeypatch):
    texts = [f"a film of number {number}" for number in range(400)]
    learnt = []
    monkeypatch.setattr(tokens, "movie_reviews", lambda: [SimpleNamespace(text=text) for text in texts])
    monkeypatch.setattr(tokens, "train_tokenizer", lambda given, size: learnt.extend(given))
    tokens.train_reviews_tokenizer()
    assert {reviews.split_of(text) for text in learnt} == {"train"}
    assert set(learnt) == {text for text in texts if reviews.split_of(text) == "train"} and 250 < len(learnt) < 390


def test_heads_are_aligned_on_calibration_examples(monkeypatch):
    asked = []

    def spied(split, count):
        asked.append((split, count))
        return torch.zeros(count, 28, 28, dtype=torch.uint8), torch.zeros(count)

    monkeypatch.setattr(teacher, "_pictures", spied)
    teacher.of_teacher("image-patch4-seed0", models.Transformer(models.Configuration(layers=2)))
    assert asked == [("calibration", teacher.ALIGNING)]


def test_a_linear_probe_is_fitted_to_training_examples(monkeypatch):
    asked = []

    def embedded(one, split, count):
        asked.append(split)
        generator = torch.Generator().manual_seed(len(asked))
        return torch.randn(count, 3, generator=generator) + 10 * (split == "calibration"), torch.arange(count) % 2

    monkeypatch.setattr(probes, "embedded", embedded)
    monkeypatch.setattr(probes, "cached_teacher", lambda name, run: None)
    probes.probe_of.cache_clear()
    found = probes.probe_of("spied", None, 60)
    probes.probe_of.cache_clear()
    assert asked == ["train", "calibration"]
    assert float(found.mean.mean()) > 9  # what cosines are taken about is the calibration split's mean
    scale = found.classifier[0]
    assert abs(scale.mean_).max() < 1, "standardised by training examples"


def recipe(seed=0, **changes):
    found = next(one for one in recipes.recipes_of("book") if one.name == "image-patch7-seed0")
    return replace(found, seed=seed, **changes)


def examples(count=64):
    inputs = torch.arange(count).to(torch.uint8)[:, None, None].expand(-1, 28, 28)
    return Examples(inputs, torch.arange(count) % 10)


def test_every_seed_has_an_order_of_its_own():
    seen = []
    for seed in range(3):
        batches = stack.batches(recipe(seed, batch=16, shift=0), examples(), 0)
        seen.append([next(batches)[1][:, 0, 0].tolist() for _ in range(4)])
    assert len({str(one) for one in seen}) == 3
    for one in seen:
        assert sorted(chain(*one)) == list(range(64)), "an epoch sees every example once"


def test_a_random_label_twin_has_labels_of_its_own_and_is_scored_on_them():
    data = examples(4000)
    own = stack.training_set(recipe(random_labels=True, examples=2000), data)
    agree = float((own.labels == data.labels[: len(own.labels)]).double().mean())
    assert len(own.labels) == 2000 and abs(agree - 0.1) < 0.03
    again = stack.training_set(recipe(random_labels=True, examples=2000), data)
    other = stack.training_set(recipe(1, random_labels=True, examples=2000), data)
    assert torch.equal(own.labels, again.labels) and not torch.equal(own.labels, other.labels)
    true = stack.training_set(recipe(examples=2000), data)
    assert torch.equal(true.labels, data.labels[:2000]) and torch.equal(true.inputs, own.inputs)


def test_folds_share_no_sample_and_scale_by_their_own_training_rows():
    cut = cross_fit.parts(100, 5, 20, 16, torch.Generator().manual_seed(0))
    for train, validation, test in zip(*cut, strict=True):
        assert sorted([*train.tolist(), *validation.tolist(), *test.tolist()]) == list(range(100))
    assert sorted(cut.test.flatten().tolist()) == list(range(100))
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(1))
    wild = x.clone()
    wild[torch.cat([cut.test[0], cut.validation[0]])] *= 1e6
    for values in (x, wild):
        scaled = cross_fit.standardised(values, cut.train[:1])(cut.train[:1])
        torch.testing.assert_close(scaled.mean(1), torch.zeros(1, 3), atol=1e-5, rtol=0)
        torch.testing.assert_close(scaled.std(1), torch.ones(1, 3), atol=1e-5, rtol=0)


def test_each_sample_is_read_by_the_probe_that_has_not_seen_it(monkeypatch):
    trained, read = [], []
    monkeypatch.setattr(
        cross_fit, "fit", lambda model, objective, score, train, **_: trained.append(train) or torch.zeros(5)
    )

    def losses(outputs, rows):
        read.append(rows)
        return outputs[..., 0]

    cross_fit.cross_fitted(torch.randn(100, 3), torch.zeros(2), losses, "linear", 5, 10, 0)
    assert sorted(read[-1].flatten().tolist()) == list(range(100))
    for own, seen in zip(read[-1], trained[0], strict=True):
        assert not set(own.tolist()) & set(seen.tolist())


def test_a_probe_of_random_labels_scores_at_chance():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(200, 60, generator=generator), torch.randint(0, 2, (200,), generator=generator)
    # With nearly as many columns as samples, what is read on its own training rows says .69 nats.
    assert neural.probe_bound(x, labels, steps=60) < 0.1


def test_held_out_pictures_are_test_pictures_and_calibration_ones_are_not(monkeypatch, tmp_path):
    labels = torch.arange(40) % 10
    marked = {
        train: Pictures(torch.full((40, 28, 28), 1 + train, dtype=torch.uint8), labels) for train in (True, False)
    }
    monkeypatch.setattr(fashion_mnist, "fashion_mnist", marked.__getitem__)
    fashion_mnist.write_subset(tmp_path / "subset.safetensors", calibration=20, heldout=30)
    found = load_file(tmp_path / "subset.safetensors")
    assert found["heldout.images"].unique().tolist() == [1] and len(found["heldout.images"]) == 30
    assert found["calibration.images"].unique().tolist() == [2] and len(found["calibration.images"]) == 20


def test_a_copula_is_checked_on_the_half_that_it_has_not_seen(monkeypatch):
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    rank = {value: place for place, value in enumerate(sorted(rows[:, 0]))}
    seen, checked = [], []

    class Enough(Exception):
        """What comes after is not looked at."""

    class Spied:
        def canonical(self, held_out):
            table = auto.scores(len(rows)).tolist()
            checked.extend(table.index(value) for value in held_out[:, 0].tolist())
            raise Enough

    def fit(given, dim_x):
        seen.extend(rank[value] for value in given[:, 0])
        return SimpleNamespace(copula=Spied())

    monkeypatch.setattr(auto, "fit", fit)
    with pytest.raises(Enough):
        auto._leading(rows, 3, 10, np.random.default_rng(0))
    assert len(seen) == len(checked) == 100 and set(seen) | set(checked) == set(range(200))
