import pytest
import torch

from companion.surrogates import narrow
from pdelens import Chain, Grid, TransformerPDE, fit, integrate


def count(pde):
    return sum(value.numel() for value in pde.parameters())


def small(**settings):
    return narrow.NarrowPDE(12, 8, 2, Chain(6), depth=3, **settings)


def states(batch=5, tokens=6, width=12):
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("width", "wide", "heads", "depth"), [(64, 24, 4, 6), (12, 8, 2, 3), (32, 32, 8, 1)])
def test_parameters_are_counted(width, wide, heads, depth):
    pde = narrow.NarrowPDE(width, wide, heads, None, depth=depth)
    assert narrow.narrow_parameters(width, wide, depth) == count(pde)
    pde = narrow.NarrowPDE(width, wide, heads, None, depth=depth, hidden=50)
    assert narrow.narrow_parameters(width, wide, depth, 50) == count(pde)


@pytest.mark.parametrize("share", [1, 2, 3])
def test_width_is_the_largest_that_fits(share):
    """The budgets of K = 1, 2, 3 shared modes of the surrogate."""
    budget = count(TransformerPDE(64, 4, Grid(7, 7), temporal_modes=share))
    wide = narrow.narrow_width(budget, 64, 4)
    assert wide % 4 == 0 and narrow.narrow_parameters(64, wide) <= budget < narrow.narrow_parameters(64, wide + 4)
    filled = narrow.narrow_like(budget, 64, 4, Grid(7, 7))
    assert filled.narrow == wide and budget - 6 * (2 * wide + 1) < count(filled) <= budget


def test_what_is_left_is_used_up_at_another_depth_too():
    made = narrow.narrow_like(20_000, 64, 4, None, depth=3)
    wide = narrow.narrow_width(20_000, 64, 4, 3)
    assert made.depth == 3 and made.narrow == wide
    assert 20_000 - 3 * (2 * wide + 1) < count(made) <= 20_000


def test_width_ends_at_the_teachers_and_budgets_too_small_are_named():
    assert narrow.narrow_width(10**9, 64, 4) == 64
    with pytest.raises(ValueError, match=r"100 parameters were asked for, but .* 4 heads and 6 layers has at least"):
        narrow.narrow_width(100, 64, 4)
    least = narrow.narrow_parameters(64, 4)
    assert narrow.narrow_width(least, 64, 4) == 4
    with pytest.raises(ValueError, match="at least"):
        narrow.narrow_width(least - 1, 64, 4)
    with pytest.raises(ValueError, match="no multiple of heads"):
        narrow.narrow_width(10**6, 64, 5)


def test_starts_as_an_orthogonal_projection():
    pde, u = small(), states()
    encoder, decoder = pde.encoder.weight.detach(), pde.decoder.weight.detach()
    assert torch.allclose(encoder @ encoder.T, torch.eye(8), atol=1e-5) and torch.equal(decoder, encoder.T)
    with torch.no_grad():
        once = pde.decode(0.0, pde.encode(u))
        assert torch.allclose(pde.decode(0.0, pde.encode(once)), once, atol=1e-5)
        # A random projection keeps w'/width of the variance, and at full width everything.
        assert float(once.square().mean() / u.square().mean()) == pytest.approx(8 / 12, rel=0.2)
        whole = narrow.NarrowPDE(12, 12, 2, Chain(6), depth=3)
        assert torch.allclose(whole.decode(0.0, whole.encode(u)), u, atol=1e-5)
    assert torch.equal(encoder, small().encoder.weight) and not torch.equal(encoder, small(seed=1).encoder.weight)


@pytest.mark.parametrize(("method", "substeps"), [("lie", 1), ("rk4", 2), ("dopri5", 1)])
def test_is_the_narrow_equation_between_two_linear_maps(method, substeps):
    pde, u = small(), states()
    inner = TransformerPDE(8, 2, Chain(6), depth=3, temporal_modes=3, basis="piecewise", diffusion=None)
    terms = {name: value for name, value in pde.state_dict().items() if name.startswith("terms.")}
    inner.load_state_dict(terms)
    with torch.no_grad():
        for parameter in [pde.encoder.bias, pde.decoder.bias]:
            parameter.copy_(torch.linspace(-1, 1, len(parameter)))
        flow = integrate(pde, u, method=method, substeps=substeps)
        wanted = integrate(inner, pde.encoder(u), method=method, substeps=substeps)
        assert flow.states[0].shape == u.shape and flow.attention[0].shape == (5, 2, 6, 6)
        for ours, theirs in zip(flow.states, wanted.states, strict=True):
            assert torch.allclose(ours, pde.decoder(theirs), atol=1e-5)
        for ours, theirs in zip(flow.attention, wanted.attention, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)


def test_layers_are_unshared_and_diffusion_is_off():
    pde = small()
    assert set(pde.terms) == {"attention", "reaction"} and pde.breakpoints() == [1.0, 2.0]
    assert "diffusion" in small(diffusion=0.1).terms
    assert str(pde).endswith("3 piecewise modes, width 8 of 12")
    u = states()
    with torch.no_grad():
        before = integrate(pde, u).states
        pde.get_parameter("terms.reaction.second.coefficients")[1].mul_(2)
        after = integrate(pde, u).states
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize(("method", "supervision"), [("lie", "attention+states"), ("rk4", "states")])
def test_fit_follows_a_teacher_that_lives_in_few_channels(method, supervision):
    """The teacher is a narrow network itself, read out through other maps: the loss can and does fall."""
    with torch.no_grad():
        other = small(seed=1)
        other.get_parameter("terms.attention.output.coefficients").mul_(2)
        flow = integrate(other, other.decode(0.0, torch.randn(64, 6, 8)), method=method)
    pde = small()
    first = [pde.encoder.weight.clone(), pde.decoder.weight.clone()]
    settings = {"steps": 80, "batch": 32, "peak_rate": 0.03, "validate_every": 5}
    found = fit(pde, flow, supervision=supervision, method=method, **settings)
    losses = [row[1] for row in found.record["curve"]]
    assert losses[-1] < 0.3 * losses[0]
    assert not any(map(torch.equal, first, (pde.encoder.weight, pde.decoder.weight)))


def test_a_saved_fit_is_not_taken_for_another_width(tmp_path, capsys):
    with torch.no_grad():
        flow = integrate(small(seed=1), states())
    settings = {"steps": 4, "batch": 4, "checkpoint": tmp_path / "fit.safetensors", "validate_every": 1}
    fit(small(), flow, stop_after=2, **settings)
    found = fit(narrow.NarrowPDE(12, 6, 2, Chain(6), depth=3), flow, **settings)
    assert "is of another job" in capsys.readouterr().err and len(found.record["curve"]) == 4
    again = fit(narrow.NarrowPDE(12, 6, 2, Chain(6), depth=3), flow, **settings)
    assert again.record["curve"] == found.record["curve"] and not capsys.readouterr().err


def test_bad_settings_are_named():
    for wrong in (0, 7, 14):
        with pytest.raises(ValueError, match=f"a narrow width of {wrong} was given: a multiple of the 2 heads"):
            narrow.NarrowPDE(12, wrong, 2, None)
    with pytest.raises(ValueError, match="temporal_modes was given, but a narrow network has one piece a layer"):
        small(temporal_modes=1)
    with pytest.raises(ValueError, match="width 8 was given, but the equation's is 12"):
        integrate(small(), states(width=8))
