"""Networks without residual connections at their beginning: what a layer keeps, by hand and by what it is for."""

import math

import pytest
import torch

from companion.stabilisers.conditioning import SelfBiased
from companion.stabilisers.switches import NORMALISATIONS, Switched, Switches
from pdelens.models import Attention, Configuration

SHAPE = Configuration(width=16, heads=2, layers=3, patch=14)
PICTURES = 255 * torch.randint(0, 2, (40, 28, 28), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


def conditioned(normalisation="none", seed=1, shape=SHAPE):
    return Switched(Switches("skipless", normalisation, shape), seed)


def test_a_head_adds_its_own_number_to_a_tokens_score_for_itself():
    biased, usual = SelfBiased(SHAPE), Attention(SHAPE.width, SHAPE.heads)
    with torch.no_grad():
        biased.itself.copy_(torch.tensor([0.0, 1.5]))
    biased.load_state_dict(usual.state_dict(), strict=False)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    one, other = biased.weights(x, mask), usual.weights(x, mask)
    assert torch.allclose(one[:, 0], other[:, 0], atol=1e-6)
    raised = other[:, 1] * (1 + (math.exp(1.5) - 1) * torch.eye(5))
    assert torch.allclose(one[:, 1], raised / raised.sum(-1, keepdim=True), atol=1e-6)
    assert not one[1, :, :, 3:].any()
    # What it mixes is what it says that it weighs.
    values = biased.queries_keys_values(x).chunk(3, -1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
    mixed = (one @ values).transpose(1, 2).flatten(2)
    assert torch.allclose(biased(x, mask), biased.project(mixed), atol=1e-6)


@pytest.mark.parametrize("layers", [2, 24])
def test_a_token_keeps_a_share_of_itself_that_depth_does_not_use_up(layers):
    attention = SelfBiased(Configuration(width=16, heads=2, layers=layers, patch=7))
    with torch.no_grad():
        attention.queries_keys_values.weight.zero_(), attention.queries_keys_values.bias.zero_()
    maps = attention.weights(torch.randn(1, 16, 16), None).detach()
    kept = (maps.diagonal(dim1=-2, dim2=-1) - maps[..., 0, 1:2]).mean() ** layers
    assert torch.allclose(maps.diagonal(dim1=-2, dim2=-1), torch.tensor(1 - 1 / (2 * layers)), atol=1e-5)
    assert 0.5 < float(kept) < math.exp(-0.5)


def test_values_and_feed_forward_part_undo_themselves():
    block = conditioned().layers[1]
    u = 3 * torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(block.mlp(u) * (u.norm() / block.mlp(u).norm()), u, atol=1e-3)
    alone = torch.randn(2, 1, 16)  # a token by itself sees itself
    made = block(alone, None)
    assert torch.allclose(made / made.norm(), alone / alone.norm(), atol=1e-4)


@pytest.mark.parametrize("layers", [3, 24])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_states_keep_their_size_and_gradients_arrive(normalisation, layers):
    model = conditioned(normalisation, shape=Configuration(width=16, heads=2, layers=layers, patch=14))
    states = model.states(PICTURES)
    sizes = [float(state.square().mean().sqrt()) for state in states]
    if normalisation != "post":  # there the norm after the sum gives every state size 1
        assert max(sizes) / min(sizes) < 1.1
    gradients = torch.autograd.grad(model.readout(states[-1]).square().sum(), states)
    assert 0.5 < float(gradients[0].norm() / gradients[-1].norm() * sizes[0] / sizes[-1]) < 5
    away = [state - state.mean(1, keepdim=True) for state in (states[0], states[-1])]
    assert float(away[1].norm() / away[0].norm() * sizes[0] / sizes[-1]) > 0.5


def test_numbers_come_from_the_seed_and_the_layer():
    one, again = conditioned(), conditioned()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.layers[0].mlp[0].weight, one.layers[1].mlp[0].weight)
    assert not torch.equal(one.layers[0].mlp[0].weight, conditioned(seed=2).layers[0].mlp[0].weight)
