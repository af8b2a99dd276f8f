"""What of claim C9 is the budget's: token information at half the budget, and in the architecture learnt anew."""

from dataclasses import dataclass
from typing import Any

import torch

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import BINDING, HALF, RELEARNT, Beside
from ..surrogates.evaluate import rolled_out
from ..surrogates.study import rounded, weight_digests
from . import targets as asked
from .content import COUNTS, PART, POOL, STEPS, Flows, TokenContent, batches, chosen_targets, collected, curve, solved

BUDGET = "budget"


@dataclass(frozen=True)
class TokenBudget(Job):
    """Usable information in the states of what says how far a budget binds, on the targets of `TokenContent`."""

    teacher: str
    subjects = TokenContent.subjects
    needs = (candidates.LAWS["three laws"], *BINDING.values())
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{BUDGET}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        names = [candidates.equation_name(self.teacher, family) for family in BINDING.values()]
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "asked": [asked.CODES, asked.PIECES, list(asked.DISTANCES)],
            "steps": STEPS,
            "weights": weight_digests([self.teacher], names, run),
        }

    def line(self, record: dict[str, Any]) -> str:
        """Return what the last states tell of their own token."""
        own = (f"{name} {record['curves'][name][asked.OWN][-1]:.3f}" for name in BINDING)
        return f"nats of the token itself at the last depth: {', '.join(own)}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        examples, each = COUNTS[run.scale]
        pool = examples if self.teacher.startswith("image") else POOL * examples
        return rounded(measure(candidates.beside(self.teacher, pool, run), examples, each))


def measure(one: Beside, examples: int, each: int) -> dict[str, Any]:
    """Return `curves` by name (`BINDING`) and target, as `content.measure` does of what stands beside a teacher."""
    which, _, _ = chosen_targets(one, examples, each)
    labels = one.teacher.inputs("heldout", one.count)[1][which.examples]
    found = collected(_flows(one, int(which.examples.max()) + 1), which)
    curves = {name: curve(states, which, labels) for name, states in found.items()}
    return {"curves": {n: {target: values for target, (values, _) in each.items()} for n, each in curves.items()}}


@torch.no_grad()
def _flows(one: Beside, count: int) -> Flows:
    """Yield the number of a batch's first example, and the states by name."""
    law, field = (one.equation(BINDING[name]) for name in (HALF, RELEARNT))
    assert law is not None and field is not None
    for first, part in batches(one, count):
        yield first, {HALF: solved(part, law), RELEARNT: rolled_out(field, part.reference).states}
