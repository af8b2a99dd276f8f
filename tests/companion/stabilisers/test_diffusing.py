"""Heat in a teacher: nothing where nothing flows, a known model's losses, and records by place."""

import pytest
import scipy.linalg
import torch
from chain_graph import path_laplacian
from torch.nn import functional as F

from companion.data import tokens
from companion.jobs import Run
from companion.stabilisers import diffusing
from companion.stabilisers.diffusion import AFTER, BEFORE
from companion.teachers.teacher import of_teacher
from pdelens.models import Configuration, Transformer
from pdelens.pde.checkpoints import generator_for

SHAPE = Configuration(width=8, heads=2, layers=2, vocabulary=40, length=6, outputs=2)


@pytest.fixture
def teacher(monkeypatch):
    random = torch.Generator().manual_seed(4)
    words = torch.randint(5, 40, (300, 6), generator=random)
    words[::2, 4:] = tokens.PAD
    labels = torch.randint(0, 2, (300,), generator=random)

    def inputs(split, count):
        return {"inputs": words[:count], "mask": words[:count] != tokens.PAD}, labels[:count]

    monkeypatch.setattr("companion.teachers.teacher._texts", lambda length: inputs)
    monkeypatch.setattr(diffusing, "AMOUNTS", (0.0, 0.7))
    return of_teacher("text-tiny-seed0", Transformer(SHAPE, 0).eval())


def test_losses_by_place_against_a_loop_over_examples(teacher):
    found = diffusing.diffused(teacher, 12)
    words, labels = teacher.inputs("heldout", 12)
    losses = {"2": [], "0": []}
    for example, label in zip(words["inputs"], labels, strict=True):
        real = example[example != tokens.PAD][None]
        kernel = torch.from_numpy(scipy.linalg.expm(0.7 * path_laplacian(real.shape[1]))).float()
        with torch.no_grad():
            first = u = teacher.model.embedding(real)
            for block in teacher.model.blocks:
                u = block(u, None)
            losses["2"].append(float(F.cross_entropy(teacher.model.readout(kernel @ u), label[None])))
            u = kernel @ first
            for block in teacher.model.blocks:
                u = block(u, None)
            losses["0"].append(float(F.cross_entropy(teacher.model.readout(u), label[None])))
    for place, values in losses.items():
        assert found["loss"][place][1] == pytest.approx(sum(values) / 12, rel=1e-5)
    assert set(found["loss"]) == set(found["disordered"]) == {"0", "1", "2", BEFORE, AFTER}
    for place in found["loss"]:
        assert found["loss"][place][0] == pytest.approx(found["own"]["loss"], rel=1e-5)
        assert found["disordered"][place][0] == pytest.approx(found["own"]["loss"], rel=1e-5)
    assert found["disordered"]["0"][1] != pytest.approx(found["loss"]["0"][1], rel=1e-4)


def test_the_dose_is_how_far_a_state_is_moved(teacher):
    found = diffusing.diffused(teacher, 12)
    flow = teacher.of("heldout", 12)
    for depth in range(3):
        lattice, strange = [], []
        for example in range(12):
            count = int(flow.mask[example].sum())
            u = flow.states[depth][example, :count].double().numpy()
            kernel = scipy.linalg.expm(0.7 * path_laplacian(count))
            lattice.append(((kernel @ u - u) ** 2).sum() ** 0.5 / (u**2).sum() ** 0.5)
            for number in diffusing.DISORDERS:
                order = torch.randperm(count, generator=generator_for(number, count)).numpy()
                mixed = kernel[order][:, order] @ u
                strange.append(((mixed - u) ** 2).sum() ** 0.5 / (u**2).sum() ** 0.5)
        assert found["moved"][str(depth)] == pytest.approx([0, sum(lattice) / 12], abs=1e-6)
        assert found["moved disordered"][str(depth)] == pytest.approx([0, sum(strange) / 36], abs=1e-6)


def test_exchange_by_layer_against_a_loop(teacher):
    found = diffusing.exchanged(teacher, 4)
    flow = teacher.of("heldout", 4)
    for layer in range(2):
        values, strange = [], []
        for example in range(4):
            count = int(flow.mask[example].sum())
            kernel = scipy.linalg.expm(diffusing.EXCHANGED * path_laplacian(count))
            for head in range(2):
                a = flow.attention[layer][example, head, :count, :count].double().numpy()
                one, other = a @ kernel, kernel @ a
                values.append(((one - other) ** 2).sum() ** 0.5 / ((one**2).sum() ** 0.5 + (other**2).sum() ** 0.5))
                for number in diffusing.DISORDERS:
                    order = torch.randperm(count, generator=generator_for(number, count)).numpy()
                    mixed = kernel[order][:, order]
                    one, other = a @ mixed, mixed @ a
                    size = (one**2).sum() ** 0.5 + (other**2).sum() ** 0.5
                    strange.append(((one - other) ** 2).sum() ** 0.5 / size)
        assert found["commutator"]["trained"][layer] == pytest.approx(sum(values) / len(values), rel=1e-5)
        assert found["commutator disordered"]["trained"][layer] == pytest.approx(sum(strange) / len(strange), rel=1e-5)
    assert len(found["roughness"]["untrained"]) == 3


def test_a_job_says_what_it_found(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(diffusing, "teacher_named", lambda *_: teacher)
    monkeypatch.setattr("companion.surrogates.study.weights_of", lambda *_: None)
    job, run = diffusing.Diffusing("text-tiny-seed0"), Run("smoke", tmp_path)
    record = job.do(run)
    job.keep(run, record)
    assert job.recorded(run)["own"] == record["own"]
    assert job.line(record).startswith(f"loss {record['own']['loss']:.3f}; diffused early ")
    monkeypatch.setattr("companion.surrogates.candidates.root", lambda: tmp_path)
    assert diffusing.diffusing_jobs(run) == []
    (tmp_path / "text-classifier-seed1.safetensors").touch()
    (tmp_path / "data" / "weights").mkdir(parents=True)
    (tmp_path / "data" / "weights" / "text-classifier-seed0.safetensors").touch()
    names = [job.name for job in diffusing.diffusing_jobs(run, "stabilisers-diffusion-text-*")]
    assert names == [f"stabilisers-diffusion-text-classifier-seed{seed}" for seed in range(2)]
