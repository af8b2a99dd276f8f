"""What each head of a model does, on real data: one row of numbers a head, with its interval over examples."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import _doors
from ..flow import Flow
from ..intervals import bootstrap_interval
from ..lattice import Lattice
from .moments import attention_moments, displacement_kernel, lattice_attention

CLASSES = ("sink", "long-range", "advective", "diffusive")


@dataclass(frozen=True)
class Thresholds:
    """What a head is called: the first line that holds decides.

    `sink`: more than `sink` of its mass lands on special tokens. `long-range`: of what lands on the lattice, less
    than `near` lies within `radius` of the query. `advective`: it moves more than `ratio` times as far as it spreads,
    a length against a length: `|v| > ratio sqrt(2 tr D)`. `diffusive`: all others.

    Behind a causal mask even a head that looks at all of its past alike moves further than it spreads: there `ratio`
    is to be that head's.
    """

    sink: float = 0.5
    near: float = 0.5
    radius: float = 2.0
    ratio: float = 1.0


@dataclass(frozen=True, eq=False)
class Heads:
    """Measures of a model's heads: `values[name]` is (examples, layers, heads), a mean over queries each.

    Names: `drift 0`, `drift 1` (lattice units a layer), `speed` (length of the mean drift), `diffusivity` (trace),
    `spread` (root-mean-square distance from the mean displacement, `sqrt(2 tr D)`, lattice units), `entropy` (nats),
    `special mass`, `mass near` (share within the radius of what lands on the lattice), `shift` (distance from a pure
    shift by one token, `|v + e| + tr D`).

    >>> from pdelens.lattice import Chain
    >>> even = measure_heads(Flow(attention=[torch.full((3, 2, 5, 5), 0.2)]), Chain(5))
    >>> even.mean("entropy").round(3).tolist(), even.classes().tolist()
    ([[1.609, 1.609]], [['diffusive', 'diffusive']])
    """

    values: dict[str, Tensor]

    def __post_init__(self):
        _doors.is_a("values", self.values, dict, "a dictionary of tensors (examples, layers, heads)")
        for name, value in self.values.items():
            _doors.is_a(f"values[{name!r}]", value, Tensor, "a tensor (examples, layers, heads)")
        if len({tuple(value.shape) for value in self.values.values()}) > 1:
            raise ValueError(
                f"measures of shapes {[tuple(v.shape) for v in self.values.values()]} were given: one shape."
            )

    def mean(self, name: str) -> np.ndarray:
        """Return a measure's mean over examples, (layers, heads)."""
        return self.values[name].double().mean(0).numpy()

    def grouped(self, size: int) -> "Heads":
        """Return the means over each so many examples in a row: the two squares of one photograph, say."""
        return Heads({name: grouped(value, size) for name, value in self.values.items()})

    def draws(self, name: str, resamples: int = 400, seed: int = 0) -> np.ndarray:
        """Return a measure's mean over each of many resamples of the examples, (resamples, layers, heads)."""
        values = self.values[name].double().numpy()
        random = np.random.default_rng(seed)
        share = random.multinomial(len(values), np.full(len(values), 1 / len(values)), resamples) / len(values)
        return np.tensordot(share, values, 1)

    def interval(self, name: str, resamples: int = 400, seed: int = 0) -> np.ndarray:
        """Return the 95 % bootstrap interval of a measure's mean over examples, (2, layers, heads)."""
        return np.quantile(self.draws(name, resamples, seed), [0.025, 0.975], axis=0)

    def ratio(self) -> np.ndarray:
        """Return how many times its spread each head moves, `|v| / sqrt(2 tr D)`, (layers, heads)."""
        return self.mean("speed") / np.maximum(self.mean("spread"), 1e-12)

    def classes(self, thresholds: Thresholds | None = None) -> np.ndarray:
        """Return what each head is called, (layers, heads) of `CLASSES`."""
        return _named(self.mean, thresholds or Thresholds())

    def class_shares(self, thresholds: Thresholds | None = None) -> dict[str, tuple[float, float, float]]:
        """Return each class's share of heads with its 95 % bootstrap interval over examples: share, low, high.

        Every resample of the examples is classified anew (the same resample for all measures).
        """
        bounds = thresholds or Thresholds()
        now = self.classes(bounds)
        drawn = _named(self.draws, bounds)
        found = {}
        for name in CLASSES:
            low, high = np.quantile((drawn == name).mean((-2, -1)), [0.025, 0.975])
            found[name] = (float((now == name).mean()), float(low), float(high))
        return found

    def summary(self, name: str, seed: int = 0) -> tuple[float, tuple[float, float]]:
        """Return a measure's mean over all heads, and its 95 % bootstrap interval over examples."""
        examples = self.values[name].double().mean((1, 2)).numpy()
        return float(examples.mean()), bootstrap_interval(examples, resamples=400, seed=seed)


def _named(of: Callable[[str], np.ndarray], bounds: Thresholds) -> np.ndarray:
    sink = of("special mass") > bounds.sink
    far = of("mass near") < bounds.near
    return np.select([sink, far, of("speed") > bounds.ratio * of("spread")], CLASSES[:3], CLASSES[3])


def grouped(values: Tensor, size: int) -> Tensor:
    """Return the means over each so many entries in a row of the first axis."""
    if len(values) % size:
        raise ValueError(f"{len(values)} examples can't be averaged {size} by {size}.")
    return values.unflatten(0, (-1, size)).mean(1)


def measure_heads(flow: Flow, lattice: Lattice, radius: float = Thresholds.radius) -> Heads:
    """Return the measures of every head of a Flow with maps, on the lattice's own tokens: see `Heads`.

    Drift `v = E[Delta]` and diffusivity `D = Cov[Delta] / 2` of the displacement Delta from query to key, given that
    it lands on the lattice, in lattice units a layer; entropies in nats. All are exact, per example, averaged over
    queries. `radius` is in lattice units. Raises `ValueError` where maps and lattice do not fit. Cost O(tokens^2) a
    map, as the maps themselves. Source: the moments are those of the chapter *The master equation*.

    >>> from pdelens.lattice import Chain
    >>> before = torch.eye(5).roll(-1, 1)
    >>> before[0] = torch.eye(5)[0]  # the first has none before it
    >>> measure_heads(Flow(attention=[before[None, None]]), Chain(5)).values["drift 0"].item()
    -0.800000011920929
    """
    _doors.is_a("flow", flow, Flow, "a Flow")
    _doors.is_a("lattice", lattice, Lattice, "a Chain or a Grid")
    _doors.real("radius", radius, 0)
    if not flow.attention:
        raise ValueError("a Flow without attention was given: capture it with attention='weights'.")
    layers = [_of_layer(maps, lattice, radius) for maps in flow.attention]
    return Heads({name: torch.stack([found[name] for found in layers], 1) for name in layers[0]})


def _of_layer(maps: Tensor, lattice: Lattice, radius: float) -> dict[str, Tensor]:
    inner, special = lattice_attention(maps, lattice)  # (examples, heads, places, places)
    place = lattice.positions().to(inner)
    offset = place[None] - place[:, None]  # (queries, keys, dims)
    about = attention_moments(maps, lattice)
    drift, diffusivity = about.drift, about.diffusivity.diagonal(dim1=-2, dim2=-1).sum(-1)
    near = torch.einsum("ehqk,qk->ehq", inner, (offset.square().sum(-1) <= radius**2).to(inner))
    own = slice(lattice.special[0], lattice.special[0] + lattice.places)
    entropy = -torch.xlogy(maps, maps).sum(-1)[..., own]
    # A row whose keys are all special has no displacement.
    on = (special < 1 - 1e-6).to(inner)
    count = on.sum(-1).clamp_min(1)
    mean = (drift * on.unsqueeze(-1)).sum(-2) / count.unsqueeze(-1)  # (examples, heads, dims)
    found = {f"drift {axis}": mean[..., axis] for axis in range(lattice.dims)}
    found |= {"speed": mean.square().sum(-1).sqrt(), "diffusivity": (diffusivity * on).sum(-1) / count}
    found |= {"spread": (about.spread() * on).sum(-1) / count, "entropy": entropy.mean(-1)}
    found |= {"special mass": special.mean(-1), "mass near": (near * on).sum(-1) / count}
    if lattice.dims == 1:
        # The first place has nothing before it to shift to.
        aside = (drift[..., 1:, 0] + 1).abs() + diffusivity[..., 1:]
        found["shift"] = (aside * on[..., 1:]).sum(-1) / on[..., 1:].sum(-1).clamp_min(1)
    return found


def by_place(flow: Flow, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Return a chain's drift and diffusivity by place of the query, (examples, layers, heads, places) each."""
    about = [attention_moments(maps, lattice) for maps in flow.attention]
    drift = torch.stack([moments.drift[..., 0] for moments in about], 1)
    return drift, torch.stack([moments.diffusivity[..., 0, 0] for moments in about], 1)


def against_causal_uniform(flow: Flow, lattice: Lattice) -> tuple[Tensor, Tensor]:
    """Return a causal head's drift and diffusivity over those of the uniform causal head, (examples, layers, heads).

    With i places before it the uniform head has v = -i/2 and D = i (i + 2) / 24; ratios are taken place by place,
    from the second on, and averaged. 1 is a head that looks at all of its past alike.
    """
    drift, diffusivity = by_place(flow, lattice)
    past = torch.arange(1, lattice.places).to(drift)
    even = past * (past + 2) / 24
    return (drift[..., 1:] / (-past / 2)).mean(-1), (diffusivity[..., 1:] / even).mean(-1)


def extremes(heads: Heads, count: int = 1) -> dict[str, list[tuple[int, int]]]:
    """Return the furthest (layer, head)s by what they are furthest in, the furthest first.

    Those most on special tokens and the flattest are chosen among all heads; the sharpest, the most advective (largest
    `ratio`), the longest-range and the closest to a shift among heads whose mass is mostly on the lattice; the most
    diffusive (smallest `ratio`) among those of them with most of that mass near.
    """
    off = heads.mean("special mass") > 0.5
    scores = {
        "most on special tokens": heads.mean("special mass"),
        "flattest": heads.mean("entropy"),
        "sharpest": np.where(off, -np.inf, -heads.mean("entropy")),
        "most advective": np.where(off, -np.inf, heads.ratio()),
        "most diffusive": np.where(off | (heads.mean("mass near") < 0.5), -np.inf, -heads.ratio()),
        "longest range": np.where(off, -np.inf, -heads.mean("mass near")),
    }
    if "shift" in heads.values:
        scores["closest to a shift"] = np.where(off, -np.inf, -heads.mean("shift"))
    found = {}
    for name, score in scores.items():
        order = np.argsort(-score, axis=None, kind="stable")[:count]
        found[name] = [tuple(int(n) for n in np.unravel_index(place, score.shape)) for place in order]
    return found


def kernels(flow: Flow, lattice: Lattice) -> list[Tensor]:
    """Return each layer's mean attention by displacement, (heads, 2 n - 1) or (heads, 2 h - 1, 2 w - 1)."""
    return [displacement_kernel(maps.mean(0), lattice) for maps in flow.attention]


def median_head(values: Tensor, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the median over heads of the mean over examples, and its bootstrap interval; (examples, ..., heads)."""
    rows = values.double().flatten(1).numpy()
    interval = bootstrap_interval(rows, lambda drawn: np.median(drawn.mean(0)), resamples=400, seed=seed)
    return float(np.median(rows.mean(0))), interval
