"""Drift, collapse, entropies and gradients: against plain loops over examples and tokens, and by differences."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from companion.data import tokens
from companion.data.splits import Examples
from companion.stabilisers.measures import gradients_of, score, states_of
from companion.stabilisers.switches import Switched, Switches
from pdelens.models import Configuration

PICTURES = Configuration(width=8, heads=2, layers=3, patch=14)
TEXTS = Configuration(width=8, heads=2, layers=2, vocabulary=30, length=6, outputs=2)


def inputs_of(shape, count=4):
    random = torch.Generator().manual_seed(2)
    if not shape.vocabulary:
        return torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=random)
    words = torch.randint(5, 30, (count, 6), generator=random)
    words[1, 4:], words[2, 3:] = tokens.PAD, tokens.PAD
    return words


@pytest.mark.parametrize("shape", [PICTURES, TEXTS], ids=["pictures", "texts"])
@pytest.mark.parametrize(("residual", "normalisation"), [("plain", "pre"), ("none", "post")])
def test_states_against_a_loop_over_examples_and_tokens(shape, residual, normalisation):
    model = Switched(Switches(residual, normalisation, shape), 0).double().eval()
    inputs = inputs_of(shape)
    mask = inputs != tokens.PAD if shape.vocabulary else torch.ones(4, shape.tokens).bool()
    with torch.no_grad():
        states = model.states(inputs, mask if shape.vocabulary else None)
    distance, travel, rank, cosine, middles = [], [], [], [], []
    rows = [[] for _ in range(shape.layers)]
    for example in range(4):
        path = [state[example][mask[example]] for state in states]
        size = math.sqrt(sum(float(x) ** 2 for x in path[0].flatten()))
        distance.append(float((path[-1] - path[0]).norm()) / size)
        travel.append(sum(float((b - a).norm()) for a, b in pairwise(path)) / size)
        middle = sum(path[-1]) / len(path[-1])
        middles.append(middle)
        rank.append(float(torch.stack([token - middle for token in path[-1]]).norm() / path[-1].norm()))
        cosine += [float(a @ b / a.norm() / b.norm()) for a, b in zip(path[0], path[-1], strict=True)]
        for layer, block in enumerate(model.blocks):
            # The example by itself, cropped: padding can't count.
            seen = block.attention_at(path[layer][None], None)[0]
            for row in seen.flatten(0, 1).tolist():
                rows[layer].append((len(path[0]), -sum(p * math.log(p) for p in row) / math.log(len(path[0]))))
    found = states_of(model, inputs)
    assert found["distance"] == pytest.approx(sum(distance) / 4, rel=1e-6)
    assert found["travel"] == pytest.approx(sum(travel) / 4, rel=1e-6)
    assert found["rank"] == pytest.approx(sum(rank) / 4, rel=1e-6)
    assert found["cosine"] == pytest.approx(sum(cosine) / len(cosine), rel=1e-6)
    mean = sum(middles) / 4
    assert found["spread"] == pytest.approx(
        float(torch.stack([one - mean for one in middles]).norm() / torch.stack(middles).norm()), rel=1e-6
    )
    layers = [sum(value for _, value in layer) / len(layer) for layer in rows]
    assert found["entropy"] == pytest.approx(sum(layers) / len(layers), rel=1e-6)
    assert found["least entropy"] == pytest.approx(min(layers), rel=1e-6)


def test_equal_tokens_and_equal_examples_have_nothing_left():
    model = Switched(Switches("plain", "none", PICTURES), 0).eval()
    with torch.no_grad():
        model.positions.zero_()
        model.embed.project.weight.zero_()
        model.embed.project.bias.fill_(1.0)
    found = states_of(model, inputs_of(PICTURES))
    assert found["rank"] == pytest.approx(0, abs=1e-6) and found["rank start"] == pytest.approx(0, abs=1e-6)
    assert found["spread"] == pytest.approx(0, abs=1e-6) and found["entropy"] == pytest.approx(1, abs=1e-6)


def test_rank_at_the_start_is_that_of_the_embedding():
    model = Switched(Switches("none", "rms", PICTURES), 0).eval()
    with torch.no_grad():
        u = model.embedding(inputs_of(PICTURES))
    wanted = [float((one - one.mean(0)).norm() / one.norm()) for one in u]
    assert states_of(model, inputs_of(PICTURES))["rank start"] == pytest.approx(sum(wanted) / 4, rel=1e-5)


def test_gradients_by_differences():
    model = Switched(Switches("scaled", "derf", PICTURES), 1).double().eval()
    data = Examples(inputs_of(PICTURES), torch.tensor([1, 2, 3, 4]))
    with torch.no_grad():
        states = model.states(data.inputs)

        def loss(depth, state):
            for block in model.blocks[depth:]:
                state = block(state, None)
            return float(F.cross_entropy(model.readout(state), data.labels))

        sizes = []
        for depth, state in enumerate(states):
            gradient = torch.zeros_like(state).flatten()
            for number in range(gradient.numel()):
                step = torch.zeros_like(gradient)
                step[number] = 1e-5
                step = step.view_as(state)
                gradient[number] = (loss(depth, state + step) - loss(depth, state - step)) / 2e-5
            sizes.append(float(gradient.norm()))
    assert gradients_of(model, data) == pytest.approx([size / sizes[-1] for size in sizes], rel=1e-5)


@pytest.mark.parametrize("shape", [PICTURES, TEXTS], ids=["pictures", "texts"])
def test_scores_against_a_loop(shape):
    model = Switched(Switches("plain", "pre", shape), 0).eval()
    data = Examples(inputs_of(shape), torch.tensor([0, 1, 1, 0]))
    with torch.no_grad():
        alone = []
        for one in data.inputs:
            real = one[one != tokens.PAD] if shape.vocabulary else one
            alone.append(torch.softmax(model(real[None])[0], -1))
    loss, accuracy = score(model, data)
    assert loss == pytest.approx(-sum(math.log(p[y]) for p, y in zip(alone, data.labels, strict=True)) / 4, rel=1e-5)
    assert accuracy == sum(int(p.argmax() == y) for p, y in zip(alone, data.labels, strict=True)) / 4
