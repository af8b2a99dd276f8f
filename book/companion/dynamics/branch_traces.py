"""Is it calibration that contracts? Traces of a Transformer's branches, of its own architecture anew, of solutions.

The control has a Transformer's blocks, one for each layer, learnt from scratch to its states and attention as an
equation is, with one step a layer: neither shared over depth nor solved.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pdelens.flow import Flow, padding_of
from pdelens.models import Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import integrate

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import ONE_STEP, SOLVED, Beside
from ..surrogates.evaluate import rolled_out
from ..surrogates.laws import MAIN_BUDGET
from ..surrogates.solution_fields import CONVERGED
from ..surrogates.study import weight_digests
from ..theory.token_influence import STEPS
from .gradients import PART, TEACHER, weights
from .volumes import liouville, trace

TRACES = "traces"
BLOCKS, FAMILY = "blocks, calibrated", f"laws-blocks-b{MAIN_BUDGET}"
# Examples, and random draws for each; along solutions half as many of both.
COUNTS = {"smoke": (2, 2), "book": (8, 16), "full": (32, 32)}


@dataclass(frozen=True)
class BranchTraces(Job):
    """Mean eigenvalues: of a teacher's branches, its blocks' calibrated anew, its one-step field's; along solutions."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{TRACES}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the solver and the weights."""
        name = candidates.equation_name(self.teacher, FAMILY)
        blocks = {FAMILY: weight_digests((), [name], run)[name]}
        how = {"scale": run.scale, "counts": COUNTS[run.scale], "steps": STEPS, "solved": CONVERGED}
        return how | {"weights": weights(self.teacher, run) | blocks}

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the sums over layers, and the integrals."""
        sums = {name: sum(found) for name, found in record["traces"].items()}
        sums |= {name: found["total"] for name, found in record["flows"].items()}
        return ", ".join(f"{name} {found:.3f}" for name, found in sums.items())

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found: `traces` by name and layer (`branches`), `flows` by name (`solutions`)."""
        count, draws = COUNTS[run.scale]
        one = candidates.beside(self.teacher, count, run)
        return {"traces": branches(one, draws), "flows": solutions(one, count // 2, draws // 2)}


def branches(one: Beside, draws: int) -> dict[str, list[float]]:
    """Return `tr(J - 1) / n` of every layer, mean over examples, by name: each on its own states."""
    model, found = one.teacher.model, {}
    assert isinstance(model, Transformer)
    padding = padding_of(one.reference.mask)
    allowed = None if padding is None else padding[:, None, None, :]
    found[TEACHER] = _traces(one.reference, lambda u, depth: model.blocks[depth](u, allowed), draws)
    for name, pde in {BLOCKS: one.equation(FAMILY), ONE_STEP: one.equations.get(ONE_STEP)}.items():
        if pde is not None:
            found[name] = _traces(rolled_out(pde, one.reference), _stepped(pde, padding), draws)
    return found


def _stepped(pde: PDE, padding: Tensor | None) -> Callable[[Tensor, int], Tensor]:
    def step(u: Tensor, depth: int) -> Tensor:
        times = [float(depth), depth + 1.0]
        return integrate(pde, u, times, "lie", 1, mask=padding, check_steps=False).states[-1]

    return step


def _traces(flow: Flow, step: Callable[[Tensor, int], Tensor], draws: int) -> list[float]:
    generator, found = torch.Generator().manual_seed(0), []
    for depth, u in enumerate(flow.states[:-1]):
        signs = torch.randint(0, 2, (draws, *u.shape), generator=generator).to(u) * 2 - 1
        branch = trace(lambda v, depth=depth: step(v, depth) - v, u, flow.mask, signs)
        found.append(float(branch.mean()))
    return found


def solutions(one: Beside, some: int, draws: int) -> dict[str, dict[str, Any]]:
    """Return the volume of a teacher's equations, solved from the embedding, by Liouville's formula, by name.

    Mean over examples: `total`, by unit of depth-time `units`, by term `terms`, and the standard `error` of the draws.
    """
    flow, found = one.reference.select(list(range(some))), {}
    for name, pde in one.equations.items():
        found[SOLVED if name == ONE_STEP else name] = _flowed(pde, flow.states[0], flow.mask, draws)
    return found


def _flowed(pde: PDE, u: Tensor, mask: Tensor, draws: int) -> dict[str, Any]:
    found = liouville(pde, u, mask, STEPS, draws, **CONVERGED)
    places = [int(start) for start, _ in pairwise(STEPS)]
    units = [
        float(sum(part[[place == unit for place in places]].sum() for part in found.terms.values()))
        for unit in range(int(pde.depth))
    ]
    terms = {name: float(part.sum()) for name, part in found.terms.items()}
    return {"total": found.total, "units": units, "terms": terms, "error": found.error}
