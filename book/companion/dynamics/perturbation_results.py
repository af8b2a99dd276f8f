"""What the jobs on perturbations and on pretrained models' sensitivity found, over seeds, as the page reads it."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..claims.register import CHANGES
from ..paths import data_file
from ..records import record
from ..seeds import SeedMean, over_seeds, record_mean
from ..surrogates import study
from ..surrogates.candidates import AFFINE, HALF, ONE_STEP, RELEARNT
from ..surrogates.crossing import gained
from ..surrogates.laws import MAIN_BUDGET
from . import perturbations, pretrained_sensitivity, singular_changes
from .changes import GRADIENT, NOISE, SHIFT, SWAP, TOKEN
from .perturbation_cast import NEAREST, OTHERS, UNTRAINED

RECORDS = "perturbations.json"
EQUATION = "three laws"
# What an equation has to beat: every other seed's teacher and every null.
NULLS = (*OTHERS, UNTRAINED, AFFINE, NEAREST)
KINDS = (NOISE, TOKEN, GRADIENT, "natural")


def gathered(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of all kinds of jobs in a folder, by kind and then by teacher or model."""
    found: dict[str, dict[str, Any]] = {}
    for part in (perturbations.PART, singular_changes.PART, pretrained_sensitivity.PART):
        for path in sorted(folder.glob(f"{part}-*.json")):
            name = path.stem.removeprefix(f"{part}-")
            found.setdefault(part, {})[name] = json.loads(path.read_text())["record"]
    return found


@cache
def committed() -> dict[str, Any]:
    """Return the committed records, by kind of job."""
    return json.loads(data_file(RECORDS).read_text())


def records_of(teacher: str) -> list[dict[str, Any]]:
    """Return a teacher's records, the lowest seed first; `teacher` as in "image-patch4"."""
    return study.of_teacher(committed()[perturbations.PART], teacher)


def over(teacher: str, read: Callable[[Mapping[str, Any]], float]) -> SeedMean:
    """Return what is read of each record, over the seeds that have it."""
    return study.over(records_of(teacher), read)


def kind_of(teacher: str, kind: str) -> str:
    """Return which change a kind is for a teacher: the natural one is a shift of pictures, a swap in texts."""
    return kind if kind != "natural" else SHIFT if teacher.startswith("image") else SWAP


def growth(teacher: str, kind: str, name: str, start: int = 0, end: int = -1) -> SeedMean:
    """Return by how much small changes grow from one depth to another, geometric mean over examples."""

    def read(found: Mapping[str, Any]) -> float:
        rows = found["growth"][kind_of(teacher, kind)][name]["by depth"]
        return rows[end] / rows[start]

    return over(teacher, read)


def growth_off(teacher: str, kind: str, name: str) -> SeedMean:
    """Return by which factor, up or down, a model's growth is off the teacher's, seed by seed: 1 is the teacher's."""
    kind = kind_of(teacher, kind)

    def read(found: Mapping[str, Any]) -> float:
        own, ours = (found["growth"][kind][one]["by depth"][-1] for one in ("teacher", name))
        return max(own / ours, ours / own)

    return over(teacher, read)


def by_depth(teacher: str, kind: str, name: str) -> np.ndarray:
    """Return growth from depth 0 for each seed that has it, (seeds, depths)."""
    kind = kind_of(teacher, kind)
    return np.array(
        [one["growth"][kind][name]["by depth"] for one in records_of(teacher) if name in one["growth"][kind]]
    )


def by_size(teacher: str, kind: str, name: str, measure: str = "by size") -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes (sizes,) and what grows at each, or the `accuracy`, of each seed that has it (seeds, sizes)."""
    found = [one["growth"][kind][name] for one in records_of(teacher) if name in one["growth"][kind]]
    return np.array(found[0]["sizes"]), np.array([each[measure] for each in found])


def linear_up_to(teacher: str, kind: str, name: str, tolerance: float = 0.05) -> float:
    """Return the largest size, of any seed the smallest, up to which growth is that of small changes; 0: none."""
    best = []
    for one in records_of(teacher):
        about = one["growth"][kind].get(name)
        if about is not None:
            good = 0.0
            for size, ratio in zip(about["sizes"], about["ratio"], strict=True):
                if abs(ratio - 1) > tolerance:
                    break
                good = size
            best.append(good)
    return min(best)


def rank(teacher: str, kind: str, name: str, which: str = "partial") -> SeedMean:
    """Return the rank correlation of a model's sensitivities with the teacher's; of other seeds' the mean of both."""
    kind, names = kind_of(teacher, kind), OTHERS if name == OTHERS[0] else (name,)
    return over(teacher, lambda found: sum(found["ranks"][kind][one][which] for one in names) / len(names))


def exponent(teacher: str, name: str, place: int = 0, start: int = 0) -> SeedMean:
    """Return a finite-time Lyapunov exponent, the largest with `place` 0, from a depth to the last."""
    return over(teacher, lambda found: found["exponents"][name][str(start)][place])


def exponent_gap(teacher: str, start: int = 1) -> SeedMean:
    """Return by how much the equation's largest exponent is above the teacher's, seed by seed."""
    start_name = str(start)
    return over(
        teacher, lambda one: one["exponents"][EQUATION][start_name][0] - one["exponents"]["teacher"][start_name][0]
    )


def on_sphere(teacher: str, name: str, start: int, normal: bool) -> SeedMean:
    """Return the growth from a depth to the last of noise tangent, or normal, to the norm's sphere."""
    return over(teacher, lambda found: found["sphere"][name][str(start)][int(normal)])


def accuracy(teacher: str, name: str, kind: str = "", size: float = 0.0) -> SeedMean:
    """Return the accuracy on unchanged inputs, or under a change of a kind and size (of natural ones their own)."""

    def read(found: Mapping[str, Any]) -> float:
        if not kind:
            return found["accuracy"][name]
        about = found["growth"][kind_of(teacher, kind)][name]
        return about["accuracy"][about["sizes"].index(size)] if "sizes" in about else about["accuracy"]

    return over(teacher, read)


def attacked(teacher: str, name: str, size: float) -> SeedMean:
    """Return the Transformer's accuracy under a change along the direction that is worst for another model."""
    place = perturbations.ATTACKS.index(size)
    return over(teacher, lambda found: found["transfer"][name][place])


def greatest(teacher: str, part: str, name: str) -> SeedMean:
    """Return what is found of the change that grows most in a model (`singular_changes.measure`), over seeds.

    `part` is "reached", the share of the teacher's greatest growth along it; "rank", the partial rank correlation of
    examples' greatest growth; or "attacked", the teacher's accuracy along it at the second of `ATTACKS`.
    """

    def read(found: Mapping[str, Any]) -> float:
        if part == "rank":
            return found["ranks"][name]["partial"]
        return found["reached"][name] if part == "reached" else found["transfer"][name][1]

    return study.over(study.of_teacher(committed()[singular_changes.PART], teacher), read)


def greatest_error(names: Iterable[str], teachers: Iterable[str]) -> float:
    """Return by how much any example's greatest growth in these models may be off, relative: the largest, any seed."""
    rows = [row for teacher in teachers for row in study.of_teacher(committed()[singular_changes.PART], teacher)]
    return max(row["error"][name] for row in rows for name in names)


class Standing(NamedTuple):
    """What claim C5 reads of a kind of change: the margin, its skill, the last doubling's gain, the control's margin.

    `null` is the best null's own margin over the rest, `best` which one that is.
    """

    margin: SeedMean
    skill: SeedMean
    gained: float
    control: float
    null: SeedMean
    best: str


def standing(teacher: str, kind: str) -> Standing:
    """Return how the equation of three laws stands in a kind of change before every other seed and every null."""
    rows = [one["ranks"][kind_of(teacher, kind)] for one in records_of(teacher)]
    bars = [max(row[name]["partial"] for name in NULLS) for row in rows]
    own = [row[EQUATION]["partial"] for row in rows]
    best = max(NULLS, key=lambda name: sum(row[name]["partial"] for row in rows))
    rest = [max(row[name]["partial"] for name in NULLS if name != best) for row in rows]
    budgets: dict[float, float] = {MAIN_BUDGET // 2: 1 - rows[0][HALF]["partial"], MAIN_BUDGET: 1 - own[0]}
    return Standing(
        over_seeds([ours - bar for ours, bar in zip(own, bars, strict=True)]),
        over_seeds([(ours - bar) / (1 - bar) for ours, bar in zip(own, bars, strict=True)]),
        gained(budgets),
        rows[0][RELEARNT]["partial"] - bars[0],
        over_seeds([row[best]["partial"] - bar for row, bar in zip(rows, rest, strict=True)]),
        best,
    )


def best_null(teacher: str, kind: str) -> SeedMean:
    """Return the partial rank correlation of the best of other seeds' teachers and nulls, seed by seed."""
    kind = kind_of(teacher, kind)
    return over(teacher, lambda found: max(found["ranks"][kind][name]["partial"] for name in NULLS))


def one_step(teacher: str) -> SeedMean:
    """Return the smallest margin over kinds of change of the one-step field, over the seeds that have it."""
    found = []
    for one in records_of(teacher):
        rows = [one["ranks"][kind_of(teacher, kind)] for kind in KINDS]
        if all(ONE_STEP in row for row in rows):
            found.append(min(row[ONE_STEP]["partial"] - max(row[n]["partial"] for n in NULLS) for row in rows))
    return over_seeds(found)


def record_claim(modality: str, teacher: str) -> None:
    """Record what claim C5 reads of a modality, in the open chapter."""
    for kind in CHANGES.values():
        key, found = f"perturbations.c5.{kind}", standing(teacher, kind)
        record_mean(f"{key}.{modality}", found.margin)
        record_mean(f"{key}.{modality}.skill", found.skill)
        record(f"{key}.{modality}.gained", found.gained, unit="1", atol=0, rtol=1e-6)
        record(f"{key}.{modality}.control", found.control, unit="1", atol=0, rtol=1e-6)
        record_mean(f"{key}.null.{modality}", found.null)
    record_mean(f"perturbations.c5.one-step.{modality}", one_step(teacher))


def sensitivities(teacher: str, kind: str) -> dict[str, np.ndarray]:
    """Return the first seed's sensitivities of each example to a kind of change, by model: growth up to the end."""
    found = records_of(teacher)[0]["sensitivity"][kind_of(teacher, kind)]
    return {name: np.array(each) for name, each in found.items()}


def given(teacher: str, kind: str) -> list[np.ndarray]:
    """Return what is known of each example of the first seed: the input's norm, the margin, the change's size."""
    known = records_of(teacher)[0]["known"]
    return [np.array(known[name]) for name in ("norm", "margin", kind_of(teacher, kind))]


def pretrained(model: str, *, trained: bool = True) -> dict[str, Any]:
    """Return what was found of a pretrained model, or of its twin of random weights."""
    name = model if trained else f"{model}-{pretrained_sensitivity.TWIN}"
    return committed()[pretrained_sensitivity.PART][name]


def pretrained_numbers(model: str, *, trained: bool = True) -> dict[str, float]:
    """Return seven numbers of a pretrained model, or of its twin, as the page's table has them.

    The leading `exponent` a layer; noise's growth to the last depth `relative` to the state, the median `token`'s, and
    `absolute`; `asymmetry` of layers' branches and `coupling` of successive layers over chance, means over layers;
    `influence`, its rank correlation with rollout given distance.
    """
    found = pretrained(model, trained=trained)
    return {
        "exponent": found["exponents"][0],
        "relative": found["growth"]["relative"][-1],
        "token": found["growth"]["token"][-1],
        "asymmetry": float(np.mean(found["asymmetry"])),
        "coupling": float(np.mean(found["coupling"])) / found["chance"],
        "influence": found["influence"]["rank"],
        "absolute": found["growth"]["absolute"][-1],
    }
