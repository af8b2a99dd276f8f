"""Numbers of the atlas: recorded, handed to the prose, and set as a table's cells."""

from typing import Any

from .. import records


def slug(name: str) -> str:
    """Return a measure's name as it stands in a record's key.

    >>> slug("pair, unbiased"), slug("mass near")
    ('pair-unbiased', 'mass-near')
    """
    return name.replace(",", "").replace(" ", "-")


def shown(key: str, value: Any, interval: Any = None, digits: int = 2, percent: bool = False, **about: Any) -> str:
    """Record a number, hand it to the prose and return it as a cell: `0.41 (0.39, 0.43)`, or `41% (39, 43)`.

    `about` is what `records.record` wants to know: unit and tolerances. What is shown is what stands in the record.
    """
    value = records.record(key, value, interval=interval, **about)
    records.quote(key)
    text = f"{value:.{0 if percent else digits}{'%' if percent else 'f'}}"
    if interval is None:
        return text
    ends = records.recorded(key)["interval"]
    low, high = (f"{100 * end:.0f}" if percent else f"{end:.{digits}f}" for end in ends)
    return f"{text} ({low},\N{NO-BREAK SPACE}{high})"
