"""The switches: each network against a plain loop, and a layer that begins near the identity."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from companion.stabilisers.switches import NORMALISATIONS, RESIDUALS, Derf, Switched, Switches
from pdelens.models import Configuration, Transformer

SHAPE = Configuration(width=16, heads=2, layers=3, patch=14)
PICTURES = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def switched(residual="plain", normalisation="pre", seed=1, **more):
    return Switched(Switches(residual, normalisation, SHAPE, **more), seed)


@pytest.mark.parametrize("normalisation", [one for one in NORMALISATIONS if one != "derf"])
def test_plain_networks_are_the_librarys_own(normalisation):
    own = switched(normalisation=normalisation)
    assert torch.equal(own(PICTURES), Transformer(own.configuration, 1)(PICTURES))


def plainly(model, residual, normalisation, inputs):
    """The same network from its parameters alone, a layer and a head at a time."""
    p = dict(model.state_dict())
    width, heads = SHAPE.width, SHAPE.heads

    def normed(u, name):
        if normalisation == "none":
            return u
        gain = p[f"{name}.weight"]
        if normalisation in ("pre", "post"):
            away = u - u.mean(-1, keepdim=True)
            return away / (away.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain + p[f"{name}.bias"]
        if normalisation == "rms":
            return u / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain
        if normalisation == "dyt":
            return torch.tanh(p[f"{name}.sharpness"] * u) * gain + p[f"{name}.bias"]
        return torch.erf(p[f"{name}.sharpness"] * u + p[f"{name}.shift"]) * gain + p[f"{name}.bias"]

    def attention(u, name):
        qkv = u @ p[f"{name}.queries_keys_values.weight"].T + p[f"{name}.queries_keys_values.bias"]
        mixed = torch.zeros_like(u)
        for head in range(heads):
            at = slice(head * width // heads, (head + 1) * width // heads)
            q, k, v = (qkv[..., part * width : (part + 1) * width][..., at] for part in range(3))
            scores = q @ k.mT / math.sqrt(width // heads)
            if residual == "skipless":
                for token in range(SHAPE.tokens):
                    scores[:, token, token] += p[f"{name}.itself"][head]
            mixed[..., at] = torch.softmax(scores, -1) @ v
        return mixed @ p[f"{name}.project.weight"].T + p[f"{name}.project.bias"]

    def mlp(u, name):
        hidden = F.gelu(u @ p[f"{name}.0.weight"].T + p[f"{name}.0.bias"])
        return hidden @ p[f"{name}.2.weight"].T + p[f"{name}.2.bias"]

    keeps = 1.0 if residual in ("plain", "scaled") else 0.0
    adds = (2 * SHAPE.layers) ** -0.5 if residual == "scaled" else 1.0
    u = model.embedding(inputs)
    for layer in range(SHAPE.layers):
        for part, kind in ((attention, "attention"), (mlp, "mlp")):
            norm, inner = f"blocks.{layer}.norm_{kind}", f"blocks.{layer}.{kind}"
            if normalisation == "post":
                u = normed(keeps * u + adds * part(u, inner), norm)
            else:
                u = keeps * u + adds * part(normed(u, norm), inner)
    return (u if normalisation == "post" else normed(u, "norm")).mean(1) @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_every_switch_against_a_plain_loop(residual, normalisation):
    model = switched(residual, normalisation).double()
    with torch.no_grad():  # so that shifts, gains and biases count
        for number, value in enumerate(model.parameters()):
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number), dtype=value.dtype)
        assert torch.allclose(model(PICTURES), plainly(model, residual, normalisation, PICTURES), rtol=1e-9, atol=1e-11)


def test_networks_of_one_seed_begin_with_the_same_numbers():
    one, other = switched("none", "derf").state_dict(), switched("plain", "pre").state_dict()
    for name in ("embed.project.weight", "blocks.2.mlp.0.weight", "blocks.1.attention.project.weight", "head.weight"):
        assert torch.equal(one[name], other[name])
    assert not torch.equal(one["head.weight"], switched("none", "derf", seed=2).state_dict()["head.weight"])


def test_gain_shrinks_what_ends_each_part():
    small, usual = switched(gain=0.1).state_dict(), switched().state_dict()
    for name, value in usual.items():
        factor = 0.1 if name.startswith("blocks") and (".project." in name or ".mlp.2." in name) else 1.0
        assert torch.allclose(small[name], factor * value)


def test_derf_has_the_error_functions_shape():
    norm = Derf(2)
    with torch.no_grad():
        norm.sharpness.fill_(0.7), norm.shift.fill_(0.2), norm.weight.fill_(3.0), norm.bias.fill_(1.0)
    assert norm(torch.tensor([0.4, -2.0])).tolist() == pytest.approx(
        [3 * math.erf(0.7 * x + 0.2) + 1 for x in (0.4, -2.0)], rel=1e-6
    )


def test_states_end_where_the_readout_begins():
    model = switched("scaled", "rms")
    states = model.states(PICTURES)
    assert len(states) == 4 and torch.equal(model.readout(states[-1]), model(PICTURES))


def test_texts_and_their_padding():
    shape = Configuration(width=16, heads=2, layers=2, vocabulary=20, length=6, outputs=2)
    model = Switched(Switches("scaled", "derf", shape), 0)
    words = torch.randint(1, 20, (2, 6))
    real = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2).bool()
    assert torch.allclose(model(words, real), model(words[:, :4], real[:, :4]), atol=1e-6)


@pytest.mark.parametrize(("name", "value"), [("residual", "some"), ("normalisation", "layer")])
def test_unknown_switches_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} '{value}' is unknown: choose from"):
        replace(Switches("plain", "pre", SHAPE), **{name: value})
