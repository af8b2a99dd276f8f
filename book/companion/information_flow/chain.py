"""Chains and edges whose information is known: what checks an estimator, and what tells information from causes."""

import math

import torch
from scipy.integrate import quad
from torch import Tensor

# Gaussian integrals are cut off where their tails no longer count.
_FAR = 12.0


def two_class_information(ratio: float) -> float:
    r"""Return the information in nats of a class, 1 or -1 alike likely, in a class times `ratio` plus N(0, 1).

    $$I = \ln 2 - \mathbb E_z \ln(1 + e^{-2 a (a + z)})$$ with a the ratio and z standard normal; by quadrature.

    >>> round(two_class_information(0.0), 6), round(two_class_information(9.0) - math.log(2), 6)
    (0.0, 0.0)
    """

    def integrand(z: float) -> float:
        power = -2 * ratio * (ratio + z)
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (max(power, 0.0) + math.log1p(math.exp(-abs(power))))

    return math.log(2) - quad(integrand, -_FAR, _FAR, epsabs=1e-10, limit=200)[0]


def noisy_chain(
    examples: int, depths: int, width: int, signal: float, noise: float, seed: int = 0
) -> tuple[list[Tensor], Tensor, list[float]]:
    """Return states (examples, width) at depths 0, 1, ..., the classes (examples,), and their information in nats.

    State 0 is N(0, I) about the class, 1 or -1, times `signal` in one direction; each further state is the one before,
    turned at random, plus N(0, noise^2 I). Turns keep the information, noise takes some: it falls as
    `two_class_information(signal / sqrt(1 + depth noise^2))`.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    classes = torch.randint(0, 2, (examples,), generator=generator)
    states = [normal(examples, width)]
    states[0][:, 0] += signal * (2 * classes - 1)
    for _ in range(depths):
        turned = states[-1] @ torch.linalg.qr(normal(width, width))[0]
        states.append(turned + noise * normal(examples, width))
    known = [two_class_information(signal / math.sqrt(1 + depth * noise**2)) for depth in range(depths + 1)]
    return states, classes, known


def product_chain(examples: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Return two states and classes: two normal numbers, then their product, whose sign is the class.

    The class is known from either, ln 2 nats: no linear probe finds it in the first state, every one in the second.
    """
    pair = torch.randn(examples, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    product = pair.prod(1, keepdim=True)
    return [pair, product], (product[:, 0] > 0).long()


def three_tokens(
    examples: int, width: int, likeness: float, weight: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return states now and after, (examples, 3, width), of a receiver, a source and its double; and a cut's outcome.

    Token 0 receives `weight` times token 2, the double, and nothing of token 1, the source; channels of source and
    double correlate by `likeness`. The cut's outcome is the receiver's next state without the edge from the source:
    what it was.
    """
    generator = torch.Generator().manual_seed(seed)
    receiver, source, own = torch.randn(3, examples, width, generator=generator, dtype=torch.float64)
    double = likeness * source + math.sqrt(1 - likeness**2) * own
    now = torch.stack([receiver, source, double], 1)
    after = now.clone()
    after[:, 0] += weight * double
    return now, after, after[:, 0].clone()
