import math

import pytest
import torch
from linear import linear, random
from torch import nn

from pdelens.lattice import Chain
from pdelens.pde.equation import TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.sensitivity.flow_map import flow_map
from pdelens.sensitivity.gradients import GradientFlow, gradient_flow

from .test_flow_map import IDS, tiny_bert

DECAY = torch.tensor([[-0.4, 0.3], [0.0, -0.1]], dtype=torch.float64)


def squares(u):
    return u.square().sum() / 2


def test_the_gradient_of_a_linear_equation_goes_back_by_the_transposed_exponential():
    u = random(2, 3, 2)
    found = gradient_flow(linear(DECAY, 3.0), u, squares, substeps=64)
    end = u @ torch.linalg.matrix_exp(3 * DECAY).T
    for depth, gradient in zip(found.depths.tolist(), found.gradients, strict=True):
        exact = end @ torch.linalg.matrix_exp((3 - depth) * DECAY)
        torch.testing.assert_close(gradient, exact, atol=1e-8, rtol=1e-7)
    assert found.depths.tolist() == [0, 1, 2, 3] and found.norms.shape == (4, 2)


def test_a_gradient_that_decays_forwards_grows_backwards_by_its_rate():
    found = gradient_flow(
        linear(torch.tensor([[0.5]], dtype=torch.float64), 2.0), random(3, 2, 1), squares, substeps=64
    )
    expected = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)[:, None].expand(-1, 3)
    torch.testing.assert_close(found.log_ratio(), expected, atol=1e-8, rtol=1e-7)


def test_a_models_gradients_are_the_pulled_back_gradient_of_its_last_state():
    model = tiny_bert().double()
    found = gradient_flow(model, {"input_ids": IDS}, lambda output: squares(output.last_hidden_state))
    assert len(found.gradients) == 4
    last = found.gradients[-1]
    for depth in range(3):
        torch.testing.assert_close(found.gradients[depth], flow_map(model, {"input_ids": IDS}, depth).vjp(last))


class TwoLinear(nn.Module):
    """Two linear layers, one after another."""

    def __init__(self, first, second):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False).double() for _ in range(2))
        for layer, matrix in zip(self.layers, (first, second), strict=True):
            layer.weight.data = matrix.clone()

    def forward(self, u):
        return self.layers[1](self.layers[0](u))


def test_a_two_layer_linear_network_by_hand():
    first, second, u = random(2, 2, seed=6), random(2, 2, seed=7), random(4, 3, 2)
    found = gradient_flow(TwoLinear(first, second), u, squares)
    end = u @ first.T @ second.T
    for gradient, exact in zip(found.gradients, (end @ second @ first, end @ second, end), strict=True):
        torch.testing.assert_close(gradient, exact)


def test_padded_tokens_have_no_gradient():
    mask = torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask}
    found = gradient_flow(tiny_bert(), inputs, lambda output: squares(output.last_hidden_state[:, 0]))
    assert all(not gradient[1, 4:].any() and gradient[1, :4].any() for gradient in found.gradients[:-1])


def test_alignment_is_the_cosine_of_each_examples_gradients():
    one = GradientFlow((torch.tensor([[[1.0, 0.0]], [[3.0, 4.0]]]),), torch.tensor([0.0]))
    other = GradientFlow((torch.tensor([[[1.0, 1.0]], [[-3.0, -4.0]]]),), torch.tensor([0.0]))
    assert one.alignment(other).tolist()[0] == pytest.approx([1 / math.sqrt(2), -1.0])
    with pytest.raises(ValueError, match="were given for"):
        one.alignment(GradientFlow((torch.zeros(2, 1, 3),), torch.tensor([0.0])))


@pytest.mark.parametrize("made", ["dopri5", "post"])
def test_gradients_pass_through_every_depth_of_whatever_solves(made):
    """An adaptive solver's states in between are interpolants, a sphere's are copies: each depth begins anew."""
    pde = linear(DECAY, 2.0) if made == "dopri5" else TransformerPDE(8, 2, Chain(4), depth=2, form="post").double()
    u = random(2, 4, 2 if made == "dopri5" else 8)
    weight = random(*u.shape, seed=4)
    found = gradient_flow(pde, u, lambda v: (v * weight).sum(), method="dopri5" if made == "dopri5" else "rk4")
    for depth in range(2):
        one = flow_map(pde, integrate(pde, u, [0, 1], "rk4", 4).states[1] if depth else u, depth, 2)
        torch.testing.assert_close(found.gradients[depth], one.vjp(weight), atol=1e-4, rtol=1e-4)
    assert all(float(norm) > 1e-3 for norm in found.norms.flatten())


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (lambda output: output.last_hidden_state.sum(-1), "one number is wanted"),
        (lambda output: 3.0, "a loss of float was given"),
        (lambda output: torch.zeros((), requires_grad=True) * 2, "does not depend on the states"),
        (lambda output: torch.tensor(1.0), "does not depend on the states"),
        (lambda output: output.last_hidden_state.sum() * math.nan, "the loss is nan"),
    ],
)
def test_a_loss_that_is_none_is_refused_in_a_sentence(loss, sentence):
    with pytest.raises(ValueError, match=sentence):
        gradient_flow(tiny_bert(), {"input_ids": IDS}, loss)


def test_what_is_neither_a_model_nor_an_equation_is_refused():
    with pytest.raises((TypeError, ValueError), match="a torch module, or an equation"):
        gradient_flow(None, random(1, 2, 1), squares)


def test_one_token_that_is_not_a_number_is_refused():
    model = tiny_bert()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[int(IDS[0, 1])] = float("nan")
    with pytest.raises(ValueError, match="the state at depth 0 holds NaN"):
        gradient_flow(model, {"input_ids": IDS}, lambda out: out.last_hidden_state[..., 0].sum())
