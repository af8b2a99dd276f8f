"""Records and table rows of the chapter on what can be estimated."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..records import quote, record
from . import held_out
from .results import OTHER, Panel

PARTS = ("coverage", "worst", "width", "error", "score", "warned")


def by_kind(trials: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the committed results of `auto`: all of its catalogue, by kind of copula, and outside the catalogue.

    `elliptical`: a normal or Student copula is right. `outside`: tasks that the catalogue does not have, without those
    that are Gaussian after all.
    """
    rows = trials["results"]["auto"]
    other = [row for row in rows if any(part in row["task"] for part in OTHER)]
    elliptical = [row for row in rows if row not in other]
    return {"all": rows, "elliptical": elliptical, "other": other, "outside": held_out.outside(trials)}


def judged(name: str, what: str, rows: Sequence[dict[str, Any]], truths: Mapping, atol: float = 1e-4) -> list[str]:
    """Record what intervals are worth by `PARTS`, quote it, and return a table's row.

    Keys: `info.<part>` with the part put in the place of the star in `name` ("auto.*.other").
    """
    found = held_out.judged(rows, dict(truths))
    for part in PARTS:
        key = f"info.{name.replace('*', part)}"
        record(key, getattr(found, part), unit="share", atol=atol, rtol=0)
        quote(key)
    numbers = [f"{found.coverage:.0%}", f"{found.worst:.0%}", f"{found.width:.0%}", f"{found.error:.1%}"]
    return [what, f"{found.tasks} ({found.results})", *numbers, f"{found.score:.2f}"]


def believed(panel: Panel, methods: Sequence[str]) -> list[list[str]]:
    """Record between which truths each method stays within a fifth of the truth, and return a row a size and width.

    Keys: `info.believe.<method>.<samples>.<columns>`, with `.crossed` for estimate over truth on crossings.
    """
    return [
        [f"{size:,}", f"{width} + {width}", *(_believed(panel, method, size, width) for method in methods)]
        for size in panel.samples
        for width in panel.dims
    ]


def _believed(panel: Panel, method: str, size: int, width: int) -> str:
    least, most, crossed = panel.believed(method, size, width)
    key, note = f"info.believe.{method}.{size}.{width}", ""
    record(key, [least, most], unit="nats", atol=1e-6, rtol=0)
    if np.isfinite(crossed):
        record(f"{key}.crossed", crossed, unit="estimate / truth", atol=1e-4, rtol=0)
        note = f" ({crossed:.2f})"
    reach = f"{least:g} to {most:g}" if most > least else f"{most:g}"
    return f"{reach if most else 'none'}{note}"
