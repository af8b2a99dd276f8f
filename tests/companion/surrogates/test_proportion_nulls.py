import numpy as np
import pytest
import torch

from companion.surrogates import comparison_nulls, files, proportion_nulls, results
from companion.teachers.teacher import cached_teacher
from pdelens import integrate

NAME, COUNT = "image-patch4-seed0", 12


@pytest.fixture(scope="module")
def found():
    return proportion_nulls.predictors(NAME, COUNT, {"full-k1": "the equation"})


@pytest.fixture(scope="module")
def flows():
    teacher = cached_teacher(NAME)
    return teacher, teacher.of("heldout", COUNT), teacher.of("calibration", COUNT)


def r2(states, reference, calibration):
    """Both ways to average R2 at each depth from 1, by plain loops over channels."""
    pooled, channels = [], []
    for depth in range(1, len(states)):
        ours, theirs = (np.asarray(one[depth], dtype=float) for one in (states, reference.states))
        mean = np.asarray(calibration.states[depth], dtype=float).mean(0)
        miss = [((ours[..., c] - theirs[..., c]) ** 2).sum() for c in range(ours.shape[-1])]
        whole = [((mean[..., c] - theirs[..., c]) ** 2).sum() for c in range(ours.shape[-1])]
        pooled.append(1 - sum(miss) / sum(whole))
        channels.append(np.mean([1 - m / w for m, w in zip(miss, whole, strict=True)]))
    return min(pooled), min(channels)


def cosine(ours, theirs):
    """Mean over heads and examples of each layer's flattened maps, worst layer, by plain loops."""
    layers = []
    for a, b in zip(ours, theirs, strict=True):
        pairs = [(a[i, h].flatten(), b[i, h].flatten()) for i in range(len(a)) for h in range(a.shape[1])]
        layers.append(np.mean([float(x @ y / (x.norm() * y.norm())) for x, y in pairs]))
    return min(layers)


def test_every_predictor_of_states_is_there_and_none_that_sees_the_step_before(found):
    assert set(found) == {"identity", "affine", "mean state", "nearest neighbours", "the equation"}
    assert all(list(values) == list(proportion_nulls.MEASURES) for values in found.values())


@pytest.mark.parametrize("name", ["identity", "mean state", "the equation"])
@torch.no_grad()
def test_states_agree_as_plain_loops_say(found, flows, name):
    teacher, reference, calibration = flows
    if name == "the equation":
        pde, _ = files.load("rung-image-patch4-full-k1-seed0")
        solved = integrate(pde, reference.states[0], method="dopri5", rtol=1e-6, atol=1e-6)
        states = solved.states
    else:
        means = [state.mean(0, keepdim=True).expand_as(state) for state in calibration.states]
        states = means if name == "mean state" else [reference.states[0]] * len(reference.states)
    pooled, channels = r2(states, reference, calibration)
    assert found[name]["r2-pooled"] == pytest.approx(pooled, abs=1e-4)
    assert found[name]["r2"] == pytest.approx(channels, abs=1e-4)
    ours, theirs = (teacher.answers(one[-1], reference.mask).argmax(-1) for one in (states, reference.states))
    assert found[name]["classes"] == pytest.approx(float((ours == theirs).double().mean()))
    labels = teacher.targets("heldout", COUNT)
    assert found[name]["accuracy"] == pytest.approx(float((ours == labels).double().mean()))


@torch.no_grad()
def test_attention_is_what_the_teachers_heads_have_at_these_states(found, flows):
    teacher, reference, _ = flows
    maps = [block.attention_at(reference.states[0], None) for block in teacher.model.blocks]
    # The teacher's heads stand in their aligned order.
    maps = [one[:, order] for one, order in zip(maps, teacher.orders, strict=True)]
    assert found["identity"]["read"] == pytest.approx(cosine(maps, reference.attention), abs=1e-4)


def test_maps_without_an_equation_by_layer_and_seed(monkeypatch):
    attention = {name: [[0.1, 0.3], [0.5, 0.5]] for name in proportion_nulls.MAPS}
    attention["mean map"] = [[0.6, 0.2], [0.4, 0.4]]
    one = {"attention": attention, "ceiling": {"cosine": [[0.2, 0.2], [0.3, 0.5]]}}
    monkeypatch.setattr(results, "sweep_records", lambda: {"nulls": {"t-seed0": one, "t-seed1": one, "u-seed0": {}}})
    table = np.array([[0.2, 0.9], [0.1, 0.7]])
    monkeypatch.setattr(comparison_nulls, "looked_up", lambda name: table if name == "t-seed1" else None)
    found = proportion_nulls.layers("t")
    assert found["uniform"] == pytest.approx(np.array([[0.2, 0.5], [0.2, 0.5]]))
    assert found["nearest neighbours"] == pytest.approx(np.array([[0.55, 0.4]]))
    # Head by head: .6 .3 / .5 .5, and with the look-up .6 .9 / .5 .7.
    assert found["best null"] == pytest.approx(np.array([[0.45, 0.5], [0.75, 0.6]]))
    assert found["another seed's teacher"] == pytest.approx(np.array([[0.2, 0.4], [0.2, 0.4]]))


def test_predictors_of_states_bring_no_maps_of_their_own(monkeypatch):
    seen, evaluated = {}, proportion_nulls.evaluate_flow

    def spied(flow, *about):
        seen[len(seen)] = flow.attention
        return evaluated(flow, *about)

    monkeypatch.setattr(proportion_nulls, "evaluate_flow", spied)
    proportion_nulls.predictors(NAME, 6, {"full-k1": "the equation"})
    *nulls, equation = seen.values()
    assert len(nulls) == 4 and all(maps == () for maps in nulls) and len(equation) == 6
