import os

import pytest
import torch

from pdelens.files import digest, read_header, read_tensors, write_tensors

TENSORS = {"x": torch.arange(6.0).view(2, 3), "half": torch.ones(4, dtype=torch.float16), "mask": torch.tensor([True])}
HEADER = {"made": {"seed": 0, "curve": [[1, 0.5]]}, "name": "é"}


def test_what_was_written_comes_back_and_the_same_content_is_the_same_bytes(tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    write_tensors(one, TENSORS, HEADER)
    write_tensors(other, dict(reversed(TENSORS.items())), dict(reversed(HEADER.items())))
    tensors, header = read_tensors(one)
    assert header == HEADER == read_header(one) and one.read_bytes() == other.read_bytes()
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype


def test_tensors_that_share_memory_are_written(tmp_path):
    shared = torch.zeros(1, 3).expand(2, 3)
    write_tensors(tmp_path / "x", {"a": shared, "b": shared}, {})
    assert read_tensors(tmp_path / "x")[0]["b"].shape == (2, 3)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damage_is_named(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, HEADER)
    raw = path.read_bytes()
    flipped = raw[:-1] + bytes([raw[-1] ^ 1])
    path.write_bytes({"cut": raw[:-3], "flipped": flipped, "empty": b"", "text": b"a" * 64}[damage])
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged"):
        read_tensors(path)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, HEADER)
    before = path.read_bytes()

    def full(*given, **named):
        (tmp_path / f".x.safetensors.{os.getpid()}.draft").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, {"x": torch.zeros(9)}, {})
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["x.safetensors"]


def test_files_with_an_entry_for_each_part_of_the_header_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "old", metadata={"made": '{"seed": 3}', "configuration": "{}"})
    assert read_tensors(tmp_path / "old")[1] == {"made": {"seed": 3}, "configuration": {}}


def test_digest_sees_names_values_and_types():
    found = {digest(one) for one in ({"x": torch.zeros(2)}, {"y": torch.zeros(2)}, {"x": torch.tensor([0.0, 1.0])})}
    assert len(found) == 3
