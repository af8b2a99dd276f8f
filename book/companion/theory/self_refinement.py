"""A Transformer against the solution of its own equation: its layers stepped more finely, and to convergence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdelens.agreement import nulls
from pdelens.agreement.report import Report, class_agreement, compare
from pdelens.attention.capture import flow_of
from pdelens.flow import Flow
from pdelens.pde.equation import PDE, TransformerPDE
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of

SUBSTEPS = (1, 2, 4, 8, 16)
# Sub-steps a layer, and at last the converged solution.
WAYS: tuple[int | str, ...] = (*SUBSTEPS, "converged")
MEASURES = ("cosine", "centred", "r2", "classes")
# Tighter tolerances move a headline by less than 1e-4.
CONVERGED: dict[str, Any] = {"method": "dopri5", "rtol": 1e-4, "atol": 1e-5}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with its exact equation, what it did on held-out examples and on the calibration split, and its head."""

    equation: TransformerPDE
    flow: Flow
    calibration: Flow
    readout: Callable[[Tensor], Tensor] | None = None

    def scores(self, found: Flow) -> dict[str, float]:
        """Return how a Flow agrees with the model's own by `MEASURES`, nan where there are no classes.

        `cosine` and `centred`: headlines of attention. `r2`: of states, mean over channels, at the worst depth.
        `classes`: share of examples that keep the model's class.
        """
        report = self.report(found)
        classes = float("nan")
        if self.readout is not None:
            classes = class_agreement(self.readout(found.states[-1]), self.readout(self.flow.states[-1]))
        r2 = float(report.states["r2 mean over channels"].min())
        return dict(zip(MEASURES, (report.headline(), report.headline("centred cosine"), r2, classes), strict=True))

    def report(self, found: Flow) -> Report:
        """Return the comparison of a Flow with the model's own."""
        measures = ("cosine", "centred cosine")
        return compare(found, self.flow, calibration=self.calibration, measures=measures)

    def solved(self, way: int | str, equation: PDE | None = None) -> Flow:
        """Return the Flow by so many Lie sub-steps a layer, or `converged`, of the own equation or of another one."""
        how = CONVERGED if way == "converged" else {"method": "lie", "substeps": way}
        return integrate(
            self.equation if equation is None else equation, self.flow.states[0], mask=self.flow.mask, **how
        )

    def blind(self) -> dict[str, float]:
        """Return the headlines of the maps that see no input: `uniform` and `mean-map`."""
        maps = {"uniform": nulls.uniform(self.flow), "mean-map": nulls.mean_map(self.calibration, self.flow)}
        return {name: compare(one, self.flow, measures=("cosine",)).headline() for name, one in maps.items()}

    def simple(self) -> dict[str, float]:
        """Return the share of examples that keep their class by rolled-out maps: `affine` a layer, and `identity`."""
        assert self.readout is not None
        found, own = nulls.state_nulls(self.flow, self.calibration), self.readout(self.flow.states[-1])
        ends = {name: found[f"{name}, rolled out"][-1] for name in ("affine", "identity")}
        return {name: class_agreement(self.readout(end), own) for name, end in ends.items()}


@torch.no_grad()
def subject(model: nn.Module, calibration: Any, held_out: Any) -> Subject:
    """Return a model (`pdelens.equation_of` must know it) with what it does to the examples of both splits."""
    flow, known = flow_of(model, held_out), flow_of(model, calibration)
    return Subject(equation_of(model), flow, known, getattr(model, "readout", None))


def curves(subjects: Sequence[Subject], ways: Sequence[int | str] = WAYS) -> dict[str, np.ndarray]:
    """Return every measure of the refined models, (subjects, ways) each."""
    rows = [[one.scores(one.solved(way)) for way in ways] for one in subjects]
    return {name: np.array([[cell[name] for cell in row] for row in rows]) for name in MEASURES}


def instead(subjects: Sequence[Subject], equation: Callable[[TransformerPDE], PDE]) -> dict[str, np.ndarray]:
    """Return every measure of the converged solutions of other equations, made of each subject's own, (subjects,)."""
    rows = [one.scores(one.solved("converged", equation(one.equation))) for one in subjects]
    return by_name(rows)


def by_name(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return rows of named numbers as arrays by name, (rows,).

    >>> by_name([{"a": 1.0}, {"a": 2.0}])["a"].tolist()
    [1.0, 2.0]
    """
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
