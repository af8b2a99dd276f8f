"""What an equation is made of, refused where it means nothing."""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from .. import _doors
from ..lattice import Lattice
from .constraints import Sphere


def refuse_parts(terms: Any, lattice: Any, depth: Any, constraint: Any, clock: Any) -> None:
    """Raise for what can be no part of an equation."""
    _doors.is_a("terms", terms, Mapping, "a dictionary of terms by name")
    for name, term in terms.items():
        _doors.is_a(f"terms[{name!r}]", term, nn.Module, "a term")
    _doors.is_a("lattice", lattice, (Lattice, type(None)), "a Chain, a Grid or None")
    _doors.is_a("constraint", constraint, (nn.Module, Sphere, type(None)), "a constraint or None")
    _doors.is_a("clock", clock, (nn.Module, type(None)), "a clock's modes or None")
    _doors.real("depth", depth, above=0)


def refuse_nonsense(given: dict[str, Any]) -> None:
    """Raise for settings of a `TransformerPDE` that mean nothing, by their names."""
    for name in ("width", "heads", "temporal_modes"):
        _doors.whole(name, given[name])
    _doors.whole("rank", given["rank"], 0)
    _doors.whole("seed", given["seed"], 0)
    if given["hidden"] is not None:
        _doors.whole("hidden", given["hidden"])
    _doors.is_a("lattice", given["lattice"], (Lattice, type(None)), "a Chain, a Grid or None")
    _doors.real("depth", given["depth"], above=0)
    _doors.real("epsilon", given["epsilon"], 0)
    for name, least in (("diffusion", 0), ("advection", -math.inf)):
        if given[name] is not None:
            _doors.real(name, given[name], least)
    for name in ("attention", "reaction", "clock", "scaled"):
        _doors.flag(name, given[name])
    if given["order"] not in (2, 4):
        raise ValueError(f"order={given['order']!r} was given: choose 2 or 4.")
