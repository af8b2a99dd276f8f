"""Held-out tasks against closed forms and integrals, and a score that neither wide nor bold intervals can win."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from companion.estimators import held_out
from pdelens.information.estimate import mutual_information
from pdelens.information.gaussian import gaussian_information
from pdelens.information.tasks import bivariate, sparse

RANDOM = np.random.default_rng(0)


def test_a_mixture_of_one_is_the_closed_form():
    factor = RANDOM.standard_normal((1, 5, 5))
    covariance = factor @ factor.transpose(0, 2, 1) + np.eye(5)
    task = held_out.mixture("one", np.ones(1), RANDOM.standard_normal((1, 5)), covariance, 2)
    assert task.mutual_information == pytest.approx(gaussian_information(covariance[0], 2), abs=0.01)
    x, y = task.sample(20_000, seed=1)
    assert (task.dim_x, task.dim_y) == (x.shape[1], y.shape[1]) == (2, 3)
    drawn = np.cov(torch.cat([x, y], 1).numpy().T)
    assert np.abs(drawn - covariance[0]).max() < 0.1 * np.abs(covariance).max()


def test_a_mixture_of_two_is_the_integral():
    weights, means = np.array([0.3, 0.7]), np.array([[-1.0, 1.0], [0.5, 0.5]])
    covariances = np.array([[[1.0, 0.8], [0.8, 1.0]], [[0.5, -0.3], [-0.3, 1.0]]])
    grid, step = np.linspace(-8, 8, 801, retstep=True)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    joint = np.zeros_like(x)
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        offset = np.stack([x - mean[0], y - mean[1]])
        form = np.einsum("i...,ij,j...->...", offset, np.linalg.inv(covariance), offset)
        joint += weight * np.exp(-form / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    first, second = joint.sum(1, keepdims=True) * step, joint.sum(0, keepdims=True) * step
    wanted = float((joint * np.log(joint / first / second)).sum() * step**2)
    task = held_out.mixture("two", weights, means, covariances, 1)
    assert task.mutual_information == pytest.approx(wanted, abs=0.01)


def test_classes_far_apart_tell_their_entropy():
    weights, means = np.array([0.5, 0.25, 0.25]), 40.0 * np.eye(3)[:, [0, 1, 2, 0]]
    task = held_out.mixture("far", weights, means, np.tile(np.eye(4), (3, 1, 1)), 2)
    assert task.mutual_information == pytest.approx(-(weights * np.log(weights)).sum(), abs=0.01)
    near = held_out.hidden_label(4, 3, seed=3)
    assert 0 < near.mutual_information < math.log(4)


def test_a_random_network_loses_nothing():
    image = held_out.network(3, 5, seed=2)
    z = torch.from_numpy(RANDOM.standard_normal((200, 3)))
    found = image(z)
    assert found.shape == (200, 5) and torch.equal(found, held_out.network(3, 5, seed=2)(z))
    for row in z[:20]:
        jacobian = torch.autograd.functional.jacobian(lambda u: image(u[None])[0], row)
        assert float(torch.linalg.svdvals(jacobian).min()) > 0.03  # 0.2 in each of two layers, at least
    # Its matrices have orthonormal columns: distances shrink by the slopes at most.
    before, after = (torch.pdist(rows) for rows in (z, found))
    ratio = after / before
    assert float(ratio.max()) <= 1 + 1e-9 and float(ratio.min()) >= 0.04 - 1e-9
    assert float((image(z) + image(-z) - 2 * image(0 * z)).abs().max()) > 0.1, "it is not linear"


def test_seen_through_networks_the_truth_is_the_base_tasks():
    task = held_out.seen_through(sparse(2, 2), 6, seed=7)
    x, y = task.sample(50, seed=3)
    first, second = sparse(2, 2).sample(50, seed=3)
    assert torch.equal(x, held_out.network(2, 6, 7)(first)) and torch.equal(y, held_out.network(2, 6, 8)(second))
    assert (task.dim_x, task.dim_y, task.mutual_information) == (6, 6, sparse(2, 2).mutual_information)


def test_the_tasks_are_those_that_were_written_down():
    tasks = held_out.held_out()
    assert len({task.name for task in tasks}) == 7
    truths = [round(task.mutual_information, 2) for task in tasks]
    assert truths == [0.72, 2.0, 0.72, 1.93, 1.02, 2.0, 1.02]


def test_the_score_is_least_for_the_true_quantiles():
    truth = RANDOM.standard_normal(200_000)
    mean = {half: held_out.interval_score(-half, half, truth).mean() for half in (1.5, 1.8, 1.96, 2.15, 2.6)}
    assert min(mean, key=mean.__getitem__) == 1.96
    assert mean[1.96] == pytest.approx(2 * math.exp(-(1.96**2) / 2) / math.sqrt(2 * math.pi) / 0.025, rel=0.01)
    assert held_out.interval_score(0.0, 1.0, [0.5, 1.1, -0.1]) == pytest.approx([1, 5, 5])


def test_what_intervals_are_worth():
    truths = {"a": {"truth": 2.0}, "b": {"truth": 1.0}}
    rows = [
        {"task": "a", "value": 2.0, "interval": (1.0, 3.0), "warned": 0},
        {"task": "a", "value": 2.2, "interval": (1.9, 2.5), "warned": 1},
        {"task": "b", "value": 1.5, "interval": (1.4, 1.6), "warned": 0},
        {"task": "b", "value": 1.1, "interval": (0.9, 1.3), "warned": 0},
    ]
    found = held_out.judged(rows, truths)
    assert (found.tasks, found.results, found.coverage, found.worst) == (2, 4, 0.75, 0.5)
    assert found.score == pytest.approx((1 + 0.3 + (0.2 + 40 * 0.4) + 0.4) / 4)
    assert (found.far, found.warned) == (1, 0.0)


def test_results_have_the_form_of_the_committed_ones():
    (row,) = held_out.tried(bivariate(0.75), "ksg", 200, 1)
    found = mutual_information(*bivariate(0.75).sample(200, 1000), "ksg", shuffles=1, seed=0)
    assert (row["value"], row["interval"], row["task"]) == (found.value, found.interval, "1v1-normal-0.75")
    shares = held_out.sweep(bivariate(0.75), (3, 50), 400, 2)
    assert shares.shape == (2,) and shares[0] > shares[1]


def test_gaussian_tasks_are_no_test_outside_the_catalogue():
    names = [
        "2x1v1-X-0.9",
        "multinormal-sparse-10-10-2-2.0",
        "spiral-multinormal-dense-3-3-0.5",
        "gaussian-channel-1-0.05",
    ]
    trials = {"results": {"unseen": [{"task": name} for name in names]}}
    assert [row["task"] for row in held_out.outside(trials)] == [names[0], names[2]]


def test_no_interval_where_nothing_vouches_for_it():
    found = mutual_information(*bivariate(0.75).sample(300, 1), "gaussian", shuffles=3)
    assert held_out.trusted(found) == found.interval and held_out.line(found) == str(found)
    large = replace(found, value=6.0)
    assert held_out.trusted(large) is None, "ln 300 is 5.7"
    assert "95 %" not in held_out.line(large) and "no interval (ln N = 5.70); p = " in held_out.line(large)
    doubted = replace(found, warnings=("Two pairs were checked, and they disagree with it.",))
    assert held_out.trusted(doubted) is None and held_out.line(doubted).endswith("disagree with it.")


def test_a_copula_that_the_data_contradict_gets_no_interval():
    found = mutual_information(*held_out.hidden_label(8, 16, seed=0).sample(200, 1), shuffles=1)
    assert "copula" in found.method and found.value < np.log(200)
    assert held_out.trusted(found) is None and "no interval" in held_out.line(found)
