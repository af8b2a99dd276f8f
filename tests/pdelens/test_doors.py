"""Every public function called with one argument bad: each answers in a sentence of its own, or means what it does."""

import inspect
import traceback

import pytest
import torch

import pdelens
from pdelens import (
    PDE,
    Chain,
    FieldJacobian,
    Flow,
    FlowMap,
    Grid,
    Heads,
    Plan,
    TransformerPDE,
    adjoint_gradient,
    attend_with_statistics,
    attention_cosine,
    attention_divergence,
    attention_statistics,
    capture,
    check_estimator,
    compare,
    conditional_usable_information,
    coupling,
    equation_of,
    fit,
    flow_map,
    flow_of,
    gradient,
    gradient_flow,
    half_information_noise,
    influence,
    integrate,
    jacobian_spectrum,
    laplacian,
    lyapunov_exponents,
    measure_heads,
    measure_sensitivity,
    mutual_information,
    noisy_information,
    non_normality,
    perturbation_growth,
    skill,
    spectrum,
    statistics_of,
    substitute_attention,
    usable_information,
)
from pdelens.models import Configuration, Transformer

NAN, INF = float("nan"), float("inf")
G = torch.Generator().manual_seed(0)
LATTICE = Grid(3, 4)
U = torch.randn(2, 12, 8, generator=G)


def maps(b=2, h=2, t=12):
    return torch.softmax(torch.randn(b, h, t, t, generator=G), -1)


FLOW = Flow([torch.randn(2, 12, 8, generator=G) for _ in range(3)], [maps(), maps()], lattice=LATTICE)
EQUATION = TransformerPDE(8, 2, LATTICE, depth=2)
CHANGING = TransformerPDE(8, 2, LATTICE, depth=2, temporal_modes=2)
Q, K, V = (torch.randn(2, 2, 12, 4, generator=G) for _ in range(3))
W = maps()
MASK = torch.ones(2, 12, dtype=torch.bool)
MODEL = Transformer(Configuration(layers=2)).eval()
PICTURES = torch.zeros(2, 28, 28, dtype=torch.uint8)
X, Y = torch.randn(60, 1, generator=G), torch.randn(60, 1, generator=G)
TARGET = torch.arange(60) % 3


class Odd:
    pass


def bad_tensors(good, optional=False):
    bad = {
        "text": "abc",
        "number": 3.0,
        "object": Odd(),
        "complex": good.to(torch.complex64),
        "nan": torch.full_like(good.float(), NAN),
        "inf": good.float().index_fill(0, torch.tensor([0]), INF),
        "empty": good[:0],
        "rank-": good[0],
        "rank+": good[None, None],
        "size+": torch.cat([good, good[..., :1]], -1),
        "texts": [["a"]],
        "ragged": [[1.0], [1.0, 2.0]],
    }
    if not optional:
        bad["none"] = None
    return bad


def bad_masks(good):
    return {
        "text": "abc",
        "object": Odd(),
        "rank-": good[0],
        "size+": torch.cat([good, good[..., :1]], -1),
        "nan": torch.full(good.shape, NAN),
        "none-real": torch.zeros_like(good),
        "twos": good.long() * 2,
        "complex": good.to(torch.complex64),
    }


def bad_counts(low=1, optional=False):
    bad = {"half": 2.5, "negative": -1, "text": "3", "nan": NAN, "list": [1]}
    if low:
        bad["zero"] = 0
    if not optional:
        bad["none"] = None
    return bad


def bad_numbers(low=None, optional=False):
    bad = {"nan": NAN, "text": "x", "complex": 1j, "object": Odd()}
    bad["inf"] = INF
    if low is not None:
        bad["below"] = low - 1
    if not optional:
        bad["none"] = None
    return bad


def bad_options(optional=False):
    bad = {"nonsense": "nonsense", "number": 3, "empty": "", "object": Odd()}
    if not optional:
        bad["none"] = None
    return bad


def bad_lattices(optional=False):
    bad = {"text": "grid", "number": 3, "wrong": Grid(5, 5), "object": Odd(), "tuple": (3, 4)}
    if not optional:
        bad["none"] = None
    return bad


def bad_flags():
    return {"text": "no", "number": 2, "object": Odd(), "none": None}


def bad_objects(optional=False):
    bad = {"text": "abc", "number": 3, "object": Odd(), "class": Flow}
    if not optional:
        bad["none"] = None
    return bad


def bad_flows():
    return {
        **bad_objects(),
        "tensor": U,
        "list": [U],
        "other size": Flow([torch.randn(2, 5, 8)] * 3, [maps(t=5)] * 2),
        "no states": Flow(attention=[W] * 2),
        "no maps": Flow([U] * 3),
        "layers": Flow([U] * 4, [W] * 3),
    }


def around(call):
    def run(**k):
        with call(**k) as r:
            MODEL(PICTURES)
        return r

    return run


def bad_maps():
    return {**bad_objects(), "tensor": U, "flow": FLOW, "layer": torch.nn.Linear(2, 2), "class itself": FlowMap}


class Shaped(torch.nn.Module):
    """Layers of which the last is what a test wants it to be."""

    def __init__(self, last):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(8, 8), last])

    def forward(self, u):
        for layer in self.layers:
            u = layer(u)
        return u


class Cut(torch.nn.Module):
    def forward(self, u):
        return u.detach() + 1


class Frozen(torch.nn.Linear):
    def forward(self, u):
        with torch.no_grad():
            return super().forward(u)


class Spoilt(torch.nn.Linear):
    def forward(self, u):
        return super().forward(u) * NAN


class Keyed(torch.nn.Module):
    def forward(self, u):
        return {"text": "abc"}


def bad_models(of_states=True):
    """Return modules and objects that have no derivative, for inputs that are a state, or pictures."""
    bad = {**bad_objects(), "layer": torch.nn.Linear(8, 8)}
    if of_states:
        layers = {"no path": Cut(), "no_grad": Frozen(8, 8), "nan": Spoilt(8, 8), "no state": Keyed()}
        bad |= {name: Shaped(layer) for name, layer in layers.items()}
        bad["no gradient"] = Shaped(torch.nn.Linear(8, 8).requires_grad_(False)).apply(rounded)
        bad["dropout"] = Shaped(torch.nn.Dropout(0.5)).train()
        bad["half"], bad["bfloat"] = Shaped(torch.nn.Linear(8, 8)).half(), Shaped(torch.nn.Linear(8, 8)).bfloat16()
    return bad


def rounded(module):
    if isinstance(module, torch.nn.Linear):
        module.register_forward_hook(lambda module, given, output: output.detach().round())


def bad_states():
    return {**bad_tensors(U), "ints": U.long(), "half": U.half(), "bfloat": U.bfloat16(), "bools": U > 0}


def with_map(**given):
    """Make a map by hand and use all that it offers."""
    state, products = given.pop("state", U), [given.pop("vector", U), given.pop("covector", U)]
    made = FlowMap(**given)
    return made(state), made.jvp(products[0]), made.vjp(products[1])


MAP = FlowMap(torch.tanh, U)
MAPS = [MAP, FlowMap(torch.tanh, MAP.value, depths=(1, 2))]
FOUND = jacobian_spectrum(MAP, 2)
OTHER = jacobian_spectrum(FlowMap(torch.tanh, U[:, :5]), 2)
STATES = Shaped(torch.nn.Linear(8, 8))
BAD_STEPS = {"method": bad_options(), "substeps": bad_counts()}
HEAT = TransformerPDE(8, 2, LATTICE, depth=1, attention=False, reaction=False)
BAD_LOSSES = {
    **bad_objects(),
    "row": lambda u: u.sum(-1),
    "number back": lambda u: 3.0,
    "no path": lambda u: u.detach().sum(),
    "nan": lambda u: u.sum() * NAN,
    "inf": lambda u: u.sum() / 0,
}
BAD_SEEDS = {"half": 1.5, "text": "a", "negative": -1, "none": None}


def bad_sights():
    return {
        "mask": bad_masks(MASK),
        "causal": bad_flags(),
        "scale": bad_numbers(optional=True),
        "window": bad_counts(optional=True),
    }


def bad_attention(extra=None):
    return {"query": bad_tensors(Q), "key": bad_tensors(K), **(extra or {}), **bad_sights()}


BAD_PAIR = {"query_a": bad_tensors(Q), "key_b": bad_tensors(K), **bad_sights()}


def bad_numbers_of(good):
    """Bad whole numbers, one an example."""
    return {
        "text": "abc",
        "number": 3,
        "object": Odd(),
        "halves": good / 2,
        "nan": torch.full(good.shape, NAN),
        "complex": good.to(torch.complex64),
        "empty": good[:0],
        "few": good[:-1],
        "rank+": good[:, None],
        "texts": ["a"] * len(good),
    }


def bad_probes(state):
    return {
        "states": {**bad_tensors(state), "few": state[:10], "same": torch.ones_like(state), "ints": state.long()},
        "target": {**bad_numbers_of(TARGET), "none": None, "one": torch.zeros(60).long(), "all": torch.arange(60)},
        "family": bad_options(),
        "groups": {**bad_numbers_of(TARGET), "one": torch.zeros(60).long()},
        "held_out": {**bad_numbers(0), "zero": 0, "whole": 1.0, "few": TARGET[:9] > 0, "class": TARGET == 0},
        "permutations": bad_counts(0),
        "seed": {"half": 1.5, "text": "a", "negative": -1, "none": None},
    }


BAD_NOISE = {
    "states": {**bad_tensors(X), "one": X[:1], "same": torch.ones_like(X), "ints": X.long()},
    "mask": {**bad_masks(torch.ones(60, 1, dtype=torch.bool)), "few": torch.ones(59, 1)},
    "draws": {**bad_counts(optional=True), "odd": 5},
    "seed": {"half": 1.5, "text": "a", "negative": -1, "none": None},
}
BAD_PLACES = {
    "positions": {**bad_lattices(True), "nan": torch.full((12, 2), NAN), "shape": torch.zeros(5, 2)},
    "moments": bad_flags(),
    "special": bad_masks(MASK[0]),
    "within": {"text": "abc", "nan": [NAN], "negative": [-1.0], "number": 2.0, "inf": [INF]},
}
CASES = {
    "laplacian": (
        laplacian,
        dict(u=U, lattice=LATTICE),
        {
            "u": bad_tensors(U),
            "lattice": bad_lattices(),
            "order": {**bad_counts(), "three": 3},
            "mask": bad_masks(MASK),
        },
    ),
    "gradient": (
        gradient,
        dict(u=U, lattice=LATTICE),
        {"u": bad_tensors(U), "lattice": bad_lattices(), "scheme": bad_options(), "mask": bad_masks(MASK)},
    ),
    "attention_statistics": (
        attention_statistics,
        dict(query=Q, key=K, positions=LATTICE),
        {**bad_attention(), **BAD_PLACES},
    ),
    "attend_with_statistics": (
        attend_with_statistics,
        dict(query=Q, key=K, value=V, positions=LATTICE),
        {**bad_attention({"value": bad_tensors(V)}), **BAD_PLACES},
    ),
    "statistics_of": (
        statistics_of,
        dict(weights=W, positions=LATTICE),
        {"weights": {**bad_tensors(W), "negative": -W, "rows": 2 * W}, **BAD_PLACES},
    ),
    "attention_cosine": (
        attention_cosine,
        dict(query_a=Q, key_a=K, query_b=K, key_b=Q),
        {**BAD_PAIR, "over": bad_options()},
    ),
    "attention_divergence": (attention_divergence, dict(query_a=Q, key_a=K, query_b=K, key_b=Q), BAD_PAIR),
    "Chain": (
        Chain,
        dict(length=5),
        {
            "length": bad_counts(),
            "boundary": bad_options(),
            "causal": bad_flags(),
            "special": {"half": 1.5, "negative": -1, "text": "a", "triple": (1, 1, 1), "nan": NAN},
        },
    ),
    "Grid": (
        Grid,
        dict(height=3, width=4),
        {
            "height": bad_counts(),
            "width": bad_counts(),
            "boundary": bad_options(),
            "special": {"half": 1.5, "negative": -1, "text": "a", "triple": (1, 1, 1), "nan": NAN},
        },
    ),
    "TransformerPDE": (
        TransformerPDE,
        dict(width=8, heads=2, lattice=LATTICE),
        {
            "width": {**bad_counts(), "odd": 7},
            "heads": {**bad_counts(), "three": 3},
            "lattice": {k: v for k, v in bad_lattices(True).items() if k != "wrong"},
            "depth": {**bad_numbers(0), "zero": 0},
            "temporal_modes": bad_counts(),
            "basis": bad_options(),
            "hidden": bad_counts(optional=True),
            "activation": bad_options(),
            "normalisation": bad_options(),
            "form": bad_options(),
            "diffusion": {**bad_numbers(0, True)},
            "advection": bad_numbers(None, True),
            "attention": bad_flags(),
            "reaction": bad_flags(),
            "clock": bad_flags(),
            "rank": bad_counts(0),
            "scaled": bad_flags(),
            "order": {**bad_counts(), "three": 3},
            "epsilon": bad_numbers(0),
            "seed": {"half": 1.5, "text": "a", "none": None},
        },
    ),
    "PDE": (
        PDE,
        dict(terms=dict(EQUATION.terms), lattice=LATTICE, depth=2.0),
        {
            "terms": {**bad_objects(), "wrong": {"a": 3}, "empty": {}},
            "lattice": {k: v for k, v in bad_lattices(True).items() if k != "wrong"},
            "depth": {**bad_numbers(0), "zero": 0},
            "constraint": bad_objects(True),
            "clock": bad_objects(True),
        },
    ),
    "Plan": (
        Plan,
        {},
        {
            "supervision": bad_options(),
            "substeps": {**bad_counts(), "pair": (3, 1)},
            "graded": {"text": "a", "number": 3, "wrong": ((0, 1),), "none": None},
            "entry": {"text": "a", "number": 0.5, "down": (0.5, 0.2), "beyond": (2.0,), "none": None},
            "refinement": bad_numbers(0),
            "forced": {**bad_numbers(0), "above": 1.5},
            "coarse": {**bad_numbers(0), "above": 1.5},
            "smooth": bad_numbers(0),
            "doubled": {**bad_numbers(0), "above": 1.5},
            "method": bad_options(),
            "optimizer": bad_options(),
            "steps": bad_counts(),
            "batch": bad_counts(),
            "peak_rate": {**bad_numbers(0), "zero": 0},
            "validate_every": bad_counts(),
            "patience": {"half": 1.5, "negative": -1, "text": "a", "none": None},
            "seed": {"half": 1.5, "text": "a", "none": None},
        },
    ),
    "Flow": (
        Flow,
        dict(states=[U] * 3, attention=[W] * 2),
        {
            "states": {
                "text": "abc",
                "number": 3,
                "texts": ["a"],
                "nan": [torch.full_like(U, NAN)] * 3,
                "shapes": [U, U[:1], U],
                "rank": [U[0]] * 3,
                "few": [U] * 2,
                "complex": [U.to(torch.complex64)] * 3,
                "ints": [U.long()] * 3,
                "none": None,
            },
            "attention": {
                "text": "abc",
                "number": 3,
                "negative": [torch.where(torch.arange(12) == 0, W - 1, W + 1 / 11)] * 2,
                "rows": [2 * W] * 2,
                "nan": [torch.full_like(W, NAN)] * 2,
                "shapes": [W, W[:1]],
                "rank": [W[0]] * 2,
                "few": [W],
                "none": None,
            },
            "mask": {k: v for k, v in bad_masks(MASK).items()},
            "causal": bad_flags(),
            "depths": {
                "nan": torch.tensor([0, NAN, 2]),
                "few": torch.arange(2.0),
                "down": torch.tensor([2.0, 1, 0]),
                "text": "abc",
                "inf": torch.tensor([0, 1, INF]),
            },
            "lattice": {k: v for k, v in bad_lattices(True).items()},
            "notes": {"number": 3, "numbers": (3,)},
            "key_mask": {"text": "a", "shape": MASK[:1]},
            "visible": {"text": "a", "shape": [MASK] * 2, "few": [W > 0]},
        },
    ),
    "integrate": (
        integrate,
        dict(pde=CHANGING, u0=U),
        {
            "pde": {**bad_objects(), "layer": torch.nn.Linear(2, 2)},
            "u0": bad_tensors(U),
            "depths": {
                "beyond": [0.0, 3.0],
                "before": [-1.0, 1.0],
                "nan": [0.0, NAN],
                "text": "abc",
                "down": [2.0, 1.0],
                "number": 1.0,
                "one": [1.0],
                "empty": [],
                "twice": [0.0, 0.0],
            },
            "method": bad_options(),
            "substeps": bad_counts(),
            "mask": bad_masks(MASK),
            "diffusion_step": bad_options(),
            "rtol": {**bad_numbers(0), "zero": 0},
            "atol": {**bad_numbers(0)},
            "check_steps": bad_flags(),
        },
    ),
    "fit": (
        fit,
        dict(pde=EQUATION, flows=FLOW, steps=1, validate_every=1),
        {
            "pde": bad_objects(),
            "flows": bad_flows(),
            "plan": bad_objects(True),
            "validation": {k: v for k, v in bad_flows().items() if k not in ("none",)},
            "readout": {"text": "a", "number": 3},
            "checkpoint": {"number": 3, "object": Odd()},
            "stop_after": {"half": 1.5, "negative": -1, "text": "a"},
            "until": {"nan": NAN, "text": "a"},
            "method": bad_options(),
            "steps": bad_counts(),
            "batch": bad_counts(),
            "peak_rate": bad_numbers(0),
            "nonsense": {"name": 3},
        },
    ),
    "compare": (
        compare,
        dict(flow=FLOW, reference=FLOW),
        {
            "flow": {
                **bad_flows(),
                "logits": [torch.randn(2, 2, 12, 12)] * 2,
                "heads": [maps(h=3)] * 2,
                "nan": [torch.full_like(W, NAN)] * 2,
            },
            "reference": bad_flows(),
            "nulls": {
                "text": "a",
                "number": 3,
                "wrong": {"a": 3},
                "sizes": {"a": [maps(t=5)] * 2},
                "layers": {"a": [W]},
                "surplus": {"a": [W] * 3},
            },
            "calibration": bad_flows(),
            "measures": {"nonsense": ["nonsense"], "text": "nonsense", "number": 3, "empty": []},
        },
    ),
    "skill": (
        skill,
        dict(score=0.9, null=0.5),
        {
            "score": {"nan": NAN, "text": "a", "none": None, "complex": 1j, "object": Odd(), "shapes": [1.0, 2.0]},
            "null": {"nan": NAN, "text": "a", "none": None, "one": 1.0, "complex": 1j, "object": Odd()},
        },
    ),
    "measure_heads": (
        measure_heads,
        dict(flow=FLOW, lattice=LATTICE),
        {
            "flow": {**bad_objects(), "tensor": U, "no maps": Flow([U] * 3)},
            "lattice": bad_lattices(),
            "radius": {**bad_numbers(0)},
        },
    ),
    "spectrum": (
        spectrum,
        dict(pde=EQUATION, t=0.5, u=U),
        {
            "pde": {**bad_objects(), "layer": torch.nn.Linear(2, 2)},
            "t": {**bad_numbers(), "beyond": 9.0, "before": -1.0},
            "u": bad_tensors(U),
            "mask": bad_masks(MASK),
            "arnoldi": bad_flags(),
        },
    ),
    "FieldJacobian": (
        FieldJacobian,
        dict(pde=EQUATION, t=0.5, u=U),
        {
            "pde": {**bad_objects(), "layer": torch.nn.Linear(2, 2)},
            "t": {**bad_numbers(), "beyond": 9.0, "before": -1.0},
            "u": bad_tensors(U),
            "mask": bad_masks(MASK),
        },
    ),
    "flow_map": (
        flow_map,
        dict(model=STATES, inputs=U),
        {
            "model": bad_models(),
            "inputs": {**bad_states(), "dict": {}, "names": {"nonsense": U}, "texts": ["a"]},
            "start": {**bad_counts(0), "beyond": 2, "bool": True, "none": None},
            "end": {**bad_counts(optional=True), "beyond": 3},
            "mask": bad_masks(MASK),
            "which": {"nonsense": "nonsense", "number": 3},
            **BAD_STEPS,
        },
    ),
    "flow_map of an equation": (
        flow_map,
        dict(model=CHANGING, inputs=U, substeps=1),
        {
            "inputs": bad_states(),
            "start": {**bad_numbers(), "beyond": 2.0, "before": -1.0},
            "end": {**bad_numbers(optional=True), "beyond": 3.0, "before": -1.0, "start": 0.0},
            "mask": bad_masks(MASK),
            "which": {"number": 3},
            **BAD_STEPS,
        },
    ),
    "FlowMap": (
        with_map,
        dict(function=torch.tanh, point=U),
        {
            "function": {
                **bad_objects(),
                "no path": lambda u: u.detach(),
                "ints": lambda u: u.long(),
                "shape": lambda u: u[:, :3],
                "text back": lambda u: "abc",
                "nan": lambda u: u * NAN,
            },
            "point": bad_states(),
            "mask": bad_masks(MASK),
            "depths": {"text": "ab", "number": 3, "one": (1,), "down": (2, 1), "same": (1, 1), "nan": (0, NAN)},
            "state": bad_states(),
            "vector": bad_states(),
            "covector": bad_states(),
        },
    ),
    "jacobian_spectrum": (
        jacobian_spectrum,
        dict(jacobian=MAP, count=2),
        {
            "jacobian": bad_maps(),
            "count": {**bad_counts(), "many": 97},
            "rounds": bad_counts(),
            "oversampling": bad_counts(0),
            "seed": BAD_SEEDS,
        },
    ),
    "influence": (
        influence,
        dict(jacobian=MAP),
        {"jacobian": bad_maps(), "draws": {**bad_counts(), "one": 1}, "seed": BAD_SEEDS},
    ),
    "perturbation_growth": (
        perturbation_growth,
        dict(flow_map=MAP),
        {
            "flow_map": bad_maps(),
            "sizes": {
                "text": "abc",
                "texts": ["a"],
                "number": 0.1,
                "nan": [0.1, NAN],
                "inf": [INF],
                "zero": [0.0],
                "negative": [-1.0],
                "empty": [],
                "complex": [1j],
                "none": None,
                "set": {0.1},
                "table": torch.ones(2, 2),
            },
            "direction": {**bad_tensors(U, True), "ints": U.long(), "zero": 0 * U},
            "token": {**bad_counts(0, True), "beyond": 12},
            "seed": BAD_SEEDS,
        },
    ),
    "lyapunov_exponents": (
        lyapunov_exponents,
        dict(flow_maps=MAPS),
        {
            "flow_maps": {
                **bad_maps(),
                "one map": MAP,
                "empty": [],
                "texts": ["a"],
                "depths": MAPS[::-1],
                "gap": [MAP, FlowMap(torch.tanh, U, depths=(1, 2))],
                "sizes": [MAP, FlowMap(torch.tanh, U[:1], depths=(1, 2))],
            },
            "count": {**bad_counts(), "many": 97},
            "rounds": bad_counts(),
            "oversampling": bad_counts(0),
            "seed": BAD_SEEDS,
        },
    ),
    "non_normality": (
        non_normality,
        dict(jacobian=MAP),
        {
            "jacobian": bad_maps(),
            "residual": {k: v for k, v in bad_flags().items() if k != "none"},
            "draws": {**bad_counts(), "one": 1},
            "rounds": bad_counts(),
            "seed": BAD_SEEDS,
        },
    ),
    "coupling": (
        coupling,
        dict(before=FOUND, after=FOUND),
        {name: {**bad_maps(), "map": MAP, "other size": OTHER} for name in ("before", "after")},
    ),
    "gradient_flow": (
        gradient_flow,
        dict(model=STATES, inputs=U, loss=torch.sum),
        {
            "model": bad_models(),
            "inputs": {**bad_states(), "dict": {}, "names": {"nonsense": U}},
            "loss": BAD_LOSSES,
            "mask": bad_masks(MASK),
            "which": {"nonsense": "nonsense", "number": 3},
            **BAD_STEPS,
        },
    ),
    "adjoint_gradient": (
        adjoint_gradient,
        dict(pde=HEAT, inputs=U, loss=torch.sum),
        {
            "pde": {**bad_objects(), "layer": torch.nn.Linear(2, 2)},
            "inputs": bad_states(),
            "loss": BAD_LOSSES,
            "checkpoints": {
                "text": "ab",
                "texts": ["a"],
                "number": 0.5,
                "start": [0.0],
                "end": [1.0],
                "beyond": [3.0],
                "nan": [NAN],
                "none": None,
                "table": torch.full((2, 2), 0.5),
            },
            "mask": bad_masks(MASK),
            "rtol": {**bad_numbers(0), "zero": 0},
            "atol": bad_numbers(0),
        },
    ),
    "measure_sensitivity": (
        measure_sensitivity,
        dict(model=STATES, inputs=U, count=1, rounds=1, draws=2, segment=6),
        {
            "model": bad_models(),
            "inputs": {**bad_states(), "dict": {}, "names": {"nonsense": U}, "uneven": {"u": U, "mask": MASK[:1]}},
            "count": {**bad_counts(), "many": 97},
            "rounds": bad_counts(),
            "draws": {**bad_counts(), "one": 1},
            "segment": bad_counts(),
            "at_once": bad_counts(optional=True),
            "max_bytes": {**bad_counts(), "few": 10},
            "mask": bad_masks(MASK),
            "which": {"nonsense": "nonsense", "number": 3},
            "seed": BAD_SEEDS,
            **BAD_STEPS,
        },
    ),
    "mutual_information": (
        mutual_information,
        dict(x=X, y=Y, method="gaussian", shuffles=2),
        {
            "x": bad_tensors(X),
            "y": bad_tensors(Y),
            "method": bad_options(),
            "labels": {"text": "no", "two": 2},
            "neighbours": bad_counts(),
            "shuffles": bad_counts(),
            "seed": {"half": 1.5, "text": "a", "negative": -1},
        },
    ),
    "check_estimator": (
        check_estimator,
        dict(x=X, y=Y, method="gaussian"),
        {
            "x": bad_tensors(X),
            "y": bad_tensors(Y),
            "method": bad_options(),
            "neighbours": bad_counts(),
            "seed": {"half": 1.5, "text": "a", "negative": -1},
        },
    ),
    "noisy_information": (
        noisy_information,
        dict(states=X, sigma=0.5, draws=4),
        {**BAD_NOISE, "sigma": {**bad_numbers(0), "zero": 0, "list": [0.1, 1.0]}, "relative": bad_flags()},
    ),
    "half_information_noise": (half_information_noise, dict(states=X, draws=4), BAD_NOISE),
    "usable_information": (usable_information, dict(states=X, target=TARGET, permutations=1), bad_probes(X)),
    "conditional_usable_information": (
        conditional_usable_information,
        dict(states=X, given=Y, target=TARGET, permutations=1),
        {**bad_probes(X), "given": {**bad_tensors(Y), "few": Y[:10], "ints": Y.long()}},
    ),
    "equation_of": (
        equation_of,
        dict(model=MODEL, lattice=Grid(7, 7)),
        {"model": {**bad_objects(), "layer": torch.nn.Linear(2, 2)}, "lattice": bad_lattices(True)},
    ),
    "flow_of": (
        flow_of,
        dict(model=MODEL, inputs=PICTURES),
        {
            "model": {**bad_objects(), "layer": torch.nn.Linear(28, 2)},
            "inputs": {
                "text": "a",
                "number": 3,
                "none": None,
                "empty": PICTURES[:0],
                "shape": PICTURES[..., :5],
                "floats": PICTURES.float(),
                "dict": {},
                "names": {"nonsense": PICTURES},
                "uneven": {"inputs": PICTURES, "mask": MASK[:1]},
            },
            "batch": bad_counts(),
            "device": bad_options(True),
            "keep": bad_options(),
            "attention": bad_options(True),
        },
    ),
    "capture": (
        around(capture),
        dict(model=MODEL),
        {
            "model": {**bad_objects()},
            "attention": bad_options(True),
            "layers": {"far": [9], "text": "abc", "half": [0.5], "empty": [], "number": 1},
            "states": bad_flags(),
            "device": bad_options(True),
            "dtype": {"text": "abc", "int": torch.int64, "number": 3},
            "max_bytes": {**bad_counts()},
            "positions": {"text": "abc"},
            "nonsense": {"name": 3},
        },
    ),
    "substitute_attention": (
        around(substitute_attention),
        dict(model=MODEL, attention=[torch.full((49, 49), 1 / 49)] * 2),
        {
            "model": {**bad_objects()},
            "attention": {
                "text": "ab",
                "number": 3,
                "none": None,
                "few": [torch.full((49, 49), 1 / 49)],
                "surplus": [torch.full((49, 49), 1 / 49)] * 3,
                "shape": [torch.ones(5, 5)] * 2,
                "nan": [torch.full((49, 49), NAN)] * 2,
                "rows": [torch.ones(49, 49)] * 2,
                "negative": [-torch.full((49, 49), 1 / 49)] * 2,
            },
            "layers": {"far": [9], "text": "abc", "half": [0.5], "number": 1},
            "which": {"nonsense": "nonsense", "number": 3},
        },
    ),
    "Heads": (
        Heads,
        dict(values={"a": torch.zeros(2, 2)}),
        {"values": {**bad_objects(), "shapes": {"a": torch.zeros(2, 2), "b": torch.zeros(3)}, "texts": {"a": "b"}}},
    ),
}


# What is let in, and why that is right.
MEANT = {
    "laplacian.u.nan": "spreads like any number",
    "laplacian.u.inf": "spreads like any number",
    "laplacian.u.empty": "no examples, no differences",
    "laplacian.u.rank-": "leading axes are free",
    "laplacian.u.rank+": "leading axes are free",
    "laplacian.u.size+": "any width",
    "laplacian.mask.rank-": "one mask for all examples",
    "laplacian.mask.none-real": "nothing flows in padding",
    "*.query.rank-": "leading axes broadcast",
    "*.query.rank+": "leading axes broadcast",
    "*.key.rank-": "leading axes broadcast",
    "*.key.rank+": "leading axes broadcast",
    "*.query_a.rank-": "leading axes broadcast",
    "*.key_b.rank-": "leading axes broadcast",
    "*.value.rank-": "leading axes broadcast",
    "*.value.size+": "any width of values",
    "*.value.nan": "spreads like any number",
    "*.value.inf": "spreads like any number",
    "*.mask.none-real": "such rows are documented as NaN",
    "*.positions.nan": "every token special",
    "*.special.none-real": "no token special",
    "*.within.inf": "all that is on the lattice",
    "*.weights.rank-": "leading axes are free",
    "*.weights.rank+": "leading axes are free",
    "*.weights.rows": "rows are normalised, as documented",
    "compare.flow.nan": "spreads like any number",
    "compare.flow.no states": "maps alone are compared",
    "compare.reference.no states": "maps alone are compared",
    "compare.calibration.no states": "maps alone are compared",
    "compare.calibration.none": "it may be left out",
    "compare.measures.empty": "no measure was wanted",
    "skill.score.nan": "spreads like any number",
    "skill.score.shapes": "shapes broadcast",
    "skill.null.nan": "spreads like any number",
    "skill.null.one": "documented: nothing is left to make up",
    "gradient_flow.model.dropout": "the gradient of the pass that was made",
    "FlowMap.state.half": "carried on in the map's own type",
    "FlowMap.state.bfloat": "carried on in the map's own type",
    "*.vector.half": "carried on in the map's own type",
    "*.vector.bfloat": "carried on in the map's own type",
    "*.covector.half": "carried on in the map's own type",
    "*.covector.bfloat": "carried on in the map's own type",
    "flow_of.keep.none": "stays where it is",
    "*.states.size+": "any width",
    "*.given.size+": "any width",
    # The model's own words are the clearest.
    "flow_of.model.layer": "the model's own error",
    "flow_of.inputs.names": "the model's own error",
}
MEANT |= {key.replace("laplacian", "gradient"): why for key, why in MEANT.items() if key.startswith("laplacian")}
MET: set[str] = set()


def meant(name, argument, kind):
    for key in (f"{name}.{argument}.{kind}", f"*.{argument}.{kind}"):
        if key in MEANT:
            MET.add(key)
            return True
    return False


def answer(call, given):
    """Return what a call says: nothing, a sentence of this library's, or what came from somewhere inside."""
    try:
        call(**given)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        clear = isinstance(error, ValueError | TypeError | pdelens.CaptureError | pdelens.StepError | pdelens.FitError)
        if clear and "pdelens" in where and len(str(error)) > 20:
            return "clear"
        return f"{type(error).__name__}: {error}"
    return "let in"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_a_clear_sentence(name):
    call, good, arguments = CASES[name]
    call(**good)
    wrong = [
        f"{argument}={kind}: {found}"
        for argument, values in arguments.items()
        for kind, value in values.items()
        if (found := answer(call, {**good, argument: value})) != "clear" and not meant(name, argument, kind)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_has_every_public_function_and_more_than_600_calls():
    results = {
        "AttentionStatistics",
        "Estimate",
        "Fit",
        "HalfNoise",
        "NoisyInformation",
        "Report",
        "UsableInformation",
    }  # made by the library, not by its users
    errors = {
        n
        for n in pdelens.__all__
        if inspect.isclass(getattr(pdelens, n)) and issubclass(getattr(pdelens, n), Exception)
    }
    assert set(pdelens.__all__) - results - errors == {name for name in CASES if " " not in name}
    assert sum(len(values) for _, _, arguments in CASES.values() for values in arguments.values()) > 1000


def test_arrays_and_lists_are_welcome_where_tensors_are():
    torch.testing.assert_close(laplacian(U.numpy(), LATTICE), laplacian(U, LATTICE))
    torch.testing.assert_close(gradient(U.tolist(), LATTICE), gradient(U, LATTICE))
    found = attention_statistics(Q.numpy(), K.tolist(), LATTICE)
    torch.testing.assert_close(found.entropy, attention_statistics(Q, K, LATTICE).entropy)
    one, other = integrate(EQUATION, U.numpy(), [0, 1]), integrate(EQUATION, U, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(one.states[-1], other.states[-1])
    made = Flow([U.numpy()] * 3, [W.numpy()] * 2, mask=MASK.numpy().astype(int))
    assert compare([W.numpy()] * 2, made).headline() > 0.999
    assert flow_of(MODEL, PICTURES.numpy()).examples == 2
