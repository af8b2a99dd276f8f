"""Information of pairs of places: closed forms of Gaussian chains, and a plain loop."""

import math

import numpy as np
import pytest
import torch

from companion.information_flow import chain, pairs


def test_a_double_tells_as_much_as_its_likeness_says_and_a_stranger_nothing():
    now, after, _ = chain.three_tokens(6000, 2, 0.8, seed=3)
    found = pairs.pair_information(now, after, 2, 2)
    truth = -math.log(1 - 0.8**2)  # two channels, half of it each
    assert found[:, 0, 1].tolist() == pytest.approx([truth] * 2, rel=0.06)
    assert found[:, 0, 0].tolist() == [0, 0] and found[:, 1:].abs().max() < 0.01
    # The double gives the next state away, up to the noise: two channels of var 1 + NOISE * mean square change.
    noise = pairs.NOISE * float((after - now).square().mean())
    assert found[:, 0, 2].mean() == pytest.approx(math.log(1 + 1 / noise), rel=0.05)


def test_a_plain_loop_finds_the_same():
    generator = torch.Generator().manual_seed(0)
    now = torch.randn(300, 3, 4, generator=generator).double()
    after = now + 0.3 * now.roll(1, 1) @ torch.randn(4, 4, generator=generator).double()
    after += 0.2 * torch.randn(300, 3, 4, generator=generator)
    found = pairs.pair_information(now, after, 3, 2)
    noise = pairs.NOISE * float((after - now).square().mean())
    x, y = now.numpy(), after.numpy()
    for half, (fit, read) in enumerate(((slice(0, 150), slice(150, 300)), (slice(150, 300), slice(0, 150)))):
        centred = x - x[fit].mean(0)
        basis = np.linalg.svd(centred[fit].reshape(-1, 4))[2][:2].T
        for i, j in ((0, 1), (0, 2), (2, 1)):
            s = x[:, i] - x[fit][:, i].mean(0)
            s = np.concatenate([np.ones((300, 1)), s / np.sqrt((s[fit] ** 2).mean(0))], 1)
            penalty = np.diag([0, 0.15, 0.15, 0.15, 0.15])
            rest = []
            for value in (y[:, i], centred[:, j] @ basis):
                rest.append(value - s @ np.linalg.solve(s[fit].T @ s[fit] + penalty, s[fit].T @ value[fit]))
            of, t = rest
            of = of @ np.linalg.svd(of[fit])[2][:3].T
            gram = t[fit].T @ t[fit] / 150
            weights = np.linalg.solve(gram + pairs.RIDGE * np.trace(gram) / 2 * np.eye(2), t[fit].T @ of[fit] / 150)
            losses = []
            for left in (of, of - t @ weights):
                cov = left[fit].T @ left[fit] / 150 + noise * np.eye(3)
                inverse = np.linalg.inv(cov)
                square = np.mean([row @ inverse @ row for row in left[read]]) + noise * np.trace(inverse)
                losses.append(0.5 * np.linalg.slogdet(cov)[1] + 0.5 * square)
            assert float(found[half, i, j]) == pytest.approx(losses[0] - losses[1], abs=1e-8)


def test_places_that_never_change_tell_nothing_and_are_told_nothing():
    now = torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(1))
    now[:, 1] = 2.0
    after = now.clone()
    after[:, 0] += torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    found = pairs.pair_information(now, after, 2, 2)
    assert torch.isfinite(found).all()
    assert found[:, 1].abs().max() < 1e-6 and found[:, :, 1].abs().max() < 1e-6
