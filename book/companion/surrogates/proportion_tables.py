"""Rows of the tables on how much an equation reaches, recorded in the open chapter as they are made."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..records import quote, record
from ..seeds import SeedMean, record_mean
from ..teachers.teacher import Teacher
from . import results
from .proportion_ladder import NAMES, ONE_STEP, Hypothesis, block_operations, hypotheses, tokens
from .proportion_nulls import MEASURES, NEAREST, nearest_mean, predictors
from .specs import TEACHERS

Rows = list[list[str]]
MAPS = ("uniform", "mean map", "other input", "shuffled layers", "untrained twin")
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
# The larger of these pairs is the smaller where its new coefficients are zero, and is given as many steps.
NESTED = tuple(pair for pair in ALIKE if pair[1] not in ("unshared", "full-k1"))
BUYS = ("cosine", "read", "r2", "classes")
COLUMNS = ("cosine", "worst head", "centred cosine", "r2", "classes")


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


def map_nulls(count: int) -> dict[str, dict[str, tuple[SeedMean, SeedMean]]]:
    """Return, by null and modality, cosine and worst head of maps that no equation made, and of another seed's teacher.

    The sweep's five over five seeds; the look-up of nearest neighbours, and whichever of the six is best at each layer
    and head, over the seeds whose teachers are committed.
    """
    found: dict[str, dict[str, tuple[SeedMean, SeedMean]]] = {}
    for modality, teacher in TEACHERS.items():

        def both(of: Callable[..., SeedMean], *given, **how) -> tuple[SeedMean, SeedMean]:
            return of(*given, measure="cosine", **how), of(*given, measure="worst head", **how)

        for name in (*MAPS, "best"):
            found.setdefault(name, {})[modality] = both(results.null_seed_mean, teacher, name)
        found.setdefault(NEAREST, {})[modality] = both(nearest_mean, teacher, count)
        found.setdefault("best of six", {})[modality] = both(nearest_mean, teacher, count, best=True)
        found.setdefault("ceiling", {})[modality] = both(results.ceiling, teacher)
    return found


def map_rows(found: Mapping[str, Mapping[str, tuple[SeedMean, SeedMean]]]) -> Rows:
    """Return the rows of maps that no equation made, pictures and texts side by side, recorded."""
    titles = {"best": "*best of these five*", "best of six": "*best of all six*", "ceiling": "another seed's teacher"}
    rows = []
    for name, by_modality in found.items():
        row = [titles.get(name, name)]
        for modality, (cosine, worst) in by_modality.items():
            key = f"{modality}.ceiling" if name == "ceiling" else f"{modality}.null.{name.replace(' ', '-')}"
            row += [quoted(key, cosine), record_mean(f"much.{key}.worst-head", worst)]
        rows.append(row)
    return rows


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
    maps: Mapping[str, Mapping[str, tuple[SeedMean, SeedMean]]],
    states: Mapping[str, Mapping[str, Mapping[str, float]]],
    equations: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Return, by modality, the level that an equation has to beat in each measure: the best of all its nulls."""
    found = {}
    for modality, teacher in TEACHERS.items():
        plain = [values for name, values in states[modality].items() if name not in equations]
        best = {measure: max(values[measure] for values in plain) for measure in MEASURES}
        cosine = max(maps[name][modality][0].mean for name in ("best", "best of six"))
        best["r2"] = max(best["r2"], results.state_null_seed_mean(teacher).mean)
        found[modality] = {**best, "cosine": cosine, "read": max(best["read"], cosine)}
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
            found = results.seed_mean(teacher, family, measure)
            shown.append(record_mean(f"{key}.{measure.replace(' ', '-')}", found))
        rows.append([label, *shown])
    return rows


def all_rows(modality: str, floor: Mapping[str, float], count: int) -> Rows:
    """Return the whole table of a modality: every equation, the level to beat, and another seed's teacher."""
    teacher = TEACHERS[modality]
    one_step = {family: f"one step: {label}" for family, label in ONE_STEP.items()}
    rows = hypothesis_rows(teacher, modality, NAMES) + hypothesis_rows(teacher, modality, one_step)
    centred = nearest_mean(teacher, count, "centred cosine")
    worst = max(results.null_seed_mean(teacher, "best", "worst head").mean, _worst_of_six(teacher, count))
    levels = (floor["cosine"], worst, max(0.0, centred.mean), floor["r2"], floor["classes"])
    rows.append(["*best null*", "–", *(f"{level:.3f}" for level in levels)])
    other = (str(results.ceiling(teacher, measure)) for measure in COLUMNS[:3])
    return [*rows, ["*another seed's teacher*", "–", *other, "–", "–"]]


def _worst_of_six(teacher: str, count: int) -> float:
    return nearest_mean(teacher, count, "worst head", best=True).mean


def best_equations(found: Mapping[str, Hypothesis], floor: Mapping[str, Mapping[str, float]], bar: float) -> None:
    """Record, by modality, every equation's headline, the smallest above all nulls, and how many clear the bar.

    An interval's lower end counts, or the one seed's number; equations without attention are measured by the maps that
    the teacher's heads have at their states, and clear no bar.
    """
    for modality, teacher in TEACHERS.items():
        above, clear = [], 0
        for family in sorted(found, key=lambda name: found[name].share):
            measure = "cosine" if found[family].attends else "read"
            seed_mean = results.seed_mean(teacher, family, measure)
            quoted(f"{modality}.{family}", seed_mean)
            if family == "narrow-k1":
                continue
            above += [family] * (seed_mean.low > floor[modality][measure])
            clear += measure == "cosine" and seed_mean.low >= bar
        words = f"{NAMES[above[0]]} ({found[above[0]].share:.2%})" if above else "none"
        record(f"much.{modality}.cheapest", words, unit="hypothesis")
        recorded(f"{modality}.clear", clear, "equations")
        quote(f"much.{modality}.cheapest", f"much.{modality}.clear")
