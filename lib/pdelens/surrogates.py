"""The calibrated equations that the book's pages load: what they are, how they are made, how they are read."""

import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from .capture import flow_of
from .datasets import fashion_mnist, fashion_mnist_subset
from .fit import Plan, fit
from .flow import Flow
from .lattice import Grid
from .models import Transformer, teacher
from .nulls import align_heads
from .pde import TransformerPDE
from .project import DataError, data_file, root
from .teachers import fits

STEPS = {"smoke": 6, "book": 1200, "full": 8000}


@dataclass(frozen=True)
class Surrogate:
    """One calibration: an equation's settings and the plan, against a committed teacher."""

    name: str
    equation: dict[str, Any] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    teacher: str = "image-patch4-seed0"

    def build(self) -> TransformerPDE:
        """Return the equation before calibration."""
        return TransformerPDE(64, 4, Grid(7, 7), depth=6, epsilon=1e-5, **self.equation)


SURROGATES = (
    Surrogate("surrogate-image-k1", {"temporal_modes": 1}),
    Surrogate("surrogate-image-k1-random", {"temporal_modes": 1}, Plan(substeps=(1, 3))),
    Surrogate("surrogate-image-k1-nodiffusion", {"temporal_modes": 1, "diffusion": None}),
    Surrogate("surrogate-image-k2", {"temporal_modes": 2}),
)


def aligned_flow(
    model: Transformer, images: torch.Tensor, orders: list[torch.Tensor] | None = None, keep: str = "cpu"
) -> Flow:
    """Return a teacher's Flow with each layer's heads in the order that continues the layer before.

    Heads within a layer have no order of their own; an equation that shares its heads across depth
    needs one. Without `orders` they are found on the committed calibration pictures.
    """
    return flow_of(model, images, keep=keep).permute_heads(head_orders(model) if orders is None else orders)


def head_orders(model: Transformer) -> list[torch.Tensor]:
    """Return the aligning orders of a teacher's heads, found on the calibration split alone."""
    return align_heads(flow_of(model, fashion_mnist_subset("calibration").images[:256]))


def calibrate(surrogate: Surrogate, folder: Path, scale: str, device: str = "cpu") -> Path:
    """Calibrate one surrogate into a folder; resumes, and returns at once where it is complete."""
    from safetensors.torch import save_file

    target = folder / f"{surrogate.name}.safetensors"
    if target.exists():
        print(f"{target} is there already")
        return target
    model, about = teacher(surrogate.teacher)
    model = model.to(device)
    orders = head_orders(model)
    pictures = fashion_mnist(train=True).images

    def drawn(generator: torch.Generator, batch: int) -> Flow:
        chosen = torch.randint(0, len(pictures), (batch,), generator=generator)
        return aligned_flow(model, pictures[chosen], orders, device)

    validation = aligned_flow(model, fashion_mnist_subset("calibration").images[256:384], orders, device)
    plan = replace(surrogate.plan, steps=STEPS[scale], validate_every=max(1, STEPS[scale] // 15))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{surrogate.name}.checkpoint.safetensors"
    began = time.perf_counter()
    print(f"{surrogate.name}: {surrogate.build()}", file=sys.stderr)
    found = fit(surrogate.build().to(device), drawn, plan, validation=validation, checkpoint=checkpoint)
    made = {
        "scale": scale,
        "device": torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"CPU, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__},
        "seconds": round(time.perf_counter() - began),
        "teacher": surrogate.teacher,
        "teacher_test_accuracy": about["test_accuracy"],
        "plan": asdict(plan),
        **found.record,
    }
    draft = target.with_suffix(".draft")
    weights = {name: value.detach().cpu().contiguous() for name, value in found.pde.state_dict().items()}
    save_file(weights, draft, metadata={"equation": json.dumps(surrogate.equation), "made": json.dumps(made)})
    draft.replace(target)
    checkpoint.unlink(missing_ok=True)
    return target


def load(name: str, path: Path | None = None) -> tuple[TransformerPDE, dict[str, Any]]:
    """Return a committed surrogate in evaluation mode, with what made it."""
    from safetensors import SafetensorError, safe_open

    path = data_file(f"weights/{name}.safetensors") if path is None else path
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            weights = {key: stream.get_tensor(key) for key in stream.keys()}
        surrogate = Surrogate(name, json.loads(metadata["equation"]))
    except (SafetensorError, KeyError) as error:
        raise DataError(f"{path} is no surrogate ({error}): calibrate it again with `make train`.") from error
    pde = surrogate.build()
    pde.load_state_dict(weights)
    return pde.eval(), json.loads(metadata["made"])


def calibrate_all(scale: str, device: str, only: str = "*") -> None:
    """Calibrate the surrogates whose names fit `only` into `_build/train/<scale>/`; those complete are kept.

    Their teacher is the committed one: adopt a new teacher before calibrating to it.
    """
    for surrogate in SURROGATES:
        if fits(surrogate.name, only.split(",")):
            calibrate(surrogate, root() / "_build/train" / scale, scale, device)
