"""Rows of the tables on what equations were calibrated for, how long, and what their solutions cost; recorded."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pdelens.agreement.report import compare

from ..claims.verdicts import Verdict
from ..seeds import over_seeds, record_mean
from ..teachers.teacher import Teacher
from . import costs, files, results
from .comparison_rows import live_mean
from .proportion_goals import GOALS, PRETRAINED_GOALS, judged, reached
from .proportion_ladder import SKILL, block_operations, tokens
from .proportion_tables import Rows, hypothesis_rows, quoted, recorded, signed
from .specs import TEACHERS

SUPERVISIONS = {
    "full-k1-states": "states",
    "full-k1-short": "attention + states",
    "full-k1-logits": "attention + states + logits",
    "full-k1-labels": "labels alone",
}
MINILM = {
    "full-k1": "full, K = 1",
    "full-k2": "full, K = 2",
    "full-k3": "full, K = 3",
    "full-k1-one-step": "one step: full, K = 1",
    "full-k3-one-step": "one step: full, K = 3",
    "full-k1-states": "full, K = 1, states alone asked for",
}
TRIED = {
    "three times the steps": "full-k1",
    "nine times the steps": "full-k1-long",
    "a velocity": "full-k1-advection",
    "K = 2, by another policy": "full-k2",
    "its own layer each, by another policy": "unshared",
    "loss: states alone": "full-k1-states",
    "loss: logits too": "full-k1-logits",
    "graded sub-steps of Lie's scheme": "full-k1-graded",
    "RK4 at one step a layer": "full-k1-rk4",
    "random sub-steps": "full-k1-random",
    "a refinement penalty": "full-k1-penalty",
    "every example from its embedding alone": "full-k1-unforced",
    "sub-steps not doubled at the end": "full-k1-undoubled",
}
MAIN = {
    "full-k1": "full, K = 1",
    "full-k3": "full, K = 3",
    "no-diffusion-k1": "D = 0, K = 1",
    "full-k1-one-step": "one step: K = 1",
}
SOLVED = {"full-k1": "full, K = 1", "full-k3": "full, K = 3", "full-k1-one-step": "one step: full, K = 1"}
TOLERANCES = (1e-6, 1e-3)
ASKED = ("cosine", "centred cosine", "r2", "classes", "accuracy")


def supervision_rows(floor: Mapping[str, Mapping[str, float]]) -> Rows:
    """Return the autonomous equation by what its loss asked for, and the best null's row, by modality."""
    rows = []
    for modality, teacher in TEACHERS.items():
        for family, label in SUPERVISIONS.items():
            key = f"supervision.{modality}.{family}"
            shown = [quoted(f"{key}.{m.replace(' ', '-')}", results.seed_mean(teacher, family, m)) for m in ASKED]
            rows.append([modality, label, *shown])
        levels = (floor[modality][measure] for measure in ("cosine", "r2", "classes", "accuracy"))
        cosine, *others = (f"{level:.3f}" for level in levels)
        rows.append([modality, "*best null*", cosine, "–", *others])
    return rows


def evaluation_rows(models: Mapping[str, Teacher], count: int) -> Rows:
    """Return what the adaptive solutions of seed 0 take on so many held-out examples as one batch, and reach."""
    rows = []
    for modality, teacher in models.items():
        reference = teacher.of("heldout", count)
        mask = None if bool(reference.mask.all()) else reference.mask
        for family, label in SOLVED.items():
            pde, _ = files.load(f"rung-{TEACHERS[modality]}-{family}-seed0")
            shown = []
            for tolerance in TOLERANCES:
                key = f"sides.{modality}.{family}.{tolerance:.0e}"
                flow, number = costs.adaptive(pde, reference.states[0], mask, tolerance)
                number = recorded(key, number, "right-hand sides", rtol=0.1)
                spent = costs.solve_flops(pde, tokens(teacher), int(number)) / block_operations(teacher)
                spent = recorded(f"{key}.operations", spent, "of the teacher's blocks' operations", rtol=0.1)
                cosine = compare(flow, reference, measures=["cosine"]).headline()
                recorded(f"{key}.cosine", cosine, "1", atol=1e-2)
                shown += [f"{number:.0f}", f"{spent:.0f}"]
            rows.append([modality, label, *shown, f"{cosine:.3f}"])
    return rows


def budget_rows() -> tuple[Rows, dict[str, dict[str, list[np.ndarray]]]]:
    """Return how the main equations were calibrated, and their learning curves by modality and label.

    Recorded of each: minutes a seed, the best validation loss, and by how much of itself the loss still fell in the
    last fifth of the steps.
    """
    rows, curves = [], {modality: {} for modality in TEACHERS}
    for modality, teacher in TEACHERS.items():
        for family, label in MAIN.items():
            made: list[dict[str, Any]] = [about["made"] for about in results.records_of(teacher, family).values()]
            curves[modality][label] = [np.array(about["curve"], dtype=float) for about in made]
            late = over_seeds([_fell_late(curve) for curve in curves[modality][label]])
            key = f"{modality}.{family}"
            record_mean(f"much.{key}.late", late, "share of the loss")
            loss = quoted(f"{key}.loss", over_seeds([about["best"] for about in made]))
            minutes = float(np.mean([about["seconds"] for about in made])) / 60
            minutes = recorded(f"{key}.minutes", minutes, "minutes a seed", rtol=1e-6)
            plan = made[0]["plan"]
            how = (str(len(made)), f"{plan['steps']:,} x {plan['batch']}", f"{minutes:.0f}")
            rows.append([modality, label, *how, loss, f"{late.mean:.1%}"])
    return rows, curves


def _fell_late(curve: np.ndarray) -> float:
    """Return by how much of itself the validation loss fell in the last fifth of the steps; (points, 3)."""
    return float(1 - curve[-1, 2] / np.interp(0.8 * curve[-1, 0], curve[:, 0], curve[:, 2]))


def tried_rows() -> Rows:
    """Return what changes of the calibration changed, one seed, from the short autonomous equation's numbers."""
    rows = [["*full, K = 1, short*"]]
    for teacher in TEACHERS.values():
        rows[0] += [str(results.seed_mean(teacher, "full-k1-short", measure)) for measure in ("cosine", "r2")]
    longest = 0.0
    for label, family in TRIED.items():
        row = [label]
        for modality, teacher in TEACHERS.items():
            for about in results.records_of(teacher, family).values():
                longest = max(longest, about["made"]["seconds"] / 60)
            for measure in ("cosine", "r2"):
                change = results.difference(teacher, family, "full-k1-short", measure)
                row.append(quoted(f"tried.{modality}.{family}.{measure}.change", change, signed))
        rows.append(row)
    recorded("tried.minutes", longest, "minutes", rtol=1e-6)
    return rows


def goal_rows() -> Rows:
    """Return every goal, what pictures and texts reached, and the verdict; records how many had which verdict."""
    rows, verdicts = [], []
    for goal in GOALS:
        shown = []
        for modality, teacher in TEACHERS.items():
            key = f"much.goal.{modality}.{goal.what.replace(' ', '-')}.{goal.family}"
            recorder = live_mean if goal.measure == SKILL else record_mean
            shown.append(recorder(key, reached(goal, teacher)))
        verdicts.append(judged(goal))
        rows.append([goal.what, goal.modes, f"{goal.wanted:g}", *shown, verdicts[-1].value])
    for goal in PRETRAINED_GOALS:
        found = record_mean(f"much.goal.minilm.{goal.what.replace(' ', '-')}.{goal.family}", reached(goal, "minilm"))
        verdicts.append(judged(goal, ("minilm",)))
        rows.append([f"MiniLM: {goal.what}", goal.modes, f"{goal.wanted:g}", "–", found, verdicts[-1].value])
    for key, wanted in (("met", Verdict.REPRODUCED), ("part", Verdict.IN_PART), ("open", Verdict.UNDECIDED)):
        recorded(f"goals.{key}", verdicts.count(wanted), "goals")
    recorded("goals", len(verdicts), "goals")
    return rows


def minilm_rows() -> Rows:
    """Return the pretrained encoder's equations, their share of its blocks' parameters, and its best null."""
    rows = []
    for row, family in zip(hypothesis_rows("minilm", "minilm", MINILM), MINILM, strict=True):
        share = next(iter(results.records_of("minilm", family).values()))["made"]["share"]
        rows.append([row[0], f"{share:.1%}", *row[1:-1]])  # it has no classes
    best = results.null_seed_mean("minilm", "best")
    rows.append(["*best null*", "–", "–", record_mean("much.minilm.null.best", best), "–", "–", "–"])
    flattest = float(results.best_null("minilm").max())
    recorded("minilm.null.flattest", flattest, "cosine", rtol=1e-6)
    return rows
