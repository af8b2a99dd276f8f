"""Sensitivity of pretrained models, on small ones of random weights: against plain passes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from companion.dynamics import pretrained_sensitivity as job
from companion.jobs import Run
from pdelens.flow import Flow

IDS = torch.tensor([[5, 6, 7, 8, 9], [4, 3, 2, 1, 7]])
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 16}
        return BertModel(BertConfig(vocab_size=12, max_position_embeddings=8, **sizes)).eval().requires_grad_(False)


def test_noise_grows_as_two_passes_say(model):
    found = job.noise_growth(model, INPUTS, size=0.01)
    own = model(**INPUTS, output_hidden_states=True).hidden_states
    noise = torch.randn(own[0].shape, generator=torch.Generator().manual_seed(0))
    u = own[0] + noise * (0.01 * own[0].flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)).view(-1, 1, 1)
    each = (u - own[0]).norm(dim=-1) / own[0].norm(dim=-1)
    first = np.exp(np.log(np.median(each.numpy(), 1)).mean())
    start = (u - own[0]).flatten(1).norm(dim=1) / own[0].flatten(1).norm(dim=1)
    for depth, layer in enumerate(model.encoder.layer, 1):
        made = layer(u)
        u = made[0] if isinstance(made, tuple) else made
        change, was = (u - own[depth]).flatten(1).norm(dim=1), own[depth].flatten(1).norm(dim=1)
        absolute = (change / (start * own[0].flatten(1).norm(dim=1))).log().mean().exp()
        assert found["absolute"][depth] == pytest.approx(float(absolute), rel=1e-2)
        assert found["relative"][depth] == pytest.approx(float((change / was / start).log().mean().exp()), rel=1e-2)
        each = (u - own[depth]).norm(dim=-1) / own[depth].norm(dim=-1)
        token = np.exp(np.log(np.median(each.numpy(), 1)).mean()) / first
        assert found["token"][depth] == pytest.approx(float(token), rel=1e-2)
    assert {name: rows[0] for name, rows in found.items()} == {"absolute": 1, "relative": 1, "token": 1}
    assert not model.encoder.layer[0]._forward_pre_hooks


def test_a_models_measures_have_their_shapes_and_bounds(model):
    found = job.measure(model, INPUTS, 1, 2, 8)
    assert (found["inputs"], found["few"], found["tokens"]) == (2, 1, 5)
    assert np.shape(found["layers"]) == (3, 4) and len(found["coupling"]) == 2 and len(found["growth"]["token"]) == 4
    assert found["exponents"] == sorted(found["exponents"], reverse=True)
    assert -1 <= found["influence"]["rank"] <= 1 and 0 < found["influence"]["cosine"] <= 1
    u = model(**INPUTS, output_hidden_states=True).hidden_states[0][:1]

    def layer(state):
        made = model.encoder.layer[0](state)
        return made[0] if isinstance(made, tuple) else made

    matrix = torch.func.jacrev(layer)(u).reshape(40, 40)
    np.testing.assert_allclose(found["layers"][0], torch.linalg.svdvals(matrix)[:4].numpy(), rtol=1e-3)


def test_distance_is_signed_where_causal_and_of_a_square_where_there_is_a_class_token():
    even = Flow(attention=[torch.full((1, 1, 5, 5), 0.2)])
    assert job.distances(SimpleNamespace(tokens=3, causal=True))[2].tolist() == [2, 1, 0]
    assert job.distances(SimpleNamespace(tokens=3, causal=True))[0].tolist() == [0, -1, -2]
    assert job.distances(SimpleNamespace(tokens=4, causal=False))[0].tolist() == [0, 1, 2, 3]
    found = job.distances(even)
    assert found[1].tolist() == [-1, 0, 1, 1, 2] and found[0, 1:].tolist() == [-2] * 4 and set(found[1:, 0]) == {-1}


def test_jobs_are_models_and_their_twins(tmp_path):
    run = Run("book", tmp_path)
    names = [one.name for one in job.sensitivity_jobs(run)]
    assert len(set(names)) == 6 and names[:2] == ["sensitivity-MiniLM", "sensitivity-MiniLM-twin"]
    assert [one.model for one in job.sensitivity_jobs(run, "*-DINOv2*")] == ["DINOv2", "DINOv2"]
    assert job.sensitivity_jobs(Run("smoke", tmp_path)) == []
    one = job.PretrainedSensitivity("SmolLM2", True)
    assert one.identity(run) != one.identity(Run("full", tmp_path)) and one.cost(run) > 1
    assert "0.250" in one.line({"exponents": [0.25, 0.1]})
