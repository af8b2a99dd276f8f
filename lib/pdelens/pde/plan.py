"""What a calibration does: its supervision, and the policy by which it steps depth-time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from .. import _doors
from .schemes import SCHEMES, Steps

OPTIMIZERS = ("muon", "adam")
SUPERVISIONS = ("states", "attention+states", "attention+states+logits", "labels")


@dataclass(frozen=True)
class Plan:
    """What a calibration does, and what makes it the same again.

    `substeps` is the policy, by `method`: a number (fixed), or (low, high), drawn anew at every step. `graded`, where
    given, replaces it: (low, high) for each layer, the last also for the rest, drawn for each layer by itself.
    `entry` are times inside the first layer, as shares of it, at which steps begin too (graded like layers of their
    own): where a small embedding is carried far at once, even steps miss its beginning. `refinement` adds this weight
    times the distance between one and two times as many sub-steps (the refinement penalty). `smooth` adds this weight
    times the squared difference of Heun's step from Euler's, over the states' variance, summed over the steps: between
    the layers nothing else tells the field where to go, and one that goes straight needs few steps to converge (in the
    spirit of Finlay et al. 2020, arXiv 2002.02798; it costs nothing, since Heun's method has both steps). Shares of
    the steps, from the beginning: `forced` starts every layer from the teacher's own state (teacher forcing), `coarse`
    takes one Lie step a layer whatever else is asked for, cheap and as layers do it; from the end: `doubled` takes
    twice as many sub-steps. `patience` counts validations without improvement before stopping early (0: never).
    `optimizer` is "muon" (`pde.muon.Muon`) or "adam". Raises `ValueError` for settings that mean nothing.

    >>> Plan(substeps=(2, 4), method="heun").finest.substeps
    (4,)
    """

    supervision: str = "attention+states"
    substeps: int | tuple[int, int] = 1
    graded: tuple[tuple[int, int], ...] = ()
    entry: tuple[float, ...] = ()
    refinement: float = 0.0
    forced: float = 0.0
    coarse: float = 0.0
    smooth: float = 0.0
    doubled: float = 0.0
    method: str = "lie"
    optimizer: str = "muon"
    steps: int = 1000
    batch: int = 64
    peak_rate: float = 3e-3
    validate_every: int = 100
    patience: int = 0
    seed: int = 0

    def __post_init__(self):
        _doors.option("supervision", self.supervision, SUPERVISIONS)
        _doors.option("optimizer", self.optimizer, OPTIMIZERS)
        _doors.option("method", self.method, [name for name, scheme in SCHEMES.items() if scheme.step is not None])
        _doors.is_a("graded", self.graded, (tuple, list), "pairs (low, high), one a layer,")
        _doors.is_a("entry", self.entry, (tuple, list), "increasing shares of the first layer")
        for name, least in (("steps", 1), ("batch", 1), ("validate_every", 1), ("patience", 0), ("seed", 0)):
            _doors.whole(name, getattr(self, name), least)
        for name in ("refinement", "smooth", "forced", "coarse", "doubled"):
            _doors.real(name, getattr(self, name), 0)
        _doors.real("peak_rate", self.peak_rate, above=0)
        for low, high in self.ranges:
            if low < 1 or high < low:
                raise ValueError(f"sub-steps {(low, high)} were given: a number, or (low, high), from 1 up, is wanted.")
        if self.smooth and self.method != "heun":
            raise ValueError(f"smooth={self.smooth:g} with method {self.method!r} was given: it needs 'heun'.")
        if any(not a < b for a, b in pairwise((0.0, *self.entry, 1.0))):
            raise ValueError(f"entry times {self.entry} were given: increasing shares of the first layer are wanted.")
        for name, share in (("forced", self.forced), ("coarse", self.coarse), ("doubled", self.doubled)):
            if share > 1:
                raise ValueError(f"a share of {share} {name} steps was given: between 0 and 1 is wanted.")

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The fewest and most sub-steps of each layer, of which the last stands for the rest."""
        if self.graded:
            return self.graded
        return ((self.substeps, self.substeps) if isinstance(self.substeps, int) else self.substeps,)

    def draw(self, generator: torch.Generator, layers: int) -> Steps:
        """Return how one optimiser step integrates."""
        if not self.graded:
            return Steps(self.method, _between(self.ranges[0], generator))
        every = [self.graded[min(part, len(self.graded) - 1)] for part in range(layers + len(self.entry))]
        return Steps(self.method, tuple(_between(one, generator) for one in every))

    def times(self, depths: Sequence[float]) -> list[float]:
        """Return depths with the entry times between the first two."""
        first, second = depths[:2]
        return [first, *(first + share * (second - first) for share in self.entry), *depths[1:]]

    @property
    def finest(self) -> Steps:
        """How validation integrates: with the most sub-steps."""
        most = Steps(self.method, tuple(high for _, high in self.ranges))
        return doubled(most) if self.doubled else most


def _between(ends: tuple[int, int], generator: torch.Generator) -> int:
    return int(torch.randint(ends[0], ends[1] + 1, (1,), generator=generator))


def doubled(how: Steps) -> Steps:
    """Return the same steps with twice as many sub-steps."""
    counts = (how.substeps,) if isinstance(how.substeps, int) else how.substeps
    return replace(how, substeps=tuple(2 * count for count in counts))
