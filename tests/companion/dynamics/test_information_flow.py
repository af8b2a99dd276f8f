"""The jobs on information flow: profiles and influence on a small teacher against plain definitions."""

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import information_flow as flow
from companion.jobs import Run
from companion.surrogates import candidates
from companion.surrogates.candidates import HEAT, IDENTITY, ONE_STEP, OTHER, SOLVED
from companion.theory import token_influence as maps

SOLVER = {"method": "rk4", "substeps": 2}


@pytest.fixture(scope="module")
def measured():
    """A small teacher and what was measured of it, with few steps: as exact as these equations need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "CONVERGED", SOLVER)
        patch.setattr(maps, "STEPS", tuple(map(float, range(7))))
        patch.setattr(flow, "AMOUNTS", (0.1, 1.0, 10.0))
        tiny = Tiny(teacher(0), 5, other=teacher(1))
        yield tiny, flow.measure(tiny, 3, 3, 4)


def block_norms(function, u):
    """Return |J_ij| of one example by automatic differentiation, entry by entry of the output."""
    jacobian = torch.func.jacrev(function)(u)  # (tokens, width, tokens, width)
    return jacobian.permute(0, 2, 1, 3).flatten(2).norm(dim=-1)


def step(field, t, u):
    """Return a state after one Lie step of a layer: one term after the other."""
    for term in field.terms.values():
        u = u + term(t, u)
    return u


def run_blocks(model, start):
    def function(u):
        for block in model.blocks[start:]:
            u = block(u[None], None)[0]
        return u

    return function


def shares_of(tiny, record, function, start):
    """Return shares of others of exact blocks, and of the teacher's rollout, for the record's examples and targets."""
    part, targets = tiny.reference.select(record["shown"]["examples"]), torch.tensor(record["targets"])
    norms = torch.stack([block_norms(function, u) for u in part.states[start]])
    rows = maps.rows_of(norms, targets), maps.rows_of(maps.rollout(part, start), targets)
    return [maps.others_shares(each, targets, part.mask) for each in rows], targets, part.mask


@pytest.mark.parametrize("start", [0, 1])
def test_agreement_of_influence_is_that_of_the_jacobians_blocks(measured, start):
    tiny, record = measured
    (own, rolled), targets, mask = shares_of(tiny, record, run_blocks(tiny.teacher.model, start), start)
    found, distances = record["influence"][str(start)], maps.token_distances(tiny.teacher.lattice)
    between = found[flow.TEACHER][flow.ROLLOUT]
    assert between["cosine"] == pytest.approx(float(maps.map_cosine(rolled, own).mean()), abs=1e-5)
    ranks = maps.rank_given_distance(rolled, own, targets, distances, mask)
    assert between["rank"] == pytest.approx(float(ranks.mean()), abs=1e-5)
    assert found[flow.ROLLOUT][flow.TEACHER] == pytest.approx(between)
    assert found[flow.TEACHER][flow.TEACHER] == pytest.approx({"cosine": 1, "rank": 1})
    assert found[flow.TEACHER][IDENTITY] == {"cosine": 0, "rank": 0} and found["own"][IDENTITY] == pytest.approx(1)
    assert found["heat"] in flow.AMOUNTS
    known = maps.mean_rollout(tiny.calibration, start)[targets]
    places = maps.map_cosine(maps.others_shares(known, targets, mask), own)
    assert found[flow.TEACHER][flow.PLACES]["cosine"] == pytest.approx(float(places.mean()), abs=1e-5)
    if start == 0:
        assert found[flow.TEACHER][flow.AGAIN]["cosine"] == pytest.approx(1), "as many directions as channels are exact"
    else:
        assert flow.AGAIN not in found[flow.TEACHER]


def test_another_seeds_teacher_sees_the_same_examples(measured):
    tiny, record = measured
    other = Tiny(tiny.other, 5)
    (theirs, _), targets, mask = shares_of(other, record, run_blocks(tiny.other.model, 0), 0)
    (own, _), *_ = shares_of(tiny, record, run_blocks(tiny.teacher.model, 0), 0)
    found = record["influence"]["0"]
    assert found[flow.TEACHER][OTHER]["cosine"] == pytest.approx(float(maps.map_cosine(theirs, own).mean()), abs=1e-5)
    norms = [
        block_norms(run_blocks(tiny.other.model, 0), other.reference.states[0][e]) for e in record["shown"]["examples"]
    ]
    rows = maps.rows_of(torch.stack(norms), targets)
    assert found["own"][OTHER] == pytest.approx(float(maps.own_share(rows, targets, mask).mean()), abs=1e-5)


def test_the_one_step_fields_influence_is_that_of_a_step_a_layer(measured):
    tiny, record = measured
    field = tiny.equations[ONE_STEP]

    def function(u):
        for layer in range(6):
            u = step(field, float(layer), u[None])[0]
        return u

    (ours, _), *_ = shares_of(tiny, record, function, 0)
    (own, _), *_ = shares_of(tiny, record, run_blocks(tiny.teacher.model, 0), 0)
    found = record["influence"]["0"][flow.TEACHER][ONE_STEP]["cosine"]
    assert found == pytest.approx(float(maps.map_cosine(ours, own).mean()), abs=1e-4)


def test_the_stored_maps_are_shares_of_the_first_and_the_middle_example(measured):
    tiny, record = measured
    (own, _), *_ = shares_of(tiny, record, run_blocks(tiny.teacher.model, 0), 0)
    chosen = record["shown"]["examples"]
    assert list(record["maps"]) == [str(chosen[0]), str(chosen[1])]
    for row in (0, 1):
        found = torch.tensor(record["maps"][str(chosen[row])][flow.TEACHER]) * flow.UNIT
        torch.testing.assert_close(found.double(), own[row].double(), atol=1e-4, rtol=0)


def test_profiles_are_means_of_plain_curves_and_gaps_are_shares_of_the_teachers_change(measured):
    tiny, record = measured
    found, flows = record["profiles"], {flow.TEACHER: tiny.reference, "three laws": tiny.flows(**SOLVER)["three laws"]}
    sizes = {
        name: np.array([[float(u[e].square().mean(-1).sqrt().mean()) for u in one.states] for e in range(5)])
        for name, one in flows.items()
    }
    for name, each in sizes.items():
        np.testing.assert_allclose(found[name]["norm"], each.mean(0), rtol=1e-5)
    own = sizes[flow.TEACHER]
    wanted = np.abs(sizes["three laws"] - own).sum() / np.abs(own[:, :1] - own).sum()
    assert found["three laws"]["gap"]["norm"] == pytest.approx(wanted, rel=1e-4)
    assert set(found[flow.TEACHER]["gap"].values()) == {0.0}
    assert [found[IDENTITY]["gap"][one] for one in ("norm", "cosine", "rank")] == pytest.approx([1, 1, 1])


def test_states_and_examples_are_recorded_by_name(measured):
    record = measured[1]
    assert record["examples"] == 5 and len(record["states"][OTHER]) == 6
    assert record["states"]["mean state"] == pytest.approx([0] * 6, abs=1e-9)
    worst, _, best = record["shown"]["agreement"]
    assert worst < best and len(set(record["shown"]["examples"])) == 3
    assert {ONE_STEP, SOLVED, HEAT, IDENTITY} <= set(record["states"])
    assert 0 <= record["solver"] < 0.05


def test_a_job_is_of_its_weights_and_its_sizes(tmp_path):
    run, job = Run("smoke", tmp_path), flow.InformationFlow("image-patch4-seed2")
    assert job.other == "image-patch4-seed0" and job.name == "dynamics-flow-image-patch4-seed2"
    before = job.identity(run)
    assert set(before["weights"]) >= {"image-patch4-seed2", "image-patch4-seed0", "rung-image-patch4-laws-k3-b2-seed2"}
    assert job.identity(Run("book", tmp_path)) != before
    (tmp_path / "rung-image-patch4-laws-k3-b2-seed2.safetensors").write_bytes(b"other")
    assert job.identity(run)["weights"] != before["weights"]
    assert flow.InformationFlow("a").cost(Run("book", tmp_path)) > job.cost(run) > 0


def test_only_teachers_whose_law_is_there_are_measured(tmp_path, monkeypatch):
    run, there = Run("smoke", tmp_path), ("text-classifier-seed1", "rung-text-classifier-laws-k3-b2-seed1")
    monkeypatch.setattr(candidates, "weights_there", lambda name, run: tmp_path if name in there else None)
    assert [job.name for job in flow.flow_jobs(run)] == ["dynamics-flow-text-classifier-seed1"]
    assert flow.flow_jobs(run, "dynamics-flow-image-*") == []
    names = flow.flow_names()
    assert len(names) == len(set(names)) == 6 and "dynamics-flow-text-classifier-seed1" in names


def test_maps_are_kept_of_the_first_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "measure", lambda one, *sizes: {"maps": {"3": one}, "sizes": sizes})
    monkeypatch.setattr(candidates, "beside", lambda name, count, run, other: (name, count, other))
    run = Run("smoke", tmp_path)
    first, second = (flow.InformationFlow(f"image-patch4-seed{seed}").do(run) for seed in (0, 1))
    assert first == {"maps": {"3": ("image-patch4-seed0", 6, "image-patch4-seed1")}, "sizes": (3, 3, 2)}
    assert second == {"maps": {}, "sizes": (3, 3, 2)}
    line = flow.InformationFlow("a").line(
        {"states": {"three laws": [0.9, 0.8]}, "influence": {"0": {flow.TEACHER: {"three laws": {"rank": 0.7}}}}}
    )
    assert "0.800" in line and "0.700" in line
