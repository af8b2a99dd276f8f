import math

import pytest
import torch
from linear import linear, random

from pdelens.lattice import Chain
from pdelens.models import Configuration, Transformer
from pdelens.pde.equation import PDE
from pdelens.pde.terms import Diffusion
from pdelens.sensitivity import normality, singular, survey
from pdelens.sensitivity.flow_map import flow_map
from pdelens.sensitivity.growth import lyapunov_exponents
from pdelens.sensitivity.normality import coupling, non_normality
from pdelens.sensitivity.singular import influence, jacobian_spectrum
from pdelens.sensitivity.survey import measure_sensitivity, memory_of_example


def small(layers=3, **more):
    settings = Configuration(vocabulary=20, length=6, width=8, heads=2, layers=layers, outputs=2, **more)
    tokens = torch.randint(1, 20, (5, 6), generator=torch.Generator().manual_seed(1))
    return Transformer(settings, seed=3).double(), tokens


@pytest.fixture(scope="module")
def surveyed():
    model, tokens = small()
    return model, tokens, measure_sensitivity(model, tokens, count=3, at_once=2)


def test_each_measure_is_the_one_of_its_own_function(surveyed):
    model, tokens, found = surveyed
    maps = [flow_map(model, tokens, depth, depth + 1) for depth in range(3)]
    spectra = [jacobian_spectrum(one, 3) for one in maps]
    for depth, one in enumerate(maps):
        torch.testing.assert_close(found.layers.value[depth], spectra[depth].values)
        for name in ("departure", "asymmetry", "abscissa"):
            torch.testing.assert_close(getattr(found, name).value[depth], getattr(non_normality(one), name).value)
    for depth in range(2):
        met = coupling(spectra[depth], spectra[depth + 1])
        torch.testing.assert_close(found.coupling.overlap[depth], met.overlap)
        torch.testing.assert_close(found.coupling.chance, met.chance)
    whole = flow_map(model, tokens)
    torch.testing.assert_close(found.whole.value, jacobian_spectrum(whole, 3).values)
    exponents = lyapunov_exponents(maps, 3, rounds=40, oversampling=8)
    torch.testing.assert_close(found.exponents.value, exponents, rtol=1e-4, atol=1e-5)
    squares = whole.matrix().view(5, 6, 8, 6, 8).square().sum((2, 4)).sqrt()
    off = (found.influence.value - squares).abs()
    assert bool((off <= 8 * found.influence.error + 0.5 * squares).all()) and found.influence.value.shape == (5, 6, 6)


def test_examples_are_measured_alike_in_parts_and_together(surveyed):
    model, tokens, parts = surveyed
    together = measure_sensitivity(model, tokens, count=3)
    assert (parts.at_once, together.at_once) == (2, 5) and together.announced == 5 * parts.announced // 2
    for name in ("layers", "whole", "exponents", "departure", "abscissa", "coupling"):
        torch.testing.assert_close(getattr(parts, name)[0], getattr(together, name)[0], msg=name)


def test_a_row_of_maps_is_the_map_of_all(monkeypatch):
    model, tokens = small()
    maps = [flow_map(model, tokens, depth, depth + 1) for depth in range(3)]
    row, whole = survey.Row(maps), flow_map(model, tokens)
    v = random(5, 6, 8)
    torch.testing.assert_close(row.jvp(v), whole.jvp(v))
    torch.testing.assert_close(row.vjp(v), whole.vjp(v))
    torch.testing.assert_close(row.matrix(), whole.matrix())


def test_influence_of_segments_is_that_of_their_tokens_together():
    model, tokens = small()
    one = flow_map(model, tokens)
    blocks = one.matrix().view(5, 6, 8, 6, 8).square().sum((2, 4))
    exact, none = influence(one, draws=32, segment=4)
    expected = torch.stack([blocks[..., :4].sum(-1), blocks[..., 4:].sum(-1)], -1).sqrt()
    torch.testing.assert_close(exact, expected)
    assert not none.any() and exact.shape == (5, 6, 2)
    found, error = influence(one, draws=31, segment=4)
    assert bool(((found - expected).abs() < 6 * error).all()) and error.min() > 0


@pytest.mark.parametrize("random_signs", [False, True])
def test_an_equation_is_surveyed_by_units_of_its_depth(random_signs, monkeypatch):
    if random_signs:
        monkeypatch.setattr(singular, "DENSE", 1)
        monkeypatch.setattr(normality, "DENSE", 1)
    heat = PDE({"diffusion": Diffusion(Chain(3), 1, 1.0)}, Chain(3), depth=2).double()
    found = measure_sensitivity(heat, random(2, 3, 1), count=2, substeps=16, rounds=6)
    torch.testing.assert_close(found.exponents.value, torch.tensor([[0.0, -1.0]] * 2).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.layers.value[1, 0], torch.tensor([1.0, math.exp(-1)]).double(), atol=1e-4, rtol=0)
    assert found.asymmetry.value.max() < 1e-9, "heat is symmetric"
    torch.testing.assert_close(found.coupling.overlap, torch.ones(1, 2).double())
    turn = measure_sensitivity(linear(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double(), 2.0), random(1, 2, 2), count=2)
    assert turn.exponents.value.abs().max() < 1e-3 and turn.departure.value.max() < 1e-6


def test_padding_is_as_if_it_were_not_there():
    model, tokens = small()
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    padded = measure_sensitivity(model, {"inputs": tokens[:2], "mask": mask}, count=2)
    alone = measure_sensitivity(model, tokens[:2, :4], count=2)
    for name in ("layers", "whole", "exponents", "departure", "asymmetry", "abscissa", "coupling"):
        for ours, theirs in zip(getattr(padded, name), getattr(alone, name), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-6, msg=name)
    torch.testing.assert_close(padded.influence.value[:, :4, :4], alone.influence.value)
    assert not padded.influence.value[:, 4:].any()


def test_memory_is_counted_before_anything_is_measured_and_grows_with_what_is_held(monkeypatch):
    model, tokens = small()
    one = memory_of_example(model, tokens)
    assert one == memory_of_example(model, tokens[3:]), "an example of the same size takes the same"
    assert memory_of_example(*small(6)) > 1.3 * one
    assert memory_of_example(model, tokens[:, :3]) < one
    monkeypatch.setattr(survey, "_measured", lambda *about: pytest.fail("measured all the same"))
    with pytest.raises(
        ValueError, match=f"1 at once will need about {one:,} bytes beside the model, past the limit of"
    ):
        measure_sensitivity(model, tokens, max_bytes=one - 1)
    with pytest.raises(ValueError, match="3 at once will need"):
        measure_sensitivity(model, tokens, max_bytes=2 * one, at_once=3)


def test_as_many_as_fit_are_measured_at_once():
    model, tokens = small(1)
    each = memory_of_example(model, tokens, count=2, rounds=1)
    found = measure_sensitivity(model, tokens, count=2, rounds=1, max_bytes=3 * each + 1)
    assert found.at_once == 3 and found.announced == 3 * each and found.whole.value.shape == (5, 2)
    assert found.coupling.overlap.shape == (0, 5), "one layer has no next"


def test_a_models_parameters_are_not_counted():
    """Wide layers and two tokens: a layer's weights, which its graph saves too, are far more than its states."""
    model = Transformer(Configuration(vocabulary=20, length=6, width=64, heads=2, layers=1, outputs=2))
    weights = sum(one.numel() * one.element_size() for one in model.blocks.parameters())
    assert memory_of_example(model, torch.ones(1, 2, dtype=torch.long), count=1, rounds=1) < weights / 2


def test_a_bar_states_the_memory(monkeypatch):
    seen = {}

    class Bar:
        def __init__(self, **about):
            seen.update(about, done=0.0)

        def __enter__(self):
            return self

        def __exit__(self, *about):
            return None

        def update(self, share):
            seen["done"] += share

    monkeypatch.setattr(survey, "tqdm", Bar)
    model, tokens = small()
    measure_sensitivity(model, tokens, count=2, at_once=2)
    assert seen["delay"] == 2 and "2 at once in" in seen["desc"] and "GiB" in seen["desc"]
    assert seen["total"] == 3 and seen["done"] == pytest.approx(3), "shares of the work add up"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"count": 0}, "count=0 was given"),
        ({"count": 49}, "the smallest state has 48 real entries"),
        ({"draws": 1}, "draws=1 was given"),
        ({"at_once": 0}, "at_once=0 was given"),
        ({"max_bytes": 0}, "max_bytes=0 was given"),
        ({"segment": 0}, "segment=0 was given"),
        ({"inputs": {"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)}}, r"inputs of \[2, 3\] examples were given"),
        ({"model": None}, "a torch module, or an equation"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(given, sentence):
    model, tokens = small(1)
    with pytest.raises((ValueError, TypeError), match=sentence):
        measure_sensitivity(**{"model": model, "inputs": tokens, **given})


def test_a_model_with_tokens_first_is_told_apart():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with pytest.raises(ValueError, match="their first axis is to count examples"):
        measure_sensitivity(model, {"src": random(6, 3, 8, dtype=torch.float32)}, at_once=6)
