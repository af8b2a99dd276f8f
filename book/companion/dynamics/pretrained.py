"""The three pretrained models of the book as subjects: what they are shown, and what is read off them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data import photographs, reviews
from ..pretrained import models
from ..teachers.teacher import Inputs
from ..theory import frozen
from ..theory.frozen import Subject

# Tokens of each text, special ones included, and the side of each picture in pixels.
TOKENS = {"MiniLM": 32, "SmolLM2": 64}
SIDE = 112
_LOADERS: dict[str, Any] = {"MiniLM": models.minilm, "DINOv2": models.dinov2, "SmolLM2": models.smollm2}
_READINGS = {"MiniLM": frozen.mean_embedding, "DINOv2": frozen.class_embedding, "SmolLM2": frozen.losses}


def loaded(*, trained: bool = True) -> dict[str, Any]:
    """Return MiniLM, DINOv2 and SmolLM2, or the same architectures as their libraries initialise them."""
    return {name: load(trained=trained, seed=1) for name, load in _LOADERS.items()}


def shown(known: Mapping[str, Any], counts: Mapping[str, int], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Return so many inputs of each model: openings of film reviews that need no padding, squares of photographs.

    MiniLM reads the first words of short reviews, SmolLM2 of long ones; DINOv2 sees both squares of every photograph,
    held-out ones first.
    """
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, source in (("MiniLM", "rotten_tomatoes"), ("SmolLM2", "imdb")):
        texts = [review.text for review in reviews.movie_reviews() if review.source == source]
        order = torch.randperm(len(texts), generator=generator).tolist()
        texts = [texts[place] for place in order[: 12 * counts[name]]]
        lengths = known[name].lengths(texts)
        long = [text for text, length in zip(texts, lengths, strict=True) if length >= TOKENS[name]]
        found[name] = known[name].encode(long[: counts[name]], TOKENS[name])
    pairs = [photographs.halves(one) for split in ("heldout", "calibration") for one in photographs.load(split)]
    squares = [half.image for pair in pairs for half in pair][: counts["DINOv2"]]
    found["DINOv2"] = {"pixel_values": known["DINOv2"].preprocess(squares, SIDE)}
    short = [name for name, count in counts.items() if len(next(iter(found[name].values()))) < count]
    if short:
        raise ValueError(f"{counts[short[0]]} inputs of {short[0]} were asked for, which are more than there are.")
    return found


def subjects(known: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Subject]:
    """Return the models with their inputs, their stacks of layers and their readings."""
    return {
        name: Subject(one.model, frozen.stack_of(one.model), inputs[name], _READINGS[name])
        for name, one in known.items()
    }


def disordered(inputs: Inputs, seed: int = 0, patch: int = models.PATCH) -> Inputs:
    """Return inputs whose tokens stand in a random order, another for every example.

    The words between the first and the last real token, or the patches of pictures, (pictures, height, width) or
    `pixel_values`: the same tokens, without what their places say.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(inputs, Tensor):
        return _other_patches(inputs[:, None].float(), patch, generator)[:, 0].to(inputs.dtype)
    if "pixel_values" in inputs:
        return {"pixel_values": _other_patches(inputs["pixel_values"], patch, generator)}
    name = "inputs" if "inputs" in inputs else "input_ids"
    ids, mask = inputs[name].clone(), inputs.get("mask", inputs.get("attention_mask"))
    for example in range(len(ids)):
        real = ids.shape[1] if mask is None else int(mask[example].sum())
        if real > 2:
            ids[example, 1 : real - 1] = ids[example, 1 + torch.randperm(real - 2, generator=generator)]
    return {**inputs, name: ids}


def _other_patches(pixels: Tensor, patch: int, generator: torch.Generator) -> Tensor:
    patches = torch.nn.functional.unfold(pixels, patch, stride=patch)  # (examples, channels patch^2, patches)
    orders = torch.stack([torch.randperm(patches.shape[2], generator=generator) for _ in pixels])
    mixed = patches.gather(2, orders[:, None].expand_as(patches))
    return torch.nn.functional.fold(mixed, pixels.shape[-2:], patch, stride=patch)
