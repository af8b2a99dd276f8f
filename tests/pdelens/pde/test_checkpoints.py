import pytest
import torch

from pdelens.pde.checkpoints import restore, store
from pdelens.pde.muon import Muon, orthogonalised


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 12, 5), (1, 5, 12), (3, 8, 8)])
def test_orthogonalised_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrices = drawn(*shape)
    left, _values, right = torch.linalg.svd(matrices, full_matrices=False)
    level = torch.einsum("kri,krc,kic->ki", left, orthogonalised(matrices), right)
    assert float(level.min()) > 0.5 and float(level.max()) < 1.3
    # Nothing is left beside the diagonal.
    mixed = left.mT @ orthogonalised(matrices) @ right.mT
    assert float((mixed - torch.diag_embed(level)).abs().max()) < 1e-5


def test_orthogonalised_knows_no_scale():
    matrices = drawn(2, 6, 4)
    assert torch.allclose(orthogonalised(1e-6 * matrices), orthogonalised(1e6 * matrices), atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_a_single_matrix_steps_as_in_torch():
    ours, theirs = torch.nn.Parameter(drawn(1, 24, 16)), torch.nn.Parameter(drawn(1, 24, 16)[0].clone())
    mine = Muon([{"params": [ours]}], rate=0.05)
    known = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    began = ours.detach().clone()
    for number in range(5):
        ours.grad, theirs.grad = drawn(1, 24, 16, seed=number), drawn(1, 24, 16, seed=number)[0]
        mine.step()
        known.step()
    moved = float((ours.detach() - began).norm())
    # torch iterates in bfloat16.
    assert float((ours[0] - theirs).detach().norm()) < 0.03 * moved


def test_parts_are_stepped_as_matrices_of_their_own():
    whole, apart = torch.nn.Parameter(drawn(2, 12, 4)), torch.nn.Parameter(drawn(2, 12, 4).view(6, 4, 4).clone())
    first, second = Muon([{"params": [whole], "parts": 3}], rate=0.1), Muon([{"params": [apart]}], rate=0.1)
    whole.grad = drawn(2, 12, 4, seed=1)
    apart.grad = whole.grad.view(6, 4, 4)
    first.step()
    second.step()
    assert torch.equal(whole.view(6, 4, 4), apart)
    with pytest.raises(ValueError, match=r"\(2, 12, 4\) was given as 5 stacked matrices"):
        Muon([{"params": [whole], "parts": 5}])


def test_vectors_step_as_adam():
    ours, theirs = torch.nn.Parameter(drawn(7)), torch.nn.Parameter(drawn(7))
    mine = Muon([{"params": [ours], "matrix": False}], rate=0.01)
    known = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.98))
    for number in range(10):
        ours.grad, theirs.grad = drawn(7, seed=number), drawn(7, seed=number)
        mine.step()
        known.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_its_state_survives_a_checkpoint(tmp_path):
    def made():
        model = torch.nn.Module()
        model.matrix, model.vector = torch.nn.Parameter(drawn(2, 6, 3)), torch.nn.Parameter(drawn(4))
        groups = [{"params": [model.matrix]}, {"params": [model.vector], "matrix": False}]
        return model, Muon(groups, rate=0.1)

    def step(model, optimizer, number):
        model.matrix.grad, model.vector.grad = drawn(2, 6, 3, seed=number), drawn(4, seed=number)
        optimizer.step()

    model, optimizer = made()
    for number in range(3):
        step(model, optimizer, number)
    store(tmp_path / "c.safetensors", {"job": {}, "step": 3}, model, optimizer)
    again, other = made()
    assert restore(tmp_path / "c.safetensors", {}, again, other) is not None
    for number in (3, 4):
        step(model, optimizer, number)
        step(again, other, number)
    assert torch.equal(model.matrix, again.matrix) and torch.equal(model.vector, again.vector)
