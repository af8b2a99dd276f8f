"""Padded equals cropped: what stands behind the real tokens no measure, null, term, solution or statistic sees."""

from dataclasses import asdict
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from pdelens import (
    Chain,
    FieldJacobian,
    Flow,
    TransformerPDE,
    adjoint_gradient,
    attend_with_statistics,
    attention_cosine,
    attention_divergence,
    attention_statistics,
    compare,
    coupling,
    flow_map,
    gradient,
    gradient_flow,
    half_information_noise,
    influence,
    integrate,
    jacobian_spectrum,
    laplacian,
    lyapunov_exponents,
    noisy_information,
    non_normality,
    perturbation_growth,
    spectrum,
)
from pdelens.agreement import measures, nulls
from pdelens.lattice import advection
from pdelens.models import Configuration, Transformer
from pdelens.sensitivity import normality, singular
from pdelens.sensitivity.local_error import local_errors

EXAMPLES, TOKENS, GARBAGE, WIDTH, HEADS, LAYERS = 7, 6, 3, 8, 2, 3
REAL = (torch.arange(TOKENS + GARBAGE) < TOKENS).expand(EXAMPLES, -1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def longer(state, seed=9):
    """Return a state (..., tokens, width) with large garbage behind it."""
    return torch.cat([state, 1e3 * random(*state.shape[:-2], GARBAGE, state.shape[-1], seed=seed).to(state)], -2)


def wider(maps, seed=9):
    """Return maps with padded keys that no real query sees, and rows of garbage behind."""
    rows = torch.softmax(5 * random(*maps.shape[:-2], GARBAGE, TOKENS + GARBAGE, seed=seed), -1).to(maps)
    return torch.cat([pad(maps, (0, GARBAGE)), rows], -2)


def flow(seed):
    states = [random(EXAMPLES, TOKENS, WIDTH, seed=10 * seed + depth) for depth in range(LAYERS + 1)]
    maps = [torch.softmax(random(EXAMPLES, HEADS, TOKENS, TOKENS, seed=100 * seed + n), -1) for n in range(LAYERS)]
    return Flow(states, maps)


def padded(cropped, seed=5):
    states = [longer(state, seed + depth) for depth, state in enumerate(cropped.states)]
    return Flow(states, [wider(a, seed + n) for n, a in enumerate(cropped.attention)], REAL)


OURS, THEIRS, OTHERS = flow(1), flow(2), flow(3)
NEAREST = torch.tensor([[1, 2], [0, 3], [4, 1], [2, 2], [5, 6], [3, 0], [0, 1]])


@pytest.mark.parametrize(
    "name", ["cosine", "row_cosine", "jensen_shannon", "total_variation", "top1", "centred_cosine"]
)
def test_measures(name):
    function = getattr(measures, name)
    ours, theirs, mean = OURS.attention[0], THEIRS.attention[0], OTHERS.attention[0].mean(0)
    more = (mean,) if name == "centred_cosine" else ()
    wide = (wider(mean, 3),) if name == "centred_cosine" else ()
    found = function(wider(ours, 1), wider(theirs, 2), *wide, REAL)
    torch.testing.assert_close(found, function(ours, theirs, *more))


def test_information_at_noise():
    state = OURS.states[1]
    found = noisy_information(longer(state), 4.0, relative=True, mask=REAL)
    wanted = noisy_information(state, 4.0, relative=True)
    assert found.sigma == pytest.approx(wanted.sigma) and 0.1 < wanted.value < 1.8
    assert (found.value, found.error) == pytest.approx((wanted.value, wanted.error))
    assert half_information_noise(longer(state), mask=REAL) == pytest.approx(half_information_noise(state))


def test_r2_of_states():
    ours, theirs, mean = OURS.states[1], THEIRS.states[1], OTHERS.states[1].mean(0)
    found = measures.state_r2(longer(ours, 1), longer(theirs, 2), longer(mean, 3), REAL)
    torch.testing.assert_close(found, measures.state_r2(ours, theirs, mean))


def test_reports_with_their_nulls():
    wanted, found = (
        compare(
            make(OURS), make(THEIRS), nulls.attention_nulls(make(THEIRS), make(OTHERS), nearest=NEAREST), make(OTHERS)
        )
        for make in (lambda one: one, padded)
    )
    for name, null in {"": wanted, **wanted.nulls}.items():
        ours = found.nulls[name] if name else found
        np.testing.assert_allclose(ours.head_mean, null.head_mean, atol=1e-7, err_msg=name)
        for measure, values in null.attention.items():
            # The mean map less itself has no direction, and rounding gives it a little of one.
            slack = 1e-4 if (name, measure) == ("mean map", "centred cosine") else 1e-6
            np.testing.assert_allclose(ours.attention[measure], values, atol=slack, err_msg=f"{name}: {measure}")
    for name, values in wanted.states.items():
        np.testing.assert_allclose(found.states[name], values, atol=1e-6, err_msg=name)


def test_nulls_of_states():
    wanted, found = (nulls.state_nulls(make(THEIRS), make(OTHERS), NEAREST) for make in (lambda one: one, padded))
    for name, states in wanted.items():
        for depth, state in enumerate(states):
            torch.testing.assert_close(
                found[name][depth][:, :TOKENS], state, atol=1e-6, rtol=1e-6, msg=f"{name}, {depth}"
            )


def equation(tokens):
    pde = TransformerPDE(WIDTH, HEADS, Chain(tokens), depth=LAYERS, temporal_modes=2, diffusion=0.1, advection=-0.3)
    return pde.double()


def test_operators():
    u, v, short, long = OURS.states[0], -0.3 * torch.ones(1, WIDTH).double(), Chain(TOKENS), Chain(TOKENS + GARBAGE)
    torch.testing.assert_close(laplacian(longer(u), long, mask=REAL)[:, :TOKENS], laplacian(u, short))
    for scheme in ("central", "forward", "backward"):
        found = gradient(longer(u), long, scheme, REAL)
        torch.testing.assert_close(found[:, :, :TOKENS], gradient(u, short, scheme))
    for speed in (v, -v):
        found = advection(longer(u), speed, long, mask=REAL)
        torch.testing.assert_close(found[:, :TOKENS], advection(u, speed, short))


@pytest.mark.parametrize("term", ["diffusion", "advection", "attention", "reaction"])
def test_terms(term):
    u, short, long = OURS.states[0], equation(TOKENS), equation(TOKENS + GARBAGE)
    with torch.no_grad():
        found = long.terms[term](0.7, longer(u), REAL)
        torch.testing.assert_close(found[:, :TOKENS], short.terms[term](0.7, u, None))


@pytest.mark.parametrize("method", ["lie", "strang", "heun", "rk4", "dopri5"])
def test_solutions(method):
    u, short, long = 0.3 * OURS.states[0], equation(TOKENS), equation(TOKENS + GARBAGE)
    with torch.no_grad():
        wanted = integrate(short, u, method=method)
        found = integrate(long, longer(u), method=method, mask=REAL)
    for ours, theirs in zip(found.states, wanted.states, strict=True):
        torch.testing.assert_close(ours[:, :TOKENS], theirs)
    for ours, theirs in zip(found.attention, wanted.attention, strict=True):
        torch.testing.assert_close(ours[..., :TOKENS, :TOKENS], theirs)


def test_sensitivity():
    u, short, long = 0.3 * OURS.states[0][:2], equation(TOKENS), equation(TOKENS + GARBAGE)
    wanted, found = spectrum(short, 0.5, u), spectrum(long, 0.5, longer(u), REAL[:2])
    torch.testing.assert_close(found.lipschitz, wanted.lipschitz, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.log_norms.upper, wanted.log_norms.upper, rtol=1e-4, atol=1e-6)
    one = FieldJacobian(short, 0.5, u).matrix()
    other = FieldJacobian(long, 0.5, longer(u), REAL[:2]).matrix()
    torch.testing.assert_close(other[:, : TOKENS * WIDTH, : TOKENS * WIDTH], one)


@cache
def of_equation():
    """Return a flow map, and the same with garbage behind."""
    u, wide = 0.3 * OURS.states[0][:2], longer(0.3 * OURS.states[0][:2])
    long = flow_map(equation(TOKENS + GARBAGE), wide, 0, 1, mask=REAL[:2], method="heun", substeps=1)
    return flow_map(equation(TOKENS), u, 0, 1, method="heun", substeps=1), long


@cache
def of_transformer():
    settings = Configuration(vocabulary=20, length=TOKENS + GARBAGE, width=WIDTH, heads=2, layers=2, outputs=2)
    model, tokens = Transformer(settings).double(), torch.randint(1, 20, (2, TOKENS + GARBAGE))
    return flow_map(model, tokens[:, :TOKENS]), flow_map(model, {"inputs": tokens, "mask": REAL[:2]})


def cropped(values):
    return values[:, :TOKENS]


MAP_MEASURES = {
    "value": lambda one: cropped(one.value),
    "other states": lambda one: cropped(one(one.point.detach() * 1.1)),
    "all singular values": lambda one: jacobian_spectrum(one, 5).values,
    "the largest": lambda one: jacobian_spectrum(one, 2, rounds=2, oversampling=1).values,
    "influence": lambda one: cropped(influence(one, draws=2)[0])[..., :TOKENS],
    "error of influence": lambda one: cropped(influence(one, draws=2)[1])[..., :TOKENS],
    "growth": lambda one: perturbation_growth(one, (0.1, 1.0), seed=3).factor,
    "growth from one token": lambda one: perturbation_growth(one, (0.1, 1.0), token=2).factor,
    "coupling": lambda one: coupling(*[jacobian_spectrum(one, 2)] * 2).overlap,
    "chance of coupling": lambda one: coupling(*[jacobian_spectrum(one, 2)] * 2).chance,
    "departure": lambda one: non_normality(one).departure.value,
    "departure by random signs": lambda one: non_normality(one).departure.value,
    "asymmetry by random signs": lambda one: non_normality(one).asymmetry.value,
    "abscissa": lambda one: non_normality(one).abscissa.value,
    "abscissa by random signs": lambda one: non_normality(one).abscissa.value,
    "exponents": lambda one: lyapunov_exponents([one], 2, rounds=2),
}


@pytest.mark.parametrize("made", [of_equation, of_transformer])
@pytest.mark.parametrize("name", MAP_MEASURES)
def test_flow_maps(name, made, monkeypatch):
    for module in (singular, normality) if name == "the largest" or "random" in name else ():
        monkeypatch.setattr(module, "DENSE", 1)
    alone, padded = made()
    found, wanted = MAP_MEASURES[name](padded), MAP_MEASURES[name](alone)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-6)
    assert wanted.abs().max() > 0


def test_padded_tokens_influence_nothing():
    for made in (of_equation, of_transformer):
        found, _ = influence(made()[1], draws=2)
        assert not found[:, TOKENS:].any() and not found[..., TOKENS:].any()


def test_gradients_over_depth():
    u, mask = 0.3 * OURS.states[0][:2], REAL[:2]
    ours = gradient_flow(equation(TOKENS + GARBAGE), longer(u), lambda v: cropped(v).square().sum(), mask=mask)
    theirs = gradient_flow(equation(TOKENS), u, lambda v: v.square().sum())
    for found, wanted in zip(ours.gradients, theirs.gradients, strict=True):
        torch.testing.assert_close(cropped(found), wanted)
        assert not found[:, TOKENS:].any()


def test_gradients_by_the_adjoint():
    u, mask = 0.3 * OURS.states[0][:1], REAL[:1]
    how = {"checkpoints": [1.0, 2.0], "rtol": 1e-5, "atol": 1e-7}
    ours = adjoint_gradient(
        equation(TOKENS + GARBAGE), longer(u), lambda v: cropped(v).square().sum(), mask=mask, **how
    )
    theirs = adjoint_gradient(equation(TOKENS), u, lambda v: v.square().sum(), **how)
    for found, wanted in zip(ours.gradients, theirs.gradients, strict=True):
        torch.testing.assert_close(cropped(found), wanted, atol=1e-4, rtol=1e-4)
        assert not found[:, TOKENS:].any()


def test_local_errors():
    short, long = equation(TOKENS), equation(TOKENS + GARBAGE)
    states = [0.3 * state for state in OURS.states]
    cropped = Flow(states)
    wide = Flow([longer(state, 40 + depth) for depth, state in enumerate(states)], mask=REAL)
    with torch.no_grad():
        ours, theirs = asdict(local_errors(long, wide)), asdict(local_errors(short, cropped))
    for name in ("error", "displacement"):
        torch.testing.assert_close(ours[name], theirs[name], msg=name)


def test_statistics_of_attention():
    q, k, v = (random(EXAMPLES, HEADS, TOKENS, 4, seed=seed) for seed in (1, 2, 3))
    wanted = attention_statistics(q, k, Chain(TOKENS), within=(1.0,))
    found = attention_statistics(longer(q), longer(k, 4), Chain(TOKENS + GARBAGE), REAL, within=(1.0,))
    for name in ("entropy", "collision", "logsumexp", "drift", "diffusivity", "mass_within", "allowed"):
        torch.testing.assert_close(getattr(found, name)[:, :, :TOKENS], getattr(wanted, name), msg=name)
    mixed = attend_with_statistics(longer(q), longer(k, 4), longer(v, 6), mask=REAL)[0]
    torch.testing.assert_close(mixed[:, :, :TOKENS], attend_with_statistics(q, k, v)[0])
    for over in ("map", "rows"):
        one = attention_cosine(q, k, k, v, over)
        other = attention_cosine(longer(q), longer(k), longer(k), longer(v), over, REAL)
        torch.testing.assert_close(other[..., :TOKENS] if over == "rows" else other, one)
    other = attention_divergence(longer(q), longer(k), longer(k), longer(v), REAL)
    torch.testing.assert_close(other[..., :TOKENS], attention_divergence(q, k, k, v))


def test_operators_with_padding_before():
    def before(state):
        return torch.cat([1e3 * random(*state.shape[:-2], GARBAGE, WIDTH, seed=9), state], -2)

    u, short, long, real = OURS.states[0], Chain(TOKENS), Chain(TOKENS + GARBAGE), REAL.flip(1)
    torch.testing.assert_close(laplacian(before(u), long, mask=real)[:, GARBAGE:], laplacian(u, short))
    for scheme in ("central", "forward", "backward"):
        found = gradient(before(u), long, scheme, real)[:, :, GARBAGE:]
        torch.testing.assert_close(found, gradient(u, short, scheme))


def ragged(cropped, real, fill):
    """Return a Flow whose examples end at different tokens, with something behind."""
    states = [torch.where(real[..., None], state, fill) for state in cropped.states]
    kept = [(a * real[:, None, None]) / (a * real[:, None, None]).sum(-1, keepdim=True) for a in cropped.attention]
    behind = torch.full((TOKENS,), 1 / TOKENS).double() if fill else torch.eye(TOKENS)[0].double()
    return Flow(states, [torch.where(real[:, None, :, None], a, behind) for a in kept], real)


LENGTHS = torch.arange(TOKENS) < (3 + torch.arange(EXAMPLES) % 4)[:, None]


@pytest.mark.parametrize("name", ["uniform", "mean map", "shuffled layers", "nearest neighbours", "other input"])
def test_nulls_of_attention_where_examples_differ_in_length(name):
    wanted, found = (
        nulls.attention_nulls(*(ragged(one, LENGTHS, fill) for one in (THEIRS, OTHERS)), nearest=NEAREST)[name]
        for fill in (0.0, 1e3)
    )
    rows = LENGTHS[:, None, :, None].expand(-1, HEADS, -1, TOKENS)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.expand_as(rows)[rows], theirs.expand_as(rows)[rows])


def test_nulls_of_states_where_examples_differ_in_length():
    wanted, found = (
        nulls.state_nulls(*(ragged(one, LENGTHS, fill) for one in (THEIRS, OTHERS)), NEAREST) for fill in (0.0, 1e3)
    )
    for name, states in wanted.items():
        for ours, theirs in zip(found[name], states, strict=True):
            torch.testing.assert_close(ours[LENGTHS], theirs[LENGTHS], atol=1e-6, rtol=1e-6, msg=name)
