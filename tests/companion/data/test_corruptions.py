from itertools import pairwise

import pytest
import torch

from companion.data import brown, corruptions, fashion_mnist
from companion.data import tokens as text

PICTURES = corruptions.corruptions("image")


@pytest.fixture(scope="module")
def pictures():
    return fashion_mnist.fashion_mnist_subset("heldout").images[:40]


@pytest.fixture(scope="module")
def tokens():
    """Texts of every length from 1 to 48."""
    found = torch.randint(2, 4096, (48, 48), generator=torch.Generator().manual_seed(1))
    return found.masked_fill(torch.arange(48) > torch.arange(48)[:, None], text.PAD)


def norm(a, b):
    return float((a.float() - b.float()).square().mean().sqrt())


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_stay_pictures_and_the_seed_decides(name, pictures):
    corruption, before = PICTURES[name], pictures.clone()
    found = corruption(pictures, 3)
    assert torch.equal(pictures, before) and not torch.equal(found, pictures)
    assert found.shape == pictures.shape and found.dtype == torch.uint8 and found.device == pictures.device
    assert torch.equal(found, corruption(pictures, 3))
    without_chance = corruption.family in ("inversion", "contrast", "gaussian blur")
    assert torch.equal(found, corruption(pictures, 4)) == without_chance


def test_register_names_kind_and_level():
    assert set(corruptions.CORRUPTIONS) == {*PICTURES, *corruptions.corruptions("text")}
    assert all(corruption.name == name for name, corruption in corruptions.CORRUPTIONS.items())
    for family in corruptions.FAMILIES:
        assert [s.level for s in PICTURES.values() if s.family == family] == [1, 2, 3, 4, 5]
    assert corruptions.corruption("rotation", 15).level is None


@pytest.mark.parametrize("family", corruptions.FAMILIES)
def test_a_higher_level_is_further_away(family, pictures):
    away = [norm(corruption(pictures, 0), pictures) for corruption in PICTURES.values() if corruption.family == family]
    assert all(a < b for a, b in pairwise(away))


def test_noise_has_the_stated_sd():
    grey = torch.full((50, 28, 28), 128, dtype=torch.uint8)
    found = corruptions.corruption("gaussian noise", 0.08)(grey, 0).float()
    assert float(found.std()) == pytest.approx(0.08 * 255, rel=0.02) and float(found.mean()) == pytest.approx(128, 0.01)


def test_blur_has_the_stated_sigma():
    point = torch.zeros(1, 28, 28, dtype=torch.uint8)
    point[0, 14, 14] = 255
    found = corruptions.corruption("gaussian blur", 1.5)(point, 0)[0].float()
    place = torch.arange(28.0) - 14
    # Rounding to bytes loses the tails.
    assert float((found.sum(0) * place**2).sum() / found.sum()) == pytest.approx(1.5**2, rel=0.1)


def test_occlusion_covers_a_square():
    black = torch.zeros(30, 28, 28, dtype=torch.uint8)
    found = corruptions.corruption("occlusion", 8)(black, 0)
    assert ((found == 128).sum((1, 2)) == 64).all()
    assert ((found == 128).any(1).sum(1) == 8).all() and len({picture.numpy().tobytes() for picture in found}) > 20
    assert (corruptions.corruption("occlusion", 28)(black, 0) == 128).all()


def test_contrast_keeps_the_mean_and_scales_the_spread(pictures):
    found = corruptions.corruption("contrast", 0.4)(pictures, 0).float()
    assert float((found.mean((1, 2)) - pictures.float().mean((1, 2))).abs().max()) < 0.5
    assert float((found.std((1, 2)) / pictures.float().std((1, 2))).median()) == pytest.approx(0.4, rel=0.02)


def test_a_quarter_turn_is_exact_and_goes_both_ways(pictures):
    found = corruptions.corruption("rotation", 90)(pictures, 0)
    left, right = torch.rot90(pictures, 1, (1, 2)), torch.rot90(pictures, -1, (1, 2))
    lefts = (found == left).flatten(1).all(1)
    assert (lefts | (found == right).flatten(1).all(1)).all() and 5 < int(lefts.sum()) < 35
    assert torch.equal(corruptions.corruption("rotation", 180)(pictures, 0), pictures.flip(1, 2))


def test_translation_moves_by_whole_pixels_into_black(pictures):
    found = corruptions.corruption("translation", 3)(pictures, 0)
    padded = torch.nn.functional.pad(pictures, (3, 3, 3, 3))
    ways = [padded[:, 3 + y : 31 + y, 3 + x : 31 + x] for y, x in ((0, 3), (0, -3), (3, 0), (-3, 0))]
    hits = torch.stack([(found == way).flatten(1).all(1) for way in ways])
    assert hits.any(0).all() and hits.any(1).all()


def patches(pictures, patch=4):
    cut = pictures.unfold(1, patch, patch).unfold(2, patch, patch).flatten(1, 2).flatten(2)
    return [sorted(map(bytes, picture.numpy())) for picture in cut]


def test_shuffled_patches_are_the_same_patches(pictures):
    places = torch.arange(49, dtype=torch.uint8).reshape(7, 7).repeat_interleave(4, 0).repeat_interleave(4, 1)
    numbered = places.expand(40, 28, 28).contiguous()
    for name, orders in (("patches shuffled alike", 1), ("patches shuffled", 40)):
        assert patches(PICTURES[name](pictures, 0)) == patches(pictures)
        assert len({picture.numpy().tobytes() for picture in PICTURES[name](numbered, 0)}) == orders
    with pytest.raises(ValueError, match="the side 28 is no multiple"):
        corruptions.shuffled_patches(pictures, torch.Generator(), patch=5)


def test_photographs_are_many_different_smooth_pictures(pictures):
    found = PICTURES["photographs"](pictures, 0)
    assert len({picture.numpy().tobytes() for picture in found}) == len(found)
    noise = PICTURES["pure noise"](pictures, 0)

    def roughness(x):
        return float(x.float().diff(dim=2).square().mean() / x.float().var())

    assert roughness(found) < 0.3 and roughness(noise) == pytest.approx(2, rel=0.05)
    assert float(noise.float().mean()) == pytest.approx(127.5, rel=0.02)


def test_shuffled_pieces_stay_in_their_window(tokens):
    found = corruptions.CORRUPTIONS["pieces shuffled"](tokens, 0)
    assert found.dtype == tokens.dtype and torch.equal(found == text.PAD, tokens == text.PAD)
    assert torch.equal(found.sort(1).values, tokens.sort(1).values) and not torch.equal(found[-1], tokens[-1])
    assert torch.equal(found, corruptions.CORRUPTIONS["pieces shuffled"](tokens, 0))
    assert not torch.equal(found, corruptions.CORRUPTIONS["pieces shuffled"](tokens, 1))
    same = torch.arange(2, 50).expand(20, 48)
    assert len(set(map(tuple, corruptions.CORRUPTIONS["pieces shuffled"](same, 0).tolist()))) == 20


def test_windows_of_the_brown_corpus_are_as_long_as_what_they_stand_for(tokens):
    corruption, committed = corruptions.CORRUPTIONS["Brown corpus"], brown.windows().tokens
    found = corruption(tokens, 0)
    assert found.dtype == tokens.dtype and torch.equal(found == text.PAD, tokens == text.PAD)
    # Every row is the beginning of one committed window, no window is there twice, and the seed decides which.
    begins = ((found[:, None] == committed) | (found[:, None] == text.PAD)).all(2)  # (texts, windows)
    assert begins.any(1).all() and len({tuple(row) for row in found[24:, :24].tolist()}) == 24
    assert torch.equal(found, corruption(tokens, 0)) and not torch.equal(found, corruption(tokens, 1))
    # What a text is does not matter, only how long it is and where it stands.
    assert torch.equal(corruption((tokens[:9, :20] > 0).int(), 0), found[:9, :20].int())


def test_more_texts_than_windows_get_them_again():
    found = corruptions.CORRUPTIONS["Brown corpus"](torch.ones(600, 48, dtype=torch.long), 0)
    assert torch.equal(found[512:], found[:88])
    assert torch.equal(found[:512].unique(dim=0), brown.windows().tokens.unique(dim=0))
    with pytest.raises(ValueError, match=r"texts of 49 tokens were given, but the windows .* have 48"):
        corruptions.CORRUPTIONS["Brown corpus"](torch.ones(1, 49, dtype=torch.long))


@pytest.mark.parametrize(
    ("name", "inputs", "sentence"),
    [
        ("inversion", torch.zeros(2, 28, 28), r"inputs \(2, 28, 28\) of torch.float32"),
        ("pure noise", torch.zeros(2, 28, 27, dtype=torch.uint8), r"\(examples, side, side\)"),
        ("photographs", torch.zeros(0, 28, 28, dtype=torch.uint8), "at least one"),
        ("pieces shuffled", torch.zeros(2, 28, 28, dtype=torch.uint8), "token numbers, integers"),
        ("pieces shuffled", torch.tensor([[5, 0, 6]]), "pad at the end alone"),
        ("Brown corpus", torch.tensor([[5, -1, 0]]), "below 0"),
    ],
)
def test_other_inputs_are_named(name, inputs, sentence):
    with pytest.raises(ValueError, match=sentence):
        corruptions.CORRUPTIONS[name](inputs)


def test_unknown_names_and_severities_are_named():
    with pytest.raises(ValueError, match=r"corruption 'fog' is unknown: choose from gaussian noise"):
        corruptions.corruption("fog", 1)
    with pytest.raises(ValueError, match=r"contrast of 2 was asked for: 0 to 1 \(factor\), is wanted"):
        corruptions.corruption("contrast", 2)
    with pytest.raises(ValueError, match=r"occlusion of 4.5 was asked for: a whole number, 0 to 28"):
        corruptions.corruption("occlusion", 4.5)
    with pytest.raises(ValueError, match="choose from image, text"):
        corruptions.corruptions("sound")
