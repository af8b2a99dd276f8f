import numpy as np
import pytest
from PIL import Image

from companion.data import photographs


def test_photographs_are_on_one_side_of_the_split_only():
    found = {split: photographs.load(split) for split in photographs.SPLITS}
    names = [photograph.name for split in found.values() for photograph in split]
    assert len(names) == len(set(names)) == 16 and {len(split) for split in found.values()} == {8}
    for photograph in found["calibration"] + found["heldout"]:
        assert photograph.image.dtype == np.uint8 and photograph.image.shape[2] == 3
        assert 300 <= min(photograph.image.shape[:2]) <= 448
        # In colour, and no flat picture.
        assert photograph.image.std() > 25
        assert np.abs(photograph.image[..., 0].astype(int) - photograph.image[..., 2]).mean() > 5


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (40, 40), (41, 47), (30, 100)])
def test_halves_share_no_pixel(shape):
    numbered = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    first, second = photographs.halves(photographs.Photograph("it", numbered))
    assert first.image.shape == second.image.shape and first.image.shape[0] == first.image.shape[1]
    assert first.image.shape[0] == min(max(shape) // 2, min(shape))
    assert not np.intersect1d(first.image, second.image).size


def test_a_photograph_is_written_upright_and_small(tmp_path):
    # Left half red, right half blue, stored lying on its side.
    upright = np.zeros((600, 900, 3), np.uint8)
    upright[:, :450, 0], upright[:, 450:, 2] = 255, 255
    lying = Image.fromarray(np.rot90(upright).copy())
    notes = Image.Exif()
    notes[0x0112] = 6  # "turn by a quarter, clockwise"
    lying.save(tmp_path / "lying.jpg", exif=notes, quality=95)
    photographs.write_photograph(tmp_path / "lying.jpg", tmp_path / "written.jpg")
    with Image.open(tmp_path / "written.jpg") as written:
        assert written.size == (672, 448) and not written.getexif()
        assert written.getpixel((10, 200))[0] > 240 and written.getpixel((660, 200))[2] > 240


def test_unknown_split_is_one_sentence():
    with pytest.raises(ValueError, match="split 'test' is unknown: choose 'calibration' or 'heldout'"):
        photographs.load("test")
