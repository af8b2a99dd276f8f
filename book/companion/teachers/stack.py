"""Trains models of one shape as one stack: every parameter has a leading axis that counts the models.

Seeds and random-label twins share one tensor program (`torch.func.functional_call` under `vmap`). Every model sees
the batches of its own seed, its gradient is clipped by its own norm, and AdamW acts on each number by itself, so a
model of a stack is the model trained alone, up to the rounding of batched products.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, stack_module_state

from pdelens.models import Transformer
from pdelens.pde.checkpoints import generator_for
from pdelens.pde.loop import Loop

from ..data import tokens
from ..data.splits import Examples
from .recipes import Recipe

IGNORED = -100


class Stack:
    """Models of one shape; `module` is a Transformer whose parameters have the stack as first axis."""

    def __init__(self, recipes: Sequence[Recipe], device: str = "cpu", dtype: torch.dtype = torch.float32):
        if not recipes or any(recipe.shape != recipes[0].shape for recipe in recipes):
            raise ValueError(f"{[recipe.name for recipe in recipes]} were asked for: recipes of one shape are wanted.")
        self.recipes = tuple(recipes)
        singles = [recipe.untrained().to(dtype) for recipe in recipes]
        stacked, _ = stack_module_state(singles)  # type: ignore[arg-type]
        self.module = singles[0].train()
        for name, parameter in self.module.named_parameters():
            parameter.data = stacked[name].detach().to(device)

    def logits(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return (stack, batch, ..., outputs) for inputs (stack, batch, ...)."""

        def call(parameters, inputs, mask):
            return functional_call(self.module, parameters, (inputs, mask))

        parameters = dict(self.module.named_parameters())
        return torch.vmap(call, in_dims=(0, 0, None if mask is None else 0))(parameters, inputs, mask)

    def clip(self, norm: float) -> None:
        """Scale each model's gradient down to at most this norm."""
        clip_each(self.module.parameters(), norm)

    def model(self, number: int) -> Transformer:
        """Return one model on its own, on the CPU, in evaluation mode."""
        single = self.recipes[number].untrained().to(next(self.module.parameters()).dtype)
        single.load_state_dict({name: value[number].cpu() for name, value in self.module.state_dict().items()})
        return single.eval()

    def optimizer(self) -> torch.optim.AdamW:
        """Return AdamW over the stack: matrices decay; norms, biases and positions are left alone."""
        matrices, others = [], []
        for name, value in self.module.named_parameters():
            (matrices if value.ndim > 2 and name != "positions" else others).append(value)
        groups = [{"params": matrices, "weight_decay": self.recipes[0].weight_decay}]
        groups += [{"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.recipes[0].peak_rate, betas=(0.9, 0.98))


def clip_each(parameters: Iterable[Tensor], norm: float) -> None:
    """Scale the gradient of each member of stacked parameters, all of them together, down to at most this norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.reshape(len(g), -1).square().sum(1) for g in gradients])  # (parameters, stack)
    factor = (norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)  # (stack,)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))


def training_set(recipe: Recipe, data: Examples) -> Examples:
    """Return the training set as this job sees it: cut to its size, its classes redrawn where asked for."""
    inputs, labels = (column[: recipe.examples] if recipe.examples else column for column in data)
    if recipe.random_labels:
        random = generator_for(recipe.seed, 2_000_000)
        labels = torch.randint(0, recipe.configuration.outputs, labels.shape, generator=random)
    return Examples(inputs, labels)


def batches(recipe: Recipe, data: Examples, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield step, inputs and labels from step `start` on, without end.

    Each epoch is a shuffle of all examples with a seed of its own, so any step can be reached without replaying those
    before it. Pictures are shifted and words dropped as the job says.
    """
    if len(data.inputs) < recipe.batch:
        raise ValueError(f"{len(data.inputs)} examples were given, but one batch takes {recipe.batch}.")
    per_epoch = len(data.inputs) // recipe.batch
    order, ordered = torch.empty(0), -1
    for step in count(start):
        epoch, place = divmod(step, per_epoch)
        if epoch != ordered:
            order, ordered = torch.randperm(len(data.inputs), generator=generator_for(recipe.seed, epoch)), epoch
        chosen = order[place * recipe.batch : (place + 1) * recipe.batch].to(data.inputs.device)
        random = generator_for(recipe.seed, 1_000_000 + step)
        yield step, _disturbed(recipe, data.inputs[chosen], random), data.labels[chosen]


def _disturbed(recipe: Recipe, inputs: Tensor, random: torch.Generator) -> Tensor:
    if recipe.word_dropout:
        dropped = (torch.rand(inputs.shape, generator=random) < recipe.word_dropout).to(inputs.device)
        inputs = inputs.masked_fill(dropped & (inputs != tokens.PAD), tokens.MASK)
    if recipe.shift:
        down, right = torch.randint(0, 2 * recipe.shift + 1, (2,), generator=random).tolist()
        side = inputs.shape[-1]
        inputs = F.pad(inputs, (recipe.shift,) * 4)[:, down : down + side, right : right + side]
    return inputs


def mask_of(configuration, inputs: Tensor) -> Tensor | None:
    """Return the mask a model wants with its inputs: True at real tokens; None for pictures."""
    return inputs != tokens.PAD if configuration.vocabulary else None


def score(configuration, logits: Tensor, inputs: Tensor, labels: Tensor, smoothing: float = 0.0):
    """Return cross-entropies (nats), hits and which of them count, each (..., examples).

    For causal models the target of every token is the next one, and padding does not count; the examples are then
    tokens. Leading axes of `logits` (a stack) are kept.
    """
    targets = labels
    if configuration.causal:
        logits, targets = logits[..., :-1, :], inputs[..., 1:]
        targets = targets.masked_fill(targets == tokens.PAD, IGNORED).flatten(-2)
        logits = logits.flatten(-3, -2)
    flat = F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
    )
    return flat.view(targets.shape), logits.argmax(-1) == targets, targets != IGNORED


def _losses(stack: Stack, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each model's mean loss and share of hits on its batch, (stack,)."""
    recipe = stack.recipes[0]
    logits = stack.logits(inputs, mask_of(recipe.configuration, inputs))
    entropies, hits, counted = score(recipe.configuration, logits, inputs, labels, recipe.label_smoothing)
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
    recipes: Sequence[Recipe],
    data: Examples,
    folder: Path,
    *,
    held: Examples | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    stop: Callable[[int], bool] | None = None,
    keep: Callable[[Recipe, Transformer, int], None] | None = None,
    position: int | None = None,
) -> tuple[list[Transformer] | None, list[dict[str, Any]]]:
    """Train a stack of models from its last whole checkpoint.

    Returns the finished models (None where `stop`, asked with the number of steps done, said so) and for each recipe
    its record: `curve`, with rows [step, training loss, training accuracy, and on `held` loss and accuracy], and
    `seconds` of the stack. `keep` is given each snapshot. Raises `RuntimeError` where a loss is no longer finite.
    """
    stack, first = Stack(recipes, device, dtype), recipes[0]
    plan, checkpoint = {"jobs": [asdict(recipe) for recipe in recipes]}, checkpoint_of(recipes, folder)
    how = {"checkpoint": checkpoint, "keep_before": True, "label": label_of(recipes), "position": position}
    loop = Loop(stack.module, stack.optimizer(), plan, first.steps, first.peak_rate, **how)
    curves = loop.about.setdefault("curves", [[] for _ in recipes])
    own = [Examples(*(column.to(device) for column in training_set(recipe, data))) for recipe in recipes]
    streams = zip(*(batches(recipe, seen, loop.began) for recipe, seen in zip(recipes, own, strict=True)), strict=True)
    running = torch.zeros(2, len(recipes), device=device)
    for step in loop:
        drawn = next(streams)
        inputs, labels = (torch.stack([batch[part] for batch in drawn]) for part in (1, 2))
        losses, right = _losses(stack, inputs, labels)
        _refuse_divergence(recipes, losses, step, checkpoint)
        loop.descend(losses.sum(), partial(stack.clip, 1.0))
        running += torch.stack([losses.detach(), right]).to(running.dtype)
        for number, recipe in enumerate(recipes):
            if keep is not None and step + 1 in recipe.snapshots:
                keep(recipe, stack.model(number), step + 1)
        if loop.due(first.checkpoint_every):
            _follow(stack, curves, running / (step % first.checkpoint_every + 1), step + 1, held, device)
            running.zero_()
            loop.bar.set_postfix(loss=f"{curves[0][-1][1]:.3f}", accuracy=f"{curves[0][-1][2]:.3f}")
            loop.keep()
        if stop is not None and step + 1 < first.steps and stop(step + 1):
            loop.stop()
    records = [{"curve": curve, "seconds": loop.about["seconds"]} for curve in curves]
    done = loop.about["step"] == first.steps
    return [stack.model(number) for number in range(len(recipes))] if done else None, records


def _refuse_divergence(recipes: Sequence[Recipe], losses: Tensor, step: int, checkpoint: Path) -> None:
    if not bool(torch.isfinite(losses).all()):
        worst = int(torch.isfinite(losses).logical_not().float().argmax())
        raise RuntimeError(
            f"{recipes[worst].name}: the loss is {losses[worst].item()} at step {step}: lower the peak rate; the "
            f"last good state is in {checkpoint}."
        )


def _follow(stack: Stack, curves: list[list], means: Tensor, step: int, held: Examples | None, device: str) -> None:
    """Add a row to each model's learning curve: step, mean loss and accuracy, and on `held` its loss and accuracy."""
    for number, (curve, row) in enumerate(zip(curves, means.T.tolist(), strict=True)):
        scores = {} if held is None else evaluate(stack.model(number).to(device), held)
        curve.append([step, *row, *scores.values()])


def checkpoint_of(recipes: Sequence[Recipe], folder: Path) -> Path:
    """Return where a stack's checkpoint lies."""
    return folder / f"{label_of(recipes)}.checkpoint.safetensors"


def label_of(recipes: Sequence[Recipe]) -> str:
    """Return a stack's name: that of its first job, and how many are with it."""
    return recipes[0].name + (f"+{len(recipes) - 1}" if len(recipes) > 1 else "")
