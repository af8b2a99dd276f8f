"""Small teachers whose attention is replaced, and the slow, plain run of their blocks that it is held against."""

import math

import pytest
import torch

from pdelens import flow_of
from pdelens.models import Configuration, Transformer


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def enlivened(model, seed=0):
    """Raise the projections of queries and keys, so that fresh maps are far from uniform."""
    with torch.no_grad():
        for block in model.blocks:
            block.attention.queries_keys_values.weight *= 3
    return model.eval()


def pictures(seed=0):
    """Give a small teacher of pictures, eight of them, and no mask."""
    generator = torch.Generator().manual_seed(seed)
    model = enlivened(Transformer(Configuration(width=16, layers=3, heads=4, side=8, patch=2), seed=seed))
    return model, torch.randint(0, 256, (8, 8, 8), generator=generator, dtype=torch.uint8), None


def texts(causal):
    """Give a small teacher of texts, eight of them, and a mask with padding."""
    about = Configuration(width=16, layers=3, heads=4, vocabulary=30, length=9, causal=causal, outputs=5)
    tokens = torch.randint(1, 30, (8, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(8, 9, dtype=torch.bool)
    mask[2, 6:], mask[5, 3:] = False, False
    return enlivened(Transformer(about, seed=1)), tokens * mask, mask


def classifier():
    return texts(False)


def language_model():
    return texts(True)


KINDS = pytest.mark.parametrize("make", [pictures, classifier, language_model])


def captured(model, inputs, mask):
    return flow_of(model, {"inputs": inputs} if mask is None else {"inputs": inputs, "mask": mask})


@torch.no_grad()
def by_hand(model, inputs, mask, maps, layers):
    """Run the blocks one by one, those named with given maps: the slow, plain oracle."""
    allowed, u = model._allowed(inputs, mask), model.embedding(inputs)
    for layer, block in enumerate(model.blocks):
        seen = block.norm_attention(u)
        q, k, v = (
            part.unflatten(-1, (block.attention.heads, -1)).transpose(1, 2)
            for part in block.attention.queries_keys_values(seen).chunk(3, -1)
        )
        scores = q @ k.mT / q.shape[-1] ** 0.5
        own = torch.softmax(scores if allowed is None else scores.masked_fill(~allowed, -math.inf), -1)
        mixed = (maps[layer] if layer in layers else own) @ v
        u = u + block.attention.project(mixed.transpose(1, 2).flatten(2))
        u = u + block.mlp(block.norm_mlp(u))
    return model.readout(u, mask)
