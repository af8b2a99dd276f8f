import math

import pytest
import torch
import torch.nn.functional as F
from patched import KINDS, by_hand, captured, classifier, language_model, pictures, random

from companion.surrogates import patching
from companion.surrogates.patching import (
    equation_effects,
    given_attention,
    integrate_with_attention,
    substituted_logits,
    substitution_effects,
)
from companion.theory.problems import full_equation
from pdelens import capture
from pdelens.agreement import nulls
from pdelens.lattice import Chain, Grid
from pdelens.pde.equation import TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of

METHODS = [("lie", 1), ("lie", 5), ("strang", 3), ("euler", 4), ("rk4", 3), ("dopri5", 1)]


# A Transformer with another's attention


@KINDS
@torch.no_grad()
def test_own_maps_change_nothing_and_other_maps_do(make):
    model, inputs, mask = make()
    plain, flow = model(inputs, mask), captured(model, inputs, mask)
    assert torch.equal(substituted_logits(model, inputs, None, mask=mask), plain)
    for layers in (None, [1]):
        found = substituted_logits(model, inputs, flow, mask=mask, layers=layers, batch=3)
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=0)
        other = substituted_logits(model, inputs, nulls.uniform(flow), mask=mask, layers=layers, batch=3)
        assert float((other - plain).abs().max()) > 1e-2
    assert torch.equal(model(inputs, mask), plain)


@KINDS
@pytest.mark.parametrize("layers", [[0], [1], [-1], [0, 2], None])
def test_only_the_layers_named_are_changed(make, layers):
    model, inputs, mask = make()
    maps = nulls.other_input(captured(model, inputs, mask))
    chosen = {0, 1, 2} if layers is None else {layer % 3 for layer in layers}
    found = substituted_logits(model, inputs, maps, mask=mask, layers=layers, batch=5)
    torch.testing.assert_close(found, by_hand(model, inputs, mask, maps, chosen), atol=1e-5, rtol=0)
    every = by_hand(model, inputs, mask, maps, {0, 1, 2})
    assert (layers is None) == torch.allclose(found, every, atol=1e-3)


def test_orders_of_heads_are_undone():
    model, inputs, mask = pictures()
    flow, orders = captured(model, inputs, mask), [torch.tensor(o) for o in ([0, 1, 2, 3], [2, 0, 3, 1], [1, 2, 3, 0])]
    plain, aligned = model(inputs).detach(), flow.permute_heads(orders)
    torch.testing.assert_close(substituted_logits(model, inputs, aligned, orders=orders), plain, atol=1e-5, rtol=0)
    assert float((substituted_logits(model, inputs, aligned) - plain).abs().max()) > 1e-2
    flat = nulls.uniform(aligned)  # one head for all has no order
    with_orders, without = (substituted_logits(model, inputs, flat, orders=o) for o in (orders, None))
    assert torch.equal(with_orders, without)


@KINDS
@torch.no_grad()
def test_effects_of_named_sources(make):
    model, inputs, mask = make()
    flow = captured(model, inputs, mask)
    own = model(inputs, mask)
    labels = own.argmax(-1).clone()
    labels[0], labels[1] = (labels[0] + 1) % 5, -1  # one wrong, one without a label
    sources = {"same": flow, **nulls.attention_nulls(flow, flow)}
    found = substitution_effects(model, inputs, sources, labels, mask=mask)
    assert list(found) == ["own", *sources]
    keep = torch.ones(labels.shape, dtype=torch.bool) if labels.ndim == 1 else mask
    counted = keep & (labels >= 0)
    right = float((labels == own.argmax(-1))[counted].double().mean())
    assert 0 < right < 1 and found["own"].accuracy == pytest.approx(right)
    assert found["own"].kept == found["own"].agreement == 1 and found["own"].divergence == 0
    assert found["same"].agreement == 1 and found["same"].divergence < 1e-8
    for name in sources:
        logits = found[name].logits
        agreed = float((logits.argmax(-1) == own.argmax(-1))[keep].double().mean())
        assert found[name].agreement == pytest.approx(agreed)
        expected = F.kl_div(logits[keep].log_softmax(-1), own[keep].softmax(-1), reduction="batchmean")
        assert found[name].divergence == pytest.approx(float(expected), rel=1e-3, abs=1e-7)
        assert found[name].kept == pytest.approx(found[name].accuracy / right)
    assert min(found[name].divergence for name in ("uniform", "other input", "shuffled layers")) > 1e-4
    assert math.isnan(substitution_effects(model, inputs, {}, mask=mask)["own"].accuracy)


@torch.no_grad()
def test_the_model_is_left_as_it_was_after_an_error():
    model, inputs, _ = pictures()
    plain = model(inputs)
    with pytest.raises(ValueError, match="pictures of shape"):  # from within the model's own run
        substituted_logits(model, inputs.float(), [flat(1, 1, 16, 16)] * 3)
    with capture(model) as recording:
        assert torch.equal(model(inputs), plain)
    assert recording.flow().layers == 3


# An equation with another's attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("modes", [1, 3])
@torch.no_grad()
def test_own_maps_at_one_lie_step_a_layer_give_back_the_own_flow(causal, modes):
    pde = full_equation(Chain(7, causal=causal), 8, depth=3.0, temporal_modes=modes, diffusion=None, advection=None)
    u, mask = random(4, 7, 8), torch.ones(4, 7, dtype=torch.bool)
    mask[1, 4:] = False
    before = dict(pde.named_modules())
    own = integrate(pde, u, mask=mask)
    found = integrate_with_attention(pde, u, own, mask=mask)
    for ours, theirs in zip([*found.states, *found.attention], [*own.states, *own.attention], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    other = integrate_with_attention(pde, u, nulls.uniform(own), mask=mask)
    assert float((other.states[-1] - own.states[-1]).abs().max()) > 1e-2
    assert dict(pde.named_modules()) == before and pde.autonomous == (modes == 1) and found.causal == causal


@torch.no_grad()
def test_after_diffusion_own_maps_belong_to_other_states():
    # Lie steps diffusion first, so the attention that acts is not the one that a Flow records.
    pde, u = full_equation(Chain(7), 8, depth=2.0), random(2, 7, 8)
    own = integrate(pde, u)
    assert float((integrate_with_attention(pde, u, own).states[-1] - own.states[-1]).abs().max()) > 1e-3


@KINDS
@torch.no_grad()
def test_the_teachers_equation_with_the_teachers_maps_is_the_teacher(make):
    model, inputs, mask = make()
    model = model.double()
    lattice = Grid(4, 4) if mask is None else Chain(9, causal=model.configuration.causal)
    pde, flow = equation_of(model, lattice), captured(model, inputs, mask)
    found = integrate_with_attention(pde, flow.states[0], flow, mask=mask)
    keep = torch.ones(8, 16, dtype=torch.bool) if mask is None else mask
    for ours, theirs in zip(found.states, flow.states, strict=True):
        # `capture` records attention in float32.
        torch.testing.assert_close(ours[keep], theirs[keep], atol=1e-5, rtol=0)
    effects = equation_effects(pde, model, inputs, {"teacher": flow, "uniform": nulls.uniform(flow)}, mask=mask)
    assert effects["own"].agreement == effects["teacher"].agreement == 1
    assert effects["teacher"].divergence < 1e-8 < 1e-4 < effects["uniform"].divergence


@torch.no_grad()
def test_steps_may_crowd_inside_a_layer_and_its_map_stays(attention):
    pde, u = full_equation(Chain(7), 8, depth=2.0, temporal_modes=1), random(2, 7, 8)
    maps = [attention(batch=2, heads=2, seed=seed, dtype=torch.float64) for seed in range(2)]
    crowded = [0, 1 / 64, 1 / 8, 1 / 2, 1, 1.25, 2]
    found = integrate_with_attention(pde, u, maps, "rk4", 16, depths=crowded)
    even = integrate_with_attention(pde, u, maps, "rk4", 64)
    assert found.depths.tolist() == crowded and torch.equal(found.attention[3], maps[0])
    for at, ours in ((4, even.states[1]), (-1, even.states[2])):
        torch.testing.assert_close(found.states[at], ours, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("method", "substeps"), METHODS)
@torch.no_grad()
def test_each_map_acts_on_its_own_layer_alone(method, substeps, attention):
    pde, u = full_equation(Chain(7), 8, depth=3.0, temporal_modes=1), random(2, 7, 8)
    maps = [attention(batch=2, heads=2, seed=seed, dtype=torch.float64) for seed in range(3)]
    flow = integrate_with_attention(pde, u, maps, method, substeps)
    assert [float(t) for t in flow.depths] == [0, 1, 2, 3]
    for given, kept in zip(maps, flow.attention, strict=True):
        assert torch.equal(given, kept)
    for layer in range(3):
        # The equation is autonomous but for its maps, so that a layer is a run of depth 1 with one map.
        pde.depth = 1.0
        alone = integrate_with_attention(pde, flow.states[layer], [maps[layer]], method, substeps).states[-1]
        torch.testing.assert_close(alone, flow.states[layer + 1], atol=1e-5 if method == "dopri5" else 1e-12, rtol=0)


@torch.no_grad()
def test_a_linear_equation_with_given_maps_against_the_matrix_exponential(attention):
    pde = TransformerPDE(8, 2, None, depth=2, diffusion=None, reaction=False, normalisation="none", seed=1).double()
    term = pde.terms["attention"]
    for modes in (term.inputs, term.output):
        modes.coefficients[..., -1] = 0  # no bias: the equation is linear
    maps = [attention(batch=1, heads=2, tokens=5, seed=seed, dtype=torch.float64) for seed in range(2)]
    inputs, output = term.inputs(0.0)[16:, :-1], term.output(0.0)[:, :-1]
    u = random(1, 5, 8)
    expected = u.flatten()
    for weights in maps:
        generator = sum(
            torch.kron(weights[0, head], output[:, 4 * head : 4 * head + 4] @ inputs[4 * head : 4 * head + 4])
            for head in range(2)
        )
        expected = torch.linalg.matrix_exp(generator) @ expected
    found = integrate_with_attention(pde, u, maps, "rk4", 64)
    torch.testing.assert_close(found.states[-1].flatten(), expected, atol=1e-8, rtol=0)
    adaptive = integrate_with_attention(pde, u, maps, "dopri5", rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(adaptive.states[-1].flatten(), expected, atol=1e-8, rtol=0)


@torch.no_grad()
def test_post_norm_equations_take_given_maps():
    pde = TransformerPDE(8, 2, None, depth=2, form="post", diffusion=None).double()
    u = random(2, 5, 8)
    own = integrate(pde, u)
    found = integrate_with_attention(pde, u, own)
    torch.testing.assert_close(found.states[-1], own.states[-1], atol=1e-12, rtol=0)
    other = integrate_with_attention(pde, u, nulls.uniform(own))
    assert float((other.states[-1] - own.states[-1]).abs().max()) > 1e-3


def test_gradients_reach_the_equation_and_the_maps(attention):
    pde, u = full_equation(Chain(7), 8, depth=2.0), random(2, 7, 8)
    maps = [attention(batch=2, heads=2, dtype=torch.float64).requires_grad_() for _ in range(2)]
    integrate_with_attention(pde, u, maps).states[-1].square().sum().backward()
    assert all(float(value.grad.abs().max()) > 0 for value in [*maps, pde.terms["attention"].inputs.coefficients])


@torch.no_grad()
def test_the_term_comes_back_after_an_error():
    pde = full_equation(Chain(7), 8, depth=2.0)
    original, flat = pde.terms["attention"], [torch.full((1, 1, 7, 7), 1 / 7)] * 2
    with pytest.raises(ZeroDivisionError), given_attention(pde, flat):
        assert pde.terms["attention"] is not original and "A(t)" in str(pde)
        raise ZeroDivisionError
    assert pde.terms["attention"] is original


# What is refused


def flat(*shape):
    return torch.full(shape, 1 / shape[-1])


@pytest.mark.parametrize(
    ("make", "change", "says"),
    [
        (pictures, {"maps": [flat(1, 1, 16, 16)] * 2}, "2 maps were given, but the model has 3 layers"),
        (
            pictures,
            {"maps": [flat(8, 3, 16, 16)] * 3},
            r"attention\[0\] has shape \(8, 3, 16, 16\), but \(8, 4, 16, 16\)",
        ),
        (pictures, {"maps": [2 * flat(1, 1, 16, 16)] * 3}, r"attention\[0\] has rows summing to 2 ... 2, not to 1"),
        (pictures, {"maps": [flat(1, 1, 16, 16) * math.nan] * 3}, r"attention\[0\] holds values that are not finite"),
        (pictures, {"layers": [3]}, r"layers \[3\] were asked for of 3"),
        (pictures, {"layers": []}, r"layers \[\] were asked for of 3"),
        (pictures, {"orders": [torch.arange(4)] * 2}, "2 orders of heads were given for 3 layers"),
        (classifier, {"maps": [flat(1, 1, 9, 9)] * 3}, "puts up to 0.667 of a row on padding or later tokens"),
        (
            language_model,
            {"maps": [flat(1, 1, 9, 9)] * 3, "mask": None},
            "puts up to 0.889 of a row on padding or later",
        ),
        (classifier, {"mask": torch.ones(8, 5)}, r"the mask has shape \(8, 5\), but \(8, 9\) is wanted"),
    ],
)
def test_bad_input_of_a_transformer_is_named(make, change, says):
    model, inputs, mask = make()
    given = {"maps": [flat(1, 1, 16, 16) if mask is None else torch.eye(9)[None, None]] * 3, "mask": mask} | change
    with pytest.raises(ValueError, match=says):
        substituted_logits(model, inputs, **given)


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda p, u: integrate_with_attention(p, u, [flat(1, 1, 7, 7)]), "1 maps were given, but the equation has 2"),
        (lambda p, u: integrate_with_attention(p, u, [flat(1, 3, 7, 7)] * 2), r"\(1, 3, 7, 7\), but \(2, 2, 7, 7\)"),
        (lambda p, u: integrate_with_attention(p, u[0], [flat(1, 1, 7, 7)] * 2), r"a state of shape \(7, 8\)"),
        (
            lambda p, u: integrate_with_attention(
                TransformerPDE(8, 2, Chain(7), depth=2, attention=False).double(), u, [flat(1, 1, 7, 7)] * 2
            ),
            "an equation without self-attention was given: it has diffusion, reaction",
        ),
        (
            lambda p, u: integrate_with_attention(
                full_equation(Chain(7, causal=True), 8, depth=2.0, diffusion=None), u, [flat(1, 1, 7, 7)] * 2
            ),
            "puts up to 0.857 of a row on padding or later tokens",
        ),
    ],
)
def test_bad_input_of_an_equation_is_named(do, says):
    with pytest.raises(ValueError, match=says):
        do(full_equation(Chain(7), 8, depth=2.0), random(2, 7, 8))


def test_names_and_labels_are_checked():
    model, inputs, _ = pictures()
    with pytest.raises(ValueError, match="a source named 'own' was given"):
        substitution_effects(model, inputs, {"own": [flat(1, 1, 16, 16)] * 3})
    with pytest.raises(ValueError, match=r"labels of shape \(3,\) were given, but \(8,\) is wanted"):
        substitution_effects(model, inputs, {}, torch.zeros(3))


def test_rows_may_miss_one_by_just_the_slack(monkeypatch):
    monkeypatch.setattr(patching, "_SLACK", 0.5)
    maps = torch.full((2, 1, 4, 4), 1.5 / 4)
    assert patching._fitting(maps, (2, 1, 4, 4), "a map", None, False).shape == (2, 1, 4, 4)
    with pytest.raises(ValueError, match="rows summing to 2"):
        patching._fitting(maps * 4 / 3, (2, 1, 4, 4), "a map", None, False)
