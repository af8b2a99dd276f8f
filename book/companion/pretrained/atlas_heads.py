"""How far the heads of a model look, how far they move what they look at, and what they are therefore called.

Lengths are compared with lengths: the length of the mean displacement with the spread about it. The null is the even
head, which looks at all that it may see alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from pdelens.attention import heads as library
from pdelens.attention.heads import CLASSES, Heads
from pdelens.attention.moments import attention_moments, lattice_attention
from pdelens.flow import Flow
from pdelens.lattice import Lattice

RADII = (1.0, 2.0, 4.0)
MOVED = 0.2  # the part by which a threshold is moved to see what hangs on it
Place = tuple[int, int]


@dataclass(frozen=True)
class Bounds:
    """What a head is called: the first line that holds decides.

    `sink`: more than `sink` of its mass lands on special tokens. `long-range`: of what lands on the lattice, less than
    `near` lies within `radius` of the query. `advective`: the length of its mean drift is more than `ratio` times its
    spread. `diffusive`: all others.
    """

    sink: float = 0.5
    near: float = 0.5
    radius: float = 2.0
    ratio: float = 1.0

    def moved(self, by: float = MOVED) -> dict[str, tuple["Bounds", "Bounds"]]:
        """Return the same bounds with one of them lowered and raised by a part of itself, by its name."""
        found = {}
        for name in (field.name for field in fields(self)):
            low, high = (getattr(self, name) * factor for factor in (1 - by, 1 + by))
            found[name] = replace(self, **{name: low}), replace(self, **{name: high})
        return found


def measured(flow: Flow, lattice: Lattice, group: int = 1) -> Heads:
    """Return `measure_heads` with the spread of every head and its mass within several radii.

    `spread`: the mean over queries of the root-mean-square distance from the mean displacement, `sqrt(2 tr D)`, in
    lattice units. `within r`: share of what lands on the lattice that lies at most r units from the query, for r in
    `RADII` and for the default radius, moved. Means over each `group` of examples.
    """
    moved = Bounds().moved()["radius"]
    radii = sorted({*RADII, *(bounds.radius for bounds in moved)})
    layers = [_of_layer(maps, lattice, radii) for maps in flow.attention]
    more = {name: torch.stack([found[name] for found in layers], 1) for name in layers[0]}
    return Heads({**library.measure_heads(flow, lattice).values, **more}).grouped(group)


def _of_layer(maps: Tensor, lattice: Lattice, radii: list[float]) -> dict[str, Tensor]:
    inner, special = lattice_attention(maps, lattice)
    place = lattice.positions().to(inner)
    distance = (place[None] - place[:, None]).square().sum(-1)  # squared, (queries, keys)
    # A row whose keys are all special has no displacement.
    on = (special < 1 - 1e-6).to(inner)
    count = on.sum(-1).clamp_min(1)
    found = {"spread": (attention_moments(maps, lattice).spread() * on).sum(-1) / count}
    for radius in radii:
        near = (inner * (distance <= radius**2)).sum(-1)  # (examples, heads, queries)
        found[within(radius)] = (near * on).sum(-1) / count
    return found


def within(radius: float) -> str:
    """Return the name of the mass within a radius among a head's measures."""
    return f"within {radius:g}"


def even_head(lattice: Lattice) -> Flow:
    """Return a Flow of one head that looks at all that it may see alike.

    >>> from pdelens.lattice import Chain
    >>> even_head(Chain(3, causal=True)).attention[0][0, 0, 2].tolist()
    [0.3333333432674408, 0.3333333432674408, 0.3333333432674408]
    """
    seen = torch.ones(1, 1, lattice.tokens, lattice.tokens)
    seen = seen.tril() if lattice.causal else seen
    return Flow(attention=(seen / seen.sum(-1, keepdim=True),), causal=lattice.causal)


def ratio(found: Heads) -> np.ndarray:
    """Return how many times its spread a head moves: the length of its mean drift over it, (layers, heads)."""
    return found.mean("speed") / np.maximum(found.mean("spread"), 1e-12)


def bounds_of(lattice: Lattice) -> Bounds:
    """Return the bounds for a lattice: to be called advective, a head must move more than the even head does.

    Behind a causal mask the even head moves further than it spreads, with no preference at all.
    """
    return Bounds(ratio=max(1.0, float(ratio(measured(even_head(lattice), lattice))[0, 0])))


def local_share(found: Heads, radius: float, near: float = 0.5) -> tuple[float, tuple[float, float]]:
    """Return the share of heads with so much of their lattice's mass within a radius, and its 95 % interval.

    Sinks count as all others do; the interval is a bootstrap over examples.
    """
    drawn = (found.draws(within(radius)) >= near).mean((-2, -1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float((found.mean(within(radius)) >= near).mean()), (float(low), float(high))


def classes(found: Heads, bounds: Bounds) -> np.ndarray:
    """Return what each head is called, (layers, heads) of `CLASSES`."""
    return _named(found.mean, bounds)


def class_shares(found: Heads, bounds: Bounds) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return each class's share of heads with its 95 % bootstrap interval over examples.

    Every resample of the examples is classified anew (the same resample for all measures).
    """
    now, drawn = classes(found, bounds), _named(found.draws, bounds)
    shares = {}
    for name in CLASSES:
        low, high = np.quantile((drawn == name).mean((-2, -1)), [0.025, 0.975])
        shares[name] = float((now == name).mean()), (float(low), float(high))
    return shares


def renamed(found: Heads, bounds: Bounds) -> dict[str, float]:
    """Return the share of heads with another class once a threshold moves by a fifth, by threshold; last, `any`."""
    now = classes(found, bounds)
    other = {name: [classes(found, moved) != now for moved in pair] for name, pair in bounds.moved().items()}
    shares = {name: float(np.any(pair, 0).mean()) for name, pair in other.items()}
    return {**shares, "any": float(np.any([each for pair in other.values() for each in pair], 0).mean())}


def furthest(found: Heads, bounds: Bounds) -> dict[Place, list[str]]:
    """Return the heads that go furthest in something, each with what it is furthest in.

    As `extremes` of the library has them, but for two: `most advective` has the largest `ratio` among heads whose mass
    is mostly on the lattice, `most diffusive` the smallest among those of them that are local as well.
    """
    chosen = {name: places[0] for name, places in library.extremes(found).items()}
    resting = found.mean("special mass") > bounds.sink
    far = found.mean(within(bounds.radius)) < bounds.near
    chosen["most advective"] = _largest(np.where(resting, -np.inf, ratio(found)))
    chosen["most diffusive"] = _largest(np.where(resting | far, -np.inf, -ratio(found)))
    places: dict[Place, list[str]] = {}
    for what, place in chosen.items():
        places.setdefault(place, []).append(what)
    return places


def _largest(score: np.ndarray) -> Place:
    layer, head = np.unravel_index(int(np.argmax(score)), score.shape)
    return int(layer), int(head)


def _named(of: Callable[[str], np.ndarray], bounds: Bounds) -> np.ndarray:
    sink = of("special mass") > bounds.sink
    far = of(within(bounds.radius)) < bounds.near
    return np.select([sink, far, of("speed") > bounds.ratio * of("spread")], CLASSES[:3], CLASSES[3])
