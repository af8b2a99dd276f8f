"""Models as maps from an input to states: against their own passes, plain loops and automatic differentiation."""

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import movers
from companion.surrogates.evaluate import rolled_out
from companion.teachers.teacher import Teacher
from companion.theory import token_influence as maps
from pdelens.lattice import Chain
from pdelens.models import Configuration, Transformer

TEXTS = Configuration(width=4, layers=2, heads=2, outputs=3, vocabulary=9, length=5)


@pytest.fixture(scope="module")
def tiny():
    return Tiny(teacher(0), 5)


def readers(count=3):
    model = Transformer(TEXTS, 1).eval().requires_grad_(False)
    return Teacher("text-tiny-seed0", model, Chain(5), 4, 2, 2, lambda split, n: (None, None))


def test_a_transformers_states_are_those_that_it_has_itself(tiny):
    mover = movers.blocks_of(tiny.teacher)
    found = mover.run(mover.embedded(tiny.inputs), None)
    for ours, own in zip(found, tiny.reference.states, strict=True):
        torch.testing.assert_close(ours, own)
    late = mover.run(found[2], None, 2)
    torch.testing.assert_close(late[-1], found[-1])
    torch.testing.assert_close(mover.logits(found[-1], None), tiny.teacher.model(tiny.inputs))


def test_padding_changes_nothing_that_is_real():
    mover = movers.blocks_of(readers())
    tokens, mask = torch.tensor([[3, 4, 5, 0, 0]]), torch.tensor([[True, True, True, False, False]])
    padded = mover.run(mover.embedded({"inputs": tokens, "mask": mask}), mask)
    short = mover.run(mover.embedded({"inputs": tokens[:, :3], "mask": mask[:, :3]}), None)
    torch.testing.assert_close(padded[-1][:, :3], short[-1])


def test_a_change_of_pixels_is_lifted_as_the_embedding_does_it(tiny):
    mover, z = movers.blocks_of(tiny.teacher), torch.randn(5, 4, 16)
    pixels = torch.nn.functional.fold(z.transpose(1, 2), (8, 8), 4, stride=4)  # patch by patch, (5, 1, 8, 8)
    project = tiny.teacher.model.embed.project
    wanted = (project(pixels) - project(torch.zeros_like(pixels))).flatten(2).transpose(1, 2)
    torch.testing.assert_close(mover.lifted(z), wanted)
    gradient = torch.randn(5, 4, 4)
    assert float((mover.pulled(gradient) * z).sum()) == pytest.approx(float((gradient * wanted).sum()), rel=1e-4)
    assert mover.inner == 16 and movers.blocks_of(readers()).inner == 4


def test_an_attack_goes_along_the_gradient_of_the_loss_in_pixels(tiny):
    mover, labels = movers.blocks_of(tiny.teacher), torch.tensor([0, 1, 2, 0, 1])
    found = mover.attack(mover.embedded(tiny.inputs), None, labels).flatten(1)
    model, pixels = tiny.teacher.model, (tiny.inputs[:, None].float() / 127.5 - 1).requires_grad_()
    u = model.embed.project(pixels).flatten(2).transpose(1, 2) + model.positions
    for block in model.blocks:
        u = block(u, None)
    loss = torch.nn.functional.cross_entropy(model.readout(u), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, pixels)
    wanted = torch.nn.functional.unfold(gradient, 4, stride=4).transpose(1, 2).flatten(1)
    cosine = (found * wanted).sum(1) / found.norm(dim=1) / wanted.norm(dim=1)
    torch.testing.assert_close(cosine, torch.ones(5))


def test_a_solution_is_near_the_adaptive_one_and_nearer_with_more_steps(tiny):
    field, u = tiny.equations["three laws"], tiny.reference.states[0]
    exact = rolled_out(field, tiny.reference, method="dopri5", rtol=1e-6, atol=1e-6).states
    errors = []
    for substeps in (1, 4):
        mover = movers.solution_of(tiny.teacher, field, substeps)
        found = mover.run(u, None)
        assert len(found) == 7
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)))
        torch.testing.assert_close(mover.run(found[1], None, 1)[-1], found[-1])
    assert errors[1] < errors[0] < 0.05
    torch.testing.assert_close(mover.adaptive(u, None), exact[-1], atol=1e-4, rtol=1e-4)
    assert {0.0, 1.0, 6.0} <= set(maps.STEPS)


def test_a_network_makes_one_step_a_layer(tiny):
    field = tiny.equations["one-step field"]
    found = movers.network_of(tiny.teacher, field).run(tiny.reference.states[0], None)
    for ours, own in zip(found, rolled_out(field, tiny.reference).states, strict=True):
        torch.testing.assert_close(ours, own)


def test_affine_maps_are_least_squares_and_do_not_depend_on_the_input(tiny):
    mover, u = movers.affine_of(tiny.teacher, tiny.calibration), tiny.reference.states[0]
    before, after = (state.flatten(0, 1).double().numpy() for state in tiny.calibration.states[:2])
    answer = np.linalg.lstsq(np.c_[before, np.ones(len(before))], after, rcond=None)[0]
    wanted = u.double().numpy() @ answer[:-1] + answer[-1]
    np.testing.assert_allclose(mover.run(u, None)[1].numpy(), wanted, atol=1e-4)
    change = torch.randn_like(u[:1]).expand_as(u)
    moved = mover.run(u + change, None)[-1] - mover.run(u, None)[-1]
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-4, rtol=1e-3)


def test_a_flow_map_is_the_same_map(tiny):
    mover, u = movers.blocks_of(tiny.teacher), tiny.reference.states[0]
    found = mover.flow_map(tiny.reference.states[1], None, 1, 3)
    torch.testing.assert_close(found.value, tiny.reference.states[3])
    assert found.depths == (1, 3) and found.point.shape == u.shape
