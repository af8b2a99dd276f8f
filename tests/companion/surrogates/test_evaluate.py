from dataclasses import replace

import numpy as np
import pytest
import torch

from companion.data import corruptions
from companion.surrogates import evaluate
from companion.surrogates.sweep import NULL_NAMES
from companion.teachers import teacher
from pdelens import Chain, TransformerPDE, flow_of, models
from pdelens.agreement import measures
from pdelens.agreement.nulls import nearest_maps, uniform
from pdelens.pde.parity import equation_of

ONE = {"1": {"method": "lie", "substeps": 1}}


@pytest.fixture(scope="module")
def image():
    return teacher.teacher_named("image-patch4-seed0")


@pytest.fixture(scope="module")
def flows(image):
    return image.of("heldout", 24), image.of("calibration", 24)


def test_the_subject_itself_is_judged_perfect(image, flows):
    found = evaluate.evaluate_flow(flows[0], image, *flows, image.inputs("heldout", 24)[1])
    assert np.allclose(found["cosine"], 1, atol=1e-5) and np.allclose(found["centred cosine"], 1, atol=1e-4)
    assert np.allclose(found["read"], 1, atol=1e-5) and np.allclose(found["r2 pooled"], 1) and found["classes"] == 1
    pictures, labels = image.inputs("heldout", 24)
    with torch.no_grad():
        right = (image.model(pictures).argmax(-1) == labels).double().mean()
    assert found["accuracy"] == pytest.approx(float(right))


def test_its_own_blocks_match_at_one_step_and_not_when_refined(image, flows):
    """The piecewise field taken from the weights is the Transformer at one Lie step a layer, heads as they are."""
    plain = teacher.replace(image, orders=())
    reference, calibration = plain.of("heldout", 12), plain.of("calibration", 12)
    pde = equation_of(image.model)
    resolutions = {name: evaluate.RESOLUTIONS[name] for name in ("1", "4")}
    found = evaluate.evaluate(pde, plain, reference, calibration, resolutions)
    assert evaluate.headline(found["1"]) > 0.9999 and found["1"]["classes"] == 1
    assert evaluate.headline(found["4"]) < 0.97


def test_an_equation_without_attention_is_judged_by_what_the_subjects_heads_read(image, flows):
    pde = TransformerPDE(64, 4, image.lattice, depth=6, epsilon=1e-5, attention=False, reaction=False)
    found = evaluate.evaluate(pde, image, *flows, ONE)["1"]
    assert "cosine" not in found and np.shape(found["read"]) == (6, 4)
    assert np.isnan(evaluate.headline(found))
    # Maps read off at depth 0 are the teacher's own: its state there is given.
    assert np.allclose(found["read"][0], 1, atol=1e-5) and np.mean(found["read"][5]) < 0.9


def test_divergence_is_recorded_and_does_not_stop_the_others(image, flows):
    pde = TransformerPDE(64, 4, image.lattice, depth=6, epsilon=1e-5, diffusion=1e4, attention=False, reaction=False)
    resolutions = {"explicit": {"method": "heun", "substeps": 1}, **ONE}
    found = evaluate.evaluate(pde, image, *flows, resolutions)
    assert "diverged" in found["explicit"] and "r2 pooled" in found["1"]


def test_nulls_and_ceiling_by_layer_and_head(image, flows):
    reference, calibration = flows
    other = teacher.teacher_named("image-patch4-seed1")
    others = other.of("calibration", 24), other.of("heldout", 24)
    found = evaluate.nulls_of(reference, calibration, reference, others, image.nearest("heldout", 24, 24))
    assert tuple(found["attention"]) == NULL_NAMES
    pairs = zip(uniform(reference), reference.attention, strict=True)
    mine = [measures.cosine(even, maps).mean(0) for even, maps in pairs]
    assert np.allclose(found["attention"]["uniform"], torch.stack(mine), atol=1e-6)
    assert np.shape(found["ceiling"]["cosine"]) == (6, 4) and np.max(found["ceiling"]["cosine"]) < 0.999
    assert found["states"].keys() == found["states pooled"].keys() and "nearest neighbours" in found["states"]
    assert all(np.shape(found[part]["nearest neighbours"]) == (6,) for part in ("states", "states pooled"))
    looked_up = nearest_maps(calibration, image.nearest("heldout", 24, 24), reference)
    mine = [measures.cosine(a, b).mean(0) for a, b in zip(looked_up, reference.attention, strict=True)]
    assert np.allclose(found["attention"]["nearest neighbours"], torch.stack(mine), atol=1e-6)


def test_energy_budget_shares_add_up_and_are_the_terms(image, flows):
    pde = TransformerPDE(64, 4, image.lattice, depth=6, epsilon=1e-5)
    found = evaluate.energy_budget(pde, flows[0])
    assert list(found) == ["diffusion", "attention", "reaction"]
    assert np.allclose(np.sum(list(found.values()), axis=0), 1)
    without = TransformerPDE(64, 4, image.lattice, depth=6, epsilon=1e-5, attention=False, reaction=False)
    assert np.allclose(evaluate.energy_budget(without, flows[0])["diffusion"], 1)


def test_state_nulls_are_measured_as_equations_without_attention(image, flows):
    found = evaluate.evaluate_state_nulls(image, *flows, image.inputs("heldout", 24)[1])
    assert list(found) == ["identity, rolled out", "affine, rolled out", "mean state"]
    for about in found.values():
        assert "cosine" not in about and np.shape(about["read"]) == (6, 4) and 0 <= about["accuracy"] <= 1
    # The first two begin at the teacher's own embedding, the mean state does not.
    assert np.allclose(found["affine, rolled out"]["read"][0], 1, atol=1e-5)
    assert (
        np.allclose(found["mean state"]["r2 pooled"], 0, atol=0.2) and np.mean(found["mean state"]["read"][0]) < 0.999
    )


def test_who_follows_a_change_and_who_ignores_it(image, flows):
    reference, calibration = flows
    turned = image.flow(corruptions.CORRUPTIONS["inversion"](image.inputs("heldout", 24)[0]))
    perfect = evaluate.followed(turned, turned, reference, calibration)
    assert perfect["cosine"] == pytest.approx(1) and perfect["missed"] == pytest.approx(0)
    assert perfect["moved"] > 0.5 and max(perfect["mean map"], perfect["unchanged map"]) < 0.9
    frozen = evaluate.followed(reference, turned, reference, calibration)
    assert frozen["cosine"] == frozen["unchanged map"] and frozen["missed"] > 0.5
    same = evaluate.followed(reference, reference, reference, calibration)
    assert same["moved"] == 0 and same["unchanged map"] == pytest.approx(1)


def test_another_seeds_heads_are_matched_on_calibration_examples_alone(image, flows, monkeypatch):
    reference, calibration = flows
    other = teacher.teacher_named("image-patch4-seed1")
    before, after = other.of("calibration", 24), other.of("heldout", 24)
    seen, plain = [], evaluate.match_heads
    monkeypatch.setattr(evaluate, "match_heads", lambda *given: seen.append(given) or plain(*given))
    evaluate.nulls_of(reference, calibration, None, (before, after))
    assert len(seen) == 1 and seen[0][0] is before and seen[0][1] is calibration


class Scored:
    """A probe that says what it was asked."""

    def cosine(self, ours, theirs):
        return float((ours - theirs).abs().max())

    def accuracy(self, embeddings, labels):
        return float(embeddings.sum() + labels.sum())


def test_a_probe_is_asked_of_our_embeddings_and_of_the_teachers(image, flows):
    reference, calibration = (flow.select(slice(0, 4)) for flow in flows)
    reference = replace(reference, mask=torch.arange(49).expand(4, 49) < 40)
    moved = replace(reference, states=(*reference.states[:-1], reference.states[-1] + 1))
    masks = []
    subject = teacher.replace(image, embed=lambda u, mask: masks.append(mask) or u[:, :3].sum((1, 2)))
    labels = torch.arange(4)
    found = evaluate.evaluate_flow(moved, subject, reference, calibration, labels, Scored())
    theirs = reference.states[-1][:, :3].sum((1, 2))
    assert found["embedding"] == pytest.approx(3 * 64, rel=1e-4)
    assert found["teacher's probe"] == pytest.approx(float(theirs.sum() + 6), rel=1e-4)
    assert found["probe"] == pytest.approx(float((theirs + 192).sum() + 6), rel=1e-4)
    assert len(masks) == 2 and all(torch.equal(mask, reference.mask) for mask in masks)
    for given in ((labels, None), (None, Scored()), (None, None)):
        without = evaluate.evaluate_flow(moved, subject, reference, calibration, *given)
        assert not {"embedding", "probe", "teacher's probe"} & without.keys()
        assert ("accuracy" in without) == (given[0] is not None)


def test_every_way_hands_on_labels_and_probe_and_how_it_steps(image, flows, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "integrate", lambda pde, u, **how: asked.append((pde, u, how)) or "flow")
    monkeypatch.setattr(evaluate, "evaluate_flow", lambda *given: asked.append(given) or {})
    found = evaluate.evaluate("pde", image, *flows, {"a": {"substeps": 3}, "b": {}}, "labels", "probe")
    assert list(found) == ["a", "b"]
    (pde, start, how), given = asked[:2]
    assert pde == "pde" and start is flows[0].states[0] and how.pop("mask") is flows[0].mask
    assert how == {"check_steps": False, "substeps": 3}
    assert given == ("flow", image, *flows, "labels", "probe")


def test_maps_read_off_states_are_the_teachers_own_in_its_order(image, flows):
    reference, _ = flows
    elsewhere = replace(reference, states=tuple(u.flip(1) for u in reference.states))
    found = evaluate.read_maps(image, elsewhere)
    for layer in (0, 3):
        block = image.model.blocks[layer]
        with torch.no_grad():
            seen = block.norm_attention(elsewhere.states[layer])
            parts = block.attention.queries_keys_values(seen).chunk(3, -1)
        q, k = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in parts[:2])
        own = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        torch.testing.assert_close(found[layer], own[:, image.orders[layer]], atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        plain = evaluate.read_maps(teacher.replace(image, orders=()), elsewhere)
    assert torch.equal(found[3], plain[3][:, image.orders[3]])


def test_padding_is_not_read_by_the_teachers_heads():
    about = models.Configuration(width=16, heads=2, layers=2, vocabulary=30, length=9, outputs=3)
    reader = models.Transformer(about, 0).eval()
    tokens = torch.randint(1, 30, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([9, 5, 3, 7])[:, None]
    flow = flow_of(reader, {"inputs": tokens * mask, "mask": mask})
    subject = teacher.Teacher("x", reader, Chain(9), 16, 2, 2, lambda split, count: None)
    for ours, theirs in zip(evaluate.read_maps(subject, flow), flow.attention, strict=True):
        keep = mask[:, None, :, None].expand_as(ours)
        torch.testing.assert_close(ours[keep], theirs[keep], atol=1e-5, rtol=0)


def test_a_budget_of_energy_by_terms_one_by_one(image, flows):
    pde = TransformerPDE(64, 4, image.lattice, depth=6, temporal_modes=2, seed=1)
    flow = replace(flows[0].select(slice(0, 3)), mask=torch.arange(49).expand(3, 49) < torch.tensor([[49], [20], [5]]))
    found = evaluate.energy_budget(pde, flow)
    for depth in (0, 5):
        sizes = []
        for name in found:
            with torch.no_grad():
                moved = pde.terms[name](float(depth), flow.states[depth], flow.mask)
            sizes.append(float(moved[flow.mask].square().mean().sqrt()))
        shares = [values[depth] for values in found.values()]
        assert shares == pytest.approx([size / sum(sizes) for size in sizes], rel=1e-4)
    assert all(len(values) == 6 for values in found.values())


def test_headlines_are_the_worst_layers_mean():
    found = {"cosine": [[0.9, 0.7], [0.5, 0.95]], "read": [[0.2, 0.4], [0.1, 0.1]]}
    assert evaluate.headline(found) == pytest.approx(0.725) and evaluate.headline(found, "read") == pytest.approx(0.1)


def test_what_moved_is_over_what_is_usual(image, flows):
    reference, calibration = flows
    mask = torch.arange(49).expand(24, 49) < 30
    unchanged = replace(reference, mask=mask)
    changed = replace(unchanged, states=(*reference.states[:-1], reference.states[-1].flip(0)))
    found = evaluate.followed(unchanged, changed, unchanged, calibration)
    last, mean = reference.states[-1], calibration.states[-1].mean(0)
    far = (last.flip(0) - last)[:, :30].square().mean()
    assert found["moved"] == pytest.approx(float(far / (mean - last)[:, :30].square().mean()), rel=1e-4)


def test_without_another_seed_there_is_no_ceiling_and_without_a_twin_no_twin(flows):
    found = evaluate.nulls_of(*flows)
    assert "ceiling" not in found and "untrained twin" not in found["attention"]
    assert found["states"].keys() == found["states pooled"].keys()
