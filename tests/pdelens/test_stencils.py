import pytest
import torch

from pdelens import Chain, Grid, _stencils, lattice
from pdelens._stencils import SecondDifference


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize(
    "where", [Chain(9, "neumann"), Grid(5, 6), Grid(4, 7, special=2)], ids=["chain", "grid", "special"]
)
def test_blocked_laplacian_equals_the_plain_one(where, boundary, monkeypatch):
    where = lattice.Lattice(where.shape, boundary, where.special)
    u = torch.randn(3, where.tokens, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, where.tokens, 4, dtype=torch.float64)
    found = []
    for large in (1 << 40, 1):
        monkeypatch.setattr(_stencils, "LARGE", large)
        value = lattice.laplacian(u, where)
        (slope,) = torch.autograd.grad((value * weight).sum(), u)
        found.append((value, slope))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-14)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-14)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "zero"])
@pytest.mark.parametrize("axis", [-2, -3])
def test_gradients_of_any_order(boundary, axis):
    x = torch.randn(2, 4, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: SecondDifference.apply(y, axis, boundary), x)
    assert torch.autograd.gradgradcheck(lambda y: SecondDifference.apply(y**2, axis, boundary), x)


def test_blocks_do_not_matter(monkeypatch):
    x = torch.randn(7, 16, 8)
    whole = SecondDifference.apply(x, -2, "neumann")
    monkeypatch.setattr(_stencils, "_BLOCK", 16 * 8 * 4 * 2)
    assert torch.equal(whole, SecondDifference.apply(x, -2, "neumann"))


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
def test_function_transforms_pass_through_large_and_small_alike(boundary, monkeypatch):
    where = lattice.Lattice((5, 6), boundary)
    u, v = (torch.randn(3, 30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    found = []
    for large in (1 << 40, 1):
        monkeypatch.setattr(_stencils, "LARGE", large)
        value, slope = torch.func.jvp(lambda w: lattice.laplacian(w, where), (u,), (v,))
        batched = torch.func.vmap(lambda w: lattice.laplacian(w, where), in_dims=1, out_dims=1)(u.mT.mT.unsqueeze(1))
        gradients = torch.func.vmap(torch.func.grad(lambda w: lattice.laplacian(w, where).square().sum()))(u)
        found.append((value, slope, batched[:, 0], gradients))
    for small, large in zip(*found, strict=True):
        assert torch.allclose(small, large, atol=1e-13)
    assert torch.allclose(found[1][1], lattice.laplacian(v, where), atol=1e-13), "linear: its own tangent"
