import numpy as np
import pytest
import torch

from pdelens import Flow, compare, intervals, skill
from pdelens.agreement import nulls
from pdelens.agreement.report import class_agreement, state_agreement


@pytest.fixture
def pair(attention):
    ours = Flow(attention=[attention(seed=layer) for layer in range(3)])
    theirs = Flow(attention=[attention(seed=10 + layer) for layer in range(3)])
    return ours, theirs


def test_headline_is_mean_over_heads_then_worst_layer(pair):
    report = compare(*pair)
    cosines = report.attention["cosine"]
    assert cosines.shape == (3, 6, 3)
    assert report.headline() == pytest.approx(cosines.mean((1, 2)).min())
    assert report.worst_head() == pytest.approx(cosines.mean(1).min())
    assert report.worst_head() <= report.headline()
    assert report.headline("total variation") == pytest.approx(report.attention["total variation"].mean((1, 2)).max())
    low, high = report.headline_interval()
    assert low <= report.headline() <= high


def test_skill_counts_what_the_null_leaves():
    assert skill(0.98, 0.9) == pytest.approx(0.8)
    assert skill(0.98, 0.98) == pytest.approx(0)
    assert skill(0.5, 0.9) < 0


def test_best_null_is_taken_per_layer_and_head(pair):
    ours, theirs = pair
    report = compare(ours, theirs, {"itself": theirs, "uniform": nulls.uniform(theirs)})
    assert np.allclose(report.best_null(), 1)
    with pytest.raises(ValueError, match="has no nulls"):
        compare(ours, theirs).best_null()


def test_only_the_measures_asked_for(pair):
    assert set(compare(*pair, measures=["cosine"]).attention) == {"cosine"}
    with pytest.raises(ValueError, match="'centred cosine' was asked for"):
        compare(*pair, measures=["centred cosine"])
    with pytest.raises(ValueError, match="'cosin' was asked for"):
        compare(*pair, measures=["cosin"])


def test_states_are_measured_from_depth_one():
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(50, 4, 6, generator=generator) for _ in range(3)]
    reference, calibration = Flow(states=[s[:25] for s in states]), Flow(states=[s[25:] for s in states])
    exact = state_agreement(reference.states, reference, calibration)
    assert np.allclose(exact["r2"], 1) and exact["r2"].shape == (2,) and "cka" not in exact
    mean = nulls.state_nulls(reference, calibration)["mean state"]
    assert np.abs(state_agreement(mean, reference, calibration)["r2"]).max() < 1e-6
    wide = Flow(states=[torch.randn(50, 4, 6, generator=generator) for _ in range(2)])
    assert state_agreement(wide.states, wide, wide)["cka"] == pytest.approx([1.0], abs=1e-5)


def test_class_agreement():
    logits = torch.eye(4)
    assert class_agreement(logits, logits) == 1
    assert class_agreement(logits, logits.roll(1, 0)) == 0
    with pytest.raises(ValueError, match="can't be compared"):
        class_agreement(logits, logits[:2])


def test_mismatched_flows_are_named(pair, attention):
    ours, theirs = pair
    with pytest.raises(ValueError, match="2 attention layers and the reference 3"):
        compare(ours.attention[:2], theirs)
    with pytest.raises(ValueError, match=r"null 'small' has attention of shape \(6, 3, 5, 5\)"):
        compare(ours, theirs, {"small": [attention(tokens=5)] * 3})
    with pytest.raises(ValueError, match="has no attention"):
        compare(ours, Flow(states=[torch.zeros(1, 2, 3)] * 4))


def test_t_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = [low <= 0 <= high for low, high in (intervals.t_interval(random.normal(size=5)) for _ in range(4000))]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_bootstrap_covers_nearly_as_often_as_it_says():
    random = np.random.default_rng(0)
    found = [intervals.bootstrap_interval(random.normal(size=60), resamples=300, seed=i) for i in range(400)]
    assert np.mean([low <= 0 <= high for low, high in found]) == pytest.approx(0.94, abs=0.03)


def test_intervals_need_more_than_one():
    with pytest.raises(ValueError, match="at least two seeds"):
        intervals.t_interval([1.0])
    with pytest.raises(ValueError, match="at least two"):
        intervals.bootstrap_interval([1.0])


def test_channels_that_never_move_have_no_r2():
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(6, 5, 4, generator=generator) for _ in range(2)]
    states[1][..., 2] = 3.0
    flow = Flow(states)
    shifted = [states[0], states[1] + 0.1]
    found = state_agreement(shifted, flow, flow)["r2"]
    expected = state_agreement([u[..., [0, 1, 3]] for u in shifted], *[Flow([u[..., [0, 1, 3]] for u in states])] * 2)[
        "r2"
    ]
    assert found == pytest.approx(expected)
