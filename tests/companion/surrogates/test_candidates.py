"""What stands beside a teacher, on a small one whose pictures and equations are made here."""

import numpy as np
import pytest
import torch
from tiny_teacher import Tiny, teacher

from companion.jobs import Run
from companion.surrogates import candidates
from companion.surrogates.laws import TEACHERS
from pdelens import flow_of
from pdelens.agreement.report import state_agreement
from pdelens.lattice import Chain
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate


@pytest.fixture
def tiny():
    return Tiny(teacher(0), 5, other=teacher(1))


def test_each_flow_is_what_it_is_called(tiny):
    found, first = tiny.flows(method="rk4", substeps=2), tiny.reference.states[0]
    assert set(found) == {*candidates.LAWS, *map(str, (candidates.ONE_STEP, candidates.SOLVED, candidates.HEAT))} | {
        candidates.IDENTITY,
        candidates.AFFINE,
        candidates.MEAN,
    }
    law, field = tiny.equations["three laws"], tiny.equations[candidates.ONE_STEP]
    heat = PDE({"diffusion": law.terms["diffusion"]}, Chain(4), depth=6)
    wanted = {
        "three laws": integrate(law, first, method="rk4", substeps=2).states,
        candidates.ONE_STEP: integrate(field, first).states,
        candidates.SOLVED: integrate(field, first, method="rk4", substeps=2).states,
        candidates.HEAT: integrate(heat, first, method="rk4", substeps=2).states,
        candidates.IDENTITY: [first] * 7,
        candidates.MEAN: [state.mean(0).expand_as(first) for state in tiny.calibration.states],
    }
    for name, states in wanted.items():
        torch.testing.assert_close(list(found[name].states), list(states), atol=1e-4, rtol=1e-4)
    assert law.off == set(), "the law has all its terms again"


def test_only_some_of_the_examples_are_the_same_ones(tiny):
    few = tiny.only(3, 1)
    torch.testing.assert_close(few.reference.states[-1], tiny.reference.states[-1][[3, 1]])
    torch.testing.assert_close(few.calibration.states[-1], tiny.calibration.states[-1])
    chosen = candidates.selected({"inputs": torch.arange(5), "mask": torch.arange(5) * 2}, (4, 0))
    assert {name: value.tolist() for name, value in chosen.items()} == {"inputs": [4, 0], "mask": [8, 0]}


def test_another_teachers_states_are_carried_over_by_least_squares_on_calibration_examples(tiny):
    theirs = [
        flow_of(tiny.other.model, tiny.teacher.inputs(s, n)[0]) for s, n in (("calibration", 128), ("heldout", 5))
    ]
    for depth, found in enumerate(tiny.carried_over()):
        x, u = (flow.states[depth].flatten(0, 1).double().numpy() for flow in theirs)
        y = tiny.calibration.states[depth].flatten(0, 1).double().numpy()
        design = np.c_[x, np.ones(len(x))]
        wanted = np.c_[u, np.ones(len(u))] @ (np.linalg.pinv(design) @ y)
        np.testing.assert_allclose(found.flatten(0, 1), wanted, atol=2e-3)


def test_an_affine_map_is_found_again_and_padding_says_nothing():
    generator = torch.Generator().manual_seed(0)
    x, matrix, bias = (torch.randn(*shape, generator=generator) for shape in ((3, 6, 4), (4, 4), (4,)))
    mask = torch.tensor([[True] * 6, [True] * 6, [True] * 2 + [False] * 4])
    y = torch.where(mask[..., None], x @ matrix + bias, torch.tensor(1e3))
    torch.testing.assert_close(candidates.affinely(x, y, mask, x), x @ matrix + bias, atol=1e-4, rtol=1e-4)


def test_the_mean_over_examples_is_the_pooled_r2_over_depths(tiny):
    states = tiny.flows(method="lie")["one law"].states
    usual = candidates.variances(tiny.reference, tiny.calibration)
    found = candidates.example_agreement(states, tiny.reference, usual)
    wanted = state_agreement(states, tiny.reference, tiny.calibration, cka=False)["r2 pooled"]
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), abs=1e-6)
    # The variance is of all examples, whichever are asked about.
    few = tiny.only(2)
    again = candidates.example_agreement([state[[2]] for state in states], few.reference, usual)
    torch.testing.assert_close(again, found[[2]])


def test_examples_are_spread_from_the_worst_over_the_median_to_the_best():
    values = torch.tensor([3.0, 9.0, 1.0, 7.0, 5.0, 2.0, 8.0])
    found = candidates.spread_out(values, 3)
    assert values[found].tolist() == [1, 5, 9]
    assert values[candidates.spread_out(values, 7)].tolist() == sorted(values.tolist())


def test_weights_are_a_runs_before_committed_ones_and_none_where_there_are_neither(tmp_path):
    run, name = Run("book", tmp_path), "rung-image-patch4-full-k1-one-step-seed0"
    assert candidates.weights_there(name, run) == candidates.weights_there(name)
    (tmp_path / f"{name}.safetensors").write_bytes(b"")
    assert candidates.weights_there(name, run) == tmp_path / f"{name}.safetensors"
    assert candidates.weights_there("rung-none", run) is None and candidates.equation_there("rung-none") is None


def test_the_committed_laws_are_those_of_three_laws():
    assert [name.removeprefix("rung-") for name in candidates.COMMITTED] == [f"{t}-laws-k3-b2-seed0" for t in TEACHERS]
