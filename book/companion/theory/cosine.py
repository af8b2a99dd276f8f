"""What a cosine of attention maps is worth: closed forms, and the simulation that checks them.

The theorems stand, with proofs, in the chapter *What does a cosine of 0.98 mean?*.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement import measures


def cosine_to_uniform(attention: Tensor, causal: bool = False) -> Tensor:
    """Cosine of a row-stochastic map (..., queries, keys) to the uniform map, by its norm alone.

    `sqrt(m/n) / |A|_F` for m queries and n keys; `sqrt(H_n) / |A|_F` for a causal map, H_n the harmonic number.
    Exact, for any rows that sum to 1.

    >>> float(cosine_to_uniform(torch.eye(4)))
    0.5
    """
    queries, keys = attention.shape[-2:]
    overlap = sum(1 / i for i in range(1, keys + 1)) if causal else queries / keys
    return math.sqrt(overlap) / attention.square().sum((-2, -1)).sqrt()


def uniform_law(spread):
    """Limit of the cosine to the uniform map for Gaussian logits of sd `spread`: `exp(-s^2 / 2)`."""
    return np.exp(-np.square(spread) / 2)


def independent_law(spread, heads: int = 1):
    """Limit of the cosine of two independent maps, each averaged over heads: `1 / (1 + (exp(s^2) - 1) / H)`."""
    return 1 / (1 + np.expm1(np.square(spread)) / heads)


def range_of_law(tokens: int) -> float:
    """Spread up to which the laws describe rows of so many tokens: `sqrt(ln(n) / 2)`.

    Beyond it the largest weight of a row, not the average one, decides its norm (the freezing of the random energy
    model, Derrida 1981, for the second moment).
    """
    return math.sqrt(math.log(tokens) / 2)


def spread_for(cosine: float, heads: int = 1) -> float:
    """Largest spread at which two independent maps, averaged over heads, still reach a cosine."""
    return math.sqrt(math.log1p(heads * (1 / cosine - 1)))


def chance_spread(tokens: int, queries: int | None = None) -> float:
    """Deviation of the centred cosine of unrelated maps (mean 0), exact at equal row norms: `1 / sqrt(m (n - 1))`."""
    return 1 / math.sqrt((queries or tokens) * (tokens - 1))


def centred_from_raw(raw, null):
    """Centred cosine that a raw cosine stands for, where the mean map scores `null`.

    `1 / sqrt(1 + (1/c^2 - 1) / (1 - c0^2))`, for an error uncorrelated with the map and its mean.

    >>> round(float(centred_from_raw(0.98, 0.6)), 3), round(float(centred_from_raw(0.98, 0.99)), 3)
    (0.969, 0.571)
    """
    raw, null = np.asarray(raw, dtype=float), np.asarray(null, dtype=float)
    return 1 / np.sqrt(1 + (1 / raw**2 - 1) / (1 - null**2))


def random_attention(
    tokens: int, spread: float, examples: int, heads: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Softmax of independent Gaussian logits, (examples, heads, tokens, tokens)."""
    logits = spread * torch.randn(examples, heads, tokens, tokens, generator=generator)
    return torch.softmax(logits, dim=-1)


def unrelated_cosines(
    tokens: int, spread: float, pairs: int, heads: int = 1, generator: torch.Generator | None = None
) -> dict[str, np.ndarray]:
    """Cosines of simulated maps that have nothing in common, `pairs` of each kind.

    `uniform`: a map and the constant map; `independent`: two maps; `centred`: the same two, centred on the constant
    map. Maps are averages over heads of `random_attention`.
    """
    first = random_attention(tokens, spread, pairs, heads, generator).mean(1, keepdim=True)
    second = random_attention(tokens, spread, pairs, heads, generator).mean(1, keepdim=True)
    constant = torch.full((1, 1, tokens, tokens), 1 / tokens)
    found = {
        "uniform": measures.cosine(first, constant),
        "independent": measures.cosine(first, second),
        "centred": measures.centred_cosine(first, second, constant),
    }
    return {name: values[:, 0].numpy() for name, values in found.items()}


def logit_spread(attention: Tensor) -> Tensor:
    """Spread of the logits behind maps (batch, heads, queries, keys) with no masked key, (heads,).

    The standard deviation of the log-weights about each row's mean (a row's offset is not identifiable), pooled over
    rows and examples. Weights below 1e-30 are taken as 1e-30.
    """
    logs = attention.double().clamp_min(1e-30).log()
    centred = logs - logs.mean(-1, keepdim=True)
    keys = attention.shape[-1]
    return (centred.square().sum(-1) / (keys - 1)).mean((0, 2)).sqrt()
