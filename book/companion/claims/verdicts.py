"""The register of claims and the verdicts, computed from records and from nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ClaimError(LookupError):
    """A claim that is tested reads a record that is not there; the message names both."""


class Verdict(StrEnum):
    """What the book says of a claim."""

    REPRODUCED = "reproduced"
    IN_PART = "reproduced in part"
    NOT_REPRODUCED = "not reproduced"
    NOT_TESTABLE = "not testable as stated"
    NOT_YET_TESTED = "not yet tested"


@dataclass(frozen=True)
class Evidence:
    """One modality's result for a claim with a bar.

    `low` is the interval's bad end; `skill` the worst layer's skill against the best null; `head_mean_low` the bad
    end for head-averaged maps, where that is another number.
    """

    low: float
    skill: float
    head_mean_low: float | None = None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper's abstract, paraphrased, with the test that decides it.

    `keys` names, per modality, the record of the claim's number (with an interval); beside it stand `<key>.skill`
    and, where there is one, `<key>.head-mean`. `null_keys` names the records of the best knowing-nothing predictor's
    own number, per setting and modality.
    """

    name: str
    statement: str
    test: str
    version: str = "v1"
    bar: float | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    null_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def own(self) -> tuple[str, ...]:
        """Every record that the verdict is computed from: the numbers and their skill."""
        return tuple(part for key in self.keys.values() for part in (key, f"{key}.skill"))

    @property
    def read(self) -> tuple[str, ...]:
        """Every record that the verdict, and those of nulls alone, are computed from."""
        return (*self.own, *(key for keys in self.null_keys.values() for key in keys.values()))

    def verdict(self, records: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Return the verdict that these records earn (`records.all_records()`).

        A claim that names no records is not yet tested; one whose records are missing is an error (`ClaimError`),
        since a renamed key would otherwise take a verdict back in silence.
        """
        if self.bar is None or not self.keys:
            return Verdict.NOT_YET_TESTED
        self._need(records, self.own)
        evidence = {modality: _evidence(key, records) for modality, key in self.keys.items()}
        return verdict(evidence, self.bar)

    def null_verdicts(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
        """Return, per setting, the verdict that a null alone would have earned by the bar alone."""
        found = {}
        for setting, keys in self.null_keys.items():
            assert self.bar is not None
            self._need(records, keys.values())
            # A null has no skill over itself: what it would have earned where no null was shown.
            evidence = {m: Evidence(_low(records[key]), skill=1.0) for m, key in keys.items()}
            found[setting] = verdict(evidence, self.bar)
        return found

    def _need(self, records: Mapping[str, Any], keys: Iterable[str]) -> None:
        missing = [key for key in keys if key not in records]
        if missing:
            raise ClaimError(
                f"claim {self.name} reads the record {missing[0]!r}, which no chapter has: record it so, or change "
                "the claim in companion.claims.register."
            )


def verdict(evidence: Mapping[str, Evidence], bar: float) -> Verdict:
    """Return the verdict on a claim with a bar from each modality's evidence.

    *Reproduced*: in every modality the interval's bad end clears the bar and the skill against the
    best null exceeds 0.5. *In part*: in one modality, or for head-averaged maps only.

    >>> good, free = Evidence(0.985, skill=0.9), Evidence(0.99, skill=0.1)
    >>> verdict({"image": good, "text": good}, 0.98).value, verdict({"image": free, "text": free}, 0.98).value
    ('reproduced', 'not reproduced')
    """
    if not evidence:
        return Verdict.NOT_YET_TESTED
    skilled = [e for e in evidence.values() if e.skill > 0.5]
    clear = [e for e in skilled if e.low > bar]
    head_mean_only = [e for e in skilled if e.head_mean_low is not None and e.head_mean_low > bar]
    if len(clear) == len(evidence) and len(evidence) > 1:
        return Verdict.REPRODUCED
    return Verdict.IN_PART if clear or head_mean_only else Verdict.NOT_REPRODUCED


def _low(entry: Mapping[str, Any]) -> float:
    return float(entry["interval"][0] if "interval" in entry else entry["value"])


def _evidence(key: str, records: Mapping[str, Mapping[str, Any]]) -> Evidence:
    head_mean = records.get(f"{key}.head-mean")
    return Evidence(
        low=_low(records[key]),
        skill=_low(records[f"{key}.skill"]),
        head_mean_low=None if head_mean is None else _low(head_mean),
    )
