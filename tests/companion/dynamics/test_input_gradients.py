"""Gradients in the space of inputs: against automatic differentiation by the inputs themselves."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from companion.dynamics import input_gradients as inputs
from companion.dynamics.input_gradients import InputGradient
from pdelens.models import Configuration, Transformer


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(model, state, labels):
    for block in model.blocks:
        state = block(state, None)
    return F.cross_entropy(model.readout(state), labels, reduction="sum")


def state_gradient(model, given, labels):
    state = model.embedding(given).detach().requires_grad_()
    return torch.autograd.grad(loss_of(model, state, labels), state)[0]


def test_a_pictures_gradient_is_that_by_its_grey_levels():
    model = Transformer(Configuration(width=8, layers=2, heads=2, side=8, patch=4), 0)
    pictures, labels = (255 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))).to(torch.uint8), None
    labels = torch.tensor([1, 0, 5])
    found = InputGradient(state_gradient(model, pictures, labels), inputs.input_matrix(model))
    pixels = pictures.float().requires_grad_()
    embedded = model.embed.project(pixels[:, None] / 127.5 - 1).flatten(2).transpose(1, 2) + model.positions
    (exact,) = torch.autograd.grad(loss_of(model, embedded, labels), pixels)
    by_patch = exact.unfold(1, 4, 4).unfold(2, 4, 4).reshape(3, 4, 16)
    for example in range(3):
        torch.testing.assert_close(found.entries(example), by_patch[example], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(found.saliency(), by_patch.norm(dim=-1).double(), atol=1e-7, rtol=1e-4)


def test_a_texts_gradient_is_that_of_swaps_of_pieces():
    model = Transformer(Configuration(width=8, layers=2, heads=2, outputs=2, vocabulary=11, length=5), 0)
    tokens, labels = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(0)), torch.tensor([1, 0])
    found = InputGradient(state_gradient(model, tokens, labels), inputs.input_matrix(model))
    rows = F.one_hot(tokens, 11).float().requires_grad_()
    (exact,) = torch.autograd.grad(loss_of(model, rows @ model.embed.weight + model.positions, labels), rows)
    swaps = exact - exact.mean(-1, keepdim=True)
    for example in range(2):
        torch.testing.assert_close(found.entries(example), swaps[example], atol=1e-6, rtol=1e-3)


def test_cosines_are_those_of_the_entries_also_between_two_models():
    one, other = (InputGradient(random(3, 4, 5, seed=s), random(7, 5, seed=9 + s)) for s in (0, 1))
    flat = [torch.stack([each.entries(e).flatten() for e in range(3)]).double() for each in (one, other)]
    torch.testing.assert_close(one.cosine(other), torch.cosine_similarity(*flat), atol=1e-6, rtol=0)
    torch.testing.assert_close(one.inner(other), (flat[0] * flat[1]).sum(1), atol=1e-4, rtol=1e-5)
    nothing = InputGradient(torch.zeros(3, 4, 5), one.matrix)
    assert one.cosine(nothing).tolist() == [0, 0, 0]


def test_ranks_are_spearmans_over_real_tokens():
    ours, theirs, mask = random(3, 6), random(3, 6, seed=1), torch.ones(3, 6, dtype=torch.bool)
    mask[0, 4:], theirs[2] = False, 1.0
    found = inputs.rank_correlation(ours, theirs, mask)
    assert float(found[0]) == pytest.approx(spearmanr(ours[0, :4], theirs[0, :4]).statistic)
    assert float(found[1]) == pytest.approx(spearmanr(ours[1], theirs[1]).statistic)
    assert float(found[2]) == 0


def test_a_class_is_told_by_its_mean_direction():
    known = InputGradient(random(5, 4, 3), random(7, 3, seed=1))
    classes = torch.tensor([0, 1, 0, 1, 1])
    found = inputs.like_class(known, classes, torch.tensor([1, 0]))
    flat = torch.stack([known.entries(e).flatten() for e in range(5)])
    unit = flat / flat.norm(dim=1, keepdim=True)
    for row, one in enumerate((1, 0)):
        torch.testing.assert_close(found.entries(row).flatten(), unit[classes == one].mean(0), atol=1e-5, rtol=1e-4)


def test_the_nearest_is_of_the_same_class():
    known, classes = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 1, 0])
    assert inputs.nearest_of_class(torch.tensor([[0.9], [4.0]]), known, classes, torch.tensor([0, 0])) == [0, 2]
    assert inputs.nearest_of_class(torch.tensor([[0.0]]), known, classes, torch.tensor([1])) == [1]


def test_a_gradient_goes_back_through_matrices_as_autograd_takes_it():
    matrices, last = [random(3, 3, seed=s) for s in (1, 2)], random(2, 4, 3)
    u = random(2, 4, 3, seed=5).requires_grad_()
    middle = u @ matrices[0] + 1
    (exact,) = torch.autograd.grad(((middle @ matrices[1] - 2) * last).sum(), u)
    found = inputs.carried_back(last, matrices)
    torch.testing.assert_close(found[0], exact)
    torch.testing.assert_close(found[1], last @ matrices[1].T)
    assert found[2] is last
