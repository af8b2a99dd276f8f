"""Points on the unit sphere: the exactly solvable case first, then symmetries, then collapse."""

import numpy as np
import pytest
import torch

import pdelens
from companion.theory import clusters
from pdelens import models
from pdelens.pde import constraints, terms

# Printed to five digits; the entry .00074 is .000745 in truth, so it is off by one in its last digit.
TABLE = {
    1: (0.24687, 0.72172, 0.95050, 0.99300),
    4: (0.03756, 0.10405, 0.23702, 0.52841),
    9: (0.00025, 0.00050, 0.00074, 0.00100),
}
TIMES = (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize("beta", TABLE)
def test_equation_agrees_with_the_printed_table(beta):
    assert np.abs(clusters.equiangular_cosine(beta, 16, TIMES) - TABLE[beta]).max() < 1e-5


def test_equation_without_interaction_strength_has_a_closed_form():
    n, times = 7, np.array([0.3, 1.0, 2.5])
    grown = np.exp(2 * times)
    exact = (grown - 1) / (grown + n - 1)  # from t = ln((1 + (n-1) g) / (1 - g)) / 2
    assert np.abs(clusters.equiangular_cosine(0.0, n, times) - exact).max() < 1e-11


@pytest.mark.parametrize("beta", TABLE)
def test_particles_follow_the_equation(beta):
    start = torch.eye(16, 20, dtype=torch.float64)[None]
    flow = pdelens.integrate(clusters.sphere_flow(beta, 4), start, (0.0, *TIMES), method="rk4", substeps=20)
    found = torch.stack(flow.states[1:]) @ torch.stack(flow.states[1:]).transpose(-1, -2)
    pairs = found[:, 0][:, ~torch.eye(16, dtype=torch.bool)]
    exact = torch.tensor(clusters.equiangular_cosine(beta, 16, TIMES))
    assert float((pairs - exact[:, None]).abs().max()) < 1e-6


def test_splitting_steps_converge_to_the_equation():
    start = torch.eye(16, dtype=torch.float64)[None]
    exact = clusters.equiangular_cosine(1.0, 16, [2.0])[0]
    errors = []
    for steps in (8, 16, 32):
        end = pdelens.integrate(clusters.sphere_flow(1.0, 2), start, [0.0, 2.0], "lie", steps).states[-1]
        errors.append(abs(float(clusters.mean_cosine(end)) - exact))
    assert np.log2(errors[-2] / errors[-1]) == pytest.approx(1, abs=0.1)


def _random(tokens=6, width=4, seed=0):
    x = torch.randn(2, tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return constraints.UnitSphere().retract(x)


def _end(x):
    return pdelens.integrate(clusters.sphere_flow(2.0, 1), x, [0.0, 1.0], "rk4", 4).states[-1]


def test_rotating_the_start_rotates_the_end():
    x = _random()
    rotation, _ = torch.linalg.qr(_random(4, 4, 1)[0])
    assert torch.allclose(_end(x @ rotation), _end(x) @ rotation, atol=1e-12)


def test_permuting_the_tokens_permutes_the_end():
    x, order = _random(), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(_end(x[:, order]), _end(x)[:, order], atol=1e-12)


def test_states_stay_on_the_sphere_and_velocities_tangential():
    x = _random()
    assert torch.allclose(_end(x).norm(dim=-1), torch.ones(2, 6, dtype=torch.float64), atol=1e-12)
    velocity = clusters.sphere_flow(2.0, 1).rhs(0.0, x)
    assert float((velocity * x).sum(-1).abs().max()) < 1e-12


@pytest.mark.parametrize("beta", [0.0, 1.0, 5.0])
def test_clustering_time_inverts_the_equation(beta):
    when = clusters.clustering_time(beta, 16, 0.5)
    assert clusters.equiangular_cosine(beta, 16, [when])[0] == pytest.approx(0.5, abs=1e-9)


def test_unordered_times_come_back_in_their_own_order():
    there = clusters.equiangular_cosine(1.0, 16, [3.0, 1.0])
    assert np.allclose(there, clusters.equiangular_cosine(1.0, 16, [1.0, 3.0])[::-1], atol=1e-10)


@pytest.mark.parametrize("tokens, times", [(1, [1.0]), (16, [-1.0]), (16, [])])
def test_bad_input_is_refused(tokens, times):
    with pytest.raises(ValueError, match="at least 2"):
        clusters.equiangular_cosine(1.0, tokens, times)
    with pytest.raises(ValueError, match="between 0 and 1"):
        clusters.clustering_time(1.0, 16, 1.0)


def test_pure_attention_contracts_by_the_cube():
    beta, u = 1.0, torch.tensor([1.0, 2.0, 0.0, -1.0], dtype=torch.float64) + 0.2 * _random()
    attention = terms.NonLocal(beta)
    after = attention.weights(0.0, u)[:, 0] @ u
    before = clusters.diameter(u)
    bound = ((4 * beta * before**2).exp() - 1) / 2 * before
    assert bool((clusters.diameter(after) <= bound).all())


def test_doubly_stochastic_attention_never_raises_the_energy():
    weights = torch.softmax(torch.randn(3, 2, 6, 6, dtype=torch.float64), -1)
    for _ in range(400):
        weights = weights / weights.sum(-2, keepdim=True)
        weights = weights / weights.sum(-1, keepdim=True)
    assert float(clusters.energy_ratio(weights, torch.randn(3, 6, 4, dtype=torch.float64)).max()) <= 1 + 1e-9


def test_switched_off_terms_are_gone_from_a_teacher():
    """Against the model's own blocks, by hand."""
    shape = models.Configuration(width=16, layers=3, heads=2, outputs=3, side=12, patch=4)
    model = models.Transformer(shape, seed=0).eval().double()
    pictures = torch.randint(0, 255, (5, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        residuals, energies = clusters.without_terms(model, pictures)
        flow = pdelens.flow_of(model, pictures)
        u = {name: flow.states[0].double() for name in residuals}
        rows = {name: [float(clusters.rank_residual(state).mean())] for name, state in u.items()}
        for block in model.blocks:
            attended = {name: block.attention(block.norm_attention(state), None) for name, state in u.items()}
            u["no-reaction"] = u["no-reaction"] + attended["no-reaction"]
            u["pure"] = attended["pure"]
            u["no-attention"] = u["no-attention"] + block.mlp(block.norm_mlp(u["no-attention"]))
            middle = u["full"] + attended["full"]
            u["full"] = middle + block.mlp(block.norm_mlp(middle))
            for name, state in u.items():
                rows[name].append(float(clusters.rank_residual(state).mean()))
    for name, row in rows.items():
        assert residuals[name] == pytest.approx(row, abs=1e-6), name
    assert energies.shape == (3, 5, 2)
    seen = torch.nn.functional.layer_norm(flow.states[1].double(), (16,), eps=1e-5)
    torch.testing.assert_close(energies[1], clusters.energy_ratio(flow.attention[1].double(), seen), check_dtype=False)
