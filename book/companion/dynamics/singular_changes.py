"""The change of an input that grows most in a model, its top singular direction: an adversary that knows no class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pdelens.sensitivity.flow_map import FlowMap
from pdelens.sensitivity.singular import jacobian_spectrum

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import AFFINE, ONE_STEP
from ..surrogates.study import other_seed, rounded, weight_digests
from ..theory.token_influence import STEPS
from . import changes
from .changes import SMALL, Point
from .movers import Mover
from .perturbation_cast import NEAREST, OTHERS, TEACHER, UNTRAINED, Cast, cast_of
from .perturbations import ATTACKS, NEIGHBOURS, right
from .rank_agreement import partial_rank_correlation, rank_correlation

PART = "singular"
NAMES = (TEACHER, "three laws", ONE_STEP, OTHERS[0], UNTRAINED, AFFINE)
# Held-out examples, and calibration ones for the look-up table.
COUNTS = {"smoke": (4, 6), "book": (32, 128), "full": (256, 1024)}
# Of the block Krylov method that finds it: pairs of products, and directions beside the one that is wanted.
ROUNDS, OVERSAMPLING = 3, 3


@dataclass(frozen=True)
class SingularChanges(Job):
    """The change that grows most from the input to the last state: a teacher's beside all else's."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the method, the steps and the weights."""
        names = [candidates.equation_name(self.teacher, candidates.FAMILIES[name]) for name in NAMES[1:3]]
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "sizes": [SMALL, *ATTACKS],
            "method": [ROUNDS, OVERSAMPLING],
            "steps": STEPS,
            "weights": weight_digests((self.teacher, other_seed(self.teacher)), names, run),
        }

    def cost(self, run: Run) -> float:
        """Return what it costs beside its kind: examples."""
        return float(COUNTS[run.scale][0])

    def line(self, record: Mapping[str, Any]) -> str:
        """Return how much of the teacher's greatest growth three laws' direction reaches."""
        return f"three laws' direction has {record['reached']['three laws']:.3f} of the teacher's greatest growth"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        count, known = COUNTS[run.scale]
        return rounded(measure(cast_of(self.teacher, [other_seed(self.teacher)], count, known, run)))


class Leading(NamedTuple):
    """Of each example the change of the embedding that grows most, (examples, tokens, width), of those that inputs
    make; by how much it grows, (examples,); and the largest relative error of one of these."""

    direction: Tensor
    gain: Tensor
    error: float


def leading(mover: Mover, point: Point) -> Leading:
    """Return the top singular direction of the map from what inputs make at depth 0 to the last state."""
    directions, gains, errors = [], [], []
    for some in torch.arange(len(point.u)).split(mover.at_once):
        u, padding = point.u[some], None if point.padding is None else point.padding[some]

        def last(v: Tensor, u: Tensor = u, padding: Tensor | None = padding) -> Tensor:
            return mover.states(u + mover.lifted(mover.dropped(v - u)), padding, 0)[-1]

        found = jacobian_spectrum(FlowMap(last, u, padding), 1, rounds=ROUNDS, oversampling=OVERSAMPLING)
        directions.append(found.right[0])
        gains.append(found.values[:, 0])
        errors.append(found.error / found.values)
    return Leading(torch.cat(directions), torch.cat(gains).double(), float(torch.cat(errors).max()))


def measure(cast: Cast) -> dict[str, Any]:
    """Return what the change that grows most is in a teacher, and in what stands beside it (`NAMES`).

    `gain`: by name the growth of each example's; `error` of the gains, relative, the largest; `ranks`: of gains with
    the teacher's, `raw` and `partial` on the input's norm and the teacher's margin, also of the mean gain of the
    nearest calibration inputs. `reached`: by how much the teacher's state grows along each model's direction, over its
    own greatest growth, mean over examples, and along noise; `accuracy` of each model and `transfer`, the teacher's,
    along that direction, at `ATTACKS`. Of texts only models of the teacher's own embedding have a direction for it.
    """
    movers = {name: cast.movers[name] for name in NAMES if name in cast.movers}
    points = {name: changes.point_of(mover, cast.inputs) for name, mover in movers.items()}
    found = {name: leading(mover, points[name]) for name, mover in movers.items()}
    own, here = movers[TEACHER], points[TEACHER]
    top = own.logits(here.states[-1], here.padding).topk(2, -1).values
    known = [here.norm.numpy(), (top[:, 0] - top[:, 1]).numpy()]
    gains = {name: one.gain for name, one in found.items()} | {NEAREST: _looked_up(cast)}
    shared = {n: m for n, m in movers.items() if not isinstance(cast.inputs, dict) or m.model is own.model}
    theirs = {name: own.lifted(mover.dropped(found[name].direction)) for name, mover in shared.items()}
    noise = own.lifted(changes.drawn_noise(own, here, 1))
    return {
        "examples": len(cast.labels),
        "gain": {name: one.tolist() for name, one in gains.items()},
        "error": {name: one.error for name, one in found.items()},
        "ranks": {name: _ranks(one, gains[TEACHER], known) for name, one in gains.items() if name != TEACHER},
        "reached": {
            name: float(
                (changes.grown(own, here, changes.along(here, one, SMALL)).growth[:, -1] / gains[TEACHER]).mean()
            )
            for name, one in (theirs | {"noise": noise}).items()
        },
        "accuracy": {n: _attacked(m, points[n], found[n].direction, cast.labels) for n, m in movers.items()},
        "transfer": {name: _attacked(own, here, one, cast.labels) for name, one in theirs.items()},
    }


def _looked_up(cast: Cast) -> Tensor:
    mover = cast.movers[TEACHER]
    gains = leading(mover, changes.point_of(mover, cast.known)).gain
    return gains[cast.near[:, :NEIGHBOURS]].mean(1)


def _ranks(gain: Tensor, own: Tensor, known: list[Any]) -> dict[str, float]:
    ours, wanted = gain.numpy(), own.numpy()
    return {"raw": rank_correlation(ours, wanted), "partial": partial_rank_correlation(ours, wanted, known)}


def _attacked(mover: Mover, point: Point, direction: Tensor, labels: Tensor) -> list[float]:
    """Return the accuracy at each size along a direction, of whichever sign does more harm on average."""
    found = []
    for size in ATTACKS:
        ends = [changes.grown(mover, point, s * changes.along(point, direction, size)).last for s in (1.0, -1.0)]
        found.append(min(right(mover, point, last, labels) for last in ends))
    return found
