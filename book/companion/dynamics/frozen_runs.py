"""All that is tried on frozen pretrained models, as parts of one long measurement."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np
from torch import Tensor

from ..theory import frozen
from ..theory.frozen import Subject

KINDS = ("all", "inner", "middle", "block")
ORDERS = 3
# How often the language model's middle third is run beyond its own depth-time: layers in one step, the block in two.
LOOPS = (("middle", 1), ("block", 2))
# Which layers are refined, and how finely, where attention is compared.
LOOKED_AT = (("middle", 2), ("middle", 8), ("all", 2))
Part = Callable[[], np.ndarray]
Own = Callable[[], Tensor]


def parts(
    subjects: Mapping[str, Subject], twins: Mapping[str, Subject], rest: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Part]:
    """Return every trial by its name, `<model> <kind> <steps>` and so on, as what makes it; nothing runs yet.

    Values are `theory.frozen.kept`, by example: the change of the loss, or the embedding's cosine to the model's own.
    `<kind> <steps>`: layers of a `KINDS`, refined; `twice`: the middle third run twice, undamped; `shuffled`: it in
    random orders, mean over `ORDERS`; `alone`: each layer refined alone, means over examples; `twin <steps>`:
    all layers of random weights, encoders only; `loop <kind> <steps> <time>`: the language model over another
    depth-time; `attention <kind> <steps>`: what `attention` returns. `rest` are the inputs of the mean map.
    """
    found: dict[str, Part] = {}
    for name, subject in subjects.items():
        own = cache(subject.reading)  # the unchanged model's, read once for all trials
        trials = {f"{kind} {steps}": _changed(subject, own, kind, steps) for kind in KINDS for steps in frozen.STEPS}
        trials |= {"twice": _changed(subject, own, "middle", 2, 2.0), "shuffled": partial(_shuffled, subject, own)}
        trials["alone"] = partial(_alone, subject, own)
        for kind, steps in LOOKED_AT:
            trials[f"attention {kind} {steps}"] = partial(attention, subject, rest[name], kind, steps)
        if subject.read is frozen.losses:
            loops = [(kind, steps, time) for kind, steps in LOOPS for time in frozen.TIMES]
            trials |= {
                f"loop {kind} {steps} {time:g}": _changed(subject, own, kind, steps, time)
                for kind, steps, time in loops
            }
        else:
            blank = cache(twins[name].reading)
            trials |= {f"twin {steps}": _changed(twins[name], blank, "all", steps) for steps in (2, 8)}
        found |= {f"{name} {trial}": part for trial, part in trials.items()}
    return found


def _changed(subject: Subject, own: Own, kind: str, steps: int, time: float = 1.0) -> Part:
    return lambda: frozen.kept(subject.reading(kind, steps, time), own())


def _shuffled(subject: Subject, own: Own) -> np.ndarray:
    orders = [subject.reading(f"shuffled-{number}") for number in range(ORDERS)]
    return np.mean([frozen.kept(order, own()) for order in orders], 0)


def _alone(subject: Subject, own: Own) -> np.ndarray:
    return np.array([frozen.kept(one, own()).mean() for one in frozen.one_layer_at_a_time(subject)])


def attention(subject: Subject, others: Mapping[str, Tensor], kind: str, steps: int) -> np.ndarray:
    """Return seven numbers about the refined model's attention against the model's own, in the order of `ABOUT`."""
    own = subject.flow()
    calibration = Subject(subject.model, subject.stack, others, subject.read).flow()
    report = frozen.attention_kept(subject.flow(kind, steps), own, calibration)
    (low, high), layers = report.headline_interval(), report.per_head().mean(1)
    ends = report.nulls["mean map"].headline(), report.pooled_skill().min()
    return np.array([report.headline(), low, high, np.median(layers), layers.argmin() + 1, *ends], dtype=float)


# The worst layer's cosine and its interval over examples; the median layer's; which layer is worst, from 1; the mean
# map's worst layer; the pooled skill over it at its worst layer.
ABOUT = ("cosine", "low", "high", "median", "layer", "null", "skill")


def by_example(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the trials that have a value for every example."""
    return {trial: each for trial, each in found.items() if not {"alone", "attention"} & set(trial.split())}


def of(scores: Mapping[str, Any], name: str) -> dict[Any, Any]:
    """Return what one model's refinements have, by kind and steps, and its nulls `twice` and `shuffled` by name."""
    found: dict[Any, Any] = {
        (kind, steps): scores[f"{name} {kind} {steps}"] for kind in KINDS for steps in frozen.STEPS
    }
    return found | {null: scores[f"{name} {null}"] for null in ("twice", "shuffled")}
