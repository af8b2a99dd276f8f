import numpy as np
import pytest
import torch

from pdelens import Chain, Flow, TransformerPDE, compare, integrate, intervals, skill
from pdelens.agreement import nulls
from pdelens.agreement.report import class_agreement, pooled_skill, state_agreement

R2 = ("r2 pooled", "r2 mean over channels", "r2, worst decile")


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


def test_pooled_skill_weighs_a_head_by_what_its_null_leaves(pair):
    ours, theirs = pair
    report = compare(ours, theirs, {"uniform": nulls.uniform(theirs), "other": nulls.other_input(theirs)})
    heads, best = report.per_head(), report.best_null()
    for layer, found in enumerate(report.pooled_skill()):
        missed, left = (sum(1 - values[layer, head] for head in range(3)) for values in (heads, best))
        assert found == pytest.approx(1 - missed / left)
    # A head of .999 whose null has .99996 has a skill of -24; in the sum it hardly counts.
    score, null = np.array([[0.999, 0.9]]), np.array([[0.99996, 0.5]])
    assert skill(score, null).min() == pytest.approx(-24) and pooled_skill(score, null) == pytest.approx(
        0.798, abs=1e-3
    )


def test_heads_with_one_map_for_all_inputs_carry_no_test(attention):
    theirs = Flow(attention=[torch.cat([attention()[:, :1], attention()[:1, 1:2].expand(6, 1, 7, 7)], 1)])
    report = compare(theirs, theirs, {"mean map": nulls.mean_map(theirs)})
    assert report.testable().tolist() == [[True, False]]


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
    assert "cka" not in exact
    assert all(np.allclose(exact[name], 1) and exact[name].shape == (2,) for name in R2)
    mean = nulls.state_nulls(reference, calibration)["mean state"]
    found = state_agreement(mean, reference, calibration)
    assert all(np.abs(found[name]).max() < 1e-6 for name in R2[:2])
    wide = Flow(states=[torch.randn(50, 4, 6, generator=generator) for _ in range(2)])
    assert state_agreement(wide.states, wide, wide)["cka"] == pytest.approx([1.0], abs=1e-5)


def test_pooled_r2_weighs_channels_by_variance_and_the_mean_over_channels_does_not():
    generator = torch.Generator().manual_seed(1)
    loud, quiet = torch.randn(40, 3, 1, generator=generator), 0.1 * torch.randn(40, 3, 1, generator=generator)
    states = torch.cat([loud, quiet], -1)
    reference = Flow(states=[states, states])
    ours = torch.cat([loud, torch.zeros_like(quiet)], -1)
    found = state_agreement([ours, ours], reference, reference)
    # One by one, from the definition: about the mean of each token and channel, over examples, tokens, channels.
    error = spread = 0.0
    for example in range(40):
        for token in range(3):
            for channel in range(2):
                mean = float(states[:, token, channel].mean())
                error += float(ours[example, token, channel] - states[example, token, channel]) ** 2
                spread += (float(states[example, token, channel]) - mean) ** 2
    assert found["r2 pooled"] == pytest.approx([1 - error / spread], abs=1e-5)
    assert found["r2 pooled"][0] > 0.98 > 0.55 > found["r2 mean over channels"][0] > 0.45


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
    found = state_agreement(shifted, flow, flow)
    expected = state_agreement([u[..., [0, 1, 3]] for u in shifted], *[Flow([u[..., [0, 1, 3]] for u in states])] * 2)
    for name in R2[1:]:
        assert found[name] == pytest.approx(expected[name])


def test_a_solution_that_carries_gradients_is_compared_as_it_is():
    pde = TransformerPDE(8, 2, Chain(6), depth=2)
    flow = integrate(pde, torch.randn(40, 6, 8))
    assert flow.states[-1].requires_grad
    given = nulls.attention_nulls(flow, flow)
    report = compare(flow, flow, given, flow)
    assert report.headline() == pytest.approx(1.0) and report.states["r2 pooled"] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("unit", [1.0, 1e-2, 1e4])
def test_channels_below_a_millionth_of_the_mean_variance_are_left_out(unit):
    sign = (torch.arange(12) % 2 * 2 - 1)[:, None, None].double().expand(12, 2, 1)
    variances = torch.tensor([2.0, 2.0, 0.97e-6, 1.03e-6], dtype=torch.float64)  # of which the mean is 1
    states = unit * sign * variances.sqrt()
    reference = Flow(states=[states, states])
    ours = states * torch.tensor([1.0, 1.0, 0.0, 0.0])  # right in the loud channels, the mean in both quiet ones
    found = state_agreement([ours, ours], reference, reference)
    assert found["r2 mean over channels"] == pytest.approx([2 / 3])
    assert found["r2, worst decile"] == pytest.approx([0.2])


def test_the_worst_decile_is_what_a_tenth_of_the_channels_stay_below():
    states = torch.randn(30, 2, 11, generator=torch.Generator().manual_seed(0)).double()
    states = states - states.mean(0)
    share = torch.linspace(0, 1, 11, dtype=torch.float64)
    ours = states * (1 - (1 - share).sqrt())  # of which the R2 are these shares
    reference = Flow(states=[states, states])
    assert state_agreement([ours, ours], reference, reference)["r2, worst decile"] == pytest.approx([0.1])


def test_alignment_is_told_from_twenty_samples_a_feature_on():
    states = torch.randn(15, 4, 3, generator=torch.Generator().manual_seed(0))
    flow, fewer = Flow(states=[states] * 3), torch.ones(15, 4, dtype=torch.bool)
    fewer[0, 0] = False
    assert state_agreement(flow.states, flow, flow)["cka"] == pytest.approx([1, 1], abs=1e-5)
    assert "cka" not in state_agreement(flow.states, flow, flow, cka=False)
    assert "cka" not in state_agreement(flow.states, Flow(flow.states, mask=fewer), flow)


def test_the_fifth_percentile_and_the_worst_head_turn_round_for_distances(pair):
    report = compare(*pair)
    for measure, low in (("cosine", True), ("jensen-shannon", False), ("total variation", False), ("top-1", True)):
        values = report.attention[measure]
        worst = min if low else max
        layers = [np.percentile(layer.mean(1), 5 if low else 95) for layer in values]
        assert report.fifth_percentile(measure) == pytest.approx(worst(layers))
        heads = [values[layer, :, head].mean() for layer in range(3) for head in range(3)]
        assert report.worst_head(measure) == pytest.approx(worst(heads))


def test_intervals_by_group_resample_groups(pair):
    report = compare(*pair)
    by_group = report.attention["cosine"].mean(2).T.reshape(3, 2, 3).mean(1)
    found = report.headline_interval(group=2, resamples=200)
    assert found == intervals.bootstrap_interval(by_group, lambda rows: rows.mean(0).min(), resamples=200)
    with pytest.raises(ValueError, match="6 examples can't be averaged 4 by 4"):
        report.headline_interval(group=4)


def test_the_head_mean_is_the_cosine_of_the_maps_averaged_over_heads(pair):
    ours, theirs = pair
    found = compare(ours, theirs).head_mean
    a, b = (flow.attention[2][4].double().mean(0).flatten() for flow in pair)
    assert found.shape == (3, 6) and found[2, 4] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-6)


def test_one_negative_weight_is_enough_to_refuse_maps(pair):
    ours, theirs = pair
    wrong = [maps.clone() for maps in ours.attention]
    wrong[1][0, 2, 3, 4] = -1e-3
    with pytest.raises(ValueError, match="the Flow has negative weights, or no real ones, in layer 1"):
        compare(wrong, theirs)
    with pytest.raises(ValueError, match="null 'whole' has negative weights, or no real ones, in layer 0"):
        compare(ours, theirs, {"whole": [maps.long() for maps in ours.attention]})
    wrong[1][0, 2, 3, 4] = -5e-7
    compare(wrong, theirs)
