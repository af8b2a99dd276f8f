"""Models refined against themselves: exact at one step, and what the measures and nulls are."""

import math

import pytest
import torch

from companion.theory import self_refinement
from companion.theory.depth_interpolation import through_layers
from pdelens import integrate
from pdelens.agreement.measures import cosine
from pdelens.models import Configuration, Transformer


@pytest.fixture(scope="module")
def subject():
    model = Transformer(Configuration(layers=2, width=16, heads=2, vocabulary=20, length=6, outputs=3), seed=1).eval()
    tokens = torch.randint(1, 20, (24, 6), generator=torch.Generator().manual_seed(0))
    return self_refinement.subject(model, {"inputs": tokens[:16]}, {"inputs": tokens[16:]})


@torch.no_grad()
def test_one_step_is_the_model_and_more_steps_go_to_the_solution(subject):
    found = self_refinement.curves([subject])
    assert all(values.shape == (1, len(self_refinement.WAYS)) for values in found.values())
    for name in self_refinement.MEASURES:
        assert found[name][0, 0] == pytest.approx(1, abs=1e-5)
    exact = integrate(subject.equation, subject.flow.states[0], method="rk4", substeps=64)
    assert found["cosine"][0, -1] == pytest.approx(subject.scores(exact)["cosine"], abs=1e-4)
    gaps = [abs(found["r2"][0, place] - found["r2"][0, -1]) for place in (1, 2, 3, 4)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < gaps[0] / 4


@torch.no_grad()
def test_the_scores_by_their_plain_definitions(subject):
    flow = subject.solved(2)
    scores = subject.scores(flow)
    by_layer = [float(cosine(a, b).mean()) for a, b in zip(flow.attention, subject.flow.attention, strict=True)]
    assert scores["cosine"] == pytest.approx(min(by_layer), abs=1e-6)
    centred = []
    for ours, theirs, known in zip(flow.attention, subject.flow.attention, subject.calibration.attention, strict=True):
        mean = known.mean(0)
        a, b = (maps - mean for maps in (ours, theirs))
        centred.append(float(((a * b).sum((2, 3)) / (a.norm(dim=(2, 3)) * b.norm(dim=(2, 3)))).mean()))
    assert scores["centred"] == pytest.approx(min(centred), abs=1e-5)
    kept = (subject.readout(flow.states[-1]).argmax(1) == subject.readout(subject.flow.states[-1]).argmax(1)).double()
    assert scores["classes"] == float(kept.mean())
    mean = [state.mean(0) for state in subject.calibration.states]
    r2 = []
    for depth in (1, 2):
        error = (flow.states[depth] - subject.flow.states[depth]).square().sum((0, 1))
        r2.append(float((1 - error / (subject.flow.states[depth] - mean[depth]).square().sum((0, 1))).mean()))
    assert scores["r2"] == pytest.approx(min(r2), abs=1e-4)


@torch.no_grad()
def test_nulls_and_other_equations(subject):
    blind = subject.blind()
    uniform = torch.full((1, 1, 6, 6), 1 / 6)
    by_layer = [float(cosine(uniform.expand_as(maps), maps).mean()) for maps in subject.flow.attention]
    assert blind["uniform"] == pytest.approx(min(by_layer), abs=1e-6) and blind["mean-map"] > 0.5
    own = subject.readout(subject.flow.states[-1]).argmax(1)
    still = subject.readout(subject.flow.states[0]).argmax(1)
    assert subject.simple()["identity"] == float((own == still).double().mean())
    same = self_refinement.instead([subject], lambda pde: through_layers(pde, "held"))
    assert same["cosine"][0] == pytest.approx(subject.scores(subject.solved("converged"))["cosine"])


def test_a_model_without_classes_has_none(subject):
    bare = self_refinement.Subject(subject.equation, subject.flow, subject.calibration)
    assert math.isnan(bare.scores(bare.flow)["classes"])
