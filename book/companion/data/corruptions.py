"""Inputs off the distribution that a surrogate was calibrated on: corrupted, shuffled, or of another kind.

`SHIFTS` names them all, each a function (inputs, seed) -> inputs of the same shape and type. Pictures are uint8
(examples, side, side), texts token numbers (examples, length) with padding 0 at the end. Randomness comes from the
seed alone: the same example is disturbed alike at every severity.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pdelens.pde.checkpoints import generator_for

from . import brown, photographs
from . import tokens as text

Change = Callable[[Tensor, torch.Generator], Tensor]
KINDS = ("image", "text")


@dataclass(frozen=True)
class Corruption:
    """A named change of inputs, called as `shift(inputs, seed)`.

    `kind` is "image" or "text"; `severity` is in `unit` (None where there is only one), `level` its place from 1 to 5
    in the register. Raises `ValueError` where inputs are not of its kind.
    """

    name: str
    kind: str
    family: str
    change: Change
    severity: float | None = None
    unit: str = ""
    level: int | None = None

    def __call__(self, inputs: Tensor, seed: int = 0) -> Tensor:
        """Return the changed inputs; the given ones are left as they are."""
        (_check_pictures if self.kind == "image" else _check_tokens)(inputs)
        return self.change(inputs, generator_for(seed, 0))


class Family(NamedTuple):
    """Corruptions of pictures that differ in severity alone."""

    change: Callable[[Tensor, float, torch.Generator], Tensor]
    unit: str
    levels: tuple[float, ...]
    allowed: tuple[float, float]
    whole: bool = False


def corruption(family: str, severity: float) -> Corruption:
    """Return a corruption of pictures at any severity, in its family's unit (`FAMILIES`).

    >>> shift = corruption("rotation", 15)
    >>> shift.name, shift(torch.zeros(2, 28, 28, dtype=torch.uint8), seed=0).shape
    ('rotation 15', torch.Size([2, 28, 28]))
    """
    if family not in FAMILIES:
        raise ValueError(f"corruption {family!r} is unknown: choose from {', '.join(FAMILIES)}.")
    found = FAMILIES[family]
    low, high = found.allowed
    if not low <= severity <= high or (found.whole and severity != int(severity)):
        wanted = f"{'a whole number, ' * found.whole}{low:g} to {high:g} ({found.unit})"
        raise ValueError(f"{family} of {severity:g} was asked for: {wanted}, is wanted.")

    def change(pictures: Tensor, generator: torch.Generator) -> Tensor:
        return found.change(pictures, severity, generator)

    level = found.levels.index(severity) + 1 if severity in found.levels else None
    return Corruption(f"{family} {severity:g}", "image", family, change, severity, found.unit, level)


def gaussian_noise(pictures: Tensor, sd: float, generator: torch.Generator) -> Tensor:
    """Add independent normal noise to every pixel, `sd` a share of full scale; clip."""
    noise = torch.randn(pictures.shape, generator=generator).to(pictures.device)
    return _bytes(pictures + 255 * sd * noise)


def gaussian_blur(pictures: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Convolve with a Gaussian of `sigma` pixels, reflected at the edges: exact diffusion for t = sigma^2 / 2."""
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(pictures.cpu().numpy().astype("float32"), (0, sigma, sigma), mode="reflect")
    return _bytes(torch.from_numpy(blurred)).to(pictures.device)


def occlusion(pictures: Tensor, side: float, generator: torch.Generator) -> Tensor:
    """Cover a square of `side` pixels, at a random place inside each picture, with mid-grey."""
    free = max(0, pictures.shape[-1] - int(side)) + 1
    # Places scale with what is free, so that the same example is covered about alike at every severity.
    corner = (torch.rand(2, len(pictures), 1, generator=generator) * free).long()
    pixels = torch.arange(pictures.shape[-1])
    rows, columns = (pixels >= corner) & (pixels < corner + int(side))  # each (examples, side)
    # Black is Fashion-MNIST's own background, where a square would often not be seen.
    return pictures.masked_fill((rows[:, :, None] & columns[:, None, :]).to(pictures.device), 128)


def contrast(pictures: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Shrink each picture's grey values towards its own mean: `m + factor (x - m)`."""
    mean = pictures.float().mean((1, 2), keepdim=True)
    return _bytes(mean + factor * (pictures - mean))


def rotation(pictures: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turn each picture about its centre, left or right by chance, bilinear; black comes in at the edges."""
    from scipy.ndimage import rotate

    left = torch.rand(len(pictures), generator=generator) < 0.5
    floats = pictures.cpu().numpy().astype("float32")
    turned = [rotate(floats, angle, (1, 2), reshape=False, order=1) for angle in (degrees, -degrees)]
    return _bytes(torch.where(left[:, None, None], *map(torch.from_numpy, turned))).to(pictures.device)


def translation(pictures: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Move each picture by whole pixels up, down, left or right by chance; black comes in."""
    side, far = pictures.shape[-1], int(pixels)
    ways = torch.tensor([(0, far), (0, -far), (far, 0), (-far, 0)])
    moves = ways[torch.randint(0, 4, (len(pictures),), generator=generator)]  # (examples, 2)
    places = torch.arange(side) - moves[:, :, None]  # (examples, 2, side): where each row and column comes from
    inside = (places >= 0) & (places < side)
    rows, columns = places.clamp(0, side - 1).unbind(1)
    moved = pictures[torch.arange(len(pictures))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved * (inside[:, 0, :, None] & inside[:, 1, None, :]).to(pictures.device)


def inversion(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Exchange black and white."""
    return 255 - pictures


def pure_noise(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many pictures of independent, uniform grey values; nothing of the given ones is left."""
    return torch.randint(0, 256, pictures.shape, generator=generator, dtype=torch.uint8).to(pictures.device)


def photograph_crops(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many random squares of the sixteen committed photographs, in grey, averaged down to the same side.

    A square's side is a quarter to the whole of its photograph's shorter side. Squares of one photograph are not
    independent: for an interval count sixteen, not the examples. About 0.2 s for 1,000.
    """
    import numpy as np
    from PIL import Image

    side = pictures.shape[-1]
    greys = [Image.fromarray(p.image).convert("L") for split in photographs.SPLITS for p in photographs.load(split)]
    which = torch.randint(0, len(greys), (len(pictures),), generator=generator).tolist()
    draws, found = torch.rand(len(which), 3, generator=generator).tolist(), []
    for grey, (size, across, down) in zip((greys[number] for number in which), draws, strict=True):
        edge = min(grey.size) * (0.25 + 0.75 * size)
        x, y = across * (grey.width - edge), down * (grey.height - edge)
        small = grey.resize((side, side), Image.Resampling.BOX, box=(x, y, x + edge, y + edge))
        found.append(torch.from_numpy(np.array(small)))
    return torch.stack(found).to(pictures.device)


def shuffled_patches(pictures: Tensor, generator: torch.Generator, patch: int = 4, alike: bool = False) -> Tensor:
    """Permute each picture's patches: one permutation for all pictures (`alike`), or one each.

    `patch` is the side in pixels; the default is that of the committed teacher's tokens.
    """
    examples, side = len(pictures), pictures.shape[-1]
    if patch < 1 or side % patch:
        raise ValueError(f"patches of {patch} pixels were asked for, but the side {side} is no multiple of them.")
    across = side // patch
    cut = pictures.reshape(examples, across, patch, across, patch).transpose(2, 3).flatten(1, 2)
    order = torch.rand(1 if alike else examples, across**2, generator=generator).argsort(1)
    order = order.expand(examples, -1).to(pictures.device)
    mixed = cut.gather(1, order[:, :, None, None].expand_as(cut))  # (examples, patches, patch, patch)
    return mixed.unflatten(1, (across, across)).transpose(2, 3).reshape(pictures.shape)


def shuffled_pieces(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Permute each text's pieces (tokens), one permutation each; padding stays at the end."""
    keys = torch.rand(tokens.shape, generator=generator).masked_fill((tokens == text.PAD).cpu(), math.inf)
    return tokens.gather(1, keys.argsort(1).to(tokens.device))


def other_texts(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Return committed windows of the Brown corpus, each cut to the length of the text it stands for.

    Each begins with a sentence and runs on, so that length is no part of the shift; none is of a review. There are
    512 (`brown.windows`), in random order; more texts than that get them again, so for an interval count at most 512.
    Raises `ValueError` where a text is longer than a window.
    """
    windows = brown.windows().tokens
    count, length = tokens.shape
    if length > windows.shape[1]:
        longest = windows.shape[1]
        raise ValueError(f"texts of {length} tokens were given, but the windows of the Brown corpus have {longest}.")
    order = torch.randperm(len(windows), generator=generator)
    found = windows[order[torch.arange(count) % len(windows)], :length].to(tokens)
    return found.masked_fill(tokens == text.PAD, text.PAD)


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _check_pictures(given: Tensor) -> None:
    if given.dtype != torch.uint8 or given.ndim != 3 or not len(given) or given.shape[1] != given.shape[2]:
        wanted = "pictures, uint8 of shape (examples, side, side), at least one"
        raise ValueError(f"inputs {tuple(given.shape)} of {given.dtype} were given, but {wanted}, are wanted.")


def _check_tokens(given: Tensor) -> None:
    if given.dtype not in (torch.int64, torch.int32) or given.ndim != 2 or not given.numel():
        wanted = "token numbers, integers of shape (examples, length), at least one"
        raise ValueError(f"inputs {tuple(given.shape)} of {given.dtype} were given, but {wanted}, are wanted.")
    empty = given == text.PAD
    if bool((given < 0).any()) or bool((empty[:, :-1] & ~empty[:, 1:]).any()):
        raise ValueError("token numbers below 0, or padding (0) before a text's end, were given: pad at the end alone.")


FAMILIES = {
    # The levels of noise and contrast are ImageNet-C's (Hendrycks & Dietterich 2019); the others are for 28 pixels.
    "gaussian noise": Family(gaussian_noise, "sd, share of full scale", (0.08, 0.12, 0.18, 0.26, 0.38), (0, 10)),
    "gaussian blur": Family(gaussian_blur, "sigma, pixels", (0.5, 1, 1.5, 2, 3), (0, 28)),
    "occlusion": Family(occlusion, "side of the square, pixels", (4, 8, 12, 16, 20), (0, 28), True),
    "contrast": Family(contrast, "factor", (0.4, 0.3, 0.2, 0.1, 0.05), (0, 1)),
    "rotation": Family(rotation, "degrees, left or right", (10, 20, 30, 45, 60), (0, 180)),
    "translation": Family(translation, "pixels", (1, 2, 3, 4, 6), (0, 27), True),
}
_SINGLE: dict[str, tuple[str, Change]] = {
    "inversion": ("image", inversion),
    "photographs": ("image", photograph_crops),
    "pure noise": ("image", pure_noise),
    "patches shuffled alike": ("image", partial(shuffled_patches, alike=True)),
    "patches shuffled": ("image", shuffled_patches),
    "pieces shuffled": ("text", shuffled_pieces),
    "Brown corpus": ("text", other_texts),
}
_ALL = [corruption(family, severity) for family, found in FAMILIES.items() for severity in found.levels]
_ALL += [Corruption(name, kind, name, change) for name, (kind, change) in _SINGLE.items()]
CORRUPTIONS = {one.name: one for one in _ALL}


def corruptions(kind: str) -> dict[str, Corruption]:
    """Return the register's shifts of one kind of input, "image" or "text", by name.

    >>> list(corruptions("text"))
    ['pieces shuffled', 'Brown corpus']
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} was given: choose from {', '.join(KINDS)}.")
    return {name: corruption for name, corruption in CORRUPTIONS.items() if corruption.kind == kind}
