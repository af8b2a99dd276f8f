from dataclasses import replace

import numpy as np
import pytest
import torch

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
