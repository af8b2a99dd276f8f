"""A number over seeds: mean, interval, and how it is recorded and quoted."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pdelens.intervals import t_interval

from .records import quote, record


class SeedMean(NamedTuple):
    """One measure of one equation over its seeds: mean, and Student's interval where there are two seeds or more."""

    mean: float
    interval: tuple[float, float] | None
    seeds: tuple[float, ...]

    @property
    def low(self) -> float:
        """The interval's lower end, or the one seed's value: what verdicts and goals read."""
        return self.mean if self.interval is None else self.interval[0]

    def __str__(self) -> str:
        """Return the mean with its interval's half width, or the one seed's value; fewer digits from ten on."""
        if not self.seeds or not np.isfinite(self.mean):
            return "–"
        half = 0.0 if self.interval is None else (self.interval[1] - self.interval[0]) / 2
        size = max(abs(self.mean), half)
        digits = 3 if size < 10 else 1 if size < 100 else 0
        mean = f"{self.mean:.{digits}f}"
        return mean if self.interval is None else f"{mean} ± {half:.{digits}f}"


def record_mean(key: str, seed_mean: SeedMean, unit: str = "1") -> str:
    """Record a mean over seeds in the open chapter, where there is one, and return it as a table shows it."""
    if np.isfinite(seed_mean.mean):
        seeds = len(seed_mean.seeds)
        record(key, seed_mean.mean, unit=unit, interval=seed_mean.interval, seeds=seeds, atol=0, rtol=1e-6)
    return str(seed_mean)


def quote_mean(key: str, seed_mean: SeedMean, unit: str = "1") -> SeedMean:
    """Record a mean over seeds in the open chapter, and as `<key>.text` what prose quotes of it; return it."""
    words = record_mean(key, seed_mean, unit)
    if seed_mean.interval is None and words != "–":
        words += " (one seed)"
    record(f"{key}.text", words, unit="text")
    quote(f"{key}.text")
    return seed_mean


def over_seeds(values: Sequence[float]) -> SeedMean:
    """Return the mean of values, one for each seed, with its interval.

    >>> str(over_seeds([0.5, 0.7])), str(over_seeds([0.25])), str(over_seeds([]))
    ('0.600 ± 1.271', '0.250', '–')
    """
    numbers = tuple(float(v) for v in values)
    if not numbers:
        return SeedMean(float("nan"), None, ())
    return SeedMean(float(np.mean(numbers)), t_interval(numbers) if len(numbers) > 1 else None, numbers)
