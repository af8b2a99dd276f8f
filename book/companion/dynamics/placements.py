"""How gradients flow where the normalisation stands elsewhere, or is none: before the first step and after the last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pdelens.models import Transformer
from pdelens.sensitivity.normality import non_normality

from ..jobs import Job, Run
from ..surrogates.candidates import selected, weights_there
from ..surrogates.study import rounded, weight_digests
from ..teachers.recipes import CHEAP, fits
from ..teachers.teacher import Teacher, teacher_named
from .gradients import PART, teacher_gradient
from .spectra import layer_maps
from .volumes import written_down

PLACEMENTS = "placements"
# A layer's normalisation, by how the cheap teachers' variants are called.
VARIANTS = {"LayerNorm before": "", "LayerNorm after": "post", "dynamic tanh": "dyt", "no norm": "none"}
TRAINED, UNTRAINED = "trained", "untrained"
# Held-out examples of the gradients, draws for normality, and seeds of untrained networks.
COUNTS = {"smoke": (8, 4, 1), "book": (256, 8, 3), "full": (1024, 16, 5)}


@dataclass(frozen=True)
class Placements(Job):
    """Gradients over depth and layers' Jacobians of the cheap teachers of one family, by normalisation."""

    family: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{PLACEMENTS}-{self.family}"

    @property
    def teachers(self) -> dict[str, str]:
        """The teachers that are measured, by normalisation: of the first seed."""
        parts = {label: (self.family, variant, "seed0") for label, variant in VARIANTS.items()}
        return {label: "-".join(part for part in each if part) for label, each in parts.items()}

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the sizes and the weights."""
        return {"counts": COUNTS[run.scale], "weights": weight_digests(self.teachers.values(), (), run)}

    def line(self, record: Mapping[str, Any]) -> str:
        """Return by how many powers of ten each trained network's gradient is larger at the input."""
        found = (f"{label} {each[TRAINED][0]['norms'][0]:.2f}" for label, each in record.items())
        return f"log10 of the gradient at depth 0: {', '.join(found)}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return by normalisation and `TRAINED` or `UNTRAINED` what `measure` finds, a row a seed."""
        count, draws, seeds = COUNTS[run.scale]
        found = {}
        for label, name in self.teachers.items():
            teacher = teacher_named(name, run.folder)
            rows = {TRAINED: [teacher], UNTRAINED: [_begun(teacher, seed) for seed in range(seeds)]}
            found[label] = {kind: [measure(one, count, draws) for one in each] for kind, each in rows.items()}
        return rounded(found)


def placement_jobs(run: Run, only: str = "*") -> list[Placements]:
    """Return the jobs that fit, of families of which every variant's weights are there."""
    found = [job for job in map(Placements, CHEAP) if fits(job.name, only.split(","))]
    return [job for job in found if all(weights_there(name, run) is not None for name in job.teachers.values())]


def _begun(teacher: Teacher, seed: int) -> Teacher:
    """Return the same architecture as it is drawn from a seed."""
    assert isinstance(teacher.model, Transformer)
    model = Transformer(teacher.model.configuration, seed).eval().requires_grad_(False)
    return replace(teacher, model=model, orders=())


def measure(teacher: Teacher, count: int, draws: int) -> dict[str, Any]:
    """Return how a loss's gradient flows in a network, and what its layers' Jacobians are.

    `accuracy`, held out; `norms`: mean over examples of `log10 |g(l)| / |g(L)|` by depth; by layer, on the first
    example, `departure` and `asymmetry` of the branch, and `volume` (`volume_beside`).
    """
    inputs, labels = teacher.inputs("heldout", count)
    gradient = teacher_gradient(teacher, inputs, labels)
    layers = layer_maps(teacher.model, selected(inputs, [0]))
    # A LayerNorm after the layer leaves each token neither a mean nor a length.
    removed = 2 if teacher.form == "post" else 0
    normality = [non_normality(layer, draws=draws, rounds=1) for layer in layers]
    return {
        "accuracy": _accuracy(teacher, inputs, labels),
        "norms": (gradient.log_ratio().double().mean(1) / torch.log(torch.tensor(10.0))).tolist(),
        "departure": [float(each.departure.value[0]) for each in normality],
        "asymmetry": [float(each.asymmetry.value[0]) for each in normality],
        "volume": [volume_beside(written_down(layer), removed / teacher.width) for layer in layers],
    }


def volume_beside(jacobian: Tensor, removed: float) -> float:
    """Return the mean logarithm of the singular values of a Jacobian, but for the smallest share of them.

    That share is what a layer removes whatever it is given: no volume is left in these directions.

    >>> round(volume_beside(torch.diag(torch.tensor([1.0, 1.0, 0.0])), 1 / 3), 6)
    0.0
    """
    values = torch.linalg.svdvals(jacobian.double())
    return float(values[: len(values) - round(removed * len(values))].log().mean())


@torch.no_grad()
def _accuracy(teacher: Teacher, inputs: Any, labels: Tensor) -> float:
    given: Sequence[Any] = (inputs["inputs"], inputs["mask"]) if isinstance(inputs, dict) else (inputs,)
    return float((teacher.model(*given).argmax(-1) == labels).double().mean())
