"""Records and table rows of the chapter on the cosine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pdelens.agreement.report import Report, pooled_skill
from pdelens.intervals import t_interval

from ..records import record, recorded
from .cosine_subjects import MEASURES, layers

POWER = ("cosine", "worst head", "centred cosine", "pearson", "pooled skill", "top-1")


def null_scores(modality: str, null: str, trained: Report, untrained: Sequence[Report]) -> None:
    """Record a null's headlines, before and after training, and its score in its best layer.

    Keys: `untrained.<modality>.<null>` (mean over initialisations, Student's interval) and `trained...` (interval over
    examples), each with `.most` for the best layer and `.centred` for the centred cosine, with its `.centred.most`.
    """
    for measure in MEASURES:
        key = f"{modality}.{null.replace(' ', '-')}" + ("" if measure == "cosine" else ".centred")
        scores = layers(untrained, null, measure)  # (seeds, layers)
        worst, own = scores.min(1), trained.nulls[null]
        about: dict[str, Any] = {"unit": "cosine", "atol": 2e-3, "rtol": 0}
        record(f"untrained.{key}", worst.mean(), interval=t_interval(worst), seeds=len(worst), **about)
        record(f"trained.{key}", own.headline(measure), interval=own.headline_interval(measure), **about)
        record(f"untrained.{key}.most", scores.max(1).mean(), **about)
        record(f"trained.{key}.most", own.per_head(measure).mean(1).max(), **about)


def cell(key: str) -> str:
    """Return a record with its interval as a table shows it."""
    entry = recorded(key)
    low, high = (f"{end:.3f}".lstrip("0") for end in entry["interval"])
    return f"{entry['value']:.3f} ({low}–{high})"


def best_null(key: str, reports: Sequence[Report], headlines: Mapping[str, Sequence[float]]) -> None:
    """Record the headline of the null that has the highest, over seeds or else over the one report's examples."""
    best = max(headlines, key=lambda name: np.mean(headlines[name]))
    values, null = headlines[best], reports[0].nulls[best]
    about: dict[str, Any] = {"unit": "cosine", "atol": 2e-3, "rtol": 0}
    about |= (
        {"interval": t_interval(values), "seeds": len(values)}
        if len(values) > 1
        else {"interval": null.headline_interval()}
    )
    record(key, np.mean(values), **about)


def power(key: str, found: Report, null: np.ndarray) -> list[str]:
    """Record what maps of a known kind score by every measure (`<key>.<measure>`), and return a row's cells.

    Worst layer of the mean over heads; `worst head` of all; `pooled skill` against the best null of each head.
    """
    numbers = {measure: found.headline(measure) for measure in POWER if measure in found.attention}
    numbers |= {"worst head": found.worst_head(), "pooled skill": float(pooled_skill(found.per_head(), null).min())}
    keys = {measure: f"{key}.{measure.replace(' ', '-')}" for measure in POWER}
    return [f"{record(keys[measure], numbers[measure], unit='1', atol=5e-3, rtol=0):.2f}" for measure in POWER]
