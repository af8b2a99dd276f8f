import pytest
import torch

from pdelens import Chain, Grid, _stencils, lattice
from pdelens._stencils import SecondDifference, padded, second_difference


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


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("axis", [-2, -3])
@pytest.mark.parametrize("reach", [1, 2])
def test_what_lies_beyond_the_ends_place_by_place(boundary, axis, reach):
    x = torch.randn(2, 5, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = x.movedim(axis, 0)
    side = len(rows)

    def at(place):
        if 0 <= place < side:
            return rows[place]
        if boundary == "periodic":
            return rows[place % side]
        if boundary == "neumann":
            return rows[-1 - place if place < 0 else 2 * side - 1 - place]
        end = 0 if place < 0 else side - 1
        return 2 * rows[end] - rows[2 * end - place]

    expected = torch.stack([at(place) for place in range(-reach, side + reach)]).movedim(0, axis)
    assert torch.equal(padded(x, axis, boundary, reach), expected)


@pytest.mark.parametrize("boundary", ["periodic", "neumann", "dirichlet"])
@pytest.mark.parametrize("axis", [-2, -3])
@pytest.mark.parametrize("order", [2, 4])
def test_differences_do_not_depend_on_what_counts_as_large(boundary, axis, order, monkeypatch):
    x = torch.randn(2, 5, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = x.movedim(axis, 0)
    weights = {2: {1: 1, 0: -2}, 4: {2: -1 / 12, 1: 4 / 3, 0: -5 / 2}}[order]
    wide = padded(x, axis, boundary, 2).movedim(axis, 0)
    inside = torch.arange(1, len(rows) - 1)
    expected = sum(weights[abs(step)] * wide[inside + 2 + step] for step in range(-order // 2, order // 2 + 1))
    for large in (1, x.numel(), x.numel() + 1):
        monkeypatch.setattr(_stencils, "LARGE", large)
        found = second_difference(x, axis, boundary, order).movedim(axis, 0)[1:-1]
        torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
