"""Networks beside the image teacher: their sizes by hand, their training against a plain loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from companion.data.splits import Examples
from companion.teachers import peers, recipes, stack
from pdelens.models import Transformer
from pdelens.pde.loop import one_cycle

RANDOM = torch.Generator().manual_seed(0)
LABELS = torch.randint(0, 10, (64,), generator=RANDOM)
# Pictures that show their class as a bright row, in noise.
PICTURES = torch.randint(0, 60, (64, 28, 28), generator=RANDOM, dtype=torch.uint8)
PICTURES[torch.arange(64), 2 * LABELS] = 255
DATA = Examples(PICTURES, LABELS)
RECIPE = replace(recipes.recipe_named("image-patch4-seed3"), steps=6, batch=16)


def size(model):
    return sum(p.numel() for p in model.parameters())


def test_peers_have_as_many_parameters_as_the_teacher():
    dense = 784 * 239 + 239 + 2 * (239 * 239 + 239) + 239 * 10 + 10
    convolved = sum(9 * a * b + b for a, b in ((1, 16), (16, 32), (32, 64), (64, 128)))
    convolutional = convolved + 9 * 128 * 179 + 179 + 179 * 10 + 10
    assert (size(peers.dense()), size(peers.convolutional())) == (dense, convolutional)
    teacher = size(Transformer(RECIPE.configuration))
    assert dense == pytest.approx(teacher, rel=5e-3) and convolutional == pytest.approx(teacher, rel=5e-3)


@pytest.mark.parametrize("make", [peers.dense, peers.convolutional])
def test_a_peer_names_each_picture(make):
    model = make(7)
    assert model(PICTURES[:3].float() / 255).shape == (3, 7)


def steep():
    """Return a perceptron whose gradients are long enough to be clipped."""
    model = peers.dense()
    model[-1].weight.data *= 30
    return model


def test_training_is_that_of_the_recipe():
    found = peers.trained(steep, RECIPE, DATA)
    torch.manual_seed(RECIPE.seed)
    model, lengths = steep(), []
    weights, biases = ([p for p in model.parameters() if p.ndim == n] for n in (2, 1))
    rates = {"lr": 1.0, "betas": (0.9, 0.98)}
    parts = [torch.optim.AdamW(weights, weight_decay=RECIPE.weight_decay, **rates)]
    parts += [torch.optim.AdamW(biases, weight_decay=0.0, **rates)]
    stream = stack.batches(RECIPE, DATA, 0)
    for step in range(RECIPE.steps):
        _, inputs, labels = next(stream)
        logs = F.log_softmax(model(inputs.float() / 255), -1)
        smooth = RECIPE.label_smoothing
        target = (1 - smooth) * F.one_hot(labels, 10) + smooth / 10
        model.zero_grad()
        (-(target * logs).sum(-1).mean()).backward()
        length = sum(p.grad.square().sum() for p in model.parameters()) ** 0.5
        lengths.append(float(length))
        for p in model.parameters():
            p.grad *= min(1.0, 1.0 / lengths[-1])
        for part in parts:
            part.param_groups[0]["lr"] = one_cycle(RECIPE.peak_rate, step, RECIPE.steps)
            part.step()
    assert max(lengths) > 1.5
    for one, other in zip(found.parameters(), model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)


def test_seeds_differ_and_leave_the_callers_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = peers.trained(peers.dense, RECIPE, DATA)
    assert torch.rand(1) == expected and not first.training
    other = peers.trained(peers.dense, replace(RECIPE, seed=4), DATA)
    assert not torch.allclose(first[1].weight, other[1].weight)


def test_a_peer_learns_what_the_pictures_show():
    trained = peers.trained(peers.convolutional, replace(RECIPE, steps=40), DATA)
    assert peers.accuracy(trained, DATA) > 0.9


def test_accuracy_counts_hits_over_all_batches():
    model = peers.dense()
    said = [int(model(picture[None].float() / 255).argmax()) for picture in PICTURES]
    expected = np.mean([a == b for a, b in zip(said, LABELS.tolist(), strict=True)])
    assert peers.accuracy(model, DATA, batch=25) == pytest.approx(expected)
