import pytest
import torch
import torch.nn.functional as F

from companion.pretrained import models as pretrained
from companion.teachers import files
from companion.theory.bounds import residual_bound
from companion.theory.problems import converged, fitted_order, full_equation, time_errors
from pdelens import flow_of, models
from pdelens.lattice import Chain, Grid, laplacian
from pdelens.pde.constraints import Sphere
from pdelens.pde.equation import PDE, PostNorm, TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.modes import LowRankModes
from pdelens.pde.normalisers import layer_and_size, layer_normalise, rms_normalise
from pdelens.pde.parity import equation_of
from pdelens.pde.stability import StepError, step_bound
from pdelens.pde.terms import Advection, Diffusion, NonLocal, Reaction, SelfAttention


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pictures(count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)


def gap(found, wanted):
    """Return the largest difference, relative to the largest entry of that depth, over depths."""
    assert len(found) == len(wanted)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def attention_of(block, state):
    """Return a small teacher's attention in its own precision (`capture` records it in float32)."""
    query, key, _ = block.attention.queries_keys_values(block.norm_attention(state)).detach().chunk(3, -1)
    heads = block.attention.heads
    query, key = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    return torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1)


# Exact parity with Transformers


def test_small_teacher_is_its_equation_in_both_precisions():
    model, _ = files.committed_teacher()
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model = model.to(dtype)
        flow = flow_of(model, pictures(3))
        pde = equation_of(model)
        with torch.no_grad():
            found = integrate(pde, flow.states[0], method="lie", substeps=1)
        assert found.states[0].dtype == dtype and len(found.states) == 7
        assert gap(found.states, flow.states) < limit
        assert (
            gap(found.attention, [attention_of(b, s) for b, s in zip(model.blocks, flow.states, strict=False)]) < limit
        )
        assert float((flow.states[-1] - flow.states[0]).abs().max()) > 1


def test_causal_text_teacher_with_padding_is_its_equation():
    about = models.Configuration(width=16, layers=3, heads=2, vocabulary=30, length=9, causal=True, outputs=30)
    model = models.Transformer(about, seed=1).double().eval()
    tokens = torch.randint(0, 30, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[2, 6:] = False
    flow = flow_of(model, {"inputs": tokens, "mask": mask})
    pde = equation_of(model, Chain(9, causal=True))
    with torch.no_grad():
        found = integrate(pde, flow.states[0], mask=mask)
    assert found.causal
    for ours, theirs in zip(found.states, flow.states, strict=True):
        assert float((ours - theirs)[mask].abs().max()) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_post_norm_encoder_is_its_equation(dtype):
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config)
        for name, value in model.named_parameters():
            value.data += (0.3 if "LayerNorm" in name else 0.1) * torch.randn_like(value)
    model = model.to(dtype).eval()
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 5:] = 0
    flow = flow_of(model, {"input_ids": torch.arange(14).reshape(2, 7), "attention_mask": mask})
    pde = equation_of(model)
    with torch.no_grad():
        found = integrate(pde, flow.states[0], mask=mask.bool())
    real = mask.bool()
    limit = 1e-5 if dtype == torch.float32 else 1e-10
    assert gap([s[real] for s in found.states], [s[real] for s in flow.states]) < limit
    # `capture` records attention in float32, whatever the model's precision.
    ours, theirs = ([a.transpose(1, 2)[real] for a in f.attention] for f in (found, flow))
    assert gap(ours, theirs) < 1e-5


@pytest.mark.data
def test_minilm_is_its_equation():
    encoder = pretrained.minilm()
    sentences = ["A film that stays with you.", "It is far too long, and says nothing at all about its subject."]
    inputs = encoder.encode(sentences, 24)
    flow = flow_of(encoder.model, inputs)
    real = inputs["attention_mask"].bool()
    pde = equation_of(encoder.model)
    with torch.no_grad():
        found = integrate(pde, flow.states[0], mask=real)
    assert gap([s[real] for s in found.states], [s[real] for s in flow.states]) < 1e-5
    for ours, theirs in zip(found.attention, flow.attention, strict=True):
        assert float((ours - theirs).transpose(1, 2)[real].abs().max()) < 1e-5


def post_term(width=8, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        term = PostNorm(Reaction(width, 16, lambda u: u, "tanh"), width).double()
    with torch.no_grad():
        term.gain.coefficients += 0.3 * random(1, width, seed=1)
        term.bias.coefficients += 0.3 * random(1, width, seed=2)
    return term


def test_one_unit_step_of_post_norm_is_the_sublayer():
    term = post_term()
    pde = PDE({"reaction": term}, None, 1.0, Sphere())
    z = layer_normalise(random(2, 5, 8), 1e-12)
    gain, bias = term.gain(0.0), term.bias(0.0)
    u = gain * z + bias
    expected = F.layer_norm(u + term.inner(0.0, u), (8,), eps=1e-12)
    torch.testing.assert_close(integrate(pde, z, [0, 1]).states[-1], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("method", "nominal"), [("lie", 1), ("strang", 2), ("rk4", 4)])
def test_post_norm_refines(method, nominal):
    pde = PDE({"reaction": post_term(seed=0), "other": post_term(seed=5)}, None, 1.0, Sphere())
    z = layer_normalise(random(2, 5, 8), 1e-12)
    counts = (8, 16, 32) if method == "rk4" else (32, 64, 128)
    steps, errors = time_errors(pde, z, converged(pde, z, 1.0), method, counts, 1.0)
    assert abs(fitted_order(steps, errors) - nominal) < 0.1


@pytest.mark.parametrize(("method", "order"), [("lie", 1), ("strang", 2), ("euler", 1), ("rk4", 4)])
@torch.no_grad()
def test_post_norm_equation_with_diffusion_refines_on_its_sphere(method, order):
    pde = TransformerPDE(8, 2, Chain(5), depth=1, form="post", diffusion=0.3, seed=2).double()
    u0 = random(2, 5, 8)
    last = integrate(pde, u0, [0, 1], method, substeps=4).states[-1]
    # Gain 1 and bias 0, so the hidden state is the state on the sphere.
    torch.testing.assert_close(last.square().mean(-1), torch.ones(2, 5, dtype=torch.float64), atol=1e-9, rtol=0)
    with pde.without("diffusion"):
        still = integrate(pde, u0, [0, 1], method, substeps=4).states[-1]
    assert float((still - last).abs().max()) > 0.05
    steps, errors = time_errors(pde, u0, converged(pde, u0, 1.0), method, (8, 16, 32), 1.0)
    assert abs(fitted_order(steps, errors) - order) < 0.1


@torch.no_grad()
def test_diffusion_alone_on_the_sphere_smooths_directions_and_keeps_their_length():
    pde = TransformerPDE(8, 2, Chain(5), depth=8, form="post", diffusion=0.3, attention=False, reaction=False).double()
    flow = integrate(pde, random(2, 5, 8))
    energy = torch.stack([-(u * laplacian(u, Chain(5))).sum() / 2 for u in flow.states[1:]])
    # In the flat heat equation the slowest mode keeps exp(-2 D 0.38 7) = 0.2 of its energy.
    assert bool((energy.diff() < 0).all()) and float(energy[-1] / energy[0]) < 0.2
    torch.testing.assert_close(flow.states[-1].square().mean(-1), torch.ones(2, 5, dtype=torch.float64))


def test_constraint_keeps_the_state_on_its_sphere():
    pde = PDE({"reaction": post_term()}, None, 1.0, Sphere())
    z = layer_normalise(random(2, 5, 8), 1e-12)
    z = z / z.square().mean(-1, keepdim=True).sqrt()
    velocity = pde.rhs(0.0, z).detach()
    assert float(velocity.abs().max()) > 0.1
    assert float((velocity * z).sum(-1).abs().max()) < 1e-12 and float(velocity.sum(-1).abs().max()) < 1e-12
    for method in ("lie", "rk4", "dopri5"):
        state = integrate(pde, z, [0, 1], method, substeps=4).states[-1]
        torch.testing.assert_close(state.square().mean(-1), torch.ones(2, 5, dtype=torch.float64), atol=1e-10, rtol=0)


def test_post_form_begins_where_the_hidden_state_is():
    pde = TransformerPDE(8, 2, Chain(5), depth=2, form="post", diffusion=None, normalisation="layer").double()
    with torch.no_grad():
        for term in pde.terms.values():
            term.gain.coefficients += 0.4
            term.bias.coefficients += 0.2
    z = layer_normalise(random(2, 5, 8), 1e-12)
    u = pde.decode(0.0, z)
    assert float((u - z).detach().abs().max()) > 0.1
    torch.testing.assert_close(pde.encode(u), z, atol=1e-10, rtol=0)


def test_teachers_of_other_norms_are_refused():
    for settings in ({"norm": "rms"}, {"placement": "post"}):
        with pytest.raises(ValueError, match="known for norm 'layer' and placement 'pre'"):
            equation_of(models.Transformer(models.Configuration(layers=1, **settings)))


# Symmetries


def test_equivariance_under_permutation_without_diffusion_only():
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    u = random(2, 9, 8)
    pde = full_equation(Chain(9), 8, advection=None)

    def solved(state):
        with torch.no_grad():
            return integrate(pde, state, [0, 1], "rk4", substeps=4).states[-1]

    with pde.without("diffusion"):
        torch.testing.assert_close(solved(u[:, order]), solved(u)[:, order], atol=1e-12, rtol=0)
    assert float((solved(u[:, order]) - solved(u)[:, order]).abs().max()) > 1e-2


def test_equivariance_under_the_lattices_own_symmetries():
    pde, u = full_equation(Chain(9, "periodic"), 8), random(2, 9, 8)
    with torch.no_grad():
        moved = integrate(pde, u.roll(3, 1), [0, 1], "rk4", substeps=4).states[-1]
        expected = integrate(pde, u, [0, 1], "rk4", substeps=4).states[-1].roll(3, 1)
    torch.testing.assert_close(moved, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["euler", "lie", "strang", "rk4", "dopri5"])
def test_the_past_does_not_know_the_future(method):
    pde = full_equation(Chain(8, causal=True), 8, diffusion=None)
    u = random(2, 8, 8)
    other = u.clone()
    other[:, 5] += random(8, seed=4)
    with torch.no_grad():
        ours, theirs = (integrate(pde, x, [0, 1], method, substeps=8).states[-1] for x in (u, other))
    difference = (ours - theirs).abs().amax((0, 2))
    # An adaptive step size is chosen from all tokens, so the past may change by its tolerance there.
    assert float(difference[:5].max()) <= (1e-5 if method == "dopri5" else 0)
    assert bool((difference[5:] > 1e-3).all())
    pde.terms["attention"].causal = False
    with torch.no_grad():
        ours, theirs = (integrate(pde, x, [0, 1], method, substeps=8).states[-1] for x in (u, other))
    assert float((ours - theirs)[:, :5].abs().max()) > 1e-3


def test_padding_does_not_reach_real_tokens():
    pde, u = full_equation(Chain(8), 8), random(2, 8, 8)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 5:] = False
    other = u.clone()
    other[1, 5:] += 1 + random(3, 8)
    with torch.no_grad():
        ours, theirs = (integrate(pde, x, [0, 1], "lie", 8, mask=mask).states[-1] for x in (u, other))
        free = integrate(pde, other, [0, 1], "lie", 8).states[-1]
    assert torch.equal(ours[mask], theirs[mask])
    assert float((free - ours)[mask].abs().max()) > 1e-2


def test_special_tokens_take_part_in_attention_but_not_in_differences():
    lattice = Chain(6, special=(1, 1))
    pde, u = full_equation(lattice, 8), random(2, 8, 8)
    with torch.no_grad(), pde.without("attention", "reaction"):
        state = integrate(pde, u, [0, 1], "lie", 8).states[-1]
    assert torch.equal(state[:, [0, -1]], u[:, [0, -1]]) and float((state - u)[:, 1:-1].abs().max()) > 0.1
    with torch.no_grad(), pde.without("diffusion", "advection", "reaction"):
        state = integrate(pde, u, [0, 1], "lie", 8).states[-1]
    assert float((state - u)[:, [0, -1]].abs().max()) > 1e-2


def test_growth_stays_below_the_proved_bound():
    pde = full_equation(Chain(9), 8, temporal_modes=1)
    rate, u = residual_bound(pde, 0.0, 8), random(4, 9, 8)
    with torch.no_grad():
        moved = pde.terms["attention"](0.0, u) + pde.terms["reaction"](0.0, u)
        states = integrate(pde, u, [0, 0.5, 1], "lie", 16).states
    assert 0.05 * rate < float(moved.norm(dim=-1).max()) <= rate
    for t, state in zip((0.5, 1.0), states[1:], strict=True):
        assert float(state.abs().max()) <= float(u.abs().max()) + rate * t


# The equation as an object


def test_equation_prints_itself():
    assert str(TransformerPDE(64, 4, Grid(7, 7), temporal_modes=2)) == (
        "∂u/∂t = D Δu + W A(u) V n(u) + R(n(u)),  t in [0, 6], grid of 7 × 7, neumann, 2 chebyshev modes"
    )
    pde = TransformerPDE(8, 2, Chain(5, "periodic"), depth=2, advection=0.1)
    assert str(pde) == "∂u/∂t = D Δu + v·∇u + W A(u) V n(u) + R(n(u)),  t in [0, 2], chain of 5, periodic"
    assert str(PDE({"mean": NonLocal()}, None, 1.5)) == "∂u/∂t = (A(u) − I) u,  t in [0, 1.5]"
    post = TransformerPDE(8, 2, None, diffusion=None, form="post", reaction=False)
    assert str(post) == "∂z/∂t = P_z[(g−1)z + b + W A(gz+b) V (gz+b)],  t in [0, 6]"


def test_terms_switch_off_one_by_one_and_come_back():
    pde, u = full_equation(Chain(8), 8), random(1, 8, 8)
    whole = pde.rhs(0.3, u)
    for name in ("diffusion", "advection", "attention", "reaction"):
        with pde.without(name) as rest:
            assert list(rest.active()) == [other for other in pde.terms if other != name]
            torch.testing.assert_close(rest.rhs(0.3, u), whole - pde.terms[name](0.3, u), atol=1e-13, rtol=0)
            assert pde.terms[name].symbol not in str(rest)
            with pde.without("diffusion"):
                assert "diffusion" not in pde.active()
    assert torch.equal(pde.rhs(0.3, u), whole)
    with pde.without(*pde.terms):
        assert str(pde).startswith("∂u/∂t = 0") and float(pde.rhs(0.3, u).abs().max()) == 0
    with pytest.raises(ZeroDivisionError), pde.without("diffusion"):
        raise ZeroDivisionError
    assert not pde.off


def test_attention_is_that_of_the_attention_term():
    pde, u = full_equation(Chain(8), 8), random(2, 8, 8)
    assert torch.equal(pde.attention(0.3, u), pde.terms["attention"].weights(0.3, u))
    with pde.without("attention"):
        assert pde.attention(0.3, u) is None


def test_one_seed_gives_one_equation_and_leaves_the_global_state():
    before = torch.random.get_rng_state()
    ours, same, other = (TransformerPDE(8, 2, Chain(5), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("method", ["rk4", "lie", "strang", "dopri5"])
def test_a_clock_reads_one_autonomous_solution_at_its_own_times(method):
    pde = TransformerPDE(8, 2, Chain(6), depth=3, diffusion=0.1, clock=True).double()
    with torch.no_grad():
        pde.clock.coefficients.copy_(torch.tensor([0.5, -1.0, 0.2]))
    taus = pde.layer_times
    assert taus == pytest.approx(torch.tensor([0.5, -1.0, 0.2]).exp().cumsum(0).tolist())
    plain = PDE(dict(pde.terms), Chain(6), depth=taus[-1])
    assert pde.autonomous and plain.autonomous
    start = random(2, 6, 8)
    how = {"method": method, "substeps": 3, "check_steps": False}
    ours, theirs = integrate(pde, start, **how), integrate(plain, start, [0.0, *taus], **how)
    assert gap(ours.states, theirs.states) < (1e-5 if method == "dopri5" else 1e-12)
    assert gap(ours.attention, theirs.attention) < (1e-5 if method == "dopri5" else 1e-12)
    assert "read at learnt times" in str(pde) and "modes" not in str(pde)


def test_a_clock_scales_bounds_exact_steps_and_the_right_hand_side():
    pde = TransformerPDE(4, 1, Chain(6), depth=2, diffusion=0.1, attention=False, reaction=False, clock=True).double()
    with torch.no_grad():
        pde.clock.coefficients.copy_(torch.tensor([0.0, 3.0]).log().clamp_min(-1.0))
    slow, fast = pde.layer_times[0], 3.0
    assert step_bound(pde, 1.0).largest == pytest.approx(step_bound(pde, 0.0).largest * slow / fast)
    u = random(2, 6, 4)
    torch.testing.assert_close(pde.rhs(1.0, u), fast * 0.1 * laplacian(u, Chain(6)))
    torch.testing.assert_close(pde.frozen(1.0)["diffusion"](u), pde.rhs(1.0, u))
    exact = integrate(pde, u, diffusion_step="spectral").states[-1]
    fine = integrate(pde, u, method="rk4", substeps=50).states[-1]
    assert gap([exact], [fine]) < 1e-7
    with pytest.raises(StepError, match="explicit diffusion"):
        integrate(TransformerPDE(4, 1, Chain(6), depth=2, diffusion=0.4).double(), u, [0.0, 2.0])


def test_size_beside_the_norm_begins_unseen_and_is_seen_then():
    sized = TransformerPDE(8, 2, Chain(6), depth=2, normalisation="layer+size").double()
    plain = TransformerPDE(8, 2, Chain(6), depth=2).double()
    u = random(2, 6, 8)
    torch.testing.assert_close(sized.rhs(0.0, u), plain.rhs(0.0, u))
    torch.testing.assert_close(sized.attention(0.0, u), plain.attention(0.0, u))
    added = sum(v.numel() for v in sized.parameters()) - sum(v.numel() for v in plain.parameters())
    assert added == 3 * 8 + 4 * 8  # one column of the matrices that look at the state
    without = {"diffusion": None}
    sized = TransformerPDE(8, 2, None, depth=2, normalisation="layer+size", **without).double()
    torch.testing.assert_close(sized.rhs(0.0, 2 * u), sized.rhs(0.0, u), atol=1e-4, rtol=1e-4)  # of all sizes alike
    with torch.no_grad():
        sized.terms["reaction"].first.coefficients[..., 8] = 1.0
    moved = sized.rhs(0.0, 2 * u) - sized.rhs(0.0, u)
    assert float(moved.abs().max()) > 0.01
    # What is seen beside the norm is log rms, by hand for one token.
    seen = layer_and_size(u[:1, :1])[0, 0]
    assert float(seen[-1]) == pytest.approx(float(u[0, 0].square().mean().sqrt().log()), abs=1e-4)


@pytest.mark.parametrize("lattice", [Chain(9), Chain(9, causal=False, special=(1, 1)), Grid(3, 4, special=1)])
@pytest.mark.parametrize("padded", [False, True])
def test_diffusion_as_one_matrix_is_the_stencil(lattice, padded):
    term, u, mask = Diffusion(lattice, 4, 0.2).double(), random(3, lattice.tokens, 4), None
    if padded:
        if lattice.dims > 1:
            pytest.skip("a grid has no padding")
        mask = torch.arange(lattice.tokens) < torch.tensor([[4], [6], [lattice.tokens]])
    wanted = term.diffusivity(0.0).double() * laplacian(u, lattice, 2, mask)
    torch.testing.assert_close(term(0.0, u, mask), wanted)


def test_low_rank_laws_begin_as_one_law_and_are_counted():
    one, corrected = (TransformerPDE(8, 2, Chain(6), depth=3, **kw).double() for kw in ({}, {"rank": 2}))
    u = random(2, 6, 8)
    torch.testing.assert_close(integrate(corrected, u).states[-1], integrate(one, u).states[-1])
    assert one.autonomous and not corrected.autonomous and corrected.breakpoints() == [1.0, 2.0]
    sizes = [(24, 9), (8, 9), (32, 9), (8, 33)]
    added = sum(value.numel() for value in corrected.parameters()) - sum(value.numel() for value in one.parameters())
    assert added == sum(3 * 2 * (rows + columns) for rows, columns in sizes)
    integrate(corrected, u).states[-1].square().sum().backward()
    assert all(float(m.left.grad.abs().max()) > 0 for m in corrected.modules() if isinstance(m, LowRankModes))
    with pytest.raises(ValueError, match="rank 2 with 3 modes"):
        TransformerPDE(8, 2, Chain(6), depth=3, rank=2, temporal_modes=3)


def test_share_of_parameters_is_modes_over_depth():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    whole = TransformerPDE(8, 2, None, diffusion=None, temporal_modes=6, basis="piecewise")
    assert count(TransformerPDE(8, 2, None, diffusion=None)) * 6 == count(whole)


@pytest.mark.parametrize("normalisation", ["layer", "rms", "dyt", "none"])
def test_normalisation_is_what_the_terms_look_through(normalisation):
    pde, u = TransformerPDE(8, 2, None, diffusion=None, normalisation=normalisation).double(), random(1, 5, 8)
    scaled = pde.rhs(0.0, 7 * u)
    insensitive = float((scaled - pde.rhs(0.0, u)).detach().abs().max()) < 1e-3
    assert insensitive == (normalisation in ("layer", "rms"))
    seen = {"layer": layer_normalise, "rms": rms_normalise, "dyt": lambda x: torch.tanh(0.5 * x), "none": lambda x: x}
    assert torch.equal(pde.terms["reaction"].normalise(u), seen[normalisation](u))


def test_gradients_reach_every_coefficient():
    pde, u = full_equation(Chain(6), 8), random(1, 6, 8)
    integrate(pde, u, [0, 1], "strang", substeps=4).states[-1].square().sum().backward()
    for name, value in pde.named_parameters():
        assert value.grad is not None and float(value.grad.abs().max()) > 0, name


@pytest.mark.parametrize(
    ("do", "error", "says"),
    [
        (lambda: PDE({}, None, 1.0), ValueError, "an equation without terms"),
        (lambda: TransformerPDE(8, 2, None), ValueError, "diffusion or advection without a lattice"),
        (lambda: TransformerPDE(8, 2, None, advection=0.1, diffusion=None), ValueError, "without a lattice"),
        (lambda: TransformerPDE(8, 3, Chain(5)), ValueError, "width 8 is no multiple of heads 3"),
        (lambda: TransformerPDE(8, 2, Chain(5), form="both"), ValueError, "form 'both' was given"),
        (lambda: TransformerPDE(8, 2, Chain(5), normalisation="batch"), ValueError, "normalisation 'batch' was given"),
        (lambda: TransformerPDE(8, 2, Chain(5), diffusion=-0.1), ValueError, r"diffusion=-0\.1 was given"),
        (lambda: TransformerPDE(8, 2, Chain(5), temporal_modes=0), ValueError, "temporal_modes=0 was given"),
        (
            lambda: equation_of(torch.nn.Linear(3, 3)),
            TypeError,
            "a Linear was given, but its parts are only known for pdelens.models.Transformer",
        ),
    ],
)
def test_bad_input_is_named(do, error, says):
    with pytest.raises(error, match=says):
        do()


def test_unknown_term_is_named():
    pde = PDE({"diffusion": Diffusion(Chain(8), 1), "advection": Advection(Chain(8), 1)}, Chain(8), 1.0)
    with pytest.raises(ValueError, match="no term is named 'reaction': there are diffusion, advection"):
        pde.without("reaction").__enter__()


def test_self_attention_in_an_equation_is_found_inside_post_norm():
    term = PostNorm(SelfAttention(8, 2, lambda u: u), 8).double()
    pde, z = PDE({"attention": term}, None, 1.0, Sphere()), layer_normalise(random(2, 5, 8))
    assert torch.equal(pde.attention(0.0, z), term.inner.weights(0.0, term.state(0.0, z)))
