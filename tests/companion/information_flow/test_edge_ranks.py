"""Rank correlations of maps of attention with effects and information, against plain definitions."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_teacher import Tiny, teacher

from companion.information_flow import content, edge_ranks, edges, pairs
from companion.jobs import Run
from companion.surrogates import candidates


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge_ranks, "STEPS", tuple(map(float, range(7))))
        patch.setattr(edge_ranks, "_BATCH", 2)
        tiny = Tiny(teacher(0), 1, other=teacher(1))
        inputs = tiny.teacher.inputs("heldout", 64)[0]
        yield tiny, inputs, edge_ranks.measure(tiny, inputs, 5, 3, 2)


def plain(x, y):
    """Return Spearman's correlation within each row, without its own token, mean over rows and examples."""
    found = []
    for a, b in zip(x, y, strict=True):
        for i in range(len(a)):
            keep = [j for j in range(len(a)) if j != i]
            found.append(spearmanr(a[i, keep], b[i, keep])[0])
    return float(np.mean(found))


def test_attention_ranks_next_states_as_a_plain_loop_says(measured):
    tiny, inputs, record = measured
    flow = tiny.teacher.flow(inputs[:5])
    for layer, block in enumerate(tiny.teacher.model.blocks):
        u = flow.states[layer]
        cut = edges.cut_states(block, u, edges.parts(block, u))
        effect = (cut - block(u, None)[:, :, None]).norm(dim=-1)
        attention = flow.attention[layer].mean(1)
        found = record["effects"]["next state"]
        assert found["attention"]["rows"][layer] == pytest.approx(plain(attention, effect), abs=1e-6)
        swapped = attention[[4, 0, 1, 2, 3]]
        assert found["another input's attention"]["rows"][layer] == pytest.approx(plain(swapped, effect), abs=1e-6)
    assert set(found) == {
        "attention", "value-weighted norm", "rollout", "equation's attention", "another input's attention", "distance"
    }  # fmt: skip
    assert set(record["effects"]["logits"]) == {*found, "next state"}
    assert record["effects"]["next state"]["distance"]["given"] == pytest.approx([0] * 6, abs=1e-9)
    assert record["examples"] == [64, 5, 3]


def test_information_is_of_places_and_reads_the_maps_means(measured):
    tiny, inputs, record = measured
    flow = tiny.teacher.flow(inputs)
    told = pairs.pair_information(flow.states[2], flow.states[3])
    wanted = told.mean(0, keepdim=True)
    mean = flow.attention[2].mean(1).mean(0, keepdim=True)
    assert record["information"]["attention"]["rows"][2] == pytest.approx(plain(mean, wanted), abs=1e-6)
    other = tiny.other.flow(inputs).attention[2].mean(1).mean(0, keepdim=True)
    assert record["information"]["another seed's attention"]["rows"][2] == pytest.approx(plain(other, wanted), abs=1e-6)
    assert record["information"]["other half"]["rows"][2] == pytest.approx(plain(told[1:], told[:1]), abs=1e-6)
    off = ~torch.eye(4, dtype=torch.bool)
    assert record["nats"][2] == pytest.approx(float(wanted[0][off].mean()), abs=1e-6)
    shown = record["shown"]
    assert shown["layer"] == 4 and shown["place"] == 2 and len(shown["rows"]["information"]) == 4


def test_the_equations_attention_is_that_of_its_solution_at_whole_depths(measured):
    tiny, inputs, record = measured
    flow = tiny.teacher.flow(inputs[:5])
    solution = content.rolled_out(tiny.equations["three laws"], flow, method="rk4", substeps=1)
    u = flow.states[3]
    block = tiny.teacher.model.blocks[3]
    effect = (edges.cut_states(block, u, edges.parts(block, u)) - block(u, None)[:, :, None]).norm(dim=-1)
    found = record["effects"]["next state"]["equation's attention"]["rows"][3]
    assert found == pytest.approx(plain(solution.attention[3].mean(1), effect), abs=1e-5)


def test_effects_on_logits_are_compared_on_the_same_targets(measured):
    tiny, inputs, record = measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge_ranks, "_BATCH", 2)
        spread, targets = edge_ranks.logits_of(tiny, inputs[:3], 2)
    flow, model = tiny.teacher.flow(inputs[:3]), tiny.teacher.model
    cut = edges.cut_states(model.blocks[5], flow.states[5], edges.parts(model.blocks[5], flow.states[5]))
    rows, found = [], record["effects"]["logits"]["attention"]["rows"][5]
    for example in range(3):
        for row, i in enumerate(targets[example].tolist()):
            for j in range(4):
                states = flow.states[6][example].clone()
                states[i] = cut[example, i, j]
                wanted = (model.readout(states[None]) - model.readout(flow.states[6][[example]])).norm()
                assert float(spread[5][example, row, j]) == pytest.approx(float(wanted), rel=1e-4, abs=1e-7)
            keep = [j for j in range(4) if j != i]
            attention = flow.attention[5].mean(1)[example, i, keep]
            rows.append(spearmanr(attention, spread[5][example, row, keep])[0])
    assert found == pytest.approx(float(np.mean(rows)), abs=1e-6)
    assert record["size"][5] == pytest.approx(float(spread[5].mean()))


def test_examples_without_padding_are_taken():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]])
    given = {"inputs": torch.arange(12).reshape(4, 3), "mask": mask}
    one = type("Texts", (), {"inputs": lambda self, split, count: (given, None)})()
    assert edge_ranks.whole_examples(one, 2)["inputs"].tolist() == [[3, 4, 5], [9, 10, 11]]
    with pytest.raises(ValueError, match="3 full windows were asked for, but there are 2"):
        edge_ranks.whole_examples(one, 3)


def test_a_job_is_of_its_weights_and_keeps_maps_of_the_first_seed_alone(tmp_path, monkeypatch):
    run, job = Run("smoke", tmp_path), edge_ranks.EdgeRanks("image-patch4-seed2")
    assert job.other == "image-patch4-seed0" and job.name == "information-flow-edges-image-patch4-seed2"
    assert {"image-patch4-seed2", "image-patch4-seed0"} < set(job.identity(run)["weights"])
    monkeypatch.setattr(edge_ranks, "measure", lambda one, inputs, *sizes: {"shown": 1, "sizes": sizes})
    monkeypatch.setattr(edge_ranks, "whole_examples", lambda one, count: count)
    monkeypatch.setattr(candidates, "beside", lambda *given: type("One", (), {"teacher": None})())
    assert job.do(run) == {"shown": {}, "sizes": (6, 2, 2)}
    assert edge_ranks.EdgeRanks("image-patch4-seed0").do(run)["shown"] == 1
