"""A small teacher of pictures, with equations, that are made here and read from nowhere."""

import torch

from companion.surrogates.candidates import Beside
from companion.teachers.teacher import Teacher
from pdelens.lattice import Chain
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import TransformerPDE

SHAPE = Configuration(width=4, layers=6, heads=2, outputs=3, side=8, patch=4)


def teacher(seed):
    model = Transformer(SHAPE, seed).eval().requires_grad_(False)

    def inputs(split, count):
        generator = torch.Generator().manual_seed(len(split))
        pictures = torch.randint(0, 255, (count, 8, 8), generator=generator).to(torch.uint8)
        return pictures, torch.zeros(count, dtype=torch.long)

    return Teacher(f"image-tiny-seed{seed}", model, Chain(4), 4, 2, 6, inputs)


class Tiny(Beside):
    """A teacher whose equations are drawn here, not read."""

    names = ("laws-k3-b2", "laws-k1-b2", "full-k1-one-step")

    def equation(self, family):
        seed = self.names.index(family)
        made = {"depth": 6, "temporal_modes": 3 if family == "laws-k3-b2" else 1, "diffusion": 0.05, "seed": seed}
        return TransformerPDE(4, 2, Chain(4), **made).requires_grad_(False)
