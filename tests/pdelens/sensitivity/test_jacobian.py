import math

import pytest
import torch
from linear import linear, random
from torch.nn.attention import SDPBackend, sdpa_kernel

from companion.theory.problems import fitted_order, full_equation
from pdelens.flow import Flow
from pdelens.lattice import Chain, Grid, Lattice, eigensystem
from pdelens.pde.constraints import Sphere
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.terms import Diffusion, Term
from pdelens.sensitivity import spectrum as spectra
from pdelens.sensitivity.jacobian import FieldJacobian
from pdelens.sensitivity.local_error import error_growth, local_errors
from pdelens.sensitivity.spectrum import eigenvalues, lipschitz_constant, logarithmic_norms, spectrum


def diffusing(lattice, width, diffusivity=0.3):
    pde = PDE({"diffusion": Diffusion(lattice, width, diffusivity)}, lattice, 1.0).double()
    return pde, float(pde.terms["diffusion"].diffusivity(0.0).detach()[0])


def field_matrix(pde, t, u, mask=None):
    """Return one example's Jacobian by autograd, with the fused kernel out of the way."""
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.autograd.functional.jacobian(lambda x: pde.rhs(t, x[None], mask)[0], u)
    return found.reshape(u.numel(), u.numel())


def tiny():
    return full_equation(Chain(6), 8), random(2, 6, 8)


NON_NORMAL = torch.tensor([[-1.0, 10.0], [0.0, -2.0]], dtype=torch.float64)


# Exact spectra


@pytest.mark.parametrize(
    ("lattice", "width"),
    [(Chain(7), 2), (Chain(40), 2), (Grid(6, 5, "periodic"), 3), (Grid(5, 4, special=1), 1)],
    ids=str,
)
def test_diffusions_spectrum_is_the_lattices(lattice, width):
    # Width * tokens on both sides of 64: the dense way and ARPACK, whose rightmost eigenvalue here is zero.
    pde, diffusivity = diffusing(lattice, width)
    values = diffusivity * eigensystem(Lattice(lattice.shape, lattice.boundary))[0]
    found = spectrum(pde, 0.0, random(2, lattice.tokens, width))
    lowest, highest = float(values.min()), 0.0
    for number in range(2):
        assert float(found.lipschitz[number]) == pytest.approx(-lowest, rel=1e-4)
        assert float(found.log_norms.lower[number]) == pytest.approx(lowest, rel=1e-4)
        assert float(found.log_norms.upper[number]) == pytest.approx(highest, abs=1e-4)
        rightmost, leftmost, largest = (complex(part[number]) for part in found.eigenvalues)
        assert abs(rightmost - highest) < 1e-4 and abs(leftmost - lowest) < 1e-4 and abs(largest - lowest) < 1e-4


def test_neumann_chain_has_its_closed_form():
    pde, diffusivity = diffusing(Chain(9), 1)
    found = spectrum(pde, 0.5, random(1, 9, 1))
    exact = -4 * diffusivity * math.sin(math.pi * 8 / 18) ** 2
    assert float(found.eigenvalues.leftmost.real) == pytest.approx(exact, rel=1e-12)
    # The bound of explicit diffusion is where the fastest mode's factor reaches 1.
    assert abs(1 - 2 / exact * complex(found.eigenvalues.leftmost)) == pytest.approx(1)
    assert abs(1 - 2.2 / exact * complex(found.eigenvalues.leftmost)) > 1.1


@pytest.mark.parametrize("tokens", [3, 40])
def test_non_normal_reaction_grows_before_it_decays(tokens):
    found = spectrum(linear(NON_NORMAL), 0.0, random(1, tokens, 2))
    symmetric = torch.linalg.eigvalsh((NON_NORMAL + NON_NORMAL.T) / 2)
    assert float(found.lipschitz) == pytest.approx(float(torch.linalg.matrix_norm(NON_NORMAL, 2)), rel=1e-5)
    assert float(found.log_norms.lower) == pytest.approx(float(symmetric[0]), rel=1e-4)
    assert float(found.log_norms.upper) == pytest.approx(float(symmetric[1]), rel=1e-4)
    assert float(found.eigenvalues.rightmost.real) == pytest.approx(-1, abs=1e-3)
    assert float(found.eigenvalues.leftmost.real) == pytest.approx(-2, abs=1e-3)
    assert float(found.log_norms.upper) > 3 > float(found.eigenvalues.rightmost.real)


@pytest.mark.parametrize("tokens", [5, 40])
def test_rotation_has_imaginary_eigenvalues_that_euler_lets_grow(tokens):
    turn = torch.tensor([[0.0, -3.0], [3.0, 0.0]], dtype=torch.float64)
    found = spectrum(linear(turn), 0.0, random(1, tokens, 2))
    assert abs(abs(float(found.eigenvalues.largest.imag)) - 3) < 1e-4
    assert abs(float(found.eigenvalues.largest.real)) < 1e-4 and abs(float(found.log_norms.upper)) < 1e-4
    assert abs(1 + complex(found.eigenvalues.largest)) == pytest.approx(10**0.5, abs=1e-3)


def test_a_field_that_ignores_the_state_has_a_zero_jacobian():
    class Push(Term):
        def forward(self, t, u, mask=None):
            return torch.ones_like(u)

    for tokens in (4, 40):
        found = spectrum(PDE({"push": Push()}, None, 1.0), 0.0, random(1, tokens, 2))
        assert float(found.lipschitz) == float(found.log_norms.upper) == abs(complex(found.eigenvalues.largest)) == 0


# The Jacobian against autograd


def test_jacobian_against_autograd():
    pde, u = tiny()
    jacobian = FieldJacobian(pde, 0.4, u)
    matrix = jacobian.matrix()
    for number in range(2):
        torch.testing.assert_close(matrix[number], field_matrix(pde, 0.4, u[number]), atol=1e-12, rtol=0)
        torch.testing.assert_close(jacobian.example(number).matrix()[0], matrix[number], atol=1e-12, rtol=0)
    v = random(2, 6, 8, seed=1)
    for product, used in ((jacobian.jvp(v), matrix), (jacobian.vjp(v), matrix.mT)):
        torch.testing.assert_close(product.flatten(1), (used @ v.flatten(1)[..., None])[..., 0], atol=1e-12, rtol=0)


def test_products_are_those_of_torch_func():
    pde, u = tiny()
    v, jacobian = random(2, 6, 8, seed=1), FieldJacobian(pde, 0.4, u)

    def field(x):
        return pde.rhs(0.4, x)

    with sdpa_kernel(SDPBackend.MATH):
        _, forward = torch.func.jvp(field, (u,), (v,))
        _, pull = torch.func.vjp(field, u)
    torch.testing.assert_close(jacobian.jvp(v), forward, atol=1e-12, rtol=0)
    torch.testing.assert_close(jacobian.vjp(v), pull(v)[0], atol=1e-12, rtol=0)


@torch.no_grad()
def test_jacobian_is_the_fields_slope_also_without_gradients_and_in_float32():
    pde, u = tiny()
    v, increment = random(2, 6, 8, seed=1), 1e-5
    slope = (pde.rhs(0.4, u + increment * v) - pde.rhs(0.4, u - increment * v)) / (2 * increment)
    torch.testing.assert_close(FieldJacobian(pde, 0.4, u).jvp(v), slope, atol=1e-7, rtol=0)
    single = FieldJacobian(pde.float(), 0.4, u.float()).jvp(v)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), slope, atol=1e-3, rtol=1e-4)


def test_measures_of_a_transformers_field_against_dense_algebra():
    # 160 rows are past what is solved densely: ARPACK against dense algebra.
    pde, u = full_equation(Chain(20), 8), random(2, 20, 8)
    found, dense = spectrum(pde, 0.4, u), FieldJacobian(pde, 0.4, u).matrix()
    symmetric = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    values = torch.linalg.eigvals(dense)
    torch.testing.assert_close(found.lipschitz, torch.linalg.matrix_norm(dense, 2), rtol=1e-4, atol=0)
    torch.testing.assert_close(found.log_norms.lower, symmetric[:, 0], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.log_norms.upper, symmetric[:, -1], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.eigenvalues.rightmost.real, values.real.amax(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.eigenvalues.leftmost.real, values.real.amin(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.eigenvalues.largest.abs(), values.abs().amax(1), rtol=1e-4, atol=1e-4)
    for small, large in (
        (found.log_norms.lower, found.eigenvalues.leftmost.real),
        (found.eigenvalues.rightmost.real, found.log_norms.upper),
        (found.eigenvalues.largest.abs(), found.lipschitz),
    ):
        assert bool((small <= large * (1 + 1e-4 * large.sign())).all())


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_as_if_it_were_not_there(causal):
    terms = {"diffusion": None, "advection": -0.3} if causal else {}
    long, short = (full_equation(Chain(n, causal=causal), 8, **terms) for n in (12, 9))
    u, mask = random(2, 12, 8), torch.ones(2, 12, dtype=torch.bool)
    mask[1, 9:] = False
    padded, alone = FieldJacobian(long, 0.4, u, mask), FieldJacobian(short, 0.4, u[1:, :9])
    found, expected, real = padded.matrix(), alone.matrix()[0], 9 * 8
    whole = FieldJacobian(long, 0.4, u).matrix()
    torch.testing.assert_close(found[0], whole[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(found[1, :real, :real], expected, atol=1e-12, rtol=0)
    assert float(found[1, real:].abs().max()) == float(found[1, :, real:].abs().max()) == 0
    v = random(2, 12, 8, seed=1)
    for product, used in ((padded.jvp(v), found), (padded.vjp(v), found.mT)):
        torch.testing.assert_close(product.flatten(1), (used @ v.flatten(1)[..., None])[..., 0], atol=1e-12, rtol=0)
    # A causal token sees no padding after it, masked or not; any other does.
    assert torch.allclose(whole[1, :real, :real], expected, atol=1e-6) == causal
    ours, theirs = logarithmic_norms(padded), logarithmic_norms(alone)
    assert float(ours.upper[1]) == pytest.approx(float(theirs.upper), rel=1e-4)
    assert float(lipschitz_constant(padded)[1]) == pytest.approx(float(lipschitz_constant(alone)), rel=1e-4)


def test_large_states_reach_the_second_difference_of_large_tensors():
    # Past 2^20 entries diffusion is a custom function that functorch would refuse.
    lattice = Grid(128, 128)
    pde, _ = diffusing(lattice, 64)
    v = random(1, lattice.tokens, 64)
    jacobian = FieldJacobian(pde, 0.0, torch.zeros_like(v))
    torch.testing.assert_close(jacobian.jvp(v), pde.rhs(0.0, v).detach(), atol=1e-12, rtol=0)
    torch.testing.assert_close(jacobian.vjp(v), jacobian.jvp(v), atol=1e-12, rtol=0)
    assert float(jacobian.jvp(v).abs().max()) > 1


def test_a_constrained_field_is_tangential_and_its_jacobian_is_autograds():
    pde = TransformerPDE(8, 2, Chain(5), depth=2, form="post", diffusion=0.3).double()
    z = pde.constraint.retract(random(1, 5, 8))
    torch.testing.assert_close(FieldJacobian(pde, 0.3, z).matrix()[0], field_matrix(pde, 0.3, z[0]), atol=1e-12, rtol=0)


# Along a trajectory


@torch.no_grad()
def test_local_errors_of_a_linear_field_are_the_exponentials():
    matrix = 0.8 * NON_NORMAL
    pde, u = linear(matrix, depth=2.0), random(3, 4, 2)
    flow = integrate(pde, u, method="dopri5")
    found = local_errors(pde, flow, rtol=1e-10, atol=1e-12)
    exact = torch.linalg.matrix_exp(matrix)
    for layer in range(2):
        state = flow.states[layer]
        solved, stepped = state @ exact.T, state + state @ matrix.T
        torch.testing.assert_close(found.error[layer], (stepped - solved).flatten(1).norm(dim=1), rtol=1e-6, atol=0)
        torch.testing.assert_close(
            found.displacement[layer], (solved - state).flatten(1).norm(dim=1), rtol=1e-6, atol=0
        )
        torch.testing.assert_close(found.solved[layer], solved, rtol=1e-7, atol=1e-9)
    assert torch.equal(found.relative, found.error / found.displacement)


@torch.no_grad()
@pytest.mark.parametrize(("method", "order", "rtol"), [("lie", 1, 1e-7), ("rk4", 4, 1e-10)])
def test_local_errors_fall_at_the_methods_order(method, order, rtol):
    # Halving the step halves the error of a first-order method.
    pde, u, counts = full_equation(Chain(6), 8), random(2, 6, 8), (16, 32, 64)
    errors = [local_errors(pde, Flow(states=[u, u]), method, n, rtol=rtol, atol=rtol / 10).error[0] for n in counts]
    for number in range(2):
        found = fitted_order([1 / n for n in counts], [float(error[number]) for error in errors])
        assert abs(found - order) < 0.1, (number, errors)


@torch.no_grad()
def test_relative_error_grows_in_proportion_to_a_small_lipschitz_constant():
    u, scales = random(1, 4, 2), (1e-3, 2e-3, 4e-3, 8e-3)
    errors, constants = [], []
    for scale in scales:
        pde = linear(scale * NON_NORMAL)
        flow = integrate(pde, u, method="dopri5", rtol=1e-12, atol=1e-14)
        errors.append(local_errors(pde, flow, rtol=1e-12, atol=1e-14).relative[0])
        constants.append(lipschitz_constant(FieldJacobian(pde, 0.0, u)))
        assert float(errors[-1]) <= float(constants[-1]) / 2 * 1.02  # the leading order's bound, h |J| / 2
    exponent, correlation = error_growth(torch.stack(errors), torch.stack(constants))
    assert exponent == pytest.approx(1, abs=0.02) and correlation == pytest.approx(1)


@torch.no_grad()
def test_padding_does_not_count_as_error():
    pde, u = full_equation(Chain(8), 8), random(1, 8, 8)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    short = full_equation(Chain(5), 8)
    ours, theirs = (
        local_errors(equation, Flow(states=[state, state], mask=keep))
        for equation, state, keep in ((pde, u, mask), (short, u[:, :5], None))
    )
    torch.testing.assert_close(ours.error, theirs.error, rtol=1e-4, atol=0)


# What is refused


@pytest.mark.parametrize(
    ("do", "error", "says"),
    [
        (lambda p, u: FieldJacobian(p, 3.0, u), ValueError, r"depth-time 3 was given, .* lives on \[0, 1\]"),
        (lambda p, u: FieldJacobian(p, 0.0, u[0]), ValueError, r"u of shape \(6, 8\) was given"),
        (lambda p, u: FieldJacobian(p, 0.0, u.long()), TypeError, "type torch.int64"),
        (lambda p, u: FieldJacobian(p, 0.0, u[:, :5]), ValueError, r"\(\.\.\., 6, width\) is wanted"),
        (lambda p, u: FieldJacobian(p, 0.0, u, torch.ones(2, 5)), ValueError, r"mask has shape \(2, 5\), but \(2, 6\)"),
        (lambda p, u: FieldJacobian(p, 0.0, u).jvp(u[:1]), ValueError, r"a vector of shape \(1, 6, 8\)"),
        (
            lambda p, u: local_errors(PDE(dict(p.terms), None, 1, Sphere()), Flow(states=[u, u])),
            ValueError,
            "an equation on a sphere was given",
        ),
        (lambda p, u: error_growth(torch.ones(3), torch.ones(2)), ValueError, "at least three different constants"),
        (lambda p, u: error_growth(torch.zeros(3), torch.arange(1.0, 4)), ValueError, "must be positive"),
    ],
)
def test_bad_input_is_named(do, error, says):
    with pytest.raises(error, match=says):
        do(*tiny())


def test_large_matrices_and_failed_searches_are_named(monkeypatch):
    jacobian = FieldJacobian(diffusing(Chain(600), 2)[0], 0.0, random(1, 600, 2))
    with pytest.raises(ValueError, match=r"a Jacobian of 1200 x 1200 entries .* at most 1024 x 1024"):
        jacobian.matrix()
    monkeypatch.setattr(spectra, "_RESTARTS", 1)
    with pytest.raises(RuntimeError, match=r"'LR' of 1200 rows was not found to 1e-05 in 1 restarts: .* larger tol"):
        eigenvalues(jacobian)
