"""The map of training: each residual connection with each normalisation, depth and learning rate, over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pdelens.models import Configuration
from pdelens.pde.checkpoints import forget

from ..data import tokens
from ..data.splits import Examples, digest_of, load_splits, shuffled, tokenizer_digest
from ..jobs import Job, Run
from ..surrogates.study import rounded
from ..teachers.recipes import fits
from .batch import Batch, Plan, train
from .diffusion import AFTER, BEFORE, Diffusion
from .measures import gradients_of, score, states_of
from .switches import NORMALISATIONS, RESIDUALS, Switched, Switches

PART = "stabilisers"
LENGTH = 16
SHAPES = {
    "image": Configuration(width=32, patch=7),
    "text": Configuration(width=32, vocabulary=tokens.VOCABULARY, length=LENGTH, outputs=2),
}
# Four times apart, from where nothing is learnt in so few steps to where nothing is stable.
RATES = tuple(2e-4 * 4**n for n in range(7))
# Depths by modality, seeds, steps, rates, examples that losses are measured on.
SIZES: dict[str, dict[str, Any]] = {
    "smoke": {"depths": {"image": (2,), "text": (2,)}, "seeds": 2, "steps": 6, "rates": RATES[2::3], "held": 32},
    "book": {"depths": {"image": (6, 12, 24), "text": (6, 12)}, "seeds": 5, "steps": 300, "rates": RATES, "held": 500},
    "full": {"depths": dict.fromkeys(SHAPES, (6, 12, 24)), "seeds": 10, "steps": 1000, "rates": RATES, "held": 1000},
}  # fmt: skip
# States are measured on so many of these examples.
SEEN = 64
# What is switched beside the map, on pictures of one depth, and for which networks.
BESIDE: dict[str, dict[str, Any]] = {"clipped": {"clip": 1.0}, "cold": {"warm": False}, "small": {"gain": 0.1}}
BESIDE_DEPTH = {"smoke": 2, "book": 12, "full": 24}
BESIDE_NETWORKS = (("plain", "pre"), ("plain", "post"), ("plain", "dyt"), ("plain", "none"))
# The network that everyone trains.
STANDARD = ("plain", "pre")
# Heat while training, on pictures, in the standard network of the least depth: where, how much, on which lattice.
HEAT = "heat"
HEAT_AMOUNTS, HEAT_LATTICES = (0.3, 3.0), ("lattice", "disorder")


@dataclass(frozen=True)
class Arm(Job):
    """One network of the map: all its seeds and rates in one stack."""

    modality: str
    residual: str
    normalisation: str
    depth: int
    switch: str = ""

    @property
    def name(self) -> str:
        """The record's name."""
        parts = (PART, self.modality, self.residual, self.normalisation, f"{self.depth}", self.switch)
        return "-".join(part for part in parts if part)

    def plan(self, scale: str) -> Plan:
        """Return what is trained."""
        sizes, switched = SIZES[scale], dict(BESIDE.get(self.switch, {}))
        shape = replace(SHAPES[self.modality], layers=self.depth)
        heat, rates = self.heat, sizes["rates"]
        switches = Switches(self.residual, self.normalisation, shape, switched.pop("gain", 1.0), heat)
        return Plan(
            switches, tuple(range(sizes["seeds"])), rates if heat is None else heated(rates), sizes["steps"], **switched
        )

    @property
    def heat(self) -> Diffusion | None:
        """The heat that flows while it trains: of `heat-6-0.3-disorder` 0.3 behind layer 6, among strangers."""
        if not self.switch.startswith(f"{HEAT}-"):
            return None
        _, place, amount, lattice = self.switch.split("-")
        return Diffusion(place, float(amount), HEAT_LATTICES.index(lattice))

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the plan, what it is measured on, and the data."""
        found = {"plan": asdict(self.plan(run.scale)), "held": SIZES[run.scale]["held"], "seen": SEEN}
        return found | data_identity(self.modality, run)

    def cost(self, run: Run) -> float:
        """Return its floating-point operations, forward."""
        plan = self.plan(run.scale)
        return float(len(plan.cells) * plan.steps * plan.batch * plan.switches.configuration.flops)

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the best loss, and how many cells diverged."""
        losses = [value for row in record["loss"] for value in row if value is not None]
        diverged = sum(value is None for row in record["loss"] for value in row)
        best = f"{min(losses):.3f}" if losses else "none"
        return f"best loss {best}, {diverged} of {diverged + len(losses)} diverged, {record['seconds']:.0f} s"

    def do(self, run: Run) -> dict[str, Any] | None:
        """Train the stack, and measure its cells; None where time was up first."""
        splits = load_splits(self.modality, LENGTH, run.folder)
        held = first_of(shuffled(splits.followed), SIZES[run.scale]["held"])
        plan, checkpoint = self.plan(run.scale), run.folder / f"{self.name}.checkpoint.safetensors"
        found = train(plan, splits.train, checkpoint, device=run.device, stop=lambda: run.late)
        if found is None:
            return None
        record = measured(found[0], held, found[1]["diverged"])
        record |= {
            "curve": _grid(plan, list(zip(*found[1]["curve"], strict=True))),
            "seconds": round(found[1]["seconds"], 1),
        }
        forget(checkpoint)
        return rounded(record)


def data_identity(modality: str, run: Run) -> dict[str, Any]:
    """Return what the data of a modality are, as a job's identity holds it."""
    found = {"data": digest_of(modality, LENGTH, run.folder)}
    return found | ({"tokenizer": tokenizer_digest(run.folder)} if modality == "text" else {})


def first_of(examples: Examples, count: int) -> Examples:
    """Return the first so many examples."""
    return Examples(*(column[:count] for column in examples))


def measured(batch: Batch, held: Examples, diverged: Sequence[int | None]) -> dict[str, Any]:
    """Return what became of a stack's cells, each [seed][rate], None where the cell diverged.

    `loss` and `accuracy` held out, `diverged` the step, `states` by measure (`states_of`); and of each seed's network
    at its beginning `begun`: loss, states, and the gradients' norms by depth.
    """
    plan = batch.plan
    seen = first_of(held, SEEN)
    begun = []
    for seed in plan.seeds:
        model = Switched(plan.switches, seed).eval()
        begun.append(
            {"loss": score(model, held)[0], "gradients": gradients_of(model, seen)} | states_of(model, seen.inputs)
        )
    scores, states = [], []
    for cell, at in enumerate(diverged):
        model = batch.model(cell) if at is None else None
        scores.append((None, None) if model is None else score(model, held))
        states.append(None if model is None else states_of(model, seen.inputs))
    names = [name for name in begun[0] if name not in ("loss", "gradients")]
    return {
        "rates": list(plan.rates),
        "loss": _grid(plan, [loss for loss, _ in scores]),
        "accuracy": _grid(plan, [accuracy for _, accuracy in scores]),
        "diverged": _grid(plan, diverged),
        "states": {name: _grid(plan, [one and one[name] for one in states]) for name in names},
        "begun": begun,
    }


def heated(rates: Sequence[float]) -> tuple[float, ...]:
    """Return the rates at which networks with heat are trained: four about the best one of the same without."""
    return tuple(rates)[1:5] if len(rates) > 4 else tuple(rates)


def _grid(plan: Plan, values: Sequence[Any]) -> list[list[Any]]:
    """Return a value for each cell as rows of seeds."""
    many = len(plan.rates)
    return [list(values[start : start + many]) for start in range(0, len(values), many)]


def arms(scale: str) -> list[Arm]:
    """Return the map's networks, the shallow ones first, and then those with another switch beside."""
    depths = SIZES[scale]["depths"]
    found = [
        Arm(modality, residual, normalisation, depth)
        for modality, own in depths.items()
        for depth in own
        for residual in RESIDUALS
        for normalisation in NORMALISATIONS
    ]
    found.sort(key=lambda arm: arm.depth)
    for switch in BESIDE:
        found += [Arm("image", *network, BESIDE_DEPTH[scale], switch) for network in BESIDE_NETWORKS]
    return found + heat_arms(scale)


def heat_arms(scale: str) -> list[Arm]:
    """Return the networks that are trained with heat in them."""
    depth = min(SIZES[scale]["depths"]["image"])
    return [
        Arm("image", *STANDARD, depth, f"{HEAT}-{place}-{amount}-{lattice}")
        for place in ("0", BEFORE, AFTER, f"{depth}")
        for amount in HEAT_AMOUNTS
        for lattice in HEAT_LATTICES
    ]


def map_jobs(run: Run, only: str = "*") -> list[Arm]:
    """Return the jobs that fit a pattern (several: by commas)."""
    return [arm for arm in arms(run.scale) if fits(arm.name, only.split(","))]


def map_names(scale: str) -> list[str]:
    """Return the names of all networks of a scale's map."""
    return [arm.name for arm in arms(scale)]
