"""Compares two Flows, layer by layer and head by head, with the nulls beside every number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .. import _doors
from ..flow import Flow
from ..intervals import bootstrap_interval
from . import measures as agreement
from .nulls import Maps, mean_states, uniform


@dataclass(frozen=True, eq=False)
class Report:
    """Agreement of one Flow's attention (and states) with a reference's, and that of every null.

    `attention[measure]` is an array (layers, examples, heads); the measures are `cosine`, `row cosine`, `pearson`,
    `jensen-shannon`, `total variation`, `top-1` and, with a calibration Flow, `centred cosine`. `head_mean` (layers,
    examples) is the raw cosine of the maps averaged over heads. `nulls[name]` is the same report of that null.
    `states` holds, per depth from 1, `r2 pooled`, `r2 mean over channels` and `r2, worst decile`, and `cka` where there
    are 20 examples a feature (`state_agreement`).

    >>> maps = torch.full((4, 2, 5, 5), 0.2)
    >>> compare([maps], Flow(attention=[maps])).worst_head("total variation")
    0.0
    """

    attention: dict[str, np.ndarray]
    head_mean: np.ndarray
    nulls: dict[str, "Report"] = field(default_factory=dict)
    states: dict[str, np.ndarray] = field(default_factory=dict)

    def per_head(self, measure: str = "cosine") -> np.ndarray:
        """Return the mean over examples, (layers, heads)."""
        return self.attention[measure].mean(1)

    def headline(self, measure: str = "cosine") -> float:
        """Return the one number: the mean over heads (and examples), then the worst layer (a distance's largest)."""
        layers = self.per_head(measure).mean(1)
        return float(layers.max() if measure in DISTANCES else layers.min())

    def worst_head(self, measure: str = "cosine") -> float:
        """Return the smallest over layers and heads (the largest for a distance)."""
        heads = self.per_head(measure)
        return float(heads.max() if measure in DISTANCES else heads.min())

    def fifth_percentile(self, measure: str = "cosine") -> float:
        """Return the 5th percentile over examples of the mean over heads, at the worst layer."""
        examples = self.attention[measure].mean(2)  # (layers, examples)
        if measure in DISTANCES:
            return float(np.quantile(examples, 0.95, axis=1).max())
        return float(np.quantile(examples, 0.05, axis=1).min())

    def headline_interval(
        self, measure: str = "cosine", *, group: int = 1, resamples: int = 1000
    ) -> tuple[float, float]:
        """Return a 95 % bootstrap interval of the headline over examples (one model), `group` in a row at once."""
        by_example = self.attention[measure].mean(2).T  # (examples, layers)
        if len(by_example) % group:
            raise ValueError(f"{len(by_example)} examples can't be averaged {group} by {group}.")
        by_group = by_example.reshape(-1, group, by_example.shape[1]).mean(1)
        worst = np.max if measure in DISTANCES else np.min
        return bootstrap_interval(by_group, lambda rows: worst(rows.mean(0)), resamples=resamples)

    def best_null(self) -> np.ndarray:
        """Return the raw cosine of the best null of each layer and head, (layers, heads)."""
        if not self.nulls:
            raise ValueError("this report has no nulls: give `compare` a dictionary of them.")
        return np.stack([null.per_head("cosine") for null in self.nulls.values()]).max(0)

    def skill(self) -> np.ndarray:
        """Return `1 - (1 - c) / (1 - c_null)` per layer and head: 0 is the best null, 1 is perfect."""
        return skill(self.per_head("cosine"), self.best_null())

    def pooled_skill(self) -> np.ndarray:
        """Return the skill of each layer, pooled over its heads, (layers,); see `pooled_skill`."""
        return pooled_skill(self.per_head("cosine"), self.best_null())

    def testable(self) -> np.ndarray:
        """Return which heads can carry a test, (layers, heads): whose best null leaves .05 or more to make up."""
        return self.best_null() <= TESTABLE


MEASURES: dict[str, Callable[..., Tensor]] = {
    "cosine": agreement.cosine,
    "row cosine": agreement.row_cosine,
    "pearson": agreement.centred_cosine,
    "centred cosine": agreement.centred_cosine,
    "jensen-shannon": agreement.jensen_shannon,
    "total variation": agreement.total_variation,
    "top-1": agreement.top1,
}
DISTANCES = frozenset({"jensen-shannon", "total variation"})
# A head whose best null has a higher cosine than this has nearly one map for all inputs and can carry no test.
TESTABLE = 0.95


def skill(score: ArrayLike, null: ArrayLike) -> np.ndarray:
    """Return the share of the null's shortfall that a score makes up: `1 - (1 - c) / (1 - c_null)`, elementwise.

    0 is the null, 1 is perfect, below 0 is worse than the null. `score` and `null` are cosines (or other agreements
    whose best is 1) of shapes that broadcast. A null of 1 leaves nothing to make up, and the skill is then a very
    large negative number, or 1. Source: the skill score of forecast verification (Murphy 1988).

    >>> float(skill(0.98, 0.5)), float(skill(0.98, 0.98))
    (0.96, 0.0)
    """
    score, null = (np.asarray(_doors.tensor(n, v, "cosines")) for n, v in (("score", score), ("null", null)))
    if any(values.dtype.kind not in "biuf" for values in (score, null)):
        raise TypeError("scores that are no real numbers were given: cosines are wanted.")
    return np.asarray(1 - (1 - score) / np.maximum(1 - null, 1e-9))


def pooled_skill(score: ArrayLike, null: ArrayLike) -> np.ndarray:
    """Return the skill pooled over heads, the last axis: `1 - sum(1 - c) / sum(1 - c_null)`.

    A head that has nearly one map for all inputs leaves its null no shortfall to divide by, and its own skill is then
    any number; in the sum it has the weight of what it leaves.

    >>> [round(float(f([0.9, 0.97], [0.4, 0.98])), 2) for f in (lambda c, n: skill(c, n).mean(), pooled_skill)]
    [0.17, 0.79]
    """
    score, null = np.broadcast_arrays(np.asarray(score, dtype=float), np.asarray(null, dtype=float))
    return np.asarray(skill(score.mean(-1), null.mean(-1)))


@torch.no_grad()
def compare(
    flow: Flow | Sequence[Tensor],
    reference: Flow,
    nulls: Mapping[str, Flow | Maps] | None = None,
    calibration: Flow | None = None,
    measures: Sequence[str] | None = None,
) -> Report:
    """Compare a Flow (or one attention map a layer) with a reference on the same held-out examples.

    Maps are compared layer by layer and head by head, by the measures of `Report`: first of all the cosine of the
    flattened maps, `<P, A> / (|P| |A|)`. `nulls` are named Flows or maps; each is measured exactly as the Flow is, so
    that no number stands alone. `calibration` is the reference model's Flow on other examples: it gives the mean map of
    the centred cosine and the mean state of R2. `measures` keeps only those named (all, if not given). Raises
    `ValueError` where layers, heads or tokens disagree. Cost: a few passes over all maps. Source: the definitions are
    in the chapter *What a cosine of 0.98 is worth*.

    >>> maps = torch.softmax(torch.randn(8, 2, 5, 5), -1)
    >>> report = compare([maps], Flow(attention=[maps]))
    >>> round(report.headline(), 6)
    1.0
    """
    _checked(flow, reference, nulls, calibration, measures)
    means = None if calibration is None else [a.mean(0) for a in _calibration_maps(calibration, reference)]

    def report(maps: Flow | Sequence[Tensor], who: str) -> Report:
        given = _maps(maps, reference, who)
        return Report(_measures(given, reference, means, measures), _head_mean(given, reference))

    return replace(
        report(flow, "the Flow"),
        nulls={name: report(null, f"null {name!r}") for name, null in (nulls or {}).items()},
        states=_states(flow, reference, calibration) if isinstance(flow, Flow) else {},
    )


def class_agreement(logits: Tensor, reference: Tensor) -> float:
    """Return the share of examples to which both logits (examples, classes) give the same class."""
    if logits.shape != reference.shape:
        raise ValueError(f"logits of shapes {tuple(logits.shape)} and {tuple(reference.shape)} can't be compared.")
    return float((logits.argmax(-1) == reference.argmax(-1)).double().mean())


def _maps(flow: Flow | Sequence[Tensor], reference: Flow, who: str) -> Sequence[Tensor]:
    maps = flow.attention if isinstance(flow, Flow) else _given_maps(flow, who)
    if not reference.attention:
        raise ValueError("the reference has no attention: capture it with attention='weights'.")
    if len(maps) != reference.layers:
        raise ValueError(
            f"{who} has {len(maps)} attention layers and the reference {reference.layers}: they must agree."
        )
    for layer, (a, b) in enumerate(zip(maps, reference.attention, strict=True)):
        try:
            fits = torch.broadcast_shapes(a.shape, b.shape) == b.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"{who} has attention of shape {tuple(a.shape)} in layer {layer} and the reference {tuple(b.shape)}: "
                "it must be the same or broadcast to it."
            )
    return maps


def _checked(flow: Any, reference: Any, nulls: Any, calibration: Any, measures: Any) -> None:
    """Refuse what is of no kind that can be compared."""
    _doors.is_a("flow", flow, (Flow, tuple, list), "a Flow, or one map a layer,")
    _doors.is_a("reference", reference, Flow, "a Flow")
    _doors.is_a("nulls", nulls, (Mapping, type(None)), "a dictionary of Flows or maps by name")
    _doors.is_a("calibration", calibration, (Flow, type(None)), "a Flow")
    _doors.is_a("measures", measures, (tuple, list, set, frozenset, type(None)), "a list of names")


def _given_maps(maps: Any, who: str) -> tuple[Tensor, ...]:
    """Return maps as tensors, weights that none is negative of."""
    _doors.is_a(who, maps, (tuple, list), "one map a layer")
    found = tuple(_doors.tensor(f"{who}, layer {layer},", each, "a map") for layer, each in enumerate(maps))
    for layer, each in enumerate(found):
        if not each.is_floating_point() or bool((each < -1e-6).any()):
            raise ValueError(
                f"{who} has negative weights, or no real ones, in layer {layer}: maps after the softmax are wanted."
            )
    return found


def _calibration_maps(calibration: Flow, reference: Flow) -> tuple[Tensor, ...]:
    sizes = [(one.layers, one.heads, one.tokens) for one in (calibration, reference)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the calibration Flow is {calibration!r}, but one of the reference's own model is wanted: {reference!r}."
        )
    return calibration.attention


def _measures(
    maps: Sequence[Tensor], reference: Flow, means: Sequence[Tensor] | None, wanted: Sequence[str] | None
) -> dict[str, np.ndarray]:
    known = [name for name in MEASURES if means is not None or name != "centred cosine"]
    unknown = sorted(set(wanted or ()) - set(known))
    if unknown:
        raise ValueError(
            f"measure {unknown[0]!r} was asked for: choose from {', '.join(known)} (the centred cosine needs a "
            "calibration Flow)."
        )
    rows, flat = reference.mask, uniform(reference)
    found: dict[str, list[Tensor]] = {name: [] for name in known if wanted is None or name in wanted}
    for layer, (ours, theirs) in enumerate(zip(maps, reference.attention, strict=True)):
        for name, values in found.items():
            if name == "centred cosine":
                assert means is not None
                values.append(agreement.centred_cosine(ours, theirs, means[layer], rows))
            elif name == "pearson":
                values.append(agreement.centred_cosine(ours, theirs, flat[layer], rows))
            else:
                values.append(MEASURES[name](ours, theirs, rows))
    return {name: torch.stack(layers).double().cpu().numpy() for name, layers in found.items()}


def _head_mean(maps: Sequence[Tensor], reference: Flow) -> np.ndarray:
    layers = [
        agreement.cosine(ours.mean(1, keepdim=True), theirs.mean(1, keepdim=True), reference.mask)[:, 0]
        for ours, theirs in zip(maps, reference.attention, strict=True)
    ]
    return torch.stack(layers).double().cpu().numpy()


def _states(flow: Flow, reference: Flow, calibration: Flow | None) -> dict[str, np.ndarray]:
    """Agreement of states per depth; depth 0 is what both start from and says nothing."""
    if not (flow.states and reference.states and calibration is not None and calibration.states):
        return {}
    return state_agreement(flow.states, reference, calibration)


@torch.no_grad()
def state_agreement(
    states: Sequence[Tensor], reference: Flow, calibration: Flow, *, cka: bool = True
) -> dict[str, np.ndarray]:
    """Return per depth 1 ... L the agreement of states with the reference's.

    R2 is about the calibration split's mean per depth, token and channel. `r2 pooled` divides the squared error of all
    channels by their variance together, which is the norm of a calibration's loss; `r2 mean over channels` gives a
    quiet channel the weight of a loud one, `r2, worst decile` is what a tenth of the channels stay below; both leave
    out channels that carry less than 1e-6 of the mean variance (MiniLM's last norm switches three off). `cka`, half the
    cost, if wanted (debiased, linear, a sample is one token of one example, centred on that mean) is left out where
    there are fewer than 20 samples a feature.
    """
    keep = reference.mask
    pooled, r2, worst, aligned = [], [], [], []
    for ours, theirs, mean in list(zip(states, reference.states, mean_states(calibration), strict=True))[1:]:
        error, spread = ((theirs - x).cpu().double()[keep.cpu()].square().sum(0) for x in (ours, mean))
        pooled.append(float(1 - error.sum() / spread.sum().clamp_min(1e-12)))
        channels = agreement.state_r2(ours, theirs, mean, keep)[spread > 1e-6 * spread.mean()]
        r2.append(float(channels.mean()))
        worst.append(float(channels.quantile(0.1)))
        if cka and int(keep.sum()) >= 20 * theirs.shape[-1]:
            aligned.append(agreement.linear_cka((ours - mean)[keep], (theirs - mean)[keep]))
    found = {"r2 pooled": pooled, "r2 mean over channels": r2, "r2, worst decile": worst}
    found = {name: np.array(values) for name, values in found.items()}
    return found | ({"cka": np.array(aligned)} if aligned else {})
