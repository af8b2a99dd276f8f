import copy

import pytest
import torch

from companion.surrogates import synthetic
from pdelens import Chain, Grid, TransformerPDE, fit, integrate, models


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
