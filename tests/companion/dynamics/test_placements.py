"""Gradients and Jacobians by normalisation, on small networks, against plain definitions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_teacher import SHAPE, teacher

from companion.dynamics import gradient_jobs, placements
from companion.jobs import Run
from pdelens.models import Configuration, Transformer


def tiny(norm, placement, seed=0):
    small = teacher(seed)
    shape = Configuration(**{**vars(SHAPE), "norm": norm, "placement": placement})
    return type(small)(
        f"x-seed{seed}", Transformer(shape, seed).eval(), small.lattice, 4, 2, 6, small.inputs, form=placement
    )


@pytest.mark.parametrize(("norm", "placement"), [("layer", "pre"), ("layer", "post"), ("dyt", "pre"), ("none", "pre")])
def test_norms_normality_and_volume_are_those_of_the_layers(norm, placement):
    one = tiny(norm, placement)
    found, model = placements.measure(one, 5, 4), one.model.requires_grad_(False)
    inputs, labels = one.inputs("heldout", 5)
    states = [model.embedding(inputs).detach().requires_grad_()]
    for block in model.blocks:
        states.append(block(states[-1], None))
    gradients = torch.autograd.grad(F.cross_entropy(model.readout(states[-1]), labels, reduction="sum"), states)
    sizes = torch.stack([each.flatten(1).norm(dim=1) for each in gradients])
    np.testing.assert_allclose(found["norms"], (sizes / sizes[-1]).log10().mean(1), atol=1e-5)
    assert found["accuracy"] == pytest.approx(float((model(inputs).argmax(-1) == labels).float().mean()))
    for layer in (0, 5):
        u = states[layer][0].detach()
        jacobian = torch.func.jacrev(lambda v, layer=layer: model.blocks[layer](v[None], None)[0])(u)
        jacobian = jacobian.flatten(2).flatten(0, 1).double()
        branch = jacobian - torch.eye(16)
        size = branch.square().sum()
        departure = (branch.T @ branch - branch @ branch.T).norm() / size
        assert found["departure"][layer] == pytest.approx(float(departure), rel=1e-3)
        assert found["asymmetry"][layer] == pytest.approx(
            float((branch - branch.T).square().sum() / (4 * size)), rel=1e-3
        )
        values = torch.linalg.svdvals(jacobian)
        if placement == "post":  # each of the four tokens has lost its mean and its length
            assert float(values[8] / values[7]) < 1e-4
            values = values[:8]
        assert found["volume"][layer] == pytest.approx(float(values.log().mean()), abs=1e-3)


def test_a_job_measures_each_normalisation_trained_and_as_it_begins(monkeypatch, tmp_path):
    asked = []

    def named(name, folder):
        asked.append((name, folder))
        return tiny("none" if "none" in name else "layer", "post" if "post" in name else "pre", 0)

    monkeypatch.setattr(placements, "teacher_named", named)
    monkeypatch.setattr(placements, "measure", lambda one, count, draws: (one.model, count, draws))
    monkeypatch.setattr(placements, "rounded", lambda found: found)
    monkeypatch.setitem(placements.COUNTS, "smoke", (8, 4, 2))
    found = placements.Placements("image-patch7").do(Run("smoke", tmp_path))
    assert [name for name, _ in asked] == [
        "image-patch7-seed0", "image-patch7-post-seed0", "image-patch7-dyt-seed0", "image-patch7-none-seed0",
    ]  # fmt: skip
    post = found["LayerNorm after"]
    assert [row[1:] for row in post["untrained"]] == [(8, 4)] * 2 and len(post["trained"]) == 1
    for seed, (model, *_) in enumerate(post["untrained"]):
        wanted = Transformer(post["trained"][0][0].configuration, seed)
        assert model.configuration.placement == "post"
        torch.testing.assert_close(model.blocks[3].mlp[0].weight, wanted.blocks[3].mlp[0].weight)


def test_only_whole_families_are_measured(monkeypatch, tmp_path):
    run = Run("smoke", tmp_path)
    there = set(placements.Placements("text-short").teachers.values())
    monkeypatch.setattr(placements, "weights_there", lambda name, run: tmp_path if name in there else None)
    monkeypatch.setattr(gradient_jobs, "jobs_of", lambda *about: [])
    assert [job.name for job in gradient_jobs.gradient_jobs(run)] == ["gradients-placements-text-short"]
    assert gradient_jobs.gradient_jobs(run, "gradients-flow-*") == []
    there.remove("text-short-dyt-seed0")
    assert gradient_jobs.gradient_jobs(run) == []
    monkeypatch.setattr(placements, "weight_digests", lambda teachers, names, run: dict.fromkeys(teachers, "x"))
    assert set(placements.Placements("text-short").identity(run)["weights"]) == there | {"text-short-dyt-seed0"}
    row = {"trained": [{"norms": [0.25, 0.0]}]}
    assert "no norm 0.25" in placements.Placements("text-short").line({"no norm": row})
