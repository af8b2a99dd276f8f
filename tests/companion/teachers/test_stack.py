import dataclasses
import math

import pytest
import torch

from companion.data.splits import Examples
from companion.teachers import stack
from companion.teachers.recipes import Recipe
from pdelens import models
from pdelens.models import Configuration
from pdelens.pde import loop

PICTURES = Configuration(width=16, layers=1, heads=2, patch=7, outputs=2)
WORDS = dataclasses.replace(PICTURES, vocabulary=20, length=10)
KINDS = {
    "pictures": PICTURES,
    "words": WORDS,
    "causal": dataclasses.replace(WORDS, causal=True, outputs=20),
    "post": dataclasses.replace(PICTURES, placement="post"),
    "rms": dataclasses.replace(PICTURES, norm="rms"),
    "dyt": dataclasses.replace(PICTURES, norm="dyt"),
    "none": dataclasses.replace(PICTURES, norm="none"),
}


def pictures(examples=400):
    """Two kinds of pictures that a tiny model can tell apart: bright above or bright below."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (examples,), generator=generator)
    images = torch.randint(0, 60, (examples, 28, 28), generator=generator, dtype=torch.uint8)
    images[labels == 0, :14] += 120
    images[labels == 1, 14:] += 120
    return Examples(images, labels)


def words(examples=400):
    """Texts that count upwards; the class is whether they begin low. Some are cut short."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(2, 10, (examples, 1), generator=generator)
    tokens = first + torch.arange(10)
    length = torch.randint(4, 11, (examples, 1), generator=generator)
    return Examples(tokens.masked_fill(torch.arange(10) >= length, 0), (first[:, 0] < 6).long())


def make(kind="pictures", seed=3, **settings):
    about = KINDS[kind]
    given = {"steps": 30, "batch": 32, "checkpoint_every": 7, "word_dropout": 0.1 if about.vocabulary else 0.0}
    return Recipe("tiny", about, seed, **(given | settings)), words() if about.vocabulary else pictures()


def difference(a, b):
    return max(float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["pictures", "words", "causal"])
def test_it_learns_and_is_deterministic(kind, tmp_path):
    recipe, data = make(kind, steps=45)
    (first,), (record,) = stack.train([recipe], data, tmp_path / "a", held=data)
    (second,), _ = stack.train([recipe], data, tmp_path / "b")
    assert difference(first, second) == 0
    assert stack.evaluate(first, data)["accuracy"] > {"causal": 0.5}.get(kind, 0.95)
    assert stack.evaluate(first, data)["loss"] < 0.8 * stack.evaluate(recipe.untrained().eval(), data)["loss"]
    assert [row[0] for row in record["curve"]] == [7, 14, 21, 28, 35, 42, 45]
    assert record["curve"][-1][1] < record["curve"][0][1]
    assert record["curve"][-1][3:] == pytest.approx(list(stack.evaluate(first, data).values()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stacked_model_is_the_model_trained_alone(kind, tmp_path):
    recipe, data = make(kind, steps=15)
    recipes = [
        recipe,
        dataclasses.replace(recipe, seed=4),
        dataclasses.replace(recipe, random_labels=True, examples=200),
    ]
    together, _ = stack.train(recipes, data, tmp_path / "all", dtype=torch.float64)
    for number, (one, model) in enumerate(zip(recipes, together, strict=True)):
        (alone,), _ = stack.train([one], data, tmp_path / str(number), dtype=torch.float64)
        assert difference(alone, model) < 1e-9
    assert difference(together[0], together[1]) > 0.01 < difference(together[0], together[2])


def test_in_single_precision_rounding_is_all_that_differs(tmp_path):
    recipe, data = make(steps=40)
    recipes = [recipe, dataclasses.replace(recipe, seed=4)]
    together, _ = stack.train(recipes, data, tmp_path / "all")
    (alone,), _ = stack.train([recipes[1]], data, tmp_path / "one")
    assert difference(alone, together[1]) < 5e-3
    assert stack.evaluate(alone, data)["loss"] == pytest.approx(stack.evaluate(together[1], data)["loss"], abs=1e-3)


@pytest.mark.parametrize("kind", ["pictures", "words", "causal"])
def test_one_step_is_torchs_own_training(kind, tmp_path):
    recipe, data = make(kind, steps=1, label_smoothing=0.1)
    (ours,), _ = stack.train([recipe], data, tmp_path, dtype=torch.float64)
    theirs = models.Transformer(recipe.configuration, recipe.seed).double()
    named = dict(theirs.named_parameters())
    decayed = [p for name, p in named.items() if p.ndim > 1 and name != "positions"]
    left = [p for name, p in named.items() if not (p.ndim > 1 and name != "positions")]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": left, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=loop.one_cycle(recipe.peak_rate, 0, 1), betas=(0.9, 0.98))
    _, inputs, labels = next(stack.batches(recipe, data, 0))
    logits = theirs(inputs, inputs != 0 if kind != "pictures" else None)
    if kind == "causal":
        real = inputs[:, 1:] != 0
        logits, labels = logits[:, :-1][real], inputs[:, 1:][real]
    torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    optimizer.step()
    # The first step of Adam divides a gradient by itself: rounding shows where a gradient is nearly zero.
    assert difference(ours, theirs) < 1e-6


@pytest.mark.parametrize("killed_after", [9, 14, 29])
def test_killed_and_resumed_gives_the_same_weights(tmp_path, killed_after):
    recipe, data = make()
    recipes = [recipe, dataclasses.replace(recipe, seed=4)]
    whole, records = stack.train(recipes, data, tmp_path / "whole")
    none, _ = stack.train(recipes, data, tmp_path / "parts", stop=lambda done: done == killed_after)
    assert none is None
    resumed, resumed_records = stack.train(recipes, data, tmp_path / "parts")
    assert all(difference(a, b) <= 1e-6 for a, b in zip(whole, resumed, strict=True))
    assert [record["curve"] for record in resumed_records] == [record["curve"] for record in records]


@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_torn_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, harm):
    recipe, data = make()
    (whole,), _ = stack.train([recipe], data, tmp_path / "whole")
    stack.train([recipe], data, tmp_path, stop=lambda done: done == 16)
    checkpoint = stack.checkpoint_of([recipe], tmp_path)
    content = checkpoint.read_bytes()
    if harm == "cut":
        checkpoint.write_bytes(content[:-50])
    elif harm == "changed":
        checkpoint.write_bytes(content[:-50] + bytes(50))
    else:
        checkpoint.unlink()
    begun = []
    (again,), _ = stack.train([recipe], data, tmp_path, stop=lambda done: begun.append(done) or False)
    # Step 7 is in the checkpoint before; nothing begins afresh.
    assert begun[0] == 8 and difference(again, whole) <= 1e-6
    assert harm == "gone" or "is torn" in capsys.readouterr().err


def test_where_both_are_torn_it_starts_afresh(tmp_path, capsys):
    recipe, data = make()
    stack.train([recipe], data, tmp_path, stop=lambda done: done == 16)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    begun = []
    stack.train([recipe], data, tmp_path, stop=lambda done: begun.append(done) or False)
    assert begun[0] == 1 and capsys.readouterr().err.count("is torn") == 2


def test_another_jobs_checkpoint_is_not_used(tmp_path, capsys):
    recipe, data = make()
    stack.train([recipe], data, tmp_path, stop=lambda done: done == 10)
    longer = dataclasses.replace(recipe, steps=31)
    stack.train([longer], data, tmp_path, stop=lambda done: True)
    assert "is of another job" in capsys.readouterr().err


def test_every_epoch_sees_every_example_once():
    recipe, _ = make()
    marked = Examples(torch.zeros(320, 28, 28, dtype=torch.uint8), torch.arange(320))
    stream = stack.batches(recipe, marked, 0)
    seen = [next(stream)[2] for _ in range(20)]
    assert sorted(torch.cat(seen[:10]).tolist()) == list(range(320))
    assert not torch.equal(torch.cat(seen[:10]), torch.cat(seen[10:]))
    assert torch.equal(next(stack.batches(recipe, marked, 5))[2], seen[5])
    with pytest.raises(ValueError, match="320 examples were given, but one batch takes 500"):
        next(stack.batches(dataclasses.replace(recipe, batch=500), marked, 0))


def test_disturbances_are_what_the_job_says():
    recipe, data = make("words", word_dropout=0.3)
    _, inputs, _ = next(stack.batches(recipe, data, 0))
    _, plain, _ = next(stack.batches(dataclasses.replace(recipe, word_dropout=0.0), data, 0))
    changed = inputs != plain
    assert bool((inputs[changed] == 1).all()) and not bool(changed[plain == 0].any())
    assert 0.2 < float(changed[plain != 0].float().mean()) < 0.4
    recipe, data = make(shift=2)
    _, moved, _ = next(stack.batches(recipe, data, 0))
    _, still, _ = next(stack.batches(dataclasses.replace(recipe, shift=0), data, 0))
    padded = torch.nn.functional.pad(still, (2, 2, 2, 2))
    assert any(
        torch.equal(moved, padded[:, i : i + 28, j : j + 28]) for i in range(5) for j in range(5) if (i, j) != (2, 2)
    )


def test_random_labels_are_drawn_once_and_know_nothing():
    recipe, data = make(random_labels=True, examples=100)
    seen, again = stack.training_set(recipe, data), stack.training_set(recipe, data)
    assert len(seen.labels) == 100 and torch.equal(seen.labels, again.labels)
    assert torch.equal(seen.inputs, data.inputs[:100])
    assert 0.3 < float((seen.labels == data.labels[:100]).float().mean()) < 0.7


def test_next_tokens_are_scored_and_padding_is_not():
    about = KINDS["causal"]
    tokens = torch.tensor([[3, 4, 5, 0, 0]])
    logits = torch.zeros(1, 5, 20)
    logits[0, 0, 4] = 100.0
    entropies, hits, counted = stack.score(about, logits, tokens, torch.zeros(1))
    assert counted.tolist() == [True, True, False, False] and hits[counted].tolist() == [True, False]
    assert entropies.tolist() == pytest.approx([0, math.log(20), 0, 0])


def test_diverging_training_says_which_and_where(tmp_path):
    recipe, data = make(peak_rate=float("inf"))
    with pytest.raises(RuntimeError, match=r"tiny-seed3: the loss is nan at step \d+: lower the peak rate"):
        stack.train([recipe], data, tmp_path)


def test_jobs_of_two_shapes_make_no_stack():
    with pytest.raises(ValueError, match="recipes of one shape are wanted"):
        stack.Stack([make()[0], make("words")[0]])


def test_learning_rate_is_one_cycle():
    rates = [loop.one_cycle(3e-3, step, 300) for step in range(300)]
    assert max(rates) == pytest.approx(3e-3) and rates[-1] < 0.02 * 3e-3
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_model_is_evaluated_by_batches_whose_mean_is_over_all(monkeypatch):
    """The last digits of recorded losses depend on the batches: of 250, as it says."""
    recipe, data = make("causal")
    model, sizes = recipe.untrained().eval(), []
    many = Examples(*(torch.cat([column, column])[:501] for column in data))
    plain = model.forward
    monkeypatch.setattr(model, "forward", lambda inputs, mask: sizes.append(len(inputs)) or plain(inputs, mask))
    found = stack.evaluate(model, many)
    assert sizes == [250, 250, 1]
    again = stack.evaluate(model, many, batch=7)
    assert found == pytest.approx(again, rel=1e-5)
    with torch.no_grad():
        logs = plain(many.inputs, many.inputs != 0).log_softmax(-1)
    losses = [
        -float(logs[e, t, many.inputs[e, t + 1]])
        for e in range(501)
        for t in range(many.inputs.shape[1] - 1)
        if many.inputs[e, t + 1] != 0
    ]
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_each_models_gradient_is_clipped_by_its_own_norm():
    recipe, _ = make()
    both = stack.Stack([recipe, dataclasses.replace(recipe, seed=4)])
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([10.0, 1e-4])
    for value in both.module.parameters():
        value.grad = torch.randn(value.shape, generator=generator) * scales.view(-1, *[1] * (value.ndim - 1))
    before = [value.grad.clone() for value in both.module.parameters()]
    both.clip(0.5)
    for number in range(2):
        norm = float(torch.cat([grad[number].flatten() for grad in before]).norm())
        factor = min(1.0, 0.5 / norm)
        for value, grad in zip(both.module.parameters(), before, strict=True):
            torch.testing.assert_close(value.grad[number], grad[number] * factor, rtol=1e-4, atol=0)


def test_a_stack_is_cut_to_each_jobs_examples_and_labels_stay_where_they_are_not_random():
    recipe, data = make(examples=50)
    found = stack.training_set(recipe, data)
    assert torch.equal(found.inputs, data.inputs[:50]) and torch.equal(found.labels, data.labels[:50])
    whole = stack.training_set(dataclasses.replace(recipe, examples=0), data)
    assert torch.equal(whole.inputs, data.inputs)


def test_stacks_are_called_by_their_first_job_and_how_many_are_with_it(tmp_path):
    recipe, _ = make()
    assert stack.label_of([recipe]) == recipe.name
    assert stack.label_of([recipe] * 3) == f"{recipe.name}+2"
    assert stack.checkpoint_of([recipe] * 3, tmp_path) == tmp_path / f"{recipe.name}+2.checkpoint.safetensors"
