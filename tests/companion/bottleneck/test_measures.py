"""The measures against closed forms and plain loops."""

import math

import numpy as np
import pytest
import torch

from companion.bottleneck import measures
from pdelens.flow import Flow

RANDOM = torch.Generator().manual_seed(0)
STATES = torch.randn(60, 5, generator=RANDOM, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1])
LABELS = torch.arange(60) % 3


def test_pooled_is_the_mean_over_real_tokens():
    state, mask = torch.randn(2, 3, 4, generator=RANDOM), torch.tensor([[True, True, False], [True, True, True]])
    (found,) = measures.pooled(Flow(states=(state,), mask=mask))
    torch.testing.assert_close(found[0], (state[0, 0] + state[0, 1]).double() / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], state[1].double().mean(0), atol=1e-6, rtol=0)


def test_matrix_entropy_is_that_of_the_covariances_spectrum_whatever_the_scale():
    shares = np.linalg.eigvalsh(np.cov(STATES.T.numpy()))
    shares = shares / shares.sum()
    assert measures.matrix_entropy(STATES) == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-9)
    assert measures.matrix_entropy(7 * STATES + 3) == pytest.approx(measures.matrix_entropy(STATES), abs=1e-9)
    with pytest.raises(ValueError, match="all inputs are the same"):
        measures.matrix_entropy(torch.ones(4, 2))


def test_scatter_share_is_that_of_an_analysis_of_variance():
    within = total = 0.0
    for row, label in zip(STATES, LABELS, strict=True):
        own = torch.stack([other for other, kind in zip(STATES, LABELS, strict=True) if kind == label]).mean(0)
        within += float((row - own).square().sum())
        total += float((row - STATES.mean(0)).square().sum())
    assert measures.scatter_share(STATES, LABELS) == pytest.approx(within / total, abs=1e-12)
    with pytest.raises(ValueError, match="no scatter"):
        measures.scatter_share(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]))


def test_compression_is_of_the_first_inputs_and_of_all():
    found, error = measures.compressed(STATES, LABELS, 30)
    half, own = measures.half_noise(STATES[:30])
    assert found == (
        math.log(half),
        measures.matrix_entropy(STATES),
        math.log(measures.scatter_share(STATES, LABELS)) / 2,
    )
    assert error == own and 0 < error < 0.2
    values, most = measures.curve(STATES[:30], [half])
    assert values[0] == pytest.approx(math.log(30) / 2, abs=5 * most)


def test_what_is_left_within_classes_knows_nothing_of_where_they_are():
    moved = STATES + 100.0 * LABELS[:, None]
    torch.testing.assert_close(measures.residuals(moved, LABELS), measures.residuals(STATES, LABELS))
    for label in range(3):
        own = measures.residuals(STATES, LABELS)[LABELS == label]
        torch.testing.assert_close(own.mean(0), torch.zeros(5, dtype=torch.float64))
    assert measures.within(moved, LABELS) == pytest.approx(measures.within(STATES, LABELS), abs=1e-6)
    assert measures.within(STATES, LABELS) == math.log(measures.half_noise(measures.residuals(STATES, LABELS))[0])


def test_the_literatures_numbers_are_cells_and_kernels_in_the_states_units():
    found = measures.literature(STATES)
    width = float(STATES.max() - STATES.min()) / 30
    cells = [tuple(math.floor(value / width) for value in row) for row in STATES.tolist()]
    counts = np.array([cells.count(cell) for cell in set(cells)]) / 60
    assert found["binned"] == pytest.approx(-(counts * np.log(counts)).sum(), abs=1e-9)
    overlaps = [[math.exp(-float((x - y).square().sum()) / 0.2) for y in STATES] for x in STATES]
    assert found["kernels"] == pytest.approx(-np.log(np.mean(overlaps, 1)).mean(), abs=1e-9)
    assert measures.literature(100 * STATES)["kernels"] == pytest.approx(math.log(60)), "it depends on the units"


def test_neighbours_know_no_scale_and_no_constant_column():
    noisy = STATES + 0.1 * torch.randn(60, 5, generator=RANDOM, dtype=torch.float64)
    found = measures.neighbours(STATES, noisy)
    scaled = torch.cat([noisy * torch.tensor([1.0, 9.0, 1.0, 5.0, 2.0]), torch.ones(60, 1)], 1)
    assert found > 0.3 and measures.neighbours(STATES, scaled) == pytest.approx(found, abs=1e-9)


def test_usable_information_keeps_groups_on_one_side():
    generator = torch.Generator().manual_seed(3)
    groups = torch.arange(200).repeat_interleave(2)
    labels = torch.randint(0, 2, (200,), generator=generator).repeat_interleave(2)
    names = torch.randn(200, 150, generator=generator).repeat_interleave(2, 0)  # they tell the group, not the label
    together, apart = (measures.usable(names, labels, number, "linear") for number in (groups, torch.arange(400)))
    assert together < 0.05 < apart


def test_label_entropy_and_numbers_of_inputs():
    assert measures.label_entropy(torch.tensor([0, 1, 2, 3])) == pytest.approx(math.log(4))
    assert measures.label_entropy(torch.zeros(3, dtype=torch.long)) == 0
    found = measures.by_inputs([STATES, 2 * STATES], (20, 40))
    assert found["20"] == pytest.approx([measures.half_noise(STATES[:20])[0]] * 2, rel=1e-6)
    assert found["40"] == pytest.approx([measures.half_noise(STATES[:40])[0]] * 2, rel=1e-6)
