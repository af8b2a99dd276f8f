"""Measures planes of the bottleneck over depth and training, and of equations over depth: jobs of the one runner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from pdelens.flow import Flow
from pdelens.models import Transformer

from ..jobs import Job, Run
from ..paths import sha256
from ..surrogates import candidates
from ..surrogates.solution_fields import CONVERGED
from ..surrogates.study import jobs_of, names_of, weight_digests
from ..teachers.recipes import TWINS, Recipe, fits, recipes_of
from ..teachers.teacher import cached_teacher
from . import measures, subjects
from .subjects import Sample

PART = "bottleneck"
PLANE, EQUATION = "plane", "equation"
FAMILIES = ("image-patch7", "text-short")
TRAINED, RANDOM, ACTIVATIONS = "", "random-labels", ("tanh", "relu", "linear")
# Equally likely inputs; examples of probes, entropy and scatter; the same of a main teacher; numbers of inputs swept.
SIZES = {
    "smoke": (48, 160, 160, (24, 48, 96)),
    "book": (512, 2800, 2100, (64, 128, 256, 512, 1024, 2048)),
    "full": (1024, 8000, 4000, (64, 128, 256, 512, 1024, 2048, 4096)),
}
# A twin learns so many examples by heart; the equation's solver is checked on so many.
LEARNT, FEW = 2000, 16
FAMILY = "two-layer"


@dataclass(frozen=True, eq=False)
class Layers:
    """The states of one model on one sample, as they are measured: means over tokens, depth by depth."""

    flow: Flow
    sample: Sample
    inputs: int

    @cached_property
    def pooled(self) -> list[Tensor]:
        """The mean over real tokens at every depth, (examples, width)."""
        return measures.pooled(self.flow)

    def shape(self) -> dict[str, Any]:
        """Return by depth the measures of compression, and what the literature's planes are drawn with."""
        rows = [measures.compressed(state, self.sample.labels, self.inputs) for state in self.pooled]
        known = [measures.literature(state[: self.inputs]) for state in self.pooled]
        found = measures.columns_of([row for row, _ in rows]) | {"error": max(error for _, error in rows)}
        return found | {name: [row[name] for row in known] for name in known[0]}

    def within(self) -> list[float]:
        """Return by depth the half-noise of what is left about the classes' means, as `measures.within` does."""
        return [measures.within(state[: self.inputs], self.sample.labels[: self.inputs]) for state in self.pooled]

    def curves(self) -> dict[str, Any]:
        """Return by depth I(X; T + noise) over two decades of noise, of means over tokens and of all tokens."""
        part = self.flow.select(slice(self.inputs))
        mask = None if bool(part.mask.all()) else part.mask
        mean = [measures.curve(state[: self.inputs], measures.POOLED) for state in self.pooled]
        every = [measures.curve(state, measures.TOKENS, mask) for state in part.states]
        return {
            "pooled": [values for values, _ in mean],
            "tokens": [values for values, _ in every],
            "half, tokens": [measures.half_noise(state, mask)[0] for state in part.states],
            "error": max(error for _, error in mean + every),
        }

    def neighbours(self) -> list[float]:
        """Return by depth KSG's estimate of the information between embedding and layer."""
        return [measures.neighbours(self.pooled[0][: self.inputs], state[: self.inputs]) for state in self.pooled]

    def usable(self, depths: Sequence[int], family: str = FAMILY) -> list[float]:
        """Return usable information about the label at some depths."""
        sample = self.sample
        return [measures.usable(self.pooled[depth], sample.labels, sample.groups, family) for depth in depths]

    def whole(self) -> dict[str, Any]:
        """Return all that is measured of the first and the last moment."""
        found = self.shape() | {"within": self.within(), "curves": self.curves(), "ksg": self.neighbours()}
        return found | {FAMILY: self.usable(range(len(self.pooled)))}


@dataclass(frozen=True)
class Plane(Job):
    """A cheap teacher over depth and over training; a random-label twin also on what it has learnt by heart."""

    recipe: Recipe

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{PLANE}-{self.recipe.name}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes and the weights of every moment."""
        found = subjects.moments(self.recipe, run.folder)
        weights = {str(step): sha256(path) for step, path in found.items() if path is not None and path.exists()}
        return _settings(run) | {"weights": weights}

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the compression over depth at the end of training."""
        row = record["moments"][str(max(record["steps"]))]
        return f"compressed from depth 1 to the last by {row['noise'][1] - row['noise'][-1]:+.3f} nats of noise"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found, by moment (steps as text) and depth; see `Layers` for what is measured.

        `moments`: all of `Layers.whole` at the first moment and at the last; between them `Layers.shape`, and usable
        information at the last depth. Of other activations the label is asked for at the last moment alone. `linear`
        is that moment's last depth by a linear probe. A random-label twin's first moment is that of the trained teacher
        with its seed, and not measured again. `counts`: half-noise at depth 1 and the last by the number of inputs.
        """
        inputs, count, _, counts = SIZES[run.scale]
        recipe, labelled = self.recipe, self.recipe.variant in (TRAINED, RANDOM)
        found = subjects.moments(recipe, run.folder)
        sample = subjects.held_out(recipe.configuration, count, run.folder)
        ends = 1, recipe.configuration.layers
        rows: dict[str, Any] = {}
        for step, path in found.items():
            if step == 0 and recipe.variant == RANDOM:
                continue
            own = Layers(subjects.flow_at(subjects.model_at(recipe, path), sample), sample, inputs)
            last, between = step == recipe.steps, 0 < step < recipe.steps
            rows[str(step)] = own.whole() if last or (step == 0 and labelled) else own.shape()
            if between and labelled:
                rows[str(step)] |= {f"{FAMILY}, last": own.usable(ends[-1:])}
        rows[str(recipe.steps)]["linear"] = own.usable(ends[-1:], "linear")
        return {
            "examples": len(sample.labels),
            "inputs": inputs,
            "ceiling": measures.label_entropy(sample.labels),
            "steps": [int(step) for step in rows],
            "moments": rows,
            "counts": measures.by_inputs([own.pooled[depth] for depth in ends], counts),
        } | ({"memorised": self._memorised(run, found)} if recipe.variant == RANDOM else {})

    def _memorised(self, run: Run, found: Mapping[int, Path | None]) -> dict[str, Any]:
        """Return the same on what the twin was trained on, with the labels it was given, before and after."""
        inputs, count, _, _ = SIZES[run.scale]
        sample = subjects.memorised(self.recipe, min(LEARNT, count), run.folder)
        rows = {}
        for step in (0, self.recipe.steps):
            model = subjects.model_at(self.recipe, found[step])
            own = Layers(subjects.flow_at(model, sample), sample, inputs)
            rows[str(step)] = own.shape() | {"within": own.within()}
        rows[str(self.recipe.steps)][FAMILY] = own.usable(range(len(own.pooled)))
        return {"moments": rows, "ceiling": measures.label_entropy(sample.labels), "examples": len(sample.labels)}


@dataclass(frozen=True)
class Equation(Job):
    """A main teacher over depth, trained and untrained, and beside it its equation of three laws, solved."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{EQUATION}-{self.teacher}"

    @property
    def law(self) -> str:
        """The equation's name."""
        return candidates.equation_name(self.teacher, candidates.LAWS["three laws"])

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        weights = weight_digests([self.teacher], [self.law], run)
        return _settings(run) | {"steps": subjects.STEPS, "weights": weights}

    def cost(self, run: Run) -> float:
        """Return what it costs beside a plane's job."""
        return 2.0

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found by subject and depth (`Layers.whole`), and the error of the equation's solver."""
        inputs, _, count, _ = SIZES[run.scale]
        teacher, equation = cached_teacher(self.teacher, run), candidates.equation_there(self.law, run)
        assert equation is not None
        model, twin = teacher.model, teacher.untrained().model
        assert isinstance(model, Transformer) and isinstance(twin, Transformer)
        sample = subjects.held_out(model.configuration, count, run.folder)
        flow = subjects.flow_at(model, sample)
        found = {
            "teacher": Layers(flow, sample, inputs).whole(),
            "untrained": Layers(subjects.flow_at(twin, sample), sample, inputs).whole(),
            "three laws": Layers(subjects.solved(equation, flow), sample, inputs).whole(),
        }
        error = subjects.solver_error(equation, flow, FEW, **CONVERGED)
        ceiling = measures.label_entropy(sample.labels)
        return {"examples": count, "inputs": inputs, "ceiling": ceiling, "subjects": found, "solver": error}


def bottleneck_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose training has ended, and of laws that are there."""
    ready: list[Job] = [job for job in _planes(run.scale) if subjects.trained_there(job.recipe, run.folder)]
    return [job for job in ready if fits(job.name, only.split(","))] + jobs_of((Equation,), run, only)


def bottleneck_names(scale: str) -> list[str]:
    """Return the names of all jobs, whether what they measure is there or not."""
    return [*(job.name for job in _planes(scale)), *names_of((Equation,))]


def _planes(scale: str) -> list[Plane]:
    variants = (TRAINED, RANDOM, *ACTIVATIONS)
    recipes = [one for one in recipes_of(scale) if one.family in FAMILIES and one.variant in variants]
    return [Plane(recipe) for recipe in recipes if recipe.seed < TWINS]


def _settings(run: Run) -> dict[str, Any]:
    return {
        "scale": run.scale,
        "sizes": SIZES[run.scale],
        "noise": [measures.POOLED, measures.TOKENS, measures.DRAWS],
        "literature": [measures.BINS, measures.VARIANCE, measures.NEIGHBOURS],
        "learnt": LEARNT,
    }
