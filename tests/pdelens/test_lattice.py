import math

import pytest
import torch
from scipy import ndimage

from companion.theory.problems import fitted_order
from pdelens.lattice import Chain, Grid, Lattice, advection, eigensystem, gradient, laplacian

BOUNDARIES = ("periodic", "neumann", "dirichlet")
LATTICES = [
    make
    for boundary in BOUNDARIES
    for make in (Chain(9, boundary), Grid(6, 5, boundary), Chain(7, boundary, special=(1, 2)))
]
by_lattice = pytest.mark.parametrize("lattice", LATTICES, ids=lambda x: f"{x.shape}-{x.boundary}-{x.special}")


def random_state(lattice, width=3, batch=2, seed=0, dtype=torch.float64):
    return torch.randn(batch, lattice.tokens, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Exact solutions


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("numbers", [(1, 1), (2, 3), (4, 2)])
@by_lattice
def test_modes_are_eigenvectors_with_the_stated_eigenvalues(heat_mode, lattice, numbers, order):
    mode, value = heat_mode(lattice, numbers[: lattice.dims], order)
    assert value < -0.1
    torch.testing.assert_close(laplacian(mode, lattice, order), value * mode, atol=1e-13, rtol=0)


def test_neumann_eigenvalues_are_those_of_the_design():
    side = 8
    values, _, _ = eigensystem(Chain(side))
    expected = -4 * torch.sin(math.pi * torch.arange(side, dtype=torch.float64) / (2 * side)) ** 2
    torch.testing.assert_close(values.sort().values, expected.sort().values, atol=1e-13, rtol=0)


@pytest.mark.parametrize("order", [2, 4])
@by_lattice
def test_eigensystem_against_torch_linalg(lattice, order):
    matrix = laplacian(torch.eye(lattice.places, dtype=torch.float64), Lattice(lattice.shape, lattice.boundary), order)
    values, vectors, inverse = eigensystem(lattice, order)
    torch.testing.assert_close(vectors @ (values[:, None] * inverse), matrix, atol=1e-11, rtol=0)
    torch.testing.assert_close(vectors @ inverse, torch.eye(lattice.places, dtype=torch.float64), atol=1e-11, rtol=0)
    reference = torch.linalg.eigvals(matrix)
    assert float(reference.imag.abs().max()) < 1e-6
    torch.testing.assert_close(values.sort().values, reference.real.sort().values, atol=1e-6, rtol=0)


def test_quadratics_are_differentiated_exactly():
    x = torch.arange(9, dtype=torch.float64)
    lattice, square = Chain(9, "dirichlet"), (x**2)[:, None]
    assert torch.equal(laplacian(square, lattice)[1:-1], torch.full((7, 1), 2.0, dtype=torch.float64))
    torch.testing.assert_close(gradient(square, lattice)[0, 1:-1, 0], 2 * x[1:-1], atol=1e-13, rtol=0)
    torch.testing.assert_close(gradient(square, lattice, "forward")[0, 1:-1, 0], 2 * x[1:-1] + 1, atol=1e-13, rtol=0)
    torch.testing.assert_close(gradient(square, lattice, "backward")[0, 1:-1, 0], 2 * x[1:-1] - 1, atol=1e-13, rtol=0)


def test_fourth_order_stencil_is_exact_for_quintics_inside_and_second_order_is_not():
    x = torch.arange(11, dtype=torch.float64) / 10
    lattice, state = Chain(11, "dirichlet"), (x**5)[:, None]
    exact = 20 * x[3:-3] ** 3 * 0.01
    torch.testing.assert_close(laplacian(state, lattice, 4)[3:-3, 0], exact, atol=1e-13, rtol=0)
    assert float((laplacian(state, lattice, 2)[3:-3, 0] - exact).abs().max()) > 1e-4


@pytest.mark.parametrize(("scheme", "nominal"), [("central", 2), ("forward", 1), ("backward", 1)])
def test_order_of_gradients(scheme, nominal):
    sides, errors = (32, 64, 128, 256), []
    for side in sides:
        x = 2 * math.pi * torch.arange(side, dtype=torch.float64)[:, None] / side
        slope = gradient(torch.exp(torch.sin(x)), Chain(side, "periodic"), scheme)[0] * side / (2 * math.pi)
        errors.append(float((slope - torch.cos(x) * torch.exp(torch.sin(x))).abs().max()))
    assert abs(fitted_order([1 / side for side in sides], errors) - nominal) < 0.1


# Properties


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("lattice", [x for x in LATTICES if x.boundary != "dirichlet"], ids=str)
def test_mass_is_conserved_and_energy_dissipated(lattice, order):
    u = random_state(lattice)
    change = laplacian(u, lattice, order)
    assert float(change.sum(-2).abs().max()) < 1e-12
    assert bool(((u * change).sum(-2) < 0).all())


def test_pinned_tokens_do_not_move():
    ring = torch.ones(6, 5, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    lattice = Grid(6, 5, "dirichlet")
    u = random_state(lattice)
    for change in (laplacian(u, lattice), laplacian(u, lattice, 4), *gradient(u, lattice)):
        assert bool((change[:, ring.flatten()] == 0).all()) and bool((change[:, ~ring.flatten()] != 0).all())


@pytest.mark.parametrize("operator", ["laplacian", "gradient", "advection"])
def test_special_tokens_are_neither_changed_nor_read(operator):
    lattice, plain = Chain(7, special=(1, 2)), Chain(7)
    apply = {
        "laplacian": laplacian,
        "gradient": lambda u, where: gradient(u, where)[0],
        "advection": lambda u, where: advection(u, torch.tensor(-0.4), where),
    }[operator]
    u = random_state(lattice)
    other = u.clone()
    other[:, [0, -2, -1]] = 99.0
    assert torch.equal(apply(u, lattice), apply(other, lattice))
    assert bool((apply(u, lattice)[:, [0, -2, -1]] == 0).all())
    assert torch.equal(apply(u, lattice)[:, 1:-2], apply(u[:, 1:-2], plain))


def test_no_flux_passes_through_padding():
    lattice = Chain(8)
    u, mask = random_state(lattice), torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = False
    other = u.clone()
    other[0, 5:] = 1e6
    for apply in (
        lambda u: laplacian(u, lattice, mask=mask),
        lambda u: advection(u, torch.tensor(0.7), lattice, mask=mask),
        lambda u: advection(u, torch.tensor(-0.7), lattice, mask=mask),
        lambda u: advection(u, torch.tensor(0.7), lattice, "central", mask=mask),
    ):
        change = apply(u)
        assert torch.equal(change[0, :5], apply(other)[0, :5]), "padding was read"
        assert bool((change[0, 5:] == 0).all()), "padding changed"
        assert bool((change[0, :5].abs().sum(-1) > 0).any())
    short = Chain(5)
    torch.testing.assert_close(laplacian(u, lattice, mask=mask)[0, :5], laplacian(u[0, :5], short), atol=1e-14, rtol=0)
    for scheme in ("central", "forward", "backward"):
        ours = gradient(u, lattice, scheme, mask=mask)
        torch.testing.assert_close(ours[0, 0, :5], gradient(u[0, :5], short, scheme)[0], atol=1e-14, rtol=0)
        torch.testing.assert_close(ours[:, 1], gradient(u[1], lattice, scheme), atol=1e-14, rtol=0)
    assert float(laplacian(u, lattice, mask=mask).sum(1).abs().max()) < 1e-13


@pytest.mark.parametrize("real", [[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0, 0]])
def test_padding_is_not_read_wherever_it_lies(real):
    lattice, mask = Chain(8), torch.tensor([real]).bool()
    u = random_state(lattice, batch=1)
    other = u.clone()
    other[~mask] = 1e6
    for scheme in ("central", "forward", "backward"):
        assert torch.equal(gradient(u, lattice, scheme, mask)[:, mask], gradient(other, lattice, scheme, mask)[:, mask])
        assert float(gradient(u, lattice, scheme, mask)[:, ~mask].abs().max()) == 0
    assert torch.equal(laplacian(u, lattice, mask=mask)[mask], laplacian(other, lattice, mask=mask)[mask])


def test_padding_on_a_grid():
    lattice = Grid(4, 5)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[:, 3:] = False
    u = random_state(lattice, batch=1)
    ours = laplacian(u, lattice, mask=mask.flatten()[None]).unflatten(1, (4, 5))[:, :, :3].flatten(1, 2)
    part = u.unflatten(1, (4, 5))[:, :, :3].flatten(1, 2)
    torch.testing.assert_close(ours, laplacian(part, Grid(4, 3)), atol=1e-14, rtol=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("order", [2, 4])
def test_gradcheck_of_laplacian(boundary, order):
    u = random_state(Grid(5, 5, boundary), width=2, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: laplacian(u, Grid(5, 5, boundary), order), u)


@pytest.mark.parametrize("scheme", ["upwind", "central"])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_gradcheck_of_advection(boundary, scheme):
    lattice = Grid(4, 4, boundary)
    u = random_state(lattice, width=2, batch=1).requires_grad_()
    velocity = torch.tensor([[0.6, -0.4], [-0.3, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u, v: advection(u, v, lattice, scheme), (u, velocity))


def test_gradcheck_of_masked_operators():
    mask = torch.tensor([[True] * 4 + [False] * 2])
    u = random_state(Chain(6), width=2, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: laplacian(u, Chain(6), mask=mask), u)
    assert torch.autograd.gradcheck(lambda u: advection(u, torch.tensor(0.3), Chain(6), "central", mask), u)


def test_negative_velocity_carries_content_forward():
    lattice, u = Chain(6, "periodic"), torch.zeros(6, 1)
    u[2] = 1
    assert torch.equal(u + advection(u, torch.tensor(-1.0), lattice), u.roll(1, 0))
    assert torch.equal(u + advection(u, torch.tensor(1.0), lattice), u.roll(-1, 0))


def test_each_channel_has_its_own_velocity():
    lattice, u = Chain(6, "periodic"), torch.zeros(6, 2)
    u[2] = 1
    moved = u + advection(u, torch.tensor([[-1.0, 1.0]]), lattice)
    assert moved[3, 0] == 1 and moved[1, 1] == 1 and moved.sum() == 2


def test_causal_advection_leaves_the_past():
    lattice = Chain(8, causal=True)
    u = random_state(lattice)
    other = u.clone()
    other[:, 5] += 1
    difference = (advection(u, torch.tensor(-0.7), lattice) - advection(other, torch.tensor(-0.7), lattice)).abs()
    assert bool((difference[:, :5] == 0).all()) and float(difference[:, 5].sum()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_keeps_its_type(dtype):
    u = random_state(Grid(5, 5)).to(dtype)
    assert laplacian(u, Grid(5, 5)).dtype == dtype and advection(u, torch.tensor(0.2), Grid(5, 5)).dtype == dtype


def test_a_velocity_is_one_for_all_or_one_a_side_or_a_channel():
    lattice = Grid(4, 5)
    u = random_state(lattice, width=3)
    for shape in ((), (1,), (3,), (1, 1), (2, 1), (1, 3), (2, 3)):
        velocity = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for scheme in ("upwind", "central"):
            whole = advection(u, velocity.expand(2, 3), lattice, scheme)
            torch.testing.assert_close(advection(u, velocity, lattice, scheme), whole, atol=1e-14, rtol=0)


# Independent implementations


@pytest.mark.parametrize(("boundary", "mode"), [("periodic", "wrap"), ("neumann", "reflect")])
def test_laplacian_against_scipy(boundary, mode):
    for lattice in (Chain(9, boundary), Grid(6, 7, boundary)):
        u = random_state(lattice, width=1, batch=1)
        field = u.reshape(lattice.shape).numpy()
        second = torch.from_numpy(ndimage.laplace(field, mode=mode)).reshape(1, -1, 1)
        torch.testing.assert_close(laplacian(u, lattice), second, atol=1e-13, rtol=0)
        stencil = [-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12]
        fourth = sum(ndimage.correlate1d(field, stencil, axis, mode=mode) for axis in range(lattice.dims))
        torch.testing.assert_close(
            laplacian(u, lattice, 4), torch.from_numpy(fourth).reshape(1, -1, 1), atol=1e-13, rtol=0
        )


@pytest.mark.parametrize("lattice", [Grid(4, 5), Grid(4, 5, "periodic"), Grid(4, 5, special=(2, 1))], ids=str)
def test_upwind_advection_place_by_place(lattice):
    u = random_state(lattice, width=2, batch=1)
    velocity = torch.tensor([[0.3, -0.2], [-0.7, 0.4]], dtype=torch.float64)
    found, field = advection(u, velocity, lattice)[0], lattice.unfold(u)[0]
    for row in range(4):
        for column in range(5):
            for channel in range(2):
                wanted = 0.0
                for axis, side in enumerate((4, 5)):
                    speed = float(velocity[axis, channel])
                    place = [row, column]
                    place[axis] += 1 if speed > 0 else -1
                    inside = (
                        place[axis] % side if lattice.boundary == "periodic" else min(max(place[axis], 0), side - 1)
                    )
                    place[axis] = inside
                    wanted += abs(speed) * float(field[place[0], place[1], channel] - field[row, column, channel])
                token = lattice.special[0] + 5 * row + column
                assert float(found[token, channel]) == pytest.approx(wanted, abs=1e-13)
    assert bool((found[[k for k in range(lattice.tokens) if not 0 <= k - lattice.special[0] < 20]] == 0).all())


def test_special_tokens_and_positions_are_counted():
    assert Grid(3, 4, special=1).tokens == 13 and Chain(5, special=(1, 2)).tokens == 8
    assert Grid(3, 4).positions()[5].tolist() == [1, 1]


# Bad input: one sentence that names what was given


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda: Chain(8, "reflecting"), "boundary 'reflecting' was given: choose from periodic"),
        (lambda: Chain(2), r"sides \(2,\) were given: each must be a whole number, at least 3"),
        (lambda: Grid(4, 2.5), "at least 3"),
        (lambda: Chain(8, special=-1), r"special tokens \(-1, 0\) were given"),
        (lambda: Chain(8, "periodic", causal=True), "periodic causal chain"),
        (lambda: laplacian(torch.zeros(2, 7, 3), Chain(8)), r"shape \(2, 7, 3\) was given, but \(..., 8, width\)"),
        (lambda: gradient(torch.zeros(7, 3), Chain(8)), "8 places and 0 special tokens"),
        (lambda: laplacian(torch.zeros(8), Chain(8)), r"shape \(8,\)"),
        (lambda: laplacian(torch.zeros(8, 3), Chain(8), order=3), "order 3 was given: choose 2 or 4"),
        (lambda: laplacian(torch.zeros(4, 3), Chain(4), order=4), "at least 5"),
        (lambda: laplacian(torch.zeros(8, 3), Chain(8, causal=True)), "one-sided second difference is ill-posed"),
        (lambda: eigensystem(Chain(8, causal=True)), "one-sided second difference is ill-posed"),
        (lambda: gradient(torch.zeros(8, 3), Chain(8), "sideways"), "scheme 'sideways' was given"),
        (lambda: gradient(torch.zeros(8, 3), Chain(8, causal=True)), "reads the future: use backward"),
        (lambda: advection(torch.zeros(8, 3), torch.tensor(0.1), Chain(8), "down"), "choose upwind or central"),
        (lambda: advection(torch.zeros(8, 3), torch.tensor(0.1), Chain(8, causal=True)), "0.1 on a causal chain"),
    ],
)
def test_bad_input_is_named(do, says):
    with pytest.raises(ValueError, match=says):
        do()


def test_masks_need_neumann():
    mask = torch.tensor([True] * 6 + [False] * 2)
    for apply in (laplacian, gradient):
        with pytest.raises(ValueError, match="boundary 'periodic' was given: padding needs"):
            apply(torch.zeros(8, 3), Chain(8, "periodic"), mask=mask)
    with pytest.raises(ValueError, match="a mask with order 4"):
        laplacian(torch.zeros(8, 3), Chain(8), order=4, mask=mask)


def test_integer_states_are_refused():
    with pytest.raises(TypeError, match=r"type torch.int64 was given, but floating point is wanted: use u.float\(\)"):
        laplacian(torch.zeros(8, 3, dtype=torch.int64), Chain(8))
