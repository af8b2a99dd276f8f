"""Whose states are measured: moments of training, inputs seen and unseen, an equation solved in few steps."""

from dataclasses import replace

import pytest
import torch
from tiny_teacher import SHAPE, Tiny, teacher

from companion.bottleneck import subjects
from companion.data.fashion_mnist import Pictures
from companion.data.tokens import Windows
from companion.surrogates.evaluate import rolled_out
from companion.teachers import files
from companion.teachers.recipes import Recipe, recipe_named
from companion.teachers.stack import training_set

TINY = Recipe("image-patch7", SHAPE, 1, 40)


def test_moments_are_the_snapshots_and_the_end(tmp_path):
    found = subjects.moments(TINY, tmp_path)
    assert list(found) == [0, *TINY.snapshots, 40] and found[0] is None
    assert not subjects.trained_there(TINY, tmp_path)
    for number, path in enumerate(path for path in found.values() if path is not None):
        model = replace(TINY, seed=number + 5).untrained()
        files.save(model, path, {})
    assert subjects.trained_there(TINY, tmp_path)
    first, last = (subjects.model_at(TINY, found[step]) for step in (0, 40))
    torch.testing.assert_close(first.positions, TINY.untrained().positions)
    torch.testing.assert_close(last.positions, model.positions)
    assert not first.training and not last.training


def test_held_out_examples_are_fair_and_texts_know_their_review(monkeypatch, tmp_path):
    count = 50
    pictures = Pictures(torch.arange(count).to(torch.uint8)[:, None, None].expand(-1, 28, 28), torch.arange(count) % 10)
    asked = []
    monkeypatch.setattr(subjects, "fashion_mnist", lambda train: asked.append(train) or pictures)
    found = subjects.held_out(recipe_named("image-patch7-seed0").configuration, 20, tmp_path)
    assert asked == [False] and found.inputs.shape == (20, 28, 28) and found.given() is found.inputs
    assert found.labels.tolist() == (found.inputs[:, 0, 0] % 10).tolist() and len(set(found.groups.tolist())) == 20
    assert found.groups.tolist() != sorted(found.groups.tolist()), "what lies first is no fair sample"

    rows = torch.arange(count)[:, None].expand(-1, 24).clone()
    windows = Windows(rows, torch.arange(count) % 2, torch.arange(count) // 4, torch.zeros(count))
    monkeypatch.setattr(subjects, "coder", lambda folder: folder)
    monkeypatch.setattr(
        subjects.tokens, "windows", lambda split, length, coder: asked.append((split, coder)) or windows
    )
    found = subjects.held_out(recipe_named("text-short-seed0").configuration, 20, tmp_path)
    assert asked[1:] == [("test", tmp_path)]
    assert found.groups.tolist() == (found.inputs[:, 0] // 4).tolist()
    given = found.given()
    assert isinstance(given, dict) and torch.equal(given["mask"], found.inputs != 0)


def test_what_was_memorised_has_the_labels_that_were_trained_on(monkeypatch, tmp_path):
    recipe = recipe_named("image-patch7-random-labels-seed1")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (2100, 28, 28), generator=generator).to(torch.uint8)
    pictures = Pictures(images, torch.zeros(2100, dtype=torch.long))
    monkeypatch.setattr(subjects, "fashion_mnist", lambda train: pictures if train else pytest.fail("unseen ones"))
    found = subjects.memorised(recipe, 60, tmp_path)
    seen = training_set(recipe, subjects.Examples(*pictures))
    assert torch.equal(found.inputs, seen.inputs[:60]) and torch.equal(found.labels, seen.labels[:60])
    assert len(found.labels.unique()) == 10, "the true classes were all one"


def test_an_equation_solved_in_few_steps_is_near_its_solution():
    tiny = Tiny(teacher(0), 5)
    equation, flow = tiny.equation("laws-k3-b2"), tiny.reference
    found = subjects.solved(equation, flow)
    assert len(found.states) == 7 and torch.equal(found.states[0], flow.states[0])
    error = subjects.solver_error(equation, flow, 3, method="dopri5", rtol=1e-6, atol=1e-6)
    assert 0 < error < 0.01
    exact = rolled_out(equation, flow, method="dopri5", rtol=1e-6, atol=1e-6).states
    parts = [(found.states[-1] - exact[-1])[:3], (exact[-1] - exact[0])[:3]]
    assert error == pytest.approx(float(parts[0].norm() / parts[1].norm()), rel=0.05)
    far = subjects.solver_error(equation, flow, 3, method="euler", substeps=1)
    assert far > 3 * error, "it is measured, not assumed"


def test_batches_change_nothing(monkeypatch):
    tiny = Tiny(teacher(0), 5)
    equation = tiny.equation("laws-k3-b2")
    whole = subjects.solved(equation, tiny.reference)
    monkeypatch.setattr(subjects, "BATCH", 2)
    for one, other in zip(whole.states, subjects.solved(equation, tiny.reference).states, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(whole.mask, tiny.reference.mask)
