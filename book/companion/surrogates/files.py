"""Calibrated equations as files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pdelens.files import read_tensors, write_tensors
from pdelens.pde.equation import PDE

from ..jobs import Run
from ..paths import DataError, data_file
from ..teachers.teacher import cached_teacher
from . import laws
from .specs import Spec, specs_of


def save(pde: PDE, path: Path, spec: Spec, made: dict[str, Any]) -> None:
    """Write an equation's weights in half precision, whole or not at all."""
    weights = {name: value.half() for name, value in pde.state_dict().items()}
    write_tensors(path, weights, {"rung": {"name": spec.name}, "made": made})


def load(name: str, run: Run | None = None) -> tuple[PDE, dict[str, Any]]:
    """Return a calibrated equation in evaluation mode, with what made it: a run's, or else a committed one."""
    path = data_file(f"weights/{name}.safetensors") if run is None else run.folder / f"{name}.safetensors"
    weights, header = read_tensors(path)
    if not {"rung", "made"} <= header.keys():
        raise DataError(f"{path} holds no calibrated equation: calibrate it again with `make train`.")
    made = header["made"]
    spec = spec_named(header["rung"]["name"], made["scale"])
    # Asked for as the pages ask, so that both share one teacher.
    where = () if run is None else (replace(run, device="cpu"),)
    pde = spec.build(cached_teacher(spec.teacher, *where))
    pde.load_state_dict({key: value.float() for key, value in weights.items()})
    return pde.eval(), made


def spec_named(name: str, scale: str = "book") -> Spec:
    """Return one equation by its name: of the ladder of laws, or of the sweep of a scale."""
    if (rung := laws.named(name)) is not None:
        return rung
    for spec in specs_of(scale):
        if spec.name == name:
            return spec
    raise ValueError(f"no equation is called {name!r}: `python -m companion list --scale {scale}` shows what there is.")
