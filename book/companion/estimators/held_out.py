"""Tasks that `auto` was not built with, and a score that judges an interval's width and its cover in one number.

The families were fixed before any estimator was run on them: mixtures, hidden labels, images of Gaussians under random
networks. None has an elliptical copula.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.information.estimate import Estimate, mutual_information
from pdelens.information.methods import estimator
from pdelens.information.tasks import Map, Task, gaussian_channel, sparse

from .results import coverage

# Draws behind the information of a mixture: its standard error stays below 0.003 nats.
DRAWS = 200_000
# Tasks outside the catalogue whose copula is normal all the same: no test of what `auto` does without one.
_NORMAL = ("multinormal", "gaussian-channel")


def mixture(name: str, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, dim_x: int) -> Task:
    """Return a mixture of Gaussians of x and y together, split after `dim_x` columns.

    `weights` (components,), `means` (components, columns), `covariances` (components, columns, columns). Both
    densities are known; the information is the mean of ln p(x, y) - ln p(x) - ln p(y) over `DRAWS` draws.
    """
    roots = torch.from_numpy(np.linalg.cholesky(covariances))
    centres, shares = torch.from_numpy(means), torch.from_numpy(weights)

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        which = torch.multinomial(shares, samples, replacement=True, generator=generator)
        noise = torch.randn(samples, means.shape[1], generator=generator, dtype=torch.float64)
        both = torch.empty_like(noise)
        for number in range(len(weights)):
            chosen = which == number
            both[chosen] = centres[number] + noise[chosen] @ roots[number].T
        return both[:, :dim_x].contiguous(), both[:, dim_x:].contiguous()

    x, y = sampler(DRAWS, torch.Generator().manual_seed(0))
    parts = ((torch.cat([x, y], 1), slice(None)), (x, slice(dim_x)), (y, slice(dim_x, None)))
    both, first, second = (_log_density(rows, weights, means[:, s], covariances[:, s, s]) for rows, s in parts)
    value = float((both - first - second).mean())
    return Task(name, dim_x, means.shape[1] - dim_x, value, f"mean over {DRAWS:,} draws of known densities", sampler)


def _log_density(rows: Tensor, weights: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> Tensor:
    found = []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        normal = torch.distributions.MultivariateNormal(torch.from_numpy(mean), torch.from_numpy(covariance))
        found.append(normal.log_prob(rows) + np.log(weight))
    return torch.logsumexp(torch.stack(found), 0)


def gaussians(components: int, dims: int, seed: int) -> Task:
    """Return a mixture of equally likely Gaussians in `dims` + `dims` columns, means and covariances drawn."""
    random = np.random.default_rng(seed)
    factors = random.standard_normal((components, 2 * dims, 2 * dims)) / np.sqrt(2 * dims)
    covariances = factors @ factors.transpose(0, 2, 1) + 0.2 * np.eye(2 * dims)
    means = 1.5 * random.standard_normal((components, 2 * dims))
    return mixture(
        f"{components} Gaussians, {dims} + {dims}", np.full(components, 1 / components), means, covariances, dims
    )


def hidden_label(classes: int, dims: int, seed: int) -> Task:
    """Return x and y that are independent but for a class that neither shows: unit noise about the class's means."""
    random = np.random.default_rng(seed)
    means = 1.5 * random.standard_normal((classes, 2 * dims))
    covariances = np.broadcast_to(np.eye(2 * dims), (classes, 2 * dims, 2 * dims)).copy()
    return mixture(
        f"hidden label of {classes}, {dims} + {dims}", np.full(classes, 1 / classes), means, covariances, dims
    )


def network(before: int, after: int, seed: int, layers: int = 2) -> Map:
    """Return a random injective network from `before` columns to `after`, at least as many.

    Each layer: a matrix with orthonormal columns, a normal bias, a leaky ReLU of slope 0.2; at the end a rotation.
    """
    random = np.random.default_rng(seed)
    widths = [before] + [after] * (layers + 1)
    draws = (random.standard_normal((wide, wide)) for wide in widths[1:])
    matrices = [
        torch.from_numpy(np.linalg.qr(draw)[0][:, :narrow]) for draw, narrow in zip(draws, widths, strict=False)
    ]
    biases = [torch.from_numpy(random.standard_normal(after)) for _ in range(layers)]

    def image(z: Tensor) -> Tensor:
        for matrix, bias in zip(matrices, biases, strict=False):
            z = torch.nn.functional.leaky_relu(z @ matrix.T + bias, 0.2)
        return z @ matrices[-1].T

    return image


def seen_through(base: Task, dims: int, seed: int) -> Task:
    """Return a task with x and y each sent through a random network of its own to `dims` columns."""
    maps = (network(base.dim_x, dims, seed), network(base.dim_y, dims, seed + 1))
    image = base.through("network", *maps, columns_x=dims)
    return replace(image, dim_y=dims, name=f"networks, {base.dim_x} + {base.dim_y} → {dims} + {dims}")


def held_out() -> tuple[Task, ...]:
    """Return the seven tasks, from 0.7 to 2 nats and from 3 + 3 to 10 + 10 columns."""
    return (
        gaussians(2, 3, seed=1),
        gaussians(3, 5, seed=2),
        hidden_label(4, 3, seed=3),
        hidden_label(8, 10, seed=4),
        seen_through(sparse(3, 3), 3, seed=5),
        seen_through(gaussian_channel(8, 2.0), 8, seed=6),
        seen_through(sparse(2, 2), 6, seed=7),
    )


def tried(task: Task, method: str, samples: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield a method's results on samples of a task, in the form of the committed trials (`results.load`)."""
    for seed in range(seeds):
        found = mutual_information(*task.sample(samples, 1000 + seed), method, shuffles=1, seed=seed)
        row = {"task": task.name, "seed": seed, "value": found.value, "interval": found.interval}
        yield row | {"warned": len(found.warnings), "choice": found.method, "seconds": found.seconds}


def sweep(task: Task, neighbours: Sequence[int], samples: int, seeds: int) -> np.ndarray:
    """Return KSG's estimate over the truth for each number of neighbours, mean over samples, (neighbours,)."""
    drawn = [task.sample(samples, 1000 + seed) for seed in range(seeds)]
    values = [[estimator("ksg", neighbours=k)(x, y) for x, y in drawn] for k in neighbours]
    return np.mean(values, axis=1) / task.mutual_information


def interval_score(low, high, truth, level: float = 0.95):
    """Return `(high - low) + 2 / (1 - level) (distance of the truth from the interval)`: less is better.

    Its mean is least for the interval between the true quantiles, so neither a wide nor a bold interval wins. Source:
    Gneiting and Raftery 2007, Strictly Proper Scoring Rules, section 6.2.

    >>> round(float(interval_score(1.0, 2.0, 1.5)), 6), round(float(interval_score(1.0, 2.0, 2.25)), 6)
    (1.0, 11.0)
    """
    low, high, truth = (np.asarray(value, dtype=float) for value in (low, high, truth))
    outside = np.maximum(low - truth, 0) + np.maximum(truth - high, 0)
    return (high - low) + 2 / (1 - level) * outside


class Judged(NamedTuple):
    """What intervals are worth on some tasks: shares and medians as in `results.Covered`, and what they hide.

    `worst` is the lowest coverage of a task, `score` the mean interval score over the truth.
    """

    tasks: int
    results: int
    coverage: float
    worst: float
    width: float
    error: float
    score: float
    far: int
    warned: float


def judged(rows: Sequence[dict[str, Any]], truths: dict[str, dict[str, Any]]) -> Judged:
    """Return what the intervals of these results are worth (at least one result), of tasks with known truths."""
    found = coverage(rows, truths)
    truth = np.array([truths[row["task"]]["truth"] for row in rows])
    low, high = np.array([row["interval"] for row in rows]).T
    inside, names = (low <= truth) & (truth <= high), np.array([row["task"] for row in rows])
    tasks = np.unique(names)
    worst = min(float(inside[names == name].mean()) for name in tasks)
    score = float((interval_score(low, high, truth) / truth).mean())
    return Judged(
        len(tasks), len(rows), found.coverage, worst, found.width, found.error, score, found.far, found.warned
    )


def outside(trials: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the committed results of `auto` outside its catalogue, without the tasks that are Gaussian after all."""
    return [row for row in trials["results"]["unseen"] if not row["task"].startswith(_NORMAL)]


def trusted(found: Estimate) -> tuple[float, float] | None:
    """Return an estimate's interval, or None where nothing in the data vouches for it.

    That is: the value passes ln N, which no estimator can certify for all distributions, or the copula that it rests
    on was contradicted on held-out samples.
    """
    contradicted = any("they disagree" in warning for warning in found.warnings)
    return None if contradicted or found.value > np.log(found.samples) else found.interval


def line(found: Estimate) -> str:
    """Return an estimate as one line with its warnings, and without an interval where there is none to trust."""
    first, *rest = str(found).split("\n")
    if trusted(found) is not None:
        return str(found)
    head, tail = first.split(", 95 % in ")
    return "\n".join([f"{head}, no interval (ln N = {np.log(found.samples):.2f}); {tail.partition('; ')[2]}", *rest])
