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


@pytest.mark.data(fetch.MINILM, fetch.SMOLLM2, fetch.DINOV2)
@torch.no_grad()
def test_the_three_models_fit_their_lattices():
    subjects = atlas_subjects.load()
    generator = torch.Generator().manual_seed(0)
    given = {
        name: {"input_ids": torch.randint(5, 900, (2, n), generator=generator)}
        for name, n in (("MiniLM", 32), ("SmolLM2", 64))
    }
    given["DINOv2"] = {"pixel_values": torch.randn(2, 3, 224, 224, generator=generator)}
    sizes = {"MiniLM": (6, 12), "SmolLM2": (30, 9), "DINOv2": (12, 6)}
    for name, subject in subjects.items():
        trained, twin = (flow_of(model, given[name]) for model in (subject.trained, subject.twin))
        assert (trained.layers, trained.heads) == sizes[name] and trained.tokens == subject.lattice.tokens
        assert trained.causal == subject.lattice.causal
        # The twin is the same architecture, and looks at all that it may see nearly alike.
        seen = twin.allowed(0).to(twin.attention[0])
        even = seen / seen.sum(-1, keepdim=True)
        far = [[float((maps - even).abs().sum(-1).mean()) for maps in flow.attention] for flow in (trained, twin)]
        assert max(far[1]) < 0.5 * max(far[0]) and trained.attention[0].shape == twin.attention[0].shape
    assert {name: subject.group for name, subject in subjects.items()} == {"MiniLM": 1, "SmolLM2": 1, "DINOv2": 2}
