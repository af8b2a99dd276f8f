"""Random numbers of one's own: a seed gives others than the same seed gives to whoever drew the data."""

import numpy as np
import torch

_OWN = 0x70646C656E73


def own_random(seed: int) -> np.random.Generator:
    """Return a generator of NumPy's whose numbers are not those of `np.random.default_rng(seed)`.

    >>> own_random(0).random() == np.random.default_rng(0).random()
    False
    """
    return np.random.default_rng([_OWN, int(seed)])


def own_generator(seed: int) -> torch.Generator:
    """Return a generator of torch's whose numbers are not those of `torch.manual_seed(seed)`.

    >>> bool(torch.rand(1, generator=own_generator(0)) == torch.rand(1, generator=torch.Generator().manual_seed(0)))
    False
    """
    return torch.Generator().manual_seed(int(own_random(seed).integers(2**63)))
