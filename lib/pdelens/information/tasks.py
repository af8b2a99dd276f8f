"""Tasks whose mutual information is known exactly, to measure what an estimator can be believed for.

Families and most names follow bmi (Czyz, Grabowski, Vogt, Beerenwinkel and Marx 2023, "Beyond Normal", NeurIPS)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .gaussian import gaussian_information, student_excess

Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A distribution of pairs with its exact mutual information in nats; `source` says where that value comes from."""

    name: str
    dim_x: int
    dim_y: int
    mutual_information: float
    source: str
    sampler: Sampler

    def sample(self, samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return x (samples, dim_x) and y (samples, dim_y), independent rows in float64.

        >>> x, y = task("multinormal-sparse-5-5-2-2.0").sample(100, seed=1)
        >>> tuple(x.shape), tuple(y.shape)
        ((100, 5), (100, 5))
        """
        if samples < 1:
            raise ValueError(f"{samples} samples were asked for: at least one is wanted.")
        return self.sampler(samples, torch.Generator().manual_seed(seed))

    def through(self, prefix: str, map_x: Map, map_y: Map | None = None, columns_x: int | None = None) -> "Task":
        """Return this task seen through injective maps of x and of y, which keep the mutual information."""

        def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x, y = self.sampler(samples, generator)
            return map_x(x), y if map_y is None else map_y(y)

        name, source = f"{prefix}-{self.name}", f"{self.source}; kept by injective maps"
        return replace(self, name=name, dim_x=columns_x or self.dim_x, source=source, sampler=sampler)


def multinormal(name: str, covariance: np.ndarray, dim_x: int) -> Task:
    """Return the task of a centred normal vector split after `dim_x` coordinates."""
    root = torch.from_numpy(np.linalg.cholesky(covariance))

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        both = torch.randn(samples, len(root), generator=generator, dtype=torch.float64) @ root.T
        return both[:, :dim_x].contiguous(), both[:, dim_x:].contiguous()

    value = gaussian_information(covariance, dim_x)
    return Task(name, dim_x, len(root) - dim_x, value, "closed form, log-determinants", sampler)


def bivariate(correlation: float) -> Task:
    """Return two standard normals with one correlation."""
    return multinormal(f"1v1-normal-{correlation}", np.array([[1, correlation], [correlation, 1]]), 1)


def dense(dim_x: int, dim_y: int, correlation: float = 0.5) -> Task:
    """Return standard normals in which every two coordinates, in x, in y and across, have one correlation."""
    covariance = np.full((dim_x + dim_y,) * 2, correlation) + (1 - correlation) * np.eye(dim_x + dim_y)
    return multinormal(f"multinormal-dense-{dim_x}-{dim_y}-{correlation}", covariance, dim_x)


def sparse(dim_x: int, dim_y: int, pairs: int = 2, strength: float = 2.0) -> Task:
    """Return normals that interact in `pairs` pairs (x_i, y_i) only, at correlation `strength^2 / (1 + strength^2)`."""
    covariance = np.eye(dim_x + dim_y)
    for pair in range(pairs):
        covariance[pair, dim_x + pair] = covariance[dim_x + pair, pair] = strength**2 / (1 + strength**2)
    return multinormal(f"multinormal-sparse-{dim_x}-{dim_y}-{pairs}-{strength}", covariance, dim_x)


def student(dim_x: int, dim_y: int, freedom: int) -> Task:
    """Return a standard multivariate Student t: no correlation anywhere, yet a shared scale."""

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        normal = torch.randn(samples, dim_x + dim_y, generator=generator, dtype=torch.float64)
        chi_square = torch.randn(samples, freedom, generator=generator, dtype=torch.float64).square().sum(1)
        both = normal * (freedom / chi_square).sqrt()[:, None]
        return both[:, :dim_x].contiguous(), both[:, dim_x:].contiguous()

    name, source = f"student-identity-{dim_x}-{dim_y}-{freedom}", "closed form, Arellano-Valle et al. 2013"
    return Task(name, dim_x, dim_y, student_excess(dim_x, dim_y, freedom), source, sampler)


def additive_uniform(noise: float) -> Task:
    """Return x uniform on 0 ... 1 and y = x + uniform noise on -`noise` ... `noise`."""

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, unit = torch.rand(2, samples, 1, generator=generator, dtype=torch.float64)
        return x, x + noise * (2 * unit - 1)

    value = 1 / (4 * noise) if noise > 0.5 else noise - math.log(2 * noise)
    return Task(f"1v1-additive-{noise}", 1, 1, value, "closed form, entropy of a trapezoid", sampler)


def gaussian_channel(dims: int, information: float) -> Task:
    """Return y = A x + noise in `dims` dimensions, A a fixed rotation, all directions sharing `information` nats."""
    rotation = np.linalg.qr(np.random.default_rng(dims).standard_normal((dims, dims)))[0]
    signal = np.expm1(2 * information / dims)  # signal-to-noise ratio of a direction
    covariance = np.block([[np.eye(dims), rotation.T], [rotation, (1 + 1 / signal) * np.eye(dims)]])
    return multinormal(f"gaussian-channel-{dims}-{information}", covariance, dims)


def two_modes(distance: float, noise: float) -> Task:
    """Return x about -`distance` or `distance` (unit spread) and y = x + normal noise: the entropy of y, integrated."""

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        side, spread, added = torch.randn(3, samples, 1, generator=generator, dtype=torch.float64)
        x = distance * side.sign() + spread
        return x, x + noise * added

    width = math.sqrt(1 + noise**2)
    grid, step = np.linspace(-distance - 12 * width, distance + 12 * width, 4001, retstep=True)
    logs = np.logaddexp(*(-((grid + mode) ** 2) / (2 * width**2) for mode in (-distance, distance)))
    logs -= math.log(2 * width) + math.log(2 * math.pi) / 2
    # The trapezoidal rule converges exponentially for smooth functions that vanish at both ends.
    entropy = -float((np.exp(logs) * logs).sum() * step)
    value = entropy - math.log(noise) - math.log(2 * math.pi * math.e) / 2
    return Task(f"1v1-two_modes-{distance}-{noise}", 1, 1, value, "numerical integral of one entropy", sampler)


def crossing(correlation: float) -> Task:
    """Return an X: half the pairs normal with `correlation`, half with its negative; no linear dependence is left."""

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, other, side = torch.randn(3, samples, 1, generator=generator, dtype=torch.float64)
        return x, side.sign() * correlation * x + math.sqrt(1 - correlation**2) * other

    long, short = 1 + correlation, 1 - correlation
    u, step = np.linspace(-13, 13, 1041, retstep=True)
    u, v = u[:, None] ** 2, u[None] ** 2  # along the two diagonals
    logs = np.logaddexp(-u / (2 * long) - v / (2 * short), -u / (2 * short) - v / (2 * long))
    logs -= math.log(4 * math.pi * math.sqrt(long * short))
    value = math.log(2 * math.pi * math.e) + float((np.exp(logs) * logs).sum() * step**2)
    return Task(f"1v1-X-{correlation}", 1, 1, value, "numerical integral of the joint entropy", sampler)


def half_cube(x: Tensor) -> Tensor:
    """Return sign(x) |x|^(3/2)."""
    return x * x.abs().sqrt()


def wiggly(x: Tensor) -> Tensor:
    """Return x + 0.4 sin x + 0.2 sin(1.7 x + 1) + 0.03 sin(3.3 x - 2.5), which rises everywhere."""
    return x + 0.4 * x.sin() + 0.2 * (1.7 * x + 1).sin() + 0.03 * (3.3 * x - 2.5).sin()


def swiss_roll(x: Tensor) -> Tensor:
    """Return the spiral curve t (cos t, sin t) / 21, t = 3 pi / 2 (1 + 2 x), of numbers x (samples, 1) in 0 ... 1."""
    t = 1.5 * math.pi * (1 + 2 * x)
    return torch.cat([t * t.cos(), t * t.sin()], 1) / 21


def spiral(first: int, second: int, speed: float) -> Map:
    """Return the map that turns two coordinates by `speed` times the squared length of the whole vector."""

    def turn(x: Tensor) -> Tensor:
        angle = speed * x.square().sum(1)
        a, b = x[:, first], x[:, second]
        turned = x.clone()
        turned[:, first] = angle.cos() * a - angle.sin() * b
        turned[:, second] = angle.sin() * a + angle.cos() * b
        return turned

    return turn


def mixture_quantile(weight: float, first: float, second: float) -> Map:
    """Return the map of a standard normal onto `weight` N(first, 1) + (1 - weight) N(second, 1), by bisection."""

    def quantile(x: Tensor) -> Tensor:
        wanted = torch.special.ndtr(x)
        low, high = x + min(first, second), x + max(first, second)
        for _ in range(60):
            middle = (low + high) / 2
            found = weight * torch.special.ndtr(middle - first) + (1 - weight) * torch.special.ndtr(middle - second)
            low, high = torch.where(found < wanted, middle, low), torch.where(found < wanted, high, middle)
        return (low + high) / 2

    return quantile


def spiralled(base: Task) -> Task:
    """Return a task (3 dimensions a side or more) with x turned in its first two coordinates and y in the next two."""
    return base.through("spiral", spiral(0, 1, 1 / base.dim_x), spiral(1, 2, 1 / base.dim_y))


@cache
def tasks() -> tuple[Task, ...]:
    """Return the catalogue: one- to 64-dimensional tasks of all families, from 0.2 to 4 nats.

    >>> len(tasks()) >= 16, max(task.dim_x for task in tasks())
    (True, 64)
    """
    normal, pair, cauchy, cdf = bivariate(0.75), sparse(5, 5), student(1, 1, 1), torch.special.ndtr
    uniform = normal.through("normal_cdf", cdf, cdf)
    modes = normal.through("bimodal", mixture_quantile(0.3, 0, 5), mixture_quantile(0.5, -1, 3))
    return (
        normal,
        uniform,
        modes,
        normal.through("wiggly", wiggly, wiggly),
        normal.through("half_cube", half_cube, half_cube),
        additive_uniform(0.1),
        additive_uniform(0.75),
        two_modes(2.0, 0.5),
        crossing(0.9),
        cauchy,
        cauchy.through("asinh", torch.asinh, torch.asinh),
        uniform.through("swissroll_x", swiss_roll, columns_x=2),
        *(dense(dims, dims) for dims in (2, 3, 5, 25)),
        *(sparse(dims, dims) for dims in (2, 3, 5, 25)),
        *(student(dims, dims, freedom) for dims, freedom in ((2, 1), (3, 2), (5, 2), (5, 3))),
        student(5, 5, 2).through("asinh", torch.asinh, torch.asinh),
        pair.through("normal_cdf", cdf, cdf),
        pair.through("half_cube", half_cube, half_cube),
        spiralled(sparse(3, 3)),
        spiralled(pair),
        gaussian_channel(8, 2.0),
        gaussian_channel(64, 4.0),
    )


def task(name: str) -> Task:
    """Return the task of the catalogue with this name.

    >>> task("student-identity-5-5-2").dim_y
    5
    """
    known = {task.name: task for task in tasks()}
    if name not in known:
        raise ValueError(f"The task {name!r} was asked for: the catalogue has {', '.join(known)}.")
    return known[name]


def unseen() -> tuple[Task, ...]:
    """Return tasks that the catalogue does not have: products, whose copulas no family of `auto` holds, and others."""
    return (
        several(crossing(0.9), 2),
        several(crossing(0.9), 5),
        several(additive_uniform(0.1), 3),
        several(student(2, 2, 1), 2),
        two_modes(3.0, 1.0),
        spiralled(dense(3, 3)),
        sparse(10, 10),
        dense(2, 8),
        gaussian_channel(1, 0.05),
    )


def several(base: Task, copies: int) -> Task:
    """Return independent copies of a task side by side: the information is the sum.

    >>> several(crossing(0.9), 3).mutual_information == 3 * crossing(0.9).mutual_information
    True
    """

    def sampler(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = zip(*(base.sampler(samples, generator) for _ in range(copies)), strict=True)
        return torch.cat(x, 1), torch.cat(y, 1)

    name, source = f"{copies}x{base.name}", f"{base.source}; independent copies add"
    value = copies * base.mutual_information
    return Task(name, copies * base.dim_x, copies * base.dim_y, value, source, sampler)
