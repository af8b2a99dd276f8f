"""What moments alone make of the states: rows that have them exactly, and the flow of their generator, with controls.

Known to pass: heat and drift kernels, which are such flows. Known to fail: random stochastic maps.
"""

import numpy as np
import pytest
import scipy.optimize
import torch

from pdelens import Chain, Grid
from pdelens.attention import expansions
from pdelens.attention import matched as matching
from pdelens.attention.matched import match_moments
from pdelens.attention.moments import Moments, attention_moments
from pdelens.lattice import Lattice

# Small exponentials in two threads cost many times what they take in one.
LATTICES = [Chain(9), Chain(24), Grid(5, 5), Grid(4, 6)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_maps(lattice, spread, heads=3, seed=0):
    return torch.softmax(spread * random(1, heads, lattice.places, lattice.places, seed=seed), -1)


def coefficients(lattice, drift, diffusivity):
    """Return the moments of an operator whose coefficients are the same everywhere."""
    v = torch.as_tensor(drift, dtype=torch.float64).expand(1, lattice.places, lattice.dims)
    spread = diffusivity * torch.eye(lattice.dims, dtype=torch.float64)
    return Moments(v, spread.expand(1, lattice.places, -1, -1), torch.zeros(1, lattice.places).double())


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("lattice", LATTICES, ids=str)
def test_matched_rows_have_the_moments_asked_for(lattice, spread):
    maps = random_maps(lattice, spread)
    wanted = attention_moments(maps, lattice)
    found = match_moments(wanted, lattice)
    again = attention_moments(found.weights, lattice)
    assert float((again.drift - wanted.drift).abs().max()) < 1e-6
    assert float(2 * (again.diffusivity - wanted.diffusivity).abs().max()) < 1e-6
    assert float(found.error.max()) < 1e-6 and len(found.unmatched()) == 0
    torch.testing.assert_close(found.weights.sum(-1), torch.ones_like(found.weights.sum(-1)))


def test_a_matched_row_is_the_one_of_largest_entropy():
    """Against a constrained maximisation that knows nothing of exponential families."""
    lattice = Chain(7)
    row = random_maps(lattice, 1.5)[0, 0, 2].numpy()
    place = np.arange(7.0)
    moment = [np.ones(7), place, place**2]
    constraints = [{"type": "eq", "fun": lambda p, m=m: m @ p - m @ row, "jac": lambda p, m=m: m} for m in moment]
    best = scipy.optimize.minimize(
        lambda p: (p * np.log(p)).sum(),
        row,
        jac=lambda p: np.log(p) + 1,
        bounds=[(1e-12, 1)] * 7,
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success
    found = match_moments(attention_moments(random_maps(lattice, 1.5), lattice), lattice).weights[0, 0, 2]
    np.testing.assert_allclose(found, best.x, atol=1e-5)


@pytest.mark.parametrize("lattice", LATTICES, ids=str)
def test_even_rows_and_discrete_gaussians_are_their_own_match(lattice):
    even = torch.full((1, 1, lattice.places, lattice.places), 1 / lattice.places).double()
    place = lattice.positions().double()
    away = place[None] - place[:, None] - 0.4
    sharp = torch.softmax(-away.square().sum(-1) / 3 + 0.3 * away.prod(-1) * (lattice.dims > 1), -1)[None, None]
    for maps in (even, sharp):
        found = match_moments(attention_moments(maps, lattice), lattice).weights
        torch.testing.assert_close(found, maps, atol=1e-6, rtol=0)


def test_a_gaussian_cut_off_at_the_edges_has_lost_a_fifth_of_its_spread():
    lattice = Grid(7, 7)
    even = attention_moments(torch.full((1, 1, 49, 49), 1 / 49).double(), lattice)
    again = attention_moments(expansions.truncated_gaussian(even, lattice), lattice)
    kept = again.spread()[0, 0, 24] / even.spread()[0, 0, 24]
    assert 0.75 < float(kept) < 0.85


def test_moments_that_no_attention_has_are_named():
    lattice = Chain(9)
    about = attention_moments(random_maps(lattice, 1.0, heads=1), lattice)
    about.diffusivity[0, 0, 4] = 40.0  # a variance of 80 on nine places
    about.drift[0, 0, 6] = 5.0  # beyond the last of them
    found = match_moments(about, lattice)
    assert found.unmatched().tolist() == [[0, 0, 4], [0, 0, 6]]
    assert bool(found.weights.isfinite().all())


def test_rows_that_copy_are_matched_in_the_limit():
    lattice = Chain(12)
    copying = torch.nn.functional.one_hot((torch.arange(12) - 1).clamp_min(0), 12).double()[None, None]
    found = match_moments(attention_moments(copying, lattice), lattice)
    assert float(found.error.max()) < 1e-6
    torch.testing.assert_close(found.weights, copying, atol=1e-6, rtol=0)


def test_rows_are_matched_alike_in_one_batch_and_in_many(monkeypatch):
    about = attention_moments(random_maps(Grid(4, 4), 2.0), Grid(4, 4))
    whole = match_moments(about, Grid(4, 4)).weights
    monkeypatch.setattr(matching, "_ROWS", 5)
    torch.testing.assert_close(match_moments(about, Grid(4, 4)).weights, whole)


@pytest.mark.parametrize("lattice", LATTICES, ids=str)
def test_the_operator_is_exact_on_quadratics(lattice):
    place = lattice.positions().double()
    one, other = place[:, 0], place[:, -1]
    u = torch.stack([one, one**2, one * other if lattice.dims == 2 else one], -1)
    v, spread = random(1, lattice.places, lattice.dims), random(1, lattice.places, lattice.dims, lattice.dims, seed=1)
    spread = spread + spread.mT
    found = expansions.local_operator(Moments(v, spread, torch.zeros(1, lattice.places)), lattice)[0] @ u
    second = 2 * spread[0, :, 0, -1] if lattice.dims == 2 else 0 * one
    third = v[0, :, 0] * other + v[0, :, -1] * one + second if lattice.dims == 2 else v[0, :, 0]
    wanted = torch.stack([v[0, :, 0], 2 * one * v[0, :, 0] + 2 * spread[0, :, 0, 0], third], -1)
    inside = ((place >= 1) & (place <= torch.tensor(lattice.shape) - 2)).all(-1)
    torch.testing.assert_close(found[inside], wanted[inside])


KERNELS = [(Chain(24), 0.0, 0.5), (Chain(24), 0.0, 2.0), (Grid(5, 5), 0.0, 0.5), (Grid(7, 7), 0.0, 2.0)]
KERNELS += [(Chain(24), -0.8, 0.6), (Grid(5, 5), [0.5, -0.3], 0.6)]


def left(maps, flow, lattice):
    u = random(1, lattice.places, 16, seed=7)
    return float(expansions.remainder(maps @ u.unsqueeze(1), u, flow @ u.unsqueeze(1))[0])


@pytest.mark.parametrize(("lattice", "drift", "diffusivity"), KERNELS, ids=str)
def test_heat_and_drift_kernels_are_recognised_as_flows_of_a_generator(lattice, drift, diffusivity):
    kernel = torch.linalg.matrix_exp(
        expansions.local_operator(coefficients(lattice, drift, diffusivity), Lattice(lattice.shape, lattice.boundary))
    )[None]
    about = attention_moments(kernel.clamp_min(0), lattice)
    flow, lack = expansions.generated(about, lattice, refinements=60)
    assert left(kernel, flow, lattice) < 0.02 and float(lack) < 0.05
    # One explicit step of the same generator fails on the very same kernel, for its width alone.
    u = random(1, lattice.places, 16, seed=7)
    step = expansions.taylor(u, about, lattice)
    assert float(expansions.remainder(kernel @ u.unsqueeze(1), u, step)[0]) > 0.3


@pytest.mark.parametrize("lattice", LATTICES, ids=str)
def test_random_maps_are_no_flows_of_a_generator(lattice):
    maps = random_maps(lattice, 3.0, heads=1)
    about = attention_moments(maps, lattice)
    assert left(maps, expansions.generated(about, lattice, refinements=20)[0], lattice) > 0.5


def test_matched_rows_owe_what_they_explain_to_the_lattice_only_where_a_head_is_local():
    lattice = Grid(5, 5)
    place = lattice.positions().double()
    content = random(25, 25, seed=3)
    local = torch.softmax(-(place[None] - place[:, None] - 0.5).square().sum(-1) / 2 + 0.3 * content, -1)[None, None]
    here, elsewhere = (
        left(local, flow, lattice)
        for flow in (
            match_moments(attention_moments(local, lattice), lattice).weights,
            expansions.matched_elsewhere(local, lattice),
        )
    )
    assert here < 0.5 * elsewhere
    unrelated = random_maps(lattice, 2.0, heads=8)
    u = random(1, 25, 16, seed=7)
    both = [
        expansions.remainder(unrelated @ u.unsqueeze(1), u, flow @ u.unsqueeze(1)).median()
        for flow in (
            match_moments(attention_moments(unrelated, lattice), lattice).weights,
            expansions.matched_elsewhere(unrelated, lattice),
        )
    ]
    assert abs(float(both[0] - both[1])) < 0.1


def test_refinement_never_makes_the_moments_worse():
    lattice = Grid(5, 5)
    about = attention_moments(random_maps(lattice, 2.0, heads=8), lattice)
    plain, refined = (expansions.generated(about, lattice, count)[1] for count in (0, 20))
    assert bool((refined <= plain).all()) and bool((refined < plain).any()) and bool(refined.isfinite().all())


def test_chosen_rows_are_those_of_the_whole():
    lattice = Grid(4, 5)
    maps, rows = random_maps(lattice, 1.0), torch.tensor([0, 7, 19])
    about = attention_moments(maps, lattice)
    chosen = Moments(about.drift[..., rows, :], about.diffusivity[..., rows, :, :], about.special_mass[..., rows])
    whole = match_moments(about, lattice).weights[..., rows, :]
    torch.testing.assert_close(match_moments(chosen, lattice, rows).weights, whole, atol=1e-7, rtol=0)
    whole = expansions.matched_elsewhere(maps, lattice)[..., rows, :]
    found = expansions.matched_elsewhere(maps, lattice, queries=rows)
    torch.testing.assert_close(found, whole, atol=1e-7, rtol=0)


def test_rows_matched_elsewhere_have_their_moments_there():
    lattice = Grid(4, 5)
    maps = random_maps(lattice, 1.0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    place = lattice.positions().double()[order.argsort()]  # where each token lies on the lattice in disorder
    for own in (maps, expansions.matched_elsewhere(maps, lattice)):
        mean = own @ place
        second = torch.einsum("...k,kd,ke->...de", own, place, place)
        if own is maps:
            wanted = mean, second
    torch.testing.assert_close((mean, second), wanted, atol=1e-6, rtol=0)


def test_bad_refinements_are_named():
    about = attention_moments(random_maps(Chain(9), 1.0), Chain(9))
    with pytest.raises(ValueError, match="refinements=-1 was given: a whole number, at least 0"):
        expansions.generated(about, Chain(9), -1)


def test_moments_are_matched_to_a_millionth_unless_more_is_allowed():
    found = matching.Matched(torch.zeros(1, 3, 3), torch.tensor([[0.95e-6, 1.05e-6, 2e-6]], dtype=torch.float64))
    assert found.unmatched().tolist() == [[0, 1], [0, 2]] and found.unmatched(1.5e-6).tolist() == [[0, 2]]
