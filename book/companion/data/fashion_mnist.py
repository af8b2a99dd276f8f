"""The data: Fashion-MNIST and movie reviews, read from the cache."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..fetch import FASHION_MNIST, fetch
from ..paths import cache_folder, data_file


class Pictures(NamedTuple):
    """Pictures `(examples, 28, 28)` uint8 and their classes `(examples,)` int64."""

    images: Tensor
    labels: Tensor


def fashion_mnist_subset(split: str) -> Pictures:
    """Return the committed pictures: `calibration` (512 of the training set) or `heldout` (1,024 of the test set).

    The first so many of each class, so classes are as balanced as 10 allows. Needs no download.
    """
    from safetensors.torch import load_file

    tensors = load_file(data_file("fashion-mnist-subset.safetensors"))
    if f"{split}.images" not in tensors:
        raise ValueError(f"split {split!r} is unknown: choose 'calibration' or 'heldout'.")
    return Pictures(tensors[f"{split}.images"], tensors[f"{split}.labels"].long())


def fashion_mnist(train: bool) -> Pictures:
    """Return all of Fashion-MNIST: 60,000 training or 10,000 test pictures (Xiao et al. 2017, MIT).

    Read through torchvision from the cache; fetched once (31 MB) by torchvision where the internet is open, else from
    the Debian package, unpacked without root.
    """
    from torchvision.datasets import FashionMNIST

    fetch(FASHION_MNIST)
    data = FashionMNIST(str(cache_folder()), train=train, download=False)
    return Pictures(data.data, data.targets)


def write_subset(path: Path, calibration: int = 512, heldout: int = 1024) -> None:
    """Write the committed pictures from the full set: the first examples of each class in turn."""
    from safetensors.torch import save_file

    tensors = {}
    for split, train, count in (("calibration", True, calibration), ("heldout", False, heldout)):
        images, labels = fashion_mnist(train)
        # The k-th example of every class, k = 0, 1, ..., until there are enough.
        rank = torch.zeros_like(labels)
        for label in range(10):
            rank[labels == label] = torch.arange(int((labels == label).sum()))
        chosen = torch.argsort(rank, stable=True)[:count]
        tensors[f"{split}.images"] = images[chosen].contiguous()
        tensors[f"{split}.labels"] = labels[chosen].to(torch.uint8).contiguous()
    save_file(tensors, path)
