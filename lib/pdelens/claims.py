"""The register of claims and the verdicts, computed from records and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


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

    `keys` names, per modality, the record of the claim's number (with an interval); beside it stand
    `<key>.skill` and, where there is one, `<key>.head-mean`. `null_keys` names the records of the
    best knowing-nothing predictor's own number, per setting and modality.
    """

    name: str
    statement: str
    test: str
    version: str = "v1"
    bar: float | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    null_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def verdict(self, records: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Return the verdict that these records earn (`records.all_records()`)."""
        if self.bar is None or not self.keys or any(key not in records for key in self.keys.values()):
            return Verdict.NOT_YET_TESTED
        evidence = {modality: _evidence(key, records) for modality, key in self.keys.items()}
        return verdict(evidence, self.bar)

    def null_verdicts(self, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
        """Return, per setting, the verdict that a null alone would have earned by the bar alone."""
        found = {}
        for setting, keys in self.null_keys.items():
            if self.bar is not None and all(key in records for key in keys.values()):
                # A null has no skill over itself: what it would have earned where no null was shown.
                evidence = {m: Evidence(_low(records[key]), skill=1.0) for m, key in keys.items()}
                found[setting] = verdict(evidence, self.bar)
        return found


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


def register() -> tuple[Claim, ...]:
    """Return every claim that the book tests, in order."""
    return _REGISTER


_REGISTER = (
    Claim(
        "C1",
        "The PDE's attention matches the Transformer's with a cosine similarity above 0.98 at all layers.",
        "Per layer and head, held out, trained teachers, five seeds, image and text, supervision named.",
        bar=0.98,
        keys={"image": "c1.image", "text": "c1.text"},
        null_keys={
            "untrained models": {
                "image": "c1.null.untrained.image",
                "text": "c1.null.untrained.text",
            },
            "trained models": {"image": "c1.null.trained.image", "text": "c1.null.trained.text"},
        },
    ),
    Claim(
        "C2",
        "The PDE captures how information flows through the layers.",
        "Converged state R2 of the autonomous equation, worst depth, held out, over seeds, image and text; the bar is "
        "this book's own.",
        bar=0.9,
        keys={"image": "c2.image", "text": "c2.text"},
        null_keys={"trained models": {"image": "c2.null.image", "text": "c2.null.text"}},
    ),
    Claim(
        "C2b",
        "The dynamics are a continuous process.",
        "Attention cosine of the converged solution, steps refined until nothing changes, over seeds, image and text.",
        bar=0.98,
        keys={"image": "c2b.image", "text": "c2b.text"},
        null_keys={"trained models": {"image": "c2b.null.image", "text": "c2b.null.text"}},
    ),
    Claim(
        "C3",
        "Layers compress their input and keep what predicts the label (information bottleneck).",
        "Usable I(T;Y) and I(X;T) at stated noise, over depth and training; untrained and label-permuted controls.",
    ),
    Claim(
        "C4",
        "Gradients flow through the PDE as through the Transformer.",
        "Gradient norms and Jacobian spectra over depth; another seed as ceiling, untrained and linear as nulls.",
    ),
    Claim(
        "C5",
        "The PDE is as sensitive to perturbations as the Transformer.",
        "Growth curves, finite-time Lyapunov exponents, rank correlation per example.",
    ),
    Claim(
        "C6",
        "Complex non-linear transformations escape the PDE (the paper's own limit).",
        "Share of the states' variance that the converged solution misses, beyond what a cosine of 0.98 allows, and "
        "whether it is what no affine map of a layer can give.",
        bar=1 - 0.98**2,
        keys={"image": "c6.image", "text": "c6.text"},
        null_keys={"affine maps alone": {"image": "c6.null.image", "text": "c6.null.text"}},
    ),
    Claim(
        "C7",
        "Without residual connections, representations drift.",
        "Drift, rank and loss over seeds; scaled initialisation as control.",
        version="v2",
    ),
    Claim(
        "C8",
        "Without layer normalisation, training explodes.",
        "Largest stable learning rate against depth; DyT and small initialisation as controls.",
        version="v2",
    ),
    Claim(
        "C9",
        "Information flows between layers as the theory says.",
        "Token-level mutual information of PDE and teacher, within seed intervals and better than nulls.",
    ),
)
