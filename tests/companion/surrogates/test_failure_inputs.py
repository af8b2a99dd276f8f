from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from companion.data import corruptions
from companion.surrogates import failure_inputs as inputs
from companion.surrogates.failure_inputs import Correlation
from companion.teachers.teacher import Teacher
from pdelens import Flow
from pdelens.lattice import Chain, Grid
from pdelens.models import Configuration, Transformer
from pdelens.pde.parity import equation_of

COUNT, KNOWN = 6, 12


def teacher_of(model, lattice, given, labels, layers=3):
    """Return a teacher of examples, the first of which are held out."""
    splits = {"heldout": slice(COUNT), "calibration": slice(COUNT, COUNT + KNOWN)}

    def read(split, count=None):
        if isinstance(given, dict):
            return {name: values[splits[split]][:count] for name, values in given.items()}, labels[splits[split]][
                :count
            ]
        return given[splits[split]][:count], labels[splits[split]][:count]

    return Teacher("small", model.eval(), lattice, 8, 2, layers, read)


@pytest.fixture(scope="module")
def pictures():
    model = Transformer(Configuration(width=8, layers=3, heads=2, side=28, patch=7, outputs=4), seed=0)
    random = torch.Generator().manual_seed(0)
    given = torch.randint(0, 256, (COUNT + KNOWN, 28, 28), generator=random, dtype=torch.uint8)
    return teacher_of(model, Grid(4, 4), given, torch.arange(COUNT + KNOWN) % 4)


@pytest.fixture(scope="module")
def texts():
    model = Transformer(Configuration(width=8, layers=3, heads=2, vocabulary=4096, length=10, outputs=2), seed=0)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 30, (COUNT + KNOWN, 10), generator=random)
    mask = torch.arange(10) < torch.tensor([4 + number % 5 for number in range(COUNT + KNOWN)])[:, None]
    given = {"inputs": tokens * mask, "mask": mask}
    return teacher_of(model, Chain(10), given, torch.arange(COUNT + KNOWN) % 2)


def test_what_is_known_of_pictures(pictures):
    flow, calibration = pictures.of("heldout", 5), pictures.of("calibration")
    found = inputs.known_of(pictures, flow, calibration)
    given, labels = pictures.inputs("heldout", 5)
    for number, (picture, label) in enumerate(zip(given, labels, strict=True)):
        logits = pictures.model(picture[None])[0].tolist()
        first, second, *_ = sorted(logits, reverse=True)
        assert found["margin of the teacher"][number] == pytest.approx(first - second, abs=1e-5)
        assert found["teacher is right"][number] == (logits.index(first) == int(label))
        assert found["mean grey value"][number] == pytest.approx(picture.double().mean().item(), rel=1e-5)
        maps = torch.stack([attention[number] for attention in flow.attention]).double()
        wanted = -(maps * maps.log()).sum(-1).mean().item() / np.log(16)
        assert found["entropy of its attention"][number] == pytest.approx(wanted, rel=1e-4)


def test_of_texts_their_length_is_known(texts):
    found = inputs.known_of(texts, texts.of("heldout"), texts.of("calibration"))
    assert found["number of tokens"].tolist() == [4 + number % 5 for number in range(COUNT)]
    assert "mean grey value" not in found and all(len(values) == COUNT for values in found.values())


def test_rank_correlations_are_scipys():
    random = np.random.default_rng(0)
    first = random.normal(size=40)
    second = first + random.normal(size=40)
    found, wanted = inputs.rank_correlation(first, second), spearmanr(first, second)
    assert found.rho == pytest.approx(wanted.statistic) and found.p == pytest.approx(wanted.pvalue)
    low, high = found.interval
    assert low < found.rho < high and 0.1 < high - low < 0.8
    assert inputs.rank_correlation(first, np.ones(40)).rho == 0
    assert inputs.rank_correlation(first, -first).p < 1e-9


@pytest.mark.parametrize("p", [[0.01, 0.02, 0.9], [0.03, 0.03, 0.03], [0.01, 0.04, 0.06, 0.9], [0.2, 0.001]])
def test_what_is_kept_goes_by_benjamini_and_hochberg(p):
    """The largest k whose k-th smallest p is at most k/m of the rate keeps all up to it."""
    ordered = sorted(p)
    last = max((value for k, value in enumerate(ordered, 1) if value <= 0.05 * k / len(p)), default=-1.0)
    found = inputs.clear({number: Correlation(0.5, (0, 1), value) for number, value in enumerate(p)})
    assert found == {number: value <= last for number, value in enumerate(p)}


def cosine(ours, theirs):
    return float((ours * theirs).sum() / (ours.norm() * theirs.norm()))


def looked_up(flow, calibration, near):
    """Return the mean cosine with the mean of the nearest maps, by a loop over examples, layers and heads."""
    found = []
    for example, neighbours in enumerate(near.tolist()):
        for maps, known in zip(flow.attention, calibration.attention, strict=True):
            mean = known[neighbours].mean(0)
            found.append([cosine(*pair) for pair in zip(mean, maps[example], strict=True)])
    return np.array(found)


def test_nulls_of_single_examples(pictures):
    flow, calibration = pictures.of("heldout"), pictures.of("calibration")
    near = torch.tensor([[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]])
    found = inputs.null_cosines(calibration, flow, near)
    assert found["look-up"] == pytest.approx(looked_up(flow, calibration, near).mean(), abs=1e-5)
    every = torch.arange(KNOWN).expand(COUNT, KNOWN)
    assert found["mean map"] == pytest.approx(looked_up(flow, calibration, every).mean(), abs=1e-5)
    assert found["mean map"] != pytest.approx(found["look-up"], abs=1e-4)
    own = inputs.null_cosines(flow, flow, torch.arange(COUNT)[:, None])
    assert own["look-up"] == pytest.approx(1, abs=1e-5)


def test_the_layer_that_agrees_least(attention):
    maps = [attention(batch=3, heads=2, tokens=4, seed=layer) for layer in range(3)]
    states = [torch.zeros(3, 4, 2)] * 4
    others = [maps[0], maps[1].flip(-1), 0.9 * maps[2] + 0.1 / 4]
    assert inputs.least_alike(Flow(states=states, attention=others), Flow(states=states, attention=maps)) == 1


def test_the_worst_come_first_and_then_the_usual():
    values = np.array([0.5, 0.1, 0.52, 0.9, 0.0, 0.95, 0.51, 0.2, 0.8, 0.3])
    # 40th and 60th percentile: .42 and .512.
    assert inputs.worst_and_usual(values) == [4, 1, 0, 6]
    assert inputs.worst_and_usual(values, 1) == [4, 0]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_every_shift_shown_is_of_one_group(kind, pictures, texts):
    teacher = {"image": pictures, "text": texts}[kind]
    found = inputs.changed_inputs(teacher, kind, 4)
    plain = teacher.inputs("heldout", 4)[0]
    plain = plain if kind == "image" else plain["inputs"]
    assert next(iter(found)) == inputs.UNCHANGED and torch.equal(found[inputs.UNCHANGED], plain)
    known = corruptions.corruptions(kind)
    groups = Counter()
    for name, changed in list(found.items())[1:]:
        group = inputs.group_of(kind, name)
        assert known[name].family in inputs.GROUPS[group] and known[name].level in (None, 2, 5)
        assert changed.shape == plain.shape and torch.equal(changed, known[name](plain, 0))
        groups[group] += 1
    assert groups == (
        {"grey values": 7, "moved, turned, covered": 6, "shuffled": 1, "another source": 2}
        if kind == "image"
        else {"shuffled": 1, "another source": 1}
    )
    assert inputs.group_of(kind, inputs.UNCHANGED) == inputs.UNCHANGED


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_teacher_follows_itself_wherever_it_goes(kind, pictures, texts):
    """With the teacher's own blocks as one field, one step a layer; the other way is half a step ahead."""
    teacher = {"image": pictures, "text": texts}[kind]
    field = equation_of(teacher.model, teacher.lattice).requires_grad_(False)
    exact, other = {"method": "lie", "substeps": 1}, {"method": "lie", "substeps": 2}
    calibration = teacher.of("calibration")
    found = inputs.judged_shifts(
        teacher, kind, calibration, {"converged": (field, other), "one step": (field, exact)}, 4
    )
    changed = inputs.changed_inputs(teacher, kind, 4)
    assert list(found) == list(changed)
    for name, shift in found.items():
        assert shift.values["one step"] == pytest.approx(1, abs=1e-4)
        assert shift.values["cosine"] < shift.values["one step"] + 1e-6
        low, high = shift.interval
        assert low <= shift.values["cosine"] + 1e-6 and high >= shift.values["cosine"] - 1e-6
        assert (shift.values["moved"] < 1e-6) == (name == inputs.UNCHANGED)
        assert set(inputs.NULLS) <= shift.values.keys()
    assert found[inputs.UNCHANGED].values["unchanged map"] == pytest.approx(1, abs=1e-5)


def test_a_look_up_is_near_to_the_changed_picture(pictures):
    field = equation_of(pictures.model, pictures.lattice).requires_grad_(False)
    ways = dict.fromkeys(("converged", "one step"), (field, {"method": "lie", "substeps": 1}))
    calibration = pictures.of("calibration")
    found = inputs.judged_shifts(pictures, "image", calibration, ways, 4)
    pixels = pictures.inputs("calibration")[0].double().flatten(1)
    for name in ("inversion", "pure noise"):
        changed = inputs.changed_inputs(pictures, "image", 4)[name]
        distances = [((pixels - one) ** 2).sum(1) for one in changed.double().flatten(1)]
        near = torch.stack([distance.argsort()[:5] for distance in distances])
        rows = looked_up(pictures.flow(changed), calibration, near)  # (examples x layers, heads)
        wanted = rows.reshape(4, 3, 2).mean((0, 2)).min()
        assert found[name].values["look-up"] == pytest.approx(wanted, abs=1e-5)
