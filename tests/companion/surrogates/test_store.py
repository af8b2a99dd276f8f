"""Records of the sweep as they are gathered, divided over files, written and read; equations as files."""

import json

import pytest
import torch

from companion.jobs import Run
from companion.paths import DataError
from companion.surrogates import files, specs, store
from companion.teachers import teacher
from pdelens.files import write_tensors
from pdelens.lattice import Grid


def test_what_is_whole_is_gathered_by_its_kind(tmp_path):
    names = ("rung-a", "rung-a-calibrated", "rung-b", "nulls-t", "power-p", "baselines-x")
    for number, name in enumerate(names):
        (tmp_path / f"{name}.json").write_text(json.dumps({"identity": {}, "record": {"number": number}}))
    assert store.gathered(tmp_path) == {
        "rungs": {"rung-a": {"number": 0}, "rung-b": {"number": 2}},
        "nulls": {"t": {"number": 3}},
        "power": {"p": {"number": 4}},
    }


def test_numbers_keep_five_digits_wherever_they_are():
    found = store.rounded({"a": [1.23456789, [123456.7, 2]], "b": {"c": -0.000123456, "d": True, "e": None, "f": "x"}})
    assert found == {"a": [1.2346, [123460.0, 2]], "b": {"c": -0.00012346, "d": True, "e": None, "f": "x"}}


def test_lines_are_sorted_and_read_back_what_was_written():
    found = {"rungs": {"b": {"x": [1, 2]}, "a": {}}, "nulls": {}}
    text = store.in_lines(found)
    assert json.loads(text) == found and text.splitlines()[2].startswith('  "a":')
    assert '{"x":[1,2]}' in store.in_lines(found, separators=(",", ":"))
    assert store.added({"a": {"x": 1, "y": 2}, "b": {"z": 3}}, {"a": {"x": 4}}) == {"a": {"x": 4, "y": 2}}


@pytest.fixture
def equation(monkeypatch):
    """Give a spec and the equation that it builds, asked for of a teacher that is kept by its run."""
    spec, asked = specs.specs_of("smoke")[0], []
    image = teacher.Teacher("stand-in", torch.nn.Identity(), Grid(7, 7), 16, 2, 6, lambda split, count: None)
    monkeypatch.setattr(files, "cached_teacher", lambda *given: asked.append(given) or image)
    return spec, spec.build(image).train(), asked


def test_an_equation_is_kept_in_halves_with_what_made_it(equation, tmp_path):
    spec, pde, asked = equation
    path = tmp_path / f"{spec.name}.safetensors"
    files.save(pde, path, spec, {"scale": "smoke", "steps": 3})
    found, made = files.load(spec.name, Run("smoke", tmp_path, "meta"))
    assert made == {"scale": "smoke", "steps": 3} and not found.training
    assert asked == [(spec.teacher, Run("smoke", tmp_path, "cpu"))]
    for name, value in pde.state_dict().items():
        assert torch.equal(found.state_dict()[name], value.half().float()), name
    assert path.stat().st_size < 3 * sum(value.numel() for value in pde.state_dict().values())


def test_a_committed_equation_is_read_from_data_and_another_file_is_named(equation, tmp_path, monkeypatch):
    spec, pde, asked = equation
    files.save(pde, tmp_path / "x.safetensors", spec, {"scale": "smoke"})
    read = []
    monkeypatch.setattr(files, "data_file", lambda name: read.append(name) or tmp_path / "x.safetensors")
    files.load("x")
    assert read == ["weights/x.safetensors"] and asked == [(spec.teacher,)]
    for header in ({"rung": {"name": spec.name}}, {"made": {}}, {}):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, header)
        with pytest.raises(DataError, match="holds no calibrated equation"):
            files.load("x")
