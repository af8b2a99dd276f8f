"""What is measured of every calibrated equation: agreement by layer and head, at one step a layer and refined."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement.matching import match_heads
from pdelens.agreement.nulls import attention_nulls, mean_map, mean_states, state_nulls
from pdelens.agreement.report import class_agreement, compare, state_agreement
from pdelens.flow import Flow
from pdelens.models import Block, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import DivergenceError, integrate
from pdelens.pde.parity import equation_of

from ..teachers.teacher import Teacher
from .probe import Probe

# How the solution is refined in the test: sub-steps a layer of the splitting scheme, and the adaptive solution.
RESOLUTIONS: dict[str, dict[str, Any]] = {
    **{str(count): {"method": "lie", "substeps": count} for count in (1, 2, 4, 8, 16)},
    "converged": {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6},
}
MEASURES = ("cosine", "centred cosine")


def evaluate(
    pde: PDE,
    teacher: Teacher,
    reference: Flow,
    calibration: Flow,
    resolutions: Mapping[str, Mapping[str, Any]] = RESOLUTIONS,
    labels: Tensor | None = None,
    probe: Probe | None = None,
) -> dict[str, dict[str, Any]]:
    """Return, for every way of stepping, how an equation's solution agrees with its teacher on held-out examples.

    `reference` and `calibration` are the teacher's Flows (`Teacher.of`). By way: `cosine` and `centred cosine` (layers,
    heads; means over examples), `head mean` (layers), `read` (layers, heads: cosine of the maps that the teacher's own
    heads read off the equation's states, for equations without attention too), `r2 pooled`, `r2 mean over channels`,
    `r2, worst decile`, `cka` (depths from 1), `classes` (share of answers that are the teacher's by its own head) and,
    with `labels` (`Teacher.targets`), `accuracy`; of a pretrained model with its `probe`, `embedding` (cosine about the
    mean), `probe` and `teacher's probe` (the accuracy of its linear probe on our embeddings and on its own). A solution
    that diverges gives `{"diverged": message}`.
    """
    found = {}
    for name, how in resolutions.items():
        try:
            flow = rolled_out(pde, reference, **how)
            found[name] = evaluate_flow(flow, teacher, reference, calibration, labels, probe)
        except DivergenceError as error:
            found[name] = {"diverged": str(error)}
    return found


@torch.no_grad()
def rolled_out(pde: PDE, reference: Flow, **how: Any) -> Flow:
    """Return the equation's Flow from the reference's embedding alone."""
    return integrate(pde, reference.states[0], mask=reference.mask, check_steps=False, **how)


@torch.no_grad()
def evaluate_flow(
    flow: Flow,
    teacher: Teacher,
    reference: Flow,
    calibration: Flow,
    labels: Tensor | None = None,
    probe: Probe | None = None,
) -> dict[str, Any]:
    """Return the agreement of one Flow; see `evaluate`."""
    found: dict[str, Any] = {}
    if flow.attention:
        report = compare(flow, reference, calibration=calibration, measures=MEASURES)
        found |= {measure: report.per_head(measure) for measure in MEASURES}
        found["head mean"] = report.head_mean.mean(1)
        found |= report.states
    else:
        found |= state_agreement(flow.states, reference, calibration)
    found["read"] = compare(read_maps(teacher, flow), reference, measures=["cosine"]).per_head()
    if isinstance(teacher.model, Transformer):
        ours = teacher.answers(flow.states[-1], reference.mask)
        found["classes"] = class_agreement(ours, teacher.answers(reference.states[-1], reference.mask))
        if labels is not None:
            found["accuracy"] = float((ours.argmax(-1) == labels).double().mean())
    if probe is not None and labels is not None:
        assert teacher.embed is not None
        ours, theirs = (teacher.embed(one.states[-1], reference.padding) for one in (flow, reference))
        found["embedding"] = probe.cosine(ours, theirs)
        found["probe"], found["teacher's probe"] = (probe.accuracy(one, labels) for one in (ours, theirs))
    return {name: np.asarray(value).tolist() for name, value in found.items()}


@torch.no_grad()
def read_maps(teacher: Teacher, flow: Flow) -> tuple[Tensor, ...]:
    """Return the attention that the teacher's own heads would have at a Flow's states, in its aligned order."""
    mask = flow.padding
    model = teacher.model
    maps: list[Tensor] = []
    if isinstance(model, Transformer):
        allowed = flow.allowed() if flow.causal or mask is not None else None
        for block, u in zip(model.blocks, flow.states[:-1], strict=True):
            assert isinstance(block, Block)
            maps.append(block.attention_at(u, allowed))
    else:
        own = equation_of(model)
        for t, u in enumerate(flow.states[:-1]):
            attention = own.attention(float(t), own.encode(u, float(t)), mask)
            assert attention is not None
            maps.append(attention)
    orders = teacher.orders or (slice(None),) * len(maps)
    return tuple(found[:, order] for found, order in zip(maps, orders, strict=True))


def nulls_of(
    reference: Flow,
    calibration: Flow,
    twin: Flow | None = None,
    others: Sequence[Flow] = (),
    nearest: Tensor | None = None,
) -> dict[str, Any]:
    """Return what stands beside every equation calibrated to a teacher.

    `attention` by null (uniform, mean map, other input, shuffled layers, untrained twin, nearest neighbours): cosine
    per (layers, heads); `states` and `states pooled` by null: R2 per depth, mean over channels and pooled; `ceiling`:
    the same of another seed's teacher (`others`: its calibration and held-out Flow on the same examples), heads
    matched on the calibration examples.
    """
    given = attention_nulls(reference, calibration, twin, nearest=nearest)
    report = compare(reference, reference, given, measures=["cosine"])
    states = {
        name: state_agreement(null, reference, calibration, cka=False)
        for name, null in state_nulls(reference, calibration, nearest).items()
    }
    found: dict[str, Any] = {
        "attention": {name: null.per_head().tolist() for name, null in report.nulls.items()},
        "states": {name: about["r2 mean over channels"].tolist() for name, about in states.items()},
        "states pooled": {name: about["r2 pooled"].tolist() for name, about in states.items()},
    }
    if others:
        before, after = others
        matched = after.permute_heads(match_heads(before, calibration))
        rows = compare(matched, reference, calibration=calibration, measures=MEASURES)
        found["ceiling"] = {measure: rows.per_head(measure).tolist() for measure in MEASURES}
    return found


def evaluate_state_nulls(
    teacher: Teacher, reference: Flow, calibration: Flow, labels: Tensor | None = None
) -> dict[str, dict[str, Any]]:
    """Return how predictors of states that are no equation agree, measured as an equation without attention is.

    By name: the identity and the affine maps, both rolled out, and the mean state; see `evaluate` for the measures.
    """
    known = state_nulls(reference, calibration)
    return {
        name: evaluate_flow(replace(reference, states=states, attention=()), teacher, reference, calibration, labels)
        for name, states in known.items()
        if not name.endswith("one step")
    }


def headline(found: Mapping[str, Any], measure: str = "cosine") -> float:
    """Return the mean over heads at the worst layer of a judged way, nan where it diverged."""
    return float(np.mean(found[measure], axis=1).min()) if measure in found else float("nan")


def followed(flow: Flow, changed: Flow, unchanged: Flow, calibration: Flow) -> dict[str, float]:
    """Return how a Flow follows a teacher on changed inputs, beside nulls that ignore the change.

    `changed` and `unchanged` are the teacher's Flows on the same examples; `calibration` is of unchanged ones.
    `moved`: squared distance of the teacher's last states over their variance on unchanged inputs (about 2 where they
    have nothing to do with each other). `cosine`, and the same of two nulls: `mean map` of the calibration examples,
    `unchanged map` of the very example. `missed`: 1 - R2 of the changed states, worst depth.
    """
    nulls = {"mean map": mean_map(calibration, changed), "unchanged map": unchanged.attention}
    report = compare(flow, changed, nulls, measures=["cosine"])
    last, mean = unchanged.states[-1], mean_states(calibration)[-1]
    far, usual = ((x - last)[changed.mask].square().mean() for x in (changed.states[-1], mean))
    return {
        "moved": float(far / usual),
        "cosine": report.headline(),
        **{name: null.headline() for name, null in report.nulls.items()},
        "missed": float(1 - state_agreement(flow.states, changed, calibration)["r2 mean over channels"].min()),
    }


def energy_budget(pde: PDE, flow: Flow) -> dict[str, np.ndarray]:
    """Return each term's share of the velocity's size along a Flow: `|term| / sum |terms|`, per depth but the last.

    Sizes are root mean squares over examples, tokens and channels, at the states of the Flow.
    """
    rows = []
    with torch.no_grad():
        for (start, _), state in zip(pairwise(flow.depths.tolist()), flow.states[:-1], strict=True):
            terms = pde.frozen(start, flow.mask)
            rows.append([float(term(state)[flow.mask].square().mean().sqrt()) for term in terms.values()])
    sizes = np.array(rows)
    return dict(zip(pde.active(), (sizes / sizes.sum(1, keepdims=True)).T, strict=True))
