"""How far the heads of a model look, how far they move what they look at, and what they are therefore called.

Lengths are compared with lengths: the length of the mean displacement with the spread about it. The null is the even
head, which looks at all that it may see alike.
"""

from dataclasses import fields, replace

import numpy as np
import torch
from torch import Tensor

from pdelens.attention.heads import Heads, Thresholds, extremes, measure_heads
from pdelens.attention.moments import lattice_attention
from pdelens.flow import Flow
from pdelens.lattice import Lattice

RADII = (1.0, 2.0, 4.0)
MOVED = 0.2  # the part by which a threshold is moved to see what hangs on it
Place = tuple[int, int]


def moved(bounds: Thresholds, by: float = MOVED) -> dict[str, tuple[Thresholds, Thresholds]]:
    """Return the same thresholds with one of them lowered and raised by a part of itself, by its name."""
    found = {}
    for name in (field.name for field in fields(bounds)):
        low, high = (getattr(bounds, name) * factor for factor in (1 - by, 1 + by))
        found[name] = replace(bounds, **{name: low}), replace(bounds, **{name: high})
    return found


def measured(flow: Flow, lattice: Lattice, group: int = 1) -> Heads:
    """Return `measure_heads` with every head's mass within several radii.

    `within r`: share of what lands on the lattice that lies at most r units from the query, for r in `RADII` and for
    the default radius, moved. Means over each `group` of examples.
    """
    radii = sorted({*RADII, *(bounds.radius for bounds in moved(Thresholds())["radius"])})
    layers = [_of_layer(maps, lattice, radii) for maps in flow.attention]
    more = {name: torch.stack([found[name] for found in layers], 1) for name in layers[0]}
    return Heads({**measure_heads(flow, lattice).values, **more}).grouped(group)


def _of_layer(maps: Tensor, lattice: Lattice, radii: list[float]) -> dict[str, Tensor]:
    inner, special = lattice_attention(maps, lattice)
    place = lattice.positions().to(inner)
    distance = (place[None] - place[:, None]).square().sum(-1)  # squared, (queries, keys)
    # A row whose keys are all special has no displacement.
    on = (special < 1 - 1e-6).to(inner)
    count = on.sum(-1).clamp_min(1)
    found = {}
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


def bounds_of(lattice: Lattice) -> Thresholds:
    """Return the thresholds for a lattice: to be called advective, a head must move more than the even head does.

    Behind a causal mask the even head moves further than it spreads, with no preference at all.
    """
    return Thresholds(ratio=max(1.0, float(measured(even_head(lattice), lattice).ratio()[0, 0])))


def local_share(found: Heads, radius: float, near: float = 0.5) -> tuple[float, tuple[float, float]]:
    """Return the share of heads with so much of their lattice's mass within a radius, and its 95 % interval.

    Sinks count as all others do; the interval is a bootstrap over examples.
    """
    drawn = (found.draws(within(radius)) >= near).mean((-2, -1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float((found.mean(within(radius)) >= near).mean()), (float(low), float(high))


def classes(found: Heads, bounds: Thresholds) -> np.ndarray:
    """Return what each head is called, (layers, heads) of `CLASSES`."""
    return _near(found, bounds).classes(bounds)


def class_shares(found: Heads, bounds: Thresholds) -> dict[str, tuple[float, tuple[float, float]]]:
    """Return each class's share of heads with its 95 % bootstrap interval over examples."""
    shares = _near(found, bounds).class_shares(bounds)
    return {name: (share, (low, high)) for name, (share, low, high) in shares.items()}


def renamed(found: Heads, bounds: Thresholds) -> dict[str, float]:
    """Return the share of heads with another class once a threshold moves by a fifth, by threshold; last, `any`."""
    now = classes(found, bounds)
    other = {name: [classes(found, each) != now for each in pair] for name, pair in moved(bounds).items()}
    shares = {name: float(np.any(pair, 0).mean()) for name, pair in other.items()}
    return {**shares, "any": float(np.any([each for pair in other.values() for each in pair], 0).mean())}


def furthest(found: Heads) -> dict[Place, list[str]]:
    """Return the heads that go furthest in something (`extremes`), each with what it is furthest in."""
    places: dict[Place, list[str]] = {}
    for what, (place,) in extremes(found).items():
        places.setdefault(place, []).append(what)
    return places


def _near(found: Heads, bounds: Thresholds) -> Heads:
    return Heads({**found.values, "mass near": found.values[within(bounds.radius)]})
