from types import SimpleNamespace

import pytest
import torch

from companion import fetch
from companion.pretrained import atlas_subjects
from companion.pretrained.atlas_subjects import Subject
from pdelens import Chain, flow_of
from pdelens.models import Configuration, Transformer


def words(texts):
    return [len(text.split()) for text in texts]


def encode(texts, tokens):
    numbers = [[int(word) for word in text.split()[:tokens]] for text in texts]
    return {"inputs": torch.tensor(numbers)}


@pytest.fixture(scope="module")
def subject():
    about = Configuration(vocabulary=50, length=8, layers=2, heads=2, width=16, outputs=2)
    known = SimpleNamespace(lengths=words, encode=encode)
    pair = Transformer(about, 0).eval(), Transformer(about, 1).eval()
    return Subject("small", fetch.MINILM, known, *pair, Chain(8))


def texts(lengths):
    """Texts whose words are their own number."""
    return [" ".join([str(number)] * length) for number, length in enumerate(lengths)]


def test_openings_are_cut_to_one_length_and_need_no_padding(subject):
    given = texts([20, 3, 8, 7, 12, 9, 8, 2])
    found = atlas_subjects.openings(subject, given, 5, torch.Generator().manual_seed(0))["inputs"]
    assert found.shape == (5, 8) and set(found[:, 0].tolist()) == {0, 2, 4, 5, 6}
    assert bool((found == found[:, :1]).all())


def test_the_generator_draws_which_texts(subject):
    given = texts([9] * 40)
    first, again, other = (
        atlas_subjects.openings(subject, given, 10, torch.Generator().manual_seed(seed))["inputs"][:, 0].tolist()
        for seed in (0, 0, 1)
    )
    assert first == again != other and len(set(first)) == 10 and first != list(range(10))


def test_too_few_long_texts_are_refused(subject):
    with pytest.raises(ValueError, match="2 texts of 8 tokens were asked for, of which there are 1"):
        atlas_subjects.openings(subject, texts([9, 3, 3]), 2, torch.Generator())
    # No more than twelve times as many as are wanted are looked at.
    with pytest.raises(ValueError, match="of which there are 0"):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
        lengths = [9 if number in order[12:] else 3 for number in range(40)]
        atlas_subjects.openings(subject, texts(lengths), 1, torch.Generator().manual_seed(0))


def test_flows_of_a_model_and_its_twin_are_split_at_the_calibration(subject):
    inputs = {"inputs": torch.randint(1, 50, (20, 8), generator=torch.Generator().manual_seed(0))}
    found = atlas_subjects.captured({"small": subject}, {"small": inputs}, {"small": (17, 3)}, "cpu")
    assert found.keys() == {("small", "trained"), ("small", "twin")}
    for state, (calibration, heldout) in ((state, pair) for (_, state), pair in found.items()):
        whole = flow_of(getattr(subject, state), inputs)
        assert (calibration.examples, heldout.examples) == (17, 3)
        for layer, maps in enumerate(whole.attention):
            assert torch.allclose(calibration.attention[layer], maps[:17], atol=1e-6)
            assert torch.allclose(heldout.attention[layer], maps[17:], atol=1e-6)
    trained, twin = (found["small", state][1].attention[0] for state in ("trained", "twin"))
    assert not torch.allclose(trained, twin, atol=1e-3)


def test_every_model_stands_beside_its_twin_on_its_lattice(monkeypatch):
    def stub(name):
        def model(trained=True, seed=0):
            state = "trained" if trained else f"twin {seed}"
            return SimpleNamespace(model=SimpleNamespace(name=f"{name} {state}", model=f"body of {name} {state}"))

        return model

    for name in ("minilm", "smollm2", "dinov2"):
        monkeypatch.setattr(atlas_subjects.models, name, stub(name))
    subjects = atlas_subjects.load(twin_seed=3)
    text, language, image = (subjects[name] for name in ("MiniLM", "SmolLM2", "DINOv2"))
    assert (text.trained.name, text.twin.name) == ("minilm trained", "minilm twin 3")
    assert (image.trained.name, image.twin.name) == ("dinov2 trained", "dinov2 twin 3")
    # The layers alone, without the vocabulary.
    assert (language.trained, language.twin) == ("body of smollm2 trained", "body of smollm2 twin 3")
    assert [subject.known.model.name.split()[0] for subject in subjects.values()] == ["minilm", "smollm2", "dinov2"]
    lattices = [subject.lattice for subject in subjects.values()]
    assert [(lattice.special, lattice.tokens, lattice.causal) for lattice in lattices] == [
        ((1, 1), 32, False),
        ((1, 0), 64, True),
        ((1, 0), 257, False),
    ]
    assert [subject.group for subject in subjects.values()] == [1, 1, 2]
    packages = [fetch.MINILM, fetch.SMOLLM2, fetch.DINOV2]
    assert [subject.package for subject in subjects.values()] == packages
