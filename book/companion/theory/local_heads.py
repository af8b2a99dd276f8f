"""Heads as local operators: heads that are known, known maps that a test of locality must tell apart, real heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pdelens.attention.expansions import generated, local_operator, remainder, remainders, taylor
from pdelens.attention.matched import match_moments
from pdelens.attention.moments import Moments, attention_moments, lattice_attention
from pdelens.flow import Flow
from pdelens.lattice import Lattice
from pdelens.pde.normalisers import layer_normalise

_RESAMPLES = 400
Interval = tuple[float, tuple[float, float]]


class KnownHead(NamedTuple):
    """A head on a chain, (tokens, tokens), with its exact drift and diffusivity at the middle token."""

    name: str
    weights: Tensor
    drift: float
    diffusivity: float


def known_heads(length: int = 41) -> list[KnownHead]:
    """Return heads whose moments at the middle token are known in closed form; `length` is odd.

    The uniform law on 0, -1, ..., -i has mean -i/2 and variance ((i + 1)^2 - 1) / 12, of which a diffusivity is half.
    """
    place = torch.arange(length, dtype=torch.float64)
    delta = place[None] - place[:, None]
    causal = torch.ones(length, length, dtype=torch.float64).tril()
    itself = torch.eye(length, dtype=torch.float64)
    i = length // 2
    return [
        KnownHead("looks at itself", itself, 0.0, 0.0),
        KnownHead("shift to the previous token", itself.roll(-1, 1), -1.0, 0.0),
        KnownHead("Gaussian, $v=2$, $D=3/2$", torch.softmax(-((delta - 2) ** 2) / 6, -1), 2.0, 1.5),
        KnownHead("uniform over the past", causal / causal.sum(-1, keepdim=True), -i / 2, ((i + 1) ** 2 - 1) / 24),
    ]


class Modes(NamedTuple):
    """A symmetric head on a periodic chain, wave by wave: wave numbers, eigenvalues (waves,), diffusivity."""

    wave: np.ndarray
    eigenvalues: np.ndarray
    diffusivity: float

    def error(self) -> float:
        """Return how far log eigenvalues are from `-D k^2` at most, over the waves with `D k^2 < 1`."""
        decay = self.diffusivity * self.wave**2
        return float(np.abs(np.log(self.eigenvalues[decay < 1]) + decay[decay < 1]).max())


def gaussian_modes(width: float, places: int = 64) -> Modes:
    """Return a Gaussian head of this width (tokens) on a periodic chain of an even number of places, wave by wave."""
    place = torch.arange(places, dtype=torch.float64)
    distance = torch.minimum(place, places - place)
    row = torch.softmax(-(distance**2) / (2 * width**2), 0)
    wave = 2 * np.pi * np.arange(places // 2 + 1) / places
    return Modes(wave, torch.fft.rfft(row).real.numpy(), float((row * distance**2).sum() / 2))


def even_flow(drift: Sequence[float], diffusivity: float, lattice: Lattice) -> Tensor:
    """Return the flow over one unit of depth of an operator with the same coefficients everywhere, (1, places, places).

    `drift` (dims,) in lattice units and an isotropic `diffusivity` in their squares, a unit of depth.
    """
    v = torch.tensor(drift).double().expand(1, lattice.places, lattice.dims)
    spread = diffusivity * torch.eye(lattice.dims).double().expand(1, lattice.places, lattice.dims, lattice.dims)
    even = Moments(v, spread, torch.zeros(1, lattice.places))
    return torch.linalg.matrix_exp(local_operator(even, lattice))


def control_maps(lattice: Lattice, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Return three known maps of a grid, (1, places, places) each, and white noise to try them on, (1, places, 16).

    `heat` and `drift` are flows of local operators, which a test of locality must pass; `random` is none.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(1, lattice.places, lattice.places, generator=generator, dtype=torch.float64)
    white = torch.randn(1, lattice.places, 16, generator=generator, dtype=torch.float64)
    heat, drift = even_flow([0.0, 0.0], 2.0, lattice), even_flow([0.5, -0.3], 0.6, lattice)
    return {"heat": heat, "drift": drift, "random": torch.softmax(3 * drawn, -1)}, white


def control_measures(kernel: Tensor, white: Tensor, lattice: Lattice, refinements: int = 60) -> dict[str, float]:
    """Return a map's mean spread, and what three local approximations of it leave of what it does to `white`.

    `kernel` (1, places, places); `spread` in lattice units. `step`, `generator` and `matched`: see
    `pdelens.attention.expansions.remainders`, `taylor` being the step.
    """
    own = attention_moments(kernel[None].clamp_min(0), lattice)
    column = white[:, None]
    guesses = {
        "step": taylor(white, own, lattice),
        "generator": generated(own, lattice, refinements)[0] @ column,
        "matched": match_moments(own, lattice).weights @ column,
    }
    left = {name: float(remainder(kernel[None] @ column, white, guess)[0]) for name, guess in guesses.items()}
    return {"spread": float(own.spread().mean()), **left}


@dataclass(frozen=True, eq=False)
class Remainders:
    """What each approximation of a head leaves, example by example: `each[name]` and `size`, (examples, layers, heads).

    `each` is |Au - Tu| / |Au - u| of one example and `size` its |Au - u|^2, so that any set of examples can be pooled.
    """

    each: Mapping[str, Tensor]
    size: Tensor

    def first(self, count: int) -> "Remainders":
        """Return what is left on the first so many examples alone."""
        return Remainders({name: values[:count] for name, values in self.each.items()}, self.size[:count])

    def pooled(self, name: str) -> np.ndarray:
        """Return each head's remainder over all examples together, (layers, heads)."""
        return self._pooled(name, np.ones((1, len(self.size))))[0]

    def median(self, name: str) -> Interval:
        """Return the median head's remainder, and its 95 % bootstrap interval over examples.

        Of an even number of heads the lower of the two in the middle, so that it is a head's.
        """
        now, drawn = (self._pooled(name, counts) for counts in (np.ones((1, len(self.size))), self._draws()))
        middle, *draws = (np.quantile(each, 0.5, axis=(1, 2), method="lower") for each in (now, drawn))
        return float(middle[0]), self._interval(draws[0])

    def share_below(self, name: str, others: Sequence[str]) -> Interval:
        """Return the share of heads in which an approximation leaves less than all others named, with its interval."""
        drawn = {key: self._pooled(key, self._draws()) for key in (name, *others)}
        below = np.all([drawn[name] < drawn[key] for key in others], axis=0)
        now = np.all([self.pooled(name) < self.pooled(key) for key in others], axis=0)
        return float(now.mean()), self._interval(below.mean((1, 2)))

    def _pooled(self, name: str, counts: np.ndarray) -> np.ndarray:
        """Return remainders (draws, layers, heads) where each example counts so often, (draws, examples)."""
        size = self.size.double().numpy()
        missed = self.each[name].double().numpy() ** 2 * size
        return np.sqrt(np.tensordot(counts, missed, 1) / np.tensordot(counts, size, 1))

    def _draws(self) -> np.ndarray:
        """Return how often each example is in each of many resamples: the same for every approximation."""
        examples = len(self.size)
        return np.random.default_rng(0).multinomial(examples, np.full(examples, 1 / examples), _RESAMPLES)

    @staticmethod
    def _interval(draws: np.ndarray) -> tuple[float, float]:
        low, high = np.quantile(draws, [0.025, 0.975])
        return float(low), float(high)


def real_remainders(calibration: Flow, heldout: Flow, lattice: Lattice, refinements: int = 20) -> Remainders:
    """Return what the local approximations of a model's heads leave, on states as its layer norm shows them.

    Names as in `pdelens.attention.expansions.remainders`; what is fitted is fitted on the calibration Flow. Cost: that
    of the generators, `refinements` matrix exponentials a head and example.
    """
    each = remainders(calibration, heldout, lattice, layer_normalise, per_example=True, refinements=refinements)
    sizes = []
    for maps, states in zip(heldout.attention, heldout.states, strict=False):  # there is one state more than layers
        inner, _ = lattice_attention(maps.double(), lattice)
        u = layer_normalise(states).double().unsqueeze(1)
        sizes.append((inner @ u - u).square().sum((2, 3)))
    return Remainders(each, torch.stack(sizes, 1))


def spreads(heldout: Flow, lattice: Lattice) -> np.ndarray:
    """Return how far heads spread on average over layers, heads and queries, in lattice units, (examples,)."""
    found = [attention_moments(maps, lattice).spread().mean((1, 2)) for maps in heldout.attention]
    return torch.stack(found).mean(0).double().numpy()


def unevenness(heldout: Flow) -> np.ndarray:
    """Return how far the sums of attention's columns are from 1 on average, (examples,): 0 conserves mass."""
    found = [(maps.sum(-2) - 1).abs().mean((1, 2)) for maps in heldout.attention]
    return torch.stack(found).mean(0).double().numpy()
