"""What every optimisation here shares: its randomness, and checkpoints that resume to the same numbers.

Checkpoints are whole or not at all, and nothing in them is pickled.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import read_tensors, write_tensors


def store(
    path: Path,
    about: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: Mapping[str, Tensor] | None = None,
    keep_before: bool = False,
) -> None:
    """Write model, optimiser and `about`, never half-written; `keep_before` leaves the last one for `restore`."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors |= {f"extra.{name}": value for name, value in (extra or {}).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if keep_before and path.exists():
        path.replace(_before(path))
    write_tensors(path, tensors, {"about": about})


def restore(
    path: Path, job: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Load a checkpoint of this very job into model and optimiser; return what `store` was told.

    Where the newest is torn, the one before it is used if it was kept. None where there is none, or none whole, or
    where it is of another job (each said in a sentence).
    """
    found = None
    for candidate in (path, _before(path)):
        if not candidate.exists():
            continue
        found = _read(candidate)
        if found is not None:
            break
    if found is None:
        return None
    about, tensors = found
    if about["job"] != json.loads(json.dumps(job)):
        print(f"{path} is of another job: starting afresh.", file=sys.stderr)
        return None
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "extra": {}}
    for name, value in tensors.items():
        kind, rest = name.split(".", 1)
        parts[kind][rest] = value
    model.load_state_dict(parts["model"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        number, slot = name.split(".")
        state.setdefault(int(number), {})[slot] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about, parts["extra"]


def forget(path: Path) -> None:
    """Remove a checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    _before(path).unlink(missing_ok=True)


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    try:
        tensors, header = read_tensors(path)
        return header["about"], tensors
    except (ValueError, OSError, KeyError) as error:
        print(f"{path} is torn ({error}): going back to the one before it, or to the start.", file=sys.stderr)
        return None


def generator_for(seed: int, stream: int) -> torch.Generator:
    """Return a generator for one stream of a seed: any step's randomness without replaying those before."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
