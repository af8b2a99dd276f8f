import pytest
import torch
from linear import linear, random
from torch import nn

from pdelens.attention.call import CaptureError
from pdelens.attention.capture import flow_of
from pdelens.lattice import Chain
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.flow_map import FlowMap, flow_map
from pdelens.sensitivity.jacobian import FieldJacobian


def tiny_bert(**settings):
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 40, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    torch.manual_seed(0)
    return BertModel(BertConfig(num_hidden_layers=3, max_position_embeddings=16, **sizes, **settings)).eval()


def tiny_albert():
    from transformers import AlbertConfig, AlbertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    return AlbertModel(AlbertConfig(num_hidden_layers=3, embedding_size=8, **sizes)).eval()


def tiny_llama():
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 20}
    return LlamaModel(LlamaConfig(num_hidden_layers=3, num_key_value_heads=3, **sizes)).eval()


def encoder(first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=first)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()


IDS = torch.arange(1, 19).view(3, 6)
MODELS = {
    "BERT": (tiny_bert, {"input_ids": IDS}),
    "ALBERT, one layer three times": (tiny_albert, {"input_ids": IDS}),
    "Llama, causal": (tiny_llama, {"input_ids": IDS}),
    "torch, batch first": (lambda: encoder(True), {"src": random(3, 6, 12, dtype=torch.float32)}),
    "torch, sequence first": (lambda: encoder(False), {"src": random(6, 3, 12, dtype=torch.float32)}),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("start", "end"), [(0, 3), (1, 2), (0, 1), (2, None)])
def test_a_map_carries_a_models_own_states_to_its_own_states(name, start, end):
    made, inputs = MODELS[name]
    model = made()
    states = flow_of(model, inputs).states if "sequence" not in name else by_hand(model, inputs["src"])
    found = flow_map(model, inputs, start, end)
    assert found.depths == (start, end or 3) and found.length == (end or 3) - start
    torch.testing.assert_close(found.point.detach(), states[start])
    torch.testing.assert_close(found.value, states[end or 3])
    torch.testing.assert_close(found(states[start]), states[end or 3])


def by_hand(model, u):
    states = [u]
    for layer in model.layers:
        states.append(layer(states[-1]))
    return [state.transpose(0, 1).detach() for state in states]


@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_central_differences_and_of_each_other(name):
    made, inputs = MODELS[name]
    model = made().double()
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    found = flow_map(model, inputs, 1, 3)
    v, w = random(*found.point.shape, seed=1), random(*found.point.shape, seed=2)
    step = 1e-5
    difference = (found(found.point + step * v) - found(found.point - step * v)) / (2 * step)
    if "Llama" not in name:  # its norm is computed in float32, whatever the model's type
        torch.testing.assert_close(found.jvp(v), difference, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close((found.jvp(v) * w).sum(), (v * found.vjp(w)).sum(), atol=1e-6, rtol=1e-6)


def test_padded_tokens_are_left_out_of_values_and_products():
    model, mask = tiny_bert().double(), torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    found = flow_map(model, {"input_ids": IDS, "attention_mask": mask}, 1)
    alone = flow_map(model, {"input_ids": IDS[1:2, :4]}, 1)
    change = random(3, 6, 12, seed=3)
    torch.testing.assert_close(found.value[1:2, :4], alone.value)
    torch.testing.assert_close(found.jvp(change)[1:2, :4], alone.jvp(change[1:2, :4]))
    torch.testing.assert_close(found.vjp(change)[1:2, :4], alone.vjp(change[1:2, :4]))
    for values in (found.value, found.jvp(change), found.vjp(change), found(found.point)):
        assert not values[1, 4:].any()


def test_an_equations_map_is_its_propagator():
    generator = torch.tensor([[0.0, 1.0], [-1.0, -0.3]], dtype=torch.float64)
    u = random(2, 4, 2)
    found = flow_map(linear(generator, 3.0), u, 0.5, 2.0, substeps=64)
    exact = torch.linalg.matrix_exp(1.5 * generator)
    torch.testing.assert_close(found.value, u @ exact.T, atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(found.jvp(u), u @ exact.T, atol=1e-8, rtol=1e-7)
    torch.testing.assert_close(found.vjp(u), u @ exact, atol=1e-8, rtol=1e-7)
    assert found.depths == (0.5, 2.0) and found.length == 1.5


def test_an_equations_map_takes_the_steps_that_it_is_told():
    pde, u = linear(torch.tensor([[-0.7]], dtype=torch.float64), 2.0), random(1, 3, 1)
    found = flow_map(pde, u, method="euler", substeps=1)
    torch.testing.assert_close(found.value, u * (1 - 1.4))
    torch.testing.assert_close(found.value, integrate(pde, u, [0.0, 2.0], "euler", 1).states[-1])


def test_a_model_is_left_as_it_was():
    model = tiny_bert()
    before = model(input_ids=IDS).last_hidden_state
    flow_map(model, {"input_ids": IDS}, 1, 2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(model(input_ids=IDS).last_hidden_state, before)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_books_own_transformer_takes_a_plain_tensor():
    model = Transformer(Configuration(vocabulary=50, length=16, layers=3, outputs=2))
    tokens = torch.randint(1, 50, (3, 16), generator=torch.Generator().manual_seed(0))
    flow = flow_of(model, tokens)
    torch.testing.assert_close(flow_map(model, tokens, 1).value, flow.states[3])


HEAT = linear(torch.tensor([[-1.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: flow_map(tiny_bert(), {"input_ids": IDS}, 2, 2), "depths 2 to 2 were asked for"),
        (lambda: flow_map(tiny_bert(), {"input_ids": IDS}, 0, 4), "0 <= start < end <= 3"),
        (lambda: flow_map(tiny_bert(), {"input_ids": IDS}, 0.5), "start=0.5 was given: a whole number"),
        (lambda: flow_map(HEAT, random(1, 2, 1), 0.0, 1.5), "depth-times 0 to 1.5 were asked for"),
        (lambda: flow_map(HEAT, random(1, 2, 1), float("nan")), "start=nan was given"),
        (lambda: flow_map(lambda u: u, random(1, 2, 1)), "a torch module, or an equation"),
        (lambda: flow_map(nn.Linear(3, 3), random(2, 4, 3, dtype=torch.float32)), "one row of layers is wanted, but 0"),
        (lambda: flow_map(tiny_bert(), {"input_ids": "text"}), "one example a row"),
        (lambda: flow_map(HEAT, random(1, 2, 1))(random(1, 3, 1)), "were given for"),
        (lambda: flow_map(HEAT, random(1, 2, 1)).jvp(random(1, 3, 1)), "was given for"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(call, sentence):
    with pytest.raises((ValueError, TypeError, CaptureError), match=sentence):
        call()


def test_a_model_of_two_stacks_is_asked_for_one():
    torch.manual_seed(0)
    model = nn.Transformer(12, 3, 2, 2, 20, batch_first=True).eval()
    inputs = {"src": random(2, 5, 12, dtype=torch.float32), "tgt": random(2, 4, 12, seed=1, dtype=torch.float32)}
    with pytest.raises(CaptureError, match="say which="):
        flow_map(model, inputs)
    assert flow_map(model, inputs, which="encoder").point.shape == (2, 5, 12)
    found = flow_map(model, inputs, 1, which="decoder.layers")
    with torch.no_grad():
        memory = model.encoder(inputs["src"])
        expected = model.decoder.layers[1](model.decoder.layers[0](inputs["tgt"], memory), memory)
    torch.testing.assert_close(found.value, expected)


def test_a_lattice_is_no_matter():
    from pdelens.pde.terms import Diffusion

    pde = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=1).double()
    constant = torch.ones(1, 3, 1, dtype=torch.float64)
    torch.testing.assert_close(flow_map(pde, constant).jvp(constant), constant)


# What has no derivative, or another one than it seems


class Layered(nn.Module):
    """A linear layer, and one of a test's own."""

    def __init__(self, last):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), last])

    def forward(self, u):
        return self.layers[1](self.layers[0](u))


class Made(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, u):
        return self.function(u)


SMALL = random(2, 3, 4, dtype=torch.float32)


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (Made(lambda u: u.detach() * 2), "no gradient passes from the state at depth 0 to that at 2"),
        (Made(torch.no_grad()(lambda u: u + 1)), "no gradient passes"),
        (Made(lambda u: u / (u - u)), "the state at depth 2 holds NaN or infinity"),
        (nn.Dropout(0.5), r"a second pass gave another state at depth 2 .* use model\.eval\(\)"),
    ],
)
def test_layers_without_a_derivative_of_their_own_are_named(last, sentence):
    with pytest.raises(ValueError, match=sentence):
        flow_map(Layered(last).train(), SMALL)


def test_a_dropout_that_is_off_changes_nothing():
    model = Layered(nn.Dropout(0.5)).eval()
    torch.testing.assert_close(flow_map(model, SMALL, 1).value, model.layers[0](SMALL).detach())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_whatever_has_it(kind):
    calls = [
        lambda: flow_map(Layered(nn.Linear(4, 4)).to(kind), SMALL.to(kind)),
        lambda: flow_map(HEAT.to(kind), random(1, 2, 1).to(kind)),
        lambda: FlowMap(torch.tanh, SMALL.to(kind)),
        lambda: FieldJacobian(HEAT, 0.0, random(1, 2, 1).to(kind)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"states of type {str(kind)[6:]} were met, .* float32 or float64"):
            call()
    HEAT.double()


def test_places_without_derivatives_are_named():
    model = Layered(nn.Linear(4, 4))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"inside torch\.inference_mode"):
        flow_map(model, SMALL)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="in half precision: leave it"):
        FlowMap(torch.tanh, SMALL)
    with torch.no_grad():
        assert flow_map(model, SMALL).jvp(SMALL).abs().max() > 0, "only the caller's own gradients are off"


def test_padding_that_is_not_finite_stays_where_it_is():
    u = SMALL.clone()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    one = FlowMap(lambda v: torch.where(mask[..., None], v**2, torch.nan), u, mask)
    assert torch.isfinite(one.value).all() and torch.isfinite(one.jvp(u)).all() and torch.isfinite(one.vjp(u)).all()
    torch.testing.assert_close(one.value[mask], u[mask] ** 2)


def test_a_function_of_ones_own_makes_a_map():
    one = FlowMap(lambda v: v.sin(), SMALL, depths=(2, 5))
    torch.testing.assert_close(one.jvp(SMALL), SMALL * SMALL.cos())
    torch.testing.assert_close(one(2 * SMALL), (2 * SMALL).sin())
    assert one.length == 3 and one.depths == (2, 5)
    for made, sentence in ((lambda v: v[:1], "shape and type are to stay"), (lambda v: "a", "the map made str")):
        with pytest.raises(ValueError, match=sentence):
            FlowMap(made, SMALL)


def test_what_a_model_does_not_run_on_is_told_with_its_own_words():
    with pytest.raises(ValueError, match=r"did not run on one tensor \(2, 3, 4\) torch.int64: .*"):
        flow_map(Layered(nn.Linear(4, 4)), SMALL.long())
    with pytest.raises(ValueError, match="an example without a real token"):
        flow_map(Layered(nn.Linear(4, 4)), SMALL, mask=torch.tensor([[True] * 3, [False] * 3]))
