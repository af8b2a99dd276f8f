"""Teachers as files: a model, its settings and what it was trained on."""

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pdelens.files import write_tensors
from pdelens.models import Transformer, load

from ..paths import data_file


@torch.no_grad()
def predict(model: Transformer, inputs: Tensor, batch: int = 250) -> Tensor:
    """Return a model's logits on many inputs, on the CPU; texts' padding (token 0) is masked."""
    device = next(model.parameters()).device
    found = []
    for part in inputs.split(batch):
        part = part.to(device)
        found.append(model(part, part != 0 if model.configuration.vocabulary else None).cpu())
    return torch.cat(found)


def save(model: Transformer, path, made: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write a teacher's weights with its configuration and `made`: what made it, and how good it is.

    With `dtype=torch.float16` they take half the space; what is said of the teacher's quality should then be measured
    after `rounded`.
    """
    weights = {name: value.to(dtype) for name, value in model.state_dict().items()}
    write_tensors(path, weights, {"configuration": asdict(model.configuration), "made": made})


def rounded(model: Transformer, dtype: torch.dtype = torch.float16) -> Transformer:
    """Round a model's weights in place to what a file of this type holds; return the model."""
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(value.to(dtype).to(value.dtype))
    return model


def committed_teacher(name: str = "image-patch4-seed0") -> tuple[Transformer, dict[str, Any]]:
    """Return a committed teacher from `data/weights`, in evaluation mode, with what made it."""
    return load(data_file(f"weights/{name}.safetensors"))
