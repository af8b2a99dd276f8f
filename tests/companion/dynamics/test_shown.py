"""The shown examples: what is drawn of them is what was measured, on a small teacher."""

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.dynamics import shown, strips
from companion.surrogates import candidates
from companion.surrogates.evaluate import rolled_out
from companion.theory import token_influence as maps

SOLVER = {"method": "rk4", "substeps": 2}
ROWS = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.1, 0.2, 0.0, 0.7]], dtype=torch.float64)


@pytest.fixture(scope="module")
def found():
    """The shown examples 3 and 1 of five, with stored rows that are made up, and the five."""
    whole = Tiny(teacher(0), 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "CONVERGED", SOLVER)
        patch.setattr(shown, "beside", lambda name, count: whole)
        patch.setattr(shown.flow_results, "records_of", lambda family: [{"examples": 5}])
        patch.setattr(shown.flow_results, "shown", lambda family: {"median": (3, 0.5), "worst": (1, 0.1)})
        stored = torch.tensor([0, 2]), {"teacher": ROWS, "three laws": ROWS.flip(0)}
        patch.setattr(shown.flow_results, "stored_rows", lambda family, example: stored)
        yield shown.shown_examples("image-tiny"), whole


def test_they_are_the_examples_by_number_and_agree_as_among_all(found):
    one, whole = found
    assert one.numbers == {"median": 3, "worst": 1}
    torch.testing.assert_close(one.one.reference.states[2], whole.reference.states[2][[3, 1]])
    usual = candidates.variances(whole.reference, whole.calibration)
    states = rolled_out(whole.equations["three laws"], whole.reference, **SOLVER).states
    wanted = candidates.example_agreement(states, whole.reference, usual)
    np.testing.assert_allclose(one.agreement["three laws"], wanted[[3, 1]], atol=1e-5)
    np.testing.assert_allclose(one.agreement["teacher"], 1)


def test_strips_are_of_the_teachers_projection_on_one_scale(found):
    one, _ = found
    drawn = one.strips(1)
    assert tuple(drawn) == shown.STRIPS and drawn["identity"].shape == (4, 7)
    wanted = one.to(one.one.reference.states[4][1])[:, 0]
    np.testing.assert_allclose(drawn["teacher"][:, 4], wanted)
    assert np.ptp(drawn["identity"], axis=1).max() < 1e-9
    both = np.abs(np.concatenate([one.strips(0)["teacher"], drawn["teacher"]]))
    assert one.reach == pytest.approx(np.quantile(both, 0.98))


def test_influence_is_stored_or_made_here_and_agrees_by_the_same_measures(found):
    one, _ = found
    targets, rows = one.influence(1)
    flow = one.one.reference.select([1])
    assert targets.tolist() == [0, 2] and set(rows) == {"teacher", "three laws", "rollout", "heat equation"}
    known = maps.others_shares(maps.rows_of(maps.rollout(flow), targets[None]), targets[None], flow.mask)[0]
    torch.testing.assert_close(rows["rollout"].shares, known)
    wanted = float((known * ROWS).sum() / known.norm() / ROWS.norm())
    assert rows["rollout"].cosine == pytest.approx(wanted)
    assert (rows["teacher"].cosine, rows["teacher"].rank) == (pytest.approx(1), pytest.approx(1))
    kernel = maps.HeatKernels(one.one.teacher.lattice, flow.mask)
    best = [
        float(
            maps.map_cosine(
                maps.others_shares(maps.rows_of(kernel(s), targets[None]), targets[None], flow.mask), ROWS[None]
            )
        )
        for s in shown.AMOUNTS
    ]
    assert rows["heat equation"].cosine == pytest.approx(max(best))


def test_tokens_move_as_teacher_and_solution_do(found, monkeypatch):
    monkeypatch.setattr(shown, "CONVERGED", SOLVER)
    one, _ = found
    moving = one.moving(0)
    times, paths = moving["teacher"]
    assert times == (0, 1, 2, 3, 4, 5, 6)
    np.testing.assert_allclose(paths, strips.paths(one.to, one.one.reference.select([0]).states, torch.ones(1, 4) > 0))
    times, paths = moving["three laws"]
    assert times == strips.TIMES and paths.shape == (len(times), 4, 2)
    whole = [times.index(depth) for depth in range(7)]
    solved = strips.paths(one.to, one.flows["three laws"].select([0]).states, torch.ones(1, 4) > 0)
    np.testing.assert_allclose(paths[whole], solved, atol=2e-2)
