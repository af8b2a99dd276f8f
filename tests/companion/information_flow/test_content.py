"""The jobs on tokens' information, on a small teacher whose equations are drawn here."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.information_flow import content, jobs
from companion.information_flow import targets as asked
from companion.information_flow.content import LAW, PLACE, SHUFFLED, TEACHER, UNTRAINED
from companion.jobs import Run
from companion.surrogates import candidates
from companion.surrogates.candidates import HEAT, IDENTITY, ONE_STEP
from pdelens.information.usable import usable_information
from pdelens.lattice import Chain

STEPS = content.STEPS  # others are set below


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked, "DISTANCES", (0, 1))
        patch.setattr(asked, "TARGETS", ("itself", "distance 1", "class"))
        patch.setattr(content, "STEPS", tuple(map(float, range(7))))
        patch.setattr(content, "_BATCH", 16)
        yield patch


@pytest.fixture(scope="module")
def tiny(patch):
    small, codes = Tiny(teacher(0), 40), torch.arange(160).reshape(40, 4) % 3
    which = asked.drawn(codes, torch.ones(40, 4), small.teacher.lattice, 40, 2)
    return small, which, content.gathered_states(small, which)


def at(which, states, distance, row):
    return states[which.examples[row], which.readers[distance][row]]


def test_states_are_read_where_the_targets_say(tiny):
    small, which, found = tiny
    assert set(found) == {TEACHER, UNTRAINED, SHUFFLED, LAW, HEAT, ONE_STEP, IDENTITY, PLACE}
    solution = content.rolled_out(small.equations[LAW], small.reference, method="rk4", substeps=1)
    for distance in (0, 1):
        for row in (0, 33, 79):
            own = [at(which, u, distance, row) for u in small.reference.states]
            torch.testing.assert_close(found[TEACHER][distance][:, row], torch.stack(own))
            torch.testing.assert_close(found[IDENTITY][distance][:, row], own[0].expand(7, -1))
            assert found[PLACE][distance][3, row].argmax() == which.readers[distance][row]
            assert found[PLACE][distance][3, row].sum() == 1
            ends = at(which, solution.states[6], distance, row)
            torch.testing.assert_close(found[LAW][distance][6, row], ends, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[HEAT][0][6], found[LAW][0][6])
    assert torch.equal(found[LAW][0][0], found[TEACHER][0][0]), "it starts from the same embedding"


def test_shuffled_tokens_are_the_same_tokens_elsewhere():
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:] = False
    states = [torch.arange(15.0).reshape(3, 5, 1) + 100 * d for d in range(2)]
    found = content.shuffled_tokens(states, mask, torch.Generator().manual_seed(0))
    assert found[0][0, 3:].tolist() == states[0][0, 3:].tolist(), "padding stays"
    for example in range(3):
        assert sorted(found[0][example, :, 0].tolist()) == states[0][example, :, 0].tolist()
    assert torch.equal(found[1], found[0] + 100) and not torch.equal(found[0], states[0])


def test_a_curve_is_the_librarys_number_at_each_depth(patch):
    generator = torch.Generator().manual_seed(0)
    which = SimpleNamespace(examples=torch.arange(60).repeat_interleave(2), codes=torch.arange(120) % 3)
    labels = (torch.arange(120) // 2) % 2
    own = torch.randn(3, 120, 4, generator=generator)
    own[1, :, 0] += 3 * which.codes
    own[2] = own[0]
    found = content.curve({0: own, 1: own[:, :, :2]}, which, labels)
    for target, classes, states in (("itself", which.codes, own), ("class", labels, own)):
        for depth in range(3):
            scores = content.components(states[depth])
            wanted = usable_information(scores, classes, groups=which.examples, permutations=0)
            assert found[target][0][depth] == pytest.approx(float(wanted), abs=1e-9)
            assert found[target][1] == pytest.approx(wanted.ceiling)
    scores = content.components(own[1, :, :2])
    nearby = usable_information(scores, which.codes, groups=which.examples, permutations=0)
    assert found["distance 1"][0][1] == pytest.approx(float(nearby))
    other = content.curve({0: own, 1: own}, which, labels, seed=1)
    assert other["itself"][0][1] != found["itself"][0][1]


def test_components_are_a_rotation_without_what_is_rounding_alone():
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(50, 3, generator=generator) * torch.tensor([5.0, 1.0, 0.01])
    u = torch.cat([u, u[:, :1] - 2 * u[:, 1:2]], 1)  # a fourth channel that holds nothing new
    found = content.components(u)
    assert found.shape == (50, 3)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(u.double(), u.double()), atol=1e-4, rtol=0)
    spread = found.T @ found
    torch.testing.assert_close(spread, torch.diag(spread.diagonal()), atol=1e-6, rtol=0)


def test_codes_of_texts_are_frequent_pieces_of_the_calibration_reviews():
    tokens = {
        "calibration": torch.tensor([[4, 4, 3, 3, 3, 9, 0]]),
        "heldout": torch.tensor([[3, 4, 8, 3, 4, 3, 9]] * 3),
    }

    def inputs(split, count):
        return {"inputs": tokens[split], "mask": tokens[split] != 0}, torch.zeros(3, dtype=torch.long)

    one = SimpleNamespace(teacher=SimpleNamespace(inputs=inputs, lattice=Chain(7)), inputs=inputs("heldout", None)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked, "DISTANCES", (0, 1))
        patch.setattr(asked.frequent_pieces, "__defaults__", (2,))
        which, shares, pieces = content.chosen_targets(one, 3, 2)
    assert pieces == [3, 4] and sum(shares) == pytest.approx(1)
    for row, code in enumerate(which.codes.tolist()):
        assert int(tokens["heldout"][which.examples[row], which.readers[0][row]]) == pieces[code]


def test_a_model_of_language_is_asked_what_comes_next():
    tokens = torch.randint(3, 5, (60, 7), generator=torch.Generator().manual_seed(1))

    def inputs(split, count):
        return {"inputs": tokens, "mask": tokens > 0}, torch.zeros(60, dtype=torch.long)

    lattice = Chain(7, causal=True)
    one = SimpleNamespace(teacher=SimpleNamespace(inputs=inputs, lattice=lattice), inputs=inputs("heldout", None)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked, "DISTANCES", (0, 1))
        patch.setattr(asked.frequent_pieces, "__defaults__", (2,))
        which, _, pieces = content.chosen_targets(one, 60, 3)
    assert set(which.readers) == {0, 1, asked.NEXT}
    assert torch.equal(which.readers[asked.NEXT], which.readers[0] - 1), "the token before is to tell it"
    assert torch.equal(which.readers[1], which.readers[0] + 1), "the token behind has seen it"
    known = {code: piece for code, piece in enumerate(pieces)}
    noise = torch.Generator().manual_seed(2)
    states = {d: torch.randn(2, len(which), 1, generator=noise) for d in which.readers}
    for row in range(len(which)):  # the state before holds what comes next, all others nothing
        states[asked.NEXT][:, row, 0] = float(known[int(which.codes[row])])
    found = content.curve(states, which, torch.zeros(len(which), dtype=torch.long))
    assert list(found) == ["itself", "distance 1", "next"]
    assert found["next"][0][1] > 0.5 * found["next"][1] and found["itself"][0][1] < 0.1


def test_the_solver_is_held_against_the_converged_solution(patch):
    small = Tiny(teacher(0), 3)
    error = content.solver_error(small)
    exact = content.rolled_out(small.equations[LAW], small.reference, method="dopri5", rtol=1e-7, atol=1e-7).states
    stepped = content.solved(small, small.equations[LAW])
    moved = [float((a - b).norm() / (b - exact[0]).norm()) for a, b in zip(stepped[1:], exact[1:], strict=True)]
    assert error == pytest.approx(max(moved), rel=1e-2) and 0 < error < 0.1


def test_a_job_is_of_its_weights_and_its_sizes(tmp_path):
    run, job = Run("smoke", tmp_path), content.TokenContent("image-patch4-seed2")
    assert job.name == "information-flow-content-image-patch4-seed2"
    before = job.identity(run)
    assert {"image-patch4-seed2", "rung-image-patch4-laws-k3-b2-seed2"} <= set(before["weights"])
    assert job.identity(Run("book", tmp_path)) != before
    (tmp_path / "rung-image-patch4-laws-k3-b2-seed2.safetensors").write_bytes(b"other")
    assert job.identity(run)["weights"] != before["weights"]
    line = job.line({"curves": {TEACHER: {"itself": [1.0, 0.5]}, LAW: {"itself": [1.0, 0.25]}}})
    assert "0.500" in line and "0.250" in line


def test_only_teachers_whose_law_is_there_are_measured(tmp_path, monkeypatch):
    run, there = Run("smoke", tmp_path), ["text-classifier-seed1", "rung-text-classifier-laws-k3-b2-seed1"]
    monkeypatch.setattr(candidates, "weights_there", lambda name, run: tmp_path if name in there else None)
    found = [job.name for job in jobs.token_jobs(run)]
    assert found == [f"information-flow-{part}-text-classifier-seed1" for part in ("content", "edges", "retrieval")]
    assert jobs.token_jobs(run, "information-flow-*-image-*") == []
    # Bounds read a teacher alone.
    there[:] = ["image-patch4-seed2"]
    found = [job.name for job in jobs.token_jobs(run, "information-flow-*-image-*")]
    assert found == ["information-flow-retrieval-image-patch4-seed2"]
    assert jobs.token_jobs(run, "information-flow-*-seed0") == []
    names = jobs.token_names()
    assert len(names) == len(set(names)) == 36
    causal = [name for name in names if "text-causal" in name]
    assert causal == [
        f"information-flow-{part}-text-causal-seed{s}" for part in ("content", "budget") for s in range(3)
    ]


def test_networks_are_for_the_first_seed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "measure", lambda *given: given)
    monkeypatch.setattr(candidates, "beside", lambda name, count, run: (name, count))
    run = Run("smoke", tmp_path)
    assert content.TokenContent("image-patch4-seed0").do(run) == (("image-patch4-seed0", 40), 40, 2, True)
    assert content.TokenContent("text-classifier-seed1").do(run) == (("text-classifier-seed1", 120), 40, 2, False)


def test_what_is_measured_has_every_name_and_target(patch):
    patch.setattr(asked.centres, "__defaults__", (2, 0))
    small = Tiny(teacher(0), 60)
    inputs = small.teacher.inputs

    def labelled(split, count):
        pictures, labels = inputs(split, 60 if count is None else count)
        return pictures, torch.arange(len(labels)) % 3

    class Probe(float):
        """Stands for a probe: what a curve is made of is tested above."""

        ceiling = 0.0

    def probed(x, classes, family, **how):
        found = Probe(x.square().sum())
        found.ceiling = len(np.unique(classes))
        return found

    patch.setattr(content, "usable_information", probed)
    object.__setattr__(small.teacher, "inputs", labelled)
    record = content.measure(small, 60, 2)
    assert record["rows"] == 120 and len(record["shares"]) == 2 and record["pieces"] == []
    assert set(record["curves"]) == {TEACHER, UNTRAINED, SHUFFLED, LAW, HEAT, ONE_STEP, IDENTITY, PLACE}
    for each in record["curves"].values():
        assert set(each) == {"itself", "distance 1", "class"} and {len(row) for row in each.values()} == {7}
    assert np.ptp(record["curves"][IDENTITY]["itself"]) == 0 == np.ptp(record["curves"][PLACE]["itself"])
    assert record["ceilings"]["class"] == 3 and record["ceilings"]["itself"] == 2
    assert set(record["networks"]) == {TEACHER, LAW, UNTRAINED} and len(record["again"]["itself"]) == len(
        content.DEEPER
    )


def test_steps_reach_every_whole_depth_and_halve_towards_the_entry():
    steps = STEPS
    assert list(steps) == sorted(set(steps)) and set(map(float, range(7))) <= set(steps)
    assert steps[0] == 0 and steps[1] == 1 / 1024 and steps[-1] == 6
    assert [after / before for before, after in pairwise(steps[1:10])] == [2.0] * 8
    assert max(after - before for before, after in pairwise(steps)) == 0.5
