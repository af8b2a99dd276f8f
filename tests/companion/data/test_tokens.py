import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from companion import fetch
from companion.data import reviews as film_reviews
from companion.data import tokens
from companion.data.fashion_mnist import Pictures
from companion.data.reviews import Review
from companion.teachers import baselines

REVIEWS = [
    Review("A truly wonderful film.<br /><br />I loved it!", 1, "imdb"),
    Review("dull , dull , dull", 0, "rotten_tomatoes"),
    Review("wonderful " * 70 + "dull " * 70, 1, "imdb"),
]


@pytest.fixture(scope="module")
def coder():
    return tokens.train_tokenizer([review.text for review in REVIEWS], vocabulary=300)


def test_tokens_stand_for_the_text(coder):
    ids = coder.encode(film_reviews.clean(REVIEWS[0].text)).ids
    assert coder.decode(ids).strip() == "a truly wonderful film. i loved it!"
    # Every byte is known, and no text gives a special token.
    assert min(coder.encode("naïve 電影").ids) > tokens.MASK
    assert (coder.token_to_id("[pad]"), coder.token_to_id("[mask]")) == (tokens.PAD, tokens.MASK)


def test_tokeniser_depends_on_its_texts_alone(coder):
    again = tokens.train_tokenizer([review.text for review in REVIEWS], vocabulary=300)
    assert tokens.describe(again) == tokens.describe(coder)
    assert tokens.describe(coder)["pieces"] <= 300


def test_windows_lie_end_to_end_in_their_review(coder):
    found = tokens.cut(REVIEWS, coder, length=16, limit=3, first=7)
    assert found.reviews.tolist() == [7, 8, 9, 9, 9]
    assert found.labels.tolist() == [1, 0, 1, 1, 1]
    assert [film_reviews.SOURCES[k] for k in found.sources] == ["imdb", "rotten_tomatoes", *["imdb"] * 3]
    long = coder.encode(film_reviews.clean(REVIEWS[2].text)).ids
    assert found.tokens[2:].flatten().tolist() == long[:48]
    assert found.mask[1].sum() == len(coder.encode(REVIEWS[1].text).ids) and not found.tokens[1][~found.mask[1]].any()
    assert tokens.sentences(found.tokens, coder)[1] == "dull , dull , dull"


@pytest.mark.parametrize(
    ("pieces", "expected"), [(1, [0]), (48, [0]), (71, [0]), (72, [0, 48]), (500, [0, 48, 96, 144])]
)
def test_a_short_rest_is_no_window(pieces, expected):
    assert tokens.starts(pieces, 48, 4) == expected


def test_split_is_of_the_text_not_of_its_place():
    texts = [f"review number {k}" for k in range(3000)]
    splits = [film_reviews.split_of(one) for one in texts]
    assert [splits.count(split) / 3000 for split in film_reviews.SPLITS] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)
    assert film_reviews.split_of("A  film<br />") == film_reviews.split_of("a film")


def test_bad_input_is_named(coder):
    with pytest.raises(ValueError, match="choose from train, validation, test"):
        tokens.windows("held", coder=coder)
    with pytest.raises(ValueError, match="at least 2 tokens and 1 window"):
        tokens.cut(REVIEWS, coder, length=1)
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        baselines.tfidf(["a", "b"], torch.zeros(1), ["c"])


@pytest.mark.data
def test_no_review_is_in_two_splits(coder, monkeypatch):
    every = film_reviews.movie_reviews()
    reviews = every[8000:8400] + every[-200:]
    monkeypatch.setattr(tokens, "movie_reviews", lambda: reviews)
    found = {split: tokens.windows(split, coder=coder) for split in film_reviews.SPLITS}
    numbers = [set(windows.reviews.tolist()) for windows in found.values()]
    assert not numbers[0] & numbers[1] and not numbers[0] & numbers[2] and not numbers[1] & numbers[2]
    assert set.union(*numbers) == set(range(len(reviews)))
    for windows in found.values():
        assert windows.labels.tolist() == [reviews[number].label for number in windows.reviews]
        assert windows.tokens.shape[1] == 48 and int(windows.reviews.bincount().max()) <= tokens.WINDOWS_PER_REVIEW
        assert bool(windows.mask[:, 0].all())


def test_windows_are_cut_once_and_again_where_something_changed(coder, monkeypatch, tmp_path):
    monkeypatch.setenv("PDELENS_CACHE", str(tmp_path))
    monkeypatch.setattr(tokens, "fetch", lambda package: tmp_path / "reviews")
    monkeypatch.setattr(tokens, "tokenizer", lambda: coder)
    asked = []
    monkeypatch.setattr(tokens, "movie_reviews", lambda: asked.append(1) or REVIEWS)
    (tmp_path / "reviews").write_text("one state of the reviews")
    split = film_reviews.split_of(REVIEWS[2].text)
    first, again = tokens.windows(split, 16), tokens.windows(split, 16)
    assert len(asked) == 1 and len(first.tokens) > 1
    for ours, kept, cut in zip(first, again, tokens.windows(split, 16, coder=coder), strict=True):
        assert torch.equal(ours, kept) and ours.dtype == kept.dtype and torch.equal(ours, cut)
    asked.clear()
    (kept,) = tmp_path.glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-8])
    assert torch.equal(tokens.windows(split, 16).tokens, first.tokens) and len(asked) == 1
    monkeypatch.setattr(tokens, "MOVIE_REVIEWS", replace(fetch.MOVIE_REVIEWS, files={"reviews": "of another state"}))
    tokens.windows(split, 16)
    assert len(asked) == 2 and {path.name for path in tmp_path.iterdir()} == {"reviews", kept.name}


def test_words_beyond_the_last_window_change_nothing(coder):
    endless = [review._replace(text=f"{review.text} {'é ﬁńe ' * 400}") for review in REVIEWS]
    whole = [coder.encode(film_reviews.clean(review.text)).ids for review in endless]
    found = tokens.cut(endless, coder, length=8, limit=2)
    for number, ids in enumerate(whole):
        assert found.tokens[found.reviews == number].flatten().tolist() == ids[:16]


def test_bag_of_words_finds_the_telling_word():
    shown = ["good film here", "bad film here"] * 20
    named = baselines.tfidf(shown, torch.tensor([1, 0] * 20), ["a good one", "a bad one"])
    assert named.tolist() == [1, 0]


def test_plain_methods_tell_pictures_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (240,), generator=generator)
    images = torch.randint(0, 90, (240, 6, 6), generator=generator, dtype=torch.uint8)
    images[torch.arange(240), labels] += 100
    train, test = Pictures(images[:200], labels[:200]), Pictures(images[200:], labels[200:])
    assert baselines.nearest_neighbours(train, test, neighbours=3) == 1.0
    assert baselines.linear_pixels(train, test) == 1.0
    shuffled = Pictures(train.images, train.labels[torch.randperm(200, generator=generator)])
    assert baselines.nearest_neighbours(shuffled, test, neighbours=3) < 0.7 > baselines.linear_pixels(shuffled, test)
    with pytest.raises(ValueError, match="300 neighbours among 200"):
        baselines.nearest_neighbours(train, test, neighbours=300)


def test_runs_of_tokens_meet_the_textbook_model():
    train = torch.randint(1, 6, (200, 9), generator=torch.Generator().manual_seed(0))
    train[::3, 6:] = 0
    test = torch.randint(1, 6, (40, 7), generator=torch.Generator().manual_seed(1))
    test[1, 4:] = 0
    for order in (1, 2, 3):
        found = baselines.next_token(train, test, 7, order)
        assert found == pytest.approx(plain_next_token(train.tolist(), test.tolist(), 7, order), rel=1e-12)


def plain_next_token(train, test, vocabulary, order, discount=0.75):
    """Interpolated Kneser-Ney with dictionaries, from Chen and Goodman's equations."""
    runs = Counter(
        tuple(row[at : at + order])
        for row in train
        for at in range(len(row) - order + 1)
        if 0 not in row[at : at + order]
    )
    levels = {order: runs}
    for length in range(order - 1, 0, -1):
        levels[length] = Counter(run[1:] for run in levels[length + 1])

    def chance(run):
        if not run:
            return 1 / vocabulary
        following = {other: n for other, n in levels[len(run)].items() if other[:-1] == run[:-1]}
        if not following:
            return chance(run[1:])
        own = max(following.get(run, 0) - discount, 0)
        return (own + discount * len(following) * chance(run[1:])) / sum(following.values())

    asked = [tuple(row[max(0, at + 1 - order) : at + 1]) for row in test for at in range(1, len(row)) if row[at] != 0]
    return -sum(math.log(chance(run)) for run in asked) / len(asked)


def test_chances_of_the_next_token_sum_to_one():
    train = torch.randint(1, 5, (50, 8), generator=torch.Generator().manual_seed(0))
    windows = torch.tensor([[2, 3, last] for last in range(1, 5)])
    # Of the last token alone: what three tokens cost less what two cost.
    losses = [
        2 * baselines.next_token(train, row[None], 5, 3) - baselines.next_token(train, row[None, :2], 5, 3)
        for row in windows
    ]
    padding = 1 - sum(math.exp(-loss) for loss in losses)
    # What is left is the share of token 0, which never occurs.
    assert 0 < padding < 0.05


def test_runs_too_long_for_their_keys_are_refused():
    with pytest.raises(ValueError, match="order 6 of 4096 tokens"):
        baselines.next_token(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long), 4096, 6)


@pytest.mark.parametrize("text", ["naïve 電影 — 😀", "tab\there & \x01", "ÀÉÎ õ"])
def test_bytes_that_no_text_has_shown_are_known(coder, text):
    assert coder.decode(coder.encode(text).ids).strip() == text.lower()


def test_a_word_is_itself_at_the_begin_and_inside(coder):
    assert coder.encode("dull").ids == coder.encode("wonderful dull").ids[-len(coder.encode("dull").ids) :]
    assert coder.encode("ﬁlm").ids == coder.encode("FILM").ids, "one writing of a letter, one case"


def test_frequent_words_become_one_piece_and_the_vocabulary_ends_them(coder):
    assert len(coder.encode("wonderful").ids) == 1
    small = tokens.train_tokenizer([review.text for review in REVIEWS], vocabulary=262)
    assert tokens.describe(small)["pieces"] == 262 and len(small.encode("wonderful").ids) > 3


def test_windows_of_a_mask_a_slice_and_numbers(coder):
    found = tokens.cut(REVIEWS, coder, length=16, limit=3)
    for chosen in (slice(1, 3), torch.tensor([1, 2]), torch.tensor([False, True, True, False, False])):
        part = found[chosen]
        assert part.reviews.tolist() == [1, 2] and torch.equal(part.tokens, found.tokens[1:3])
        assert torch.equal(part.mask, part.tokens != 0)


@pytest.mark.parametrize(("length", "limit"), [(1, 1), (2, 0), (0, 3)])
def test_windows_of_two_tokens_are_the_smallest(coder, length, limit):
    with pytest.raises(ValueError, match="at least 2 tokens and 1 window are wanted"):
        tokens.cut(REVIEWS, coder, length=length, limit=limit)
    assert tokens.cut(REVIEWS, coder, length=2, limit=1).tokens.shape == (3, 2)


def test_only_training_reviews_teach_the_tokeniser(monkeypatch):
    reviews = [Review(f"review number {k}", k % 2, "imdb") for k in range(40)]
    monkeypatch.setattr(tokens, "movie_reviews", lambda: reviews)
    seen = []
    monkeypatch.setattr(tokens, "train_tokenizer", lambda texts, size: seen.append((list(texts), size)))
    tokens.train_reviews_tokenizer()
    ((texts, size),) = seen
    assert texts == [one.text for one in reviews if film_reviews.split_of(one.text) == "train"] and 0 < len(texts) < 40
    assert size == tokens.describe(tokens.tokenizer())["pieces"], "the committed one is of this size"


def test_special_tokens_are_not_spoken(coder):
    ids = coder.encode("dull film").ids
    rows = torch.tensor([[tokens.MASK, *ids, tokens.PAD]])
    assert tokens.sentences(rows, coder) == ["dull film"]


def test_pieces_are_counted_without_padding():
    given = torch.tensor([[3, 1, 3, 0], [1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 0], [1] * 4])
    wanted = torch.tensor([[0, 1, 0, 2], [0, 4, 0, 0]]) / torch.tensor([[5**0.5], [4]])
    torch.testing.assert_close(tokens.piece_shares(*given), wanted)
    wider = tokens.piece_shares(*given, 9)
    assert wider.shape == (2, 9) and torch.equal(wider[:, :4], tokens.piece_shares(*given)) and not wider[:, 4:].any()


def test_a_text_of_padding_alone_has_no_pieces():
    assert tokens.piece_shares(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3)).tolist() == [[0]]
