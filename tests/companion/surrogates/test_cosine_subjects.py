import numpy as np
import pytest
import torch

from companion.data import fashion_mnist
from companion.surrogates import cosine_subjects as subjects
from companion.teachers import files
from pdelens.agreement import measures, nulls

COUNTS = {"calibration": 8, "heldout": 4}


@pytest.fixture(scope="module")
def pictures():
    parts = [fashion_mnist.fashion_mnist_subset(name).images[:count] for name, count in COUNTS.items()]
    return torch.cat(parts)


@pytest.fixture(scope="module")
def flows(pictures):
    model, _ = files.committed_teacher("image-patch4-seed0")
    return subjects.flows(model, {"inputs": pictures}, COUNTS, 6, "cpu")


def test_calibration_and_held_out_examples_are_others(flows, pictures):
    model, _ = files.committed_teacher("image-patch4-seed0")
    whole, _ = subjects.flows(model, {"inputs": pictures}, {"calibration": 11, "heldout": 1}, 11, "cpu")
    assert [flow.examples for flow in flows] == [6, 4]
    assert torch.allclose(flows[0].attention[2], whole.attention[2][:6], atol=1e-6)
    # Held-out ones begin after all eight calibration examples, of which six are taken.
    assert torch.allclose(flows[1].attention[2][:3], whole.attention[2][8:11], atol=1e-6)


def test_the_look_up_table_knows_the_calibration_flows_examples_alone(flows, pictures):
    report = subjects.beside(*flows, flows[1], pictures, 0)
    assert set(report.nulls) == {*subjects.BLIND, *subjects.SEEING}
    scores = []
    for example in range(4):
        away = (pictures[:6].flatten(1).double() - pictures[8 + example].flatten().double()).square().sum(1)
        nearest = away.argsort()[:5]
        maps = [layer[nearest].mean(0, keepdim=True) for layer in flows[0].attention]
        own = [layer[example : example + 1] for layer in flows[1].attention]
        scores.append([measures.cosine(a, b)[0].numpy() for a, b in zip(maps, own, strict=True)])
    assert np.allclose(report.nulls["nearest neighbours"].per_head(), np.mean(scores, 0), atol=1e-5)
    assert report.nulls["untrained twin"].headline() == pytest.approx(1, abs=1e-5), "the twin given is the model"


def test_scores_by_report_and_layer(flows, pictures):
    report = subjects.beside(*flows, flows[1], pictures, 0)
    found = subjects.layers([report, report], "mean map", "cosine")
    assert found.shape == (2, 6) and found[1, 3] == pytest.approx(report.nulls["mean map"].per_head()[3].mean())


def test_maps_known_to_agree_and_known_not_to(flows):
    found = subjects.candidates(*flows, seed=0)
    scores = [
        float(measures.cosine(maps[0].expand_as(flows[1].attention[0]), flows[1].attention[0]).mean())
        for maps in found.values()
    ]
    assert scores[:3] == sorted(scores[:3], reverse=True) and min(scores[:3]) > max(scores[3:])
    assert torch.equal(found["the mean map"][1], nulls.mean_map(flows[0])[1])


def test_the_five_teachers_are_five_and_their_accuracy_is_their_files(pictures):
    found = subjects.seeds_of_teacher({"inputs": pictures}, COUNTS, "cpu")
    assert len(found) == 5 and [flow.examples for flow in found[3]] == [8, 4]
    assert len({round(float(held.attention[0][0, 0, 0, 0]), 6) for _, held in found}) == 5
    assert subjects.accuracy(1) == files.committed_teacher("image-patch4-seed1")[1]["test_accuracy"]


@pytest.mark.replay
@pytest.mark.data
def test_what_models_look_at_and_which_they_are():
    shown = subjects.shown(COUNTS, torch.Generator().manual_seed(0))
    assert len(shown.inputs["image"]["inputs"]) == len(shown.inputs["text"]["input_ids"]) == 12
    assert shown.inputs["text"]["attention_mask"].bool().all(), "every sentence is long enough"
    assert shown.inputs["text"]["input_ids"].shape[1] == subjects.PIECES and shown.long_enough > 1000
    models = subjects.models_of([1])
    assert set(models) == {(m, s) for m in ("image", "text") for s in ("trained", 1)}
    one, other = (models["image", state].blocks[0].state_dict() for state in ("trained", 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)
