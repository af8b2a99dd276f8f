import copy
import math

import pytest
import torch

from companion.surrogates import synthetic
from pdelens import Chain, Flow, Grid, TransformerPDE, fit, integrate, models


@pytest.fixture(scope="module")
def equation():
    return synthetic.equation_teacher(Grid(5, 5), 16, 2, depth=4, diffusivity=(0.05, 0.2))


@pytest.fixture(scope="module")
def layers(equation):
    return synthetic.layered_teacher(equation, seed=1)


def drawn(teacher, batch=48, seed=1):
    return teacher(torch.Generator().manual_seed(seed), batch)


def rms(values):
    return float(values.square().mean().sqrt())


def test_the_equation_has_the_stated_diffusivity(equation):
    found = equation.pde.terms["diffusion"].diffusivity(0.0)
    assert found.tolist() == pytest.approx(torch.linspace(0.05, 0.2, 16).tolist(), rel=1e-5)
    assert equation.pde.autonomous and equation.pde.form == "pre"
    one = synthetic.equation_teacher(Chain(6), 4, 2, depth=1, diffusivity=0.3)
    assert one.pde.terms["diffusion"].diffusivity(0.0).tolist() == pytest.approx([0.3] * 4, rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("lattice", "width", "heads"), [(Grid(7, 7), 32, 4), (Chain(24), 16, 2)])
def test_attention_is_far_from_uniform_and_states_stay_bounded(lattice, width, heads, seed):
    teacher = synthetic.equation_teacher(lattice, width, heads, seed=seed)
    flow = drawn(teacher, 8)
    found = synthetic.sizes(flow)
    assert flow.layers == 6 and float(found.uniform_cosine.max()) < 0.8 and float(found.entropy.max()) < 0.92
    # Two parts of at most `rate` each a layer, up to the chance of one draw.
    assert float(found.size[-1]) < 1 + 6 * 1.0 and float(found.displacement.min()) > 0.2


def test_it_is_solved_to_convergence(equation):
    flow = drawn(equation)
    with torch.no_grad():
        adaptive = integrate(equation.pde, flow.states[0], method="dopri5")
        coarse = integrate(equation.pde, flow.states[0], method="rk4")
    step = rms(flow.states[-1] - flow.states[-2])
    for ours, theirs in zip(flow.states[1:], adaptive.states[1:], strict=True):
        assert rms(ours - theirs) < 1e-3 * step
    assert max(float((a - b).abs().max()) for a, b in zip(flow.attention, adaptive.attention, strict=True)) < 1e-3
    # One step a layer is visibly not the solution: the test above can fail.
    assert rms(coarse.states[-1] - adaptive.states[-1]) > 1e-3 * step


def test_layers_are_of_the_equations_size_and_independent(equation, layers):
    wanted, found = synthetic.sizes(drawn(equation)), synthetic.sizes(drawn(layers))
    for name in ("entropy", "displacement"):
        # They were matched on other inputs.
        assert getattr(found, name).tolist() == pytest.approx(getattr(wanted, name).tolist(), rel=0.1)
    for parameter in layers.pde.parameters():
        assert len(parameter) == 4
        rows = parameter[..., :-1].detach().flatten(1)  # the last column holds the biases, all zero
        alike = torch.corrcoef(rows) - torch.eye(4)
        assert float(alike.abs().max()) < 5 / rows.shape[1] ** 0.5


def test_layers_are_a_pre_norm_network(layers):
    """One layer, written out: `u += attention(n(u))`, then `u += mlp(n(u))`."""
    flow = drawn(layers, 4)
    number, u = 2, flow.states[2]
    inputs, output, first, second = (
        layers.pde.get_parameter(f"terms.{name}.coefficients")[number, :, :-1].detach()
        for name in ("attention.inputs", "attention.output", "reaction.first", "reaction.second")
    )
    seen = torch.nn.functional.layer_norm(u, (16,))
    query, key, value = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (seen @ inputs.T).chunk(3, -1))
    weights = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)
    assert float((weights - flow.attention[number]).abs().max()) < 1e-5
    u = u + (weights @ value).transpose(1, 2).flatten(2) @ output.T
    seen = torch.nn.functional.layer_norm(u, (16,))
    u = u + torch.nn.functional.gelu(seen @ first.T) @ second.T
    assert float((u - flow.states[number + 1]).abs().max()) < 1e-4


def test_seeds_decide(equation):
    again = synthetic.equation_teacher(Grid(5, 5), 16, 2, depth=4, diffusivity=(0.05, 0.2))
    other = synthetic.equation_teacher(Grid(5, 5), 16, 2, depth=4, diffusivity=(0.05, 0.2), seed=1)
    assert torch.equal(drawn(equation, 2).states[-1], drawn(again, 2).states[-1])
    assert not torch.equal(drawn(equation, 2).states[0], drawn(equation, 2, seed=2).states[0])
    states = drawn(equation, 2).states[0]
    assert rms(equation.flow(states).states[1] - other.flow(states).states[1]) > 0.1


@pytest.mark.parametrize("lattice", [Grid(6, 6), Chain(30), Chain(20, special=(1, 1))])
def test_smooth_states_have_the_stated_size_smoothness_and_position(lattice):
    def states(**settings):
        return synthetic.smooth_states(lattice, 8, **settings)(torch.Generator().manual_seed(0), 400)

    def jump(u):
        return float(lattice.unfold(u).diff(dim=1).square().mean() / lattice.unfold(u).square().mean())

    smooth, rough = states(smoothness=2.0, position=0.0), states(smoothness=0.0, position=0.0)
    assert rms(smooth) == pytest.approx(1, rel=0.03) and rms(rough) == pytest.approx(1, rel=0.03)
    assert jump(smooth) < 0.4 and jump(rough) == pytest.approx(2, rel=0.05)
    placed = states(position=0.5)
    assert rms(placed - placed.mean(0)) == pytest.approx(0.5**0.5, rel=0.03)
    assert rms(states(position=1.0).std(0)) < 1e-5


def test_real_inputs_and_padding():
    pictures = torch.randint(0, 256, (20, 28, 28), dtype=torch.uint8)
    model = models.Transformer(models.Configuration(width=16, heads=2, layers=2, patch=7))
    flow = drawn(synthetic.equation_teacher(Grid(4, 4), 16, 2, depth=2, inputs=synthetic.embedded(model, pictures)), 6)
    embedded = model.embedding(pictures).detach()
    assert all(any(torch.equal(state, one) for one in embedded) for state in flow.states[0])
    tokens = torch.randint(2, 50, (20, 12)).masked_fill(torch.arange(12) > 7, 0)
    model = models.Transformer(models.Configuration(width=16, heads=2, layers=2, vocabulary=50, length=12, outputs=2))
    reader = synthetic.equation_teacher(Chain(12), 16, 2, depth=2, inputs=synthetic.embedded(model, tokens))
    for teacher in (reader, synthetic.layered_teacher(reader)):
        flow = drawn(teacher, 6)
        assert flow.mask.sum(1).tolist() == [8] * 6 and float(flow.attention[1][:, :, :8, 8:].abs().max()) == 0
        assert torch.isfinite(torch.stack(synthetic.sizes(flow))).all()


@pytest.mark.replay
def test_fit_finds_a_known_diffusivity():
    teacher = synthetic.equation_teacher(Chain(10), 8, 2, depth=2, diffusivity=(0.05, 0.2))
    pde = copy.deepcopy(teacher.pde)
    for name, parameter in pde.named_parameters():
        parameter.requires_grad_("diffusion" in name)
    with torch.no_grad():
        pde.get_parameter("terms.diffusion.raw.coefficients").fill_(0.0)
    settings = {"steps": 200, "batch": 12, "peak_rate": 0.1, "method": "rk4", "substeps": 2}
    fit(pde, drawn(teacher, 96), supervision="states", **settings)
    found = pde.terms["diffusion"].diffusivity(0.0).tolist()
    assert found == pytest.approx(torch.linspace(0.05, 0.2, 8).tolist(), rel=0.1)


@pytest.mark.replay
def test_fit_tells_the_equation_from_the_layers():
    """An autonomous equation follows the one, not the other: the same starts, the same budget."""
    equation = synthetic.equation_teacher(Chain(8), 8, 2, depth=3)
    best = []
    for teacher in (equation, synthetic.layered_teacher(equation)):
        pde = TransformerPDE(8, 2, Chain(8), depth=3, seed=5)
        settings = {"optimizer": "adam", "steps": 80, "batch": 24, "peak_rate": 0.03, "method": "rk4"}
        flow = drawn(teacher, 96)
        best.append(fit(pde, flow, validation=drawn(teacher, 32, seed=2), **settings).record["best"])
    assert best[0] < 0.5 * best[1]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"a diffusivity of 0 was given: a positive value"):
        synthetic.equation_teacher(Chain(5), 4, 2, diffusivity=0)
    with pytest.raises(ValueError, match=r"\(0.2, 0.1\)"):
        synthetic.equation_teacher(Chain(5), 4, 2, diffusivity=(0.2, 0.1))
    with pytest.raises(ValueError, match="neither may be negative"):
        synthetic.equation_teacher(Chain(5), 4, 2, rate=-1)
    with pytest.raises(ValueError, match="position 2"):
        synthetic.smooth_states(Chain(5), 4, position=2)


@torch.no_grad()
def test_an_equations_coefficients_are_drawn_at_their_stated_sizes():
    pde = synthetic.equation_teacher(Chain(5), 64, 4, depth=2, sharpness=4.0, rate=0.25, seed=3).pde
    inputs, output, first, second = (
        pde.get_parameter(f"terms.{name}.coefficients")[0]
        for name in ("attention.inputs", "attention.output", "reaction.first", "reaction.second")
    )
    hidden = first.shape[0]
    sizes = [(inputs[:64], 2 / 8), (inputs[64:128], 2 / 8), (inputs[128:], 1 / 8), (output, 0.25 / 8), (first, 1 / 8)]
    sizes += [(second, 0.25 / (0.425 * hidden) ** 0.5)]
    for matrix, size in sizes:
        assert float(matrix[:, :-1].std()) == pytest.approx(size, rel=0.1) and not matrix[:, -1].any()
    # Between independent normalised states the logits' deviation is the sharpness, and the reaction's size the rate.
    u = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    q, k = ((u @ inputs[start : start + 16, :-1].T) for start in (0, 64))
    assert float(((q * k.roll(1, 0)).sum(1) / 4).std()) == pytest.approx(4.0, rel=0.2)
    added = torch.nn.functional.gelu(u @ first[:, :-1].T) @ second[:, :-1].T
    assert rms(added) == pytest.approx(0.25, rel=0.1)


def test_settings_of_a_teacher_are_handed_on():
    made = synthetic.equation_teacher(Chain(5), 8, 4, depth=3, substeps=7, seed=2)
    assert (made.kind, made.method, made.substeps, made.pde.depth) == ("equation", "rk4", 7, 3)
    assert made.pde.terms["attention"].heads == 4 and made.pde.lattice == Chain(5)
    states = synthetic.smooth_states(Chain(5), 8, seed=2)(torch.Generator().manual_seed(1), 3)
    assert torch.equal(drawn(made, 3).states[0], states)
    flow = drawn(made, 3)
    with torch.no_grad():
        again = integrate(made.pde, states, method="rk4", substeps=7)
    assert torch.equal(flow.states[-1], again.states[-1])
    layers = synthetic.layered_teacher(synthetic.equation_teacher(Chain(5), 8, 4, depth=2), seed=5)
    assert (layers.kind, layers.method, layers.substeps, layers.pde.depth) == ("layers", "lie", 1, 2)
    assert layers.pde.terms["attention"].heads == 4 and "diffusion" not in layers.pde.terms


@pytest.mark.parametrize(
    "settings", [{"sharpness": -1}, {"rate": -0.1}, {"diffusivity": (0.0, 0.1)}, {"diffusivity": (0.3, 0.2)}]
)
def test_each_bad_setting_is_enough(settings):
    with pytest.raises(ValueError, match="given"):
        synthetic.equation_teacher(Chain(5), 4, 2, **settings)
    synthetic.equation_teacher(Chain(5), 4, 2, depth=1, sharpness=0, rate=0, diffusivity=(0.1, 0.1))


@pytest.mark.parametrize("settings", [{"smoothness": -0.1}, {"position": -0.1}, {"position": 1.1}])
def test_each_bad_setting_of_states_is_enough(settings):
    with pytest.raises(ValueError, match=">= 0 and a share wanted"):
        synthetic.smooth_states(Chain(5), 4, **settings)
    synthetic.smooth_states(Chain(5), 4, 0.0, 1.0)


def test_states_diffuse_for_their_smoothness_and_special_tokens_do_not():
    """By the matrix exponential of second differences; the field of places is drawn from the seed."""
    lattice = Chain(6, special=(2, 1))
    found = synthetic.smooth_states(lattice, 3, 0.7, 0.0)(torch.Generator().manual_seed(4), 2)
    noise = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(4))
    second = torch.zeros(6, 6)
    for i in range(6):
        for j in (i - 1, i + 1):
            if 0 <= j < 6:
                second[i, j] += 1
                second[i, i] -= 1
    kernel = torch.matrix_exp(0.7 * second.double()).float()
    size = float(sum(value**2 for row in kernel.tolist() for value in row) / 6) ** 0.5
    torch.testing.assert_close(found[:, 2:8], kernel @ noise[:, 2:8] / size, atol=1e-5, rtol=0)
    assert torch.equal(found[:, :2], noise[:, :2]) and torch.equal(found[:, 8:], noise[:, 8:])
    one, again, other = (
        synthetic.smooth_states(lattice, 3, 0.7, 1.0, seed)(torch.Generator().manual_seed(4), 2) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and torch.equal(one[0], one[1]) and not torch.equal(one, other)
    half = synthetic.smooth_states(lattice, 3, 0.7, 0.36)(torch.Generator().manual_seed(4), 2)
    torch.testing.assert_close(half, 0.6 * one + 0.8 * found, atol=1e-5, rtol=0)


def test_sizes_by_plain_loops_over_real_tokens(attention):
    generator, lengths = torch.Generator().manual_seed(0), (5, 3)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    maps = [attention(batch=2, heads=3, tokens=5, seed=seed) * mask[:, None, None, :] for seed in range(2)]
    maps = [a / a.sum(-1, keepdim=True) for a in maps]
    states = [torch.randn(2, 5, 4, generator=generator) for _ in range(3)]
    found = synthetic.sizes(Flow(states, maps, mask=mask))
    for layer in range(2):
        entropies, most, cosines = [], [], []
        for example, length in enumerate(lengths):
            for head in range(3):
                rows = maps[layer][example, head, :length, :length]
                entropies += [-float((row * row.log()).sum()) for row in rows]
                most += [math.log(length)] * length
                cosines.append(float(rows.sum() / rows.norm() / length))
        assert float(found.entropy[layer]) == pytest.approx(sum(entropies) / sum(most), rel=1e-5)
        assert float(found.uniform_cosine[layer]) == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)
        moved = (states[layer + 1] - states[layer])[mask]
        assert float(found.displacement[layer]) == pytest.approx(rms(moved), rel=1e-6)
        assert float(found.size[layer]) == pytest.approx(rms(states[layer + 1][mask]), rel=1e-6)


def test_layers_match_closely_the_inputs_that_they_were_matched_on(equation, layers):
    flow = equation(synthetic.generator_for(1, 2), synthetic.PROBE)
    wanted = synthetic.sizes(flow)
    found = synthetic.sizes(layers.flow(flow.states[0]))
    assert found.entropy.tolist() == pytest.approx(wanted.entropy.tolist(), rel=2e-3)
    assert found.displacement.tolist() == pytest.approx(wanted.displacement.tolist(), rel=2e-3)
    for name in ("attention.output", "reaction.second", "attention.inputs", "reaction.first"):
        assert not layers.pde.get_parameter(f"terms.{name}.coefficients")[..., -1].any()


def test_diffusivities_are_rounded_once():
    teacher = synthetic.equation_teacher(Grid(5, 5), width=16, heads=2, depth=3, diffusivity=(0.003, 0.7))
    found = teacher.pde.terms["diffusion"].raw.coefficients.flatten().tolist()
    exact = [0.003 + (0.7 - 0.003) * channel / 15 for channel in range(16)]
    inverse = [math.log(math.expm1(value)) for value in exact]
    assert found == torch.tensor(inverse, dtype=torch.float64).float().tolist()
