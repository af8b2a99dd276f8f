"""Information of noisy layers and leading components, against closed forms."""

import math

import numpy as np
import pytest
import torch

from companion.estimators import layer_information
from pdelens.flow import Flow
from pdelens.information.noise import noisy_information, scale


def test_a_layers_scale_and_what_is_read():
    states = [torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]).repeat(2, 1, 1) for _ in range(2)]
    read = layer_information.read_states(Flow(states))
    assert read[0].tolist() == [[2.0, 2.0]] * 2 and read[0].dtype == torch.float64
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    slow = math.sqrt(sum(float((x[:, c] - x[:, c].mean()).square().mean()) for c in range(4)) / 4)
    assert scale(3 * x + 7) == pytest.approx(3 * slow)


def test_relative_noise_does_not_see_a_layers_scale_and_absolute_noise_does():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    states, levels = [x, 10 * x], (0.01, 1.0, 300.0)
    relative = layer_information.over_noise(states, levels, relative=True)
    assert relative.shape == (2, 3) and relative[0] == pytest.approx(relative[1])
    assert relative[0, 0] == pytest.approx(math.log(40), abs=1e-6) and relative[0, 2] < 0.01
    absolute = layer_information.over_noise(states, levels, relative=False)
    assert absolute[1, 1] > absolute[0, 1] + 0.5
    assert absolute[0, 1] == noisy_information(x, 1.0, draws=2, seed=0).value


def test_leading_components_are_the_eigenvectors_of_the_covariance():
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([5.0, 3, 1, 0.5, 0.1])
    found = layer_information.leading(x + 2, 2)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T))
    wanted = (x.numpy() - x.numpy().mean(0)) @ vectors[:, ::-1][:, :2]
    assert np.abs(np.abs(found.numpy()) - np.abs(wanted)).max() < 1e-9
    assert np.var(found.numpy(), axis=0, ddof=1) == pytest.approx(values[::-1][:2])
