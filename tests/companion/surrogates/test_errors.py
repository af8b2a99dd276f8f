import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from companion.surrogates import errors
from pdelens import Chain, Flow, TransformerPDE, integrate
from pdelens.agreement.measures import cosine

LAYERS, TOKENS, WIDTH = 2, 6, 4


def made(examples, seed, bend=0.0, mixing=0.0, spread=1.0):
    """Return a Flow whose layers are affine, plus `bend` times a square, plus `mixing` times a mean over tokens."""
    generator = torch.Generator().manual_seed(7)
    matrices = torch.eye(WIDTH) + 0.3 * torch.randn(LAYERS, WIDTH, WIDTH, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    states = [spread * torch.randn(examples, TOKENS, WIDTH, generator=generator)]
    for matrix in matrices:
        u = states[-1]
        states.append(u @ matrix + bend * u.square() + mixing * u.mean(1, keepdim=True) + 0.5)
    even = torch.full((examples, 2, TOKENS, TOKENS), 1 / TOKENS)
    return Flow(states=states, attention=[even] * LAYERS)


def test_affine_layers_leave_nothing_and_bent_ones_the_more_the_more_they_bend():
    found = [errors.non_affinity(made(200, 1, b), made(200, 2, b)) for b in (0.0, 0.1, 0.4)]
    for left in zip(*found, strict=True):  # of states, then of steps
        assert np.abs(left[0]).max() < 1e-4
        assert (left[1] > 1e-3).all() and (left[2] > left[1]).all()


def test_the_first_layers_share_is_what_theory_says():
    """u + b u^2 with u standard normal: the best affine map leaves 2 b^2 of 1 + 2 b^2."""
    generator = torch.Generator().manual_seed(3)
    flows = []
    for _ in range(2):
        u = torch.randn(3000, TOKENS, WIDTH, generator=generator)
        flows.append(Flow(states=[u, u + 0.5 * u.square()]))
    found = errors.non_affinity(*flows)
    assert found.states[0] == pytest.approx(0.5 / 1.5, abs=0.01)
    assert found.steps[0] == pytest.approx(1, abs=0.01)


def test_averages_over_tokens_are_linear_but_not_local():
    flows = made(300, 1, mixing=2.0), made(300, 2, mixing=2.0)
    assert errors.non_affinity(*flows).states.min() > 0.05
    assert np.abs(errors.non_affinity(*flows, neighbours=True)).max() < 1e-4


def test_padded_tokens_are_left_out():
    flows = []
    for seed in (1, 2):
        flow = made(100, seed)
        mask = torch.ones(100, TOKENS, dtype=torch.bool)
        mask[:50, 4:] = False
        states = [u.masked_fill(~mask[..., None], 100.0 * (depth + 1)) for depth, u in enumerate(flow.states)]
        flows.append(Flow(states=states, mask=mask))
    assert np.abs(errors.non_affinity(*flows)).max() < 1e-4


def test_the_error_of_an_affine_predictor_is_not_affine_and_a_scaled_teacher_misses_both_parts_alike():
    reference, calibration = made(400, 1, bend=0.3), made(400, 2, bend=0.3)
    means = [u.mean(0) for u in calibration.states]
    half = replace(reference, states=tuple(m + 0.5 * (u - m) for u, m in zip(reference.states, means, strict=True)))
    alike = errors.linear_split(half, reference, calibration)
    assert np.allclose(alike.unmet, 0.25, atol=1e-6) and np.allclose(alike.selectivity(), 0, atol=1e-6)
    assert np.allclose(alike.missed(), 0.25, atol=1e-6)
    straight = made(400, 1)
    wrong = errors.linear_split(
        replace(reference, states=(reference.states[0], straight.states[1] + 0.3, reference.states[2])),
        reference,
        calibration,
    )
    # With its square's mean alone the first layer misses just what no affine map predicts.
    assert wrong.error[0] < 0.02 and wrong.selectivity()[0] > 0.97 and wrong.missed()[1][0] > 0.95
    assert wrong.unmet[1] == 0


def test_local_flow_carries_no_error_on():
    pde = TransformerPDE(8, 2, Chain(5), depth=3, seed=1)
    u0 = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = integrate(pde, u0, method="heun", substeps=4)
    own = errors.local_flow(pde, whole, method="heun", substeps=4)
    for ours, theirs in zip((*own.states, *own.attention), (*whole.states, *whole.attention), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    moved = replace(whole, states=(whole.states[0], whole.states[1] + 1, *whole.states[2:]))
    again = errors.local_flow(pde, moved, method="heun", substeps=4)
    assert torch.allclose(again.states[1], whole.states[1], atol=1e-5)
    assert torch.allclose(again.states[3], whole.states[3], atol=1e-5)
    assert not torch.allclose(again.states[2], whole.states[2], atol=1e-2)
    # Attention is the equation's own; the teacher's is not looked at.
    blind = errors.local_flow(pde, replace(whole, attention=whole.attention[::-1]), method="heun", substeps=4)
    for ours, theirs in zip(blind.attention, own.attention, strict=True):
        assert torch.equal(ours, theirs)


def test_by_example_names_the_example_that_is_wrong(attention):
    maps = [attention(batch=5, heads=2, tokens=TOKENS, seed=layer) for layer in range(LAYERS)]
    reference = replace(made(5, 1), attention=tuple(maps))
    calibration = made(50, 2)
    flow = replace(reference, states=tuple(u.clone() for u in reference.states))
    flow.states[1][3] += 2
    other = [a.clone() for a in maps]
    other[0][2] = other[0][2].flip(-1)
    found = errors.by_example(replace(flow, attention=tuple(other)), reference, calibration)
    assert found["unmet"].argmax() == 3 and (found["unmet"] == 0).sum() == 4
    assert found["cosine"].argmin() == 2 and np.isclose(np.delete(found["cosine"], 2), 1).all()
    assert errors.by_example(calibration, calibration, calibration)["entropy"] == pytest.approx(1)
    one = cosine(other[0], maps[0])[2].mean()
    assert found["cosine"][2] == pytest.approx(float((one + 1) / 2), abs=1e-6)


def test_layer_correlation_is_exact_and_permutes_all_seeds_alike():
    first = [[1, 2, 3, 4], [1, 3, 2, 4]]
    found = errors.layer_correlation(first, first)
    assert found.seeds == pytest.approx((1, 1)) and found.mean == pytest.approx(1)
    # Of 24 orders one gives 1 in both seeds, and none gives -1 in both but the reversed one.
    assert found.p == pytest.approx(2 / 24)
    assert errors.layer_correlation([[1, 2, 3]], [[5, 5, 5]]).mean == 0
    with pytest.raises(ValueError, match="both must be"):
        errors.layer_correlation([[1, 2]], [[1, 2, 3]])


def test_an_added_column_is_one_and_of_ones():
    values = torch.randn(3, 5, 4)
    assert torch.equal(errors._with_one(values), torch.nn.functional.pad(values, (0, 1), value=1.0))


def test_normal_equations_are_solved_though_states_lie_in_a_subspace():
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    twice = torch.cat([design, design[:, :1]], 1)
    wanted = design @ torch.tensor([[1.0], [2.0], [-1.0]], dtype=torch.float64)
    solved = errors._solve(twice.T @ twice, twice.T @ wanted)
    torch.testing.assert_close(twice @ solved, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(solved[0], solved[3], atol=1e-4, rtol=0)
    # The ridge follows the data's scale.
    small = errors._solve(1e-12 * design.T @ design, 1e-12 * design.T @ wanted)
    torch.testing.assert_close(design @ small, wanted, atol=1e-6, rtol=0)


def test_a_share_is_predicted_from_the_other_parts_alone():
    """By least squares of numpy, part by part."""
    generator = np.random.default_rng(0)
    features, noise = generator.normal(size=(12, 3, 2)), generator.normal(size=(12, 3, 4))
    values = features @ generator.normal(size=(2, 4)) + noise
    fold, left = np.arange(12) % 3, 0.0
    for number in range(3):
        seen, own = fold != number, fold == number
        best = np.linalg.lstsq(features[seen].reshape(-1, 2), values[seen].reshape(-1, 4), rcond=None)[0]
        left += ((values[own] - features[own] @ best) ** 2).sum()
    parts = [torch.from_numpy(fold == number)[:, None].expand(12, 3) for number in range(3)]
    found = errors._predicted(torch.from_numpy(features), torch.from_numpy(values), parts)
    assert found == pytest.approx(1 - left / (values**2).sum(), abs=1e-6) and 0 < found < 1
    assert errors._predicted(torch.from_numpy(features), torch.from_numpy(noise[::-1].copy()), parts) < 0.1
    assert errors._predicted(torch.from_numpy(features), torch.zeros(12, 3, 4).double(), parts) in (0.0, 1.0)


def test_the_split_of_an_error_by_plain_formulas_padding_left_out():
    reference, calibration, flow = made(24, 1, bend=0.3), made(30, 2, bend=0.3), made(24, 1, bend=0.1)
    mask = torch.arange(TOKENS) < torch.tensor([6, 4] * 12)[:, None]
    reference = replace(reference, mask=mask)
    found = errors.linear_split(flow, reference, calibration, folds=4)
    for layer in (1, 2):
        mean = calibration.states[layer].double().mean(0)
        truth = (reference.states[layer].double() - mean)[mask]
        error = (flow.states[layer] - reference.states[layer]).double()[mask]
        spread = truth.square().mean(0)
        assert found.unmet[layer - 1] == pytest.approx(float((error.square() / spread).mean()), rel=1e-6)
        before = (reference.states[layer - 1].double() - calibration.states[layer - 1].double().mean(0))[mask]
        fold = (torch.arange(24) % 4)[:, None].expand(24, TOKENS)[mask]
        for name, values in (("linear", truth), ("error", error)):
            scaled, left = values / spread.sqrt(), 0.0
            design = torch.nn.functional.pad(before, (0, 1), value=1.0)
            for number in range(4):
                own = fold == number
                best = torch.linalg.lstsq(design[~own], scaled[~own]).solution
                left += float((scaled[own] - design[own] @ best).square().sum())
            expected = max(0.0, 1 - left / float(scaled.square().sum()))
            assert getattr(found, name)[layer - 1] == pytest.approx(expected, abs=1e-6), (layer, name)


def test_a_channel_that_never_moves_is_left_out():
    reference, calibration = made(40, 1, bend=0.3), made(40, 2, bend=0.3)

    def still(flow):
        return replace(flow, states=tuple(torch.nn.functional.pad(u, (0, 1), value=2.0) for u in flow.states))

    flow = made(40, 1, bend=0.1)
    plain = errors.linear_split(flow, reference, calibration)
    padded = errors.linear_split(still(flow), still(reference), still(calibration))
    for ours, theirs in zip(plain, padded, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_shares_missed_and_selectivity_by_hand():
    split = errors.LinearSplit(np.array([0.2, 0.3]), np.array([0.5, 1.0]), np.array([0.25, 1.0]))
    affine, rest = split.missed()
    assert affine == pytest.approx([0.2 * 0.25 / 0.5, 0.3]) and rest == pytest.approx([0.2 * 0.75 / 0.5, 0.0])
    assert split.selectivity()[0] == pytest.approx(1 - 0.1 / 0.3)
    none = errors.LinearSplit(np.array([0.2]), np.array([0.0]), np.array([0.0]))
    assert none.missed()[0] == 0 and none.missed()[1] == pytest.approx([0.2])


def test_steps_are_judged_about_their_own_mean_and_states_about_theirs():
    reference, calibration = made(60, 1, bend=0.4), made(80, 2, bend=0.4)
    found = errors.non_affinity(reference, calibration)
    for layer in range(LAYERS):
        before, after = (calibration.states[layer + k].double().flatten(0, 1) for k in (0, 1))
        design = torch.nn.functional.pad(before, (0, 1), value=1.0)
        best = torch.linalg.lstsq(design, after).solution
        own, truth = (reference.states[layer + k].double() for k in (0, 1))
        missed = truth - torch.nn.functional.pad(own, (0, 1), value=1.0) @ best
        for part, values, mean in (
            ("states", truth, calibration.states[layer + 1].double().mean(0)),
            ("steps", truth - own, (calibration.states[layer + 1] - calibration.states[layer]).double().mean(0)),
        ):
            shares = missed.square().sum((0, 1)) / (values - mean).square().sum((0, 1))
            assert getattr(found, part)[layer] == pytest.approx(float(shares.mean()), rel=1e-3), (layer, part)


def test_by_example_in_plain_loops_with_padding_and_causality(attention):
    generator = torch.Generator().manual_seed(5)
    lengths = (6, 4, 1)
    mask = torch.arange(TOKENS) < torch.tensor(lengths)[:, None]
    past = torch.ones(TOKENS, TOKENS).tril()

    def seen(seed):
        maps = attention(batch=3, heads=2, tokens=TOKENS, seed=seed) * past * mask[:, None, None, :]
        return maps / maps.sum(-1, keepdim=True)

    def flow(offset):
        states = [torch.randn(3, TOKENS, WIDTH, generator=generator) for _ in range(3)]
        return Flow(states, [seen(offset), seen(offset + 1)], mask=mask, causal=True)

    ours, theirs, calibration = flow(0), flow(10), made(20, 3)
    found = errors.by_example(ours, theirs, calibration)
    for example, length in enumerate(lengths):
        rows = []
        for layer in range(2):
            for query in range(length):
                most = math.log(max(2, query + 1))
                for head in range(2):
                    weights = theirs.attention[layer][example, head, query, : query + 1].tolist()
                    rows.append(-sum(w * math.log(w) for w in weights if w > 0) / most)
        assert found["entropy"][example] == pytest.approx(sum(rows) / len(rows), abs=1e-5)
        unmet = []
        for depth in (1, 2):
            mean = calibration.states[depth].mean(0)
            usual = sum(
                float((theirs.states[depth][e, t] - mean[t]).square().sum())
                for e in range(3)
                for t in range(lengths[e])
            ) / sum(lengths)
            gap = (ours.states[depth] - theirs.states[depth])[example, :length].square().sum() / length
            unmet.append(float(gap) / usual)
        assert found["unmet"][example] == pytest.approx(sum(unmet) / 2, rel=1e-4)
        pairs = [
            (ours.attention[k][example, h, :length], theirs.attention[k][example, h, :length])
            for k in (0, 1)
            for h in (0, 1)
        ]
        cosines = [float((a * b).sum() / a.norm() / b.norm()) for a, b in pairs]
        assert found["cosine"][example] == pytest.approx(sum(cosines) / 4, abs=1e-5)


def test_layer_correlation_by_all_orders():
    generator = np.random.default_rng(2)
    first, second = generator.normal(size=(3, 4)), generator.normal(size=(3, 4))
    found = errors.layer_correlation(first, second)

    def mean_of(order):
        return np.mean([spearmanr(a[list(order)], b).statistic for a, b in zip(first, second, strict=True)])

    means = [mean_of(order) for order in itertools.permutations(range(4))]
    assert found.mean == pytest.approx(means[0])
    assert found.p == pytest.approx(np.mean(np.abs(means) >= abs(means[0]) - 1e-9))
    with pytest.raises(ValueError, match="both must be"):
        errors.layer_correlation([1, 2], [1, 2])
