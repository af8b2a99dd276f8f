"""Finer steps of a frozen model: Euler's method on its layers, whatever library the model is of."""

import math
from itertools import pairwise

import pytest
import torch
import transformers
from torch import nn

from companion.theory.substeps import substepped
from pdelens import capture
from pdelens.models import Configuration, Transformer

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
IDS = torch.randint(1, 50, (2, 7), generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """du/dt = A u, two layers long."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = 0.3 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False).double() for _ in range(2)])
        for layer in self.layers:
            layer.weight.data = torch.eye(4).double() + self.matrix

    def forward(self, u):
        for layer in self.layers:
            u = layer(u)
        return u


def llama():
    torch.manual_seed(0)
    return transformers.LlamaModel(transformers.LlamaConfig(**SMALL, num_key_value_heads=1)).eval(), "layers"


def bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SMALL)).eval(), "encoder.layer"


@torch.no_grad()
def test_finer_steps_tend_to_the_exponential():
    model, u = Linear(), torch.ones(4, dtype=torch.float64)
    exact = torch.linalg.matrix_exp(2 * model.matrix) @ u
    errors = []
    for steps in (8, 16, 32):
        with substepped(model, "layers", steps):
            errors.append(float((model(u) - exact).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([1, 1], abs=0.1)


@torch.no_grad()
def test_repeated_whole_and_in_chosen_layers_alone():
    model, u = Linear(), torch.ones(4, dtype=torch.float64)
    step = torch.eye(4).double() + model.matrix
    with substepped(model, "layers", 3, length=1.0, layers=[1]):
        torch.testing.assert_close(model(u), torch.linalg.matrix_power(step, 4) @ u)
    half = torch.eye(4).double() + model.matrix / 2
    with substepped(model, "layers", 2, layers=[0]):
        torch.testing.assert_close(model(u), step @ half @ half @ u)


@torch.no_grad()
def test_layers_that_step_together_are_one_field():
    model, u = Linear(), torch.ones(4, dtype=torch.float64)
    both = torch.linalg.matrix_power(torch.eye(4).double() + model.matrix, 2)
    part = torch.eye(4).double() + (both - torch.eye(4).double()) / 4
    with substepped(model, "layers", 4, together=True):
        torch.testing.assert_close(model(u), torch.linalg.matrix_power(part, 4) @ u)
    wide, name = bert()
    with pytest.raises(ValueError, match="follow one another"), substepped(wide, name, 2, layers=[0, 2], together=True):
        pass


@pytest.mark.parametrize("make", [llama, bert])
@torch.no_grad()
def test_one_step_is_the_model_and_it_is_left_as_it_was(make):
    model, name = make()
    wanted = model(IDS, use_cache=False).last_hidden_state if make is llama else model(IDS).last_hidden_state
    with substepped(model, name, 1):
        torch.testing.assert_close(model(IDS).last_hidden_state, wanted)
    with pytest.raises(RuntimeError, match="on purpose"), substepped(model, name, 3):
        raise RuntimeError("on purpose")
    assert len(model.get_submodule(name)) == 3 and model.config.num_hidden_layers == 3
    torch.testing.assert_close(model(IDS).last_hidden_state, wanted)


@pytest.mark.parametrize("make", [llama, bert])
@torch.no_grad()
def test_every_step_is_the_layers_own_field(make):
    """By hand, from the captured states: each step moves by a half of what the layer would."""
    model, name = make()
    with substepped(model, name, 2), capture(model) as recording:
        model(IDS) if make is bert else model(IDS, use_cache=False)
    flow = recording.flow()
    assert flow.layers == 6
    with capture(model) as recording:
        model(IDS) if make is bert else model(IDS, use_cache=False)
    whole = recording.flow()
    torch.testing.assert_close(flow.states[0], whole.states[0])
    torch.testing.assert_close(flow.attention[0], whole.attention[0])
    torch.testing.assert_close(flow.states[1], (whole.states[0] + whole.states[1]) / 2)


@torch.no_grad()
def test_our_own_models_too():
    model = Transformer(Configuration(layers=2, width=16, heads=2, patch=7)).eval()
    pictures = torch.randint(0, 255, (3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    wanted = model(pictures)
    with substepped(model, "blocks", 1):
        torch.testing.assert_close(model(pictures), wanted)
    with substepped(model, "blocks", 4), capture(model) as recording:
        assert not torch.allclose(model(pictures), wanted)
    assert recording.flow().layers == 8


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "embeddings"}, "is no stack of layers"),
        ({"steps": 0}, "steps=0 was given: a whole number, at least 1"),
        ({"steps": 1.5}, "steps=1.5 was given"),
        ({"layers": [3]}, "layer 3 was asked for, but 'encoder.layer' has 3 layers"),
    ],
)
def test_what_does_not_fit_is_named(given, says):
    with pytest.raises(ValueError, match=says), substepped(bert()[0], **{"name": "encoder.layer", "steps": 2} | given):
        pass
