"""Trains models of one shape as one stack: every parameter has a leading axis that counts the models.

Seeds and random-label twins share one tensor program (`torch.func.functional_call` under `vmap`). Every
model sees the batches of its own seed, its gradient is clipped by its own norm, and AdamW acts on each
number by itself, so a model of a stack is the model trained alone, up to the rounding of batched products.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from . import text
from .examples import Examples
from .models import Transformer
from .optimisation import generator_for, one_cycle, restore, store
from .teachers import Job

IGNORED = -100


class Stack:
    """Models of one shape; `module` is a Transformer whose parameters have the stack as first axis."""

    def __init__(self, jobs: Sequence[Job], device: str = "cpu", dtype: torch.dtype = torch.float32):
        if not jobs or any(job.shape != jobs[0].shape for job in jobs):
            raise ValueError(f"a stack of {[job.name for job in jobs]} was asked for: jobs of one shape are wanted.")
        self.jobs = tuple(jobs)
        singles = [job.untrained().to(dtype) for job in jobs]
        self.module = singles[0].train()
        values = zip(*(tuple(model.parameters()) for model in singles), strict=True)
        stacked = [torch.stack([value.detach() for value in row]) for row in values]
        for parameter, value in zip(self.module.parameters(), stacked, strict=True):
            parameter.data = value.to(device)

    def logits(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return (stack, batch, ..., outputs) for inputs (stack, batch, ...)."""

        def call(parameters, inputs, mask):
            return functional_call(self.module, parameters, (inputs, mask))

        parameters = dict(self.module.named_parameters())
        return torch.vmap(call, in_dims=(0, 0, None if mask is None else 0))(parameters, inputs, mask)

    def clip(self, norm: float) -> None:
        """Scale each model's gradient down to at most this norm."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        squares = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in gradients])  # (parameters, stack)
        factor = (norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # (stack,)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))

    def model(self, number: int) -> Transformer:
        """Return one model on its own, on the CPU, in evaluation mode."""
        single = self.jobs[number].untrained().to(next(self.module.parameters()).dtype)
        single.load_state_dict({name: value[number].cpu() for name, value in self.module.state_dict().items()})
        return single.eval()

    def optimizer(self) -> torch.optim.AdamW:
        """Return AdamW over the stack: matrices decay; norms, biases and positions are left alone."""
        job = self.jobs[0]
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, value in self.module.named_parameters():
            groups[value.ndim > 2 and name != "positions"].append(value)
        return torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": job.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=job.peak_rate,
            betas=(0.9, 0.98),
        )


def treated(job: Job, data: Examples) -> Examples:
    """Return the training set as this job sees it: cut to its size, its classes redrawn where asked for."""
    inputs, labels = (column[: job.examples] if job.examples else column for column in data)
    if job.random_labels:
        labels = torch.randint(0, job.configuration.outputs, labels.shape, generator=generator_for(job.seed, 2_000_000))
    return Examples(inputs, labels)


def batches(job: Job, data: Examples, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield step, inputs and labels from step `start` on, without end.

    Each epoch is a shuffle of all examples with a seed of its own, so any step can be reached without
    replaying those before it. Pictures are shifted and words dropped as the job says.
    """
    if len(data.inputs) < job.batch:
        raise ValueError(f"{len(data.inputs)} examples were given, but one batch takes {job.batch}.")
    per_epoch = len(data.inputs) // job.batch
    order, ordered = torch.empty(0), -1
    step = start
    while True:
        epoch, place = divmod(step, per_epoch)
        if epoch != ordered:
            order, ordered = torch.randperm(len(data.inputs), generator=generator_for(job.seed, epoch)), epoch
        chosen = order[place * job.batch : (place + 1) * job.batch].to(data.inputs.device)
        random = generator_for(job.seed, 1_000_000 + step)
        yield step, _disturbed(job, data.inputs[chosen], random), data.labels[chosen]
        step += 1


def _disturbed(job: Job, inputs: Tensor, random: torch.Generator) -> Tensor:
    if job.word_dropout:
        dropped = (torch.rand(inputs.shape, generator=random) < job.word_dropout).to(inputs.device)
        inputs = inputs.masked_fill(dropped & (inputs != text.PAD), text.MASK)
    if job.shift:
        down, right = torch.randint(0, 2 * job.shift + 1, (2,), generator=random).tolist()
        side = inputs.shape[-1]
        inputs = F.pad(inputs, (job.shift,) * 4)[:, down : down + side, right : right + side]
    return inputs


def mask_of(configuration, inputs: Tensor) -> Tensor | None:
    """Return the mask a model wants with its inputs: True at real tokens; None for pictures."""
    return inputs != text.PAD if configuration.vocabulary else None


def score(configuration, logits: Tensor, inputs: Tensor, labels: Tensor, smoothing: float = 0.0):
    """Return cross-entropies (nats), hits and which of them count, each (..., examples).

    For causal models the target of every token is the next one, and padding does not count; the examples
    are then tokens. Leading axes of `logits` (a stack) are kept.
    """
    targets = labels
    if configuration.causal:
        logits, targets = logits[..., :-1, :], inputs[..., 1:]
        targets = targets.masked_fill(targets == text.PAD, IGNORED).flatten(-2)
        logits = logits.flatten(-3, -2)
    flat = F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
    )
    return flat.view(targets.shape), logits.argmax(-1) == targets, targets != IGNORED


def _losses(stack: Stack, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each model's mean loss and share of hits on its batch, (stack,)."""
    job = stack.jobs[0]
    logits = stack.logits(inputs, mask_of(job.configuration, inputs))
    entropies, hits, counted = score(job.configuration, logits, inputs, labels, job.label_smoothing)
    number = counted.sum(-1)
    return entropies.sum(-1) / number, (hits & counted).sum(-1) / number


@torch.no_grad()
def evaluate(model: Transformer, data: Examples, batch: int = 250) -> dict[str, float]:
    """Return mean cross-entropy (nats) and accuracy of a model on examples (causal: per next token).

    Batches of 250 on the device that the model is on; the last digits depend on both.
    """
    device = next(model.parameters()).device
    configuration, total = model.configuration, torch.zeros(3, dtype=torch.float64)
    for inputs, labels in zip(data.inputs.split(batch), data.labels.split(batch), strict=True):
        inputs, labels = inputs.to(device), labels.to(device)
        logits = model(inputs, mask_of(configuration, inputs))
        entropies, hits, counted = score(configuration, logits, inputs, labels)
        total += torch.stack([entropies.double().sum(), (hits & counted).sum(), counted.sum()]).cpu()
    loss, right, number = total.tolist()
    return {"loss": loss / number, "accuracy": right / number}


def train(
    jobs: Sequence[Job],
    data: Examples,
    folder: Path,
    *,
    held: Examples | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    stop: Callable[[int], bool] | None = None,
    keep: Callable[[Job, Transformer, int], None] | None = None,
    position: int | None = None,
) -> tuple[list[Transformer] | None, list[dict[str, Any]]]:
    """Train a stack of jobs from its last whole checkpoint.

    Returns the finished models (None where `stop`, asked with the number of steps done, said so) and
    for each job its record: `curve`, with rows [step, training loss, training accuracy, and on `held`
    loss and accuracy], and `seconds` of the stack. `keep` is given each snapshot. Raises `RuntimeError`
    where a loss is no longer finite.
    """
    stack = Stack(jobs, device, dtype)
    optimizer = stack.optimizer()
    checkpoint = checkpoint_of(jobs, folder)
    plan = {"jobs": [asdict(job) for job in jobs]}
    found = restore(checkpoint, plan, stack.module, optimizer)
    about = found[0] if found else {"job": plan, "step": 0, "seconds": 0.0, "curves": [[] for _ in jobs]}
    curves = about["curves"]
    own = [Examples(*(column.to(device) for column in treated(job, data))) for job in jobs]
    streams = zip(*(batches(job, seen, about["step"]) for job, seen in zip(jobs, own, strict=True)), strict=True)
    steps, every = jobs[0].steps, jobs[0].checkpoint_every
    bar = tqdm(total=steps, initial=about["step"], desc=label_of(jobs), unit="step", file=sys.stderr, position=position)
    running, began = torch.zeros(2, len(jobs), device=device), time.perf_counter()
    while about["step"] < steps:
        drawn = next(streams)
        inputs, labels = (torch.stack([batch[part] for batch in drawn]) for part in (1, 2))
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(jobs[0].peak_rate, about["step"], steps)
        losses, right = _losses(stack, inputs, labels)
        if not bool(torch.isfinite(losses).all()):
            raise RuntimeError(_diverged(jobs, losses, about["step"], checkpoint))
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        stack.clip(1.0)
        optimizer.step()
        running += torch.stack([losses.detach(), right]).to(running.dtype)
        about["step"] = done = about["step"] + 1
        bar.update()
        for number, job in enumerate(jobs):
            if keep is not None and done in job.snapshots:
                keep(job, stack.model(number), done)
        if done % every == 0 or done == steps:
            means = (running / ((done - 1) % every + 1)).T.tolist()  # (stack, 2)
            for number, curve in enumerate(curves):
                scores = {} if held is None else evaluate(stack.model(number).to(device), held)
                curve.append([done, *means[number], *scores.values()])
            running.zero_()
            bar.set_postfix(loss=f"{curves[0][-1][1]:.3f}", accuracy=f"{curves[0][-1][2]:.3f}")
            about["seconds"] += time.perf_counter() - began
            began = time.perf_counter()
            store(checkpoint, about, stack.module, optimizer, keep_before=True)
        if stop is not None and done < steps and stop(done):
            bar.close()
            return None, [{"curve": curve, "seconds": about["seconds"]} for curve in curves]
    bar.close()
    records = [{"curve": curve, "seconds": about["seconds"]} for curve in curves]
    return [stack.model(number) for number in range(len(jobs))], records


def checkpoint_of(jobs: Sequence[Job], folder: Path) -> Path:
    """Return where a stack's checkpoint lies."""
    return folder / f"{label_of(jobs)}.checkpoint.safetensors"


def label_of(jobs: Sequence[Job]) -> str:
    """Return a stack's name: that of its first job, and how many are with it."""
    return jobs[0].name + (f"+{len(jobs) - 1}" if len(jobs) > 1 else "")


def _diverged(jobs: Sequence[Job], losses: Tensor, step: int, checkpoint: Path) -> str:
    worst = int((~torch.isfinite(losses)).float().argmax())
    return (
        f"{jobs[worst].name}: the loss is {losses[worst].item()} at step {step}: lower the peak rate; the last good "
        f"state is in {checkpoint}."
    )
