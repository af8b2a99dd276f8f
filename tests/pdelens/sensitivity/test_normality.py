import math

import pytest
import torch
import torch.nn.functional as F
from linear import linear, random

from companion.theory.problems import full_equation
from pdelens.lattice import Chain
from pdelens.models import Configuration, Transformer
from pdelens.sensitivity import normality
from pdelens.sensitivity.flow_map import FlowMap, flow_map
from pdelens.sensitivity.jacobian import FieldJacobian
from pdelens.sensitivity.normality import coupling, non_normality
from pdelens.sensitivity.singular import jacobian_spectrum
from pdelens.sensitivity.sphere import split_at_norm


def map_of(matrix, examples=1):
    """Return the map of states of one token by a matrix, or of as many tokens as it has rows of eight."""
    size = len(matrix)
    return FlowMap(lambda u: (u.flatten(1) @ matrix.T).view_as(u), random(examples, 1, size))


def dense(matrix):
    """Return the definitions, written out entry by entry."""
    size = sum(float(x) ** 2 for x in matrix.flatten())
    commutator = matrix.T @ matrix - matrix @ matrix.T
    departure = math.sqrt(sum(float(x) ** 2 for x in commutator.flatten())) / size
    asymmetry = sum(float(x) ** 2 for x in (matrix - matrix.T).flatten()) / (4 * size)
    return departure, asymmetry, max(torch.linalg.eigvalsh((matrix + matrix.T) / 2).tolist())


def values(found):
    return [float(one.value[0]) for one in (found.departure, found.asymmetry, found.abscissa)]


TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
SHEAR = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
LOOKS_LIKE_ITS_TRANSPOSE = random(6, 6) + random(6, 6).T
KNOWN = {
    "a turn is normal and skew": (TURN, (0.0, 1.0, 0.0)),
    "a shear is as far from normal as can be": (SHEAR, (math.sqrt(2), 0.5, 0.5)),
    "a symmetric matrix is normal": (
        LOOKS_LIKE_ITS_TRANSPOSE,
        (0.0, 0.0, float(torch.linalg.eigvalsh(LOOKS_LIKE_ITS_TRANSPOSE)[-1])),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_matrices(name):
    matrix, expected = KNOWN[name]
    assert values(non_normality(map_of(matrix), residual=False)) == pytest.approx(expected, abs=1e-12)
    one = torch.eye(len(matrix)).double()
    assert values(non_normality(map_of(one + matrix))) == pytest.approx(expected, abs=1e-12), "of J - 1, if not told"


def test_random_entries_are_half_asymmetric():
    assert values(non_normality(map_of(random(200, 200)), residual=False))[1] == pytest.approx(0.5, abs=0.01)


def test_the_branch_is_read_and_not_the_identity_beside_it():
    """Of J = 1 + A with a small A all is nearly symmetric; the commutators are one."""
    branch = 0.01 * random(30, 30, seed=3)
    one = map_of(torch.eye(30).double() + branch)
    of_branch, of_whole = non_normality(one), non_normality(one, residual=False)
    assert values(of_branch) == pytest.approx(dense(branch), rel=1e-9)
    assert values(of_whole) == pytest.approx(dense(torch.eye(30).double() + branch), rel=1e-9)
    assert values(of_branch)[1] > 0.4 and values(of_whole)[1] < 0.01
    assert values(of_branch)[0] > 20 * values(of_whole)[0]


def test_a_fields_jacobian_is_a_branch_itself():
    pde, u = full_equation(Chain(6), 8), random(2, 6, 8)
    jacobian = FieldJacobian(pde, 0.4, u)
    found = non_normality(jacobian)
    for number in range(2):
        expected = dense(jacobian.matrix()[number])
        ours = [float(one.value[number]) for one in (found.departure, found.asymmetry, found.abscissa)]
        assert ours == pytest.approx(expected, rel=1e-9)


def test_a_models_layer_against_the_written_matrix():
    model = Transformer(Configuration(vocabulary=20, length=5, width=8, heads=2, layers=3, outputs=2)).double()
    one = flow_map(model, torch.randint(1, 20, (1, 5), generator=torch.Generator().manual_seed(1)), 1, 2)
    found = non_normality(one)
    assert values(found) == pytest.approx(dense(one.matrix()[0] - torch.eye(40)), rel=1e-9) and found.exact
    assert not found.departure.error.any()


@pytest.mark.parametrize("residual", [True, False])
def test_random_signs_find_it_within_their_errors(residual, monkeypatch):
    monkeypatch.setattr(normality, "DENSE", 1)
    matrix = random(60, 60, seed=5) / 8 + torch.diag(torch.linspace(-1, 1, 60).double())
    one = map_of(matrix, 2)
    expected = dense(matrix - torch.eye(60) if residual else matrix)
    draws = [non_normality(one, residual=residual, draws=6, rounds=20, seed=seed) for seed in range(12)]
    assert not draws[0].exact
    for place, name in enumerate(("departure", "asymmetry")):
        found = torch.stack([getattr(draw, name).value for draw in draws]).flatten()
        stated = torch.stack([getattr(draw, name).error for draw in draws]).flatten()
        off = (found - expected[place]) / stated
        # Six draws give a t of five degrees of freedom, whose root mean square is 1.3.
        assert 0.5 < float(off.square().mean().sqrt()) < 2.5, name
        assert abs(float(found.mean()) / expected[place] - 1) < 0.05, name
    for draw in draws:
        torch.testing.assert_close(draw.abscissa.value, torch.full((2,), expected[2]).double(), atol=1e-6, rtol=0)
        assert bool((draw.abscissa.error < 1e-2).all())


def test_an_abscissa_of_few_rounds_is_a_bound_with_an_honest_error(monkeypatch):
    monkeypatch.setattr(normality, "DENSE", 1)
    matrix = random(60, 60, seed=5)
    exact = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    for rounds in (1, 3, 6):
        found = non_normality(map_of(matrix), residual=False, rounds=rounds).abscissa
        assert float(found.value) <= float(exact[-1]) + 1e-9
        assert float((exact - found.value).abs().min()) <= float(found.error) + 1e-9


@pytest.mark.parametrize("written", [True, False])
def test_padded_tokens_have_no_part_in_it(written, monkeypatch):
    if not written:
        monkeypatch.setattr(normality, "DENSE", 1)
    matrix = random(4, 4, seed=2) - 4 * torch.eye(4)  # its abscissa is below zero, where padding's zeros are not
    mask = torch.tensor([[True, True, False]])
    u = random(1, 3, 4)
    padded = FlowMap(lambda v: v @ matrix.T, torch.where(mask[..., None], u, 1e3), mask)
    alone = FlowMap(lambda v: v @ matrix.T, u[:, :2])
    for residual in (True, False):
        found, expected = (values(non_normality(one, residual=residual, seed=3)) for one in (padded, alone))
        assert found == pytest.approx(expected, rel=1e-9) and found[2] < -0.5


def test_a_map_that_is_the_identity_has_no_branch():
    found = non_normality(map_of(torch.eye(5).double()))
    assert values(found) == [0.0, 0.0, 0.0]


# Coupling


def test_spaces_that_are_known():
    """The left vectors of the first are axes 0, 1; the right ones of the second are axes 1, 2, turned in themselves."""
    stretch = torch.tensor([9.0, 8.0, 1.0, 1.0, 1.0, 1.0]).double()
    first = map_of(torch.diag(stretch))
    for axes, expected in (((0, 1), 1.0), ((1, 2), 0.5), ((4, 5), 0.0)):
        other = torch.ones(6).double()
        other[list(axes)] = torch.tensor([7.0, 6.0]).double()
        second = map_of(torch.linalg.qr(random(6, 6))[0] @ torch.diag(other))
        found = coupling(jacobian_spectrum(first, 2), jacobian_spectrum(second, 2))
        assert float(found.overlap) == pytest.approx(expected, abs=1e-9)
        assert float(found.chance) == pytest.approx(2 / 6)


def test_it_is_where_the_first_ends_and_the_second_begins():
    turn = torch.linalg.qr(random(6, 6))[0]
    stretch = torch.diag(torch.tensor([9.0, 8.0, 1.0, 1.0, 1.0, 1.0]).double())
    first, second = map_of(turn @ stretch), map_of(stretch @ turn.T)
    met = coupling(jacobian_spectrum(first, 2), jacobian_spectrum(second, 2))
    turned = coupling(jacobian_spectrum(second, 2), jacobian_spectrum(first, 2))
    assert float(met.overlap) == pytest.approx(1) and float(turned.overlap) == pytest.approx(1)
    assert float(coupling(jacobian_spectrum(first, 2), jacobian_spectrum(first, 2)).overlap) < 0.9


def test_random_spaces_meet_by_chance():
    overlaps, sizes = [], ((3, 3), (3, 6))
    for one, other in sizes:
        found = [
            coupling(
                jacobian_spectrum(map_of(random(30, 30, seed=2 * seed)), one),
                jacobian_spectrum(map_of(random(30, 30, seed=2 * seed + 1)), other),
            )
            for seed in range(60)
        ]
        overlaps.append(sum(float(each.overlap) for each in found) / 60)
        assert overlaps[-1] == pytest.approx(float(found[0].chance), rel=0.25)
    assert overlaps[1] > 1.5 * overlaps[0]


def test_chance_counts_real_entries_only():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    one = FlowMap(lambda v: 2 * v, random(2, 3, 4), mask)
    found = coupling(jacobian_spectrum(one, 2), jacobian_spectrum(one, 2))
    assert found.chance.tolist() == pytest.approx([2 / 8, 2 / 12])


# Tangent and normal


def blindness(norm, u):
    functions = {
        "layer": lambda v: F.layer_norm(v, v.shape[-1:], eps=0.0),
        "rms": lambda v: v / v.square().mean(-1, keepdim=True).sqrt(),
        "mean": lambda v: v - v.mean(-1, keepdim=True),
    }
    return lambda v: torch.func.jvp(functions[norm], (u,), (v,))[1]


@pytest.mark.parametrize("norm", ["layer", "rms", "mean"])
def test_a_norms_jacobian_is_zero_on_the_normal_part_and_one_to_one_on_the_other(norm):
    u, v = 3 * random(2, 4, 6) + 1, random(2, 4, 6, seed=1)
    found, product = split_at_norm(u, v, norm), blindness(norm, u)
    torch.testing.assert_close(found.tangent + found.normal, v)
    assert float(product(found.normal).abs().max()) < 1e-14
    torch.testing.assert_close(product(found.tangent), product(v))
    assert float((found.tangent * found.normal).sum(-1).abs().max()) < 1e-14
    # One-to-one: as many directions are left as the norm has, and none of them shrinks to nothing.
    lost = {"layer": 2, "rms": 1, "mean": 1}[norm]
    matrix = torch.func.jacrev(lambda row: blindness(norm, u[0, :1])(row[None])[0])(torch.zeros(6).double())
    sizes = torch.linalg.svdvals(matrix)
    assert float(sizes[-lost]) < 1e-12 < 1e-2 < float(sizes[-lost - 1])


def test_the_sphere_of_an_equation_has_the_same_tangents():
    from pdelens.pde.constraints import Sphere

    z = Sphere().retract(random(2, 3, 6))
    v = random(2, 3, 6, seed=1)
    torch.testing.assert_close(split_at_norm(z, v).tangent, Sphere().project(z, v), atol=1e-9, rtol=1e-9)


def test_a_constant_token_has_a_mean_alone():
    found = split_at_norm(torch.ones(1, 1, 3), torch.tensor([[[1.0, 2.0, 3.0]]]))
    assert found.normal.tolist() == [[[2.0, 2.0, 2.0]]] and found.tangent.tolist() == [[[-1.0, 0.0, 1.0]]]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: non_normality(TURN), "what `flow_map` returns, or a FieldJacobian"),
        (lambda: non_normality(map_of(TURN), draws=1), "draws=1 was given"),
        (lambda: non_normality(map_of(TURN), residual="yes"), "True or False is wanted"),
        (lambda: coupling(None, None), "what `jacobian_spectrum` returns"),
        (
            lambda: coupling(jacobian_spectrum(map_of(TURN), 1), jacobian_spectrum(map_of(torch.eye(3).double()), 1)),
            "the same states' tokens are wanted",
        ),
        (lambda: split_at_norm(random(1, 2, 3), random(1, 2, 4)), "was given for"),
        (lambda: split_at_norm(random(1, 2, 3), random(1, 2, 3), "dyt"), "choose from layer, rms, mean"),
        (lambda: split_at_norm(random(1, 2, 3).long(), random(1, 2, 3)), "floating point is wanted"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        call()


def test_an_equations_map_is_far_from_normal_where_its_generator_is():
    shear = torch.tensor([[-1.0, 10.0], [0.0, -2.0]], dtype=torch.float64)
    one = flow_map(linear(shear), random(1, 1, 2), substeps=32)
    exact = torch.linalg.matrix_exp(shear)
    assert values(non_normality(one, residual=False)) == pytest.approx(dense(exact), rel=1e-5)
