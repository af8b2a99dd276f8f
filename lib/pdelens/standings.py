"""How the rungs stand: headline numbers of the recorded judgements, over seeds, beside their nulls."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .compare import skill
from .intervals import t_interval
from .ladder import NULLS, ladder
from .nonlinearity import LinearSplit
from .records import quote, record

# What can be asked of a judged way of stepping.
MEASURES = (
    "cosine",
    "worst head",
    "centred cosine",
    "head mean",
    "skill",
    "median skill",
    "r2",
    "r2, worst decile",
    "cka",
    "classes",
    "accuracy",
    "read",
)
# Those that need the cosine of every head.
OF_HEADS = ("worst head", "skill", "median skill")


class Standing(NamedTuple):
    """One measure of one rung over its seeds: mean, and Student's interval where there are two seeds or more."""

    mean: float
    interval: tuple[float, float] | None
    seeds: tuple[float, ...]

    @property
    def low(self) -> float:
        """The interval's lower end, or the one seed's value: what verdicts and goals read."""
        return self.mean if self.interval is None else self.interval[0]

    def __str__(self) -> str:
        """Return the mean with the interval's half width, or the one seed's value.

        Three digits after the point, fewer from ten on.
        """
        if not self.seeds or not np.isfinite(self.mean):
            return "–"
        half = 0.0 if self.interval is None else (self.interval[1] - self.interval[0]) / 2
        size = max(abs(self.mean), half)
        digits = 3 if size < 10 else 1 if size < 100 else 0
        mean = f"{self.mean:.{digits}f}"
        return mean if self.interval is None else f"{mean} ± {half:.{digits}f}"


def found(teacher: str, family: str) -> dict[int, dict[str, Any]]:
    """Return the records of a rung by seed; `teacher` as in `rungs.TEACHERS`, such as "image-patch4"."""
    start = f"rung-{teacher}-{family}-seed"
    rows = {name: row for name, row in ladder()["rungs"].items() if name[:-1] == start}
    return {int(name[-1]): rows[name] for name in sorted(rows)}


def value(about: Mapping[str, Any], way: str, measure: str) -> float:
    """Return one number of a record: mean over heads (and examples), then the worst layer or depth.

    `worst head` is the smallest over layers and heads; `skill` is against the best null of each layer and
    head. A head that has one map for all inputs leaves its null hardly a shortfall to divide by, so beside
    the worst layer's mean stands the `median skill` over layers and heads. nan where the solution diverged,
    where the equation has no attention, or where the way keeps no single heads.
    """
    judged = about["judged"][way]
    key = "cosine" if measure in OF_HEADS else measure
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r} was given: choose from {', '.join(MEASURES)}.")
    if key not in judged:
        return float("nan")
    numbers = np.asarray(judged[key], dtype=float)
    if measure in OF_HEADS:
        if numbers.ndim < 2:
            return float("nan")
        if measure != "worst head":
            numbers = skill(numbers, best_null(about["made"]["subject"]))
    return _of_heads(numbers, measure) if numbers.ndim == 2 else float(numbers.min())


def best_null(subject: str) -> np.ndarray:
    """Return the best null's cosine of each layer and head of a subject, (layers, heads)."""
    return np.max([np.asarray(values) for values in ladder()[NULLS][subject]["attention"].values()], axis=0)


def null(subject: str, name: str) -> float:
    """Return a null's cosine, mean over heads, worst layer."""
    return _of_heads(np.asarray(ladder()[NULLS][subject]["attention"][name]), "cosine")


def state_null(subject: str) -> np.ndarray:
    """Return the R2 of the best null that, as an equation does, sees the embedding alone: by depth from 1, (layers,).

    The identity and the affine maps, rolled out, and the mean state.
    """
    known = ladder()[NULLS][subject]["states"]
    return np.max([known[name] for name in known if not name.endswith("one step")], axis=0)


def state_skill(about: Mapping[str, Any], way: str = "converged") -> float:
    """Return the share of the best state null's shortfall that a rung makes up, `1 - (1 - R2) / (1 - R2_null)`.

    Both at the same depth; the worst depth. nan where the solution diverged.
    """
    judged = about["judged"][way]
    if "r2" not in judged:
        return float("nan")
    return float(skill(judged["r2"], state_null(about["made"]["subject"])).min())


def standing(teacher: str, family: str, measure: str = "cosine", way: str = "converged") -> Standing:
    """Return a measure of a rung over its seeds."""
    return over_seeds([value(about, way, measure) for about in found(teacher, family).values()])


def difference(teacher: str, family: str, other: str, measure: str = "cosine", way: str = "converged") -> Standing:
    """Return a rung's measure minus another's, paired by seed."""
    ours, theirs = found(teacher, family), found(teacher, other)
    pairs = [value(ours[s], way, measure) - value(theirs[s], way, measure) for s in ours if s in theirs]
    return over_seeds(pairs)


def divided(teacher: str, family: str) -> dict[int, LinearSplit]:
    """Return how an equation's local error divides, by seed, where it is on record (`calibration.DIVIDED`)."""
    return {
        number: LinearSplit(*(np.array(about["local"][part]) for part in LinearSplit._fields))
        for number, about in found(teacher, family).items()
        if "local" in about
    }


def null_standing(teacher: str, name: str, measure: str = "cosine") -> Standing:
    """Return an attention null's `cosine` or `worst head` over the seeds whose nulls are known.

    "best" is the best null of each layer and head: what a choice after the fact could reach.
    """
    chosen = [
        best_null(subject) if name == "best" else np.asarray(about["attention"][name])
        for subject, about in null_records(teacher).items()
    ]
    return over_seeds([_of_heads(numbers, measure) for numbers in chosen])


def state_null_standing(teacher: str) -> Standing:
    """Return the R2 of the best state null that sees the embedding alone, worst depth, over the same seeds."""
    return over_seeds([float(state_null(subject).min()) for subject in null_records(teacher)])


def ceiling(teacher: str, measure: str = "cosine") -> Standing:
    """Return what another seed's teacher reaches, by `cosine`, `worst head` or `centred cosine`."""
    key = measure.replace("worst head", "cosine")
    rows = [about["ceiling"][key] for about in null_records(teacher).values() if "ceiling" in about]
    return over_seeds([_of_heads(np.asarray(numbers), measure) for numbers in rows])


def null_records(teacher: str) -> dict[str, dict[str, Any]]:
    """Return what is known of the nulls of a teacher's seeds; a subject without seeds is its own."""
    rows = ladder()[NULLS]
    return {name: rows[name] for name in sorted(rows) if name == teacher or name[:-1] == f"{teacher}-seed"}


def _of_heads(numbers: np.ndarray, measure: str) -> float:
    if measure == "median skill":
        return float(np.median(numbers))
    return float(numbers.min() if measure == "worst head" else numbers.mean(-1).min())


def noted(key: str, standing: Standing, unit: str = "1") -> str:
    """Record a standing in the open chapter, where there is one, and return it as a table shows it."""
    if np.isfinite(standing.mean):
        seeds = len(standing.seeds)
        record(key, standing.mean, unit=unit, interval=standing.interval, seeds=seeds, atol=0, rtol=1e-6)
    return str(standing)


def told(key: str, standing: Standing, unit: str = "1") -> Standing:
    """Record a standing in the open chapter, and as `<key>.text` the words that prose quotes of it; return it."""
    words = noted(key, standing, unit)
    if standing.interval is None and words != "–":
        words += " (one seed)"
    record(f"{key}.text", words, unit="text")
    quote(f"{key}.text")
    return standing


def over_seeds(values: Sequence[float]) -> Standing:
    """Return the mean of values, one for each seed, with its interval.

    >>> str(over_seeds([0.5, 0.7])), str(over_seeds([0.25])), str(over_seeds([]))
    ('0.600 ± 1.271', '0.250', '–')
    """
    numbers = tuple(float(v) for v in values)
    if not numbers:
        return Standing(float("nan"), None, ())
    return Standing(float(np.mean(numbers)), t_interval(numbers) if len(numbers) > 1 else None, numbers)
