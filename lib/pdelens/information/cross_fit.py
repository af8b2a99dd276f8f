"""Small perceptrons trained side by side, each stopped by samples apart from those it is then read on."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_RATE, _STRAIGHT_RATE = 3e-3, 2e-2
_EVERY, _PATIENCE, _LARGEST_GRADIENT, _BATCH = 10, 15, 10.0, 256
# Widths of the hidden layers of a probe.
_PROBES: dict[str, tuple[int, ...]] = {"linear": (), "mlp": (64,)}
# A score that creeps up by less than this a look is as good as at rest.
_RISE = 1e-3


class Parts(NamedTuple):
    """Which samples each member is fitted to, stopped by and read on, (members, samples of the part) each."""

    train: Tensor
    validation: Tensor
    test: Tensor


def parts(
    samples: int, members: int, test: int, validation: int, generator: torch.Generator, device: Any = "cpu"
) -> Parts:
    """Return one random order of the samples, cut for member m after a turn by m/members of it.

    The parts of one member share no sample; with `test = ceil(samples / members)` the test parts of all members
    together hold every sample.

    >>> cut = parts(10, 5, 2, 2, torch.Generator().manual_seed(0))
    >>> sorted(cut.test.flatten().tolist()) == list(range(10)), cut.train.shape
    (True, torch.Size([5, 6]))
    """
    order = torch.randperm(samples, generator=generator).to(device)
    turned = torch.stack([order.roll(-(m * samples // members)) for m in range(members)])
    return Parts(turned[:, test + validation :], turned[:, test : test + validation], turned[:, :test])


def blocks(rows: Tensor, size: int) -> list[Tensor]:
    """Return rows (members, n) in blocks of one size that cover them, overlapping where they must.

    >>> [block.tolist() for block in blocks(torch.arange(5)[None], 3)]
    [[[0, 1, 2]], [[2, 3, 4]]]
    """
    size = min(size, rows.shape[1])
    starts = torch.linspace(0, rows.shape[1] - size, -(-rows.shape[1] // size)).long()
    return [rows[:, start : start + size] for start in starts.tolist()]


def standardised(x: Tensor, train: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a map from rows (members, n) to samples (members, n, columns) in each member's own scale.

    Mean and deviation are those of the member's training samples, (members, samples); float32.
    """
    x = x.float()
    mean, deviation = (torch.stack([of(x[rows], 0) for rows in train])[:, None] for of in (torch.mean, torch.std))
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return lambda rows: (x[rows] - mean) / deviation


def fit(
    model: nn.Module,
    objective: Callable[[Tensor], Tensor],
    score: Callable[[], Tensor],
    train: Tensor,
    *,
    batch: int,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Maximise each member's objective by Adam, leave each at its best score, and return those (members,).

    `objective(rows)` takes row numbers (members, batch) out of `train`; `score()` reads the validation part, before
    the first step and every 10, so that a member whom training only harms is left untrained. Ends when no member's
    score has risen by 0.001 for 15 looks, or after `steps`. Parameters carry members first; members do not interact.
    """
    straight = [parameter for name, parameter in model.named_parameters() if name.endswith("straight")]
    bent = [parameter for name, parameter in model.named_parameters() if not name.endswith("straight")]
    # Hidden layers overfit many columns before a linear map at their rate has got anywhere.
    groups = [{"params": bent}, {"params": straight, "lr": _STRAIGHT_RATE}]
    optimizer = torch.optim.Adam(groups, lr=_RATE, fused=True)
    with torch.no_grad():
        best = score()
        mark, stale = best.clone(), torch.zeros(len(train), dtype=torch.long)
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    for step, rows in enumerate(itertools.islice(_batches(train, batch, generator), steps), 1):
        optimizer.zero_grad()
        (-objective(rows)).sum().backward()
        _clip(list(model.parameters()))
        optimizer.step()
        if step % _EVERY:
            continue
        with torch.no_grad():
            value = score()
            better = value > best
            best = torch.where(better, value, best)
            for old, new in zip(kept, model.parameters(), strict=True):
                old[better] = new[better]
            risen = value > mark + _RISE
            mark, stale = torch.where(risen, value, mark), torch.where(risen, 0, stale + 1)
        if stale.min() >= _PATIENCE:
            break
    with torch.no_grad():
        for old, new in zip(kept, model.parameters(), strict=True):
            new.copy_(old)
    return best


def cross_fitted(
    x: Tensor, start: Tensor, losses: Callable[[Tensor, Tensor], Tensor], probe: str, folds: int, steps: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Train one probe a fold and return its mean loss on its own fold and on its validation part, (folds,) each.

    A probe is fitted to 80 % of the samples outside its fold and stopped by the rest of them. Its outputs begin as
    `start` for every sample; `losses(outputs, rows)` takes (folds, rows, outputs) and row numbers to (folds, rows).
    """
    if probe not in _PROBES:
        raise ValueError(f"probe={probe!r} was given: one of {', '.join(_PROBES)} is wanted.")
    if not 2 <= folds <= len(x) // 10:
        raise ValueError(f"{folds} folds of {len(x)} samples were asked for: 2 or more, of at least 10 samples each.")
    generator = torch.Generator().manual_seed(seed)
    fold = -(-len(x) // folds)
    cut = parts(len(x), folds, fold, (len(x) - fold) // 5, generator, x.device)
    model = Perceptrons(folds, [x.shape[1], *_PROBES[probe], len(start)], generator, zero=True)
    with torch.no_grad():
        model.bias.add_(start)
    model, scaled = model.to(x.device), standardised(x, cut.train)

    def gain(rows: Tensor) -> Tensor:
        return -losses(model(scaled(rows)), rows).mean(1)

    score = fit(model, gain, lambda: gain(cut.validation), cut.train, batch=_BATCH, steps=steps, generator=generator)
    with torch.no_grad():
        return -gain(cut.test), -score


class Perceptrons(nn.Module):
    """Independent perceptrons side by side: hidden layers of ReLUs, if any, and a straight linear map beside them.

    `zero` starts the output at 0: what has learnt nothing says nothing.
    """

    def __init__(self, members: int, widths: list[int], generator: torch.Generator, *, zero: bool = False):
        super().__init__()

        def draw(inward: int, outward: int) -> nn.Parameter:
            uniform = 2 * torch.rand(members, inward, outward, generator=generator) - 1
            return nn.Parameter(inward**-0.5 * uniform)

        self.straight = draw(widths[0], widths[-1])
        self.bias = nn.Parameter(torch.zeros(members, 1, widths[-1]))
        hidden = widths if len(widths) > 2 else []
        self.weights = nn.ParameterList(draw(a, b) for a, b in itertools.pairwise(hidden))
        self.biases = nn.ParameterList(torch.zeros(members, 1, width) for width in hidden[1:-1])
        if zero:
            with torch.no_grad():
                for parameter in self.outward():
                    parameter.zero_()

    def outward(self) -> list[nn.Parameter]:
        """Return the weights (members, width, last width) that lead to the output."""
        return [self.straight, *self.weights[-1:]]

    def forward(self, x: Tensor) -> Tensor:
        """Return (members, samples, last width) for x (members, samples, first width)."""
        out, hidden = torch.baddbmm(self.bias, x, self.straight), x
        for weight, bias in zip(self.weights[:-1], self.biases, strict=True):
            hidden = torch.relu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(out, hidden, self.weights[-1]) if len(self.weights) else out


def _batches(train: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of rows (members, batch) without end, every member in its own order, whole rounds of samples."""
    samples = train.shape[1]
    batch = min(batch, samples)
    while True:
        order = torch.rand(train.shape, generator=generator).argsort(1)
        yield from train.gather(1, order.to(train.device)).split(batch, 1)[: samples // batch]


def _clip(parameters: list[nn.Parameter]) -> None:
    """Bound each member's gradient: one batch with a huge exponential would blind Adam for many steps."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    scale = (_LARGEST_GRADIENT / norm).clamp(max=1.0).nan_to_num(0.0)
    for gradient in gradients:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))
