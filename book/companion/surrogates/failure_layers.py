"""Where in a teacher an equation fails: how non-affine its layers are, and which part of a layer is missed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from pdelens.agreement.nulls import mean_states, state_nulls
from pdelens.agreement.report import state_agreement
from pdelens.flow import Flow

from ..teachers.teacher import Teacher
from . import errors, results
from .store import NULLS, sweep_records

LAYERS = range(1, 7)
# Equations whose local errors are divided, and the nulls beside them, by what tables call them.
FAMILIES = {"full-k1": "K = 1", "full-k3": "K = 3", "full-k1-one-step": "K = 1, one step"}
STATE_NULLS = {"affine, one step": "affine maps", "identity, one step": "nothing added"}


def non_affinities(teacher: Teacher, reference: Flow, calibration: Flow) -> dict[str, np.ndarray]:
    """Return what the best affine map of each layer leaves of states and steps, (layers,) each, by name.

    `state` and `step`: one map for each token alone; `-with-averages`: it may also use averages over tokens by each
    head's mean map; `-untrained`: each token alone, of the untrained twin on as many of the same examples. Shares of
    variance, held out; see `errors.non_affinity`.
    """
    twin = teacher.untrained()
    others = twin.of("heldout", reference.examples), twin.of("calibration", calibration.examples)
    kinds = {
        "": errors.non_affinity(reference, calibration),
        "-with-averages": errors.non_affinity(reference, calibration, neighbours=True),
        "-untrained": errors.non_affinity(*others),
    }
    names = (("state", "states"), ("step", "steps"))
    return {f"{name}{kind}": getattr(found, part) for name, part in names for kind, found in kinds.items()}


def null_splits(reference: Flow, calibration: Flow) -> dict[str, errors.LinearSplit]:
    """Return how the errors of two nulls divide (`errors.linear_split`), which know the true state before each layer.

    The layer's best affine map, fitted on other examples, ought to miss all of the rest and none of the affine part.
    """
    known = state_nulls(reference, calibration)
    return {
        name: errors.linear_split(replace(reference, states=known[name]), reference, calibration)
        for name in STATE_NULLS
    }


def over_layers(found: errors.LinearSplit) -> dict[str, float]:
    """Return the missed share of all layers' affine parts together (`affine`), and of all that is left (`rest`)."""
    return {
        "affine": float((found.unmet * found.error).sum() / found.linear.sum()),
        "rest": float((found.unmet * (1 - found.error)).sum() / (1 - found.linear).sum()),
    }


def pooled_split(flow: Flow, reference: Flow, calibration: Flow, folds: int = 8) -> errors.LinearSplit:
    """Divide a Flow's error as `errors.linear_split` does, squares summed over channels before they are divided.

    There a quiet channel counts as much as a loud one; here each by its variance, as in the loss of a calibration.
    About 1 s for 192 examples of 49 tokens, width 64.
    """
    means, keep = mean_states(calibration), reference.mask
    fold = (torch.arange(reference.examples) % folds)[:, None].expand(keep.shape)[keep]
    found = []
    for layer in range(1, len(reference.states)):
        before, truth, error = (
            values[keep].double()
            for values in (
                reference.states[layer - 1] - means[layer - 1],
                reference.states[layer] - means[layer],
                flow.states[layer] - reference.states[layer],
            )
        )
        design = torch.cat([before, torch.ones_like(before[:, :1])], 1)
        left = _left(design, torch.cat([truth, error], 1), fold).square().sum(0).reshape(2, -1).sum(1)
        whole = torch.stack([values.square().sum() for values in (truth, error)])
        shares = (1 - left / whole.clamp_min(1e-30)).clamp_min(0).tolist()
        found.append((float(whole[1] / whole[0]), *shares))
    return errors.LinearSplit(*np.array(found).T)


def _left(design: torch.Tensor, wanted: torch.Tensor, fold: torch.Tensor) -> torch.Tensor:
    """Return what a linear map leaves of each row, fitted by least squares on the rows of all other folds."""
    left = torch.empty_like(wanted)
    for number in fold.unique():
        out = fold == number
        gram = design[~out].T @ design[~out]
        # A ridge far below the data's own scale: states may lie in a subspace.
        gram += 1e-9 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        left[out] = wanted[out] - design[out] @ torch.linalg.solve(gram, design[~out].T @ wanted[~out])
    return left


def missed(states: Sequence[torch.Tensor], reference: Flow, calibration: Flow) -> float:
    """Return the share of the states' variance missed at the worst depth from 1, pooled over channels."""
    return float(1 - np.min(state_agreement(states, reference, calibration, cka=False)["r2 pooled"]))


def null_missed(reference: Flow, calibration: Flow, nearest: torch.Tensor) -> dict[str, float]:
    """Return what two predictors that see no more than the input miss (`missed`).

    Affine maps of each layer, rolled out from the embedding; and the mean states of the calibration examples `nearest`
    to each (examples, count).
    """
    known = state_nulls(reference, calibration, nearest)
    return {name: missed(known[name], reference, calibration) for name in ("affine, rolled out", "nearest neighbours")}


class Losses(NamedTuple):
    """Shares of the states' variance that are missed after each layer, (seeds, layers) each.

    `local`: by the converged equation, from the teacher's own state before the layer; `affine`: by the layer's best
    affine map, from the same; `rolled`: by the converged equation from the embedding, where it did not diverge;
    `straight`: by those affine maps, rolled out from the embedding.
    """

    local: np.ndarray
    affine: np.ndarray
    rolled: np.ndarray
    straight: np.ndarray


def losses(teacher: str, family: str = "full-k1") -> Losses:
    """Return what an equation misses of a teacher's states, and what affine maps do; `teacher` as in `specs`."""
    records = results.records_of(teacher, family)
    known = [sweep_records()[NULLS][about["made"]["subject"]]["states"] for about in records.values()]
    judged = [about["judged"]["converged"] for about in records.values()]
    return Losses(
        np.array([found.unmet for found in results.split_of_error(teacher, family).values()]),
        1 - np.array([states["affine, one step"] for states in known]),
        1 - np.array([found["r2"] for found in judged if "r2" in found]),
        1 - np.array([states["affine, rolled out"] for states in known]),
    )


def judged(teacher: str, family: str, resolution: str = "converged") -> dict[str, float]:
    """Return an equation's share missed (`unmet`, worst depth), `cosine` and `classes`: means over seeds."""
    found = {name: results.seed_mean(teacher, family, name, resolution).mean for name in ("r2", "cosine", "classes")}
    return {"unmet": 1 - found.pop("r2"), **found}


def null_judged(teacher: str) -> dict[str, float]:
    """Return what a teacher of seed 0 leaves to who knows no equation.

    `non-affinity`: mean over layers of what the best affine map leaves; `null`: what these maps miss, rolled out, at
    the worst depth; `null-cosine`: of the mean map.
    """
    states = sweep_records()[NULLS][f"{teacher}-seed0"]["states"]
    return {
        "non-affinity": float(1 - np.mean(states["affine, one step"])),
        "null": float(1 - np.min(states["affine, rolled out"])),
        "null-cosine": results.null(f"{teacher}-seed0", "mean map"),
    }


def by_layer(teacher: str, family: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return attention's cosine (mean over heads) and the share of the states' variance missed, by layer, of seed 0.

    Of the converged equation; without a family, of the nulls: the mean map, and affine maps rolled out.
    """
    if family:
        found = results.records_of(teacher, family)[0]["judged"]["converged"]
        return np.mean(found["cosine"], axis=1), 1 - np.array(found["r2"])
    known = sweep_records()[NULLS][f"{teacher}-seed0"]
    return np.mean(known["attention"]["mean map"], axis=1), 1 - np.array(known["states"]["affine, rolled out"])
