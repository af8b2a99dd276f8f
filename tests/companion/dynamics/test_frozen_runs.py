"""The long measurement on frozen models: every part is the trial that its name says."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from companion.dynamics import frozen_runs
from companion.theory import frozen
from companion.theory.frozen import Subject
from pdelens import flow_of


class Layer(nn.Module):
    def __init__(self, width, seed):
        super().__init__()
        self.linear = nn.Linear(width, width)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)

    def forward(self, u):
        return u + torch.tanh(self.linear(u))


class Encoder(nn.Module):
    """Six residual layers, without attention: each is u + tanh(W u + b)."""

    def __init__(self, seed=0):
        super().__init__()
        self.layers = nn.ModuleList([Layer(3, 10 * seed + number) for number in range(6)])

    def forward(self, u):
        for layer in self.layers:
            u = layer(u)
        return u


def read(model, inputs):
    return model(**inputs).mean(1)


@pytest.fixture
def made():
    inputs = {"u": torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(7))}
    subject, twin = (Subject(Encoder(seed), "layers", inputs, read) for seed in (0, 1))
    return subject, twin, frozen_runs.parts({"one": subject}, {"one": twin}, {"one": inputs})


def by_hand(model, u, steps, layers, time=1.0):
    """Euler's steps of length time / steps for du/dt = f_l(u) in some layers, one whole step in the others."""
    for number, layer in enumerate(model.layers):
        for _ in range(steps if number in layers else 1):
            u = u + (time / steps if number in layers else 1.0) * (layer(u) - u)
    return u.mean(1)


def cosines(found, own):
    ours, theirs = (nn.functional.normalize(x - own.mean(0), dim=-1) for x in (found, own))
    return (ours * theirs).sum(-1).numpy()


@torch.no_grad()
def test_every_part_is_what_its_name_says(made):
    subject, twin, parts = made
    u, own = subject.inputs["u"], subject.reading()
    expected = {
        "one all 4": cosines(by_hand(subject.model, u, 4, range(6)), own),
        "one inner 2": cosines(by_hand(subject.model, u, 2, (2, 3)), own),
        "one middle 8": cosines(by_hand(subject.model, u, 8, (2, 3)), own),
        "one twice": cosines(by_hand(subject.model, u, 2, (2, 3), 2.0), own),
        "one alone": [cosines(by_hand(subject.model, u, 2, (layer,)), own).mean() for layer in range(6)],
        "one twin 8": cosines(by_hand(twin.model, u, 8, range(6)), twin.reading()),
        "one shuffled": cosines(subject.reading("shuffled-0"), own),  # of two layers there is one other order
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(parts[name](), wanted, atol=1e-5, err_msg=name)
    assert not np.allclose(expected["one all 4"], 1, atol=1e-3)


@torch.no_grad()
def test_the_block_is_one_field(made):
    subject, _, parts = made
    u, layers = subject.inputs["u"], subject.model.layers
    u = layers[1](layers[0](u))
    for _ in range(2):
        u = u + 0.5 * (layers[3](layers[2](u)) - u)
    wanted = cosines(layers[5](layers[4](u)).mean(1), subject.reading())
    np.testing.assert_allclose(parts["one block 2"](), wanted, atol=1e-5)


@torch.no_grad()
def test_a_language_model_is_looped_and_has_no_twin(made, monkeypatch):
    subject, twin, _ = made
    monkeypatch.setattr(frozen, "losses", read)
    parts = frozen_runs.parts({"one": subject}, {"one": twin}, {"one": subject.inputs})
    assert not any("twin" in name for name in parts)
    loops = [name for name in parts if " loop " in name]
    assert len(loops) == 2 * len(frozen.TIMES)
    u = subject.inputs["u"]
    wanted = cosines(by_hand(subject.model, u, 1, (2, 3), 1.5), subject.reading())
    np.testing.assert_allclose(parts["one loop middle 1 1.5"](), wanted, atol=1e-5)


def test_trials_by_example_and_by_model():
    found = {"a all 2": np.zeros(3), "a alone": np.zeros(6), "a attention all 2": np.zeros(7), "b twice": np.ones(3)}
    assert frozen_runs.by_example(found).keys() == {"a all 2", "b twice"}
    scores = {f"{name} {kind} {steps}": name for name in "ab" for kind in frozen_runs.KINDS for steps in frozen.STEPS}
    scores |= {f"{name} {null}": name for name in "ab" for null in ("twice", "shuffled")}
    picked = frozen_runs.of(scores, "b")
    assert set(picked.values()) == {"b"} and {("block", 8), "twice", "shuffled"} <= picked.keys()
    assert len(picked) == 14


def test_attention_is_told_in_seven_numbers():
    torch.manual_seed(0)
    config = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 50}
    model = transformers.BertModel(transformers.BertConfig(**config, num_hidden_layers=6)).eval()
    for weight in model.encoder.parameters():
        weight.data.mul_(8 if weight.ndim == 2 else 1)
    ids = torch.randint(1, 50, (9, 7), generator=torch.Generator().manual_seed(0))
    subject = Subject(model, "encoder.layer", {"input_ids": ids[:6]}, read)
    cosine, low, high, median, layer, null, skill = frozen_runs.attention(subject, {"input_ids": ids[6:]}, "middle", 4)
    ours, own = subject.flow("middle", 4).attention, subject.flow().attention
    others = [maps.mean(0) for maps in flow_of(model, {"input_ids": ids[6:]}).attention]

    def layers(maps):
        pairs = zip(maps, own, strict=True)
        return [
            nn.functional.cosine_similarity(a.expand_as(b).flatten(2), b.flatten(2), dim=-1).mean() for a, b in pairs
        ]

    agree, blind = np.array(layers(ours)), np.array(layers(others))
    assert cosine == pytest.approx(agree.min(), abs=1e-5) and median == pytest.approx(np.median(agree), abs=1e-5)
    assert layer == agree.argmin() + 1 > 3 and low <= cosine <= high
    assert null == pytest.approx(blind.min(), abs=1e-5)
    assert skill == pytest.approx((1 - (1 - agree) / (1 - blind)).min(), abs=1e-4)
