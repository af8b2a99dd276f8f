"""Noise in every layer: the states, what a critic is given, and bounds that data processing orders."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_teacher import teacher

from companion.information_flow import retrieval
from companion.jobs import Run
from pdelens.models import Configuration, Transformer

TEXT = Configuration(width=4, layers=2, heads=2, outputs=2, vocabulary=30, length=6)


def test_noise_enters_after_each_layer_in_its_scale():
    model = teacher(0).model
    inputs = teacher(0).inputs("heldout", 50)[0]
    clean, noisy = (retrieval.noisy_states(model, inputs, level) for level in (0.0, 0.5))
    u = model.embedding(inputs)
    torch.testing.assert_close(noisy[0], u)
    generator = torch.Generator().manual_seed(0)
    own = u
    for depth, block in enumerate(model.blocks, 1):
        own, u = block(own, None), block(u, None)
        torch.testing.assert_close(clean[depth], own)
        spread = float(((own - own.mean((0, 1))) ** 2).mean().sqrt())
        u = u + 0.5 * spread * torch.randn(u.shape, generator=generator)
        torch.testing.assert_close(noisy[depth], u, atol=1e-5, rtol=1e-5)


def test_padding_has_no_noise_and_no_say():
    model = Transformer(TEXT, 0).eval().requires_grad_(False)
    tokens = torch.randint(1, 30, (20, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(20, 6, dtype=torch.bool)
    mask[::2, 4:] = False
    rows = [
        retrieval.noisy_states(model, {"inputs": tokens.masked_fill(~mask, junk), "mask": mask}, 1.0) for junk in (0, 7)
    ]
    for one, other in zip(*rows, strict=True):
        torch.testing.assert_close(one[mask], other[mask])
        torch.testing.assert_close(retrieval.components(one, mask), retrieval.components(other, mask))


def test_components_are_the_principal_ones():
    states = torch.randn(30, 5, 4, generator=torch.Generator().manual_seed(0))
    found = retrieval.components(states, None, 3)
    rows = states.flatten(1).double().numpy()
    rows = rows - rows.mean(0)
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    # The largest last; signs are free.
    np.testing.assert_allclose(np.abs(found.numpy()), np.abs((left * sizes)[:, :3][:, ::-1]), atol=1e-8)
    assert retrieval.components(states, None, 500).shape == (30, 20)


def test_bounds_fall_with_noise_and_a_later_bound_holds_for_earlier_depths(monkeypatch):
    monkeypatch.setattr(retrieval, "LEVELS", (0.05, 20.0))
    small = teacher(0)
    inputs, _ = small.inputs("heldout", 300)
    # Which half of the pictures it is, along the direction in which they differ most.
    classes = (retrieval.components(small.model.embedding(inputs), None)[:, -1] > 0).long()
    known = replace(small, inputs=lambda split, count: (inputs[:count], classes[:count]))
    found = retrieval.measure(known, 300, 40, 32)
    quiet, loud = found["bounds"]
    assert min(quiet) > max(loud) + 0.5 and max(quiet) <= found["ceiling"] == pytest.approx(np.log(32))
    for bounds, label, processed in zip(found["bounds"], found["label"], found["processed"], strict=True):
        assert processed == [max(bounds[depth:] + label[depth:]) for depth in range(6)]
        assert processed == sorted(processed, reverse=True)
    assert found["label"][0][0] > 0.4 > 0.1 > found["label"][1][-1]
    right = float((small.model(inputs).argmax(-1) == classes).float().mean())
    assert found["clean"] == pytest.approx(right, abs=1e-4)


def test_a_job_is_of_its_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(retrieval, "weight_digests", lambda teachers, names, run: dict.fromkeys(teachers, "x"))
    job = retrieval.Retrieval("text-classifier-seed0")
    found = job.identity(Run("book", tmp_path))
    assert job.name == "information-flow-retrieval-text-classifier-seed0"
    assert found["weights"] == {"text-classifier-seed0": "x"} and found["counts"] == (2000, 400, 256)
    assert "0.500 nats at depth 1, 0.250" in job.line({"bounds": [[9, 9], [0.5, 0.25], [9, 9]]})
