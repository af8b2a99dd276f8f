from types import SimpleNamespace

import numpy as np
import pytest
import torch

from companion.surrogates import comparison_live as live
from companion.surrogates import evaluate, files
from companion.teachers import teacher
from pdelens.agreement import measures


@pytest.fixture(scope="module")
def found():
    return live.solved("image-patch4-seed0", "full-k1", 6)


def test_the_equation_that_is_solved_is_the_committed_one(found):
    subject = teacher.teacher_named("image-patch4-seed0")
    pde, _ = files.load("rung-image-patch4-full-k1-seed0")
    flow = evaluate.rolled_out(pde, subject.of("heldout", 6), **evaluate.RESOLUTIONS["converged"])
    for ours, theirs in zip(found.flow.attention, flow.attention, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)
    by_hand = [measures.cosine(a, b) for a, b in zip(flow.attention, found.reference.attention, strict=True)]
    assert found.report.headline() == pytest.approx(min(float(layer.mean()) for layer in by_hand), abs=1e-5)
    mean = subject.of("calibration", 6).attention[2].mean(0)
    assert np.allclose(found.mean[2][0], mean, atol=1e-6)


def test_the_head_that_is_shown_is_the_median_of_its_layer_on_the_median_example(found):
    shown = live.median_head(found, 2)
    agreement = found.report.attention["cosine"]
    means = agreement.mean((0, 2))
    example = int(np.flatnonzero(means == np.sort(means)[3])[0])
    # Of four heads the lower of the two in the middle.
    head = int(np.flatnonzero(agreement[2, example] == np.sort(agreement[2, example])[1])[0])
    assert shown.name == f"layer 3, head {head + 1}"
    assert np.allclose(shown.teacher, found.reference.attention[2][example, head])
    assert np.allclose(shown.equation, found.flow.attention[2][example, head])
    a, b = shown.mean.ravel(), shown.teacher.ravel()
    assert shown.scores[0] == pytest.approx(agreement[2, example, head], abs=1e-5)
    assert shown.scores[1] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-5)


def test_of_many_heads_too_it_is_the_median(found):
    order = np.random.default_rng(0).permutation(8)
    agreement = np.tile(order / 10, (1, 3, 1))
    maps = torch.rand(3, 8, 5, 5)
    flow = SimpleNamespace(mask=torch.ones(3, 5, dtype=torch.bool), attention=[maps])
    report = SimpleNamespace(attention={"cosine": agreement})
    shown = live.median_head(live.Solved(flow, flow, [maps.mean(0)], report), 0)
    assert shown.name == f"layer 1, head {list(order).index(3) + 1}"
