"""A loss's gradient in the space of a model's inputs, which has no coordinates of the model's own.

Pixels enter a state linearly, and so do pieces of words as rows of zeros and a one: a token's state at depth 0 is
`W^T x + position`, with a matrix W (entries, width) of the model's. The gradient by the input is then `g W^T`, of the
gradient g by the state at depth 0, and gradients of two models have the same entries, whatever their states mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from pdelens.models import Patches, Transformer


class InputGradient(NamedTuple):
    """A gradient by inputs, `state W^T`: `state` (examples, tokens, width), W `matrix` (entries, width).

    Kept as its factors: a text of 48 tokens has 200,000 entries.
    """

    state: Tensor
    matrix: Tensor

    def inner(self, other: "InputGradient") -> Tensor:
        """Return the inner product of each example's gradients, (examples,)."""
        between = self.matrix.double().T @ other.matrix.double()
        return torch.einsum("etw,wv,etv->e", self.state.double(), between, other.state.double())

    def cosine(self, other: "InputGradient") -> Tensor:
        """Return the cosine of each example's gradients, tokens and entries flattened, (examples,); 0 of a zero one."""
        sizes = self.inner(self).clamp_min(0).sqrt() * other.inner(other).clamp_min(0).sqrt()
        return self.inner(other) / sizes.clamp_min(1e-300)

    def saliency(self) -> Tensor:
        """Return the norm of each token's gradient by its input, (examples, tokens)."""
        gram = self.matrix.double().T @ self.matrix.double()
        return torch.einsum("etw,wv,etv->et", self.state.double(), gram, self.state.double()).clamp_min(0).sqrt()

    def entries(self, example: int) -> Tensor:
        """Return one example's gradient itself, (tokens, entries)."""
        return self.state[example] @ self.matrix.T


def input_matrix(model: Transformer) -> Tensor:
    """Return what the state at depth 0 changes by with its token's input, W (entries, width).

    Of pictures an entry is a grey level of the patch, line by line, in steps of 1 out of 255; of texts a piece of the
    vocabulary, less the mean over all: a row that has a one for one piece and a zero for the others can only change by
    swaps, which see no part that all pieces share.
    """
    if isinstance(model.embed, Patches):
        return model.embed.project.weight.detach().flatten(1).T / 127.5
    pieces = model.embed.weight.detach()
    assert isinstance(pieces, Tensor)
    return pieces - pieces.mean(0)


def rank_correlation(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
    """Return Spearman's correlation of two rows (examples, tokens) over real tokens, (examples,); 0 where one is even.

    >>> rank_correlation(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[2.0, 3.0, 1.0]]), torch.ones(1, 3).bool())
    tensor([-0.5000], dtype=torch.float64)
    """
    found = []
    for one, other, real in zip(ours.numpy(), theirs.numpy(), mask.cpu().numpy(), strict=True):
        ranks = [rankdata(row[real]) - (real.sum() + 1) / 2 for row in (one, other)]
        size = float(np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1]))
        found.append(float(ranks[0] @ ranks[1]) / size if size else 0.0)
    return torch.tensor(found, dtype=torch.float64)


def like_class(known: InputGradient, classes: Tensor, wanted: Tensor) -> InputGradient:
    """Return, for examples of the wanted classes, the mean of the known gradients of their class, each at unit size.

    A loss's size differs by orders of magnitude between examples: left as they are, the worst would be the mean.
    """
    unit = known.state / known.inner(known).sqrt().clamp_min(1e-30).to(known.state)[:, None, None]
    means = {int(one): unit[classes == one].mean(0) for one in classes.unique()}
    return InputGradient(torch.stack([means[int(one)] for one in wanted]), known.matrix)


def nearest_of_class(features: Tensor, known: Tensor, classes: Tensor, wanted: Tensor) -> list[int]:
    """Return for each example, by its features, which of the known ones of its own class is the nearest."""
    distances = torch.cdist(features.flatten(1).double(), known.flatten(1).double())
    distances = distances.masked_fill(wanted[:, None] != classes[None], torch.inf)
    return distances.argmin(1).tolist()


def carried_back(gradient: Tensor, matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return a gradient at the last depth taken back through `u -> u M + b` of each layer: at every depth, first 0."""
    found = [gradient]
    for matrix in reversed(matrices):
        found.insert(0, found[0] @ matrix.to(gradient).T)
    return found
