"""Measures how changes of the input grow in a teacher and in what stands beside it: jobs of the one runner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import AFFINE, BINDING, ONE_STEP, SOLVED
from ..surrogates.study import other_seed, rounded, weight_digests
from ..teachers.teacher import Inputs
from ..theory.token_influence import STEPS, drawn_targets
from . import changes, exponents
from .changes import GRADIENT, NOISE, SMALL, TOKEN, Point
from .movers import Mover
from .perturbation_cast import AGAIN, NEAREST, OTHERS, REFINED, TEACHER, UNTRAINED, Cast, cast_of
from .rank_agreement import partial_rank_correlation, rank_correlation

PART = "perturbations"
# Held-out examples; calibration ones for the look-up table; draws of noise, and those of what is dear; examples whose
# exponents are found.
COUNTS = {"smoke": (8, 8, 2, 1, 1), "book": (64, 256, 16, 6, 4), "full": (512, 1024, 32, 16, 16)}
# What grows at every size, and what at a few.
FULL = (TEACHER, "three laws", ONE_STEP, OTHERS[0], UNTRAINED, AFFINE)
FEW = (SMALL, 0.1)
# Draws of natural changes, and of noise on what is dear and decides nothing.
NATURAL, LEAST = 3, 3
ATTACKS = (0.03, 0.1, 0.3, 1.0)
NEIGHBOURS = 5
# Whose steps are held against an adaptive solver's.
SOLUTIONS = ("three laws", "one law", SOLVED)


@dataclass(frozen=True)
class Perturbations(Job):
    """How changes grow, which examples are sensitive, exponents, robust accuracy: a teacher's beside all else's."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{self.teacher}"

    @property
    def others(self) -> tuple[str, ...]:
        """The teachers of the other seeds that are measured, the next one first."""
        return tuple(other_seed(self.teacher, step) for step in (1, 2))

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        families = {**candidates.FAMILIES, **BINDING}
        names = [candidates.equation_name(self.teacher, family) for family in families.values()]
        weights = weight_digests((self.teacher, *self.others), names, run)
        sizes = {"counts": COUNTS[run.scale], "sizes": changes.SIZES, "small": SMALL, "steps": STEPS}
        return {"scale": run.scale, **sizes, "refined": REFINED, "weights": weights}

    def cost(self, run: Run) -> float:
        """Return what it costs beside its kind: the first seed has the stiff field too."""
        return COUNTS[run.scale][0] * (3.0 if self.teacher.endswith("0") else 1.0)

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the rank correlation of three laws under noise."""
        rank = record["ranks"][NOISE].get("three laws", {}).get("partial", float("nan"))
        return f"three laws: sensitivity to noise has a partial rank correlation of {rank:.3f}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`); each example's sensitivity of the first seed alone."""
        count, known, draws, dear, few = COUNTS[run.scale]
        found = measure(cast_of(self.teacher, self.others, count, known, run), draws, dear, few)
        return found if self.teacher.endswith("0") else found | {"sensitivity": {}, "known": {}}


@dataclass(eq=False)
class Found:
    """What was found of one model: its point of departure, and by kind of change what follows.

    `sensitivity` (examples,): growth up to the last depth at `SMALL`, root mean square over draws; `began` (examples,):
    how large the change was; `curves`: geometric means of growth over examples, by size and by depth.
    """

    point: Point
    sensitivity: dict[str, Tensor]
    began: dict[str, Tensor]
    curves: dict[str, dict[str, Any]]
    attack: Tensor


def measure(cast: Cast, draws: int, dear: int, few: int) -> dict[str, Any]:
    """Return how changes of the input grow in a teacher and in what stands beside it.

    `growth`: by kind and name, `Found.curves`; `ranks`: by kind and name the rank correlation of sensitivities with
    the teacher's, `raw` and `partial` on the input's norm, the teacher's margin and the change's size; `accuracy`
    on unchanged inputs by name; `transfer`: the teacher's accuracy at `ATTACKS` along each model's own direction;
    `exponents` and `sphere` (`exponents`); `solver`: how far fixed steps are from an adaptive solution.
    """
    found = {name: measured(cast, name, draws_for(cast.movers[name], name, draws, dear)) for name in cast.movers}
    own, token = found[TEACHER], one_token(cast.movers[TEACHER], cast.inputs)
    logits = cast.movers[TEACHER].logits(own.point.states[-1], own.point.padding)
    top = logits.topk(2, -1).values
    known = {"norm": own.point.norm, "margin": (top[:, 0] - top[:, 1]).double()}
    table = {name: one.sensitivity for name, one in found.items()}
    table[AGAIN] = noisy(cast.movers[TEACHER], own.point, AGAIN, draws, token)[0]
    table[NEAREST] = looked_up(cast, draws)
    table["input's norm"] = dict.fromkeys(own.sensitivity, known["norm"])
    table["margin"] = dict.fromkeys(own.sensitivity, known["margin"])
    return rounded(
        {
            "examples": len(cast.labels),
            "growth": {kind: {name: one.curves[kind] for name, one in found.items()} for kind in own.curves},
            "ranks": {kind: ranks(table, kind, known, own.began[kind]) for kind in own.sensitivity},
            "accuracy": {name: correct(cast.movers[name], one.point, cast.labels) for name, one in found.items()},
            "transfer": transfer(cast, found),
            "exponents": exponents.spectra({n: (cast.movers[n], found[n].point) for n in _judged(found)}, few),
            "sphere": {name: exponents.on_the_sphere(cast.movers[name], found[name].point) for name in _judged(found)},
            "solver": {n: changes.solver_error(cast.movers[n], own.point) for n in SOLUTIONS if n in cast.movers},
            "sensitivity": {kind: {n: s[kind] for n, s in table.items() if kind in s} for kind in own.sensitivity},
            "known": known | own.began,
        }
    )


def _judged(found: Mapping[str, Any]) -> list[str]:
    return [name for name in found if name not in (*BINDING, OTHERS[1], SOLVED)]


def draws_for(mover: Mover, name: str, draws: int, dear: int) -> int:
    """Return how many draws of noise a model's sensitivity is the mean over: fewer where each solves an equation."""
    if mover.adaptive is None:
        return draws
    return dear if name in FULL else min(dear, LEAST)


def one_token(mover: Mover, inputs: Inputs) -> Tensor:
    """Return a random real token of each example, the same for every model."""
    if isinstance(inputs, dict):
        return drawn_targets(inputs["mask"].bool(), 1)[:, 0]
    return drawn_targets(torch.ones(len(inputs), mover.teacher.lattice.tokens, dtype=torch.bool), 1)[:, 0]


def measured(cast: Cast, name: str, draws: int, which: str = "held-out") -> Found:
    """Return what is found of one model of the cast (`Found`); of the calibration inputs sensitivities alone."""
    inputs, labels = (cast.inputs, cast.labels) if which == "held-out" else (cast.known, cast.known_labels)
    mover = cast.movers[name]
    point, token = changes.point_of(mover, inputs), one_token(mover, inputs)
    attack = mover.attack(point.u, point.padding, labels)
    sizes = (SMALL,) if which != "held-out" else changes.SIZES if name in FULL else FEW
    ways = {NOISE: changes.drawn_noise(mover, point, 1), TOKEN: changes.drawn_noise(mover, point, 1, token)}
    curves = {
        kind: grows(mover, point, z, labels, sizes, kind == TOKEN)
        for kind, z in (ways | {GRADIENT: attack}).items()
        if which == "held-out" or kind == GRADIENT
    }
    sensitivity, began = noisy(mover, point, f"{name}, {which}", draws, token)
    sensitivity[GRADIENT], began[GRADIENT] = curves[GRADIENT].pop("each"), began[NOISE]
    for kind, changed in changes.natural(inputs, min(draws, NATURAL)).items():
        sensitivity[kind], began[kind], curves[kind] = naturally(mover, point, changed, labels)
    for kind in (NOISE, TOKEN):
        curves.get(kind, {}).pop("each", None)
    return Found(point, sensitivity, began, curves, attack)


def noisy(
    mover: Mover, point: Point, stream: str, draws: int, token: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return sensitivities to noise on all tokens and on one, and the size of the changes.

    Every stream draws its own noise, so that no two models agree by having met the same.
    """
    sensitivity, began = {}, {}
    for kind, place in ((NOISE, None), (TOKEN, token)):
        squares = []
        for draw in range(draws):
            z = changes.drawn_noise(mover, point, crc32(f"{stream}, {kind}, {draw}".encode()), place)
            change = changes.sized(mover, point, z, SMALL, kind == TOKEN)
            squares.append(changes.grown(mover, point, change).growth[:, -1].square())
            began[kind] = changes.length(change, point.padding)
        sensitivity[kind] = torch.stack(squares).mean(0).sqrt()
    return sensitivity, began


def grows(mover: Mover, point: Point, z: Tensor, labels: Tensor, sizes: Sequence[float], one: bool) -> dict[str, Any]:
    """Return, along one direction an example, growth by size and by depth, and the accuracy at each size.

    `ratio` is the median over examples of the growth over that at `SMALL`; `each` the growth of each example there.
    """
    found = {size: changes.grown(mover, point, changes.sized(mover, point, z, size, one)) for size in sizes}
    small = found[SMALL].growth
    ends = [each.growth[:, -1] for each in found.values()]
    return {
        "sizes": list(sizes),
        "by size": [float(geometric(end)) for end in ends],
        "ratio": [float((end / small[:, -1]).median()) for end in ends],
        "by depth": geometric(small).tolist(),
        "accuracy": [right(mover, point, each.last, labels) for each in found.values()],
        "each": small[:, -1],
    }


def naturally(
    mover: Mover, point: Point, changed: Sequence[Inputs], labels: Tensor
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return sensitivities to natural changes of one kind, the changes' size and their curves: rms over the draws."""
    growth, sizes, hits = [], [], []
    for inputs in changed:
        change = mover.embedded(inputs) - point.u
        found = changes.grown(mover, point, change)
        growth.append(found.growth.square())
        sizes.append(changes.length(change, point.padding).square())
        hits.append(right(mover, point, found.last, labels))
    each = torch.stack(growth).mean(0).sqrt()
    began = torch.stack(sizes).mean(0).sqrt()
    size = float((began / point.norm).mean())
    curve = {"by depth": geometric(each).tolist(), "size": size, "accuracy": sum(hits) / len(hits)}
    return each[:, -1], began, curve


def geometric(values: Tensor) -> Tensor:
    """Return the geometric mean over examples, the first axis."""
    return values.clamp_min(1e-300).log().mean(0).exp()


def right(mover: Mover, point: Point, last: Tensor, labels: Tensor) -> float:
    """Return the share of last states that the head reads as their class."""
    return float((mover.logits(last, point.padding).argmax(-1) == labels).double().mean())


def correct(mover: Mover, point: Point, labels: Tensor) -> float:
    """Return the accuracy on unchanged inputs."""
    return right(mover, point, point.states[-1], labels)


def looked_up(cast: Cast, draws: int) -> dict[str, Tensor]:
    """Return the mean sensitivity of the teacher on the calibration inputs nearest to each: what needs no equation."""
    found = measured(cast, TEACHER, draws, "calibration").sensitivity
    return {kind: each[cast.near[:, :NEIGHBOURS]].mean(1) for kind, each in found.items()}


def ranks(
    table: Mapping[str, Mapping[str, Tensor]], kind: str, known: Mapping[str, Tensor], began: Tensor
) -> dict[str, dict[str, float]]:
    """Return by name how its sensitivities to a kind of change rank the examples as the teacher's do."""
    own, given = table[TEACHER][kind].numpy(), [each.numpy() for each in (*known.values(), began)]
    found = {}
    for name, each in table.items():
        if name != TEACHER and kind in each:
            ours = each[kind].numpy()
            found[name] = {"raw": rank_correlation(ours, own), "partial": partial_rank_correlation(ours, own, given)}
    return found


def transfer(cast: Cast, found: Mapping[str, Found]) -> dict[str, list[float]]:
    """Return the teacher's accuracy on inputs changed along the direction that is worst for each model, at `ATTACKS`.

    Of texts only models that share its embedding have a direction for it.
    """
    mover, point = cast.movers[TEACHER], found[TEACHER].point
    rows = {}
    for name, one in found.items():
        if isinstance(cast.inputs, dict) and cast.movers[name].model is not mover.model:
            continue
        hits = []
        for size in ATTACKS:
            change = changes.sized(mover, point, one.attack, size)
            hits.append(right(mover, point, changes.grown(mover, point, change).last, cast.labels))
        rows[name] = hits
    return rows
