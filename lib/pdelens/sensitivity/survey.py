"""Sensitivity of a whole model, layer by layer: spectra, exponents, non-normality, coupling and influence at once."""

import ctypes
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import _doors
from ..pde.equation import PDE
from .flow_map import FlowMap, check_options, flow_map, map_between
from .jacobian import Jacobian, real_tokens
from .layers import Layers
from .normality import Coupling, Measured, coupling, non_normality
from .singular import influence, jacobian_spectrum


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How a model's layers, and all of them in a row, react to a change of their state, by example.

    `layers` (layers, examples, count): the largest singular values of each layer's Jacobian, and of the row of all
    `whole` (examples, count), both with the distance within which a true one lies; `exponents` (examples, count):
    finite-time Lyapunov exponents, `log whole / L`; `departure`, `asymmetry`, `abscissa` (layers, examples): of each
    layer's branch `J - 1`, as `non_normality` has them; `coupling` (layers - 1, examples): of each layer's leading
    directions with the next one's, beside chance; `influence` (examples, tokens, segments): how much a change of so
    many successive tokens at the start (`segment`) moves each token at the end, with standard errors. `at_once`
    examples were measured at a time, in `announced` bytes beside the model.
    """

    layers: Measured
    whole: Measured
    exponents: Measured
    departure: Measured
    asymmetry: Measured
    abscissa: Measured
    coupling: Coupling
    influence: Measured
    segment: int
    at_once: int
    announced: int


class Row(Jacobian):
    """The Jacobian of maps one after another, `J_n ... J_1`: no second graph beside those of the maps."""

    def __init__(self, maps: Sequence[FlowMap]):
        self.maps, self.point, self.mask = maps, maps[0].point, maps[0].mask

    @property
    def constant(self) -> bool:
        """False: each of the maps has a gradient."""
        return False

    def jvp(self, vector: Tensor) -> Tensor:
        """Return `J v`, of the state's shape."""
        for one in self.maps:
            vector = one.jvp(vector)
        return vector

    def vjp(self, vector: Tensor) -> Tensor:
        """Return `J^T w`, of the state's shape."""
        for one in reversed(self.maps):
            vector = one.vjp(vector)
        return vector

    def matrix(self) -> Tensor:
        """Return J itself, small states only."""
        found = self.maps[0].matrix()
        for one in self.maps[1:]:
            found = one.matrix() @ found
        return found


def measure_sensitivity(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    count: int = 4,
    rounds: int = 4,
    draws: int = 4,
    segment: int = 1,
    at_once: int | None = None,
    max_bytes: int = 4 * 2**30,
    mask: Tensor | None = None,
    which: str | None = None,
    method: str = "rk4",
    substeps: int = 4,
    seed: int = 0,
) -> Sensitivity:
    """Measure how every layer of a model, and all in a row, react to a change of their state.

    Of a Transformer (anything that `capture` takes), or of a `PDE` between whole depth-times. `inputs`, `mask`,
    `which`, `method` and `substeps` are as in `flow_map`; the inputs' first axis counts examples. `count` singular
    values by `rounds` of a block Krylov method, `draws` random signs for non-normality, two draws for the influence of
    each `segment` of successive tokens. The graphs of all layers are held for `at_once` examples (as many as fit into
    `max_bytes`, if not given): how much one takes is found from its saved tensors before anything is measured
    (`memory_of_example`), stated in the progress bar and in `announced`. Raises `ValueError` where that is more than
    `max_bytes`, and as `flow_map` does. Cost: in passes through the model, an example, about `4 count rounds` for
    spectra, `4 draws` and `4 rounds` for non-normality, `2 tokens / segment` for influence. Source: the measures' own.

    >>> from pdelens import PDE, Chain
    >>> from pdelens.pde.terms import Diffusion
    >>> heat = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=2)
    >>> found = measure_sensitivity(heat, torch.zeros(2, 3, 1), count=2, substeps=32)
    >>> [abs(round(float(one), 3)) for one in found.exponents.value[0]]  # 0 and -1: the Laplacian's eigenvalues
    [0.0, 1.0]
    """
    check_options(which, method, substeps)
    for name, value in {"count": count, "rounds": rounds, "segment": segment, "max_bytes": max_bytes}.items():
        _doors.whole(name, value)
    _doors.whole("draws", draws, 2)
    _doors.whole("seed", seed, 0)
    how: dict[str, Any] = {"which": which, "method": method, "substeps": substeps}
    given, mask = _rows(inputs), None if mask is None else _doors.tensor("mask", mask, "booleans (batch, tokens)")
    examples = len(next(iter(given.values())))
    each = memory_of_example(model, inputs, mask=mask, count=count, rounds=rounds, **how)
    together = _fitting(each, examples, at_once, max_bytes)
    parts: list[dict[str, Any]] = []
    starts = range(0, examples, together)
    said = f"sensitivity, {together} at once in {together * each / 2**30:.2g} GiB"
    with tqdm(total=len(starts), desc=said, unit="part", delay=2, file=sys.stderr, disable=None) as bar:
        for start in starts:
            some = slice(start, start + together)
            maps = maps_of(model, inputs, some, mask, **how)
            for done in _measured(maps, count, rounds, draws, segment, seed):
                parts.append(done) if isinstance(done, dict) else bar.update(done)
            del maps
    joined = _joined(parts)
    values, errors = joined["whole"]
    exponents = Measured(values.log() / parts[0]["length"], errors / values / parts[0]["length"])
    return Sensitivity(**joined, exponents=exponents, segment=segment, at_once=together, announced=together * each)


def memory_of_example(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    *,
    mask: Tensor | None = None,
    count: int = 4,
    rounds: int = 4,
    which: str | None = None,
    method: str = "rk4",
    substeps: int = 4,
) -> int:
    """Return how many bytes `measure_sensitivity` will take for one example, beside the model itself.

    The tensors that the graphs of all layers save for the first example, each storage once and parameters apart, and
    the directions of a Krylov space. Raises and costs as one pass of it.
    """
    _doors.is_a("model", model, nn.Module, "a torch module, or an equation")
    kept: dict[int, Tensor] = {}
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}

    def pack(value: Tensor) -> Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = value.detach()  # held, so that no other storage takes its place
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        maps = maps_of(model, inputs, slice(0, 1), mask, which=which, method=method, substeps=substeps)
    graphs = sum(one.untyped_storage().nbytes() for one in kept.values())
    depth, state = len(maps), maps[0].point.numel() * maps[0].point.element_size()
    # Point, output, dual and pulled-back dual of each map; of a Krylov space the basis and its images, and what their
    # growth, orthogonalisation and singular value decomposition hold beside them.
    kept.clear()
    del maps
    _tidy()
    # A twelfth more, as measured, for the holes that freed tensors leave between those that are kept.
    return graphs + graphs // 12 + state * (4 * depth + 8 * count * (rounds + 1))


def maps_of(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    examples: slice,
    mask: Tensor | None,
    *,
    which: str | None = None,
    method: str = "rk4",
    substeps: int = 4,
) -> list[FlowMap]:
    """Return the maps of all layers of a Transformer, or of all units of depth-time of an equation, for some examples.

    One after another on the model's own states. Raises `ValueError` where the inputs' first axis counts no examples.
    """
    few = None if mask is None else mask[examples]
    if isinstance(model, PDE):
        u, maps = model.checked(_doors.state("inputs", inputs))[examples], []
        few = real_tokens(few, u)
        for start, end in pairwise(range(int(model.depth) + 1)):
            maps.append(flow_map(model, u, start, end, mask=few, method=method, substeps=substeps))
            u = maps[-1].value
        return maps
    given = {name: one[examples] for name, one in _rows(inputs).items()}
    layers = Layers(model, given[""] if "" in given else given, which, few)
    size = len(next(iter(given.values())))
    if len(layers.state(0)) != size:
        raise ValueError(
            f"inputs of {size} rows made states {tuple(layers.state(0).shape)}: their first axis is to count examples."
        )
    maps = []
    for depth in range(layers.depth):
        maps.append(map_between(layers, depth, depth + 1))
        _tidy()
    return maps


def _tidy() -> None:
    """Give back to the system what its allocator has kept of freed tensors, where it is glibc's.

    Between the tensors that graphs keep, freed ones leave holes: without this they came to more than the graphs.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another allocator, or another system
        return


def _rows(inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = dict(inputs) if isinstance(inputs, Mapping) else {"": inputs}
    found = {name: _doors.tensor(name or "inputs", one, "one example a row") for name, one in given.items()}
    sizes = {len(one) if one.ndim else 0 for one in found.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"inputs of {sorted(sizes)} examples were given: all need the same number, at least one.")
    return found


def _fitting(each: int, examples: int, at_once: int | None, max_bytes: int) -> int:
    """Return how many examples are measured at once; refuse what takes too much memory."""
    if at_once is not None:
        _doors.whole("at_once", at_once)
    together = min(examples, max_bytes // each if at_once is None else at_once)
    if not together or together * each > max_bytes:
        raise ValueError(
            f"{max(together, 1)} at once will need about {max(together, 1) * each:,} bytes beside the model, past the "
            f"limit of {max_bytes:,}: give fewer at once, shorter inputs or a larger max_bytes."
        )
    return together


def _measured(
    maps: list[FlowMap], count: int, rounds: int, draws: int, segment: int, seed: int
) -> Iterator[dict[str, Any] | float]:
    """Yield shares of the work done, and in the end what was measured."""
    how: dict[str, Any] = {"rounds": rounds, "oversampling": 0, "seed": seed}
    whole = Row(maps)
    tokens = whole.point.shape[1]
    # In passes through all layers: spectra twice, non-normality, influence.
    work = [4 * count * rounds, 4 * draws + 4 * rounds, 2 * -(-tokens // segment)]
    share = 1 / (sum(work) * len(maps))
    spectra, normality, met, before = [], [], [], None
    for one in maps:
        found = jacobian_spectrum(one, count, **how)
        spectra.append((found.values, found.error))
        # Directions are large: of the layer before alone they are kept.
        met += [] if before is None else [coupling(before, found)]
        before = found
        normality.append(non_normality(one, draws=draws, rounds=rounds, seed=seed))
        _tidy()
        yield (work[0] / 2 + work[1]) * share
    all_layers = jacobian_spectrum(whole, count, **how)
    yield work[0] / 2 * share * len(maps)
    _tidy()
    moved = influence(whole, draws=2, segment=segment, seed=seed)
    yield work[2] * share * len(maps)
    yield {
        "length": sum(one.length for one in maps),
        "layers": _stacked(spectra),
        "whole": (all_layers.values[None], all_layers.error[None]),
        **{
            name: _stacked([getattr(one, name) for one in normality]) for name in ("departure", "asymmetry", "abscissa")
        },
        "coupling": _stacked(met) if met else (torch.zeros(0, len(maps[0].point)),) * 2,
        "influence": (moved[0][None], moved[1][None]),
    }


def _stacked(pairs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([one[0] for one in pairs]), torch.stack([one[1] for one in pairs])


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the measures over the examples of all parts; each part's have a leading axis of layers."""
    found: dict[str, Any] = {}
    for name in parts[0].keys() - {"length"}:
        value, error = (torch.cat([part[name][place] for part in parts], 1) for place in range(2))
        if name in ("whole", "influence"):
            value, error = value[0], error[0]
        found[name] = (
            Coupling(value, error[0] if len(error) else error) if name == "coupling" else Measured(value, error)
        )
    return found
