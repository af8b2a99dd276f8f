import pytest
import torch

from pdelens import Chain, Flow, Grid
from pdelens.attention import expansions, moments


def shift(length, by):
    """Attention of a head that copies the token `by` places away, ends clamped."""
    keys = (torch.arange(length) + by).clamp(0, length - 1)
    return torch.nn.functional.one_hot(keys, length).double()


@pytest.mark.parametrize("by", [-2, -1, 0, 3])
def test_a_shift_has_its_drift_and_no_diffusivity(by):
    found = moments.attention_moments(shift(12, by)[None, None], Chain(12))
    inside = slice(3, 9)
    assert found.drift[0, 0, inside, 0].tolist() == [by] * 6
    assert float(found.diffusivity[0, 0, inside].abs().max()) == 0


def test_cumulants_of_a_discrete_gaussian_on_a_grid():
    lattice = Grid(25, 25)
    place = lattice.positions().double()
    offset = place[None] - place[:, None] - torch.tensor([0.7, -0.4])
    precision = torch.linalg.inv(torch.tensor([[2.0, 0.6], [0.6, 1.5]], dtype=torch.float64))
    weights = torch.softmax(-torch.einsum("qkd,de,qke->qk", offset, precision, offset) / 2, -1)[None, None]
    found = moments.attention_moments(weights, lattice)
    centre = 12 * 25 + 12
    assert found.drift[0, 0, centre].tolist() == pytest.approx([0.7, -0.4], abs=1e-4)
    assert (2 * found.diffusivity[0, 0, centre]).flatten().tolist() == pytest.approx([2.0, 0.6, 0.6, 1.5], abs=1e-3)
    again = expansions.truncated_gaussian(found, lattice, floor=0)
    assert float((again[0, 0, centre] - weights[0, 0, centre]).abs().max()) < 1e-5


def test_uniform_causal_head_has_the_known_moments():
    weights = torch.ones(40, 40).tril().double()
    weights = (weights / weights.sum(-1, keepdim=True))[None, None]
    found = moments.attention_moments(weights, Chain(40))
    i = torch.arange(40).double()
    assert torch.allclose(found.drift[0, 0, :, 0], -i / 2)
    assert torch.allclose(found.diffusivity[0, 0, :, 0, 0], ((i + 1) ** 2 - 1) / 24)


def test_mass_on_special_tokens_is_left_out():
    lattice = Chain(6, special=(1, 1))
    weights = torch.zeros(1, 1, 8, 8)
    weights[..., 0] = 0.25
    weights[..., 7] = 0.25
    weights[..., 1:7] = shift(8, -1)[..., 1:7].float() * 0.5
    found = moments.attention_moments(weights, lattice)
    assert found.special_mass[0, 0, 1:].tolist() == [0.5] * 5
    assert found.drift[0, 0, 1:, 0].tolist() == [-1.0] * 5


@pytest.mark.parametrize("lattice", [Chain(16), Grid(7, 7)])
def test_taylor_is_exact_for_quadratic_states(lattice):
    """A local head on a state that is quadratic in position: the expansion has no remainder inside."""
    place = lattice.positions().double()
    columns = [place[:, 0], place[:, 0] ** 2, place[:, -1], place[:, -1] ** 2, place[:, 0] * place[:, -1]]
    u = torch.stack(columns, -1)[None]
    distance = (place[None] - place[:, None] - 0.3).square().sum(-1)
    weights = torch.softmax(-distance.masked_fill(distance > 6, torch.inf), -1)[None, None]
    found = expansions.taylor(u, moments.attention_moments(weights, lattice), lattice)
    target = weights @ u.unsqueeze(1)
    inside = ((place >= 1) & (place <= torch.tensor(lattice.shape) - 2)).all(-1)
    assert torch.allclose(found[:, :, inside], target[:, :, inside], atol=1e-9)


def test_fitted_stencil_finds_a_stencil():
    lattice = Grid(6, 6)
    u = torch.randn(10, 36, 3, dtype=torch.float64)
    features = expansions.stencil_features(u, lattice)
    wanted = torch.tensor([[0.5, 0.1, -0.2, 0.05, 0.3], [1.0, 0, 0, 0.2, 0.2]], dtype=torch.float64)
    target = torch.einsum("epwf,hf->ehpw", features, wanted)
    found = expansions.fitted_stencil(u, target, lattice)
    assert torch.allclose(found, wanted, atol=1e-9)
    assert float(expansions.remainder(target, u, target).max()) == 0
    assert torch.allclose(expansions.remainder(target, u, u.unsqueeze(1)), torch.ones(2, dtype=torch.float64))


def test_wrong_size_is_named():
    with pytest.raises(ValueError, match=r"\(\.\.\., heads, 6, 6\) is wanted"):
        moments.attention_moments(torch.ones(1, 1, 5, 5), Chain(6))


LATTICES = [Chain(12, special=(1, 1)), Chain(12, special=1, causal=True), Grid(4, 5, special=1)]


def some_flow(lattice, examples=5, spread=2.0):
    generator = torch.Generator().manual_seed(0)
    tokens = lattice.tokens
    logits = spread * torch.randn(examples, 3, tokens, tokens, generator=generator)
    if lattice.causal:
        logits = logits.masked_fill(~torch.ones(tokens, tokens, dtype=torch.bool).tril(), float("-inf"))
    states = [torch.randn(examples, tokens, 8, generator=generator) for _ in range(2)]
    return Flow(states, [torch.softmax(logits, -1)], causal=lattice.causal)


@pytest.mark.parametrize("lattice", LATTICES)
@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_moments_and_propagator_meet_their_definitions(lattice, spread):
    weights = some_flow(lattice, spread=spread).attention[0]
    found = moments.attention_moments(weights, lattice)
    own = slice(lattice.special[0], lattice.special[0] + lattice.places)
    inner = weights.double()[..., own, own]
    inner = inner / inner.sum(-1, keepdim=True).clamp_min(1e-300)
    place = lattice.positions().double()
    offset = place[None] - place[:, None]
    drift = torch.einsum("...qk,qkd->...qd", inner, offset)
    spread_ = offset - drift.unsqueeze(-2)
    covariance = torch.einsum("...qk,...qkd,...qke->...qde", inner, spread_, spread_)
    torch.testing.assert_close(found.drift.double(), drift, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.diffusivity.double(), covariance / 2, atol=1e-5, rtol=1e-5)
    away = offset - found.drift.double().unsqueeze(-2)
    wide = 2 * found.diffusivity.double() + 1e-2 * torch.eye(lattice.dims).double()
    solved = torch.linalg.solve(wide.unsqueeze(-3), away.unsqueeze(-1)).squeeze(-1)
    plain = torch.softmax(-(away * solved).sum(-1) / 2, -1)
    torch.testing.assert_close(expansions.truncated_gaussian(found, lattice).double(), plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lattice", LATTICES)
def test_fitted_stencil_is_the_least_squares_one(lattice):
    flow = some_flow(lattice)
    inner, u = expansions._inside(flow, 0, lattice, torch.tanh)
    target = inner @ u.unsqueeze(1)
    found = expansions.fitted_stencil(u, target, lattice)
    features = expansions.stencil_features(u, lattice).flatten(0, -2).double()
    best = torch.linalg.lstsq(features, target.movedim(1, -1).flatten(0, -2).double()).solution.T
    torch.testing.assert_close(found.double(), best, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lattice", LATTICES)
def test_remainders_of_examples_are_those_of_each_alone(lattice):
    calibration, heldout = some_flow(lattice).split(3)
    found = expansions.remainders(calibration, heldout, lattice, [torch.tanh], per_example=True)
    for example in range(2):
        one = expansions.remainders(calibration, heldout.select(slice(example, example + 1)), lattice, torch.tanh)
        for name, exact in one.items():
            torch.testing.assert_close(found[name][example], exact, msg=lambda m, n=name: n + m)
