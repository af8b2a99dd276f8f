"""Measures Jacobians between depths: top directions, volume, and how far from normal layers are; over seeds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pdelens.models import Transformer
from pdelens.sensitivity.flow_map import FlowMap, flow_map
from pdelens.sensitivity.normality import non_normality
from pdelens.sensitivity.singular import jacobian_spectrum
from pdelens.sensitivity.subspace import columns

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import ONE_STEP, OTHER, Beside, selected
from ..surrogates.evaluate import rolled_out
from ..surrogates.solution_fields import CONVERGED
from ..surrogates.study import other_seed
from ..teachers.teacher import Inputs
from ..theory.token_influence import STEPS, solution_map
from .gradients import PART, TEACHER, UNTRAINED, weights
from .volumes import liouville, volume_of, written_down

SPECTRA = "spectra"
# Examples, singular values of each, and random draws for normality and Liouville's formula.
COUNTS = {"smoke": (1, 3, 4), "book": (1, 8, 8), "full": (8, 16, 16)}
# From here on the equation's volume is also taken from its Jacobian itself: far from the entry, where few steps do.
CHECKED_FROM = 4.0
MEASURES = ("departure", "asymmetry", "abscissa")


@dataclass(frozen=True)
class Spectra(Job):
    """Jacobians between depths: a teacher's beside those of its equations, another seed and its untrained twin."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{SPECTRA}-{self.teacher}"

    @property
    def other(self) -> str:
        """The teacher of the next seed among those that are measured."""
        return other_seed(self.teacher)

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "steps": STEPS,
            "solved": CONVERGED,
            "from": CHECKED_FROM,
            "weights": weights(self.teacher, run),
        }

    def cost(self, run: Run) -> float:
        """Return what it costs beside its kind: examples times singular values."""
        return float(COUNTS[run.scale][0] * COUNTS[run.scale][1])

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the teacher's volume, and how three laws' leading directions meet the teacher's."""
        own, law = sum(record["volume"]["layers"][TEACHER]["log"]), record["spectra"]["0"]["models"]["three laws"]
        return f"mean log singular value {own:.3f}, three laws' leading directions meet {law['enter']:.3f}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found: `spectra` by the depth they start from, `volume`, `normality`."""
        few, count, draws = COUNTS[run.scale]
        one = candidates.beside(self.teacher, few, run, self.other)
        found = {str(start): spectra(one, few, count, start) for start in (0, 1)}
        checked = self.teacher.endswith("0")
        return {"spectra": found, "volume": volumes(one, draws, checked), "normality": normality(one, few, draws)}


def spectra(one: Beside, few: int, count: int, start: int) -> dict[str, Any]:
    """Return the largest singular values of the map from a depth to the last, and how their directions meet.

    By name: `log` natural logarithms by example; `gap` the root mean square of their distance from the teacher's, mean
    over examples; `error` the largest that one may be off, relative; for what shares the teacher's states `enter` and
    `leave`, the overlap of the leading spaces where a change enters and where it ends (`overlap`). `chance` is what
    random spaces have.
    """
    found = {name: jacobian_spectrum(each, count, rounds=2, oversampling=4) for name, each in maps(one, few, start)}
    own, rows = found[TEACHER], {}
    for name, each in found.items():
        logs = each.values.double().log()
        rows[name] = {
            "log": logs.tolist(),
            "gap": float((logs - own.values.double().log()).square().mean(1).sqrt().mean()),
            "error": float((each.error / each.values).max()),
        }
        if name not in (OTHER, UNTRAINED):
            rows[name] |= {"enter": overlap(own.right, each.right), "leave": overlap(own.left, each.left)}
    return {"models": rows, "chance": float((count / own.entries.double()).mean())}


def overlap(ours: Tensor, theirs: Tensor) -> float:
    """Return the mean squared cosine of two spaces of k orthonormal directions (k, examples, tokens, width)."""
    inner = columns(ours.double()).mT @ columns(theirs.double())
    return float(inner.square().sum((1, 2)).mean() / len(ours))


def maps(one: Beside, few: int, start: int):
    """Yield, by name, the map from a depth to the last of everything that has one, each on its own states."""
    some = range(few)
    inputs, flow = selected(one.inputs, some), one.reference.select(list(some))
    yield TEACHER, flow_map(one.teacher.model, inputs, start)
    for name, pde in one.equations.items():
        if name != ONE_STEP:
            u = flow.states[0] if not start else rolled_out(pde, flow, **CONVERGED).states[start]
            yield name, solution_map(pde, u, flow.mask, float(start))
    if ONE_STEP in one.equations:
        field = one.equations[ONE_STEP]
        stepped = rolled_out(field, flow)
        yield ONE_STEP, flow_map(field, stepped.states[start], start, mask=flow.mask, method="lie", substeps=1)
    assert one.other is not None
    yield OTHER, flow_map(one.other.model, inputs, start)
    yield UNTRAINED, flow_map(one.teacher.untrained().model, inputs, start)


def volumes(one: Beside, draws: int, checked: bool) -> dict[str, Any]:
    """Return how volume grows by layer of networks, from their Jacobians on the first example: `layers`, by name.

    `log` and `trace` by layer (`Volume`). Only where `checked`: the untrained twin, the one-step field as a network,
    and `check`, three laws from `CHECKED_FROM` on, by Liouville's formula and from the Jacobian itself.
    """
    first = selected(one.inputs, [0])
    layers = {TEACHER: _layers(layer_maps(one.teacher.model, first))}
    if checked:
        layers[UNTRAINED] = _layers(layer_maps(one.teacher.untrained().model, first))
    if checked and ONE_STEP in one.equations:
        field, state = one.equations[ONE_STEP], rolled_out(one.equations[ONE_STEP], one.reference.select([0]))
        layers[ONE_STEP] = _layers(
            flow_map(field, state.states[depth], depth, depth + 1, mask=state.mask, method="lie", substeps=1)
            for depth in range(state.layers)
        )
    return {"layers": layers} | ({"check": _check(one, draws)} if checked else {})


def layer_maps(model: Transformer | Any, inputs: Inputs) -> list[FlowMap]:
    """Return the map of every layer of a model."""
    return [flow_map(model, inputs, depth, depth + 1) for depth in range(len(model.blocks))]


def _layers(layers) -> dict[str, list[float]]:
    found = [volume_of(written_down(each)) for each in layers]
    return {"log": [one.log for one in found], "trace": [one.trace for one in found]}


def _check(one: Beside, draws: int) -> dict[str, float]:
    pde, flow = one.equations["three laws"], one.reference.select([0])
    u = rolled_out(pde, flow, **CONVERGED).states[int(CHECKED_FROM)]
    times = [time for time in STEPS if time >= CHECKED_FROM]
    by_trace = liouville(pde, u, flow.mask, times, 4 * draws, **CONVERGED)
    exact = volume_of(written_down(solution_map(pde, u, flow.mask, CHECKED_FROM)))
    return {"liouville": by_trace.total, "error": by_trace.error, "exact": exact.log}


def normality(one: Beside, few: int, draws: int) -> dict[str, dict[str, list[float]]]:
    """Return how far each layer's branch, and the equation's over a unit of depth-time, is from normal and symmetric.

    By name and measure (`MEASURES`) by layer, means over examples; the equation's are of three laws.
    """
    inputs, flow = selected(one.inputs, range(few)), one.reference.select(list(range(few)))
    pde = one.equations["three laws"]
    states = rolled_out(pde, flow, **CONVERGED).states
    rows = {
        TEACHER: layer_maps(one.teacher.model, inputs),
        UNTRAINED: layer_maps(one.teacher.untrained().model, inputs),
        "three laws": [solution_map(pde, states[depth], flow.mask, depth, depth + 1) for depth in range(flow.layers)],
    }
    found = {}
    for name, layers in rows.items():
        measured = [non_normality(each, draws=draws, rounds=4) for each in layers]
        found[name] = {part: [float(getattr(each, part).value.mean()) for each in measured] for part in MEASURES}
    return found
