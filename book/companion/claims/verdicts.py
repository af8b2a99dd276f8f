"""The register of claims and the verdicts, computed from records and from nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any


class ClaimError(LookupError):
    """A claim that is tested reads a record that is not there; the message names both."""


class Verdict(StrEnum):
    """What the book says of a claim."""

    REPRODUCED = "reproduced"
    IN_PART = "reproduced in part"
    NOT_REPRODUCED = "not reproduced"
    UNDECIDED = "undecided (budget)"
    NOT_TESTABLE = "not testable as stated"
    NOT_YET_TESTED = "not yet tested"


# A claim needs this much of the best null's shortfall made up, pooled over heads, in every layer.
SKILL = 0.5
# The last doubling of a budget has to gain less than this share of what is missing for a curve to have flattened.
FLAT = 0.1


@dataclass(frozen=True)
class Evidence:
    """One modality's result for a claim with a bar.

    `low` is the interval's bad end; `skill` the worst layer's pooled skill against the best null; `seeds` whether
    there is an interval over seeds; `head_mean_low` the bad end for head-averaged maps, where that is another number.
    `gained` is the share of what is missing that the last doubling of the budget gained, `control` what the teacher's
    own architecture reaches at the same budget: none where no budget binds.
    """

    low: float
    skill: float
    head_mean_low: float | None = None
    seeds: bool = True
    gained: float = 0.0
    control: float | None = None

    @property
    def flat(self) -> bool:
        """Whether a longer calibration would not change much."""
        return self.gained < FLAT

    def settled(self, bar: float, limit: bool) -> bool:
        """Say whether neither a longer calibration nor what else the budget binds could explain a failure."""
        if self.control is None:
            return self.flat
        return self.flat and (self.control <= bar if limit else self.control >= bar)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper's abstract, paraphrased, with the test that decides it.

    `readings` names, for each way to read the claim and each modality, the record of its number (with an interval over
    seeds); beside it stand `<key>.skill`, where there is one `<key>.head-mean`, and for a claim whose result a longer
    calibration could change (`budget`) `<key>.gained` and `<key>.control`. `null_keys` names the records of the best
    null's own number, per setting and modality. A `limit` says that something escapes: its number can only fall with a
    larger budget.

    Of `everywhere`, readings and settings, one modality in which the bar is not cleared refutes the whole. Claims about
    networks that are trained side by side are not `skilled`: no null has to be beaten, it is judged beside them. Where
    a claim has `there`, that record is the share of its networks that have been trained: until it is 1 a failure
    stands, but a success may still fall.
    """

    name: str
    statement: str
    test: str
    version: str = "v1"
    bar: float | None = None
    readings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    null_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    budget: bool = False
    limit: bool = False
    everywhere: tuple[str, ...] = ()
    skilled: bool = True
    there: str = ""

    @property
    def own(self) -> tuple[str, ...]:
        """Every record that the verdict is computed from: the numbers, their skill, and what their budget leaves."""
        parts = ("", *((".skill",) if self.skilled else ()), *((".gained", ".control") if self.budget else ()))
        own = tuple(f"{key}{part}" for keys in self.readings.values() for key in keys.values() for part in parts)
        return (*own, self.there) if self.there else own

    @property
    def read(self) -> tuple[str, ...]:
        """Every record that the verdict, and those of nulls alone, are computed from."""
        return (*self.own, *(key for keys in self.null_keys.values() for key in keys.values()))

    def verdict(self, records: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Return the verdict that these records earn (`records.all_records()`).

        A claim that names no records is not yet tested; one whose records are missing is an error (`ClaimError`),
        since a renamed key would otherwise take a verdict back in silence. Read in several ways, it is reproduced
        where all are, and in part where any is.
        """
        if self.bar is None or not self.readings:
            return Verdict.NOT_YET_TESTED
        found = set(self.reading_verdicts(records).values())
        if len(found) == 1:
            return found.pop()
        if found & {Verdict.REPRODUCED, Verdict.IN_PART}:
            return Verdict.IN_PART
        return Verdict.NOT_YET_TESTED if Verdict.NOT_YET_TESTED in found else Verdict.UNDECIDED

    def reading_verdicts(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
        """Return the verdict of each reading."""
        assert self.bar is not None
        self._need(records, self.own)
        whole = not self.there or records[self.there]["value"] >= 1
        found = {}
        for reading, keys in self.readings.items():
            evidence = {modality: self._evidence(key, records) for modality, key in keys.items()}
            earned = verdict(evidence, self.bar, self.limit, reading in self.everywhere)
            found[reading] = earned if whole or earned is Verdict.NOT_REPRODUCED else Verdict.NOT_YET_TESTED
        return found

    def null_verdicts(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
        """Return, per setting, the verdict that a null alone would have earned by the bar alone."""
        found = {}
        for setting, keys in self.null_keys.items():
            assert self.bar is not None
            self._need(records, keys.values())
            # A null has no skill over itself: what it would have earned where no null was shown.
            evidence = {m: Evidence(_low(records[key]), skill=1.0) for m, key in keys.items()}
            found[setting] = verdict(evidence, self.bar, self.limit, setting in self.everywhere)
        return found

    def _evidence(self, key: str, records: Mapping[str, Mapping[str, Any]]) -> Evidence:
        head_mean = records.get(f"{key}.head-mean")
        found = Evidence(
            low=_low(records[key]),
            skill=_low(records[f"{key}.skill"]) if self.skilled else 1.0,
            head_mean_low=None if head_mean is None else _low(head_mean),
            seeds="interval" in records[key],
        )
        if not self.budget:
            return found
        gained, control = (records[f"{key}.{part}"]["value"] for part in ("gained", "control"))
        return replace(found, gained=gained, control=control)

    def _need(self, records: Mapping[str, Any], keys: Iterable[str]) -> None:
        missing = [key for key in keys if key not in records]
        if missing:
            raise ClaimError(
                f"claim {self.name} reads the record {missing[0]!r}, which no chapter has: record it so, or change "
                "the claim in companion.claims.register."
            )


def verdict(evidence: Mapping[str, Evidence], bar: float, limit: bool = False, everywhere: bool = False) -> Verdict:
    """Return the verdict on a claim with a bar from each modality's evidence.

    *Reproduced*: in every modality, two at least, the interval's bad end clears the bar with a pooled skill above .5 in
    every layer. *In part*: in one modality, by one seed, or for head-averaged maps only. *Not reproduced*: no modality
    clears it, though the learning curve has flattened and the teacher's own architecture reaches the bar at the same
    budget. *Undecided (budget)* otherwise. A `limit` says that something escapes: its number counts only where the
    curve has flattened and the teacher's own architecture stays below the bar; one below the bar is settled, since a
    larger budget lowers it further. What is said of `everywhere` falls with one modality.

    >>> good, free = Evidence(0.985, skill=0.9), Evidence(0.99, skill=0.1)
    >>> verdict({"image": good, "text": good}, 0.98).value, verdict({"image": free, "text": free}, 0.98).value
    ('reproduced', 'not reproduced')
    >>> verdict({"image": Evidence(0.9, 0.8, gained=0.3), "text": good}, 0.98).value
    'reproduced in part'
    >>> verdict({"image": Evidence(0.9, 0.8, gained=0.3)}, 0.98).value
    'undecided (budget)'
    """
    if not evidence:
        return Verdict.NOT_YET_TESTED
    skilled = [e for e in evidence.values() if e.skill > SKILL]
    clear = [e for e in skilled if e.low > bar and (not limit or e.settled(bar, limit))]
    head_mean_only = [e for e in skilled if e.head_mean_low is not None and e.head_mean_low > bar]
    if len(clear) == len(evidence) > 1 and all(e.seeds for e in clear):
        return Verdict.REPRODUCED
    if (clear and not everywhere) or head_mean_only:
        return Verdict.IN_PART
    final = [_final(e, bar, limit) for e in evidence.values() if not everywhere or e not in clear]
    return Verdict.NOT_REPRODUCED if (any if everywhere else all)(final) else Verdict.UNDECIDED


def _final(evidence: Evidence, bar: float, limit: bool) -> bool:
    """Say whether a larger budget could not turn a failure."""
    if evidence.low <= bar:
        return limit or evidence.settled(bar, limit)
    return evidence.settled(bar, limit) if limit else evidence.flat  # above the bar what failed is the skill


def _low(entry: Mapping[str, Any]) -> float:
    return float(entry["interval"][0] if "interval" in entry else entry["value"])
