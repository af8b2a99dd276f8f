"""The frame of an optimisation that resumes: rate, clock, progress, checkpoints; the loss is the caller's."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .checkpoints import restore, store


class Loop:
    """The steps of one optimisation, begun anew or gone on with from the last whole checkpoint of this very `job`.

    Iterating gives the number of each step, with the rate of one cycle set, until `steps` are done or `stop` is
    called. `about` is what a checkpoint keeps beside the parameters (`job`, `step`, `seconds` and whatever is put
    there), `extra` are tensors that are kept too. Seconds are a processor's time where a processor computes, since
    what else runs there, or a pause, is no part of the cost.

    >>> model = torch.nn.Linear(1, 1)
    >>> loop = Loop(model, torch.optim.SGD(model.parameters(), 0.1), {"name": "line"}, 3, 0.1, label="line")
    >>> for step in loop:
    ...     loop.descend(model(torch.ones(1, 1)).square().sum())
    >>> loop.about["step"]
    3
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        job: Mapping[str, Any],
        steps: int,
        peak_rate: float,
        *,
        checkpoint: Path | None = None,
        keep_before: bool = False,
        label: str = "fit",
        position: int | None = None,
    ):
        self.model, self.optimizer, self.steps, self.peak_rate = model, optimizer, steps, peak_rate
        self.checkpoint, self.keep_before = checkpoint, keep_before
        found = None if checkpoint is None else restore(checkpoint, job, model, optimizer)
        self.about, self.extra = found or ({"job": job, "step": 0, "seconds": 0.0}, {})
        self.began, self.stopped = self.about["step"], False
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.clock = time.process_time if on_cpu else time.perf_counter
        self.bar = tqdm(
            total=steps, initial=self.began, desc=label, unit="step", file=sys.stderr, position=position, disable=None
        )
        self.tick = self.clock()

    def __iter__(self) -> Iterator[int]:
        while self.about["step"] < self.steps and not self.stopped:
            for group in self.optimizer.param_groups:
                group["lr"] = one_cycle(self.peak_rate, self.about["step"], self.steps)
            yield self.about["step"]
        self.bar.close()

    def descend(self, loss: Tensor, clip: Callable[[], Any] | None = None) -> None:
        """Take the step: gradients of the loss, clipped where asked for, into the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip is not None:
            clip()
        self.optimizer.step()
        self.about["step"] += 1
        self.bar.update()

    def due(self, every: int) -> bool:
        """Say whether so many steps are done again, or all."""
        return self.about["step"] % every == 0 or self.about["step"] == self.steps

    def keep(self, extra: Mapping[str, Tensor] | None = None) -> None:
        """Note the time, and write a checkpoint where one is wanted."""
        now = self.clock()
        self.tick, self.about["seconds"] = now, self.about["seconds"] + now - self.tick
        if self.checkpoint is not None:
            store(self.checkpoint, self.about, self.model, self.optimizer, extra, self.keep_before)

    def stop(self) -> None:
        """End after this step."""
        self.stopped = True


def one_cycle(peak: float, step: int, steps: int) -> float:
    """Return the learning rate: a linear rise over the first tenth, then half a cosine to zero."""
    rise = max(1, steps // 10)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
