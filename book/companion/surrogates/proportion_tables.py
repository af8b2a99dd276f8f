"""Rows of the tables on how much an equation reaches, recorded in the open chapter as they are made."""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from pdelens.agreement.report import TESTABLE

from ..records import quote, record
from ..seeds import SeedMean, over_seeds, record_mean
from ..teachers.teacher import Teacher
from . import comparison_nulls, results
from .comparison_rows import live_mean
from .proportion_ladder import (
    NAMES,
    ONE_STEP,
    SKILL,
    Hypothesis,
    block_operations,
    hypotheses,
    measured,
    skills,
    tokens,
)
from .proportion_nulls import BEST, MEASURES, OTHER, layers, predictors
from .specs import TEACHERS

Rows = list[list[str]]
# What is added, to what it is added: pairs that one policy calibrated, and pairs of which that is not so.
ALIKE = (
    ("advection, to diffusion", "advection-diffusion", "diffusion"),
    ("residual, to diffusion", "diffusion-residual", "diffusion"),
    ("diffusion, to residual", "diffusion-residual", "residual"),
    ("attention, to both", "full-k1-short", "diffusion-residual"),
    ("residual and diffusion, to attention", "full-k1-short", "attention"),
    ("advection, to the full", "full-k1-advection", "full-k1-short"),
    ("*diffusion, to D = 0*", "full-k1", "no-diffusion-k1"),
    ("its own layer each, to K = 2", "unshared", "full-k2"),
    ("*three times the steps*", "full-k1", "full-k1-short"),
)
UNLIKE = (
    ("a second mode, K = 2", "full-k2", "full-k1-short"),
    ("its own layer each, K = L", "unshared", "full-k1-short"),
    ("*two more modes, K = 3*", "full-k3", "full-k1"),
    ("sharing instead of narrowing", "full-k1-short", "narrow-k1"),
)
BUYS = ("cosine", "read", "r2", "classes")
COLUMNS = ("cosine", "worst head", SKILL, "r2", "classes")


def signed(found: SeedMean) -> str:
    """Return a difference with its sign, or a dash."""
    shown = str(found)
    return shown if shown.startswith(("–", "-")) else f"+{shown}"


def quoted(key: str, found: SeedMean, written: Callable[[SeedMean], str] = str) -> str:
    """Record a mean over seeds as `much.<key>`, and as `much.say.<key>` what prose quotes; return what is shown."""
    record_mean(f"much.{key}", found)
    shown = written(found)
    record(f"much.say.{key}", shown if np.isfinite(found.mean) else "no number", unit="words")
    quote(f"much.say.{key}")
    return shown


def recorded(key: str, value: float, unit: str, atol: float = 0.0, rtol: float = 0.0) -> float:
    """Record one number as `much.<key>`, and return it as recorded."""
    return float(record(f"much.{key}", value, unit=unit, atol=atol, rtol=rtol))


def ladder_rows(models: Mapping[str, Teacher]) -> tuple[Rows, dict[str, Hypothesis]]:
    """Return what every hypothesis has and costs, and the hypotheses; shares and operations are recorded."""
    first = models["image"]
    affine = first.layers * (first.width**2 + first.width)
    maps = [2 * one.layers * tokens(one) * one.width**2 / block_operations(one) for one in models.values()]
    rows = [["identity", "∂u/∂t = 0", "–", "0", "0 %", "0", "0"]]
    shown = (f"{affine:,}", f"{first.share(affine):.2%}", *(f"{ratio:.3f}" for ratio in maps))
    rows.append(["affine", "u ← u M + m, one for each layer", "–", *shown])
    found = hypotheses(models)
    for family, one in found.items():
        share = recorded(f"share.{family}", one.share, "share of the teacher's block parameters", rtol=1e-6)
        spent = [
            recorded(f"arithmetic.{modality}.{family}", ratio, "of the teacher's blocks' operations", rtol=1e-6)
            for modality, ratio in one.operations.items()
        ]
        counted = (f"{one.parameters:,}", f"{share:.2%}", *(f"{ratio:.3f}" for ratio in spent))
        rows.append([one.label, one.equation, one.modes, *counted])
    return rows, found


def noise(modality: str) -> float:
    """Return the standard deviation over seeds of the full autonomous equation's cosine, recorded."""
    seeds = results.seed_mean(TEACHERS[modality], "full-k1").seeds
    return recorded(f"{modality}.noise", float(np.std(seeds, ddof=1)), "1, over seeds", rtol=1e-6)


def map_rows() -> tuple[Rows, dict[str, dict[str, float]]]:
    """Return the rows of maps that no equation made, pictures and texts side by side, and their means by modality.

    The worst layer's cosine over seeds, and the range over all layers and seeds. Recorded, and how many heads of all
    seeds have a best null above `TESTABLE`.
    """
    rows: dict[str, list[str]] = {}
    means: dict[str, dict[str, float]] = {}
    for modality, teacher in TEACHERS.items():
        means[modality] = {}
        for name, cosines in layers(teacher).items():
            key = f"{modality}.other-seed" if name == OTHER else f"{modality}.null.{name.replace(' ', '-')}"
            worst = over_seeds(cosines.min(1).tolist())
            means[modality][name] = worst.mean
            ends = [
                recorded(f"{key}.{end}", value, "1, of layers and seeds", atol=2e-3)
                for end, value in (("least", cosines.min()), ("most", cosines.max()))
            ]
            shown = live_mean(f"much.{key}", worst)
            quote(f"much.{key}")
            rows.setdefault(name, [name]).extend([shown, f"{ends[0]:.3f} to {ends[1]:.3f}"])
        flat = len(comparison_nulls.untestable(teacher))
        heads = sum(found.size for found in comparison_nulls.by_seed(teacher).values())
        recorded(f"{modality}.untestable", flat, "heads")
        recorded(f"{modality}.heads", heads, "heads")
        quote(f"much.{modality}.untestable", f"much.{modality}.heads")
    recorded("testable", TESTABLE, "cosine")
    quote("much.testable")
    rows[BEST][0] = f"*{BEST} of each head*"
    return list(rows.values()), means


def predictor_rows(count: int, families: Mapping[str, str]) -> tuple[Rows, dict[str, dict[str, dict[str, float]]]]:
    """Return the rows of predictors of states, seed 0, equations of these families last, and the recorded numbers."""
    rows, known = [], {}
    tolerance = {"read": 5e-3, "r2": 1e-2, "r2-pooled": 1e-2, "classes": 6e-3, "accuracy": 6e-3}
    for modality, teacher in TEACHERS.items():
        known[modality] = predictors(f"{teacher}-seed0", count, families)
        names = {label: family for family, label in families.items()}
        for name, values in known[modality].items():
            key = f"states.{modality}.{names[name]}" if name in names else f"{modality}.null.{name.replace(' ', '-')}"
            for measure in MEASURES:
                values[measure] = recorded(f"{key}.{measure}", values[measure], "1", atol=tolerance[measure])
            rows.append([modality, name, *(f"{values[measure]:.3f}" for measure in MEASURES)])
    return rows, known


def floors(
    maps: Mapping[str, Mapping[str, float]],
    states: Mapping[str, Mapping[str, Mapping[str, float]]],
    equations: Collection[str],
) -> dict[str, dict[str, float]]:
    """Return, by modality, the level that an equation has to beat in each measure: the best of all its nulls.

    `maps` as `map_rows` gives them, `states` as `predictor_rows` does; `equations` are the labels among these that are
    no nulls.
    """
    found = {}
    for modality, teacher in TEACHERS.items():
        plain = [values for name, values in states[modality].items() if name not in equations]
        best = {measure: max(values[measure] for values in plain) for measure in MEASURES}
        best["r2"] = max(best["r2"], results.state_null_seed_mean(teacher).mean)
        found[modality] = {**best, "cosine": maps[modality][BEST], "read": max(best["read"], maps[modality][BEST])}
    return found


def pair_rows(pairs: Sequence[tuple[str, str, str]], measures: Sequence[str] = BUYS) -> Rows:
    """Return, for each modality and pair, the first equation's measures minus the second's, by seed, recorded."""
    rows = []
    for modality, teacher in TEACHERS.items():
        for label, family, other in pairs:
            gains = {measure: results.difference(teacher, family, other, measure) for measure in measures}
            shown = [quoted(f"buys.{modality}.{family}-over-{other}.{m}", gains[m], signed) for m in measures]
            rows.append([modality, label, *shown, str(len(gains["r2"].seeds) or "–")])
    return rows


def hypothesis_rows(teacher: str, modality: str, families: Mapping[str, str]) -> Rows:
    """Return one row for each equation (labels by family): cosine at one step a layer, then `COLUMNS`, converged."""
    rows = []
    for family, label in families.items():
        key = f"much.table.{modality}.{family}"
        shown = [record_mean(f"{key}.one-step", results.seed_mean(teacher, family, "cosine", "1"))]
        for measure in COLUMNS:
            found = measured(teacher, family, measure)
            # Skill stands on nulls that each machine measures anew.
            recorder = live_mean if measure == SKILL else record_mean
            shown.append(recorder(f"{key}.{measure.replace(' ', '-')}", found))
        rows.append([label, *shown])
    return rows


def all_rows(modality: str, floor: Mapping[str, float]) -> Rows:
    """Return the whole table of a modality: every equation, the level to beat, and another seed's teacher."""
    teacher = TEACHERS[modality]
    one_step = {family: f"one step: {label}" for family, label in ONE_STEP.items()}
    rows = hypothesis_rows(teacher, modality, NAMES) + hypothesis_rows(teacher, modality, one_step)
    worst = over_seeds([float(heads.min()) for heads in comparison_nulls.by_seed(teacher).values()]).mean
    levels = (floor["cosine"], worst, 0.0, floor["r2"], floor["classes"])
    rows.append([f"*{BEST}*", "–", *(f"{level:.3f}" for level in levels)])
    other = (str(results.ceiling(teacher, measure)) for measure in COLUMNS[:2])
    return [*rows, [f"*{OTHER}*", "–", *other, "–", "–", "–"]]


def standing(found: Mapping[str, Hypothesis], bar: float) -> None:
    """Record, by modality, every equation's headline, how many clear the bar, and in how many layers it beats nulls.

    An equation beats the null of a layer where its skill, pooled over the heads, is positive; every layer of every seed
    counts as one. `cheapest` is the smallest equation with attention of its own that beats all of them.
    """
    for modality, teacher in TEACHERS.items():
        above, clear = [], 0
        for family in sorted(found, key=lambda name: found[name].share):
            one = found[family]
            mean = results.seed_mean(teacher, family, "cosine" if one.attends else "read")
            quoted(f"{modality}.{family}", mean)
            if not one.attends or family == "narrow-k1":
                continue
            clear += mean.low > bar
            beaten = np.concatenate(list(skills(teacher, family).values())) > 0
            recorded(f"{modality}.{family}.beaten", int(beaten.sum()), "layers of seeds")
            recorded(f"{modality}.{family}.layers", beaten.size, "layers of seeds")
            if beaten.all():
                above.append(f"{one.label} ({one.share:.1%}{'' if mean.interval else ', one seed'})")
        record(f"much.{modality}.cheapest", above[0] if above else "none", unit="hypothesis")
        recorded(f"{modality}.clear", clear, "equations")
        quote(f"much.{modality}.cheapest", f"much.{modality}.clear")
        quote(f"much.{modality}.full-k1.beaten", f"much.{modality}.full-k1.layers")
