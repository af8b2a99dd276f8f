"""Measures whether attention says what passes between tokens: against the effect of a cut edge, and information."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from pdelens.models import Block, Transformer

from ..data.fashion_mnist import fashion_mnist
from ..jobs import Job, Run
from ..surrogates import candidates
from ..surrogates.candidates import Beside
from ..surrogates.evaluate import rolled_out
from ..surrogates.study import other_seed, weight_digests
from ..teachers.teacher import Inputs, Teacher
from ..theory import token_influence as maps
from . import edges, pairs
from .content import LAW, PART, STEPS

EDGES = "edges"
ATTENTION, VALUES, ROLLOUT, EQUATION = "attention", "value-weighted norm", "rollout", "equation's attention"
INPUT, DISTANCE, OTHER, AGAIN = "another input's attention", "distance", "another seed's attention", "other half"
STATE, LOGITS = "next state", "logits"
# Examples whose information is measured, whose edges are cut, and of them whose effect on logits; targets of each.
COUNTS = {"smoke": (96, 6, 2, 2), "book": (1536, 32, 8, 3), "full": (8192, 128, 64, 6)}
_BATCH = 16


@dataclass(frozen=True)
class EdgeRanks(Job):
    """Rank correlations of maps of attention with causal effects and with information, layer by layer."""

    teacher: str
    flush_denormal = True

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{EDGES}-{self.teacher}"

    @property
    def other(self) -> str:
        """The teacher of the next seed among those that are measured."""
        return other_seed(self.teacher)

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes, the estimator's settings, the steps and the weights."""
        law = candidates.equation_name(self.teacher, candidates.LAWS[LAW])
        return {
            "scale": run.scale,
            "counts": COUNTS[run.scale],
            "pairs": [pairs.ASKED, pairs.TOLD, pairs.NOISE, pairs.RIDGE],
            "steps": STEPS,
            "weights": weight_digests((self.teacher, self.other), [law], run),
        }

    def line(self, record: Mapping[str, Any]) -> str:
        """Return attention's rank correlations in the first layer."""
        effect, told = record["effects"][STATE][ATTENTION], record["information"][ATTENTION]
        return f"attention in layer 1: cut edges {effect['rows'][0]:.2f}, information {told['rows'][0]:.2f}"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`); the maps of one token for the first seed alone, which the page shows."""
        count, *sizes = COUNTS[run.scale]
        one = candidates.beside(self.teacher, 1, run, self.other)
        found = measure(one, whole_examples(one.teacher, count), *sizes)
        return found if self.teacher.endswith("0") else found | {"shown": {}}


def whole_examples(teacher: Teacher, count: int) -> Inputs:
    """Return so many held-out examples without padding: test pictures, or the first full windows of test reviews."""
    given = teacher.inputs("heldout", None)[0]
    if isinstance(given, Tensor):
        return fashion_mnist(False).images[:count] if count > len(given) else given[:count]
    full = given["mask"].bool().all(1).nonzero()[:count, 0]
    if len(full) < count:
        raise ValueError(f"{count} full windows were asked for, but there are {len(full)}.")
    return candidates.selected(given, full.tolist())


def measure(one: Beside, inputs: Inputs, few: int, fewer: int, many: int) -> dict[str, Any]:
    """Return how maps of attention rank pairs of tokens, beside the effects of cut edges and beside information.

    `effects` on the next state (all pairs of `few` examples) and on the logits (`many` random targets of `fewer`);
    `information`, of places over all examples, with the maps' means. Each by the map's name and layer: `rows`, Spearman
    over the other tokens of a target, mean over targets and examples; `given`, over all pairs given distance. `nats` is
    the mean information of a pair by layer, `size` the mean effect on the logits; `shown` has maps of one target.
    """
    part = _first(inputs, few)
    known = example_maps(one, part)
    spread, targets = logits_of(one, _first(inputs, fewer), many)
    everything = torch.arange(one.teacher.lattice.tokens).expand(few, -1)
    effects = {STATE: compared(known, known[STATE], everything, one)}
    rows = {name: [maps.rows_of(each[:fewer], targets) for each in layers] for name, layers in known.items()}
    effects[LOGITS] = compared(rows, spread, targets, one)
    means, told = place_maps(one, inputs, known)
    halves, wanted = [each[:1] for each in told], [each.mean(0, keepdim=True) for each in told]
    found = compared(means, wanted, everything[:1], one)
    found[AGAIN] = compared({AGAIN: [each[1:] for each in told]}, halves, everything[:1], one)[AGAIN]
    off = ~torch.eye(one.teacher.lattice.tokens, dtype=torch.bool)
    return {
        "examples": [len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs), few, fewer],
        "effects": {
            target: {name: v for name, v in each.items() if name != target} for target, each in effects.items()
        },
        "information": found,
        "nats": [float(each[0][off].mean()) for each in wanted],
        "size": [float(each.mean()) for each in spread],
        "shown": shown(means, wanted),
    }


def example_maps(one: Beside, inputs: Inputs) -> dict[str, list[Tensor]]:
    """Return by name and layer what may say how much passes each edge, (examples, tokens, tokens).

    Rows are the tokens that receive. The effect of each cut edge on its token's next state is one of them.
    """
    model, flow = one.teacher.model, one.teacher.flow(inputs)
    assert isinstance(model, Transformer)
    known: dict[str, list[Tensor]] = {name: [] for name in (ATTENTION, VALUES, STATE)}
    for block, u, after in zip(model.blocks, flow.states, flow.states[1:], strict=False):
        assert isinstance(block, Block)
        found: list[list[Tensor]] = [[], [], []]
        for rows in torch.arange(len(u)).split(_BATCH):
            given = edges.parts(block, u[rows])
            cut = edges.cut_states(block, u[rows], given) - after[rows][:, :, None]
            for to, each in zip(
                found, (given.attention.mean(1), edges.value_norms(given), cut.norm(dim=-1)), strict=True
            ):
                to.append(each)
        for name, each in zip(known, found, strict=True):
            known[name].append(torch.cat(each).detach())
    known[ROLLOUT] = maps.rollouts(flow)[1:]
    known[EQUATION] = _solved_attention(one, flow)
    known[INPUT] = [each.roll(1, 0) for each in known[ATTENTION]]
    known[DISTANCE] = _nearness(one, len(flow.states[0]), flow.layers)
    return known


def logits_of(one: Beside, inputs: Inputs, many: int) -> tuple[list[Tensor], Tensor]:
    """Return by layer how far logits move with each cut edge into `many` tokens, (examples, many, tokens); those."""
    model, flow, found = one.teacher.model, one.teacher.flow(inputs), []
    assert isinstance(model, Transformer)
    targets = maps.drawn_targets(flow.mask, many)
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        u = flow.states[layer]
        cut = torch.cat([edges.cut_states(block, u[[e]], edges.parts(block, u[[e]])) for e in range(len(u))])
        rows = cut[torch.arange(len(u))[:, None], targets]
        found.append(edges.logit_effects(model, layer, flow.states[layer + 1], rows, targets))
    return found, targets


def place_maps(
    one: Beside, inputs: Inputs, known: Mapping[str, Sequence[Tensor]]
) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """Return by name and layer the maps' means over examples, (1, tokens, tokens), and information, (2, ...).

    Attention's means, and another seed's, are over all examples, the others over those of `known`.
    """
    states, attention = _run(one.teacher, inputs)
    told = [pairs.pair_information(now, after) for now, after in pairwise(states)]
    means = {name: [each.mean(0, keepdim=True) for each in layers] for name, layers in known.items() if name != INPUT}
    means[ATTENTION] = attention
    if one.other is not None:
        means[OTHER] = _run(one.other, inputs)[1]
    return means, told


def compared(
    found: Mapping[str, Sequence[Tensor]], wanted: Sequence[Tensor], targets: Tensor, one: Beside
) -> dict[str, dict[str, list[float]]]:
    """Return by name how maps rank pairs as the wanted ones do, by layer; maps are (examples, targets, tokens)."""
    lattice = one.teacher.lattice
    distances, mask = maps.token_distances(lattice), torch.ones(len(targets), lattice.tokens, dtype=torch.bool)
    result: dict[str, dict[str, list[float]]] = {}
    for name, layers in found.items():
        both = list(zip(layers, wanted, strict=True))
        given = [maps.rank_given_distance(x.double(), y.double(), targets, distances, mask) for x, y in both]
        result[name] = {
            "rows": [float(row_ranks(x, y, targets).mean()) for x, y in both],
            "given": [float(each.mean()) for each in given],
        }
    return result


def row_ranks(found: Tensor, wanted: Tensor, targets: Tensor) -> Tensor:
    """Return Spearman's correlation over the other tokens of each target, (examples, targets); 0 where one is flat.

    >>> row = torch.tensor([[[9.0, 1.0, 2.0, 3.0]]])
    >>> row_ranks(row, row.square(), torch.tensor([[0]])).round(decimals=6).tolist()
    [[1.0]]
    """
    examples, many, tokens = found.shape
    keep = torch.arange(tokens) != targets[..., None]
    ranks = [
        torch.from_numpy(rankdata(x[keep].reshape(examples, many, -1).double().numpy(), axis=-1))
        for x in (found, wanted)
    ]
    centred = [x - x.mean(-1, keepdim=True) for x in ranks]
    norms = centred[0].norm(dim=-1) * centred[1].norm(dim=-1)
    return (centred[0] * centred[1]).sum(-1) / norms.clamp_min(1e-12)


def shown(means: Mapping[str, Sequence[Tensor]], told: Sequence[Tensor]) -> dict[str, Any]:
    """Return the maps that the page draws: the middle token's rows in the middle layer, and what the maps are of."""
    layer, place = len(told) // 2, told[0].shape[-1] // 2
    rows = {name: means[name][layer][0, place].tolist() for name in (ATTENTION, STATE)}
    return {"layer": layer + 1, "place": place, "rows": rows | {"information": told[layer][0, place].tolist()}}


def _run(teacher: Teacher, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Return by depth the states (examples, tokens, width), by layer attention's mean (1, tokens, tokens)."""
    count = len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)
    states, attention = [], []
    for rows in torch.arange(count).split(256):
        flow = teacher.flow(candidates.selected(inputs, rows.tolist()))
        states.append(flow.states)
        attention.append([each.mean(1).sum(0, keepdim=True) for each in flow.attention])
    whole = [torch.stack(each).sum(0) / count for each in zip(*attention, strict=True)]
    return [torch.cat(each) for each in zip(*states, strict=True)], whole


def _solved_attention(one: Beside, flow: Any) -> list[Tensor]:
    """Return the equation's attention at whole depths, mean over heads, from the same embedding."""
    law = one.equation(candidates.LAWS[LAW])
    assert law is not None
    found = [
        rolled_out(law, flow.select(rows), depths=STEPS, method="rk4")
        for rows in torch.arange(flow.examples).split(_BATCH)
    ]
    depths = found[0].depths.tolist()[:-1]
    return [
        torch.cat([each.attention[at].mean(1) for each in found])
        for at, depth in enumerate(depths)
        if depth == int(depth)
    ]


def _nearness(one: Beside, examples: int, layers: int) -> list[Tensor]:
    near = -torch.from_numpy(maps.token_distances(one.teacher.lattice))
    return [near.expand(examples, -1, -1)] * layers


def _first(inputs: Inputs, count: int) -> Inputs:
    return candidates.selected(inputs, range(count))
