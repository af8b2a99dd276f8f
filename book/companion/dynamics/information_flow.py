"""Measures how information flows in a teacher and in what stands beside it, over seeds: jobs of the one runner."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pdelens.agreement.report import state_agreement
from pdelens.flow import Flow
from pdelens.sensitivity.flow_map import FlowMap, flow_map

from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import HEAT, IDENTITY, ONE_STEP, OTHER, SOLVED, Beside
from ..surrogates.evaluate import rolled_out
from ..surrogates.solution_fields import CONVERGED
from ..surrogates.study import jobs_of, names_of, other_seed, weight_digests
from ..theory import token_influence as maps
from ..theory.depth_profiles import clusters, profile

PART = "dynamics"
FLOW = "flow"
# Examples whose states are compared; of them so many, at evenly spaced ranks of agreement, whose influence is
# measured, on so many of their tokens, with so many random directions for each.
COUNTS = {"smoke": (6, 3, 3, 2), "book": (64, 5, 8, 8), "full": (192, 15, 11, 32)}
TEACHER, AGAIN, ROLLOUT, OWN_ROLLOUT, PLACES = "teacher", "again", "rollout", "equation's rollout", "places alone"
# Amounts of diffusion, diffusivity times depth-time, that the heat kernel of influence is chosen from.
AMOUNTS = tuple(float(s) for s in np.geomspace(0.03, 100, 25))
# Of the shares in a stored map: one in ten thousand.
UNIT = 1e-4


@dataclass(frozen=True)
class InformationFlow(Job):
    """States, their profiles over depth, and influence between tokens: a teacher's beside everything else's."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{FLOW}-{self.teacher}"

    @property
    def other(self) -> str:
        """The teacher of the next seed among those that are measured."""
        return other_seed(self.teacher)

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the steps and the weights."""
        names = [candidates.equation_name(self.teacher, family) for family in candidates.FAMILIES.values()]
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "steps": maps.STEPS,
            "weights": weight_digests((self.teacher, self.other), names, run),
            "solved": CONVERGED,
        }

    def cost(self, run: Run) -> float:
        """Return what it costs beside its kind: examples times tokens times directions."""
        return float(np.prod(COUNTS[run.scale]))

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the two numbers of three laws: states, influence."""
        r2 = min(record["states"]["three laws"]) if "three laws" in record["states"] else float("nan")
        rank = record["influence"]["0"][TEACHER].get("three laws", {}).get("rank", float("nan"))
        return f"three laws: pooled R2 {r2:.3f} at the worst depth, influence's rank correlation {rank:.3f}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`); the maps themselves of the first seed alone, which the page shows."""
        count, *sizes = COUNTS[run.scale]
        found = measure(candidates.beside(self.teacher, count, run, self.other), *sizes)
        return found if self.teacher.endswith("0") else found | {"maps": {}}


def flow_jobs(run: Run, only: str = "*") -> list[Job]:
    """Return the jobs that fit, of teachers whose law is there: calibrated in the run's folder, or committed."""
    return jobs_of((InformationFlow,), run, only)


def flow_names() -> list[str]:
    """Return the names of all jobs, whether their laws are there or not."""
    return names_of((InformationFlow,))


def measure(one: Beside, few: int, many: int, draws: int) -> dict[str, Any]:
    """Return how information flows in a teacher, and in what stands beside it.

    `states`: pooled R2 by depth from 1; `profiles`: norm, cosine, rank and clusters by depth from 0, and `gap`, how
    much of the teacher's change over depth is missed; `shown`: examples at evenly spaced ranks of agreement;
    `influence` on `many` tokens of each: by the depth that it starts from and what it is held against (`influences`);
    `maps` of the first and the middle example. Cost: some `few x many x draws` products with every flow map's Jacobian.
    """
    with torch.no_grad():
        flows = one.flows(**CONVERGED)
        other = {} if one.other is None else {OTHER: one.of_states(one.carried_over())}
        states = {
            name: state_agreement(flow.states, one.reference, one.calibration, cka=False)["r2 pooled"].tolist()
            for name, flow in (flows | other).items()
        }
        own = {} if one.other is None else {OTHER: one.other.flow(one.inputs)}
        agreement = candidates.example_agreement(
            flows["three laws"].states, one.reference, candidates.variances(one.reference, one.calibration)
        )
    shown = candidates.spread_out(agreement, few)
    found, kept = influences(one, shown, many, draws)
    maps_of = {name: packed(each) for name, each in kept.items()}
    return {
        "examples": one.count,
        "shown": {"examples": shown, "agreement": agreement[shown].tolist()},
        "states": states,
        "profiles": profiles(one.reference, flows | own),
        **found,
        "maps": {str(shown[at]): {name: rows[at] for name, rows in maps_of.items()} for at in (0, few // 2)},
    }


def profiles(reference: Flow, flows: Mapping[str, Flow]) -> dict[str, dict[str, Any]]:
    """Return norm, cosine, effective rank and number of clusters by depth, means over examples, of every Flow.

    `gap` of each: the mean distance from the teacher's own curve, example by example and summed over depth, over what
    the teacher's curve moves from depth 0: 0 is the teacher, 1 is to stay where the embedding is.
    """
    wanted, found = curves(reference), {}
    for name, flow in {TEACHER: reference, **flows}.items():
        each = curves(flow)
        gaps = {
            measure: float((each[measure] - own).abs().sum() / (own - own[:, :1]).abs().sum().clamp_min(1e-12))
            for measure, own in wanted.items()
        }
        found[name] = {measure: values.mean(0).tolist() for measure, values in each.items()} | {"gap": gaps}
    return found


def curves(flow: Flow) -> dict[str, Tensor]:
    """Return by measure (examples, depths): the tokens' mean rms, their pairs' cosine, effective rank, clusters."""
    real = flow.mask.double()
    sizes = [(state.double().square().mean(-1).sqrt() * real).sum(1) / real.sum(1) for state in flow.states]
    alike = profile(flow)
    return {
        "norm": torch.stack(sizes, 1),
        "cosine": alike.cosine,
        "rank": alike.rank,
        "clusters": clusters(flow).double(),
    }


def influences(one: Beside, chosen: list[int], many: int, draws: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return how maps of influence agree on chosen examples, and the maps from depth 0 as shares.

    By the depth from which influence is counted ("0", "1"), by what the maps are held against (the teacher's own
    influence, its rollout) and by name: `cosine` (of shares of others) and `rank` (given distance). `own` is a token's
    own share by name, `heat` the heat kernel's amount of diffusion. `solver` is how far the steps of the equation's
    propagator end from the converged solution, as a share of its movement; `targets` are the tokens.
    """
    flow, lattice = one.reference.select(chosen), one.teacher.lattice
    mask, distances, kernels = flow.mask, maps.token_distances(lattice), maps.HeatKernels(lattice, flow.mask)
    targets, found, kept = maps.drawn_targets(mask, many), {}, {}
    for start in (0, 1):
        raw = _measured(one, chosen, targets, draws, start)
        shares = {name: maps.others_shares(each, targets, mask) for name, each in raw.items()}
        amount, heat = maps.best_heat(kernels, shares[TEACHER], targets, mask, AMOUNTS)
        blind = {HEAT: heat, IDENTITY: maps.rows_of(torch.eye(flow.tokens).expand(len(mask), -1, -1), targets)}
        blind[PLACES] = maps.mean_rollout(one.calibration, start)[targets]
        raw |= blind
        shares |= {name: maps.others_shares(each, targets, mask) for name, each in blind.items()}
        found[str(start)] = {
            target: {
                name: {
                    "cosine": float(maps.map_cosine(each, shares[target]).mean()),
                    "rank": float(maps.rank_given_distance(each, shares[target], targets, distances, mask).mean()),
                }
                for name, each in shares.items()
            }
            for target in (TEACHER, ROLLOUT)
        }
        own = {name: float(maps.own_share(each, targets, mask).mean()) for name, each in raw.items()}
        found[str(start)] |= {"own": own, "heat": amount}
        kept = kept or {name: shares[name] for name in (TEACHER, "three laws")}
    return {"targets": targets.tolist(), "influence": found, "solver": solver_error(one, chosen)}, kept


def _measured(one: Beside, chosen: list[int], targets: Tensor, draws: int, start: int) -> dict[str, Tensor]:
    """Return maps of influence from a depth on, a random stream each, so that no two share their noise."""
    flow = one.reference.select(chosen)

    def of(flow_map: FlowMap, seed: int) -> Tensor:
        return maps.row_influence(flow_map, targets, draws=draws, seed=seed)

    own = flow_map(one.teacher.model, candidates.selected(one.inputs, chosen), start)
    found = {TEACHER: of(own, 0), ROLLOUT: maps.rows_of(maps.rollout(flow, start), targets)}
    if start == 0:
        found[AGAIN] = of(own, 1)
    if one.other is not None:
        found[OTHER] = of(flow_map(one.other.model, candidates.selected(one.inputs, chosen), start), 2)
    equation = one.equations["three laws"]
    solved = rolled_out(equation, flow, **CONVERGED)
    found[OWN_ROLLOUT] = maps.rows_of(maps.rollout(solved, start), targets)
    found["three laws"] = of(maps.solution_map(equation, solved.states[start], flow.mask, float(start)), 3)
    if start == 0 and ONE_STEP in one.equations:
        field, first = one.equations[ONE_STEP], flow.states[0]
        found[ONE_STEP] = of(flow_map(field, first, mask=flow.mask, method="lie", substeps=flow.layers), 4)
        found[SOLVED] = of(maps.solution_map(field, first, flow.mask), 5)
    return found


def solver_error(one: Beside, chosen: list[int]) -> float:
    """Return how far the steps of `maps.STEPS` end from the converged solution of three laws, over its movement."""
    flow = one.reference.select(chosen)
    exact = rolled_out(one.equations["three laws"], flow, **CONVERGED).states
    stepped = rolled_out(one.equations["three laws"], flow, depths=maps.STEPS, method="rk4").states[-1]
    keep = flow.mask
    return float((stepped - exact[-1])[keep].norm() / (exact[-1] - exact[0])[keep].norm())


def packed(shares: Tensor) -> list[list[list[int]]]:
    """Return maps of shares as whole numbers of `UNIT`: by example, a row for each target."""
    return (shares / UNIT).round().long().tolist()
