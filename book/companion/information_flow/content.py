"""Measures what tokens keep and learn, by depth, in a teacher and in what stands beside it: jobs of the runner."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pdelens.information.usable import usable_information
from pdelens.models import Transformer

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import HEAT, IDENTITY, ONE_STEP, Beside
from ..surrogates.evaluate import rolled_out
from ..surrogates.laws import SUBJECTS
from ..surrogates.study import weight_digests
from . import targets as asked
from .targets import LABEL, Targets

PART = "information-flow"
CONTENT = "content"
LAW = "three laws"
TEACHER, UNTRAINED, SHUFFLED, PLACE = "teacher", "untrained twin", "shuffled tokens", "position alone"
# Held-out examples, and targets of each. The text pool is what examples with enough targets are looked for in.
COUNTS = {"smoke": (40, 2), "book": (1024, 2), "full": (1024, 4)}
POOL = 3
# Depths at which networks are fitted beside the linear probes, and to whom.
DEEPER, DEEPER_NAMES = (3,), (TEACHER, LAW, UNTRAINED)
# One Runge-Kutta step of order 4 between these depth-times ends within a hundredth of the movement of the converged
# solution (`solver` in the record): they halve towards the entry, and are half a layer long after the first.
STEPS = (0.0, *(2.0**-k for k in range(10, 1, -1)), 0.375, 0.5, 0.75, *(1 + k / 2 for k in range(11)))
_BATCH = 128
# Components smaller than this share of the largest hold rounding errors of single precision.
ROUNDING = 1e-5
Flows = Iterator[tuple[int, dict[str, Sequence[Tensor]]]]


@dataclass(frozen=True)
class TokenContent(Job):
    """Usable information in the states of tokens, by target and depth: a teacher's and what stands beside it."""

    teacher: str
    subjects = tuple(SUBJECTS.values())
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{CONTENT}-{self.teacher}"

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        names = [candidates.equation_name(self.teacher, candidates.FAMILIES[name]) for name in (LAW, ONE_STEP)]
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "asked": [asked.CODES, asked.PIECES, list(asked.DISTANCES), list(DEEPER)],
            "steps": STEPS,
            "rounding": ROUNDING,
            "weights": weight_digests([self.teacher], names, run),
        }

    def line(self, record: Mapping[str, Any]) -> str:
        """Return what the teacher's last state still tells of its own token, and the equation's."""
        own, ours = (record["curves"][name][asked.OWN][-1] for name in (TEACHER, LAW))
        return f"at the last depth {own:.3f} nats of the token itself, the equation {ours:.3f}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`); networks' and another split's curves for the first seed alone."""
        examples, each = COUNTS[run.scale]
        pool = examples if self.teacher.startswith("image") else POOL * examples
        return measure(candidates.beside(self.teacher, pool, run), examples, each, self.teacher.endswith("0"))


def measure(one: Beside, examples: int, each: int, more: bool = True) -> dict[str, Any]:
    """Return what tokens' states tell, of a teacher and of what stands beside it.

    `curves` by name and target: usable information of linear probes by depth from 0, held out, nats; `ceilings` by
    target; `rows` of states; `shares` of the classes that are asked about, and for text their `pieces`; `solver`, how
    far the equation's steps end from its converged solution, over its movement. With `more`, at the depths `DEEPER`:
    `again`, the teacher's curves with another choice of what is held out, and `networks`. Cost: about 180 probes.
    """
    which, shares, pieces = chosen_targets(one, examples, each)
    labels = one.teacher.inputs("heldout", one.count)[1][which.examples]
    found = gathered_states(one, which)
    curves = {name: curve(states, which, labels) for name, states in found.items()}
    ceilings = {target: value for target, (_, value) in curves[TEACHER].items()}
    record: dict[str, Any] = {
        "rows": len(which),
        "shares": shares,
        "pieces": pieces,
        "ceilings": ceilings,
        "curves": {n: {target: values for target, (values, _) in each.items()} for n, each in curves.items()},
        "solver": solver_error(one.only(*range(min(16, examples)))),
    }
    if more:
        few = {name: {d: u[list(DEEPER)] for d, u in found[name].items()} for name in DEEPER_NAMES}
        record["again"] = {t: v for t, (v, _) in curve(few[TEACHER], which, labels, seed=1).items()}
        deeper = {name: curve(states, which, labels, "two-layer") for name, states in few.items()}
        record["networks"] = {name: {t: v for t, (v, _) in each.items()} for name, each in deeper.items()}
    return record


def chosen_targets(one: Beside, examples: int, each: int) -> tuple[Targets, list[float], list[int]]:
    """Return the targets, the share of each class among them, and for texts the pieces that the classes are.

    Codes and pieces are found on calibration examples: of pictures that is training pictures, of texts validation.
    """
    known, pieces = one.teacher.inputs("calibration", None)[0], []
    if isinstance(known, Tensor):
        assert isinstance(one.inputs, Tensor) and isinstance(one.teacher.model, Transformer)
        side = one.teacher.model.configuration.patch
        codes = asked.patch_codes(one.inputs, asked.centres(known, side), side)
        mask = torch.ones_like(codes, dtype=torch.bool)
    else:
        assert isinstance(one.inputs, dict)
        frequent = asked.frequent_pieces(known["inputs"], known["mask"])
        codes, mask = asked.piece_codes(one.inputs["inputs"], one.inputs["mask"], frequent), one.inputs["mask"]
        pieces = frequent.tolist()
    lattice = one.teacher.lattice
    which = asked.drawn(codes, mask, lattice, examples, each, distances=asked.distances_of(lattice))
    shares = torch.bincount(which.codes).double() / len(which)
    return which, shares.tolist(), pieces


def gathered_states(one: Beside, which: Targets) -> dict[str, dict[int, Tensor]]:
    """Return by name and distance the states that are read, (depths, rows, width)."""
    found = collected(_flows(one, int(which.examples.max()) + 1), which)
    own = found[TEACHER]
    found[IDENTITY] = {d: u[:1].expand_as(u) for d, u in own.items()}
    places = torch.eye(one.teacher.lattice.tokens)
    found[PLACE] = {d: places[which.readers[d]].expand(len(u), -1, -1) for d, u in own.items()}
    return found


def collected(flows: Flows, which: Targets) -> dict[str, dict[int, Tensor]]:
    """Return by name and distance the states that are read of batches, (depths, rows, width)."""
    parts: dict[str, dict[int, list[Tensor]]] = {}
    for first, states in flows:
        for name, each in states.items():
            for d, rows in which.states(each, first).items():
                parts.setdefault(name, {}).setdefault(d, []).append(rows)
    return {name: {d: torch.cat(rows, 1) for d, rows in each.items()} for name, each in parts.items()}


def batches(one: Beside, count: int) -> Iterator[tuple[int, Beside]]:
    """Yield the number of a batch's first example, and the batch, of so many examples in all."""
    for first in range(0, count, _BATCH):
        yield first, one.only(*range(first, min(first + _BATCH, count)))


def _flows(one: Beside, count: int) -> Flows:
    """Yield the number of a batch's first example, and the states of teacher and candidates by name."""
    equations = {name: one.equation(candidates.FAMILIES[name]) for name in (LAW, ONE_STEP)}
    twin, generator = one.teacher.untrained(), torch.Generator().manual_seed(0)
    law = equations[LAW]
    assert law is not None
    for first, part in batches(one, count):
        with torch.no_grad():
            flow = part.reference
            states: dict[str, Sequence[Tensor]] = {TEACHER: flow.states}
            states[UNTRAINED] = twin.flow(part.inputs).states
            states[SHUFFLED] = shuffled_tokens(flow.states, flow.mask, generator)
            states[LAW] = solved(part, law)
            if "diffusion" in law.active():  # of a causal model's laws none has it
                with law.without("attention", "reaction") as heat:
                    states[HEAT] = solved(part, heat)
            if (field := equations[ONE_STEP]) is not None:
                states[ONE_STEP] = rolled_out(field, flow).states
        yield first, states


def solved(part: Beside, equation: Any) -> tuple[Tensor, ...]:
    """Return an equation's solution from the teacher's embedding at whole depths, by the steps of `STEPS`."""
    flow = rolled_out(equation, part.reference, depths=STEPS, method="rk4")
    return tuple(u for depth, u in zip(flow.depths.tolist(), flow.states, strict=True) if depth == int(depth))


def solver_error(part: Beside) -> float:
    """Return how far `STEPS` ends from the converged solution (dopri5, 1e-6), over its movement: the worst depth."""
    law, real = part.equation(candidates.FAMILIES[LAW]), part.reference.mask
    assert law is not None
    exact = rolled_out(law, part.reference, method="dopri5", rtol=1e-6, atol=1e-6).states
    stepped = solved(part, law)
    pairs = list(zip(stepped, exact, strict=True))[1:]
    return max(float((u - v)[real].norm() / (v - exact[0])[real].norm()) for u, v in pairs)


def shuffled_tokens(states: Sequence[Tensor], mask: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return states with each example's real tokens in a random order, the same at every depth."""
    order = torch.rand(mask.shape, generator=generator).masked_fill(~mask.bool(), 2.0).argsort(1)
    return tuple(u.gather(1, order[..., None].expand_as(u)) for u in states)


def curve(
    states: Mapping[int, Tensor], which: Targets, labels: Tensor, family: str = "linear", seed: int = 0
) -> dict[str, tuple[list[float], float]]:
    """Return by target the usable information of states by depth, and its ceiling; nats, held out.

    `states` by distance, (depths, rows, width). Probes are given their principal `components`. Targets of one example
    stay on one side of the split, and what is held out is the same for whoever is asked. States that are the same at
    every depth are probed once.
    """
    found = {}
    given = {d: [_first_same(u, depth) for depth in range(len(u))] for d, u in states.items()}
    scores = {d: {depth: components(u[depth]) for depth in set(given[d])} for d, u in states.items()}
    how = {"groups": which.examples, "permutations": 0, "seed": seed}
    for target, distance in asked.targets_of(states).items():
        classes = labels if target == LABEL else which.codes
        known = {depth: usable_information(x, classes, family, **how) for depth, x in sorted(scores[distance].items())}
        found[target] = [float(known[depth]) for depth in given[distance]], known[0].ceiling
    return found


def components(u: Tensor) -> Tensor:
    """Return the scores of states (rows, width) on their principal components, but for those of rounding alone.

    A probe's features are all scaled alike. In components that keeps what lies in directions of little spread within
    the reach of a penalty: a piece's identity, in texts; in the channels it is beyond it.
    """
    centred = u.double() - u.double().mean(0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[sizes > ROUNDING * sizes[0]].T


def _first_same(u: Tensor, depth: int) -> int:
    """Return the first depth at which states (depths, rows, width) are what they are at this one."""
    return next(before for before in range(depth + 1) if torch.equal(u[before], u[depth]))
