"""What is measured of the estimators: which tasks, methods, samples and seeds, at which scale.

Four studies:

- *auto*: the method `auto` on every task of the catalogue and seed, its value, interval and warnings;
- *unseen*: `auto` on tasks outside the catalogue, several dependences side by side among them;
- *table*: every estimator on every task, its value and seconds;
- *panel*: true against estimated over dims, samples and information.
"""

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pdelens.information import neural
from pdelens.information.estimate import mutual_information
from pdelens.information.methods import METHODS, Estimator, estimator
from pdelens.information.tasks import Task, crossing, gaussian_channel, several, task, tasks, unseen

# Trained critics and what needs N^2 memory or time: fewer seeds, and shorter training than a single call's.
_SLOW = ("renyi", "info_nce", "nwj", "mine", "probe", "sliced")
SHORT: dict[str, dict[str, int]] = {name: {"seeds": 3, "steps": 400} for name in ("info_nce", "nwj", "mine")}


@dataclass(frozen=True)
class Scale:
    """How much is computed: samples and seeds of `auto` and the table, and the panel's axes."""

    samples: int = 2000
    seeds: int = 20
    table_seeds: int = 2
    unseen_seeds: int = 5
    names: tuple[str, ...] | None = None
    methods: tuple[str, ...] = tuple(name for name, method in METHODS.items() if not method.classes)
    dims: tuple[int, ...] = (1, 2, 5, 10, 25)
    informations: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    panel_samples: tuple[int, ...] = (250, 1000, 4000)
    panel_seeds: int = 3
    panel_methods: tuple[str, ...] = ("auto", "ksg", "gaussian_copula", "binned", "kernel_density", "info_nce")


_FEW = ("1v1-normal-0.75", "multinormal-sparse-3-3-2-2.0", "student-identity-2-2-1")
_BOOK = Scale()
SCALES: dict[str, Scale] = {
    "smoke": Scale(
        300, 1, 1, 0, _FEW, ("ksg", "gaussian_copula", "binned"), (1, 2), (0.5,), (300,), 1, ("auto", "ksg")
    ),
    "book": _BOOK,
    "full": Scale(
        samples=5000,
        table_seeds=5,
        unseen_seeds=20,
        dims=(*_BOOK.dims, 64),
        informations=(*_BOOK.informations, 8.0),
        panel_samples=(*_BOOK.panel_samples, 16000),
        panel_seeds=5,
    ),
}


# What tells one trial from all others.
KEY = ("study", "task", "method", "samples", "seed")


@dataclass(frozen=True)
class Trial:
    """One call of one method on one sample of a task."""

    study: str
    task: Task
    method: str
    samples: int
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What tells this trial from all others, in the order of `KEY`."""
        return (self.study, self.task.name, self.method, self.samples, self.seed)

    def run(self) -> dict[str, Any]:
        """Return the trial's result: key, value, seconds, and for `auto` interval, warnings and choice."""
        # Maps of one task would otherwise see the same draws, and their results would not count apart.
        x, y = self.task.sample(self.samples, 1000 * zlib.crc32(self.task.name.encode()) + self.seed)
        record: dict[str, Any] = dict(zip(KEY, self.key, strict=True))
        started = time.process_time()
        if self.method == "auto":
            found = mutual_information(x, y, shuffles=1, seed=self.seed)
            record |= {
                "value": round(found.value, 5),
                "interval": [round(bound, 5) for bound in found.interval],
                "warned": len(found.warnings),
                "choice": found.method,
            }
        else:
            record["value"] = round(_estimator(self.method, self.seed)(x, y), 5)
        return record | {"seconds": round(time.process_time() - started, 3)}


def _estimator(method: str, seed: int) -> Estimator:
    if method not in SHORT:
        return estimator(method, seed=seed)
    function: Callable[..., float] = getattr(neural, method)
    return lambda x, y: function(x, y, seed=seed, **SHORT[method])


def trials(scale: Scale) -> Iterator[Trial]:
    """Yield all trials of a scale, the quick and telling ones first."""
    known = tasks() if scale.names is None else tuple(task(name) for name in scale.names)
    for seed in range(scale.seeds):
        yield from (Trial("auto", one, "auto", scale.samples, seed) for one in known)
        if seed < scale.table_seeds:
            for method in scale.methods:
                if seed and method in _SLOW:
                    continue
                yield from (
                    Trial("table", one, method, scale.samples, seed)
                    for one in known
                    if method != "probe" or one.dim_y == 1
                )
        if seed < scale.unseen_seeds:
            yield from (Trial("unseen", one, "auto", scale.samples, seed) for one in unseen())
    panel = [gaussian_channel(dims, nats) for dims in scale.dims for nats in scale.informations]
    panel += [several(crossing(0.9), dims) for dims in scale.dims if dims <= 5]
    for samples in scale.panel_samples:
        for method in scale.panel_methods:
            for seed in range(1 if method in ("auto", *_SLOW) else scale.panel_seeds):
                yield from (Trial("panel", one, method, samples, seed) for one in panel)
