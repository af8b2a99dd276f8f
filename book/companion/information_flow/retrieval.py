"""Bounds of what states still tell of their input where noise enters every layer: retrieval, and data processing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pdelens.information.neural import ceiling, info_nce
from pdelens.information.usable import usable_information
from pdelens.models import Transformer

from ..jobs import Job, Run
from ..surrogates.study import rounded, weight_digests
from ..teachers.teacher import Inputs, Teacher, cached_teacher
from .content import PART

RETRIEVAL = "retrieval"
# Noise that enters after every layer, over the layer's own scale.
LEVELS = (0.3, 1.0, 3.0)
# Held-out examples, steps of training of the critics, and their batch; principal components that a critic is given.
COUNTS = {"smoke": (120, 20, 16), "book": (2000, 400, 256), "full": (8000, 1000, 512)}
COMPONENTS = 64


@dataclass(frozen=True)
class Retrieval(Job):
    """A retrieval bound of the information between input and state, by depth, with noise in every layer."""

    teacher: str
    needs = ()

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{RETRIEVAL}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the sizes, the levels and the weights."""
        sizes = {"counts": COUNTS[run.scale], "levels": LEVELS, "components": COMPONENTS}
        return sizes | {"weights": weight_digests([self.teacher], (), run)}

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the bounds at the middle level, at the first depth and the last."""
        bounds = record["bounds"][len(LEVELS) // 2]
        return f"{bounds[0]:.3f} nats at depth 1, {bounds[-1]:.3f} at the last"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        return rounded(measure(cached_teacher(self.teacher, run), *COUNTS[run.scale]))


def measure(teacher: Teacher, examples: int, steps: int, batch: int) -> dict[str, Any]:
    """Return bounds of I(X; state) with noise in the chain, on held-out examples.

    By level (`LEVELS`): `bounds` by depth from 1, InfoNCE of critics that were trained on other examples, nats;
    `label`: usable information about the class, which the state has of its input too; `processed`: the largest of both
    from a depth on, which by data processing bounds that depth's information; `accuracy` of the teacher's head on the
    last noisy state. `clean`: its accuracy without noise; `ceiling`: the most that a critic can report. The input is
    given to the critic as its embedding, states as all their tokens, both as principal components.
    """
    inputs, labels = teacher.inputs("heldout", examples)
    model = teacher.model
    assert isinstance(model, Transformer)
    clean = noisy_states(model, inputs, 0.0)
    source, mask = components(clean[0], _mask(inputs)), _mask(inputs)
    found: dict[str, Any] = {"bounds": [], "label": [], "processed": [], "accuracy": []}
    for level in LEVELS:
        states = noisy_states(model, inputs, level)
        read = [components(u, mask) for u in states[1:]]
        bounds = [info_nce(source, u, batch=batch, steps=steps) for u in read]
        known = [float(usable_information(u, labels, permutations=0)) for u in read]
        found["bounds"].append(bounds)
        found["label"].append(known)
        found["processed"].append([max(bounds[depth:] + known[depth:]) for depth in range(len(bounds))])
        found["accuracy"].append(_accuracy(teacher, states[-1], mask, labels))
    found["clean"] = _accuracy(teacher, clean[-1], mask, labels)
    return found | {"examples": examples, "ceiling": ceiling(examples, batch=batch)}


@torch.no_grad()
def noisy_states(model: Transformer, inputs: Inputs, level: float, seed: int = 0) -> list[Tensor]:
    """Return the states at every depth with normal noise after each layer, `level` times the clean layer's scale.

    The scale is the root mean square of a clean state about its mean, over real tokens and examples. Padding has none.
    """
    mask, generator = _mask(inputs), torch.Generator().manual_seed(seed)
    allowed = None if mask is None else mask[:, None, None, :]
    clean = noisy = model.embedding(inputs["inputs"] if isinstance(inputs, dict) else inputs)
    states = [noisy]
    for block in model.blocks:
        clean, noisy = block(clean, allowed), block(noisy, allowed)
        real = clean.flatten(0, 1) if mask is None else clean[mask]
        scale = (real - real.mean(0)).square().mean().sqrt()
        noise = level * scale * torch.randn(noisy.shape, generator=generator)
        noisy = noisy + (noise if mask is None else noise.masked_fill(~mask[..., None], 0.0))
        states.append(noisy)
    return states


def components(states: Tensor, mask: Tensor | None, count: int = COMPONENTS) -> Tensor:
    """Return the leading principal components of whole states (examples, tokens, width), (examples, count)."""
    kept = states if mask is None else states.masked_fill(~mask[..., None], 0.0)
    rows = kept.flatten(1).double()
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    count = min(count, rows.shape[1], len(rows))
    return vectors[:, -count:] * values[-count:].clamp_min(0.0).sqrt()


def _mask(inputs: Inputs) -> Tensor | None:
    return inputs["mask"].bool() if isinstance(inputs, dict) else None


@torch.no_grad()
def _accuracy(teacher: Teacher, last: Tensor, mask: Tensor | None, labels: Tensor) -> float:
    real = torch.ones(last.shape[:2], dtype=torch.bool) if mask is None else mask
    return float((teacher.readout(last, real).argmax(-1) == labels).double().mean())
